"""The suggested radius, where the answer is known, and what cannot be answered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import MLP, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import random_directions
from landscape.slices.options import SweepOptions
from landscape.slices.radius import suggest_radius
from landscape.slices.sweeping import line, lines, plane

STEP = 2 ** (1 / 16)  # the radius is found to within this factor
FARTHEST = 0.05 * 2**12
NEAREST = 0.05 / 2**12
QUICK = SweepOptions(execution="loop", caveats=False)


class Point(nn.Module):
    """Its weights are a point of the plane."""

    def __init__(self, dtype):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(2, dtype=dtype))

    def forward(self, inputs):
        return inputs


def objective_over(function, dtype=torch.float64):
    """An objective whose loss is `function(a, b)` of its two weights, which are 0."""
    data = [(torch.zeros(1, 1, dtype=dtype),) * 2]
    return Objective(Point(dtype), data, lambda model, _: function(*model.place), reduction="mean")


def along_a(scale=1.0):
    return torch.tensor([scale, 0.0], dtype=torch.float64)


def counted(objective):
    """A list that grows by the number of points whenever losses are evaluated."""
    evaluate, counts = objective.losses, []

    def losses(thetas):
        counts.append(len(thetas))
        return evaluate(thetas)

    objective.losses = losses
    return counts


# -- closed form --------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", [1e-3, 0.3, 1.0, 7.0, 1e3, 1e6])
@pytest.mark.parametrize("rise", [1.5, 5.0, 100.0])
def test_the_radius_of_a_quadratic_is_where_it_has_risen_by_the_factor(curvature, rise):
    objective = objective_over(lambda a, b: 0.2 + 0.5 * curvature * a**2 + b**2)
    exact = math.sqrt(2 * (rise - 1) * 0.2 / curvature)
    found = suggest_radius(objective, along_a(), rise=rise)
    assert exact / STEP <= found <= exact
    assert objective.loss(along_a(found)) <= rise * 0.2 < objective.loss(along_a(found * STEP))


def test_a_loss_that_is_exactly_at_the_factor_is_not_beyond():
    objective = objective_over(lambda a, b: 1 + a.abs() + 0 * b)
    assert suggest_radius(objective, along_a(), rise=1.8) == pytest.approx(0.8, rel=1e-15)
    assert suggest_radius(objective, along_a(), rise=1.8 - 1e-9) < 0.8


@pytest.mark.parametrize("side", [1, -1])
def test_the_larger_side_of_an_asymmetric_valley_counts(side):
    # Rises 100 times as fast on one side as on the other.
    objective = objective_over(
        lambda a, b: 1 + torch.where(side * a > 0, 8 * a**2, 0.0008 * a**2) + 0 * b
    )
    exact = math.sqrt(4 / 8)
    assert exact / STEP <= suggest_radius(objective, along_a()) <= exact


def test_a_slope_through_the_center_does_not_hide_the_rise():
    objective = objective_over(lambda a, b: torch.exp(a) + 0 * b)
    exact = math.log(5)
    assert exact / STEP <= suggest_radius(objective, along_a()) <= exact


def test_the_radius_is_around_the_given_center():
    objective = objective_over(lambda a, b: 1 + (a - 2) ** 2 + b**2)
    at_minimum = suggest_radius(objective, along_a(), center=along_a(2.0))
    assert 2 / STEP <= at_minimum <= 2
    assert suggest_radius(objective, along_a()) > 2  # the factor is of the larger loss there


@pytest.mark.parametrize("scale", [2.0, 0.25, 2.0**-6, 2.0**8])
def test_a_direction_of_twice_the_length_has_half_the_radius(scale):
    objective = objective_over(lambda a, b: torch.cosh(3 * a) + b**2)
    assert suggest_radius(objective, along_a(scale)) == suggest_radius(objective, along_a()) / scale


def test_other_factors_change_the_radius_as_well_as_the_steps_tell():
    objective = objective_over(lambda a, b: torch.cosh(3 * a) + b**2)
    one, other = suggest_radius(objective, along_a()), suggest_radius(objective, along_a(3.0))
    assert one / 3 / STEP <= other <= one / 3 * STEP


def test_the_radius_of_a_network_ends_where_its_loss_is_five_times_the_center():
    model, inputs, targets = network(MLP, num=30)
    objective = Objective(model, (inputs, targets))
    direction = random_directions(objective, 1)[0]
    radius = suggest_radius(objective, direction)

    def larger(radius):
        steps = torch.tensor([[radius], [-radius]], dtype=torch.float64)
        return objective.losses(objective.theta + steps * direction).max().item()

    assert larger(radius) <= 5 * objective.value < larger(radius * STEP)


def test_a_float32_network_takes_directions_of_float64():
    objective = objective_over(lambda a, b: 1 + a**2 + b**2, torch.float32)
    assert 2 / STEP <= suggest_radius(objective, along_a()) <= 2


# -- where there is no such radius --------------------------------------------------------------


@pytest.mark.parametrize(
    "function", [lambda a, b: 1 + 0 * a + b**2, lambda a, b: 1 + torch.sin(9 * a) / 2 + b**2]
)
def test_a_flat_direction_gives_the_farthest_radius(function):
    assert suggest_radius(objective_over(function), along_a()) == FARTHEST


def test_a_loss_that_rises_only_at_the_farthest_point_is_found():
    found = suggest_radius(objective_over(lambda a, b: 1 + (a / 60) ** 2 + b**2), along_a())
    assert 120 / STEP <= found <= 120


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
@pytest.mark.parametrize("edge", [0.003, 0.7, 31.0])
def test_the_radius_stays_where_the_loss_is_finite(beyond, edge):
    objective = objective_over(lambda a, b: torch.where(a < edge, 1.0 + b, beyond))
    found = suggest_radius(objective, along_a())
    assert edge / STEP <= found < edge
    assert math.isfinite(objective.loss(along_a(found)))


def test_a_direction_that_is_too_long_is_refused_with_what_to_do():
    objective = objective_over(lambda a, b: 1 + a**2 + b)
    assert 2 / 1e5 / STEP <= suggest_radius(objective, along_a(1e5)) <= 2 / 1e5
    with pytest.raises(RequestError, match=r"1\.22e-05 .* Divide the direction by its norm"):
        suggest_radius(objective, along_a(1e6))
    with pytest.raises(RequestError, match="or NaN"):
        suggest_radius(objective, along_a(math.nan))


@pytest.mark.parametrize("base", [0.0, -1.0])
def test_a_loss_that_no_factor_raises_is_refused_with_what_to_do(base):
    objective = objective_over(lambda a, b: base + a**2 + b**2)
    with pytest.raises(RequestError, match=r"center is .*no factor raises it.*such as 1\.0"):
        suggest_radius(objective, along_a())


@pytest.mark.parametrize("base", [math.inf, math.nan])
def test_a_center_without_a_loss_is_refused(base):
    objective = objective_over(lambda a, b: torch.where(a > 1, base, 1.0) + b)
    with pytest.raises(RequestError, match="no factor raises it"):
        suggest_radius(objective, along_a(), center=along_a(2.0))


@pytest.mark.parametrize("rise", [1.0, 0.0, -3.0, math.nan, math.inf])
def test_a_factor_that_is_none_is_refused(rise):
    objective = objective_over(lambda a, b: 1 + a**2 + b)
    with pytest.raises(RequestError, match="above 1"):
        suggest_radius(objective, along_a(), rise=rise)


def test_a_zero_direction_and_one_of_another_size_are_refused():
    objective = objective_over(lambda a, b: 1 + a**2 + b)
    counts = counted(objective)
    with pytest.raises(RequestError, match="zero everywhere"):
        suggest_radius(objective, along_a(0.0))
    with pytest.raises(RequestError, match="shape"):
        suggest_radius(objective, torch.ones(3, dtype=torch.float64))
    with pytest.raises(RequestError, match="shape"):
        suggest_radius(objective, along_a(), center=torch.ones(3, dtype=torch.float64))
    assert not counts


# -- cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exact", "wanted"),
    [
        (0.07, 13),  # between 0.05 and its double: the least
        (0.04, 13),  # between 0.05 and its half
        (180.0, 35),  # in the last doubling: the most
        (1.3e-5, 35),  # in the last halving
        (1e9, 27),  # never
    ],
)
def test_the_number_of_losses_is_the_stated_one(exact, wanted):
    objective = objective_over(lambda a, b: 1 + 4 * (a / exact) ** 2 + b)
    counts = counted(objective)
    suggest_radius(objective, along_a())
    assert sum(counts) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_the_number_of_losses_never_leaves_the_stated_bounds(seed):
    generator = np.random.default_rng(seed)
    for exact in np.exp(generator.uniform(math.log(NEAREST * 1.1), math.log(2e3), 10)):
        objective = objective_over(lambda a, b, exact=exact: 1 + 4 * (a / exact) ** 2 + b)
        counts = counted(objective)
        found = suggest_radius(objective, along_a())
        assert 13 <= sum(counts) <= 35
        assert min(exact, FARTHEST) / STEP <= found <= min(exact, FARTHEST)


# -- in sweeps ----------------------------------------------------------------------------------


def test_auto_gives_each_axis_of_a_plane_its_own_radius():
    objective = objective_over(lambda a, b: 1 + a**2 + 100 * b**2)
    axes = torch.eye(2, dtype=torch.float64)
    found = plane(objective, axes, (5, 3), "auto", options=QUICK)
    wanted = [suggest_radius(objective, axis) for axis in axes]
    assert [axis[-1] for axis in found.coordinates] == wanted
    assert [axis[0] for axis in found.coordinates] == [-radius for radius in wanted]
    assert wanted[0] / wanted[1] == pytest.approx(10, rel=2 * (STEP - 1))
    assert 5 / STEP**2 <= found.loss[-1, 1] <= 5
    assert found.settings["ends"] == [[-radius, radius] for radius in wanted]


def test_auto_goes_as_far_along_a_line_and_as_the_shortest_of_several():
    objective = objective_over(lambda a, b: 1 + a**2 + 100 * b**2)
    axes = torch.eye(2, dtype=torch.float64)
    wide, narrow = (suggest_radius(objective, axis) for axis in axes)
    found = line(objective, axes[0], 3, "auto", options=QUICK)
    assert found.coordinates[0].tolist() == [-wide, 0, wide]
    found = lines(objective, axes, 3, "auto", options=QUICK)
    assert found.coordinates[1].tolist() == [-narrow, 0, narrow]


def test_auto_is_around_the_center_of_the_slice():
    objective = objective_over(lambda a, b: 1 + (a - 2) ** 2 + b**2)
    found = line(objective, along_a(), 3, "auto", center=along_a(2.0), options=QUICK)
    assert 2 / STEP <= found.coordinates[0][-1] <= 2


def test_auto_is_the_only_word_for_a_radius():
    objective = objective_over(lambda a, b: 1 + a**2 + b)
    with pytest.raises(RequestError, match="'auto'"):
        line(objective, along_a(), 3, "atuo", options=QUICK)
