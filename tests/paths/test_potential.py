"""Values and gradients at many points, against one point at a time by torch itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_potentials import (
    CURVY_END,
    CURVY_VALLEY,
    EGG_CARTON,
    MB_LOSSES,
    MB_MINIMA,
    MB_SADDLES,
    MUELLER_BROWN,
    point,
)

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.potential import ObjectivePotential, potential_of

INPUTS = torch.randn(11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(11) % 2


def network(kind="plain", seed=0):
    torch.manual_seed(seed)
    layers = {
        "plain": [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)],
        "norm": [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)],
        "convolution": [nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Tanh()],
    }[kind]
    return nn.Sequential(*layers, *([nn.Linear(4, 2)] if kind == "convolution" else [])).double()


def objective(kind="plain"):
    return Objective(network(kind).eval(), (INPUTS, TARGETS), "cross_entropy", batch_size=4)


def points(count=3, kind="plain"):
    flat = [
        nn.utils.parameters_to_vector(network(kind, seed).parameters()) for seed in range(count)
    ]
    return torch.stack(flat).detach()


def by_autograd(kind, theta, batches, training):
    """Mean loss and gradient from a copy of the network, its norms fed with each batch."""
    model = network(kind).train(training)
    nn.utils.vector_to_parameters(theta, model.parameters())
    total = sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in batches)
    loss = total / sum(len(x) for x, _ in batches)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return loss.detach(), nn.utils.parameters_to_vector(grads)


@pytest.mark.parametrize(
    ("kind", "bn"),
    [("plain", "recalibrate"), ("norm", "recalibrate"), ("norm", "eval"), ("convolution", "eval")],
)
def test_all_points_see_all_the_data(kind, bn):
    held = ObjectivePotential(objective(kind), bn=bn, seed=0)
    thetas = points(kind=kind)
    batches = list(zip(INPUTS.split(4), TARGETS.split(4), strict=True))
    found, gradients = held.gradients(thetas)
    for index, theta in enumerate(thetas):
        loss, gradient = by_autograd(kind, theta, batches, training=bn != "eval")
        torch.testing.assert_close(found[index], loss)
        torch.testing.assert_close(gradients[index], gradient)


@pytest.mark.parametrize(("kind", "at_once"), [("plain", 1), ("norm", 1), ("convolution", 0)])
def test_convolutions_are_looped_over_and_layers_are_not(kind, at_once, monkeypatch):
    calls = []
    whole = ObjectivePotential._at_once
    monkeypatch.setattr(
        ObjectivePotential, "_at_once", lambda *told: calls.append(told) or whole(*told)
    )
    held = ObjectivePotential(objective(kind), seed=0)
    held.gradients(points(3, kind), 0)  # with a trial
    calls.clear()
    held.gradients(points(3, kind), 1)
    assert len(calls) == at_once


def test_a_step_is_one_minibatch_for_all_points():
    held = ObjectivePotential(objective(), batch_size=4, seed=3)
    thetas = points(2)
    found, gradients = held.gradients(thetas, 5)
    rows = held._minibatches.rows(5, 1)[0]
    for index, theta in enumerate(thetas):
        loss, gradient = by_autograd("plain", theta, [(INPUTS[rows], TARGETS[rows])], False)
        torch.testing.assert_close(found[index], loss)
        torch.testing.assert_close(gradients[index], gradient)


def test_the_minibatches_are_those_of_the_seed():
    theta = points(1)

    def losses(seed):
        held = ObjectivePotential(objective(), batch_size=4, seed=seed)
        return [held.gradients(theta, step)[0].item() for step in range(4)]

    assert losses(1) == losses(1) != losses(2)


def test_a_minibatch_of_all_examples_is_all_the_data():
    held = ObjectivePotential(objective(), batch_size=11, seed=0)
    for found, whole in zip(held.gradients(points(), 7), held.gradients(points()), strict=True):
        torch.testing.assert_close(found, whole)


def test_examples_at_weighted_sums_are_those_of_the_network_there():
    weights = torch.tensor([[1.0, 0, 0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    held = ObjectivePotential(objective(), seed=0, also={"test": objective()})
    for _ in range(2):  # with a trial, and with what it found
        found = held.examples(points(), weights)
        expected = objective().losses(weights @ points())
        torch.testing.assert_close(found[""].loss, expected)
        torch.testing.assert_close(found["test"].loss, expected)
    assert any(note.startswith("evaluated: ") for note in held.notes)


def test_the_model_is_left_as_it_was():
    model = network("norm").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    held = Objective(model, (INPUTS, TARGETS), "cross_entropy")
    kept = {name: buffer.clone() for name, buffer in held.buffers.items()}
    for step in (0, None):
        ObjectivePotential(held, seed=0).gradients(points(2, "norm"), step)
    assert all(torch.equal(buffer, kept[name]) for name, buffer in held.buffers.items())
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_formulas_have_the_minima_and_saddles_that_are_printed():
    places = [*MB_MINIMA, *[point(*place) for _, place in MB_SADDLES.values()]]
    energies = [*MB_LOSSES, *[energy for energy, _ in MB_SADDLES.values()]]
    found, gradients = MUELLER_BROWN.gradients(torch.stack(places))
    torch.testing.assert_close(found, point(*energies), atol=5e-7, rtol=0)
    assert gradients.abs().max() < 2e-3  # places are printed to 1e-6
    found, gradients = CURVY_VALLEY.gradients(point(CURVY_END, 1, -CURVY_END, -1, 0, 0).view(3, 2))
    torch.testing.assert_close(found, point(0, 0, 1), atol=1e-14, rtol=0)
    assert gradients.abs().max() < 1e-14
    found, gradients = EGG_CARTON.gradients(point(0.5, 0.5, 1, 0.5).view(2, 2))
    torch.testing.assert_close(found, point(-2, 0))
    assert gradients.abs().max() < 1e-13


def test_a_potential_is_passed_on_as_it_is():
    assert potential_of(EGG_CARTON, seed=0) is EGG_CARTON
    assert EGG_CARTON.provenance() == {"potential": "egg_carton_values"}


def test_points_that_do_not_fit_are_refused():
    held = ObjectivePotential(objective(), seed=0)
    for potential in (held, EGG_CARTON):
        with pytest.raises(RequestError, match="shape"):
            potential.point(torch.zeros(5))
        with pytest.raises(RequestError, match="finite"):
            potential.point(torch.full((potential.size,), torch.nan))
    with pytest.raises(RequestError, match="'recalibrate'"):
        ObjectivePotential(objective(), bn="interpolate", seed=0)


def test_a_loss_without_gradient_is_refused():
    detached = Objective(
        network(),
        (INPUTS, TARGETS),
        lambda output, target: F.cross_entropy(output, target).detach(),
    )
    with pytest.raises(RequestError, match="no gradient"):
        ObjectivePotential(detached, seed=0).gradients(points(1))
