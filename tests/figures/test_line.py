"""The figure of a line: it shows the record's numbers, their doubt, and where there are none."""

from __future__ import annotations

import numpy as np
import pytest

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError

A = np.linspace(-1, 1, 9)


def solid(axis, colour=None):
    """The line that is drawn through the points."""
    return next(
        one
        for one in axis.lines
        if one.get_linestyle() == "-" and len(one.get_xdata()) > 2 and colour in (None, _of(one))
    )


def _of(artist):
    return artist.get_color()


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def labelled(axis, name):
    return next(one for one in axis.get_children() if one.get_label() == name)


def corners(band):
    """(points, 2) the outline of a band."""
    return band.get_paths()[0].vertices


def band_at(band, x):
    """Lowest and highest point of a band's outline at x."""
    heights = corners(band)[np.isclose(corners(band)[:, 0], x), 1]
    return heights.min(), heights.max()


def test_the_line_is_the_record(line_sweep):
    sweep = line_sweep()
    figure = figures.line(sweep)
    (axis,) = figure.axes
    np.testing.assert_array_equal(solid(axis).get_xydata(), np.c_[A, sweep.loss])
    low, high = axis.get_ylim()
    assert low < sweep.loss.min() < sweep.loss.max() < high
    assert figure.get_suptitle() == "Loss along a line of 9 points"


def test_the_axis_names_the_direction_and_its_length(line_sweep):
    (axis,) = figures.line(line_sweep(norms=[12.345])).axes
    assert axis.get_xlabel() == "along here\n(units of d, ‖d‖ = 12.35)"
    assert axis.get_ylabel() == "loss"


def test_the_band_is_two_standard_errors_and_nothing_at_the_center(line_sweep):
    errors = 0.1 * np.abs(A)
    sweep = line_sweep(fields={"standard_error": errors})
    figure = figures.line(sweep)
    name = next(text for text in legend(figure) if "2 standard errors" in text)
    assert "at the center" in name
    band = labelled(figure.axes[0], name)
    for x, loss, error in zip(A, sweep.loss, errors, strict=True):
        np.testing.assert_allclose(band_at(band, x), [loss - 2 * error, loss + 2 * error])
    assert "at most 0.1" in caption(figure)


def test_a_band_below_zero_stays_on_a_log_axis(line_sweep, tmp_path):
    figure = figures.line(line_sweep(loss=10 ** (2 * A), fields={"standard_error": np.ones(9)}))
    figure.savefig(tmp_path / "figure.png")
    (axis,) = figure.axes
    assert axis.get_yscale() == "log"
    (band,) = axis.collections
    assert corners(band)[:, 1].min() >= axis.get_ylim()[0] > 0


def test_the_expansion_is_that_of_the_record_and_does_not_stretch_the_axis(line_sweep):
    figure = figures.line(line_sweep(loss=1 + A + A**3))
    (axis,) = figure.axes
    drawn = labelled(axis, "exact second-order expansion at the center")
    x = drawn.get_xdata()
    np.testing.assert_allclose(drawn.get_ydata(), 1 + x + 3 * x**2)
    assert drawn.get_linestyle() == "--"
    assert axis.get_ylim()[1] < 4
    figure = figures.line(line_sweep(quadratic=None))
    assert not any("expansion" in text for text in legend(figure))


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        (np.geomspace(0.1, 1, 9), "log"),
        (np.geomspace(0.2, 1, 9), "linear"),
        (np.linspace(0, 1, 9), "linear"),
        (np.linspace(-1, 100, 9), "linear"),
    ],
    ids=["a decade", "less", "zero", "negative"],
)
def test_a_positive_loss_over_a_decade_has_a_log_axis(line_sweep, loss, scale, tmp_path):
    figure = figures.line(line_sweep(loss=loss))
    figure.savefig(tmp_path / "figure.png")
    assert figure.axes[0].get_yscale() == scale


