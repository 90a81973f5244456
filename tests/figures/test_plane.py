"""The figure of a plane: each field in its panel, on one scale for all data, with what it lacks."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from matplotlib.contour import ContourSet

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError

SHAPE = (7, 5)


def panels(figure):
    return {axis.get_title("left"): axis for axis in figure.axes}


def bands(axis):
    return next(one for one in axis.get_children() if isinstance(one, ContourSet) and one.filled)


def lines(axis):
    found = [one for one in axis.get_children() if isinstance(one, ContourSet) and not one.filled]
    return {
        level: path.vertices
        for one in found
        for level, path in zip(one.levels, one.get_paths(), strict=True)
    }


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def test_the_first_axis_of_the_record_is_horizontal(plane_sweep):
    figure = figures.plane(plane_sweep())
    (axis,) = figure.axes
    assert len(lines(axis)) > 3
    for level, points in lines(axis).items():  # of 20 + a + 10 b
        np.testing.assert_allclose(20 + points @ [1, 10], level, rtol=1e-9)
    assert axis.get_xlabel().startswith("along here")
    assert axis.get_ylabel().startswith("along there")
    assert figure.get_suptitle() == "Loss over a plane of 7 × 5 points"


def test_levels_are_logarithmic_where_the_loss_spans_a_decade(plane_sweep):
    loss = np.geomspace(0.01, 10, 35).reshape(SHAPE)
    (axis,) = figures.plane(plane_sweep(loss=loss)).axes
    steps = np.diff(np.log10(bands(axis).levels))
    assert steps.max() < 2.5 * steps.min()
    (axis,) = figures.plane(plane_sweep(loss=loss - 0.01)).axes
    assert np.ptp(np.diff(bands(axis).levels)) < 1e-9


def test_all_data_sets_have_one_scale_and_accuracy_another(plane_sweep, fits_its_sheet):
    loss = np.geomspace(0.01, 10, 35).reshape(SHAPE)
    accuracy = np.linspace(0.05, 1, 35).reshape(SHAPE)
    fields = {"test_loss": 3 * loss, "accuracy": accuracy, "test_accuracy": accuracy / 2}
    figure = figures.plane(plane_sweep(loss=loss, fields=fields))
    found = panels(figure)
    assert list(found) == ["loss", "test loss", "accuracy", "test accuracy"]
    levels = bands(found["loss"]).levels
    np.testing.assert_array_equal(bands(found["test loss"]).levels, levels)
    assert levels[0] <= 0.01 < 30 <= levels[-1]
    assert np.ptp(np.diff(bands(found["accuracy"]).levels)) < 1e-9
    assert found["accuracy"].get_xlabel()
    assert not found["loss"].get_xlabel()
    assert not found["test accuracy"].get_ylabel()
    fits_its_sheet(figure)


def test_an_empty_place_below_leaves_the_label_with_the_panel(plane_sweep):
    ones = np.ones(SHAPE)
    found = panels(figures.plane(plane_sweep(fields={"accuracy": ones, "test_loss": ones})))
    assert found["accuracy"].get_xlabel()
    assert found["test loss"].get_xlabel()
    assert not found["loss"].get_xlabel()


def test_a_step_has_its_true_length_on_both_axes(plane_sweep):
    figure = figures.plane(plane_sweep(norms=[2.0, 5.0]))
    (axis,) = figure.axes
    assert axis.get_aspect() == 2.5
    box = axis.get_window_extent()
    assert box.height / box.width == pytest.approx(2.5, rel=1e-3)
    assert "different scales" not in caption(figure)
    figure = figures.plane(plane_sweep(norms=[2.0, 50.0]))
    assert figure.axes[0].get_aspect() == "auto"
    assert "different scales" in caption(figure)


def test_what_has_no_value_is_hatched_named_and_counted(plane_sweep):
    loss = np.ones(SHAPE) + np.arange(5)
    loss[0, 0], loss[5:, 3:] = np.nan, np.inf
    figure = figures.plane(plane_sweep(loss=loss, settings={"clip": 7.5}))
    (axis,) = figure.axes
    assert len(axis.patches) == 2
    assert all(patch.get_hatch() for patch in axis.patches)
    assert legend(figure) == ["center", "NaN, or not measured", "beyond the clip of 7.5"]
    assert "1 point (2.86 %) NaN" in caption(figure)
    assert "4 points (11.4 %) beyond the clip of 7.5" in caption(figure)
    assert bands(axis).levels[-1] >= 5  # the finite ones alone make the levels


def test_the_hatches_can_be_told_apart_in_the_picture(plane_sweep, tmp_path):
    loss = np.where(np.arange(5) < 3, np.ones(SHAPE), np.inf)
    figure = figures.plane(plane_sweep(loss=loss))
    figure.savefig(tmp_path / "figure.png", dpi=figure.dpi)
    pixels = matplotlib.image.imread(tmp_path / "figure.png")[::-1, :, :3]
    box = figure.axes[0].get_window_extent()
    middle = int((box.x0 + box.x1) / 2)
    top = pixels[int(box.y1 - 0.15 * box.height) : int(box.y1 - 3), middle - 30 : middle - 10]
    below = pixels[int(box.y0 + 3) : int(box.y0 + 0.1 * box.height), middle - 30 : middle - 10]
    assert len(np.unique(top.reshape(-1, 3), axis=0)) > 5  # ink on a ground
    assert np.ptp(below.reshape(-1, 3), axis=0).max() < 0.05  # one band


def test_the_caveats_of_the_record_stand_beneath(plane_sweep):
    figure = figures.plane(plane_sweep(caveats={"max_cosine": 0.25, "rescaling_change": 1.5}))
    assert "cosine between the directions 0.25" in caption(figure)
    assert "change the loss by up to 1.5" in caption(figure)


def test_marked_checkpoints_make_a_triangle(plane_sweep, fits_its_sheet):
    marks = {"one": (0.0, 0.0), "two": (0.8, 0.0), "three": (0.25, 0.8)}
    figure = figures.plane(plane_sweep(marks=marks))
    (axis,) = figure.axes
    edges = next(one for one in axis.lines if one.get_linestyle() == "--")
    np.testing.assert_array_equal(edges.get_xydata()[:3], list(marks.values()))
    assert set(marks) <= {text.get_text() for text in axis.texts}
    assert legend(figure) == []
    fits_its_sheet(figure)


def test_a_number_and_its_percent_sign_stay_on_a_line(plane_sweep):
    loss = np.where(np.arange(35).reshape(SHAPE) < 13, np.nan, 1.0)
    for gap in (0.1, 0.12, 0.123, 0.1234):
        figure = figures.plane(plane_sweep(loss=loss, caveats={"interpolated_share": gap}))
        lines_of_text = figure.legends[0].get_title().get_text().split("\n")
        assert not any(one.startswith("%") for one in lines_of_text)
        assert sum("37.1\xa0%" in one for one in lines_of_text) == 1


def test_names_of_marks_at_one_height_do_not_meet(plane_sweep, fits_its_sheet):
    marks = {"a checkpoint": (-0.2, -0.5), "another checkpoint": (0.2, -0.5)}
    fits_its_sheet(figures.plane(plane_sweep(marks=marks)))


def test_a_stored_record_gives_the_same_contours(plane_sweep, tmp_path):
    loss = np.geomspace(0.1, 30, 35).reshape(SHAPE)
    loss[2, 2] = np.nan
    sweep = plane_sweep(
        loss=loss, settings={"clip": 50.0}, marks={"other": (0.5, 0.5)}, caveats={"max_cosine": 0.1}
    )
    (group,) = ls.save(tmp_path / "r.h5", sweep)
    direct, stored = figures.plane(sweep), figures.plane(store.read(tmp_path / "r.h5", group))
    assert caption(direct) == caption(stored)
    assert legend(direct) == legend(stored)
    found, same = lines(direct.axes[0]), lines(stored.axes[0])
    assert list(found) == list(same)
    for level, points in found.items():
        np.testing.assert_array_equal(points, same[level])


ODD = {
    "constant": np.full(SHAPE, 2.5),
    "zero": np.zeros(SHAPE),
    "nan": np.full(SHAPE, np.nan),
    "infinite": np.full(SHAPE, np.inf),
    "one": np.where(np.arange(35).reshape(SHAPE) == 17, 1.0, np.nan),
    "negative": -np.arange(35.0).reshape(SHAPE),
    "with zero": np.arange(35.0).reshape(SHAPE) ** 3,
    "needle": np.where(np.arange(35).reshape(SHAPE) == 17, 1e-200, 1.0),
    "explosion": np.geomspace(1, 1e300, 35).reshape(SHAPE),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_planes_are_drawn_without_a_warning(plane_sweep, name, tmp_path):
    figure = figures.plane(plane_sweep(loss=ODD[name]))
    figure.savefig(tmp_path / "figure.png")
    (axis,) = figure.axes
    assert bool(axis.child_axes) is bool(np.isfinite(ODD[name]).any())  # no colours without values


def test_the_smallest_plane_has_two_points_an_axis(plane_sweep, tmp_path):
    loss = np.asarray([[1.0, 2.0], [3.0, 5.0]])
    figure = figures.plane(plane_sweep(loss=loss, a=[0, 1], b=[0, 1]))
    figure.savefig(tmp_path / "figure.png")
    assert lines(figure.axes[0])


def test_lines_are_no_plane(line_sweep, lines_sweep):
    for sweep in (line_sweep(), lines_sweep()):
        with pytest.raises(RequestError, match=r"figures\.line"):
            figures.plane(sweep)
