from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.gradient_variance import gradient_variance


def gradients(regression, scales):
    """(T, N, 5) of p_y of softmax regression at weights scale W: p_y (w_y - sum_c p_c w_c)."""
    found = []
    for scale in scales:
        weight = scale * regression.weight
        p = (regression.inputs @ weight.T).softmax(1)
        own = regression.one_hot
        found.append((p * own).sum(1, keepdim=True) * (own @ weight - p @ weight))
    return torch.stack(found).numpy()


@pytest.fixture
def scaled(regression):
    scales = [1.0, 2.0, -1.0, 0.5, 3.0]
    thetas = torch.stack([scale * regression.objective.theta for scale in scales])
    return regression.objective, thetas, gradients(regression, scales)


@pytest.mark.parametrize("ddof", [0, 1])
def test_it_is_the_spread_of_the_closed_form_s_gradients(scaled, regression, ddof):
    objective, thetas, exact = scaled
    found = gradient_variance(objective, thetas, ddof=ddof)
    kept = regression.kept.numpy()
    wanted = exact.std(0, ddof=ddof).mean(1)
    np.testing.assert_allclose(found.value[kept], wanted[kept], rtol=1e-12)
    assert np.isnan(found.value[~kept]).all()
    assert (found.label[~kept] == -1).all()
    assert (found.num_checkpoints, found.ddof, found.window) == (5, ddof, 2)


def test_each_window_divides_by_its_own_number_of_checkpoints(scaled, regression):
    objective, thetas, exact = scaled
    found = gradient_variance(objective, thetas, window=3)
    kept = regression.kept.numpy()
    np.testing.assert_allclose(found.early[kept], exact[:3].std(0).mean(1)[kept], rtol=1e-12)
    np.testing.assert_allclose(found.late[kept], exact[-3:].std(0).mean(1)[kept], rtol=1e-12)
    alone = gradient_variance(objective, thetas[:3])
    np.testing.assert_allclose(found.early, alone.value)


def test_of_two_checkpoints_there_is_no_early_and_no_late(scaled):
    objective, thetas, _ = scaled
    found = gradient_variance(objective, thetas[:2])
    assert np.isnan(found.early).all()
    assert np.isnan(found.late).all()


def test_checkpoints_that_are_equal_have_no_spread(objective):
    found = gradient_variance(objective, objective.theta.expand(3, -1))
    np.testing.assert_allclose(np.nan_to_num(found.value), 0, atol=1e-16)
    assert np.isnan(found.class_normalized).all()


def images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
        inputs = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    return Objective(model.double(), (inputs, torch.tensor([0, 1, 2, 1])), batch_size=3)


def test_colour_is_averaged_before_the_spread_or_has_one_for_each_channel():
    objective = images()
    thetas = torch.stack([objective.theta, -objective.theta, 0.5 * objective.theta])
    (inputs, labels) = (torch.cat(parts) for parts in zip(*objective.batches, strict=True))
    held = []
    for theta in thetas:
        x = inputs.clone().requires_grad_()
        names = objective.space.named(theta)
        p = torch.func.functional_call(objective.model, names, (x,)).softmax(1)
        held.append(torch.autograd.grad(p[range(4), labels].sum(), x)[0].numpy())
    exact = np.stack(held)
    channels = gradient_variance(objective, thetas)
    np.testing.assert_allclose(channels.value, exact.std(0).mean((1, 2, 3)), rtol=1e-10)
    mean = gradient_variance(objective, thetas, ddof=1, colour="mean")
    np.testing.assert_allclose(mean.value, exact.mean(2).std(0, ddof=1).mean((1, 2)), rtol=1e-10)
    assert (mean.value < channels.value * np.sqrt(1.5)).all()


def test_of_one_channel_colours_do_not_matter(scaled):
    objective, thetas, _ = scaled
    one = gradient_variance(objective, thetas)
    np.testing.assert_array_equal(
        one.value, gradient_variance(objective, thetas, colour="mean").value
    )


def test_logits_of_softmax_regression_have_the_spread_of_the_weights(regression):
    thetas = torch.stack([regression.objective.theta * scale for scale in (1.0, 2.0, 4.0)])
    found = gradient_variance(regression.objective, thetas, output="logit")
    own = regression.one_hot @ regression.weight
    wanted = np.std([1, 2, 4]) * own.abs().mean(1).numpy()
    kept = regression.kept.numpy()
    np.testing.assert_allclose(found.value[kept], wanted[kept], rtol=1e-12)


def test_normalised_by_class_each_class_has_mean_0_and_spread_1(scaled):
    objective, thetas, _ = scaled
    found = gradient_variance(objective, thetas)
    for one in range(3):
        own = found.class_normalized[found.label == one]
        assert own.mean() == pytest.approx(0, abs=1e-12)
        assert own.std() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ddof": 2}, "ddof=2"),
        ({"colour": "grey"}, "The choices are: channels, mean"),
        ({"output": "probabilities"}, "Did you mean 'probability'"),
        ({"window": 1}, "window=1"),
        ({"window": 6}, "window=6"),
    ],
)
def test_wrong_options_are_refused(scaled, options, message):
    objective, thetas, _ = scaled
    with pytest.raises(RequestError, match=message):
        gradient_variance(objective, thetas, **options)


def test_a_single_checkpoint_has_no_spread(objective):
    with pytest.raises(RequestError, match="there are 1 checkpoints"):
        gradient_variance(objective, objective.theta)
