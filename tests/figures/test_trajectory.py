"""The figure of a trajectory: true losses on the plane's scale, and distances from the plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError
from landscape.slices.directions import Direction
from landscape.slices.pca import random_walk_shares
from landscape.slices.trajectory import Trajectory

LOSSES = np.asarray([80.0, 12.0, 6.0, 2.0, 0.5])  # the first above all of the plane
SHOWN = np.asarray([30.0, 11.0, 4.0, 2.0, 0.5])
PLACES = np.asarray([[-0.9, 0.5], [-0.5, 0.7], [-0.2, 0.4], [0.1, 0.1], [0.0, 0.0]])
RESIDUALS = np.asarray([0.3, 0.2, 0.1, 0.05, 0.0])


@pytest.fixture
def run(plane_sweep):
    """Five checkpoints over a plane; `run(plane=None, ...)`."""
    a, b = np.linspace(-1, 1, 7), np.linspace(-1, 1, 5)
    bowl = 0.5 + 20 * (a[:, None] ** 2 + b**2)

    def make(**options):
        count = len(options.get("losses", LOSSES))
        names = ("along here", "along there")
        directions = tuple(
            Direction(row, name, {"kind": "pca"})
            for row, name in zip(2 * torch.eye(2, 4, dtype=torch.float64), names, strict=True)
        )
        given = {
            "names": tuple(str(100 * step) for step in range(count)),
            "coordinates": PLACES,
            "losses": LOSSES,
            "projected_losses": SHOWN,
            "accuracies": None,
            "projected_accuracies": None,
            "residuals": RESIDUALS,
            "distances": np.hypot(2 * np.linalg.norm(PLACES, axis=1), RESIDUALS),
            "explained": np.asarray([0.8, 0.15, 0.05]),
            "null_shares": random_walk_shares(count, min(3, count - 1)),
            "plane": plane_sweep(loss=bowl),
        }
        return Trajectory(
            settings={},
            directions=directions,
            center=torch.zeros(4, dtype=torch.float64),
            **given | options,
        )

    return make


def points(axis):
    """(M, 2) places of all points and their values."""
    drawn = [
        one for one in axis.collections if len(one.get_offsets()) and not hasattr(one, "levels")
    ]
    places = np.concatenate([one.get_offsets() for one in drawn])
    return places, np.concatenate([one.get_array() for one in drawn]), drawn


def bands(axis):
    return next(one for one in axis.collections if getattr(one, "filled", False))


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def labelled(axis, name):
    return next(one for one in axis.lines if one.get_label() == name)


def test_the_path_is_the_record_in_its_order(run):
    figure = figures.for_record("trajectory", run())["trajectory"]
    picture, *_ = figure.axes
    (path,) = [one for one in picture.lines if len(one.get_xdata()) == 5]
    np.testing.assert_array_equal(path.get_xydata(), PLACES)
    places, values, _ = points(picture)
    assert sorted(map(tuple, places)) == sorted(map(tuple, PLACES))
    order = [list(map(tuple, PLACES)).index(tuple(place)) for place in places]
    np.testing.assert_array_equal(values, LOSSES[order])
    assert figure.get_suptitle() == "Trajectory of 5 checkpoints"


def test_a_point_has_the_colour_that_a_contour_has_at_its_true_loss(run):
    picture, *_ = figures.trajectory(run()).axes
    contours = bands(picture)
    levels = contours.levels
    assert levels[0] <= LOSSES.min() < LOSSES.max() <= levels[-1]
    _, _, drawn = points(picture)
    for points_ in drawn:
        points_.update_scalarmappable()
        for loss, colour in zip(points_.get_array(), points_.get_facecolor(), strict=True):
            band = np.searchsorted(levels, loss, side="right") - 1
            np.testing.assert_allclose(colour, contours.get_facecolor()[band + 1])


def test_first_and_last_have_markers_of_their_own(run):
    figure = figures.trajectory(run())
    *_, drawn = points(figure.axes[0])
    assert [one.get_offsets().tolist() for one in drawn[:2]] == [[[-0.9, 0.5]], [[0.0, 0.0]]]
    shapes = [one.get_paths()[0].vertices for one in drawn]
    assert len({len(shape) for shape in shapes}) > 1
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"first checkpoint", "last checkpoint"} < set(names)


def test_true_and_shown_losses_stand_side_by_side(run):
    _, losses, distances = figures.trajectory(run()).axes
    order = np.arange(1, 6)
    true, shown = (
        labelled(losses, name)
        for name in ("loss of the checkpoint", "loss of the plane at its place")
    )
    np.testing.assert_array_equal(true.get_xydata(), np.c_[order, LOSSES])
    np.testing.assert_array_equal(shown.get_xydata(), np.c_[order, SHOWN])
    assert losses.get_yscale() == "log"
    off = labelled(distances, "distance from the plane")
    np.testing.assert_array_equal(off.get_xydata(), np.c_[order, RESIDUALS])
    far = labelled(distances, "distance from the last checkpoint")
    np.testing.assert_array_equal(far.get_ydata(), run().distances)
    assert distances.get_ylim()[0] == 0
    assert losses.get_xlim() == distances.get_xlim()
    np.testing.assert_array_equal(losses.get_xticks(), distances.get_xticks())


def test_checkpoints_are_named_by_the_record(run):
    *_, distances = figures.trajectory(run()).axes
    assert [text.get_text() for text in distances.get_xticklabels()] == [
        "0", "100", "200", "300", "400",
    ]  # fmt: skip
    many = run(
        **{
            name: np.repeat(value, 9, axis=0)
            for name, value in {
                "coordinates": PLACES,
                "losses": LOSSES,
                "projected_losses": SHOWN,
                "residuals": RESIDUALS,
                "distances": RESIDUALS,
            }.items()
        }
    )
    *_, distances = figures.trajectory(many).axes
    names = [text.get_text() for text in distances.get_xticklabels()]
    assert (names[0], names[-1], len(names)) == ("0", "4400", 5)


def test_shares_stand_beside_those_of_a_random_walk(run):
    first, second = 100 * random_walk_shares(5, 2)
    text = caption(figures.trajectory(run()))
    assert "explain 80 and 15 % of the variance" in text
    assert f"a random walk of as many points {first:.3g} and {second:.3g} %" in text
    assert f"shows {100 * run().in_plane_share:.3g} % of the squared distances" in text
    assert "loss and a checkpoint's 50." in text


def test_the_caveats_of_the_plane_are_there_too(run, plane_sweep):
    plane = plane_sweep(loss=1 + np.arange(35.0).reshape(7, 5), caveats={"stale_bn_gap": 0.75})
    assert "up to 0.75" in caption(figures.trajectory(run(plane=plane)))


def test_without_a_plane_the_path_stands_alone_with_its_colours(run, fits_its_sheet, tmp_path):
    figure = figures.trajectory(run(plane=None))
    figure.savefig(tmp_path / "figure.png")
    picture, *_ = figure.axes
    assert len(points(picture)[1]) == 5
    assert not any(getattr(one, "filled", False) for one in picture.collections)
    low, high = np.transpose([picture.get_xlim(), picture.get_ylim()])
    assert (low < PLACES.min(0)).all()
    assert (PLACES.max(0) < high).all()
    assert picture.child_axes
    fits_its_sheet(figure)


def test_nothing_leaves_the_sheet(run, fits_its_sheet):
    names = tuple(f"step_{step:06d}" for step in range(5))
    figure = figures.trajectory(run(names=names))
    fits_its_sheet(figure)
    assert {text.get_rotation() for text in figure.axes[-1].get_xticklabels()} == {30.0}


def test_a_plane_that_is_too_small_does_not_cut_the_path(run, plane_sweep):
    a = np.linspace(-0.3, 0.3, 7)
    plane = plane_sweep(a=a, b=a[:5], loss=1 + np.arange(35.0).reshape(7, 5))
    picture, *_ = figures.trajectory(run(plane=plane)).axes
    (low, high), (bottom, top) = picture.get_xlim(), picture.get_ylim()
    assert low < PLACES[:, 0].min() < PLACES[:, 0].max() < high
    assert bottom <= -0.3
    assert PLACES[:, 1].max() < top


def test_the_plane_within_its_limits_has_no_margin(run):
    picture, *_ = figures.trajectory(run()).axes
    assert (picture.get_xlim(), picture.get_ylim()) == ((-1, 1), (-1, 1))


def test_a_loss_that_is_not_finite_has_a_cross_and_no_colour(run, tmp_path):
    losses = LOSSES.copy()
    losses[1], losses[2] = np.nan, np.inf
    figure = figures.trajectory(run(losses=losses))
    figure.savefig(tmp_path / "figure.png")
    picture, series, _ = figure.axes
    assert sorted(points(picture)[1]) == sorted(losses[[0, 3, 4]])
    (crosses,) = [one for one in picture.lines if one.get_marker() == "x"]
    np.testing.assert_array_equal(crosses.get_xydata(), PLACES[1:3])
    assert "loss not finite" in [text.get_text() for text in figure.legends[0].get_texts()]
    drawn = labelled(series, "loss of the checkpoint").get_ydata()
    np.testing.assert_array_equal(np.isnan(drawn), ~np.isfinite(losses))


def test_a_stored_record_gives_the_same_figure(run, tmp_path):
    (group,) = ls.save(tmp_path / "r.h5", run())
    direct, stored = (
        figures.trajectory(run()),
        figures.trajectory(store.read(tmp_path / "r.h5", group)),
    )
    assert caption(direct) == caption(stored)
    for axis, other in zip(direct.axes, stored.axes, strict=True):
        assert axis.get_xlabel() == other.get_xlabel()
        for one, same in zip(axis.lines, other.lines, strict=True):
            np.testing.assert_array_equal(one.get_xydata(), same.get_xydata())
    np.testing.assert_array_equal(points(direct.axes[0])[1], points(stored.axes[0])[1])


@pytest.mark.parametrize("name", ["still", "straight", "two", "unknown", "zero loss"])
def test_odd_runs_are_drawn_without_a_warning(run, name, tmp_path):
    alone = run(plane=None)
    odd = {
        "still": lambda: replace(
            alone,
            coordinates=0 * PLACES,
            distances=0 * LOSSES,
            residuals=0 * LOSSES,
            explained=np.full(3, np.nan),
        ),
        "straight": lambda: replace(alone, coordinates=PLACES * [1, 1e-17]),
        "two": lambda: run(
            plane=None,
            coordinates=PLACES[3:],
            losses=LOSSES[3:],
            projected_losses=SHOWN[3:],
            residuals=RESIDUALS[3:],
            distances=RESIDUALS[3:],
            explained=np.ones(1),
        ),
        "unknown": lambda: replace(alone, losses=LOSSES * np.nan, projected_losses=LOSSES * np.nan),
        "zero loss": lambda: replace(alone, losses=0 * LOSSES, projected_losses=0 * LOSSES),
    }[name]()
    figure = figures.trajectory(odd)
    figure.savefig(tmp_path / "figure.png")
    for axis in figure.axes:
        assert np.isfinite([*axis.get_xlim(), *axis.get_ylim()]).all()
        assert axis.get_xlim()[1] - axis.get_xlim()[0] > 1e-6
    if name == "straight":
        assert np.ptp(figure.axes[0].get_ylim()) > 0.5  # not the rounding, blown up


def test_a_plane_is_no_trajectory(plane_sweep):
    with pytest.raises(RequestError, match="--probe trajectory"):
        figures.trajectory(plane_sweep())
