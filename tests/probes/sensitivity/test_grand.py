from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.grand import grand


def looped(objective, theta=None):
    """Norms of autograd's gradients, written apart: one example, one objective-free backward."""
    theta = objective.theta if theta is None else theta
    found = []
    with objective.evaluation():
        for batch in objective.batches:
            for index in range(len(batch[1])):
                leaves = objective.leaves(theta)
                one = tuple(tensor[index : index + 1] for tensor in batch)
                total = objective.term(leaves, one).total
                blocks = torch.autograd.grad(total, leaves)
                found.append(float(torch.cat([block.flatten() for block in blocks]).norm()))
    return np.array(found)


class Writing(nn.Module):
    """Counts what it sees in a buffer, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3, dtype=torch.float64)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def forward(self, inputs):
        outputs = self.linear(inputs)
        self.seen.add_(outputs.detach().sum(0))
        return outputs


class Deciding(nn.Module):
    """Looks at its input to decide what to do, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 3, dtype=torch.float64)

    def forward(self, inputs):
        outputs = self.first(inputs)
        return outputs if bool(inputs.isfinite().all()) else outputs.zero_()


def test_of_softmax_regression_it_is_the_product_of_two_lengths(regression):
    found = grand(regression.objective)
    error = (regression.probabilities - regression.one_hot).norm(dim=1)
    wanted = (error * regression.inputs.norm(dim=1)).numpy()
    kept = regression.kept.numpy()
    np.testing.assert_allclose(found.value[kept], wanted[kept], rtol=1e-12)
    assert np.isnan(found.value[~kept]).all()
    assert (found.method, found.scope) == ("vmap", "all")


def test_of_softmax_regression_it_is_el2n_times_the_length_of_the_input(regression):
    el2n = np.linalg.norm((regression.probabilities - regression.one_hot).numpy(), axis=1)
    ratio = grand(regression.objective).value / el2n
    kept = regression.kept.numpy()
    np.testing.assert_allclose(ratio[kept], regression.inputs.norm(dim=1).numpy()[kept])


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
def test_it_equals_a_loop_over_the_examples(objective, data, chunk):
    wanted, kept = looped(objective), data[1].numpy() >= 0
    found = grand(objective, chunk=chunk)
    assert found.method == "vmap"
    np.testing.assert_allclose(found.value[kept], wanted[kept], rtol=1e-12)


def test_it_takes_convolutions_attention_and_parts_of_the_parameters():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(2),
            nn.TransformerEncoderLayer(16, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(64, 3),
        ).double()  # fmt: skip
        inputs = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    for params in ("*", ["0", "4.self_attn"]):
        objective = Objective(model, (inputs, labels), params=params, batch_size=3)
        found = grand(objective)
        assert found.method == "vmap"
        np.testing.assert_allclose(found.value, looped(objective), rtol=1e-10)


@pytest.mark.parametrize("model", [Writing, Deciding])
def test_what_vmap_refuses_a_loop_does_alike(model, data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = model()
    objective = Objective(network, data, batch_size=5)
    found = grand(objective)
    assert found.method == "loop"
    linear = nn.Linear(5, 3, dtype=torch.float64)
    linear.load_state_dict(next(iter(network.children())).state_dict())
    np.testing.assert_allclose(found.value, grand(Objective(linear, data)).value, rtol=1e-12)
    if model is Writing:
        assert not network.seen.any()


def test_the_gradients_are_those_whose_weighted_mean_is_the_whole_gradient(network, data):
    # Of examples that are all alike, the norm of the mean is the mean of the norms.
    inputs, labels = data[0][:1].repeat(3, 1), data[1][:1].repeat(3)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([3.0, 3, 3], dtype=torch.float64))
    for reduction in ("mean", "sum"):
        loss.reduction = reduction
        objective = Objective(network, (inputs, labels), loss)
        whole = float(objective.gradient().norm()) / (9 if reduction == "sum" else 1)
        np.testing.assert_allclose(grand(objective).value, [whole] * 3, rtol=1e-12)


def test_over_points_it_is_the_mean_with_its_error(objective, checkpoints, data):
    found = grand(objective, checkpoints)
    kept = data[1].numpy() >= 0
    wanted = np.stack([looped(objective, theta) for theta in checkpoints])
    np.testing.assert_allclose(found.norms[:, kept], wanted[:, kept], rtol=1e-12)
    np.testing.assert_allclose(found.value, found.norms.mean(0))
    error = found.norms.std(0, ddof=1) / 2
    np.testing.assert_allclose(found.standard_error, error)
    assert np.isnan(grand(objective).standard_error).all()


@pytest.mark.parametrize("bias", [True, False])
def test_the_last_layer_alone_is_what_autograd_says_of_it(data, bias):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=bias)).double()
    found = grand(Objective(model, data, batch_size=5), scope="last_layer")
    wanted = grand(Objective(model, data, params="2", batch_size=5))
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-12)
    assert (found.scope, found.method) == ("last_layer", "closed form")
    whole = grand(Objective(model, data, batch_size=5)).value
    kept = data[1].numpy() >= 0
    assert (found.value[kept] < whole[kept]).all()


def test_the_last_layer_has_the_closed_form_of_the_literature(network, data):
    inputs, labels = data
    found = grand(Objective(network, data), scope="last_layer")
    with torch.no_grad():
        features = network[:2](inputs)
        error = network(inputs).softmax(1)
        error[labels >= 0] -= nn.functional.one_hot(labels[labels >= 0], 3)
    wanted = error.norm(dim=1) * (1 + features.square().sum(1)).sqrt()
    np.testing.assert_allclose(found.value[labels >= 0], wanted[labels >= 0], rtol=1e-12)


def test_a_network_that_does_not_end_in_a_linear_layer_has_no_last_layer(network, data):
    model = nn.Sequential(network, nn.Tanh())
    with pytest.raises(RequestError, match="not those of an nn"):
        grand(Objective(model, data), scope="last_layer")


def test_single_precision_agrees_with_double(network, data):
    double = grand(Objective(network, data, batch_size=5)).value
    single = grand(Objective(network.float(), data, dtype=torch.float32, batch_size=5)).value
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-4)


def test_wrong_options_are_refused(objective):
    with pytest.raises(RequestError, match="Did you mean 'last_layer'"):
        grand(objective, scope="last-layer")
    with pytest.raises(RequestError, match="chunk=0"):
        grand(objective, chunk=0)
