"""The figure of a barrier: its numbers and their doubt, above what the definition subtracts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError
from landscape.paths.barrier import Barrier, Profile
from landscape.paths.decomposition import Decomposition
from landscape.paths.heights import DEFINITIONS, height

ALPHAS = np.linspace(0, 1, 11)
HUMP = 1 + ALPHAS + 8 * ALPHAS * (1 - ALPHAS)  # 2 above its chord, at 0.5


def along(values, errors=0.1, chance=10.0):
    values = np.asarray(values, float)
    alphas = np.linspace(0, 1, len(values))
    heights = {name: height(name, alphas, values, chance) for name in DEFINITIONS}
    gap_errors = errors * np.sin(np.pi * alphas)
    return Profile(alphas, values, gap_errors, heights, dict.fromkeys(heights, 0.07), chance)


def make(loss=HUMP, *, metric="loss", definition="chord", **options):
    settings = {"metric": metric, "definition": definition, "bn": "recalibrate"}
    profiles = {"loss": along(loss)} | options.pop("profiles", {})
    return Barrier(
        settings=settings | options.pop("settings", {}),
        metric=metric,
        definition=definition,
        profiles=profiles,
        interpolation="linear",
        bn="recalibrate",
        distance=3.25,
        angle=np.pi / 4,
        **options,
    )


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def solid(axis, colour="#0072B2"):
    return next(
        one
        for one in axis.lines
        if one.get_linestyle() == "-" and one.get_color() == colour and len(one.get_xdata()) > 2
    )


def dashed(axis):
    return [one.get_xydata() for one in axis.lines if one.get_linestyle() == "--"]


def names(axis):
    return [text.get_text() for text in axis.texts]


def band_at(band, x):
    outline = band.get_paths()[0].vertices
    heights = outline[np.isclose(outline[:, 0], x), 1]
    return heights.min(), heights.max()


def stem(axis):
    (found,) = [one for one in axis.collections if hasattr(one, "get_segments")]
    return found.get_segments()[0]


def decomposition():
    terms = torch.tensor([[3.0, 1, 0, 0], [0.5, 0.5, 0, 0], [2.0, -1, 0, 0]], dtype=torch.float64)
    return Decomposition(0.5, *terms)


def test_the_line_its_chord_and_its_band_are_the_record():
    figure = figures.barrier(make())
    (axis,) = figure.axes
    np.testing.assert_array_equal(solid(axis).get_xydata(), np.c_[ALPHAS, HUMP])
    (chord,) = dashed(axis)
    np.testing.assert_array_equal(chord, [[0, 1], [1, 2]])
    (band,) = [one for one in axis.collections if one.get_label() == "±2 standard errors"]
    np.testing.assert_allclose(band_at(band, 0.5), [3.5 - 0.2, 3.5 + 0.2])
    np.testing.assert_allclose(band_at(band, 0.0), [1, 1])
    assert figure.get_suptitle() == "Loss barrier: 2.00 ± 0.07"
    assert legend(figure) == ["±2 standard errors", "chord"]
    low, high = axis.get_ylim()
    assert low < 1 < 3.7 < high


@pytest.mark.parametrize(
    ("definition", "text", "at", "bottom"),
    [
        ("chord", "2.00 ± 0.07", 0.5, 1.5),
        ("midpoint", "2.00 ± 0.07", 0.5, 1.5),
        ("relative", "0.24 ± 0.07", 0.5, 1.5),
        ("mean", "2.02 ± 0.07", 0.6, 1.5),
        ("mode_connectivity", "−2.02 ± 0.07", 0.6, 1.5),
        ("highest_end", "1.52 ± 0.07", 0.6, 2.0),
    ],
)
def test_a_height_stands_on_what_its_definition_subtracts(definition, text, at, bottom):
    figure = figures.barrier(make(definition=definition))
    (axis,) = figure.axes
    assert names(axis) == [text]
    top = HUMP[round(at * 10)]
    np.testing.assert_allclose(stem(axis), [[at, bottom], [at, top]])
    (ring,) = [one for one in axis.lines if one.get_markersize() == 6 and len(one.get_xdata()) == 1]
    np.testing.assert_allclose(ring.get_xydata(), [[at, top]])
    assert f"definition '{definition}': loss {text} at {at}" in caption(figure)


def test_a_saddle_stands_on_nothing():
    (axis,) = figures.barrier(make(definition="saddle")).axes
    assert names(axis) == ["3.52 ± 0.07"]
    assert not [one for one in axis.collections if hasattr(one, "get_segments")]


def test_error_has_a_panel_and_further_data_a_colour(fits_its_sheet):
    profiles = {
        "error": along(0.1 + 0.6 * ALPHAS * (1 - ALPHAS), 0.01),
        "test_loss": along(HUMP + 0.2),
        "test_error": along(0.2 + 0.4 * ALPHAS * (1 - ALPHAS), 0.01),
    }
    figure = figures.barrier(make(profiles=profiles))
    top, bottom = figure.axes
    for axis, metric in ((top, "loss"), (bottom, "error")):
        for colour, name in (("#0072B2", metric), ("#D55E00", f"test_{metric}")):
            values = {"loss": along(HUMP), **profiles}[name].values
            np.testing.assert_array_equal(solid(axis, colour).get_ydata(), values)
        assert len(dashed(axis)) == 2
    assert set(legend(figure)) == {"own data", "test data", "±2 standard errors", "chord"}
    assert "error 0.15 ± 0.07 at 0.5, test error 0.10 ± 0.07 at 0.5" in caption(figure)
    assert "Ends 3.25 apart, at an angle of 0.25 π, along a straight line" in caption(figure)
    assert top.get_xlim() == bottom.get_xlim()
    fits_its_sheet(figure)


def test_the_name_of_a_height_is_clear_of_the_other_data():
    (axis,) = figures.barrier(make(profiles={"test_loss": along(HUMP + 0.4)})).axes
    (text,) = axis.texts
    axis.figure.draw_without_rendering()
    (_, y) = axis.transData.transform((0.5, 3.5 + 0.4 + 0.2))  # the edge of the upper band
    assert text.get_window_extent().y0 > y
    assert text.get_window_extent().y1 < axis.bbox.y1


def test_the_terms_of_a_gap_are_bars_that_add_up_to_it():
    figure = figures.barrier(make(decomposition=decomposition()))
    _, axis = figure.axes
    widths = [bar.get_width() for bar in axis.patches]
    np.testing.assert_allclose(widths, [4, -1, -1, 2])
    ticks = [text.get_text() for text in axis.get_yticklabels()]
    assert ticks == ["D = 4", "−J = −1", "−e = −1", "gap = 2"]
    (whisker,) = [one for one in axis.lines if one.get_linewidth() == 1.6]
    np.testing.assert_allclose(whisker.get_xdata(), [1.8, 2.2])  # +-2 errors of the loss at 0.5
    assert "D − J − e" in caption(figure)


def test_the_shares_of_classes_are_bars(fits_its_sheet):
    shares = torch.tensor([0.5, 0.25, 1.5, -0.25], dtype=torch.float64)
    classes = torch.tensor([0, 0, 2, 1])
    record = make(
        decomposition=decomposition(),
        example_shares=shares,
        classes=classes,
        profiles={"error": along(0.1 + ALPHAS * (1 - ALPHAS))},
    )
    figure = figures.barrier(record)
    axis = figure.axes[-1]
    assert axis.get_title("left") == "shares of the barrier"
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], [0.75, -0.25, 1.5])
    fits_its_sheet(figure)


def test_where_nothing_rises_there_is_nothing_to_explain(tmp_path):
    zero = torch.full((4,), 1e-17, dtype=torch.float64)
    flat = make(np.ones(11), decomposition=Decomposition(0.0, zero, zero, zero),
                example_shares=zero, classes=torch.tensor([0, 1, 0, 1]))  # fmt: skip
    figure = figures.barrier(flat)
    figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes) == 1
    assert "D − J" not in caption(figure)


def test_others_have_their_colours_and_heights_in_the_legend(fits_its_sheet):
    error = along(0.1 + 0.6 * ALPHAS * (1 - ALPHAS))
    plain = make(profiles={"error": error, "test_loss": along(HUMP + 0.3)})
    low = 1 + ALPHAS + 2 * ALPHAS * (1 - ALPHAS)
    aligned = make(low, profiles={"error": error}, decomposition=decomposition())
    figure = figures.barrier(plain, others={"aligned": aligned})
    top, _ = figure.axes
    np.testing.assert_array_equal(solid(top, "#0072B2").get_ydata(), HUMP)
    np.testing.assert_array_equal(solid(top, "#D55E00").get_ydata(), low)
    (dotted,) = [
        one for one in top.lines if one.get_linestyle() != "-" and len(one.get_xdata()) > 2
    ]
    np.testing.assert_array_equal(dotted.get_ydata(), HUMP + 0.3)
    assert legend(figure)[0] == "unchanged: loss 2.00 ± 0.07, error 0.15 ± 0.07"
    assert "aligned: loss 0.50 ± 0.07, error 0.15 ± 0.07" in legend(figure)
    assert {"test data", "chord", "±2 standard errors"} <= set(legend(figure))
    assert figure.get_suptitle() == "Barriers of one pair, 2 ways"
    fits_its_sheet(figure)


def test_what_has_no_value_is_a_gap_with_a_mark(tmp_path):
    loss = HUMP.copy()
    loss[3], loss[7] = np.nan, np.inf
    figure = figures.barrier(make(loss))
    figure.savefig(tmp_path / "figure.png")
    (axis,) = figure.axes
    absent = np.isin(np.arange(11), [3, 7])
    np.testing.assert_array_equal(np.isnan(solid(axis).get_ydata()), absent)
    assert {"NaN", "infinite"} <= set(legend(figure))
    assert figure.get_suptitle() == "Loss barrier: unknown"
    assert not axis.texts


@pytest.mark.parametrize("loss", [np.ones(11), np.zeros(11), np.full(11, np.nan)])
def test_odd_barriers_are_drawn_without_a_warning(loss, tmp_path):
    record = make(loss)
    for figure in (figures.barrier(record), figures.barrier(record, others={"again": record})):
        figure.savefig(tmp_path / "figure.png")
        assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_a_stored_barrier_gives_the_same_figure(tmp_path):
    record = make(
        metric="loss", definition="mean", decomposition=decomposition(),
        profiles={"test_loss": along(HUMP + 0.3)},
    )  # fmt: skip
    (group,) = ls.save(tmp_path / "r.h5", record)
    direct, stored = figures.barrier(record), figures.barrier(store.read(tmp_path / "r.h5", group))
    assert (legend(direct), caption(direct)) == (legend(stored), caption(stored))
    for axis, other in zip(direct.axes, stored.axes, strict=True):
        for one, same in zip(axis.lines, other.lines, strict=True):
            np.testing.assert_array_equal(one.get_xydata(), same.get_xydata())


def test_a_line_is_no_barrier(line_sweep):
    with pytest.raises(RequestError, match="landscape path"):
        figures.barrier(line_sweep())
