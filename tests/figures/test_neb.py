"""The figure of a band: both ways, pivots, the saddle, and whether it has come to rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError
from landscape.paths.barrier import Profile
from landscape.paths.heights import DEFINITIONS, height
from landscape.paths.neb import BandCycle, Neb

NUM_PIVOTS = 4
T = np.linspace(0, 1, 31)
LINE_T = np.linspace(0, 1, 25)
ALONG = 1 + T * (1 - T)  # 0.25 above its ends, at 0.5
STRAIGHT = 1 + 8 * LINE_T * (1 - LINE_T)


def profile(places, values):
    heights = {name: height(name, places, values) for name in DEFINITIONS}
    errors = 0.05 * np.sin(np.pi * places)
    return Profile(places, values, errors, heights, dict.fromkeys(heights, 0.02), np.nan)


def make(
    along=ALONG, straight=STRAIGHT, *, forces=(0.0, 0.3, 0.1, 0.0), tol=0.05, cycles=1, more=()
):
    profiles = {"loss": profile(T, along), **{name: profile(T, values) for name, values in more}}
    lines = {name: profile(LINE_T, straight + 0.1 * index) for index, name in enumerate(profiles)}
    return Neb(
        settings={"tol": tol},
        pivots=torch.eye(NUM_PIVOTS, dtype=torch.float64),
        profiles=profiles,
        straight=lines,
        forces=np.asarray(forces),
        climbing=None,
        highest_losses=np.linspace(3, 1.3, 20 * cycles),
        cycles=(BandCycle(2, NUM_PIVOTS, 20, 0.1, 1.25, 0.25, 2.0, 0.3),) * cycles,
        tol=tol,
    )


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def line_like(axis, x, y):
    """The lines through just these points."""
    return [
        one
        for one in axis.lines
        if len(one.get_xdata()) == len(x) and np.array_equal(one.get_xydata(), np.c_[x, y])
    ]


def test_the_band_its_pivots_and_the_straight_line_are_the_record(fits_its_sheet):
    figure = figures.neb(make())
    axis = figure.axes[0]
    (band,) = line_like(axis, T, ALONG)
    (straight,) = line_like(axis, LINE_T, STRAIGHT)
    assert (band.get_linestyle(), straight.get_linestyle()) == ("-", "--")
    (pivots,) = line_like(axis, T[::10], ALONG[::10])
    assert pivots.get_marker() == "o"
    assert [text.get_text() for text in axis.texts] == ["saddle 1.25"]
    (ring,) = [one for one in axis.lines if len(one.get_xdata()) == 1]
    np.testing.assert_allclose(ring.get_xydata(), [[0.5, 1.25]])
    assert legend(figure) == ["band", "±2 standard errors", "pivot", "straight line"]
    assert figure.get_suptitle() == "Band of 4 pivots over a saddle of 1.25"
    fits_its_sheet(figure)


def test_the_doubt_is_two_standard_errors():
    axis = figures.neb(make()).axes[0]
    (doubt,) = [one for one in axis.collections if one.get_label() == "±2 standard errors"]
    outline = doubt.get_paths()[0].vertices
    at = outline[np.isclose(outline[:, 0], 0.5), 1]
    np.testing.assert_allclose([at.min(), at.max()], [1.15, 1.35])


def test_the_rises_and_the_residual_are_in_words():
    text = caption(figures.neb(make()))
    assert "by 0.25 ± 0.02 along the band, and by 2 along the straight line" in text
    assert "not converged: residual 0.21, above 0.05" in text
    text = caption(figures.neb(make(forces=(0.0, 0.01, 0.01, 0.0))))
    assert "; converged: residual 0.0071, at most 0.05" in text


def test_error_has_a_panel_and_further_data_a_colour(fits_its_sheet):
    error = 0.1 + 0.2 * T * (1 - T)
    more = [("error", error), ("test_loss", ALONG + 0.5), ("test_error", error + 0.1)]
    figure = figures.neb(make(more=more))
    top, bottom = figure.axes[0], figure.axes[2]
    (test,) = line_like(top, T, ALONG + 0.5)
    (own,) = line_like(bottom, T, error)
    assert test.get_color() != own.get_color()
    assert {"band, own data", "band, test data"} <= set(legend(figure))
    assert not [name for name in legend(figure) if name.startswith("_")]
    assert bottom.get_ylabel().startswith("error")
    fits_its_sheet(figure)


def test_beside_it_are_the_steps_and_the_gradients_of_inner_pivots():
    figure = figures.neb(make(cycles=3))
    steps, forces = (axis for axis in figure.axes[1:] if axis.get_title("left"))
    assert steps.get_title("left") == "greatest loss at a pivot"
    (went,) = line_like(steps, np.arange(1, 61), np.linspace(3, 1.3, 60))
    ends = [one.get_xdata()[0] for one in steps.lines if one is not went]
    assert ends == [20.5, 40.5]
    assert line_like(forces, [2, 3], [0.3, 0.1])
    assert "3 cycles of steps" in caption(figure)


def test_far_apart_losses_have_a_log_axis(tmp_path):
    figure = figures.neb(make(0.01 + T * (1 - T), STRAIGHT))
    figure.savefig(tmp_path / "figure.png")
    assert figure.axes[0].get_yscale() == "log"
    assert figures.neb(make()).axes[0].get_yscale() == "linear"


def test_the_saddles_name_is_clear_of_the_lines():
    axis = figures.neb(make(1.5 + T, STRAIGHT + LINE_T)).axes[0]  # the saddle is the last end
    (text,) = axis.texts
    axis.figure.draw_without_rendering()
    box = text.get_window_extent()
    for line in axis.lines:
        path = line.get_path().transformed(line.get_transform())
        assert len(line.get_xdata()) == 1 or not path.intersects_bbox(box, filled=False)


@pytest.mark.parametrize("along", [np.ones(31), np.full(31, np.nan), np.zeros(31)])
def test_odd_bands_are_drawn_without_a_warning(along, tmp_path):
    straight = np.full(25, along[0])
    figure = figures.neb(make(along, straight, forces=np.zeros(4)))
    figure.savefig(tmp_path / "figure.png")


def test_a_stored_band_gives_the_same_figure(tmp_path):
    record = make(more=[("test_loss", ALONG + 0.5)])
    (group,) = ls.save(tmp_path / "r.h5", record)
    direct, stored = figures.neb(record), figures.neb(store.read(tmp_path / "r.h5", group))
    assert (legend(direct), caption(direct)) == (legend(stored), caption(stored))


def test_a_line_is_no_band(line_sweep):
    with pytest.raises(RequestError, match="--probe neb"):
        figures.neb(line_sweep())
