"""Canonical scales: one point for all that differ by the scale of neurons alone."""

from __future__ import annotations

import pytest
import torch

from landscape.alignment import scale_canonical
from landscape.alignment.scale_canonical import canonical_scales
from landscape.slices.rescaling import neuron_rescalings, rescaled
from tests.alignment.reordered import MLP_SHAPES, mlp, resnet, vgg

PROBLEMS = [*(mlp(widths, 1) for widths in MLP_SHAPES[:4]), vgg(1), resnet(1)]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_two_networks_that_differ_by_scales_alone_have_one_canonical_form(problem):
    objective = problem.objective
    rescalings = neuron_rescalings(objective)
    other = rescaled(objective, rescalings, seed=4)
    assert not torch.allclose(other, objective.theta)
    first, second = (canonical_scales(objective, t, rescalings) for t in (objective.theta, other))
    assert first.converged
    assert second.converged
    torch.testing.assert_close(first.theta, second.theta, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_function_is_kept_and_the_norm_is_smaller(problem):
    objective = problem.objective
    found = canonical_scales(objective, objective.theta, neuron_rescalings(objective))
    assert objective.loss(found.theta) == pytest.approx(objective.value, rel=1e-12)
    assert found.theta.norm() < objective.theta.norm()


def test_incoming_and_outgoing_weights_of_a_neuron_are_equally_long():
    problem = vgg(2)
    objective = problem.objective
    found = canonical_scales(objective, objective.theta, neuron_rescalings(objective))
    named = objective.space.named(found.theta)
    for layer, following, units in (("0", "3", 5), ("3", "7", 6), ("7", "9", 9)):
        weight, bias = named[f"{layer}.weight"].flatten(1), named[f"{layer}.bias"]
        read = named[f"{following}.weight"]
        # Behind the flattening a channel is read in four places.
        outgoing = read.reshape(len(read), units, -1).square().sum((0, 2))
        torch.testing.assert_close(
            weight.square().sum(1) + bias.square(), outgoing, rtol=1e-10, atol=0
        )


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_scales_that_were_there_before_can_be_restored(problem):
    objective = problem.objective
    found = canonical_scales(objective, objective.theta, neuron_rescalings(objective))
    restored = found.restored(objective, found.theta)
    torch.testing.assert_close(restored, objective.theta, rtol=1e-12, atol=1e-14)


def test_a_neuron_without_incoming_or_outgoing_weights_is_left_alone():
    problem = mlp((4, 8, 3), 0)
    objective = problem.objective
    theta = objective.theta.clone()
    named = objective.space.named(theta)
    named["0.weight"][2], named["0.bias"][2], named["2.weight"][:, 5] = 0, 0, 0
    found = canonical_scales(objective, theta, neuron_rescalings(objective))
    assert found.theta.isfinite().all()
    assert found.converged
    assert found.factors[0][[2, 5]].tolist() == [1, 1]
    assert (found.factors[0][[0, 1, 3, 4, 6, 7]] != 1).all()


def test_single_precision_stays_and_is_balanced_in_double():
    problem = mlp((4, 8, 8, 3), 0, torch.float32)
    objective = problem.objective
    found = canonical_scales(objective, objective.theta, neuron_rescalings(objective))
    assert found.theta.dtype == torch.float32
    assert found.factors[0].dtype == torch.float64
    assert found.converged


def test_scales_that_are_not_reached_say_so(monkeypatch):
    problem = mlp((5, 20, 20, 20, 20, 2))
    monkeypatch.setattr(scale_canonical, "_MAX_SWEEPS", 2)
    found = canonical_scales(
        problem.objective, problem.objective.theta, neuron_rescalings(problem.objective)
    )
    assert not found.converged
