"""The figure of the spectral density: the curve is the result's, and no eigenvalue is blurred."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import SPECTRA, symmetric_matrix

import landscape as ls
from landscape import figures, store
from landscape.curvature.density import SpectralDensity


def density_of(spectrum, **options):
    operator = ls.MatrixOperator(symmetric_matrix(spectrum))
    return ls.spectral_density(operator, seed=0, **{"num_steps": 12, "deflate": 5, **options})


def line(axis, start):
    return next(found for found in axis.lines if str(found.get_label()).startswith(start))


def sticks(axis):
    """Segments of the deflated eigenvalues, (d, 2, 2)."""
    found = [one for one in axis.collections if hasattr(one, "get_segments")]
    return np.asarray([segment for one in found for segment in one.get_segments()])


def test_the_curve_is_the_distribution_function_and_the_band_is_its_band():
    found = density_of(SPECTRA["trained"](60))
    top, _ = figures.density(found).axes
    curve = line(top, "distribution function")
    x = curve.get_xdata()
    np.testing.assert_array_equal(curve.get_ydata(), found.cdf(x))
    assert curve.get_drawstyle() == "steps-post"  # F is a staircase, constant between its nodes
    assert set(found.outliers) | set(found.nodes[found.weights > 0]) <= set(x)
    low, high = found.cdf_band(x)
    (band,) = top.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    for bound in (low, high):  # each holds from its point up to the next
        assert {*zip(x, bound, strict=True), *zip(x[1:], bound[:-1], strict=True)} <= corners


def test_each_outlier_is_a_stick_of_mass_one_over_n():
    found = density_of(SPECTRA["trained"](60))
    _, bottom = figures.density(found).axes
    segments = sticks(bottom)
    assert len(segments) == len(found.outliers) == 5
    np.testing.assert_array_equal(segments[:, 1, 0], found.outliers)
    np.testing.assert_allclose(segments[:, 1, 1], 1 / 60)
    assert "1/60 each" in line(bottom, "5 deflated").get_label()
    assert not len(sticks(figures.density(density_of(np.arange(30.0), deflate=0)).axes[1]))


@pytest.mark.parametrize("deflate", [0, 5])
def test_the_area_under_the_density_is_the_mass_of_what_was_not_deflated(deflate):
    found = density_of(np.linspace(-1, 1, 40), deflate=deflate)
    _, bottom = figures.density(found).axes
    curve = line(bottom, "the others")
    width = bottom.xaxis.get_transform().linear_width
    area = np.trapezoid(curve.get_ydata(), np.arcsinh(curve.get_xdata() / width))
    # What is missing lies beyond the ends of the axis: the tails of the outermost kernels.
    assert (40 - len(found.outliers)) / 40 == pytest.approx(area, abs=0.05)


def test_a_far_outlier_does_not_blur_the_bulk():
    bulk = 1e-3 * np.linspace(-1, 1, 59)
    found = density_of(np.r_[200.0, bulk], deflate=0, num_steps=20)
    _, bottom = figures.density(found).axes
    curve = line(bottom, "the others")
    between = (np.abs(curve.get_xdata()) > 0.1) & (curve.get_xdata() < 5)
    assert curve.get_ydata()[between].max() < 1e-3
    assert curve.get_ydata()[np.abs(curve.get_xdata()) < 1e-3].min() > 0.05


def test_axes_carry_their_units_and_share_the_eigenvalue():
    top, bottom = figures.density(density_of(SPECTRA["trained"](60))).axes
    assert bottom.get_xlabel() == "eigenvalue λ (loss / parameter²)"
    assert top.get_ylabel() == "share of eigenvalues ≤ λ"
    assert bottom.get_ylabel() == "share of eigenvalues"
    assert top.get_xlim() == bottom.get_xlim()
    assert (bottom.get_xscale(), bottom.get_yscale()) == ("asinh", "log")


def test_the_noise_floor_is_shaded_from_minus_to_plus():
    found = replace(density_of(np.linspace(-1, 1, 30)), noise_floor=0.25)
    for axis in figures.density(found).axes:
        (shade,) = axis.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (-0.25, 0.25)


def test_the_negative_mass_is_written_with_its_band():
    found = density_of(np.r_[-np.ones(10), np.ones(30)], deflate=0)
    low, high = (100 * float(bound) for bound in found.cdf_band(-found.noise_floor))
    text = figures.density(found).axes[0].get_title("left")
    negative = 100 * float(found.cdf(-found.noise_floor))
    assert f"{negative:.3g} % negative (95 % band: {low:.3g} to {high:.3g} %)" in text


def test_zero_is_not_negative_when_there_is_no_noise():
    text = figures.density(density_of(np.zeros(8), deflate=0)).axes[0].get_title("left")
    assert text.startswith("0 % negative")
    assert "100 % within the noise" in text


def test_a_stored_record_gives_the_same_artists(tmp_path):
    found = density_of(SPECTRA["trained"](60))
    (group,) = ls.save(tmp_path / "r.h5", found)
    record = store.read(tmp_path / "r.h5", group)
    direct, stored = figures.density(found), figures.density(record)
    assert direct.get_suptitle() == stored.get_suptitle()
    assert f"{found.num_products} products" in stored.get_suptitle()
    for axis, other in zip(direct.axes, stored.axes, strict=True):
        assert axis.get_title("left") == other.get_title("left")
        for one, same in zip(axis.lines, other.lines, strict=True):
            np.testing.assert_array_equal(one.get_xydata(), same.get_xydata())
    assert len(figures.density(found.to_dataset()).axes[1].lines) == len(direct.axes[1].lines)


@pytest.mark.parametrize("deflate", [0, 5])
def test_a_density_is_rebuilt_from_its_stored_record(tmp_path, deflate):
    found = density_of(SPECTRA["trained"](60), deflate=deflate, num_probes=2)
    (group,) = ls.save(tmp_path / "r.h5", found)
    again = SpectralDensity.from_dataset(store.read(tmp_path / "r.h5", group))
    x = np.linspace(-1, 101, 50)
    np.testing.assert_array_equal(again.cdf(x), found.cdf(x))
    np.testing.assert_array_equal(again.cdf_band(x), found.cdf_band(x))
    assert again.wasserstein_error() == found.wasserstein_error()
    # Saved again it is the same request, so nothing is written twice.
    assert ls.save(tmp_path / "r.h5", again) == [group]
    assert (again.edges, again.size, again.noise_floor) == (
        found.edges,
        found.size,
        found.noise_floor,
    )


@pytest.mark.parametrize("deflate", [0, 4])
@pytest.mark.parametrize(
    "spectrum",
    [np.zeros(8), np.full(8, 2.0), -np.arange(1, 9.0), [3.0], [3, 1, 0.1, -0.2, -1.0]],
    ids=["zero", "equal", "negative", "one", "five"],
)
def test_odd_spectra_are_drawn_without_a_warning(spectrum, deflate, tmp_path):
    figure = figures.density(density_of(spectrum, deflate=deflate))
    figure.savefig(tmp_path / "figure.png")
    low, high = figure.axes[1].get_xlim()
    assert low < min(spectrum) <= max(spectrum) < high


def test_everything_deflated_leaves_one_to_the_probe(tmp_path):
    operator = ls.MatrixOperator(symmetric_matrix([3.0, 1.0, -1.0, -2.0]))
    pairs = ls.eigsh(operator, 4, seed=0)
    figure = figures.density(ls.spectral_density(operator, deflate=pairs, seed=0))
    figure.savefig(tmp_path / "figure.png")
    assert len(sticks(figure.axes[1])) == 3
