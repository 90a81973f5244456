"""Cycles of a band: where pivots come in, and what each cycle does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toy_potentials import CURVY_END, CURVY_VALLEY, MB_MINIMA, MB_SADDLES, MUELLER_BROWN, point

from landscape.errors import RequestError
from landscape.paths.autoneb import DRAXLER_CYCLES, BandRun, Cycle, autoneb, scaled_cycles
from landscape.paths.band import Band
from landscape.paths.neb import neb
from landscape.paths.relaxation import Relaxation

CYCLES = (Cycle(3, 200, 2e-4), *[Cycle("highest", 200, 2e-4)] * 2)
ENDS = MB_MINIMA[0], MB_MINIMA[2]


def test_the_default_cycles_are_those_of_the_paper():
    assert [cycle.steps for cycle in DRAXLER_CYCLES] == [1000] * 4 + [2000] * 2 + [1000] * 8
    rates = [cycle.learning_rate for cycle in DRAXLER_CYCLES]
    assert rates == [0.1] * 6 + [0.01] * 4 + [0.001] * 4
    assert [cycle.insert for cycle in DRAXLER_CYCLES] == [3, *["highest"] * 13]


def test_cycles_are_scaled_to_one_step_at_least():
    assert [cycle.steps for cycle in scaled_cycles(CYCLES, 0.25)] == [50, 50, 50]
    assert [cycle.steps for cycle in scaled_cycles(CYCLES, 1e-9)] == [1, 1, 1]


def test_pivots_come_in_until_the_saddle_of_mueller_and_brown_is_met():
    found = autoneb(MUELLER_BROWN, *ENDS, cycles=CYCLES, seed=0)
    assert [cycle.num_inserted for cycle in found.cycles] == [3, 2, found.cycles[2].num_inserted]
    assert [cycle.num_pivots for cycle in found.cycles][:2] == [5, 7]
    assert len(found.pivots) == found.cycles[-1].num_pivots <= 9
    coarse, fine = found.cycles[0].saddle, found.cycles[-1].saddle
    assert fine < coarse - 5
    assert fine == found.saddle == pytest.approx(MB_SADDLES[0, 1][0], abs=0.5)
    assert len(found.highest_losses) == 600
    assert found.probe == "neb"


def test_one_cycle_of_equal_pivots_is_a_band():
    found = autoneb(MUELLER_BROWN, *ENDS, cycles=CYCLES[:1], seed=0)
    expected = neb(MUELLER_BROWN, *ENDS, num_pivots=5, steps=200, learning_rate=2e-4, seed=0)
    torch.testing.assert_close(found.pivots, expected.pivots)
    assert found.cycles[0] == expected.cycles[0]


def test_a_flat_valley_gets_no_more_pivots():
    line = point(-1, 0), point(1, 0)
    flat = type(MUELLER_BROWN)(lambda points: points[:, 1] ** 2 + points[:, 0], 2)
    found = autoneb(flat, *line, cycles=[Cycle(3, 5, 0.1), Cycle("highest", 5, 0.1)], seed=0)
    assert [cycle.num_inserted for cycle in found.cycles] == [3, 0]


def test_a_cycle_puts_in_two_pivots_at_most_one_in_a_segment():
    waves = type(MUELLER_BROWN)(lambda points: (20 * points[:, 0]).sin() + points[:, 1] ** 2, 2)
    cycles = [Cycle(4, 1, 1e-6), Cycle("highest", 1, 1e-6)]
    found = autoneb(waves, point(-1, 0), point(1, 0), cycles=cycles, seed=0)
    assert [cycle.num_inserted for cycle in found.cycles] == [4, 2]


def test_each_step_of_a_run_has_a_minibatch_of_its_own(monkeypatch):
    steps, gradients = [], type(MUELLER_BROWN).gradients
    monkeypatch.setattr(
        type(MUELLER_BROWN),
        "gradients",
        lambda self, points, step=None: steps.append(step) or gradients(self, points, step),
    )
    autoneb(MUELLER_BROWN, *ENDS, cycles=CYCLES, steps=0.01, seed=0)
    assert [step for step in steps if step is not None] == list(range(6))


def test_inserted_pivots_keep_the_spacing_around_them():
    found = autoneb(MUELLER_BROWN, *ENDS, cycles=CYCLES[:2], seed=0)
    lengths = found._band.segment_lengths
    # Two of the quarters of the band were divided at a tenth of their length.
    shares = lengths / lengths.sum()
    assert sorted(np.round(40 * shares.numpy())) != [10] * 4
    assert shares.min() < 0.2


def test_the_curvy_valley_gets_a_low_path():
    ends = point(-CURVY_END, -1), point(CURVY_END, 1)
    cycles = [Cycle(3, 100, 0.1), *[Cycle("highest", 100, 0.1)] * 6]
    found = autoneb(CURVY_VALLEY, *ends, cycles=cycles, steps=0.5, seed=0)
    assert found.saddle == pytest.approx(1, abs=0.05)
    assert sum(cycle.steps for cycle in found.cycles) == 350


def test_a_run_that_is_taken_up_again_goes_on_as_if_it_had_not_stopped():
    relaxation = Relaxation(2e-4)
    whole = BandRun(Band.straight(*ENDS))
    for cycle in CYCLES:
        whole.advance(MUELLER_BROWN, cycle, relaxation)
    half = BandRun(Band.straight(*ENDS))
    half.advance(MUELLER_BROWN, CYCLES[0], relaxation)
    resumed = BandRun(half.band, half.done)
    for cycle in CYCLES[1:]:
        resumed.advance(MUELLER_BROWN, cycle, relaxation)
    assert torch.equal(resumed.band.pivots, whole.band.pivots)
    assert resumed.done == whole.done


def test_the_record_has_a_row_for_each_cycle():
    found = autoneb(MUELLER_BROWN, *ENDS, cycles=CYCLES, steps=0.05, seed=0)
    dataset = found.to_dataset()
    assert dataset["cycle_steps"].values.tolist() == [10, 10, 10]
    assert dataset["cycle_saddle"].values.tolist() == [cycle.saddle for cycle in found.cycles]
    json.dumps(found.settings, allow_nan=False)


def test_progress_counts_the_steps_of_all_cycles():
    seen = []
    autoneb(
        MUELLER_BROWN, *ENDS, cycles=CYCLES, steps=0.005, seed=0,
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    assert seen == [(1, 3, "cycle 1 of 3"), (2, 3, "cycle 2 of 3"), (3, 3, "cycle 3 of 3")]


@pytest.mark.parametrize(
    ("cycles", "steps", "words"),
    [
        ((), 1, "must put in pivots"),
        ((Cycle("highest", 5, 0.1),), 1, "must put in pivots"),
        (CYCLES, 0, "factor above 0"),
    ],
)
def test_cycles_that_cannot_be_are_refused(cycles, steps, words):
    with pytest.raises(RequestError, match=words):
        autoneb(MUELLER_BROWN, *ENDS, cycles=cycles, steps=steps, seed=0)
    with pytest.raises(RequestError, match="or 'highest'"):
        Cycle("most", 5, 0.1)
