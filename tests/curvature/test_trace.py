"""The trace is right within its interval, and the interval holds as often as it says."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from oracles import (
    MLP,
    SPECTRA,
    CountingOperator,
    cut,
    network,
    symmetric_matrix,
)
from scipy import stats

from landscape.curvature.eigen import eigsh
from landscape.curvature.eigenpairs import Eigenpairs
from landscape.curvature.hessian import HessianOperator
from landscape.curvature.operators import MatrixOperator
from landscape.curvature.trace import Estimate, trace
from landscape.errors import RequestError
from landscape.objective import Objective

N = 40


@functools.cache
def _matrix(spectrum: str) -> torch.Tensor:
    return symmetric_matrix(SPECTRA[spectrum](N))


@functools.cache
def _pairs(spectrum: str, k: int, max_products: int | None = None) -> Eigenpairs:
    operator = MatrixOperator(_matrix(spectrum))
    return eigsh(operator, k, which="LM", seed=0, max_products=max_products)


def _cut_short(spectrum: str) -> Eigenpairs:
    pairs = _pairs(spectrum, 5, 16)
    assert not pairs.converged.all()
    return pairs


def _sample_variance(matrix: torch.Tensor) -> float:
    """Of z.(A z) over random signs z: 2 sum_{i != j} a_ij^2."""
    return float(2 * (matrix.square().sum() - matrix.diagonal().square().sum()))


def _rest(matrix: torch.Tensor, pairs: Eigenpairs) -> torch.Tensor:
    """PAP, P = I - VV'."""
    P = torch.eye(len(matrix), dtype=torch.float64) - pairs.vectors @ pairs.vectors.T
    return P @ matrix @ P


# -- the value ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("diagonal", [[1.0] * 9, [3.0, -1.0, 0.5, 100.0], [-7.0]])
def test_signs_have_no_variance_on_a_diagonal_matrix(diagonal, dtype):
    matrix = torch.diag(torch.tensor(diagonal, dtype=dtype))
    estimate = trace(MatrixOperator(matrix), rtol=0, seed=0)
    assert estimate.value == sum(diagonal)
    assert (estimate.samples == sum(diagonal)).all()
    assert estimate.standard_error == 0
    assert estimate.interval == (sum(diagonal), sum(diagonal))
    assert estimate.converged


@pytest.mark.parametrize("is_deflated", [False, True])
@pytest.mark.parametrize("spectrum", ["trained", "mirrored", "geometric", "repeated"])
def test_the_value_is_within_four_standard_errors(spectrum, is_deflated):
    deflate = _cut_short(spectrum) if is_deflated else None
    operator = MatrixOperator(_matrix(spectrum))
    estimate = trace(operator, rtol=0, seed=3, max_products=400, deflate=deflate)
    error = abs(estimate.value - SPECTRA[spectrum](N).sum())
    assert 0 < error < 4 * estimate.standard_error


@pytest.mark.parametrize("scale", [2.0**-27, 2.0**10])  # powers of 2: without rounding
def test_the_estimate_scales_with_the_matrix(scale):
    plain, scaled = (
        trace(MatrixOperator(factor * _matrix("trained")), seed=0, max_products=30)
        for factor in (1.0, scale)
    )
    assert scaled.value == scale * plain.value
    assert scaled.standard_error == scale * plain.standard_error
    assert scaled.num_products == plain.num_products


def test_a_negative_trace_stops_as_its_mirror_image_does():
    # Without the absolute value, a negative trace stops at once or never.
    plain, mirrored = (
        trace(MatrixOperator(sign * _matrix("linspace")), rtol=0.04, seed=0) for sign in (1, -1)
    )
    assert mirrored.value == -plain.value
    assert mirrored.num_products == plain.num_products
    assert plain.converged
    assert mirrored.converged


