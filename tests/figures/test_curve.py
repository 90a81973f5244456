"""The figure of a curve: both paths with their bands, by length; and the curve in its plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from oracles import MLP, network, random_vectors
from torch import nn

import landscape as ls
from landscape import store
from landscape.errors import RequestError
from landscape.figures.canvas import BLUE, VERMILION
from landscape.figures.curve import curve as draw
from landscape.objective import Objective
from landscape.paths.curve import curve
from landscape.slices.options import SweepOptions
from landscape.slices.sweeping import plane_through


@pytest.fixture(scope="module")
def objective():
    model, inputs, targets = network(MLP, num=12)
    return Objective(model, (inputs, targets))


@pytest.fixture(scope="module")
def vertices(objective):
    bend, end = random_vectors(objective.space.size, 2, seed=4).T
    return torch.stack([objective.theta, bend, end])


@pytest.fixture(scope="module")
def measured(objective, vertices):
    """A curve with an unequal pace, on two data sets."""
    return curve(objective, vertices, "polygon", num=9, also={"test": objective})


@pytest.fixture(scope="module")
def plane(objective, vertices):
    return plane_through(objective, vertices[2], vertices[1], num=(9, 7),
                         names=("A", "B", "bend"), options=SweepOptions(caveats=False))  # fmt: skip


def lines(axis):
    return {line.get_label(): line for line in axis.lines}


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def test_both_paths_are_drawn_by_their_length_with_two_standard_errors(measured, fits_its_sheet):
    figure = draw(measured)
    losses, errors = figure.axes
    for axis, metric in ((losses, "loss"), (errors, "error")):
        found = lines(axis)
        assert list(found) == ["curve", "straight line", "curve, test", "straight line, test"]
        along = measured.profiles[metric]
        np.testing.assert_allclose(found["curve"].get_xdata(), along.alphas, atol=1e-12)
        np.testing.assert_array_equal(found["curve"].get_ydata(), along.values)
        straight = found["straight line"]
        np.testing.assert_array_equal(straight.get_xdata(), measured.t)
        np.testing.assert_array_equal(straight.get_ydata(), measured.straight[metric].values)
    band = losses.collections[0].get_paths()[0].vertices
    top = measured.profiles["loss"].values + 2 * measured.profiles["loss"].gap_errors
    assert band[:, 1].max() == pytest.approx(top.max())
    assert figure.get_suptitle() == "Loss along a polygonal chain"
    fits_its_sheet(figure)


def test_data_sets_differ_in_colour_and_paths_in_dashes(measured):
    found = lines(draw(measured).axes[0])
    assert found["curve"].get_color() == found["straight line"].get_color() == BLUE
    assert found["curve, test"].get_color() == VERMILION
    assert found["curve"].get_linestyle() == "-"
    assert found["straight line"].get_linestyle() == "--"


def test_the_caption_tells_both_rises_and_the_length(measured):
    words = caption(draw(measured))
    assert f"{measured.length_ratio:.3g} times as long" in words
    assert f"{measured.straight['loss'].heights['chord'].value:.4g}" in words
    assert "rises by 0.7 ± 0.4 above its ends" in words  # 0.6539 +- 0.44


def test_a_loss_that_spans_a_decade_is_drawn_on_a_log_scale(measured):
    def scaled(spread):
        values = np.geomspace(1, spread, 9)
        own = {
            name: replace(one, values=values, gap_errors=0 * values)
            for name, one in measured.profiles.items()
        }
        return replace(measured, profiles=own, straight=own)

    assert draw(scaled(50)).axes[0].get_yscale() == "log"
    assert draw(scaled(5)).axes[0].get_yscale() == "linear"


def test_a_band_reaches_no_lower_than_a_log_scale_does(measured, fits_its_sheet):
    values = np.geomspace(1e-3, 1, 9)
    wide = {
        name: replace(one, values=values, gap_errors=values)
        for name, one in measured.profiles.items()
    }
    figure = draw(replace(measured, profiles=wide))
    axis = figure.axes[0]
    assert axis.get_ylim()[0] > 0
    assert axis.collections[0].get_paths()[0].vertices[:, 1].min() == axis.get_ylim()[0]
    fits_its_sheet(figure)


def test_points_without_a_value_are_gaps(measured):
    values = measured.losses.copy()
    values[3], values[5] = np.nan, np.inf
    lost = dict(measured.profiles) | {"loss": replace(measured.profiles["loss"], values=values)}
    drawn = lines(draw(replace(measured, profiles=lost)).axes[0])["curve"].get_ydata()
    assert np.isnan(drawn[[3, 5]]).all()
    assert np.isfinite(drawn[[2, 4]]).all()


def test_without_classes_there_is_one_panel(fits_its_sheet):
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    objective = Objective(model, (random_vectors(9, 4), torch.zeros(9, 1).double()), "mse")
    figure = draw(curve(objective, random_vectors(4, 3).T, num=5))
    (axis,) = figure.axes
    assert axis.get_xlabel() == "share of the path's length"
    fits_its_sheet(figure)


def test_a_loss_that_tells_no_examples_apart_has_no_band():
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)

    def mean(output, target):
        return (output - target).square().mean()

    objective = Objective(model, (random_vectors(9, 4), torch.zeros(9, 1).double()), mean)
    figure = draw(curve(objective, random_vectors(4, 3).T, num=5))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["curve", "straight line"]


def test_it_is_drawn_from_a_file_as_from_memory(tmp_path, measured):
    ls.save(tmp_path / "r.h5", [measured])
    (kept,) = store.records(tmp_path / "r.h5")
    read = draw(store.read(tmp_path / "r.h5", kept.group))
    fresh = draw(measured)
    for one, other in zip(read.axes, fresh.axes, strict=True):
        np.testing.assert_array_equal(one.lines[0].get_xydata(), other.lines[0].get_xydata())


# -- in its plane ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bezier", "polygon"])
def test_in_its_plane_the_curve_goes_from_mark_to_mark(
    objective, vertices, plane, kind, fits_its_sheet
):
    found = curve(objective, vertices, kind, num=61)
    figure = draw(found, plane)
    axis = next(one for one in figure.axes if one.get_title("left").startswith("loss in the plane"))
    path = next(line for line in axis.lines if line.get_color() == VERMILION).get_xydata()
    np.testing.assert_allclose(path[[0, -1]], [[0, 0], [1, 0]], atol=1e-12)
    bend = np.asarray(plane.marks["bend"])
    middle = bend if kind == "polygon" else bend / 2 + np.array([0.25, 0])
    np.testing.assert_allclose(path[100], middle, atol=1e-12)
    # The point of the plane is the point of the curve.
    point = objective.theta + torch.as_tensor(path[37]).to(plane.vectors) @ plane.vectors
    torch.testing.assert_close(point, found.point(37 / 200), rtol=1e-9, atol=1e-11)
    assert {"A", "B", "bend"} <= {text.get_text() for text in axis.texts}
    fits_its_sheet(figure)


def test_a_plane_of_another_curve_is_refused(objective, vertices, plane):
    moved = vertices.clone()
    moved[1] *= 3
    with pytest.raises(RequestError, match="not that of the curve"):
        draw(curve(objective, moved, num=9), plane)
    more = torch.cat([vertices[:1], vertices])
    with pytest.raises(RequestError, match="only a curve of one bend has such a plane"):
        draw(curve(objective, more, num=9), plane)
    unmarked = replace(plane, marks={})
    with pytest.raises(RequestError, match="plane_through"):
        draw(curve(objective, vertices, num=9), unmarked)


def test_what_is_no_curve_is_refused(plane, measured):
    with pytest.raises(RequestError, match="a curve has arc_length"):
        draw(plane)
    with pytest.raises(RequestError, match="a plane has the axes a and b"):
        draw(measured, measured)


def test_colours_are_those_of_the_house(measured):
    band = draw(measured).axes[0].collections[0]
    assert tuple(band.get_facecolor()[0][:3]) == to_rgba(BLUE)[:3]
