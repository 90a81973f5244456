"""The spectral density is the spectrum, within the band and the distance that it states itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
from oracles import SPECTRA, CountingOperator, symmetric_matrix
from sklearn.datasets import load_digits
from torch import nn

from landscape.curvature.density import SpectralDensity, spectral_density
from landscape.curvature.eigen import eigsh
from landscape.curvature.eigenpairs import Eigenpairs
from landscape.curvature.hessian import HessianOperator
from landscape.curvature.operators import MatrixOperator
from landscape.curvature.trace import trace
from landscape.errors import RequestError
from landscape.objective import Objective

Array = NDArray[np.float64]

N = 40
F32, F64 = torch.float32, torch.float64


@functools.cache
def _matrix(spectrum: str) -> torch.Tensor:
    return symmetric_matrix(SPECTRA[spectrum](N))


@functools.cache
def _pairs(spectrum: str, k: int) -> Eigenpairs:
    pairs = eigsh(MatrixOperator(_matrix(spectrum)), k, which="LM", seed=0)
    assert pairs.converged.all()
    return pairs


def _density(spectrum: str, **options: object) -> SpectralDensity:
    options.setdefault("deflate", 0)
    options.setdefault("seed", 1)
    return spectral_density(MatrixOperator(_matrix(spectrum)), **options)


@functools.cache
def _probes(spectrum: str, num_steps: int, k: int, num_probes: int) -> SpectralDensity:
    deflate = _pairs(spectrum, k) if k else 0
    return _density(spectrum, num_steps=num_steps, num_probes=num_probes, deflate=deflate)


def _one_by_one(density: SpectralDensity, num_probes: int = 1) -> Iterator[SpectralDensity]:
    """The results that its probes would have given as so many runs of their own."""
    for row in range(0, len(density.nodes), num_probes):
        rows = slice(row, row + num_probes)
        yield dataclasses.replace(
            density,
            nodes=density.nodes[rows],
            weights=density.weights[rows],
            is_exact=density.is_exact[rows],
        )


def _truth(values: Array, x: Array) -> Array:
    return np.searchsorted(np.sort(values), x, side="right") / len(values)


def _between(values: Array) -> Array:
    """Points halfway between neighbouring eigenvalues: F there is no question of rounding."""
    distinct = np.unique(values)
    return (distinct[1:] + distinct[:-1]) / 2


def _wasserstein(density: SpectralDensity, values: Array) -> float:
    """The integral of |F - truth|."""
    points = np.unique(np.concatenate([density.nodes.ravel(), density.outliers, values]))
    gaps = np.abs(density.cdf(points[:-1]) - _truth(values, points[:-1]))
    return float((np.diff(points) * gaps).sum())


# -- the quadrature -----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "scale"), [(F64, 1), (F32, 1), (F64, 1e-8), (F32, 1e3)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_nodes_lie_within_the_spectrum_and_weights_sum_to_one(spectrum, dtype, scale):
    values = scale * SPECTRA[spectrum](N)
    operator = MatrixOperator(symmetric_matrix(values, dtype=dtype))
    for num_steps in (7, N):
        density = spectral_density(operator, num_steps=num_steps, deflate=0, seed=0)
        rounding = 20 * torch.finfo(dtype).eps * np.abs(values).max()
        assert density.nodes.min() >= values.min() - rounding
        assert density.nodes.max() <= values.max() + rounding
        assert (density.weights >= 0).all()
        np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-14)
        assert (np.diff(density.nodes) >= 0).all()


def test_a_quadrature_of_m_nodes_knows_2m_moments_of_what_its_probe_sees():
    shallow, deep = (_density("linspace", num_steps=steps, seed=3) for steps in (6, N))
    for power in range(12):
        moments = [(d.weights * d.nodes**power).sum() for d in (shallow, deep)]
        np.testing.assert_allclose(*moments, rtol=1e-12)
    moments = [(d.weights * d.nodes**12).sum() for d in (shallow, deep)]
    assert abs(moments[0] / moments[1] - 1) > 1e-8


@pytest.mark.parametrize("spectrum", ["linspace", "trained", "geometric", "mirrored", "clustered"])
def test_what_a_probe_sees_lies_between_the_staircases_beside_it(spectrum):
    # At full depth the same probe sees its own distribution with no error.
    deep = _density(spectrum, num_steps=N, seed=3)
    assert deep.is_exact.all()
    x = _between(SPECTRA[spectrum](N))
    for num_steps in (2, 5, 12):
        shallow = _density(spectrum, num_steps=num_steps, seed=3)
        assert not shallow.is_exact.any()
        low, high = shallow.cdf_band(x, confidence=1e-12)  # no allowance for sampling
        assert (low <= deep.cdf(x) + 1e-10).all()
        assert (high >= deep.cdf(x) - 1e-10).all()


@pytest.mark.parametrize("dtype", [F64, F32])
def test_an_invariant_space_gives_the_eigenvalues_and_nothing_else(dtype):
    # PyHessian: nodes from -1.53 to 5, weights that sum to 1.038.
    operator = MatrixOperator(symmetric_matrix(SPECTRA["three_values"](N), dtype=dtype))
    density = spectral_density(operator, num_steps=20, num_probes=50, deflate=0, seed=0)
    assert density.is_exact.all()
    rounding = 100 * torch.finfo(dtype).eps
    for nodes, weights in zip(density.nodes, density.weights, strict=True):
        assert (weights > 0).sum() == 3
        np.testing.assert_allclose(nodes[weights > 0], [0, 1, 5], rtol=0, atol=rounding)
    shares = np.asarray([21, 13, 6]) / N  # the eigenvalues are 0, 1 and 5
    errors = np.sqrt(2 * shares * (1 - shares) / (N + 2) / 50)
    assert (np.abs(density.weights[:, :3].mean(0) - shares) < 4 * errors).all()
    np.testing.assert_allclose(density.edges, [0, 5], rtol=0, atol=rounding)
    np.testing.assert_array_equal(density.cdf([-1, 6]), [0, 1])
    low, high = density.cdf_band([-1, 6])
    np.testing.assert_array_equal([low, high], [[0, 1], [0, 1]])


def test_with_all_but_one_eigenvalue_deflated_nothing_is_random():
    values = SPECTRA["three_values"](N)  # zeros are left: one step finds them
    density = _density("three_values", deflate=_pairs("three_values", 19))
    assert density.is_exact.all()
    for x in (_between(values), np.asarray([-0.1, 1e-9, 1.001, 5.001])):
        np.testing.assert_allclose(density.cdf(x), _truth(values, x), rtol=1e-15)
        low, high = density.cdf_band(x)
        np.testing.assert_allclose(low, high, rtol=1e-15)
    assert density.wasserstein_error() < 1e-12
    assert _wasserstein(density, values) < 1e-6


# -- outliers -----------------------------------------------------------------------------------


def test_each_outlier_has_the_mass_of_one_eigenvalue():
    values = SPECTRA["trained"](N)
    density = _density("trained", num_steps=12, deflate=_pairs("trained", 10))
    np.testing.assert_allclose(np.sort(density.outliers), np.geomspace(10, 100, 10), rtol=1e-5)
    for outlier in density.outliers:
        mass = density.mass(0.999 * outlier, 1.001 * outlier)
        np.testing.assert_allclose(mass, 1 / N, rtol=1e-12)
    x = _between(values[:10])
    np.testing.assert_allclose(density.cdf(x), _truth(values, x), rtol=1e-14)
    assert density.cdf(101) == 1
    assert density.cdf(5) == 1 - 10 / N
    assert np.abs(density.nodes).max() <= np.abs(values[10:]).max() + 1e-3


def test_without_deflation_the_weight_of_an_outlier_is_noise():
    shares = [1 - float(each.cdf(99)) for each in _one_by_one(_probes("trained", 8, 0, 30))]
    assert np.std(shares) > 0.5 / N  # of 1 / N: chi-squared with one degree of freedom


def test_outliers_are_found_when_only_their_number_is_given():
    operator = CountingOperator(_matrix("trained"))
    density = spectral_density(operator, num_steps=12, deflate=10, seed=0)
    assert density.num_products == operator.count
    np.testing.assert_allclose(density.outliers, np.geomspace(100, 10, 10), rtol=1e-5)
    assert density.nodes.shape == (1, 12)
    assert density.settings["deflated"] == 10


def test_only_converged_pairs_are_deflated():
    values = SPECTRA["trained"](N)
    pairs = eigsh(MatrixOperator(_matrix("trained")), 10, which="LM", seed=0, max_products=25)
    assert pairs.converged.any()
    assert not pairs.converged.all()
    density = _density("trained", num_steps=N, deflate=pairs)
    np.testing.assert_array_equal(density.outliers, pairs.values[pairs.converged])
    assert density.nodes.shape[1] == N - pairs.converged.sum()
    found = np.sort(np.concatenate([density.outliers, density.nodes[0]]))
    np.testing.assert_allclose(found, np.sort(values), rtol=0, atol=0.01)


def test_deflation_within_a_multiple_eigenvalue_leaves_its_other_copies():
    values = SPECTRA["repeated"](N)  # 5 four times, 3 three times
    density = _density("repeated", num_steps=N, deflate=_pairs("repeated", 2))
    np.testing.assert_allclose(density.outliers, 5, rtol=1e-6)
    np.testing.assert_allclose(density.nodes.max(), 5, rtol=1e-6)
    low, high = density.cdf_band(4)
    assert low <= _truth(values, np.asarray(4.0)) <= high


# -- distribution function and quantiles ----------------------------------------------------------


@pytest.mark.parametrize("k", [0, 5])
@pytest.mark.parametrize("spectrum", ["trained", "three_values", "plus_minus", "zero"])
def test_the_distribution_function_is_one(spectrum, k):
    density = _density(spectrum, num_steps=9, num_probes=3, deflate=k)
    steps = np.unique(np.concatenate([density.nodes.ravel(), density.outliers]))
    x = np.sort(np.concatenate([steps, steps - 1e-9, steps + 1e-9, [-1e9, 1e9]]))
    heights = density.cdf(x)
    assert (np.diff(heights) >= 0).all()
    assert (heights[0], heights[-1]) == (0, 1)
    # From the right it is continuous; from the left it jumps (nodes may be a rounding apart).
    apart = steps[np.diff(steps, append=np.inf) > 1e-9]
    np.testing.assert_array_equal(density.cdf(apart), density.cdf(np.nextafter(apart, np.inf)))
    assert (density.cdf(np.nextafter(steps, -np.inf)) < density.cdf(steps)).all()
    low, high = density.cdf_band(x)
    assert ((low <= heights) & (heights <= high)).all()
    assert density.cdf(np.zeros((2, 3))).shape == (2, 3)
    assert np.shape(density.cdf_band(np.zeros((2, 3)))) == (2, 2, 3)


@pytest.mark.parametrize("k", [0, 5])
def test_a_quantile_is_the_inverse_of_the_distribution_function(k):
    density = _density("trained", num_steps=9, num_probes=3, deflate=k)
    shares = np.linspace(0.001, 1, 97)
    x = density.quantile(shares)
    assert (density.cdf(x) >= shares - 1e-9).all()
    assert (density.cdf(np.nextafter(x, -np.inf)) < shares).all()
    steps = np.unique(np.concatenate([density.nodes.ravel(), density.outliers]))
    for heights in (density.cdf(steps), np.nextafter(density.cdf(steps), 0.9)):  # and a rounding
        np.testing.assert_array_equal(density.quantile(heights), steps)
    assert density.quantile(1) == steps[-1]
    assert density.quantile(0) == steps[0]
    for share in (-0.1, 50, np.nan):
        with pytest.raises(RequestError, match="between 0 and 1"):
            density.quantile(share)


def test_quantiles_do_not_depend_on_a_far_outlier():
    # A kernel as wide as a share of the range turns a bulk of 0.5 into one of 3.4 (trap 10).
    bulk = np.linspace(-1, 1, N - 1)
    plain = spectral_density(MatrixOperator(symmetric_matrix(bulk)), deflate=0, seed=0)
    values = np.append(bulk, 200)
    far = spectral_density(MatrixOperator(symmetric_matrix(values)), deflate=1, seed=0)
    for share in (0.1, 0.5, 0.9):
        assert abs(far.quantile(share) - plain.quantile(share)) < 0.35
    assert far.quantile(0.975) <= 1 + 1e-6


# -- its doubt ----------------------------------------------------------------------------------


def _assert_beta_variance(values: Array, num_runs: int, num_probes: int) -> None:
    n = len(values)
    operator, total = MatrixOperator(symmetric_matrix(values)), num_runs * num_probes
    density = spectral_density(operator, num_steps=n, num_probes=total, deflate=0, seed=0)
    runs = list(_one_by_one(density, num_probes))
    x = _between(values)[n // 8 :: n // 4]
    share = _truth(values, x)
    seen = np.stack([run.cdf(x) for run in runs])
    expected = np.sqrt(2 * share * (1 - share) / (n + 2) / num_probes)
    assert (np.abs(seen.mean(0) - share) < 4 * expected / np.sqrt(len(runs))).all()
    np.testing.assert_allclose(seen.std(0, ddof=1), expected, rtol=4 / np.sqrt(2 * len(runs)))


@pytest.mark.parametrize("num_probes", [1, 2])
def test_the_sampling_variance_is_that_of_a_beta_distribution(num_probes):
    _assert_beta_variance(np.linspace(-1, 2, 10), 80 // num_probes, num_probes)


@pytest.mark.slow
@pytest.mark.parametrize("num_probes", [1, 4])
@pytest.mark.parametrize("spectrum", ["linspace", "trained", "three_values"])
def test_the_sampling_variance_of_many_runs(spectrum, num_probes):
    _assert_beta_variance(SPECTRA[spectrum](N), 400 // num_probes, num_probes)


def _band_coverage(spectrum: str, density: SpectralDensity, num_probes: int = 1) -> float:
    """Over the points between eigenvalues, and the runs."""
    x = _between(SPECTRA[spectrum](N))
    truth = _truth(SPECTRA[spectrum](N), x)
    held = []
    for run in _one_by_one(density, num_probes):
        low, high = run.cdf_band(x)
        held.append((low <= truth + 1e-12) & (truth <= high + 1e-12))
    return float(np.mean(held))


def _distance_coverage(spectrum: str, density: SpectralDensity, num_probes: int = 1) -> float:
    values = SPECTRA[spectrum](N)
    slack = 1e-6 * np.abs(values).max()  # outliers are known to about tol^2
    return float(
        np.mean(
            [
                _wasserstein(run, values) <= run.wasserstein_error() + slack
                for run in _one_by_one(density, num_probes)
            ]
        )
    )


@pytest.mark.parametrize(
    ("spectrum", "num_steps", "k", "num_runs"),
    [
        ("linspace", 6, 0, 40),
        ("trained", 6, 5, 40),
        ("low_rank", N, 0, 100),  # these three are exact: no quadrature error hides a narrow band
        ("three_values", N, 0, 200),
        ("three_values", N, 5, 200),
    ],
)
def test_the_band_holds_the_truth_at_93_percent_of_the_points(spectrum, num_steps, k, num_runs):
    density = _probes(spectrum, num_steps, k, num_runs)
    assert _band_coverage(spectrum, density) >= 0.93
    assert _distance_coverage(spectrum, density) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("num_probes", [1, 4])
@pytest.mark.parametrize(("num_steps", "k"), [(3, 0), (8, 0), (N, 0), (8, 5)])
@pytest.mark.parametrize("spectrum", sorted(set(SPECTRA) - {"zero"}))
def test_the_band_holds_the_truth_whatever_the_spectrum(spectrum, num_steps, k, num_probes):
    density = _probes(spectrum, num_steps, k, 1200)
    assert _band_coverage(spectrum, density, num_probes) >= 0.93
    assert _distance_coverage(spectrum, density, num_probes) >= 0.94  # of 95, and 0.6 either way


def test_the_band_narrows_with_probes_and_with_steps():
    x = np.linspace(0.05, 0.95, 19)

    def width(num_steps: int, num_probes: int) -> float:
        low, high = _density("linspace", num_steps=num_steps, num_probes=num_probes).cdf_band(x)
        return float((high - low).mean())

    assert width(16, 4) < 0.8 * width(16, 1)
    assert width(16, 4) < 0.6 * width(3, 4)
    # At full depth only sampling is left, and it falls with the root of the probes.
    np.testing.assert_allclose(width(N, 4) / width(N, 1), 1 / 2, rtol=0.1)


def test_a_surer_band_is_wider():
    density = _density("linspace", num_steps=8)
    widths = [float(np.diff(density.cdf_band(0.5, level), axis=0)[0]) for level in (0.5, 0.9, 0.99)]
    assert widths[0] < widths[1] < widths[2]
    for level in (0, 1, 95):
        with pytest.raises(RequestError, match=f"confidence={level}"):
            density.cdf_band(0.5, level)


def _edges_hold(spectrum: str, deflate: Eigenpairs | int, num_seeds: int, num_steps: int) -> float:
    values = SPECTRA[spectrum](N)
    held = []
    for seed in range(num_seeds):
        run = _density(spectrum, num_steps=num_steps, deflate=deflate, seed=seed)
        held.append(run.edges[0] <= values.min() and values.max() <= run.edges[1])
    return float(np.mean(held))


@pytest.mark.parametrize("k", [0, 5])
@pytest.mark.parametrize("spectrum", ["trained", "linspace", "clustered", "three_values"])
def test_the_edges_hold_the_spectrum(spectrum, k):
    # To the last bit: a deflated eigenvalue lies within what its residual allows, not above it.
    assert _edges_hold(spectrum, _pairs(spectrum, k) if k else 0, 20, 6) == 1


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [2, 6, 15, N])
@pytest.mark.parametrize("k", [0, 5])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_edges_hold_the_spectrum_in_97_of_100_runs(spectrum, k, num_steps):
    deflate = _pairs(spectrum, k) if k else 0
    assert _edges_hold(spectrum, deflate, 100, num_steps) >= 0.97


def test_pairs_of_a_loose_tolerance_widen_the_edges():
    values = np.append(np.linspace(0, 1, N - 1), 3.0)
    operator = MatrixOperator(symmetric_matrix(values))
    loose = eigsh(operator, 1, which="LM", tol=0.2, seed=0, max_products=7)
    assert loose.converged.all()
    assert loose.residual_norms[0] > 0.01
    density = spectral_density(operator, deflate=loose, seed=0)
    assert density.outliers[0] < 3 <= density.edges[1] < 3 + loose.residual_norms[0]


# -- special matrices and sizes -----------------------------------------------------------------


@pytest.mark.parametrize("deflate", [0, 10])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("num_steps", [1, 2, 80])
def test_tiny_matrices(size, num_steps, deflate):
    values = np.asarray([-2.0, 1.0, 7.0])[:size]
    operator = MatrixOperator(symmetric_matrix(values))
    density = spectral_density(operator, num_steps=num_steps, deflate=deflate, seed=0)
    assert density.cdf(values.max() + 1e-9) == 1
    assert density.cdf(values.min() - 1e-9) == 0 or num_steps == 1
    if deflate:
        found = np.sort(np.concatenate([density.outliers, density.nodes[0]]))
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-12)
        assert _wasserstein(density, values) < 1e-12


def test_all_pairs_may_be_given():
    values = SPECTRA["trained"](N)
    density = _density("trained", deflate=_pairs("trained", N))
    found = np.sort(np.concatenate([density.outliers, density.nodes[0]]))
    np.testing.assert_allclose(found, np.sort(values), rtol=0, atol=1e-9)
    assert density.is_exact.all()
    assert density.wasserstein_error() < 1e-9


def test_a_zero_matrix_has_all_its_mass_at_zero():
    for deflate in (0, 5):
        density = _density("zero", deflate=deflate)
        assert density.edges == (0, 0)
        assert density.wasserstein_error() == 0
        np.testing.assert_array_equal(density.cdf([-1e-300, 0, 1]), [0, 1, 1])
        dataset = density.to_dataset()
        assert dataset["negative_mass"] == dataset["negative_mass_high"] == 0
        assert dataset["near_zero_mass"] == 1
        assert dataset["median"] == 0


@pytest.mark.parametrize("scale", [1, 1e-8, 1e3])
@pytest.mark.parametrize("dtype", [F64, F32])
def test_a_null_space_is_rounding_noise_and_not_negative(dtype, scale):
    operator = MatrixOperator(symmetric_matrix(scale * SPECTRA["low_rank"](N), dtype=dtype))
    pairs = eigsh(operator, 6, which="LM", seed=0)
    for deflate, slack in ((0, 0.2), (pairs, 0)):
        dataset = spectral_density(operator, deflate=deflate, seed=1).to_dataset()
        assert dataset["negative_mass"] == 0
        assert float(dataset["near_zero_mass"]) == pytest.approx((N - 6) / N, abs=slack)


@pytest.mark.parametrize("scale", [2.0**-27, 2.0**10])
def test_the_density_scales_with_the_matrix(scale):
    plain, scaled = (
        spectral_density(
            MatrixOperator(factor * _matrix("trained")), num_steps=12, deflate=3, seed=0
        )
        for factor in (1.0, scale)
    )
    np.testing.assert_allclose(scaled.nodes, scale * plain.nodes, rtol=1e-6)
    np.testing.assert_allclose(scaled.weights, plain.weights, rtol=1e-6)
    np.testing.assert_allclose(scaled.outliers, scale * plain.outliers, rtol=1e-6)
    np.testing.assert_allclose(scaled.edges, scale * np.asarray(plain.edges), rtol=1e-3)
    np.testing.assert_allclose(
        scaled.wasserstein_error(), scale * plain.wasserstein_error(), rtol=1e-3
    )


def test_float32_agrees_with_float64():
    x = np.linspace(-1, 101, 50)
    single, double = (
        spectral_density(
            MatrixOperator(_matrix("trained").to(dtype)), num_steps=10, deflate=0, seed=0
        ).cdf(x)
        for dtype in (F32, F64)
    )
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-4)


# -- cost, seeds, requests ----------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", ["trained", "three_values"])
@pytest.mark.parametrize("num_probes", [1, 3])
def test_each_step_is_one_product(spectrum, num_probes):
    operator = CountingOperator(_matrix(spectrum))
    told = []
    density = spectral_density(
        operator,
        num_steps=9,
        num_probes=num_probes,
        deflate=0,
        seed=0,
        progress=lambda *seen: told.append(seen),
    )
    steps = 3 if spectrum == "three_values" else 9  # an invariant space ends a run
    assert density.num_products == operator.count == 3 + steps * num_probes
    assert len(told) == steps * num_probes
    assert all(0 < done <= total == 9 * num_probes for done, total, _ in told)
    assert (np.diff([done for done, _, _ in told]) > 0).all()


def test_the_same_seed_gives_the_same_result_bit_for_bit():
    first, second, other = (
        _density("trained", num_steps=9, num_probes=2, deflate=3, seed=seed) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.nodes, second.nodes)
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.outliers, second.outliers)
    assert first.edges == second.edges
    assert (first.nodes != other.nodes).any()
    assert (first.nodes[0] != first.nodes[1]).any()


def test_the_probes_do_not_depend_on_their_number():
    few, many = (_density("trained", num_steps=9, num_probes=number) for number in (1, 3))
    np.testing.assert_array_equal(few.nodes[0], many.nodes[0])


@pytest.mark.parametrize(
    "options", [{"num_steps": 0}, {"num_probes": 0}, {"num_probes": -1}, {"deflate": -1}]
)
def test_a_wrong_request_is_refused_before_the_first_product(options):
    operator = CountingOperator(_matrix("trained"))
    ((name, value),) = options.items()
    with pytest.raises(RequestError, match=f"{name}={value}"):
        spectral_density(operator, seed=0, **options)
    assert operator.count == 0


def test_eigenpairs_of_another_operator_are_refused():
    operator = CountingOperator(torch.eye(7))
    with pytest.raises(RequestError, match="vectors of 40 parameters, the operator has 7"):
        spectral_density(operator, seed=0, deflate=_pairs("trained", 5))
    assert operator.count == 0


def test_a_product_that_is_not_finite_is_refused():
    matrix = torch.full((4, 4), float("nan"))
    with pytest.raises(RequestError, match="not finite"):
        spectral_density(MatrixOperator(matrix), seed=0)


# -- result files -------------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", ["trained", "mirrored", "low_rank"])
def test_the_headline_is_that_of_the_dense_spectrum(spectrum):
    values = np.linalg.eigvalsh(_matrix(spectrum).numpy())
    # With all pairs but one deflated, and with none: exact, and within the band.
    exact = _density(spectrum, num_steps=N, deflate=_pairs(spectrum, N - 1)).to_dataset()
    sampled = _density(spectrum, num_steps=N).to_dataset()
    floor = float(exact["noise_floor"])
    negative, near = np.mean(values < -floor), np.mean(np.abs(values) <= floor)
    assert float(exact["negative_mass"]) == negative
    assert float(exact["near_zero_mass"]) == pytest.approx(near, abs=1e-14)
    assert float(exact["negative_mass_low"]) == float(exact["negative_mass_high"]) == negative
    median = np.quantile(values, 0.5, method="inverted_cdf")
    np.testing.assert_allclose(exact["median"], median, rtol=0, atol=1e-6)
    assert int(exact["size"]) == N
    assert float(exact["wasserstein_error"]) < 1e-12
    np.testing.assert_allclose(exact["edge"], [values.min(), values.max()], rtol=0, atol=1e-3)
    assert sampled["negative_mass_low"] <= negative <= sampled["negative_mass_high"]
    assert sampled["wasserstein_error"] > 0


def _assert_described(dataset: xr.Dataset) -> None:
    for name, variable in dataset.data_vars.items():
        assert variable.attrs["long_name"], name
        is_plain = name in {"weight", "is_exact", "converged", "complete", "size"}
        is_plain |= "mass" in str(name)
        assert variable.attrs["units"] == ("1" if is_plain else "loss / parameter^2"), name


def test_datasets_of_curvature_name_and_measure_every_variable():
    operator, pairs = MatrixOperator(_matrix("trained")), _pairs("trained", 5)
    _assert_described(_density("trained", num_steps=9, deflate=pairs).to_dataset())
    _assert_described(pairs.to_dataset())
    _assert_described(trace(operator, seed=0, max_products=4).to_dataset())


def test_a_dataset_gives_the_density_back():
    density = _density("trained", num_steps=9, num_probes=2, deflate=_pairs("trained", 5))
    again = SpectralDensity.from_dataset(density.to_dataset())
    x = np.linspace(-1, 101, 50)
    np.testing.assert_array_equal(again.cdf_band(x), density.cdf_band(x))
    assert again.wasserstein_error() == density.wasserstein_error()
    assert again.to_dataset().identical(density.to_dataset())


# -- a network on real data ---------------------------------------------------------------------


@functools.cache
def _digits_hessian(width: int) -> tuple[HessianOperator, Array]:
    """Of a small classifier after 50 steps, n = 75 width + 10, and its dense spectrum."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.from_numpy(images[:100] / 16), torch.from_numpy(labels[:100])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)).to(F64)
    parameters = list(model.parameters())
    for _ in range(50):
        gradients = torch.autograd.grad(F.cross_entropy(model(inputs), targets), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.5 * gradient
    operator = HessianOperator(Objective(model, [(inputs, targets)]))
    return operator, torch.linalg.eigvalsh(operator.to_dense()).numpy()


@pytest.mark.parametrize("width", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_density_of_a_trained_network_is_near_its_dense_spectrum(width):
    operator, values = _digits_hessian(width)
    density = spectral_density(operator, num_steps=20, deflate=10, seed=0)
    assert len(density.outliers) == 10
    distance, spread = _wasserstein(density, values), np.ptp(values)
    assert distance < 0.005 * spread
    assert distance < density.wasserstein_error() < 0.1 * spread
    assert density.edges[0] <= values.min() < values.max() <= density.edges[1]
    low, high = density.cdf_band(-density.noise_floor)
    assert low <= np.mean(values < -density.noise_floor) <= high
