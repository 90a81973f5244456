"""Controls: chance keeps the classes' shares; an untrained network has nothing of the trained."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.linear.controls import permuted_labels, untrained, untrained_point
from landscape.similarity.activations import activations


def trained(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(5.0)
        model[1].running_mean.add_(7)
    return model


def images(count=20, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 1, 5, 5, generator=generator).to(dtype)
    return inputs, torch.randint(3, (count,), generator=generator)


def states():
    return random.getstate()[1][:5], np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002


def test_permuted_labels_keep_their_shares_and_follow_the_seed():
    labels = np.repeat([0, 1, 4], [50, 30, 20])
    found = permuted_labels(labels, seed=3)
    assert np.bincount(found).tolist() == [50, 30, 0, 0, 20]
    assert np.array_equal(found, permuted_labels(torch.tensor(labels), seed=3))
    assert not np.array_equal(found, permuted_labels(labels, seed=4))
    assert np.array_equal(labels, np.repeat([0, 1, 4], [50, 30, 20]))


def test_permuted_labels_agree_with_the_true_ones_by_chance():
    labels = np.repeat([0, 1], 50)
    agreement = [(permuted_labels(labels, seed=seed) == labels).mean() for seed in range(200)]
    # Hypergeometric: the variance of one is 1 / (4 (n - 1)).
    assert abs(np.mean(agreement) - 0.5) < 4 * np.sqrt(1 / (4 * 99) / 200)
    assert np.std(agreement) == pytest.approx(np.sqrt(1 / (4 * 99)), rel=0.2)


def test_an_untrained_network_is_drawn_by_the_modules_own_rule():
    model = trained()
    fresh = untrained(model, seed=1)
    for name, parameter in fresh.named_parameters():
        assert not torch.isclose(parameter, model.get_parameter(name)).any(), name
    assert fresh[0].weight.abs().max() < 1 / 3  # 1 / sqrt(fan in 9)
    assert (fresh[1].weight == 1).all()
    assert not fresh[1].running_mean.any()
    assert fresh[4].weight.dtype == torch.float64


def test_an_untrained_network_is_the_seeds_and_leaves_no_trace():
    model = trained()
    before = copy.deepcopy(model.state_dict())
    *others, state = states()
    first, second, other = (untrained(model, seed=seed) for seed in (1, 1, 2))
    *after, found = states()
    assert after == others
    assert torch.equal(found, state)
    assert all(torch.equal(before[name], held) for name, held in model.state_dict().items())
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    torch.manual_seed(99)
    assert torch.equal(untrained(model, seed=1)[4].weight, first[4].weight)


@pytest.mark.parametrize(
    "module",
    [
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
        nn.TransformerEncoderLayer(4, 2, 8),
        nn.Transformer(4, 2, 1, 1, 8, batch_first=True),
        nn.LSTM(3, 4),
        nn.Embedding(5, 3, padding_idx=0),
        nn.GroupNorm(2, 4),
        nn.PReLU(),
        nn.Bilinear(2, 3, 4),
    ],
    ids=lambda module: type(module).__name__,
)
def test_all_of_torchs_modules_can_be_drawn_anew(module):
    module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9.0)
    assert all((parameter != 9).all() for parameter in untrained(module, seed=0).parameters())


def test_a_module_may_change_what_its_parts_have_drawn():
    class Zeroed(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)

        def reset_parameters(self):
            nn.init.constant_(self.scale, 0.5)
            nn.init.zeros_(self.inner.weight)

    fresh = untrained(Zeroed(), seed=0)
    assert not fresh.inner.weight.any()
    assert fresh.scale.tolist() == [0.5, 0.5]


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.token = nn.Parameter(torch.zeros(2))


def test_parameters_that_nobody_draws_are_named():
    model = nn.Sequential(nn.Linear(2, 2), Raw())
    with pytest.raises(RequestError, match=r"draws '1\.token', .*untrained=model"):
        untrained(model, seed=0)
    assert not model[1].token.any()
    many = nn.Sequential(*[Raw() for _ in range(6)])
    with pytest.raises(RequestError, match=r"'3\.token' and 2 more"):
        untrained(many, seed=0)


@pytest.mark.parametrize(
    "normed",
    [
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)),
    ],
)
def test_weights_that_are_computed_from_others_are_not_passed_off_as_drawn(normed):
    # `reset_parameters` draws the computed weight, and what it is computed from stays.
    with pytest.raises(RequestError, match=r"parametrizations\.weight\.original"):
        untrained(nn.Sequential(normed()), seed=0)


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("params", ["*", "4.*"])
def test_an_untrained_point_has_the_features_of_the_untrained_network(bn, params):
    objective = Objective(trained(), images(), bn=bn, params=params)
    fresh = untrained(objective.model, seed=1)
    theta, beside = untrained_point(objective, fresh)
    found = activations(objective.under("eval"), theta, buffers=beside)
    # One batch: its statistics are those of the data, up to n - 1 in the variance.
    with torch.no_grad():
        normal = fresh[0](images()[0])
        variance = normal.transpose(0, 1).flatten(1).var(1).view(1, -1, 1, 1)
        normal = (normal - normal.mean((0, 2, 3), keepdim=True)) / (variance + 1e-5).sqrt()
        outputs = fresh[4](normal.relu().flatten(1))
    assert torch.allclose(found["1"], normal.flatten(1), rtol=1e-9)
    assert torch.allclose(found["4"], outputs, rtol=1e-9)


def test_the_statistics_at_an_untrained_point_are_of_all_batches():
    whole = Objective(trained(), images())
    ragged = Objective(trained(), images(), batch_size=7)
    fresh = untrained(whole.model, seed=1)
    (_, expected), (_, found) = (untrained_point(held, fresh) for held in (whole, ragged))
    for name in ("1.running_mean", "1.running_var"):
        assert torch.allclose(found[name], expected[name], rtol=1e-9)
        assert not torch.equal(found[name], whole.buffers[name])


def test_an_untrained_point_has_the_precision_of_the_objective():
    data = images(dtype=torch.float32)
    objective = Objective(trained(torch.float32), data, dtype=torch.float64, params="4.*")
    theta, beside = untrained_point(objective, untrained(objective.model, seed=0))
    assert theta.dtype == beside["0.weight"].dtype == torch.float64
    assert beside["1.running_mean"].dtype == torch.float64


def test_the_statistics_at_an_untrained_point_are_without_dropout():
    plain = trained()
    dropping = nn.Sequential(nn.Dropout(0.5), *plain).train()
    random_state = torch.get_rng_state()
    (_, expected), (_, found) = (
        untrained_point(objective, objective.model)
        for objective in (Objective(plain, images()), Objective(dropping, images()))
    )
    assert torch.allclose(found["2.running_var"], expected["1.running_var"], rtol=1e-9)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert dropping.training


def test_another_kind_of_network_is_refused():
    objective = Objective(trained(), images())
    with pytest.raises(RequestError, match=r"has no '0\.weight' of shape \(4, 1, 3, 3\)"):
        untrained_point(objective, nn.Sequential(nn.Conv2d(1, 5, 3)))
