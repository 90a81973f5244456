"""Families joined by bands: known passes, and a search that can be taken up again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toy_potentials import EGG_CARTON, MB_LOSSES, MB_MINIMA, MB_SADDLES, MUELLER_BROWN, point

from landscape.errors import RequestError
from landscape.paths.autoneb import BandRun, Cycle
from landscape.paths.connectivity import connect

CYCLES = [Cycle(5, 150, 2e-4), Cycle("highest", 100, 2e-4)]


def joined(**options):
    return connect(MUELLER_BROWN, MB_MINIMA, **{"cycles": CYCLES, "seed": 0, **options})


def test_the_passes_of_mueller_and_brown():
    found = joined()
    high, low = (energy for energy, _ in MB_SADDLES.values())
    expected = np.array([[0, high, high], [high, 0, low], [high, low, 0]]) + np.diag(MB_LOSSES)
    np.testing.assert_allclose(found.saddle_distances, expected, atol=1.0)
    assert found.status == "converged"
    assert found.tree[0] == (1, 2)
    # From the deepest to the two others, and then the way around.
    assert found.bands == ((0, 2), (0, 1), (1, 2))


def test_neighbours_in_the_egg_carton_are_joined_around_the_corner():
    minima = [point(0.5, 0.5), point(1.5, 0.5), point(1.5, 1.5)]
    cycles = [Cycle(3, 30, 0.005)]
    found = connect(EGG_CARTON, minima, cycles=cycles, seed=0)
    np.testing.assert_allclose(found.saddle_distances + np.diag([2.0] * 3), 0, atol=1e-6)
    # Straight across is the maximum, an axis of symmetry: the tree leads around it.
    assert found.saddles[0, 2] == pytest.approx(2)
    assert (0, 2) not in found.tree


def test_few_bands_leave_members_apart():
    found = joined(num_bands=1, steps=0.02)
    assert found.status == "not converged: the members are in 2 parts that no band joins"
    assert np.isinf(found.saddle_distances).any()


def test_a_search_that_was_broken_off_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    options = {"steps": 0.1, "cycles": [*CYCLES, CYCLES[1]]}
    whole = joined(**options)
    advance, calls = BandRun.advance, []

    def breaking(*args, **kwargs):
        calls.append(args)
        if len(calls) == 6:  # in the third cycle of the second band
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr(BandRun, "advance", breaking)
    with pytest.raises(KeyboardInterrupt):
        joined(**options, state=tmp_path / "new" / "state.pt")
    found = joined(**options, state=tmp_path / "new" / "state.pt")
    assert len(calls) == 6 + 4  # of nine cycles, five were there
    np.testing.assert_array_equal(found.saddles, whole.saddles)
    np.testing.assert_array_equal(found.lengths, whole.lengths)
    assert found.bands == whole.bands


def test_more_bands_can_be_asked_of_the_same_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    joined(steps=0.02, num_bands=1, state=path)
    found = joined(steps=0.02, num_bands=3, state=path)
    np.testing.assert_array_equal(found.saddles, joined(steps=0.02).saddles)


def test_the_file_of_another_family_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    joined(steps=0.02, num_bands=1, state=path)
    with pytest.raises(RequestError, match="another family"):
        joined(steps=0.02, num_bands=1, state=path, seed=1)
    path.write_bytes(b"nothing")
    with pytest.raises(RequestError, match="cannot be read"):
        joined(steps=0.02, num_bands=1, state=path)


def test_each_pair_has_minibatches_of_its_own(monkeypatch):
    steps, gradients = [], type(MUELLER_BROWN).gradients
    monkeypatch.setattr(
        type(MUELLER_BROWN),
        "gradients",
        lambda self, points, step=None: steps.append(step) or gradients(self, points, step),
    )
    joined(cycles=[Cycle(1, 4, 1e-4)])
    taken = [step for step in steps if step is not None]
    assert len(taken) == len(set(taken)) == 12


def test_the_saddle_is_that_of_the_best_cycle():
    spoiling = [CYCLES[0], Cycle("highest", 1, 3e-3)]
    found = joined(cycles=spoiling, num_bands=1)
    assert found.saddles[0, 2] == joined(cycles=CYCLES[:1], num_bands=1).saddles[0, 2]


def test_a_band_that_diverges_falls_back_to_the_line():
    found = joined(cycles=[Cycle(3, 5, 1e9)], num_bands=1)
    assert np.isfinite(found.saddles[0, 2])


def test_the_record_has_the_highest_pass_as_its_headline():
    found = joined(steps=0.05)
    dataset = found.to_dataset()
    assert float(dataset["highest_pass"]) == found.saddle_distances[0, 1]
    assert dataset["tree"].shape == (2, 2)
    assert all({"units", "long_name"} <= variable.attrs.keys() for variable in dataset.values())
    json.dumps(found.settings, allow_nan=False)
    assert "3 members, 3 bands" in repr(found)


def test_progress_tells_the_pair():
    seen = []
    joined(cycles=[Cycle(1, 1, 1e-4)], progress=lambda *told: seen.append(told))
    assert [done for done, _, _ in seen] == [1, 2, 3]
    assert seen[0][2] == "members 1 and 3"


@pytest.mark.parametrize("count", [0, 1])
def test_a_family_of_less_than_two_is_refused(count):
    with pytest.raises(RequestError, match="two or more"):
        connect(MUELLER_BROWN, torch.stack(MB_MINIMA)[:count], seed=0)
    with pytest.raises(RequestError, match="at least 1"):
        joined(num_bands=0)