def test_float32_agrees_with_float64():
    single, double = (
        trace(MatrixOperator(_matrix("trained").to(dtype)), seed=0, max_products=40)
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(single.samples, double.samples, rtol=1e-5)


def test_the_trace_of_the_hessian_of_a_network():
    model, inputs, targets = network(MLP)
    operator = HessianOperator(Objective(model, cut(inputs, targets, 4)))
    dense = operator.to_dense()
    pairs = eigsh(operator, 4, which="LM", seed=0)
    estimate = trace(operator, rtol=0, seed=0, max_products=60, deflate=pairs)
    assert abs(estimate.value - float(dense.trace())) < 4 * estimate.standard_error
    expected = np.sqrt(_sample_variance(_rest(dense, pairs)) / 60)
    np.testing.assert_allclose(estimate.standard_error, expected, rtol=0.3)
    assert estimate.provenance == operator.provenance


# -- its standard error and interval ------------------------------------------------------------


@pytest.mark.parametrize("is_deflated", [False, True])
@pytest.mark.parametrize("spectrum", ["trained", "linspace"])
def test_the_standard_error_is_the_spread_and_the_closed_form(spectrum, is_deflated):
    num_runs, num_probes = 60, 20
    matrix = _matrix(spectrum)
    deflate = _cut_short(spectrum) if is_deflated else None
    runs = [
        trace(MatrixOperator(matrix), rtol=0, seed=seed, max_products=num_probes, deflate=deflate)
        for seed in range(num_runs)
    ]
    seen = matrix if deflate is None else _rest(matrix, deflate)
    expected = np.sqrt(_sample_variance(seen) / num_probes)
    reported = np.sqrt(np.mean([run.standard_error**2 for run in runs]))
    np.testing.assert_allclose(reported, expected, rtol=0.12)
    spread = np.std([run.value for run in runs], ddof=1)
    np.testing.assert_allclose(spread, expected, rtol=4 / np.sqrt(2 * num_runs))


def _coverage(spectrum: str, num_seeds: int, **options: object) -> float:
    operator, exact = MatrixOperator(_matrix(spectrum)), SPECTRA[spectrum](N).sum()
    held = [
        low <= exact <= high
        for low, high in (
            trace(operator, seed=seed, **options).interval for seed in range(num_seeds)
        )
    ]
    return float(np.mean(held))


FIXED, STOPPED = {"rtol": 0, "max_products": 12}, {"rtol": 0.2}


@pytest.mark.parametrize("k", [0, 5])
@pytest.mark.parametrize("options", [FIXED, STOPPED])
def test_nominal_95_percent_cover_90_to_99(options, k):
    deflate = _pairs("trained", k) if k else None
    assert 0.90 <= _coverage("trained", 200, deflate=deflate, **options) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("deflated", ["nothing", "pairs", "pairs cut short"])
@pytest.mark.parametrize("spectrum", ["trained", "geometric", "repeated", "linspace"])
@pytest.mark.parametrize("options", [FIXED, {"rtol": 0.1, "max_products": 100}, STOPPED])
def test_nominal_95_percent_cover_90_to_99_whatever_the_spectrum(options, spectrum, deflated):
    choices = {"nothing": lambda _: None, "pairs": lambda name: _pairs(name, 5)}
    deflate = choices.get(deflated, _cut_short)(spectrum)
    assert 0.90 <= _coverage(spectrum, 500, deflate=deflate, **options) <= 0.99


@pytest.mark.parametrize("confidence", [0.5, 0.999])
def test_a_surer_interval_is_wider_by_students_t(confidence):
    estimate = trace(
        MatrixOperator(_matrix("trained")), rtol=0, seed=0, max_products=20, confidence=confidence
    )
    samples = estimate.samples
    interval = stats.t.interval(confidence, 19, samples.mean(), stats.sem(samples))
    np.testing.assert_allclose(estimate.interval, interval, rtol=1e-13)


def test_a_small_change_of_the_mean_would_stop_too_early():
    # The rule of PyHessian, |mean_n - mean_(n-1)| < tol |mean|, on our own samples.
    tol, seeds = 1e-3, 40
    operator, exact = MatrixOperator(_matrix("trained")), SPECTRA["trained"](N).sum()
    meets_tol, covers = [], []
    for seed in range(seeds):
        estimate = trace(operator, rtol=0, seed=seed, max_products=80)
        means = np.cumsum(estimate.samples) / np.arange(1, 81)
        change = np.abs(np.diff(means)) / np.abs(means[1:])
        stopped = means[1:][np.argmax(change < tol)]
        meets_tol.append(abs(stopped / exact - 1) < tol)
        covers.append(estimate.interval[0] <= exact <= estimate.interval[1])
    assert np.mean(meets_tol) < 0.2
    assert np.mean(covers) > 0.9


def test_convergence_is_the_width_of_the_interval():
    for rtol in (0.01, 0.1, 0.5):
        estimate = trace(MatrixOperator(_matrix("trained")), rtol=rtol, seed=0)
        half = (estimate.interval[1] - estimate.interval[0]) / 2
        assert estimate.converged == (half <= rtol * abs(estimate.value))
        assert estimate.converged or estimate.num_products == 200


def test_an_exhausted_budget_gives_what_it_has_and_says_so():
    operator = MatrixOperator(_matrix("mirrored"))  # its trace is 0: no rtol is ever met
    estimate = trace(operator, rtol=0.2, seed=0, max_products=50, confidence=0.999)
    assert not estimate.converged
    assert estimate.num_products == len(estimate.samples) == 50
    assert estimate.interval[0] < 0 < estimate.interval[1]
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    assert estimate.status == f"not converged: +-{half:.2g} at 99.9%"


# -- deflation ----------------------------------------------------------------------------------


def test_deflating_all_that_is_not_zero_leaves_no_variance():
    pairs = _pairs("low_rank", 6)
    assert pairs.converged.all()
    estimate = trace(MatrixOperator(_matrix("low_rank")), rtol=0, seed=0, deflate=pairs)
    np.testing.assert_allclose(estimate.samples, 21, rtol=1e-5)


def test_the_split_of_the_trace_is_an_identity_for_any_orthonormal_basis():
    # Signs have no variance where the rest is diagonal: the basis spans coordinates, the values
    # are those of a matrix that couples them to nothing else, and none is an eigenvector.
    block = symmetric_matrix(np.array([9.0, 4.0, -2.0]))
    matrix = torch.block_diag(block, torch.diag(torch.arange(1.0, 8.0, dtype=torch.float64)))
    pairs = eigsh(MatrixOperator(matrix), 3, seed=0)
    vectors = torch.eye(10, dtype=torch.float64)[:, :3]
    quotients = block.diagonal().numpy()
    pairs = dataclasses.replace(pairs, vectors=vectors, values=quotients)
    estimate = trace(MatrixOperator(matrix), rtol=0, seed=0, deflate=pairs)
    np.testing.assert_allclose(estimate.samples, 9 + 4 - 2 + 28, rtol=1e-14)


def test_deflation_saves_products_on_a_trained_spectrum():
    operator = CountingOperator(_matrix("trained"))
    plain = trace(operator, rtol=0.02, seed=0, max_products=400)
    before = operator.count
    deflated = trace(operator, rtol=0.02, seed=0, max_products=400, deflate=_pairs("trained", 10))
    assert plain.num_products == before == 400
    assert deflated.num_products == operator.count - before == 16
    assert deflated.converged
    assert deflated.standard_error < plain.standard_error / 50
    assert deflated.settings["deflated"] == 10


# -- cost, seeds, requests ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [FIXED, STOPPED, {"max_products": 2}, {"rtol": np.inf}])
def test_each_probe_is_one_product(options):
    operator = CountingOperator(_matrix("trained"))
    told = []
    estimate = trace(operator, seed=0, progress=lambda *seen: told.append(seen), **options)
    assert estimate.num_products == operator.count == len(estimate.samples)
    budget = options.get("max_products", 200)
    assert told == [(done + 1, budget, "trace") for done in range(operator.count)]


def test_the_same_seed_gives_the_same_samples_bit_for_bit():
    operator = MatrixOperator(_matrix("trained"))
    first, second, other = (trace(operator, seed=seed, max_products=20) for seed in (5, 5, 6))
    assert (first.samples == second.samples).all()
    assert first.interval == second.interval
    assert (first.samples != other.samples).any()


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    trace(MatrixOperator(_matrix("trained")), seed=0, max_products=5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "options",
    [
        {"max_products": 1},
        {"confidence": 2},
        {"confidence": 0},
        {"rtol": -0.1},
        {"rtol": float("nan")},
    ],
)
def test_a_wrong_request_is_refused_before_the_first_product(options):
    operator = CountingOperator(_matrix("trained"))
    (name,) = options
    with pytest.raises(RequestError, match=f"{name}={options[name]}"):
        trace(operator, seed=0, **options)
    assert operator.count == 0


def test_eigenpairs_of_another_operator_are_refused():
    operator = CountingOperator(torch.eye(7))
    with pytest.raises(RequestError, match="vectors of 40 parameters, the operator has 7"):
        trace(operator, seed=0, deflate=_pairs("trained", 5))
    assert operator.count == 0


def test_a_product_that_is_not_finite_is_refused():
    matrix = torch.eye(4)
    matrix[2, 2] = float("nan")
    with pytest.raises(RequestError, match="product 1 is not finite"):
        trace(MatrixOperator(matrix), seed=0)


def test_a_dataset_names_and_measures_every_variable():
    estimate: Estimate = trace(
        MatrixOperator(_matrix("trained")), seed=0, max_products=20, confidence=0.999
    )
    dataset = estimate.to_dataset()
    for variable in dataset.variables.values():
        assert variable.attrs["units"] == "loss / parameter^2"
        assert variable.attrs["long_name"]
    assert (float(dataset["low"]), float(dataset["high"])) == estimate.interval
    assert dataset["low"].long_name == "lower end, 99.9% interval"
    assert float(dataset["value"]) == estimate.value
    assert (dataset["sample"].to_numpy() == estimate.samples).all()