def test_what_has_no_value_is_a_gap_with_a_mark_and_a_count(line_sweep, tmp_path):
    loss = 1 + A**2
    loss[[0, 1]], loss[4] = np.inf, np.nan
    figure = figures.line(line_sweep(loss=loss, settings={"clip": 1.5}))
    figure.savefig(tmp_path / "figure.png")
    (axis,) = figure.axes
    absent = np.isin(np.arange(9), [0, 1, 4])
    np.testing.assert_array_equal(np.isnan(solid(axis).get_ydata()), absent)
    np.testing.assert_array_equal(labelled(axis, "beyond the clip of 1.5").get_xdata(), A[:2])
    np.testing.assert_array_equal(labelled(axis, "NaN, or not measured").get_xdata(), A[4:5])
    assert {"beyond the clip of 1.5", "NaN, or not measured"} <= set(legend(figure))
    assert "1 point (11.1 %) NaN" in caption(figure)
    assert "2 points (22.2 %) beyond the clip of 1.5" in caption(figure)


def test_only_points_that_were_measured_have_a_marker(line_sweep):
    done = np.arange(9) % 2 == 0
    (axis,) = figures.line(line_sweep(done=done)).axes
    (markers,) = [one for one in axis.lines if one.get_marker() == "o"]
    np.testing.assert_array_equal(markers.get_xdata(), A[done])


def test_other_data_are_in_the_same_panel_and_named_in_their_colour(line_sweep, fits_its_sheet):
    accuracy = 1 - A**2 / 2
    test = {"test_loss": 1.01 + A + 3 * A**2, "test_standard_error": np.full(9, 0.2)}
    figure = figures.line(
        line_sweep(fields={"accuracy": accuracy, "test_accuracy": accuracy - 0.001} | test)
    )
    top, bottom = figure.axes
    for axis, names in ((top, ["loss", "test loss"]), (bottom, ["accuracy", "test accuracy"])):
        ends = {text.get_text(): text for text in axis.texts}
        assert set(ends) == set(names)
        colours = [ends[name].get_color() for name in names]
        assert len(set(colours)) == 2
        heights = [ends[name].xy[1] for name in names]
        assert abs(heights[0] - heights[1]) > 0.05  # clear of each other, though the lines are not
    test_colour = next(text for text in top.texts if text.get_text() == "test loss").get_color()
    np.testing.assert_array_equal(solid(top, test_colour).get_ydata(), test["test_loss"])
    (band,) = top.collections
    np.testing.assert_allclose(band_at(band, 0.0), [0.61, 1.41])
    fits_its_sheet(figure)


def test_accuracy_has_a_panel_of_its_own_and_never_a_log_axis(line_sweep):
    figure = figures.line(line_sweep(fields={"accuracy": np.geomspace(0.01, 1, 9)}))
    top, bottom = figure.axes
    assert bottom.get_yscale() == "linear"
    assert top.get_xlim() == bottom.get_xlim()
    np.testing.assert_array_equal(solid(bottom).get_ydata(), np.geomspace(0.01, 1, 9))


def test_several_directions_are_thin_lines_with_median_and_band(lines_sweep):
    sweep = lines_sweep(5)
    figure = figures.line(sweep)
    (axis,) = figure.axes
    thin = [one for one in axis.lines if one.get_linewidth() == 0.5]
    np.testing.assert_array_equal([one.get_ydata() for one in thin], sweep.loss)
    median = labelled(axis, "median of 5 directions")
    np.testing.assert_array_equal(median.get_ydata(), sweep.loss[2])
    band = labelled(axis, "least to greatest")
    for x, losses in zip(sweep.coordinates[1], sweep.loss.T, strict=True):
        np.testing.assert_allclose(band_at(band, x), [losses.min(), losses.max()])
    assert axis.get_xlabel().startswith("5 directions: random, filter-normalised\n(units of each d")
    assert figure.get_suptitle() == "Loss along 5 lines of 7 points"


def test_the_band_of_many_directions_leaves_a_tenth_out_on_either_side(lines_sweep):
    sweep = lines_sweep(20)
    (axis,) = figures.line(sweep).axes
    band = labelled(axis, "all but a tenth on either side")
    np.testing.assert_allclose(band_at(band, 1.0), [1 + 3, 1 + 18])


def test_the_band_has_a_gap_where_any_direction_is_unknown(lines_sweep):
    loss = lines_sweep(20).loss.copy()
    loss[7, 3] = np.nan  # among those in the middle: no order tells where it belongs
    (axis,) = figures.line(lines_sweep(20, loss=loss)).axes
    band = labelled(axis, "all but a tenth on either side")
    outline = np.concatenate([path.vertices for path in band.get_paths()])
    assert not np.isclose(outline[:, 0], 0).any()


