"""Bases of curves: what Bezier curves and polygonal chains are known to be, and their lengths."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import random_vectors
from scipy.interpolate import BPoly

from landscape.errors import RequestError
from landscape.paths.curves import (
    arc_parameters,
    curve_weights,
    step_lengths,
    straight_vertices,
)

T = torch.linspace(0, 1, 37, dtype=torch.float64)
KINDS = ["bezier", "polygon"]


def vertices(count=4, n=7, seed=0):
    return random_vectors(n, count, seed=seed).T.contiguous()


@pytest.mark.parametrize("count", [2, 3, 6])
def test_bezier_curves_are_scipys(count):
    points = vertices(count)
    expected = BPoly(points.numpy()[:, None], [0, 1])(T.numpy())
    np.testing.assert_allclose(
        curve_weights("bezier", T, count) @ points, expected, rtol=1e-12, atol=1e-13
    )


def test_polygons_are_piecewise_linear_interpolation():
    points = vertices(5)
    found = curve_weights("polygon", T, 5) @ points
    for column in range(points.shape[1]):
        expected = np.interp(T.numpy(), np.linspace(0, 1, 5), points[:, column].numpy())
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("count", [3, 5, 9])
def test_a_polygon_goes_through_its_corners(count):
    pivots = torch.arange(count, dtype=torch.float64) / (count - 1)
    torch.testing.assert_close(
        curve_weights("polygon", pivots, count), torch.eye(count, dtype=torch.float64),
        rtol=0, atol=1e-14,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_weights_add_up_to_one_and_are_a_single_vertex_at_either_end(kind, count):
    weights = curve_weights(kind, T, count)
    torch.testing.assert_close(weights.sum(1), torch.ones_like(T), rtol=0, atol=1e-14)
    assert weights.min() >= 0
    assert torch.equal(weights[[0, -1]], torch.eye(count, dtype=torch.float64)[[0, -1]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_curve_walked_back_is_that_of_the_vertices_in_reverse(kind):
    forwards, backwards = curve_weights(kind, T, 4), curve_weights(kind, 1 - T, 4)
    torch.testing.assert_close(backwards, forwards.flip(1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_bends", [1, 2, 5])
def test_evenly_spaced_vertices_make_the_straight_line_at_the_same_t(kind, num_bends):
    start, end = vertices(2)
    points = straight_vertices(start, end, num_bends)
    assert torch.equal(points[0], start)
    assert torch.equal(points[-1], end)
    found = curve_weights(kind, T, num_bends + 2) @ points
    torch.testing.assert_close(found, torch.lerp(start, end, T[:, None]), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_step_lengths_are_the_distances_of_the_points(kind):
    points = vertices(4)
    weights = curve_weights(kind, T, 4)
    expected = (weights @ points).diff(dim=0).norm(dim=1)
    torch.testing.assert_close(step_lengths(points, weights), expected, rtol=1e-12, atol=1e-14)


def test_lengths_of_a_short_curve_far_from_the_origin_keep_their_digits():
    points = vertices(3)
    weights = curve_weights("bezier", T, 3)
    near = step_lengths(points, weights)
    far = step_lengths(1e6 + 2.0**-10 * points, weights)
    torch.testing.assert_close(2.0**10 * far, near, rtol=1e-6, atol=0)


def test_the_arc_of_a_parabola_has_the_length_of_the_textbook():
    # y = x^2 / 4 from -2 to 2: control points (-2, 1), (0, -1), (2, 1).
    points = torch.tensor([[-2.0, 1.0], [0.0, -1.0], [2.0, 1.0]], dtype=torch.float64)
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    length = step_lengths(points, curve_weights("bezier", t, 3)).sum()
    exact = 2 * (math.sqrt(2) + math.asinh(1))
    assert float(length) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_arc_parameters_cut_a_curve_into_pieces_of_equal_length(kind):
    points = vertices(4)
    t = arc_parameters(kind, points, torch.linspace(0, 1, 9, dtype=torch.float64))
    assert t[0] == 0
    assert t[-1] == 1
    fine = torch.cat([torch.linspace(lo, hi, 400) for lo, hi in pairwise(t)])
    steps = step_lengths(points, curve_weights(kind, fine, 4))
    pieces = torch.stack([steps[i * 400 : i * 400 + 399].sum() for i in range(8)])
    torch.testing.assert_close(pieces, pieces.mean().expand(8), rtol=2e-3, atol=0)


def test_arc_parameters_of_a_polygon_are_those_of_its_unequal_sides():
    points = torch.tensor([[0.0], [3.0], [4.0]], dtype=torch.float64)
    shares = torch.tensor([0.0, 0.375, 0.75, 0.875, 1.0], dtype=torch.float64)
    found = arc_parameters("polygon", points, shares)
    expected = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_where_a_curve_rests_its_length_goes_on_behind():
    points = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    found = arc_parameters("polygon", points, torch.tensor([0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.75, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_curve_without_length_is_cut_evenly_in_t(kind):
    points = vertices(1).expand(3, -1)
    assert torch.equal(arc_parameters(kind, points, T), T)


def test_what_is_no_curve_is_refused():
    with pytest.raises(RequestError, match="Did you mean 'bezier'"):
        curve_weights("bezzier", T, 3)
    with pytest.raises(RequestError, match="two ends"):
        curve_weights("bezier", T, 1)
    for bad in ([-0.1], [1.1], [math.nan], [[0.5]]):
        with pytest.raises(RequestError, match="from 0 to 1"):
            curve_weights("bezier", torch.tensor(bad), 3)
