"""Curve: the loss along given curves, where it is known in closed form or point by point."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import MLP, ConvNet, cut, network, random_vectors
from torch import nn

import landscape
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.barrier import barrier
from landscape.paths.curve import curve
from landscape.paths.curves import curve_weights, straight_vertices

KINDS = ["bezier", "polygon"]


def quadratic(n=4):
    """L = theta' H theta, and H."""
    model = nn.Linear(n, 1, bias=False, dtype=torch.float64)
    inputs = random_vectors(9, n, seed=2)
    return Objective(model, (inputs, torch.zeros(9, 1, dtype=torch.float64)), "mse"), (
        inputs.T @ inputs / 9
    )


def objective_of(kind=MLP, num=12, **options):
    model, inputs, targets = network(kind, num=num)
    return Objective(model, cut(inputs, targets, 5), **options)


def random_curve(objective, count=3, seed=4):
    return random_vectors(objective.space.size, count, seed=seed).T / 3


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_a_quadratic_are_those_of_the_weighted_vertices(kind):
    objective, matrix = quadratic()
    vertices = random_curve(objective, 4)
    found = curve(objective, vertices, kind, num=21)
    gram = vertices @ matrix @ vertices.T
    weights = curve_weights(kind, torch.as_tensor(found.t), 4)
    expected = ((weights @ gram) * weights).sum(1)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-10)