def test_a_direction_beyond_the_clip_counts_as_the_highest(lines_sweep, tmp_path):
    loss = 1 + np.outer(np.arange(1.0, 6), np.linspace(-1, 1, 7) ** 2)
    loss[4, 0] = np.inf
    loss[3:, 6] = np.inf
    loss[0, 3] = np.nan
    figure = figures.line(lines_sweep(5, loss=loss))
    figure.savefig(tmp_path / "figure.png")
    (axis,) = figure.axes
    median = labelled(axis, "median of 5 directions").get_ydata()
    np.testing.assert_array_equal(median[[0, 6]], [4.0, 4.0])  # the third of five, both times
    assert np.isnan(median[3])  # where one is unknown, so is the middle
    band = labelled(axis, "least to greatest")
    assert band_at(band, -1.0) == (2.0, axis.get_ylim()[1])
    outline = np.concatenate([path.vertices for path in band.get_paths()])
    assert not np.isclose(outline[:, 0], 0).any()


def test_of_other_data_only_the_median_is_drawn(lines_sweep):
    sweep = lines_sweep(5)
    figure = figures.line(lines_sweep(5, fields={"test_loss": sweep.loss + 1}))
    (axis,) = figure.axes
    colour = next(one for one in axis.texts if one.get_text() == "test loss").get_color()
    (drawn,) = [one for one in axis.lines if one.get_color() == colour]
    np.testing.assert_array_equal(drawn.get_ydata(), sweep.loss[2] + 1)
    assert len(axis.collections) == 1


def test_marks_are_lines_with_their_names_above(line_sweep):
    figure = figures.line(line_sweep(marks={"one": (0.0,), "two": (0.5,), "far": (9.0,)}))
    (axis,) = figure.axes
    (top,) = axis.child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == ["one", "two"]
    np.testing.assert_array_equal(top.get_xticks(), [0, 0.5])
    drawn = [one.get_xdata()[0] for one in axis.lines if len(one.get_xdata()) == 2]
    assert drawn == [0, 0.5]
    (top,) = figures.line(line_sweep(marks={"two": (0.5,)})).axes[0].child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == ["center", "two"]


def test_names_of_close_marks_are_set_aslant(line_sweep, fits_its_sheet):
    figure = figures.line(line_sweep(marks={"a checkpoint": (0.0,), "another one": (0.1,)}))
    (top,) = figure.axes[0].child_axes
    assert {text.get_rotation() for text in top.get_xticklabels()} == {30.0}


def test_a_stored_record_gives_the_same_lines(line_sweep, tmp_path):
    sweep = line_sweep(fields={"standard_error": 0.1 * np.abs(A), "accuracy": A**2})
    (group,) = ls.save(tmp_path / "r.h5", sweep)
    direct, stored = figures.line(sweep), figures.line(store.read(tmp_path / "r.h5", group))
    assert legend(direct) == legend(stored)
    assert caption(direct) == caption(stored)
    for axis, other in zip(direct.axes, stored.axes, strict=True):
        assert axis.get_xlabel() == other.get_xlabel()
        for one, same in zip(axis.lines, other.lines, strict=True):
            np.testing.assert_array_equal(one.get_xydata(), same.get_xydata())


@pytest.mark.parametrize(
    "loss",
    [np.ones(9), np.zeros(9), np.full(9, np.nan), np.full(9, np.inf), -np.ones(9)],
    ids=["constant", "zero", "nan", "infinite", "negative"],
)
def test_odd_lines_are_drawn_without_a_warning(line_sweep, lines_sweep, loss, tmp_path):
    done = ~np.isnan(loss)
    for sweep in (line_sweep(loss=loss, done=done), lines_sweep(3, loss=np.tile(loss[:7], (3, 1)))):
        figure = figures.line(sweep)
        figure.savefig(tmp_path / "figure.png")
        assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_one_point_is_a_line_too(line_sweep, tmp_path):
    figure = figures.line(line_sweep(a=[0.5]))
    figure.savefig(tmp_path / "figure.png")
    assert figure.get_suptitle() == "Loss along a line of 1 point"


def test_a_plane_is_no_line(plane_sweep):
    with pytest.raises(RequestError, match=r"figures\.plane"):
        figures.line(plane_sweep())
