"""What all of the room has to obey: examples are told apart, and nothing is left behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.critical_samples import critical_sample_ratio
from landscape.probes.sensitivity.geometry_bridge import bridge
from landscape.probes.sensitivity.gradient_variance import gradient_variance
from landscape.probes.sensitivity.grand import grand
from landscape.probes.sensitivity.input_curvature import input_curvature
from landscape.probes.sensitivity.loss_sensitivity import class_sensitivity, loss_sensitivity
from landscape.probes.sensitivity.single_examples import (
    differentiation,
    inputs_of,
    losses_of,
    points,
    with_inputs,
)
from landscape.probes.sensitivity.weight_curvature import curvature_along, weight_curvature

CALLS = {
    "grand": grand,
    "grand of the last layer": lambda o: grand(o, scope="last_layer"),
    "gradient_variance": lambda o: gradient_variance(o, torch.stack([o.theta, 2 * o.theta])),
    "input_curvature": input_curvature,
    "differences": lambda o: input_curvature(o, method="differences"),
    "weight_curvature": weight_curvature,
    "gauss_newton": lambda o: weight_curvature(o, matrix="gauss_newton"),
    "curvature_along": lambda o: curvature_along(o, o.theta),
    "loss_sensitivity": loss_sensitivity,
    "class_sensitivity": class_sensitivity,
    "critical_sample_ratio": lambda o: critical_sample_ratio(o, 0.1, num_steps=3),
    "bridge": lambda o: bridge(o, np.arange(13.0)),
}


def normalized(where=1):
    """A perceptron with BatchNorm whose statistics are not the data's."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
        model.double()
        model[where].running_mean.normal_()
        model[where].running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", CALLS)
def test_model_gradients_modes_and_generators_are_left_as_they_were(name, data):
    model = normalized()
    model[3].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[0].weight.requires_grad_(False)
    objective = Objective(model, data, batch_size=5)
    state, theta = copy.deepcopy(model.state_dict()), objective.theta.clone()
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    CALLS[name](objective)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert not model[0].weight.requires_grad
    assert torch.equal(drawn[0], torch.get_rng_state())
    assert (drawn[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(theta, objective.theta)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"critical_sample_ratio", "bridge"}))
def test_the_size_of_batches_does_not_matter(name, network, data):
    whole, ragged = (CALLS[name](Objective(network, data, batch_size=size)) for size in (13, 4))
    assert type(whole) is type(ragged)
    for key, value in vars(whole).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(value, getattr(ragged, key), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", CALLS)
def test_with_the_statistics_of_a_batch_examples_are_refused(name, data):
    objective = Objective(normalized(), data, bn="batch")
    with pytest.raises(RequestError, match="Give bn='eval'"):
        CALLS[name](objective)


def test_layers_that_have_no_statistics_but_the_batch_s_are_refused(data):
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    with pytest.raises(RequestError, match="running statistics"):
        grand(Objective(model, data, batch_size=5))


def test_a_network_that_mixes_its_examples_is_refused(data):
    class Centred(nn.Linear):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            return outputs - outputs.mean(0)

    with pytest.raises(RequestError, match="depends on the others of its batch"):
        grand(Objective(Centred(5, 3, dtype=torch.float64), data, batch_size=5))


def test_a_loss_that_gives_only_a_batch_s_value_is_refused(network, data):
    inputs, labels = data
    loss = lambda output, target: nn.functional.cross_entropy(output, target)  # noqa: E731
    with pytest.raises(RequestError, match="does not tell its examples apart"):
        grand(Objective(network, (inputs, labels.clamp(min=0)), loss))


@pytest.mark.parametrize("call", [grand, loss_sensitivity, weight_curvature])
def test_a_loss_without_a_gradient_is_refused(network, data, call):
    def loss(output, target):
        return nn.functional.cross_entropy(output.detach(), target, reduction="none")

    with pytest.raises(RequestError, match="carries no gradient"):
        call(Objective(network, (data[0], data[1].clamp(min=0)), loss))


def test_a_batch_of_one_is_an_example_by_itself(network, data):
    found = grand(Objective(network, data, batch_size=1))
    wanted = grand(Objective(network, data))
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-10)


def test_a_loss_of_the_user_s_that_returns_one_value_an_example_is_taken(network, data):
    inputs, labels = data[0], data[1].clamp(min=0)

    def loss(output, target):
        return nn.functional.cross_entropy(output, target, reduction="none")

    mine = grand(Objective(network, (inputs, labels), loss, batch_size=5))
    theirs = grand(Objective(network, (inputs, labels), batch_size=5))
    np.testing.assert_allclose(mine.value, theirs.value)


def test_the_loss_of_an_example_is_its_own_weighted_mean_and_its_weight_is_told(network, data):
    weights = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    objective = Objective(network, data, nn.CrossEntropyLoss(weight=weights), batch_size=5)
    with differentiation(objective):
        (point,) = points(objective, None)
        terms = [objective.term(point.blocks, b, point.buffers) for b in objective.batches]
        losses, kept = (torch.cat(p).detach() for p in zip(*map(losses_of, terms), strict=True))
    alone = nn.functional.cross_entropy(network(data[0]), data[1], reduction="none").detach()
    wanted = torch.where(data[1] >= 0, weights[data[1].clamp(min=0)], 0)
    torch.testing.assert_close(kept, wanted)
    torch.testing.assert_close(losses, torch.where(wanted > 0, alone, 0))
    mean = (losses * kept).sum() / kept.sum()
    assert float(mean) == pytest.approx(objective.value, rel=1e-12)


def test_recalibrated_statistics_are_those_of_the_point(data):
    objective = Objective(normalized(), data, bn="recalibrate", batch_size=13)
    moved = objective.theta * 1.5
    buffers = objective.buffers_at(moved)
    frozen = grand(objective.under("eval"), moved, buffers=[buffers])
    np.testing.assert_allclose(grand(objective, moved).value, frozen.value, rtol=1e-12)
    assert not np.allclose(grand(objective.under("eval"), moved).value, frozen.value, rtol=1e-3)


def test_each_point_has_its_own_buffers(data):
    first, second = normalized(), normalized()
    second[1].running_mean.add_(1)
    objective, other = (Objective(model, data, batch_size=5) for model in (first, second))
    both = grand(
        objective,
        [objective.theta, other.theta],
        buffers=[dict(model.named_buffers()) for model in (first, second)],
    )
    np.testing.assert_allclose(both.norms, [grand(objective).value, grand(other).value])
    with pytest.raises(RequestError, match="those of 1 points, and there are 2"):
        grand(objective, [objective.theta] * 2, buffers=[{}])


def test_the_input_is_the_one_floating_point_tensor_that_is_no_target():
    pixels, target = torch.rand(3, 2), torch.rand(3, 2)
    assert inputs_of((pixels, target)) is pixels
    assert inputs_of({"x": pixels, "labels": target, "mask": torch.ones(3).bool()}) is pixels
    moved = with_inputs({"x": pixels, "labels": target}, pixels + 1)
    assert torch.equal(moved["x"], pixels + 1)
    assert moved["labels"] is target
    with pytest.raises(RequestError, match="has 0 floating-point inputs"):
        inputs_of((torch.ones(3, dtype=torch.int64), target))
    with pytest.raises(RequestError, match="has 2 floating-point inputs"):
        inputs_of({"x": pixels, "more": pixels, "labels": target})


def test_points_of_another_space_are_refused(objective):
    with pytest.raises(RequestError, match="the vector has shape"):
        grand(objective, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(RequestError, match="thetas is empty"):
        grand(objective, [])
