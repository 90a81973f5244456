"""Distances between weights: closed forms, symmetry, and what rescaling leaves alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.similarity.distances import scale_invariant_angles, weight_distances


def objective_of(model):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    return Objective(model, (inputs, torch.randint(2, (40,), generator=generator)))


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def normalized():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4, bias=False),
        nn.BatchNorm1d(4, affine=False),
        nn.ReLU(),
        nn.Linear(4, 5, bias=False),
        nn.BatchNorm1d(5),
        nn.Linear(5, 2),
    ).double()


def noise(objective, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(objective.space.size, generator=generator, dtype=torch.float64)


def test_whole_layers_and_parameters_have_their_own_distances():
    objective = objective_of(perceptron())
    a, b = objective.theta, noise(objective)
    by_layer = weight_distances(objective, [a, b])
    assert by_layer.groups == ("(all)", "0", "2")
    by_parameter = weight_distances(objective, [a, b], by="parameter")
    assert by_parameter.groups[1:] == ("0.weight", "0.bias", "2.weight", "2.bias")
    places = [(by_layer, 0, slice(0, 26)), (by_layer, 1, slice(0, 16))]
    for found, index, rows in [*places, (by_parameter, 4, slice(24, 26))]:
        u, v = a[rows].numpy(), b[rows].numpy()
        cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        assert found.cosine[0, 1, index] == pytest.approx(cosine, abs=1e-14)
        assert found.angle[0, 1, index] == pytest.approx(math.acos(cosine), abs=1e-14)
        assert found.euclidean[0, 1, index] == pytest.approx(np.linalg.norm(u - v))
        mean = (np.linalg.norm(u) + np.linalg.norm(v)) / 2
        assert found.relative[0, 1, index] == pytest.approx(np.linalg.norm(u - v) / mean)


def test_identical_points_have_distance_zero_exactly():
    objective = objective_of(perceptron())
    found = weight_distances(objective, [objective.theta, objective.theta.clone()])
    assert not found.angle.any()
    assert not found.euclidean.any()
    assert not found.relative.any()
    assert (found.cosine == 1).all()


def test_opposite_and_scaled_points():
    objective = objective_of(perceptron())
    found = weight_distances(objective, [objective.theta, -objective.theta, 3 * objective.theta])
    assert found.angle[0, 1] == pytest.approx(math.pi)
    assert found.relative[0, 1] == pytest.approx(2)
    assert found.angle[0, 2] == pytest.approx(0, abs=1e-15)
    assert found.relative[0, 2] == pytest.approx(1)


def test_a_tiny_angle_has_all_its_digits():
    objective = objective_of(perceptron())
    a, sideways = objective.theta, noise(objective)
    sideways -= (sideways @ a) / (a @ a) * a
    b = a + 1e-9 * a.norm() / sideways.norm() * sideways
    assert weight_distances(objective, [a, b]).angle[0, 1, 0] == pytest.approx(1e-9, rel=1e-6)


def test_matrices_are_symmetric_and_those_of_the_pairs():
    objective = objective_of(perceptron())
    points = [noise(objective, seed) for seed in range(3)]
    whole = weight_distances(objective, torch.stack(points))
    assert np.array_equal(whole.angle, whole.angle.transpose(1, 0, 2))
    pair = weight_distances(objective, [points[0], points[2]])
    assert np.array_equal(whole.euclidean[0, 2], pair.euclidean[0, 1])


def test_a_zero_point_has_no_angle_and_two_have_no_relative_distance():
    objective = objective_of(perceptron())
    a = objective.theta.clone()
    a[objective.space.slice_of("2.bias")] = 0
    found = weight_distances(objective, [a, a], by="parameter")
    assert np.isnan(found.angle[0, 1, 4])
    assert np.isnan(found.relative[0, 1, 4])
    assert found.euclidean[0, 1, 4] == 0
    assert found.angle[0, 1, 0] == 0


def test_wrong_points_are_refused():
    objective = objective_of(perceptron())
    with pytest.raises(RequestError, match="1 point was given"):
        weight_distances(objective, [objective.theta])
    with pytest.raises(RequestError, match="expected \\(26,\\)"):
        weight_distances(objective, [objective.theta, objective.theta[1:]])
    with pytest.raises(RequestError, match="Did you mean 'layer'"):
        weight_distances(objective, [objective.theta] * 2, by="layers")


def test_normalized_angles_see_only_the_direction_of_each_scale_invariant_group():
    objective = objective_of(normalized())
    a, b = objective.theta, noise(objective)
    angle = scale_invariant_angles(objective, [a, b])[0, 1]
    moved = b.clone()
    moved[objective.space.slice_of("0.weight")] *= 7
    moved[objective.space.slice_of("3.weight")] *= 0.1
    moved[objective.space.slice_of("5.bias")] += 3
    assert scale_invariant_angles(objective, [a, moved])[0, 1] == pytest.approx(angle, abs=1e-14)
    assert weight_distances(objective, [a, moved]).angle[0, 1, 0] != pytest.approx(angle, abs=0.01)
    cosines = []
    for name in ("0.weight", "3.weight"):
        u, v = a[objective.space.slice_of(name)], b[objective.space.slice_of(name)]
        cosines.append(float(u @ v / u.norm() / v.norm()))
    assert math.cos(angle) == pytest.approx(np.mean(cosines))
    by_hand = scale_invariant_angles(objective, [a, b], groups=[["0.weight"], ["3.weight"]])
    assert by_hand[0, 1] == pytest.approx(angle, abs=1e-15)


def test_without_scale_invariance_there_is_no_such_angle():
    objective = objective_of(perceptron())
    assert np.isnan(scale_invariant_angles(objective, [objective.theta] * 2)).all()


def test_groups_that_are_not_all_coordinates_are_left_out():
    model = normalized()
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(40, 3, generator=generator).double(), torch.arange(40) % 2)
    objective = Objective(model, data, params=["3", "5"])
    b = noise(objective)
    found = scale_invariant_angles(objective, [objective.theta, b])[0, 1]
    rows = objective.space.slice_of("3.weight")
    u, v = objective.theta[rows], b[rows]
    assert math.cos(found) == pytest.approx(float(u @ v / u.norm() / v.norm()))
