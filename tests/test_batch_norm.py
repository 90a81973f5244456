"""Moments of BatchNorm's inputs, pooled over batches."""

from __future__ import annotations

import copy
from contextlib import suppress

import pytest
import torch
from torch import nn

from landscape.batch_norm import Moments, batch_statistics


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPES = {"features": (12, 3), "sequences": (12, 3, 5), "images": (12, 3, 4, 2)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_moments_are_those_that_batch_norm_takes_itself(shape):
    values = 2 + 3 * normal(*shape)
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](3, momentum=1.0)
    norm.double().train()(values)
    found = Moments.of(values)
    assert found.count == values.numel() // 3
    torch.testing.assert_close(found.mean, norm.running_mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.variance, norm.running_var, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1, 1, 10], [3, 4, 5]])
def test_pooled_moments_are_those_of_the_whole(sizes):
    values = 5 + normal(12, 3, 4)
    parts = [Moments.of(part) for part in values.split(sizes)]
    pooled, whole = sum(parts[1:], start=parts[0]), Moments.of(values)
    assert pooled.count == whole.count
    torch.testing.assert_close(pooled.mean, whole.mean, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(pooled.variance, whole.variance, rtol=1e-13, atol=1e-13)


def test_pooling_does_not_cancel_far_from_zero():
    values = 1e8 + normal(2000, 1)
    pooled = Moments.of(values[:700]) + Moments.of(values[700:])
    exact = (values - 1e8).var(dim=0)  # exact: the shift is a whole number of units
    torch.testing.assert_close(pooled.variance, exact, rtol=1e-6, atol=0)


def test_a_single_value_has_no_variance():
    assert Moments.of(normal(1, 3)).variance.tolist() == [0.0, 0.0, 0.0]


def test_single_precision_inputs_are_added_up_in_double():
    values = (1000 + normal(500, 2)).float()
    found = Moments.of(values)
    assert found.mean.dtype == torch.float64
    torch.testing.assert_close(found.variance, values.double().var(dim=0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_in_single_precision_or_less_lose_no_more_than_its_rounding(layout, dtype):
    values = (3 + normal(64, 4, 16, 16).relu()).to(dtype).to(memory_format=layout)
    found, exact = Moments.of(values), values.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(found.mean, exact.mean(1), rtol=1e-7, atol=0)
    torch.testing.assert_close(found.variance, exact.var(1), rtol=1e-6, atol=0)


def test_examples_are_added_up_in_double():
    values = normal(50_000, 1, 1, 1).float()
    exact = values.double().var()
    torch.testing.assert_close(Moments.of(values).variance, exact[None], rtol=2e-9, atol=0)


def test_a_constant_has_no_variance_and_its_own_mean():
    values = torch.tensor([0.1, -3e7, 1e-20]).view(1, 3, 1, 1).expand(5, 3, 7, 11)
    found = Moments.of(values)
    assert found.variance.tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(found.mean, values[0, :, 0, 0].double())


def test_far_from_zero_single_precision_does_not_cancel():
    values = (1000 + normal(8, 2, 16, 16)).float()
    found, exact = Moments.of(values), values.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(found.mean, exact.mean(1), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.variance, exact.var(1), rtol=1e-6, atol=0)


# -- layers that normalise by their batch ---------------------------------------------------------


class Doubled(nn.BatchNorm1d):
    """A layer with a forward pass of its own."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def layers():
    torch.manual_seed(0)
    norms = {
        "plain": nn.BatchNorm1d(3),
        "coarse": nn.BatchNorm1d(3, eps=0.1, momentum=None),
        "bare": nn.BatchNorm1d(3, affine=False),
        "own": Doubled(3),
        "hung": nn.BatchNorm1d(3, track_running_stats=False),
    }
    for norm in norms.values():
        norm.double().eval()
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return norms


@pytest.mark.parametrize("name", list(layers()))
def test_layers_normalise_as_in_training_and_tell_what_enters_them(name):
    norm, values = layers()[name], 2 + 3 * normal(12, 3, 5)
    with batch_statistics({name: norm}) as found:
        output = norm(values)
    assert found[name].count == 60
    torch.testing.assert_close(found[name].mean, values.mean((0, 2)), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(output, norm.train()(values), rtol=1e-12, atol=1e-12)


def test_a_layer_that_is_called_twice_tells_of_both_calls():
    norm, values = layers()["plain"], normal(12, 3)
    with batch_statistics({"norm": norm}) as found:
        norm(values[:5]), norm(values[5:])
    torch.testing.assert_close(found["norm"].mean, values.mean(0), rtol=1e-13, atol=1e-13)


def test_layers_are_afterwards_what_they_were_also_after_an_error():
    def state(norm):
        held = {name: value for name, value in vars(norm).items() if name[0] != "_"}
        return held, list(norm._forward_pre_hooks), copy.deepcopy(norm.state_dict())

    norms = layers()
    norms["hung"].forward = lambda inputs: inputs  # what somebody has put in its place
    before = {name: state(norm) for name, norm in norms.items()}
    with suppress(KeyError), batch_statistics(norms):
        for name, norm in norms.items():
            assert norm.training == (name in ("own", "hung"))
        raise KeyError
    for name, norm in norms.items():
        (held, hooks, tensors), (was, no_hooks, own) = state(norm), before[name]
        assert (held, hooks) == (was, no_hooks)
        torch.testing.assert_close(tensors, own)


def test_a_single_value_is_refused_as_in_training():
    norm = layers()["plain"]
    with batch_statistics({"norm": norm}), pytest.raises(ValueError, match="more than 1 value per"):
        norm(normal(1, 3))
