"""The surface of a plane: heights are losses, what is cut off is flat, and the valley is seen."""

from __future__ import annotations

import importlib
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from landscape import figures
from landscape.errors import RequestError

SHAPE = (7, 5)
A, B = np.linspace(-1, 1, 7), np.linspace(-1, 1, 5)
BOWL = 1 + A[:, None] ** 2 + 2 * B**2


@pytest.fixture(autouse=True)
def few_facets(monkeypatch):
    """As many as show what is claimed, not as many as please the eye."""
    module = importlib.import_module("landscape.figures.surface")
    monkeypatch.setattr(module, "_FACETS", 24)


def facets(axis):
    """The corners (facets, 4, 3) of the surface, and the colours of its facets."""
    (found,) = [
        one
        for one in axis.collections
        if isinstance(one, Poly3DCollection) and len(one.get_facecolor()) > 100
    ]
    return np.asarray(found._faces), np.asarray(found._facecolor3d)


def heights_at(corners, a, b):
    points = corners.reshape(-1, 3)
    return points[np.isclose(points[:, 0], a) & np.isclose(points[:, 1], b), 2]


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def test_each_point_of_the_record_is_on_the_surface(plane_sweep):
    (axis,) = figures.surface(plane_sweep(loss=BOWL)).axes
    corners, _ = facets(axis)
    for i, a in enumerate(A):
        for j, b in enumerate(B):
            found = heights_at(corners, a, b)
            assert len(found)
            np.testing.assert_allclose(found, BOWL[i, j])


def test_over_a_decade_the_height_is_the_logarithm_and_named_by_the_loss(plane_sweep):
    loss = 10 ** (BOWL / 2)
    (axis,) = figures.surface(plane_sweep(loss=loss)).axes
    corners, _ = facets(axis)
    np.testing.assert_allclose(heights_at(corners, A[1], B[3]), BOWL[1, 3] / 2)
    names = [float(text.get_text()) for text in axis.get_zticklabels()]
    assert len(names) >= 3
    np.testing.assert_allclose(10 ** axis.get_zticks(), names)
    low, high = axis.get_zlim()
    assert all(low <= tick <= high for tick in axis.get_zticks())
    (axis,) = figures.surface(plane_sweep(loss=BOWL)).axes
    np.testing.assert_allclose(
        axis.get_zticks(), [float(text.get_text()) for text in axis.get_zticklabels()]
    )


def test_each_axis_is_labelled(plane_sweep):
    (axis,) = figures.surface(plane_sweep(norms=[2.0, 3.0])).axes
    assert axis.get_xlabel() == "along here\n(units of d, ‖d‖ = 2)"
    assert axis.get_ylabel() == "along there\n(units of d, ‖d‖ = 3)"
    assert axis.get_zlabel() == "loss"


def test_beyond_the_clip_is_a_flat_top_without_colour_and_nan_a_hole(plane_sweep):
    loss = BOWL.copy()
    loss[0, :], loss[4, 2] = np.inf, np.nan
    figure = figures.surface(plane_sweep(loss=loss, settings={"clip": 3.9}))
    (axis,) = figure.axes
    corners, colours = facets(axis)
    middles = corners.mean(axis=1)
    (patch,) = figure.legends[0].get_patches()
    assert figure.legends[0].get_texts()[0].get_text() == "beyond the clip of 3.9"
    top = (colours == to_rgba(patch.get_facecolor())).all(axis=1)
    np.testing.assert_array_equal(top, middles[:, 0] < (A[0] + A[1]) / 2)
    assert corners[..., 2].max() == np.nanmax(loss[np.isfinite(loss)])  # nothing sticks out
    hole = colours[:, 3] == 0
    step = np.asarray([A[1] - A[0], B[1] - B[0]]) / 2
    np.testing.assert_array_equal(hole, (np.abs(middles[:, :2] - [A[4], B[2]]) < step).all(axis=1))
    assert "5 points (14.3 %) beyond the clip of 3.9" in caption(figure)
    assert "1 point (2.86 %) NaN" in caption(figure)


def test_contours_lie_on_the_floor_below_the_surface(plane_sweep):
    (axis,) = figures.surface(plane_sweep(loss=BOWL)).axes
    corners, _ = facets(axis)
    floor = axis.get_zlim()[0]
    assert floor < corners[..., 2].min()
    (beneath,) = [one for one in axis.collections if not isinstance(one, Poly3DCollection)]
    assert len(beneath.get_paths()) > 3
    assert beneath.get_zorder() < axis.collections[0].get_zorder()


@pytest.mark.parametrize(("i", "j"), [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_the_lowest_corner_is_nearest_to_the_eye(plane_sweep, i, j):
    loss = 5 + np.abs(A[:, None] - A[i]) + np.abs(B - B[j])
    (axis,) = figures.surface(plane_sweep(loss=loss)).axes
    eye = np.asarray([np.cos(np.radians(axis.azim)), np.sin(np.radians(axis.azim))])
    corners = np.asarray([(a, b) for a in (-1, 1) for b in (-1, 1)])
    np.testing.assert_array_equal(corners[np.argmax(corners @ eye)], [A[i], B[j]])
    assert axis.elev > 20


def test_it_fills_the_sheet_and_no_text_leaves_it(plane_sweep, fits_its_sheet, tmp_path):
    sweep = plane_sweep(loss=BOWL, caveats={"max_cosine": 0.1, "stale_bn_gap": 1.0})
    names = tuple(f"random, filter-normalised, seed 0, #{number}" for number in (1, 2))
    figure = figures.surface(replace(sweep, direction_names=names))
    fits_its_sheet(figure)
    figure.savefig(tmp_path / "figure.png", dpi=60)
    pixels = matplotlib.image.imread(tmp_path / "figure.png")[..., :3]
    coloured = np.ptp(pixels, axis=-1) > 0.1
    assert coloured.mean() > 0.2  # an empty sheet of axes has none


def test_lengths_are_true_in_the_plane(plane_sweep):
    (axis,) = figures.surface(plane_sweep(norms=[2.0, 1.0])).axes
    x, y, _ = axis._box_aspect
    assert y / x == pytest.approx(0.5)


ODD = {
    "constant": np.full(SHAPE, 2.5),
    "zero": np.zeros(SHAPE),
    "nan": np.full(SHAPE, np.nan),
    "infinite": np.full(SHAPE, np.inf),
    "one": np.where(np.arange(35).reshape(SHAPE) == 17, 1.0, np.nan),
    "negative": -np.arange(35.0).reshape(SHAPE),
    "explosion": np.geomspace(1, 1e300, 35).reshape(SHAPE),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_planes_are_drawn_without_a_warning(plane_sweep, name, tmp_path):
    figure = figures.surface(plane_sweep(loss=ODD[name]))
    figure.savefig(tmp_path / "figure.png")
    (axis,) = figure.axes
    said = any("no point has a finite loss" in text.get_text() for text in axis.texts)
    assert said is not bool(np.isfinite(ODD[name]).any())


def test_the_smallest_plane_has_two_points_an_axis(plane_sweep, tmp_path):
    loss = np.asarray([[1.0, 2.0], [3.0, 5.0]])
    figure = figures.surface(plane_sweep(loss=loss, a=[0, 1], b=[0, 1]))
    figure.savefig(tmp_path / "figure.png")
    corners, _ = facets(figure.axes[0])
    np.testing.assert_allclose(heights_at(corners, 1.0, 0.0), 3.0)


def test_a_line_has_no_surface(line_sweep):
    with pytest.raises(RequestError, match=r"figures\.line"):
        figures.surface(line_sweep())
