"""Definitions of a barrier, by hand and by their invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.paths.heights import DEFINITIONS, height

THREE = np.array([0.0, 0.5, 1.0])


def value(definition, values, alphas=THREE, chance=math.nan):
    return height(definition, np.asarray(alphas), np.asarray(values, dtype=float), chance).value


def test_the_zoo_of_one_three_two():
    path = [1.0, 3.0, 2.0]
    assert value("chord", path) == 1.5
    assert value("mean", path) == 1.5
    assert value("midpoint", path) == 1.5
    assert value("highest_end", path) == 1.0
    assert value("saddle", path) == 3.0
    assert value("mode_connectivity", path) == -1.5
    assert value("relative", path, chance=4.5) == 0.5


def test_chord_and_mean_differ_off_the_middle():
    alphas, path = [0.0, 0.25, 0.5, 1.0], [0.0, 3.0, 2.0, 2.0]
    assert value("chord", path, alphas) == 2.5
    assert value("mean", path, alphas) == 2.0
    assert value("midpoint", path, alphas) == 1.0
    assert height("chord", np.array(alphas), np.array(path)).alpha == 0.25


def test_a_valley_has_no_barrier_and_positive_mode_connectivity():
    path = [1.0, 0.25, 1.0]
    assert value("chord", path) == 0
    assert value("mean", path) == 0
    assert value("highest_end", path) == 0
    assert value("mode_connectivity", path) == 0.75


def test_mode_connectivity_takes_the_greatest_deviation_of_either_sign():
    assert value("mode_connectivity", [1, 3, 0.5, 1], [0, 0.3, 0.6, 1]) == -2
    assert value("mode_connectivity", [1, 1.2, 0.5, 1], [0, 0.3, 0.6, 1]) == 0.5


def test_the_highest_end_is_the_higher_of_both():
    assert value("highest_end", [2, 3, 1]) == 1
    assert value("highest_end", [1, 3, 2]) == 1


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_constant_path_has_no_height(definition):
    expected = 2.0 if definition == "saddle" else 0.0
    assert value(definition, [2, 2, 2], chance=3.0) == expected


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_gradient_is_the_derivative(definition):
    alphas = np.array([0.0, 0.2, 0.45, 0.5, 0.8, 1.0])
    values = np.array([0.3, 0.9, 1.9, 1.7, 0.8, 0.5])
    found = height(definition, alphas, values, chance=4.0)
    for index in range(len(alphas)):
        step = np.zeros(len(alphas))
        step[index] = 1e-6
        high, low = (height(definition, alphas, values + s * step, 4.0).value for s in (1, -1))
        assert found.gradient[index] == pytest.approx((high - low) / 2e-6, abs=1e-8)


@pytest.mark.parametrize("definition", [d for d in DEFINITIONS if d != "saddle"])
def test_a_tilt_of_the_whole_path_by_a_constant_changes_nothing(definition):
    values = np.array([0.3, 1.9, 0.5])
    found = value(definition, values + 7, chance=11.0)
    assert found == pytest.approx(value(definition, values, chance=4.0))


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_path_and_its_reverse_have_one_height(definition):
    alphas, values = np.array([0.0, 0.2, 0.6, 1.0]), np.array([0.3, 1.9, 0.8, 0.5])
    one = height(definition, alphas, values, chance=4.0)
    two = height(definition, 1 - alphas[::-1], values[::-1], chance=4.0)
    assert one.value == pytest.approx(two.value)
    assert one.alpha == pytest.approx(1 - two.alpha)


@pytest.mark.parametrize("definition", [d for d in DEFINITIONS if d != "midpoint"])
def test_nan_on_the_path_makes_the_height_unknown(definition):
    assert math.isnan(value(definition, [1, math.nan, 3, 1], [0, 0.3, 0.6, 1], chance=4.0))


def test_an_infinite_loss_is_an_infinite_barrier():
    assert value("chord", [1, math.inf, 1]) == math.inf
    assert value("saddle", [1, math.inf, 1]) == math.inf


@pytest.mark.parametrize("definition", ["chord", "mean", "highest_end", "relative"])
def test_nothing_is_known_above_an_infinite_end(definition):
    assert not value(definition, [math.inf, 1, 1], chance=4.0) < math.inf


@pytest.mark.parametrize("chance", [math.nan, 1.5, 0.2])
def test_ends_no_better_than_chance_have_no_relative_height(chance):
    assert math.isnan(value("relative", [1, 3, 2], chance=chance))


def test_a_misspelt_definition_gets_the_nearest():
    with pytest.raises(RequestError, match="chord"):
        value("chrod", [1, 3, 2])