def test_along_a_bezier_curve_a_quadratic_is_a_polynomial_of_twice_its_degree():
    objective, _ = quadratic()
    found = curve(objective, random_curve(objective, 3), num=13)
    coefficients = np.polynomial.polynomial.polyfit(found.t, found.losses, 4)
    fitted = np.polynomial.polynomial.polyval(found.t, coefficients)
    np.testing.assert_allclose(fitted, found.losses, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network_kind", [MLP, ConvNet])
def test_each_point_has_the_loss_of_its_parameters(network_kind, kind):
    objective = objective_of(network_kind)
    found = curve(objective, random_curve(objective), kind, num=5)
    recalibrated = objective.under("recalibrate")
    points = torch.stack([found.point(float(t)) for t in found.t])
    np.testing.assert_allclose(found.losses, recalibrated.losses(points), rtol=1e-9)
    accuracies = [recalibrated.metrics(point)["accuracy"] for point in points]
    np.testing.assert_allclose(1 - found.profiles["error"].values, accuracies, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_are_the_solutions_and_their_own_statistics(kind):
    objective = objective_of(ConvNet)
    vertices = random_curve(objective, 4)
    found = curve(objective, vertices, kind, num=7)
    assert torch.equal(found.point(0.0), vertices[0])
    assert torch.equal(found.point(1.0), vertices[-1])
    for index, end in ((0, vertices[0]), (-1, vertices[-1])):
        model = network(ConvNet)[0]
        nn.utils.vector_to_parameters(end, model.parameters())
        model.norm.momentum = None  # the plain mean over batches
        model.norm.reset_running_stats()
        _, inputs, targets = network(ConvNet, num=12)
        with torch.no_grad():
            model.train()(inputs)  # one batch: its statistics are those of the whole
        whole = Objective(copy.deepcopy(model).eval(), (inputs, targets))
        assert found.losses[index] == pytest.approx(whole.value, rel=1e-9)
        assert found.straight["loss"].values[index] == pytest.approx(whole.value, rel=1e-9)


def test_with_frozen_statistics_the_policy_is_the_objectives():
    objective = objective_of(ConvNet)
    vertices = random_curve(objective)
    found = curve(objective, vertices, num=5, bn="eval")
    assert found.bn == "eval"
    assert found.losses[0] == pytest.approx(objective.loss(vertices[0]), rel=1e-9)
    assert found.losses[0] != pytest.approx(curve(objective, vertices, num=5).losses[0], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_walked_back_everything_is_the_same_in_reverse(kind):
    objective = objective_of()
    vertices = random_curve(objective, 4)
    there, back = (curve(objective, way, kind, num=9) for way in (vertices, vertices.flip(0)))
    np.testing.assert_allclose(back.losses, there.losses[::-1], rtol=1e-9)
    for name in ("length", "distance", "excess", "excess_error"):
        assert getattr(back, name) == pytest.approx(getattr(there, name), rel=1e-9), name
    assert back.integral() == pytest.approx(there.integral(), rel=1e-9)


def test_one_point_is_flat():
    objective = objective_of(ConvNet)
    found = curve(objective, objective.theta.expand(3, -1), num=5)
    assert (found.losses == found.losses[0]).all()
    assert found.excess == 0
    assert found.excess_error == 0
    assert (found.length, found.distance) == (0, 0)
    assert math.isnan(found.length_ratio)
    assert found.integral() == pytest.approx(found.losses[0])


def test_a_loop_has_a_length_and_no_distance():
    objective, _ = quadratic()
    vertices = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
    found = curve(objective, vertices, "polygon", num=5)
    assert found.length == pytest.approx(2 * math.sqrt(5))
    assert found.distance == 0


@pytest.mark.parametrize("kind", KINDS)
def test_evenly_spaced_vertices_are_the_barrier(kind):
    objective = objective_of()
    ends = random_curve(objective, 2)
    found = curve(objective, straight_vertices(*ends, 2), kind, num=25)
    line = barrier(objective, *ends, num=25, refine=False)
    np.testing.assert_allclose(found.losses, line.losses, rtol=1e-9)
    np.testing.assert_allclose(found.straight["loss"].values, line.losses, rtol=1e-9)
    assert found.excess == pytest.approx(line.value, rel=1e-9)
    assert found.excess_error == pytest.approx(line.standard_error, rel=1e-9)
    assert found.length_ratio == pytest.approx(1, rel=1e-12)


def test_means_over_the_length_weigh_long_steps_more():
    # From 0 by 3 and then by 1: three quarters of the length are in the first half of t.
    objective, matrix = quadratic()
    unit = torch.eye(4, dtype=torch.float64)[0] / matrix[0, 0].sqrt()  # loss = (coordinate)^2
    vertices = torch.stack([0 * unit, 3 * unit, 4 * unit])
    found = curve(objective, vertices, "polygon", num=2001)
    assert found.integral() == pytest.approx(16 / 3, rel=1e-6)
    first, second = 3, (64 - 27) / 3  # means over either side
    assert found.losses.mean() == pytest.approx((first + second) / 2, rel=1e-3)


def test_the_chord_is_mixed_by_length_whatever_the_parameter():
    objective = objective_of()
    start, end = random_curve(objective, 2)
    corner = torch.lerp(start, end, torch.tensor(0.9, dtype=torch.float64))
    vertices = torch.stack([start, corner, end])  # straight, but slow at its end
    found = curve(objective, vertices, "polygon", num=401)
    straight = curve(objective, straight_vertices(start, end, 1), num=401)
    assert found.excess == pytest.approx(straight.excess, rel=1e-2)


def test_the_standard_error_is_that_of_paired_differences():
    objective = objective_of()
    found = curve(objective, random_curve(objective), num=7)
    top = int(np.argmax(found.profiles["loss"].gaps))
    share = float(found.profiles["loss"].alphas[top])
    at, first, last = (objective.per_example(found.point(t)) for t in (found.t[top], 0.0, 1.0))
    rises = at - (1 - share) * first - share * last
    assert found.excess == pytest.approx(float(rises.mean()), rel=1e-9)
    assert found.excess_error == pytest.approx(float(rises.std() / math.sqrt(12)), rel=1e-9)


def test_further_data_are_measured_with_the_statistics_of_the_objectives():
    objective = objective_of(ConvNet)
    model, inputs, targets = network(ConvNet, num=7, seed=5)
    held_out = Objective(network(ConvNet)[0], (inputs, targets))
    vertices = random_curve(objective)
    found = curve(objective, vertices, num=5, also={"test": held_out})
    assert list(found.profiles) == ["loss", "error", "test_loss", "test_error"]
    model = network(ConvNet)[0]
    nn.utils.vector_to_parameters(vertices[0], model.parameters())
    for name, buffer in (objective.under("recalibrate").buffers_at(vertices[0]) or {}).items():
        model.get_buffer(name).copy_(buffer)
    expected = Objective(model, (inputs, targets)).value
    assert found.profiles["test_loss"].values[0] == pytest.approx(expected, rel=1e-9)


def test_a_fit_that_rises_above_the_line_is_not_converged():
    objective, _ = quadratic()
    vertices = torch.zeros(3, 4, dtype=torch.float64)
    vertices[0, 0], vertices[1], vertices[2, 0] = 1, 30, -1
    found = curve(objective, vertices, num=5)
    assert found.status == "converged"  # it was measured, and never fitted
    fitted = replace(found, training_losses=np.ones(3))
    assert "rises higher than the straight line" in fitted.status
    assert replace(fitted, stopped_because="stopped").status == "stopped"


def test_points_without_a_loss_are_counted():
    objective, _ = quadratic()
    vertices = torch.zeros(3, 4, dtype=torch.float64)
    vertices[1] = 1e200
    found = curve(objective, vertices, "polygon", num=5)
    assert np.isinf(found.losses[2])
    lost = {"loss": replace(found.profiles["loss"], values=np.full(5, np.nan))}
    assert replace(found, profiles=lost).status == "5 of 5 points are NaN"


def test_a_record_says_what_it_holds():
    objective = objective_of()
    found = curve(objective, random_curve(objective), num=7, also={"test": objective})
    found = replace(found, training_losses=np.ones(4))
    data = found.to_dataset()
    for name, variable in data.variables.items():
        assert {"units", "long_name"} <= set(variable.attrs), name
        assert variable.dims in ((), ("t",), ("step",)), name
    assert data["loss"].shape == data["straight_test_error"].shape == (7,)
    for name in found.profiles:
        np.testing.assert_array_equal(data[name], found.profiles[name].values)
        np.testing.assert_array_equal(data[f"straight_{name}"], found.straight[name].values)
    assert float(data["loss_max"]) == found.losses.max()
    assert float(data["loss_integral"]) == found.integral()
    assert float(data["test_loss_excess"]) == found.excess
    assert float(data["loss_excess_standard_error"]) == found.excess_error
    assert float(data["arc_length"][-1]) == pytest.approx(found.length)
    assert "vertex_vector" not in data
    held = found.to_dataset(vectors=True)["vertex_vector"]
    np.testing.assert_array_equal(held, found.vertices)
    json.dumps(dict(found.settings))


def test_a_record_goes_through_a_result_file(tmp_path):
    objective = objective_of()
    found = curve(objective, random_curve(objective), num=7)
    landscape.save(tmp_path / "r.h5", [found])
    (row,) = landscape.open_results(tmp_path / "r.h5").table().to_dict("records")
    held = [value for name, value in row.items() if str(name).endswith("loss_excess")]
    assert found.excess in held


def test_a_curve_in_words_tells_its_rise():
    objective, _ = quadratic()
    assert "the loss rises by" in repr(curve(objective, random_curve(objective), num=5))


def test_what_is_no_curve_of_the_objective_is_refused():
    objective, _ = quadratic()
    vertices = random_curve(objective)
    with pytest.raises(RequestError, match="num is 2"):
        curve(objective, vertices, num=2)
    with pytest.raises(RequestError, match="unknown kind of curve"):
        curve(objective, vertices, "spline")
    with pytest.raises(RequestError, match=r"shape \(3,\)"):
        curve(objective, vertices[:, :3])
    with pytest.raises(RequestError, match="two or more"):
        curve(objective, vertices[:1])
