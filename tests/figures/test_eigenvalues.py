"""The figure of eigenvalues: what it shows are the result's numbers, and its doubts are seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import SPECTRA, symmetric_matrix

import landscape as ls
from landscape import figures, store


def pairs_of(spectrum, k=6, **options):
    operator = ls.MatrixOperator(symmetric_matrix(spectrum))
    return ls.eigsh(operator, k, seed=0, **{"which": "BE", **options})


def points(axis):
    """The heights of all markers but the dashes, by rank."""
    drawn = [line for line in axis.lines if line.get_marker() in "oX"]
    ranks = np.concatenate([line.get_xdata() for line in drawn])
    return np.concatenate([line.get_ydata() for line in drawn])[np.argsort(ranks)]


def intervals(axis):
    return np.asarray([segment[:, 1] for segment in axis.collections[0].get_segments()])


def markers(axis):
    return {
        (line.get_marker(), line.get_markerfacecolor() == "white"): list(line.get_xdata())
        for line in axis.lines
        if line.get_marker() in "oX"
    }


def test_both_ends_show_the_result_from_the_outermost_inwards():
    pairs = pairs_of(SPECTRA["trained"](50))
    figure = figures.eigenvalues(pairs)
    top, bottom, top_errors, bottom_errors = figure.axes
    np.testing.assert_array_equal(points(top), pairs.values[:3])
    np.testing.assert_array_equal(points(bottom), pairs.values[:2:-1])
    np.testing.assert_array_equal(intervals(top), pairs.intervals[:3])
    np.testing.assert_array_equal(intervals(bottom), pairs.intervals[:2:-1])
    np.testing.assert_array_equal(points(top_errors), pairs.residual_norms[:3])
    np.testing.assert_array_equal(points(bottom_errors), pairs.residual_norms[:2:-1])
    assert top_errors.get_yscale() == bottom_errors.get_yscale() == "log"
    assert f"{pairs.num_products} products" in figure.get_suptitle()


def test_axes_carry_their_units():
    top, _, errors, bottom_errors = figures.eigenvalues(pairs_of(np.arange(12.0))).axes
    assert top.get_ylabel() == "eigenvalue\n(loss / parameter²)"
    assert errors.get_ylabel() == "residual norm\n(loss / parameter²)"
    assert (errors.get_xlabel(), bottom_errors.get_xlabel()) == (
        "rank from the top",
        "rank from the bottom",
    )


def test_each_doubt_has_its_own_marker_and_its_line_in_the_legend():
    pairs = replace(
        pairs_of(np.linspace(0, 1, 20), 4, which="LA"),
        converged=np.asarray([True, True, False, False]),
        complete=np.asarray([True, False, True, False]),
    )
    figure = figures.eigenvalues(pairs)
    (legend,) = figure.legends
    expected = {("o", False): [1], ("o", True): [2], ("X", False): [3], ("X", True): [4]}
    assert all(markers(axis) == expected for axis in figure.axes)
    names = {text.get_text() for text in legend.get_texts()}
    assert {
        "converged",
        "converged, but another may belong before it",
        "not converged",
        "not converged, and another may belong before it",
    } < names


def test_a_converged_result_has_no_legend_for_doubts():
    (legend,) = figures.eigenvalues(pairs_of(np.arange(12.0))).legends
    assert not any("not converged" in text.get_text() for text in legend.get_texts())


@pytest.mark.parametrize(("which", "titles"), [("LA", ["Largest"]), ("SA", ["Smallest"])])
def test_one_end_makes_one_column(which, titles):
    figure = figures.eigenvalues(pairs_of(np.linspace(-1, 1, 20), 3, which=which))
    assert len(figure.axes) == 2
    assert figure.axes[0].get_title("left").split(":")[0] in titles


def test_a_stored_record_gives_the_same_artists(tmp_path):
    pairs = pairs_of(1 + np.arange(12.0))  # positive: the sign does not tell the ends apart
    (group,) = ls.save(tmp_path / "r.h5", pairs)
    direct = figures.eigenvalues(pairs)
    stored = figures.eigenvalues(store.read(tmp_path / "r.h5", group))
    assert direct.get_suptitle() == stored.get_suptitle()
    for axis, other in zip(direct.axes, stored.axes, strict=True):
        np.testing.assert_array_equal(points(axis), points(other))
        assert markers(axis) == markers(other)
        assert axis.get_title("left") == other.get_title("left")


def test_a_record_without_its_request_is_parted_by_sign():
    pairs = pairs_of(SPECTRA["mirrored"](20))
    top, bottom, *_ = figures.eigenvalues(pairs.to_dataset()).axes
    np.testing.assert_array_equal(points(top), pairs.values[:3])
    np.testing.assert_array_equal(points(bottom), pairs.values[:2:-1])


@pytest.mark.parametrize(
    "spectrum",
    [np.zeros(8), np.full(8, 2.0), -np.arange(1, 9.0), [3.0], 1e-9 * np.arange(8), [5, 1, 0.0]],
    ids=["zero", "equal", "negative", "one", "tiny", "three"],
)
def test_odd_spectra_are_drawn_without_a_warning(spectrum, tmp_path):
    figure = figures.eigenvalues(pairs_of(spectrum, min(4, len(spectrum))))
    figure.savefig(tmp_path / "figure.png")
    assert all(np.isfinite(axis.get_ylim()).all() for axis in figure.axes)


def test_values_that_are_nan_are_left_out(tmp_path):
    data = pairs_of(np.arange(12.0)).to_dataset()
    for name in ("eigenvalue", "residual_norm", "interval"):
        data[name][-1] = np.nan
    figure = figures.eigenvalues(data)
    figure.savefig(tmp_path / "figure.png")
    drawn = np.concatenate([line.get_ydata() for axes in figure.axes for line in axes.lines])
    known = data["eigenvalue"].values[:-1]
    # matplotlib leaves a gap where there is NaN; the five others are all there.
    assert all(np.isclose(drawn, value, rtol=1e-9).any() for value in known)
    assert not np.isclose(drawn, 0.0, atol=1e-20).any()  # nor is it drawn as zero
    data = data.map(lambda column: column * np.nan if column.dtype == float else column)
    figures.eigenvalues(data).savefig(tmp_path / "figure.png")
