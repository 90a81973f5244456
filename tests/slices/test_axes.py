"""Axes: labels that are the radii, and points in the order of the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.slices.axes import evenly_spaced, points_of_grid, points_of_lines


@pytest.mark.parametrize("num", [2, 3, 4, 21, 50, 51])
@pytest.mark.parametrize("radius", [1.0, 0.7, 1e-3, (0.0, 1.0), (-0.3, 2.0), (5.0, 5.5)])
def test_an_axis_is_even_and_holds_both_ends(num, radius):
    (axis,) = evenly_spaced(1, num, [radius])
    low, high = radius if isinstance(radius, tuple) else (-radius, radius)
    assert (len(axis), axis[0], axis[-1]) == (num, low, high)
    np.testing.assert_allclose(np.diff(axis), (high - low) / (num - 1), rtol=1e-11)


@pytest.mark.parametrize("num", [5, 6, 21, 100, 101])
def test_an_axis_around_the_center_is_symmetric_to_the_last_bit(num):
    (axis,) = evenly_spaced(1, num, 0.7)
    assert (axis == -axis[::-1]).all()
    assert (axis == 0).sum() == num % 2


def test_one_point_is_in_the_middle():
    assert [axis.tolist() for axis in evenly_spaced(2, 1, [2.0, (1.0, 2.0)])] == [[0.0], [1.5]]


def test_points_of_a_grid_are_in_the_order_of_its_flattened_axes():
    axes = evenly_spaced(3, (2, 3, 2), [(0.0, 1.0), (0.0, 2.0), (5.0, 6.0)])
    points = points_of_grid(axes).numpy().reshape(2, 3, 2, 3)
    for place in np.ndindex(2, 3, 2):
        wanted = [axis[index] for axis, index in zip(axes, place, strict=True)]
        assert points[place].tolist() == wanted


def test_points_of_lines_move_along_one_direction_each():
    points = points_of_lines(np.asarray([-1.0, 0.5]), 3)
    assert points.dtype == torch.float64
    assert points.tolist() == [
        *([-1, 0, 0], [0.5, 0, 0]),
        *([0, -1, 0], [0, 0.5, 0]),
        *([0, 0, -1], [0, 0, 0.5]),
    ]


WRONG = {
    "no point": ((2, 0, 1.0), "num is 0, expected 2 whole"),
    "half a point": ((2, 2.5, 1.0), "num is 2.5"),
    "numbers for other axes": ((2, (3, 3, 3), 1.0), "expected 2 whole"),
    "radii for other axes": ((2, 3, [1.0]), "or a list of 2"),
    "a radius of 0": ((1, 3, 0.0), "a radius above 0"),
    "a radius below 0": ((1, 3, -1.0), "an axis of -1.0"),
    "a NaN radius": ((1, 3, float("nan")), "an axis of nan"),
    "no end": ((1, 3, [(0.0, float("inf"))]), r"an axis of \(0.0, inf\)"),
    "ends the wrong way": ((1, 3, [(1.0, 0.0)]), r"an axis of \(1.0, 0.0\)"),
    "three ends": ((1, 3, [(0.0, 1.0, 2.0)]), "an axis of"),
}


@pytest.mark.parametrize(("request_", "words"), WRONG.values(), ids=list(WRONG))
def test_what_is_no_axis_is_refused_with_what_was_needed(request_, words):
    with pytest.raises(RequestError, match=words):
        evenly_spaced(*request_)
