"""The quadratic beside a slice: closed form, dense Hessian, differences of what was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import (
    MLP,
    ConvNet,
    cut,
    dense_hessian,
    linear_regression_hessian,
    network,
    random_vectors,
)
from torch import nn

from landscape.curvature.hessian import HessianOperator
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import random_directions
from landscape.slices.options import SweepOptions
from landscape.slices.quadratic import Quadratic, expand
from landscape.slices.sweeping import grid, line, lines, plane

LOOP = SweepOptions(execution="loop", caveats=False, quadratic=True)


def regression(batch_size=4):
    """A linear regression and its Hessian: a quadratic all over. Away from its minimum."""
    inputs, targets = random_vectors(10, 4), random_vectors(10, 3, seed=2)
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(random_vectors(3, 4, seed=3))
    objective = Objective(model, cut(inputs, targets, batch_size), "mse")
    return objective, linear_regression_hessian(inputs, 3)


def exact_regression(objective, hessian, vectors, center):
    """Value, slope and curvature in closed form: from the normal equations."""
    inputs = torch.cat([batch[0] for batch in objective.batches])
    targets = torch.cat([batch[1] for batch in objective.batches])
    residual = inputs @ center.view(3, 4).T - targets  # (N, 3)
    gradient = 2 / residual.numel() * (residual.T @ inputs).flatten()
    return residual.square().mean(), vectors @ gradient, vectors @ hessian @ vectors.T


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_it_is_exact_on_a_quadratic(k):
    objective, hessian = regression()
    vectors, center = random_vectors(12, k, seed=4).T, random_vectors(12, 1, seed=5)[:, 0]
    found = expand(objective, vectors, center)
    value, slope, curvature = exact_regression(objective, hessian, vectors, center)
    assert found.value == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(found.slope, slope, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.curvature, curvature, rtol=1e-12, atol=1e-12)
    assert found.slope.shape == (k,)
    assert found.curvature.shape == (k, k)


def test_without_a_center_it_is_around_the_checkpoint():
    objective, hessian = regression()
    vectors = random_vectors(12, 2, seed=4).T
    found = expand(objective, vectors)
    value, slope, _ = exact_regression(objective, hessian, vectors, objective.theta)
    assert found.value == objective.value == pytest.approx(value.item(), rel=1e-14)
    np.testing.assert_allclose(found.slope, slope, rtol=1e-12)


def test_at_a_minimum_there_is_no_slope():
    objective, _ = regression()
    inputs, targets = (torch.cat(parts) for parts in zip(*objective.batches, strict=True))
    minimum = torch.linalg.lstsq(inputs, targets).solution.T.flatten()
    found = expand(objective, random_vectors(12, 2).T, minimum)
    np.testing.assert_allclose(found.slope, 0, atol=1e-14)
    assert (np.linalg.eigvalsh(found.curvature) > 0).all()


def test_a_measured_plane_of_a_quadratic_is_its_expansion():
    objective, _ = regression()
    vectors = random_vectors(12, 2, seed=4).T
    found = plane(objective, vectors, (5, 4), [(-1, 3), (-2, 0.5)], options=LOOP)
    expanded = found.quadratic(*found.coordinates)
    assert expanded.shape == (5, 4)
    np.testing.assert_allclose(expanded, found.loss, rtol=1e-12)


def test_a_measured_grid_of_three_directions_is_its_expansion():
    objective, _ = regression()
    center = random_vectors(12, 1, seed=5)[:, 0]
    found = grid(objective, random_vectors(12, 3).T, (2, 3, 4), 0.7, center=center, options=LOOP)
    np.testing.assert_allclose(found.quadratic(*found.coordinates), found.loss, rtol=1e-12)
    assert found.num_products == 3
    assert found.quadratic.value == pytest.approx(found.center_loss, rel=1e-14)


@pytest.mark.parametrize("batch_size", [10, 4])
@pytest.mark.parametrize("kind", [MLP, ConvNet])
def test_it_is_the_dense_hessian_restricted_to_the_directions(kind, batch_size):
    model, inputs, targets = network(kind)
    objective = Objective(model, cut(inputs, targets, batch_size))
    vectors = random_vectors(objective.space.size, 3).T
    found = expand(objective, vectors)
    hessian = dense_hessian(model, inputs, targets, F.cross_entropy)
    np.testing.assert_allclose(found.curvature, vectors @ hessian @ vectors.T, rtol=1e-11)
    np.testing.assert_allclose(found.slope, vectors @ objective.gradient(), rtol=1e-12)


def test_it_is_the_dense_hessian_at_another_center():
    model, inputs, targets = network(MLP)
    objective = Objective(model, (inputs, targets))
    center = objective.theta + random_vectors(objective.space.size, 1, seed=9)[:, 0]
    vectors = random_vectors(objective.space.size, 2).T
    found = expand(objective, vectors, center)
    with torch.no_grad():
        for parameter, block in zip(model.parameters(), objective.space.split(center), strict=True):
            parameter.copy_(block)
    hessian = dense_hessian(model, inputs, targets, F.cross_entropy)
    np.testing.assert_allclose(found.curvature, vectors @ hessian @ vectors.T, rtol=1e-11)
    assert found.value == pytest.approx(F.cross_entropy(model(inputs), targets).item(), rel=1e-13)


def test_a_selection_of_parameters_has_the_block_of_the_hessian():
    model, inputs, targets = network(MLP)
    objective = Objective(model, (inputs, targets), params="head")
    vectors = random_vectors(objective.space.size, 2).T
    block = dense_hessian(
        model, inputs, targets, F.cross_entropy, names=["head.weight", "head.bias"]
    )
    found = expand(objective, vectors)
    np.testing.assert_allclose(found.curvature, vectors @ block @ vectors.T, rtol=1e-11)


def test_products_that_disagree_are_averaged_and_told(monkeypatch):
    objective, hessian = regression()
    skew = random_vectors(12, 12, seed=7)
    products = HessianOperator.matvec
    monkeypatch.setattr(
        HessianOperator, "matvec", lambda self, v: products(self, v) + (skew - skew.T) @ v
    )
    vectors = random_vectors(12, 2, seed=4).T
    found = expand(objective, vectors)
    exact = (vectors @ hessian @ vectors.T).numpy()
    np.testing.assert_allclose(found.curvature, exact, rtol=1e-11)
    wanted = 2 * (vectors[0] @ (skew - skew.T) @ vectors[1]).abs().item()
    assert found.asymmetry == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_the_curvature_is_symmetric_and_what_it_was_before_is_told(dtype, bound):
    model, inputs, targets = network(MLP, dtype=dtype)
    objective = Objective(model, (inputs, targets))
    found = expand(objective, random_vectors(objective.space.size, 4, dtype=dtype).T)
    assert np.array_equal(found.curvature, found.curvature.T)
    assert 0 <= found.asymmetry < bound * np.abs(found.curvature).max()
    assert found.curvature.dtype == found.slope.dtype == np.float64


def test_float64_directions_of_a_float32_network_are_taken():
    model, inputs, targets = network(MLP, dtype=torch.float32)
    narrow = Objective(model, (inputs, targets))
    vectors = random_vectors(narrow.space.size, 2).T
    found, wide = (
        expand(narrow, vectors),
        expand(Objective(model, (inputs, targets), dtype=torch.float64), vectors),
    )
    np.testing.assert_allclose(found.curvature, wide.curvature, rtol=1e-4)
    np.testing.assert_allclose(found.slope, wide.slope, rtol=1e-4)


def test_it_costs_a_product_a_direction(monkeypatch):
    objective, _ = regression()
    products, count = HessianOperator.matvec, []

    def counted(self, vector):
        count.append(vector)
        return products(self, vector)

    monkeypatch.setattr(HessianOperator, "matvec", counted)
    expand(objective, random_vectors(12, 5).T)
    assert len(count) == 5


# -- as a function ------------------------------------------------------------------------------


def test_it_is_the_polynomial_and_its_axes_are_not_swapped():
    found = Quadratic(1.0, np.array([2.0, -3.0]), np.array([[4.0, 0.5], [0.5, -6.0]]))
    a, b = np.array([-1.0, 0.0, 2.0]), np.array([0.5, 3.0])
    values = found(a, b)
    assert values.shape == (3, 2)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            exact = 1 + 2 * x - 3 * y + 2 * x * x - 3 * y * y + 0.5 * x * y
            assert values[i, j] == pytest.approx(exact, rel=1e-15)


def test_on_a_line_it_is_a_parabola():
    found = Quadratic(1.0, np.array([2.0]), np.array([[4.0]]))
    np.testing.assert_allclose(found(np.array([-1.0, 0.0, 3.0])), [1, 1, 25], rtol=1e-15)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_axes_is_refused(count):
    found = Quadratic(1.0, np.zeros(2), np.eye(2))
    with pytest.raises(RequestError, match=f"{count} array.*2 direction"):
        found(*[np.zeros(2)] * count)


# -- against what was measured ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MLP, ConvNet])
def test_second_differences_of_a_measured_plane_tend_to_it(kind):
    model, inputs, targets = network(kind)
    objective = Objective(model, (inputs, targets))
    directions = random_directions(objective, 2)
    errors = []
    for step in (2e-3, 1e-3):
        found = plane(objective, directions, (3, 3), step, fields=("loss",), options=LOOP)
        loss = found.loss
        differences = [
            [loss[0, 1] - 2 * loss[1, 1] + loss[2, 1], 0],
            [0, loss[1, 0] - 2 * loss[1, 1] + loss[1, 2]],
        ]
        differences = np.array(differences) / step**2
        mixed = (loss[2, 2] - loss[2, 0] - loss[0, 2] + loss[0, 0]) / (4 * step**2)
        differences[0, 1] = differences[1, 0] = mixed
        slopes = np.array([loss[2, 1] - loss[0, 1], loss[1, 2] - loss[1, 0]]) / (2 * step)
        np.testing.assert_allclose(differences, found.quadratic.curvature, atol=1e-4)
        np.testing.assert_allclose(slopes, found.quadratic.slope, atol=1e-5)
        errors.append(np.abs(differences - found.quadratic.curvature).max())
    # Of second order in the step, down to rounding: four times less at half of it.
    assert errors[1] < 0.35 * errors[0] + 1e-8


def test_beside_a_line_it_has_the_loss_and_the_slope_of_the_center():
    model, inputs, targets = network(MLP)
    objective = Objective(model, (inputs, targets))
    direction = random_directions(objective, 1)[0]
    found = line(objective, direction, 5, 0.5, fields=("loss", "slope"), options=LOOP)
    np.testing.assert_allclose(found.quadratic(np.zeros(1)), found.loss[2], rtol=1e-14)
    np.testing.assert_allclose(found.quadratic.slope, found["slope"][2], rtol=1e-12)
    assert found.num_products == 1


def test_beside_several_lines_its_diagonal_belongs_to_them():
    model, inputs, targets = network(MLP)
    objective = Objective(model, (inputs, targets))
    directions = random_directions(objective, 3)
    found = lines(objective, directions, 3, 1e-3, options=LOOP)
    second = (found.loss[:, 0] - 2 * found.loss[:, 1] + found.loss[:, 2]) / 1e-6
    np.testing.assert_allclose(np.diag(found.quadratic.curvature), second, atol=1e-4)


def test_batch_statistics_are_differentiated_through():
    model, inputs, targets = network(ConvNet)
    objective = Objective(model, (inputs, targets), bn="batch")
    directions = random_directions(objective, 2)
    found = plane(objective, directions, (3, 3), 1e-3, fields=("loss",), options=LOOP)
    second = np.diff(found.loss, 2, axis=0)[0, 1] / 1e-6
    assert found.quadratic.curvature[0, 0] == pytest.approx(second, abs=1e-4)


def test_it_is_asked_for():
    objective, _ = regression()
    options = SweepOptions(execution="loop", caveats=False)
    found = plane(objective, random_vectors(12, 2).T, (2, 2), options=options)
    assert found.quadratic is None
    assert found.num_products == 0
