"""The Krylov basis is orthonormal and its recurrence holds, whatever the spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import SPECTRA, CountingOperator, symmetric_matrix

from landscape.curvature.lanczos import Krylov, basis_dtype, check_memory, fits, spectrum_edge
from landscape.curvature.operators import MatrixOperator
from landscape.errors import RequestError

N = 40


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _krylov(matrix: torch.Tensor, capacity: int, **options: object) -> Krylov:
    krylov = Krylov(MatrixOperator(matrix), capacity, generator=_generator(), **options)
    krylov.begin()
    return krylov


def _basis(krylov: Krylov) -> torch.Tensor:
    return krylov.vectors(np.eye(krylov.count)).double()  # (j, n)


def _assert_recurrence(krylov: Krylov, matrix: torch.Tensor, atol: float) -> None:
    """A Q = Q T + beta q e', with q orthonormal to the rest."""
    basis = _basis(krylov)
    values, coordinates, residuals = krylov.ritz()
    T = torch.from_numpy(coordinates * values @ coordinates.T)
    excess = matrix.double() @ basis.T - basis.T @ T  # (n, j)
    assert (excess[:, :-1].abs() < atol).all()
    assert abs(excess[:, -1].norm() - krylov.beta) < atol
    assert (basis @ excess[:, -1]).abs().max() < atol
    vectors = krylov.vectors(coordinates).double()
    actual = (vectors @ matrix.double() - torch.from_numpy(values)[:, None] * vectors).norm(dim=1)
    np.testing.assert_allclose(residuals, actual.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_basis_is_orthonormal_at_full_depth(spectrum, dtype, atol):
    matrix = symmetric_matrix(SPECTRA[spectrum](N), dtype=dtype)
    krylov = _krylov(matrix, N)
    while not krylov.is_exhausted:
        krylov.step()
    assert krylov.count == N
    assert krylov.beta == 0
    basis = _basis(krylov)
    assert torch.linalg.matrix_norm(basis @ basis.T - torch.eye(N), 2) < atol
    exact = np.linalg.eigvalsh(matrix.double().numpy())
    scale = np.abs(exact).max()
    np.testing.assert_allclose(krylov.ritz()[0], exact, rtol=0, atol=20 * atol * scale)


@pytest.mark.parametrize("spectrum", ["three_values", "low_rank", "plus_minus", "zero"])
def test_an_early_breakdown_goes_on_with_a_random_vector(spectrum):
    values = SPECTRA[spectrum](N)
    matrix = symmetric_matrix(values)
    num_distinct = len(np.unique(values))
    krylov = _krylov(matrix, N)
    for _ in range(num_distinct):
        krylov.step()
    assert krylov.beta < 1e-12  # the space is invariant: each eigenvalue was seen once
    np.testing.assert_allclose(krylov.ritz()[0], np.unique(values), rtol=0, atol=1e-13)
    for _ in range(5):
        krylov.step()
    _assert_recurrence(krylov, matrix, 1e-12)


def test_honest_small_coefficients_of_float32_are_no_breakdown():
    # The square root of eps, 3.5e-4, would end this run after a step or two.
    values = np.r_[1.0, 1e-4 * np.linspace(1, 2, N - 1)]
    krylov = _krylov(symmetric_matrix(values, dtype=torch.float32), N)
    for _ in range(3):
        krylov.step()
        assert krylov.beta > 0


@pytest.mark.parametrize("spectrum", ["trained", "mirrored", "clustered", "three_values"])
def test_restarts_keep_the_recurrence(spectrum):
    matrix = symmetric_matrix(SPECTRA[spectrum](N))
    krylov = _krylov(matrix, 12)
    scale = float(torch.linalg.matrix_norm(matrix, 2))
    for restart in range(6):
        while krylov.count < 12:
            krylov.step()
            _assert_recurrence(krylov, matrix, 1e-10 * max(1, scale / 10))
        basis = _basis(krylov)
        assert (basis @ basis.T - torch.eye(12)).abs().max() < 1e-13
        values, coordinates, _ = krylov.ritz()
        kept = np.r_[0:2, 12 - 4 - restart % 2 : 12]
        krylov.restart(values[kept], coordinates[:, kept])
        np.testing.assert_allclose(krylov.ritz()[0], values[kept], rtol=0, atol=1e-12 * scale)


def test_alphas_and_betas_are_the_first_runs_and_end_with_it():
    matrix = symmetric_matrix(SPECTRA["trained"](N))
    krylov = _krylov(matrix, 8)
    for _ in range(8):
        krylov.step()
    T = np.diag(krylov.alphas) + np.diag(krylov.betas[:-1], 1) + np.diag(krylov.betas[:-1], -1)
    values, coordinates, _ = krylov.ritz()
    np.testing.assert_allclose(np.linalg.eigvalsh(T), values, rtol=0, atol=1e-11)
    assert krylov.betas[-1] == krylov.beta
    krylov.restart(values[-4:], coordinates[:, -4:])
    krylov.step()
    assert len(krylov.alphas) == len(krylov.betas) == 8


def test_each_step_is_one_product():
    operator = CountingOperator(symmetric_matrix(SPECTRA["low_rank"](N)))
    krylov = Krylov(operator, 12, generator=_generator())
    krylov.begin()
    for step in range(11):  # breaks down after 7
        assert operator.count == step
        krylov.step()
    krylov.restart(*(part[..., -4:] for part in krylov.ritz()[:2]))
    assert operator.count == 11


def test_a_deflated_run_sees_the_complement_only():
    values = SPECTRA["repeated"](N)
    matrix = symmetric_matrix(values)
    exact, vectors = torch.linalg.eigh(matrix)
    deflated = vectors[:, -2:].T.contiguous()  # two of the four copies of 5
    krylov = _krylov(matrix, N - 2, deflated=deflated)
    while not krylov.is_exhausted:
        krylov.step()
    assert krylov.count == N - 2
    assert (_basis(krylov) @ deflated.T).abs().max() < 1e-14
    np.testing.assert_allclose(krylov.ritz()[0], exact[:-2].numpy(), rtol=0, atol=1e-12)


def test_the_start_may_be_given_and_is_not_changed():
    matrix = symmetric_matrix(SPECTRA["trained"](N))
    vector = torch.linalg.eigh(matrix)[1][:, -1] * 3
    before = vector.clone()
    krylov = Krylov(MatrixOperator(matrix), 5, generator=_generator())
    krylov.begin(vector)
    krylov.step()
    assert torch.equal(vector, before)
    assert krylov.beta == 0  # it was an eigenvector
    np.testing.assert_allclose(krylov.ritz()[0], [100], rtol=1e-13)
    krylov = Krylov(MatrixOperator(matrix), 5, generator=_generator())
    krylov.begin(torch.zeros(N))  # nothing to go by: a random start
    krylov.step()
    assert krylov.beta > 0


def test_the_same_seed_gives_the_same_basis_bit_for_bit():
    matrix = symmetric_matrix(SPECTRA["three_values"](N))
    runs = []
    for _ in range(2):
        krylov = _krylov(matrix, 10)
        for _ in range(9):
            krylov.step()
        runs.append(_basis(krylov))
    assert torch.equal(*runs)


class _ReusesItsMemory(CountingOperator):
    def _products(self, vectors: torch.Tensor) -> torch.Tensor:
        image = super()._products(vectors)
        if not hasattr(self, "memory"):
            self.memory = torch.empty_like(image)
        return self.memory.copy_(image)


def test_an_operator_may_hand_out_the_same_memory_again():
    matrix = symmetric_matrix(SPECTRA["trained"](N))
    krylov = Krylov(_ReusesItsMemory(matrix), 12, generator=_generator())
    krylov.begin()
    for _ in range(10):
        krylov.step()
    _assert_recurrence(krylov, matrix, 1e-10)


def test_a_product_that_is_not_finite_is_refused():
    matrix = torch.full((5, 5), float("nan"), dtype=torch.float64)
    with pytest.raises(RequestError, match="not finite"):
        _krylov(matrix, 3).step()


def test_low_precision_operators_keep_their_basis_in_float32():
    operator = MatrixOperator(torch.eye(3, dtype=torch.bfloat16))
    assert basis_dtype(operator) == torch.float32
    assert basis_dtype(MatrixOperator(torch.eye(3, dtype=torch.float64))) == torch.float64


def test_a_basis_beyond_memory_is_refused_with_a_forecast(monkeypatch):
    operator = MatrixOperator(torch.eye(100))
    monkeypatch.setattr("landscape.curvature.lanczos.available_bytes", lambda _: 10_000)
    assert fits(operator, 20)
    assert not fits(operator, 21)
    check_memory(operator, 20)
    with pytest.raises(RequestError, match=r"21 vectors of 100 parameters takes 8\.2 KiB"):
        check_memory(operator, 21)


# -- the edge of the spectrum -------------------------------------------------------------------


def _run(matrix: torch.Tensor, steps: int, seed: int) -> Krylov:
    krylov = Krylov(MatrixOperator(matrix), steps, generator=_generator(seed))
    krylov.begin()
    for _ in range(steps):
        krylov.step()
    return krylov


@pytest.mark.parametrize("steps", [3, 8, 16])
def test_few_spectra_pass_their_edge(steps):
    rng = np.random.default_rng(steps)
    passed, missed = 0, 0
    for seed in range(120):
        tail = rng.standard_normal(50) * rng.uniform(0, 1, 50) ** rng.integers(0, 4)
        values = np.r_[tail, rng.uniform(0, 3, rng.integers(1, 4))]
        krylov = _run(symmetric_matrix(values, seed=seed), steps, seed)
        edge = spectrum_edge(krylov.alphas, krylov.betas, len(values), 0.05)
        assert edge >= krylov.ritz()[0].max()
        passed += values.max() > edge
        missed += values.max() > krylov.ritz()[0].max() * 1.01
        low = spectrum_edge([-a for a in krylov.alphas], krylov.betas, len(values), 0.05)
        passed += -values.min() > low
    assert passed <= 12  # 5 % of 240
    if steps < 16:
        assert missed > 12  # the largest Ritz value would not have done


def test_the_edge_nears_the_largest_eigenvalue_as_steps_grow():
    matrix = symmetric_matrix(np.linspace(0, 1, 60))
    gaps = []
    for steps in (8, 16, 32):
        krylov = _run(matrix, steps, 0)
        gaps.append(spectrum_edge(krylov.alphas, krylov.betas, 60, 0.01) - 1)
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.05


def test_a_surer_edge_lies_farther_out():
    krylov = _run(symmetric_matrix(np.linspace(0, 1, 60)), 10, 0)
    edges = [spectrum_edge(krylov.alphas, krylov.betas, 60, delta) for delta in (0.5, 0.1, 0.001)]
    assert edges[0] < edges[1] < edges[2]


def test_the_edge_of_an_invariant_space_is_its_largest_value():
    krylov = _run(symmetric_matrix(SPECTRA["three_values"](N)), 3, 0)
    assert krylov.betas[-1] == 0
    assert abs(spectrum_edge(krylov.alphas, krylov.betas, N, 0.01) - 5) < 1e-12


@pytest.mark.parametrize("scale", [1e-8, 1e3])
def test_the_edge_scales_and_shifts_with_the_matrix(scale):
    krylov = _run(symmetric_matrix(np.linspace(-1, 2, N)), 8, 0)
    alphas, betas = np.array(krylov.alphas), np.array(krylov.betas)
    edge = spectrum_edge(alphas, betas, N, 0.01)
    scaled = spectrum_edge(scale * alphas, scale * betas, N, 0.01)
    assert abs(scaled / scale - edge) < 1e-3
    assert abs(spectrum_edge(alphas + 7, betas, N, 0.01) - 7 - edge) < 1e-3


def test_eigenvectors_of_a_run_are_unit_vectors():
    krylov = _run(symmetric_matrix(1e-8 * SPECTRA["trained"](N)), 20, 0)
    _, coordinates, _ = krylov.ritz()
    norms = krylov.vectors(coordinates).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-13)
