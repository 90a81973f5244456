"""Directions, forces and spacing of a band, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from landscape.errors import RequestError
from landscape.paths.band import (
    SUBPOINTS,
    Band,
    band_gradient,
    highest_insertions,
    redistributed,
    tangents,
)

# One segment along x, one of twice the length along y.
CORNER = torch.tensor([[0.0, 0], [1, 0], [1, 2]], dtype=torch.float64)


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def band(points, targets=None):
    points = torch.as_tensor(points, dtype=torch.float64)
    return Band(points, values(*(targets or [1.0] * (len(points) - 1))))


def bent(seed=0, num=6, size=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("losses", "direction"),
    [
        ((0, 1, 2), (0, 2)),  # uphill: to the next
        ((2, 1, 0), (1, 0)),  # downhill: from the previous
        ((0, 5, 2), (3, 10)),  # maximum, next higher: 5 of the next, 3 of the previous
        ((2, 5, 0), (5, 6)),  # maximum, previous higher
        ((3, 1, 8), (2, 14)),  # minimum, next higher
        ((8, 1, 3), (7, 4)),  # minimum, previous higher
        ((0, 5, 0), (1, 2)),  # symmetric: both alike
        ((1, 1, 4), (0, 2)),  # level before, then uphill: to the next
        ((4, 1, 1), (1, 0)),
        ((0, 1, 1), (0, 2)),
        ((3, 3, 3), (1, 2)),  # flat: the bisecting one
    ],
)
def test_tangents_are_those_of_henkelman_and_jonsson(losses, direction):
    expected = values(*direction) / math.hypot(*direction)
    torch.testing.assert_close(tangents(CORNER, values(*losses))[0], expected)


def test_tangents_do_not_depend_on_the_scale_of_the_losses():
    losses = values(0, 5, 2)
    for scale in (1e-300, 1e300):
        torch.testing.assert_close(tangents(CORNER, scale * losses), tangents(CORNER, losses))


def test_tangents_turn_round_when_the_band_does():
    pivots, losses = bent(), values(0, 2, 1, 5, 4, 4.5)
    backwards = tangents(pivots.flip(0), losses.flip(0)).flip(0)
    torch.testing.assert_close(backwards, -tangents(pivots, losses))


def test_coinciding_pivots_have_no_tangent():
    assert not tangents(CORNER[:1].expand(3, -1), values(0, 1, 2)).any()


def test_the_gradient_across_leaves_out_what_is_along():
    gradients = values(9, 9, 3, 4, 9, 9).view(3, 2)
    found = band_gradient(band(CORNER), values(0, 1, 2), gradients, spring=math.inf)
    torch.testing.assert_close(found, values(3, 0)[None])  # the direction is y


def test_the_climbing_pivot_goes_up_along_the_band():
    gradients = values(9, 9, 3, 4, 9, 9).view(3, 2)
    found = band_gradient(band(CORNER), values(0, 1, 2), gradients, spring=math.inf, climbing=1)
    torch.testing.assert_close(found, values(3, -4)[None])


@pytest.mark.parametrize(("targets", "pull"), [((1, 1), -1.0), ((10, 20), 0.0), ((2, 1), -2.0)])
def test_a_spring_pulls_along_the_band_towards_its_targets(targets, pull):
    # Lengths 1 and 2; targets in all 3: k [(1 - t) - (2 - (3 - t))] = k (2 - 2 t).
    gradients = torch.zeros(3, 2, dtype=torch.float64)
    found = band_gradient(band(CORNER, targets), values(0, 1, 2), gradients, spring=0.5)
    torch.testing.assert_close(found, values(0, 0.5 * pull)[None])


@pytest.mark.parametrize("targets", [(1, 1, 1, 1, 1), (1, 2, 3, 1, 0.5)])
def test_redistributed_pivots_are_at_their_shares_of_the_old_polyline(targets):
    old = band(bent(), targets)
    new = redistributed(old)
    gone = torch.cat([values(0), old.segment_lengths.cumsum(0)])
    shares = values(*targets).cumsum(0) / sum(targets)
    for index, share in enumerate(shares[:-1].tolist(), start=1):
        place = share * gone[-1]
        segment = int(torch.searchsorted(gone, place)) - 1
        inside = (place - gone[segment]) / (gone[segment + 1] - gone[segment])
        expected = old.pivots[segment] + inside * (old.pivots[segment + 1] - old.pivots[segment])
        torch.testing.assert_close(new.pivots[index], expected)
    assert torch.equal(new.pivots[[0, -1]], old.pivots[[0, -1]])


def test_on_a_straight_line_the_segments_get_their_targets():
    line = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None] ** 3 * values(3, 4)
    found = redistributed(band(line, (1, 2, 3, 4)))
    torch.testing.assert_close(found.segment_lengths, 5 * values(0.1, 0.2, 0.3, 0.4))
    torch.testing.assert_close(redistributed(found).pivots, found.pivots)


def test_a_fixed_pivot_stays_and_both_sides_are_spaced():
    old = band([[0.0], [1], [5], [6], [9]])
    found = redistributed(old, fixed=2).pivots.flatten()
    torch.testing.assert_close(found, values(0, 2.5, 5, 7, 9))


def test_a_point_and_a_segment_are_left_as_they_are():
    for points in ([[1.0, 2]] * 4, [[0.0, 0], [1, 1]]):
        assert torch.equal(redistributed(band(points)).pivots, band(points).pivots)


def test_inserted_pivots_leave_the_polyline_and_divide_its_targets():
    found = band(CORNER, (1, 3)).inserted({1: (0.25, 0.75)})
    torch.testing.assert_close(found.pivots[2:4], values(1, 0.5, 1, 1.5).view(2, 2))
    torch.testing.assert_close(found.targets, values(1, 0.75, 1.5, 0.75))
    assert torch.equal(found.pivots[[0, 1, 4]], CORNER)
    even = Band.straight(CORNER[0], CORNER[2]).evenly_inserted(3)
    torch.testing.assert_close(even.segment_lengths, torch.full((4,), math.sqrt(5) / 4).double())
    torch.testing.assert_close(even.targets, torch.full((4,), 0.25).double())


@pytest.mark.parametrize("shares", [(0.0,), (1.0,), (0.5, 0.5), (0.7, 0.2)])
def test_places_that_are_not_inside_in_order_are_refused(shares):
    with pytest.raises(RequestError, match="between 0 and 1"):
        band(CORNER).inserted({0: shares})


def test_nine_points_lie_between_two_pivots_evenly():
    found = band(CORNER)
    points = found.sub_weights() @ found.pivots
    assert len(points) == 2 * (SUBPOINTS + 1) + 1 == 21
    torch.testing.assert_close(points[:11, 0], torch.linspace(0, 1, 11).double())
    torch.testing.assert_close(points[10:, 1], torch.linspace(0, 2, 11).double())
    torch.testing.assert_close(found.sub_shares()[10], values(1 / 3)[0])
    assert (found.sub_shares().diff() > 0).all()
    assert found.sub_shares()[-1] == 1


def test_points_of_a_band_without_length_are_spread_evenly():
    torch.testing.assert_close(
        band([[1.0, 2]] * 3).sub_shares(), torch.linspace(0, 1, 21, dtype=torch.float64)
    )


def test_pivots_go_where_the_loss_rises_most_above_the_chord():
    losses = torch.cat([torch.linspace(start, start + 1, 11).double()[:-1] for start in range(4)])
    losses = torch.cat([losses, values(4)])  # pivots 0, 1, 2, 3, 4: a range of 4
    for place, rise in [(3, 0.41), (17, 0.39), (24, 0.6), (35, 0.5)]:
        losses[place] += rise
    expected = {0: (pytest.approx(0.3),), 2: (pytest.approx(0.4),), 3: (pytest.approx(0.5),)}
    assert highest_insertions(losses, 0.1, 9) == expected
    del expected[0]
    assert highest_insertions(losses, 0.1, 2) == expected
    assert highest_insertions(losses, 0.2, 9) == {}
    # The range is that of the pivots: 4 here, not the 96 of all points.
    losses[25] += 92
    assert len(highest_insertions(losses, 0.1, 9)) == 3
    losses[25] -= 92
    del expected[3]
    assert highest_insertions(losses - 100, 0.1, 1) == expected
