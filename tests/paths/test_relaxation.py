"""The descent of a band: equilibria, momentum, climbing, and what makes it stop."""

from __future__ import annotations

import pytest
import torch
from toy_potentials import EGG_CARTON, MB_MINIMA, MUELLER_BROWN, point

from landscape.errors import RequestError
from landscape.paths.band import Band
from landscape.paths.potential import FunctionPotential
from landscape.paths.relaxation import Relaxation

VALLEY = FunctionPotential(lambda points: 4 * (points[:, 1] - points[:, 0] ** 2) ** 2, 2)
ENDS = point(-1, 1), point(1, 1)


def start(num=5, ends=ENDS):
    return Band.straight(*ends).evenly_inserted(num - 2)


@pytest.mark.parametrize("method", ["neb", "string"])
def test_the_band_lies_down_in_a_curved_valley_evenly_spaced(method):
    relaxed = Relaxation(0.02, method).run(VALLEY, start(9), 300)
    pivots = relaxed.band.pivots
    assert (pivots[:, 1] - pivots[:, 0] ** 2).abs().max() < 0.02
    lengths = relaxed.band.segment_lengths
    assert lengths.max() / lengths.min() < 1.02
    assert relaxed.highest[-1] < 1e-3 < relaxed.highest[0]


def test_springs_even_out_the_pivots_of_a_flat_land():
    flat = FunctionPotential(lambda points: 0 * points.sum(1), 1)
    uneven = Band(point(0, 0.1, 0.3, 0.9, 1)[:, None], torch.ones(4).double())
    found = Relaxation(0.1, spring=1.0, momentum=0.5).run(flat, uneven, 200).band
    torch.testing.assert_close(found.segment_lengths, torch.full((4,), 0.25).double())


def test_momentum_and_rate_are_those_of_torchs_own_descent():
    # A land without slope along the band: every pivot moves on its own.
    land = FunctionPotential(lambda points: points[:, 1] ** 2, 2)
    band = Band(point(0, 0, 1, 1, 2, 0).view(3, 2), torch.ones(2).double())
    height = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([height], lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        # At a maximum with equal neighbours the band is level: all of the slope is across it.
        (height**2).backward()
        optimizer.step()
    found = Relaxation(0.1, spring=1e-12).run(land, band, 3).band.pivots
    torch.testing.assert_close(found[1], point(1, height.item()))


def test_decay_pulls_across_the_band_only():
    flat = FunctionPotential(lambda points: 0 * points.sum(1), 2)
    line = start(5, (point(0, 1), point(4, 1)))
    relaxation = Relaxation(0.1, spring=1e-9, momentum=0, weight_decay=0.5)
    # |theta|^2 grows along the line, which is the direction of every pivot.
    found = relaxation.run(flat, line, 1).band.pivots
    torch.testing.assert_close(found[1:-1, 1], torch.full((3,), 1 - 0.1 * 0.5).double())
    torch.testing.assert_close(found[:, 0], line.pivots[:, 0])
    forces = relaxation.forces(flat, relaxation.run(flat, line, 0))
    assert forces.tolist() == pytest.approx([0, 0.5, 0.5, 0.5, 0])


def test_the_decay_has_a_share_in_what_counts_as_uphill():
    # The slope rises along y, the decay falls by more: the corner's direction is the way back.
    slope = FunctionPotential(lambda points: points[:, 1], 2)
    corner = Band(point(3, 0, 2, 1, 0, 1).view(3, 2), torch.ones(2).double())
    forces = Relaxation(0.1, weight_decay=2.0).forces(slope, Relaxation(0.1).run(slope, corner, 0))
    # 9, 6, 2 along the band: the tangent is (-1, 1) / sqrt(2), the gradient (4, 3).
    assert forces[1] == pytest.approx(7 / 2**0.5)


@pytest.mark.parametrize("method", ["neb", "string"])
def test_the_climbing_pivot_ends_where_the_whole_gradient_vanishes(method):
    relaxation = Relaxation(2e-4, method, climb=True)
    relaxed = relaxation.run(MUELLER_BROWN, start(5, MB_MINIMA[:2]), 400)
    assert relaxed.climbing is not None
    _, gradients = MUELLER_BROWN.gradients(relaxed.band.pivots)
    assert gradients[relaxed.climbing].norm() < 0.01
    assert relaxation.forces(MUELLER_BROWN, relaxed)[relaxed.climbing] < 0.01


def test_nothing_climbs_where_an_end_is_highest():
    slope = FunctionPotential(lambda points: points[:, 0], 2)
    relaxed = Relaxation(0.1, climb=True).run(slope, start(), 4)
    assert relaxed.climbing is None


def test_a_band_of_one_point_does_not_move():
    place = point(0.3, 0.1)
    relaxed = Relaxation(0.1).run(EGG_CARTON, start(4, (place, place.clone())), 10)
    assert torch.equal(relaxed.band.pivots, place.expand(4, -1))
    assert len(relaxed.highest) == 0


def test_a_band_that_diverges_is_given_back_as_it_was():
    straight = start()
    relaxed = Relaxation(1e9).run(VALLEY, straight, 100)
    assert relaxed.stopped.startswith("diverged at step")
    assert torch.equal(relaxed.band.pivots, straight.pivots)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"spring": 0.0}, "spring"),
        ({"method": "strings"}, "Did you mean 'string'"),
        ({"method": "string", "spring": 1.0}, "no springs"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(RequestError, match=words):
        Relaxation(**{"learning_rate": 0.1, **options})
