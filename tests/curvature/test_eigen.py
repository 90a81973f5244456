"""Eigenpairs are right, or say that they are not, on the spectra that break eigensolvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import (
    MLP,
    SPECTRA,
    CountingOperator,
    IdentityChain,
    cut,
    half_squared_error,
    network,
    random_vectors,
    symmetric_matrix,
    wanted,
    whitened,
)
from scipy.sparse.linalg import eigsh as scipy_eigsh

from landscape.curvature.eigen import Eigenpairs, Which, eigsh
from landscape.curvature.hessian import HessianOperator
from landscape.curvature.operators import MatrixOperator
from landscape.errors import RequestError
from landscape.objective import Objective

TOL = 1e-3


def _solve(values: object, k: int = 1, which: Which = "LA", **options: object) -> Eigenpairs:
    options.setdefault("seed", 1)
    return eigsh(MatrixOperator(symmetric_matrix(values)), k, which=which, **options)


def _assert_honest(pairs: Eigenpairs, matrix: torch.Tensor, k: int, which: str) -> None:
    """Whatever a result says of itself is true of the matrix."""
    exact = matrix.double()
    spectrum = np.linalg.eigvalsh(exact.numpy())
    scale = np.abs(spectrum).max()
    eps = torch.finfo(matrix.dtype).eps
    vectors = pairs.vectors.double()
    assert vectors.shape == (len(matrix), k)
    gram = vectors.T @ vectors - torch.eye(k, dtype=torch.float64)
    assert gram.abs().max() < 20 * eps

    low, high = pairs.intervals.T
    holds = (spectrum >= low[:, None]) & (spectrum <= high[:, None])
    assert holds.any(axis=1).all(), "an interval without an eigenvalue"
    slack = 100 * eps * scale  # of the dense spectrum itself
    assert (spectrum.min() >= pairs.bounds[0] - slack) or np.isnan(pairs.bounds[0])
    assert (spectrum.max() <= pairs.bounds[1] + slack) or np.isnan(pairs.bounds[1])

    residuals = (exact @ vectors - vectors * torch.from_numpy(pairs.values)).norm(dim=0).numpy()
    np.testing.assert_allclose(pairs.residual_norms, residuals, rtol=1e-3, atol=10 * eps * scale)
    least = 4 * (pairs.noise_floor + 8 * eps * scale)
    allowed = np.maximum(TOL * np.abs(pairs.values), least)
    assert (residuals <= allowed * (1 + 1e-6))[pairs.converged].all(), "false convergence"

    found, true = pairs.values, wanted(spectrum, k, which)
    if which == "LM":  # of lambda and -lambda either may come first
        found, true = np.abs(found), np.abs(true)
    widths = pairs.intervals[:, 1] - pairs.intervals[:, 0]
    error = np.abs(found - true)
    sure = pairs.converged & pairs.complete
    assert (error <= np.maximum(TOL * np.abs(true), widths))[sure].all(), "a false certificate"


def _assert_right(pairs: Eigenpairs, matrix: torch.Tensor, k: int, which: str) -> None:
    """Each converged value is the true i-th wanted one, certified or not."""
    spectrum = np.linalg.eigvalsh(matrix.double().numpy())
    found, true = pairs.values, wanted(spectrum, k, which)
    if which == "LM":
        found, true = np.abs(found), np.abs(true)
    rounding = 8 * torch.finfo(matrix.dtype).eps * np.abs(spectrum).max() + pairs.noise_floor
    right = np.abs(found - true) <= np.maximum(1.01 * TOL * np.abs(true), 4 * rounding)
    assert right[pairs.converged].all()


def _check(spectrum: str, n: int, dtype: torch.dtype, scale: float, which: Which, k: int) -> None:
    matrix = symmetric_matrix(scale * SPECTRA[spectrum](n), dtype=dtype)
    pairs = eigsh(MatrixOperator(matrix), k, which=which, tol=TOL, seed=1)
    assert pairs.num_products <= 300
    _assert_honest(pairs, matrix, k, which)
    # The small end of 0.8^i lies below the rounding of float32: nothing can order it.
    if not (spectrum == "geometric" and which == "SA" and dtype == torch.float32):
        _assert_right(pairs, matrix, k, which)


WHICH: list[Which] = ["LA", "SA", "LM", "BE"]
F32, F64 = torch.float32, torch.float64


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize(("dtype", "scale"), [(F64, 1), (F32, 1), (F64, 1e-8), (F32, 1e3)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_adversarial_spectra(spectrum, dtype, scale, which):
    for k in (1, 3, 10):
        _check(spectrum, 90, dtype, scale, which, k)  # more than the basis holds


@pytest.mark.slow
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("scale", [1e-8, 1, 1e3])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_adversarial_spectra_of_size_300(spectrum, scale, dtype, which):
    for k in (1, 3, 10):
        _check(spectrum, 300, dtype, scale, which, k)


@pytest.mark.parametrize(
    ("spectrum", "which", "k"),
    [
        ("repeated", "LA", 8),  # four 5, three 3, and the next
        ("three_values", "LA", 10),
        ("low_rank", "SA", 3),  # from a null space of 54
        ("plus_minus", "BE", 6),
        ("softmax_start", "LA", 10),
        ("clustered", "LA", 6),
        ("zero", "LA", 3),
        ("trained", "LM", 10),
    ],
)
def test_all_copies_are_found_and_certified(spectrum, which, k):
    values = SPECTRA[spectrum](60)
    pairs = _solve(values, k, which)
    assert pairs.status == "converged"
    assert pairs.converged.all()
    assert pairs.complete.all()
    np.testing.assert_allclose(pairs.values, wanted(values, k, which), rtol=1e-3, atol=1e-12)


def test_an_exactly_multiple_eigenvalue_of_a_network_is_found_in_full():
    depth, width = 3, 2
    inputs = whitened(8, width)
    objective = Objective(IdentityChain(depth, width), cut(inputs, inputs, 3), half_squared_error)
    pairs = eigsh(HessianOperator(objective), 5, seed=0)
    np.testing.assert_allclose(pairs.values, [3, 3, 3, 3, 0], rtol=0, atol=1e-12)
    assert pairs.complete.all()


# -- the spectra on which a stop at a small change fails silently --------------------------------


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(
    "values",
    [
        np.repeat([1.0, -1.0], 500),
        np.linspace(0, 1, 2000)[::4],
        np.r_[-10.0, 9.999, np.linspace(-1, 1, 498)],
    ],
    ids=["plus_minus_500", "linspace", "mirrored_ends"],
)
def test_silent_failures_of_power_iteration(values, which, k):
    pairs = _solve(values, k, which)
    _assert_honest(pairs, symmetric_matrix(values), k, which)
    found, true = pairs.values, wanted(values, k, which)
    if which == "LM":
        found, true = np.abs(found), np.abs(true)
    right = np.abs(found - true) <= 1e-3 * np.maximum(1, np.abs(true))
    assert (right | ~pairs.converged).all()
    assert right[0]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 10])
def test_a_spectrum_of_2000_without_gaps(k):
    values = np.linspace(0, 1, 2000)
    pairs = _solve(values, k)
    _assert_honest(pairs, symmetric_matrix(values), k, "LA")
    right = np.abs(pairs.values - wanted(values, k, "LA")) <= 1e-3
    assert (right | ~pairs.converged).all()


def test_float32_shows_no_ghosts():
    outliers = [100.0, 50, 25, 12, 6]
    values = np.r_[outliers, np.random.default_rng(0).uniform(-1, 1, 295)]
    matrix = symmetric_matrix(values, dtype=F32)
    pairs = eigsh(MatrixOperator(matrix), 10, seed=0)
    np.testing.assert_allclose(pairs.values[:5], outliers, rtol=1e-4)
    assert (np.diff(pairs.values) < 0).all()
    assert pairs.values[5] < 1.01
    assert (pairs.vectors.T @ pairs.vectors - torch.eye(10)).abs().max() < 1e-5


# -- budget and cost ----------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("k", [1, 5])
def test_the_number_of_products_is_what_was_spent(spectrum, k):
    operator = CountingOperator(symmetric_matrix(SPECTRA[spectrum](60)))
    seen = []
    pairs = eigsh(operator, k, seed=0, progress=lambda *told: seen.append(told))
    assert pairs.num_products == operator.count
    # Each step is one product; three measure the noise, and one a pair certifies.
    assert len(seen) == operator.count - 3 - k
    spent = [done for done, _, _ in seen]
    assert spent == list(range(4, 4 + len(seen)))
    assert {budget for _, budget, _ in seen} == {300}


@pytest.mark.parametrize("max_products", [20, 30, 60, 100])
@pytest.mark.parametrize("which", WHICH)
def test_an_exhausted_budget_gives_partial_results_that_say_so(which, max_products):
    matrix = symmetric_matrix(np.linspace(0.5, 1, 500) ** 2)
    operator = CountingOperator(matrix)
    pairs = eigsh(operator, 5, which=which, tol=1e-8, seed=0, max_products=max_products)
    assert pairs.num_products == operator.count <= max_products
    assert not pairs.converged.any()
    assert pairs.status == "5 of 5 not converged"
    assert not pairs.complete.all()
    spectrum = np.linalg.eigvalsh(matrix.numpy())
    holds = (spectrum >= pairs.intervals[:, :1]) & (spectrum <= pairs.intervals[:, 1:])
    assert holds.any(axis=1).all()
    # The best so far: within a few per cent, and ordered.
    np.testing.assert_allclose(pairs.values[0], wanted(spectrum, 1, which)[0], rtol=0.1)


def test_the_least_budget_still_gives_pairs():
    values = SPECTRA["trained"](60)
    with pytest.raises(RequestError, match="13 are needed"):
        _solve(values, 4, max_products=12)
    operator = CountingOperator(symmetric_matrix(values))
    pairs = eigsh(operator, 4, seed=0, max_products=13)
    assert pairs.num_products == operator.count == 13
    assert pairs.vectors.shape == (60, 4)
    assert not pairs.converged.all()


@pytest.mark.parametrize("max_products", [0, 1, -5])
def test_a_tiny_budget_is_refused_before_the_first_product(max_products):
    operator = CountingOperator(torch.eye(20))
    with pytest.raises(RequestError, match=f"max_products={max_products} is too small"):
        eigsh(operator, 1, seed=0, max_products=max_products)
    assert operator.count == 0


def test_converged_pairs_are_not_bought_twice():
    # A trained network's spectrum: about twice as many products as pairs, and the certificates.
    pairs = _solve(np.r_[np.geomspace(100, 10, 10), np.random.default_rng(0).normal(0, 0.05, 490)])
    assert pairs.num_products < 25


# -- warm start ---------------------------------------------------------------------------------


def test_a_warm_start_takes_fewer_products_than_a_cold_one():
    values = np.r_[20.0, np.linspace(0, 10, 299)]
    matrix = symmetric_matrix(values)
    before = eigsh(MatrixOperator(matrix), 1, seed=0)
    shift = symmetric_matrix(np.random.default_rng(3).standard_normal(300), seed=9)
    moved = MatrixOperator(matrix + 1e-4 * shift)
    cold = eigsh(moved, 1, seed=0)
    warm = eigsh(moved, 1, seed=0, start=before.vectors)
    assert warm.num_products < cold.num_products
    assert warm.converged.all()
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-5)
    assert warm.settings["start"] == "given"


def test_a_misleading_start_does_not_mislead():
    matrix = symmetric_matrix(SPECTRA["trained"](60))
    vectors = torch.linalg.eigh(matrix)[1]
    inner = vectors[:, 30:32]  # of the bulk: exact eigenvectors, and not wanted
    for start in (inner, inner[:, 0], torch.zeros(60)):
        pairs = eigsh(MatrixOperator(matrix), 2, seed=0, start=start)
        np.testing.assert_allclose(pairs.values, wanted(SPECTRA["trained"](60), 2, "LA"), rtol=1e-3)


@pytest.mark.parametrize("hidden", [3.05, 3.3, 4.5])
@pytest.mark.parametrize("n", [60, 200])
def test_what_a_start_hides_is_found_or_not_denied(n, hidden):
    values = np.r_[5, hidden, 3, np.random.default_rng(0).uniform(0, 2.9, n - 3)]
    matrix = symmetric_matrix(values)
    vectors = torch.linalg.eigh(matrix)[1]
    for seed in range(10):
        pairs = eigsh(MatrixOperator(matrix), 2, seed=seed, start=vectors[:, [-1, -3]])
        is_found = abs(pairs.values[1] - hidden) < 1e-3 * hidden
        assert is_found or not pairs.complete[1]


@pytest.mark.parametrize(
    "start",
    [
        torch.ones(59),
        torch.ones(2, 60),
        torch.ones(60, 1, 1),
        torch.tensor(1.0),
        torch.empty(60, 0),
        torch.full((60,), float("nan")),
    ],
    ids=["short", "rows", "cube", "scalar", "empty", "nan"],
)
def test_a_start_of_another_shape_is_refused_before_the_first_product(start):
    operator = CountingOperator(torch.eye(60))
    with pytest.raises(RequestError, match=r"\(60,\) or \(60, j\)"):
        eigsh(operator, 1, seed=0, start=start)
    assert operator.count == 0


# -- certificates -------------------------------------------------------------------------------


def test_every_interval_holds_an_eigenvalue_and_bounds_hold_the_spectrum():
    rng = np.random.default_rng(0)
    outside = 0
    for seed in range(100):
        values = rng.standard_normal(40) ** 3
        matrix = symmetric_matrix(values, seed=seed)
        which = WHICH[seed % 4]
        pairs = eigsh(MatrixOperator(matrix), 3, which=which, tol=1e-2, seed=seed)
        spectrum = np.linalg.eigvalsh(matrix.numpy())
        holds = (spectrum >= pairs.intervals[:, :1]) & (spectrum <= pairs.intervals[:, 1:])
        assert holds.any(axis=1).all()
        slack = 1e-12 * np.abs(values).max()
        low, high = pairs.bounds
        outside += spectrum.min() < low - slack or spectrum.max() > high + slack
    assert outside <= 3  # 1 % of 100


def test_certificates_are_rarely_wrong_and_not_empty():
    # A pair hidden from the start: its weight in a random vector is small by chance alone.
    rng = np.random.default_rng(1)
    wrong, given = 0, 0
    for seed in range(60):
        values = np.r_[1 + 0.05 * rng.random(3), rng.uniform(0, 1, 57)]
        pairs = _solve(values, 3, seed=seed, tol=1e-2)
        true = wanted(values, 3, "LA")
        sure = pairs.converged & pairs.complete
        width = pairs.intervals[:, 1] - pairs.intervals[:, 0]
        wrong += bool((np.abs(pairs.values - true) > np.maximum(1e-2, width))[sure].any())
        given += bool(sure.all())
    assert wrong <= 2  # 1 % of 60, with room for chance
    assert given >= 20


def test_residuals_are_recomputed_and_vectors_have_unit_norm_at_every_scale():
    for scale in (1e-8, 1e-5, 1e3):
        pairs = _solve(scale * SPECTRA["trained"](60), 3)
        norms = pairs.vectors.norm(dim=0)
        torch.testing.assert_close(norms, torch.ones(3, dtype=F64), rtol=0, atol=1e-14)
        np.testing.assert_allclose(pairs.values[0], 100 * scale, rtol=1e-6)


def test_the_same_seed_is_bitwise_equal_and_another_is_not():
    values = SPECTRA["linspace"](60)
    first, second, other = (_solve(values, 3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.vectors, second.vectors)
    for name in ("values", "residual_norms", "intervals", "converged", "complete"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.bounds == second.bounds
    assert first.num_products == second.num_products
    assert not torch.equal(first.vectors, other.vectors)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    _solve(SPECTRA["three_values"](60), 3)
    assert torch.equal(torch.get_rng_state(), state)


# -- against SciPy and the dense matrix ---------------------------------------------------------


@pytest.mark.parametrize("which", WHICH)
def test_scipy_agrees_on_the_hessian_of_a_network(which):
    model, inputs, targets = network(MLP)
    operator = HessianOperator(Objective(model, cut(inputs, targets, 3)))
    pairs = eigsh(operator, 4, which=which, tol=1e-9, seed=0)
    assert pairs.converged.all()
    assert pairs.complete.all()
    theirs, _ = scipy_eigsh(operator.to_scipy(), 4, which=which, v0=np.ones(operator.size))
    np.testing.assert_allclose(np.sort(pairs.values), np.sort(theirs), rtol=0, atol=1e-9)
    dense = torch.linalg.eigvalsh(operator.to_dense()).numpy()
    np.testing.assert_allclose(pairs.values, wanted(dense, 4, which), rtol=0, atol=1e-9)


def test_negating_an_operator_swaps_its_ends():
    values = SPECTRA["repeated"](60)
    upper, lower = _solve(values, 3, "LA"), _solve(-values, 3, "SA")
    np.testing.assert_allclose(upper.values, -lower.values, rtol=1e-6)


# -- small and odd sizes ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, F32, torch.bfloat16])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_all_eigenpairs_of_a_small_matrix(n, which, dtype):
    matrix = symmetric_matrix(np.arange(1.0, n + 1), dtype=dtype)
    for k in range(1, n + 1):
        pairs = eigsh(MatrixOperator(matrix), k, which=which, seed=0)
        exact = wanted(np.linalg.eigvalsh(matrix.double().numpy()), k, which)
        atol = 40 * torch.finfo(dtype).eps
        np.testing.assert_allclose(pairs.values, exact, rtol=0, atol=atol)
        assert pairs.complete.all()
        assert pairs.converged.all()
        assert pairs.vectors.dtype in (dtype, F32)


def test_as_many_pairs_as_dimensions():
    values = SPECTRA["repeated"](50)
    pairs = _solve(values, 50)
    assert pairs.num_products == 3 + 50 + 50
    np.testing.assert_allclose(pairs.values, np.sort(values)[::-1], rtol=0, atol=1e-12)
    assert pairs.converged.all()
    assert pairs.complete.all()


# -- wrong requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 61])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(RequestError, match=f"k={k} .* between 1 and 60"):
        _solve(SPECTRA["linspace"](60), k)


@pytest.mark.parametrize("tol", [-1e-3, float("nan")])
def test_a_negative_tolerance_is_refused(tol):
    with pytest.raises(RequestError, match="expected a number >= 0"):
        _solve(SPECTRA["linspace"](60), 1, tol=tol)


@pytest.mark.parametrize("which", ["LN", "la", "largest"])
def test_an_unknown_end_lists_the_choices(which):
    with pytest.raises(RequestError, match=f"unknown which '{which}'.*BE, LA, LM, SA"):
        _solve(SPECTRA["linspace"](60), 1, which)


def test_an_operator_that_is_not_finite_is_refused():
    with pytest.raises(RequestError, match="not finite"):
        eigsh(MatrixOperator(torch.full((20, 20), float("nan"))), 1, seed=0)


def test_an_operator_that_is_not_symmetric_is_refused():
    with pytest.raises(RequestError, match="not symmetric"):
        eigsh(MatrixOperator(random_vectors(20, 20)), 1, seed=0)


def test_too_little_memory_is_refused_before_the_first_product(monkeypatch):
    monkeypatch.setattr("landscape.curvature.lanczos.available_bytes", lambda _: 50_000)
    operator = CountingOperator(torch.eye(1000, dtype=F64))
    with pytest.raises(RequestError, match="Ask for fewer pairs"):
        eigsh(operator, 5, seed=0)
    assert operator.count == 0


def test_little_memory_shrinks_the_basis_not_the_answer(monkeypatch):
    values = np.r_[10.0, 8, np.linspace(0, 5, 198)]
    monkeypatch.setattr("landscape.curvature.lanczos.available_bytes", lambda _: 26 * 200 * 8 / 0.8)
    pairs = _solve(values, 2)
    np.testing.assert_allclose(pairs.values, [10, 8], rtol=1e-3)
    assert pairs.converged.all()


# -- the record ---------------------------------------------------------------------------------


def test_the_record_carries_its_request_and_becomes_a_dataset():
    pairs = _solve(SPECTRA["trained"](60), 3, "BE", seed=4)
    expected = {"k": 3, "which": "BE", "tol": 1e-3, "seed": 4, "max_products": 300}
    assert pairs.settings == expected
    assert pairs.wall_time > 0
    dataset = pairs.to_dataset()
    assert dict(dataset.sizes) == {"pair": 3, "side": 2}
    for name, variable in dataset.data_vars.items():
        assert {"units", "long_name"} <= set(variable.attrs), name
    np.testing.assert_array_equal(dataset["eigenvalue"], pairs.values)
    assert float(dataset["largest"]) == pairs.values.max()
    assert float(dataset["smallest"]) == pairs.values.min()
    assert float(dataset["largest_residual"]) == pairs.residual_norms[0]
