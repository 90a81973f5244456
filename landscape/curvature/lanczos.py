"""Lanczos: an orthonormal Krylov basis in fixed memory, and the projected matrix.

`eigen` restarts it to find eigenpairs, `density` reads a quadrature rule off it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.curvature.operators import LinearOperator
from landscape.errors import RequestError
from landscape.memory import available_bytes, format_bytes

__all__ = ["Krylov", "basis_dtype", "check_memory", "fits", "spectrum_edge"]

Array = NDArray[np.float64]

# A Lanczos coefficient below this multiple of eps * ||A|| is zero: the space is invariant. The
# square root of eps would be too much: it lies among the honest coefficients of float32.
_BREAKDOWN_EPS = 64
_BASIS_SHARE = 0.8  # of the free memory


def basis_dtype(operator: LinearOperator) -> torch.dtype:
    """What basis vectors are kept in: never less than float32."""
    return torch.promote_types(operator.dtype, torch.float32)


def fits(operator: LinearOperator, num_vectors: int) -> bool:
    """Whether so many basis vectors leave memory for the rest."""
    needed = num_vectors * operator.size * basis_dtype(operator).itemsize
    return needed <= _BASIS_SHARE * available_bytes(operator.device)


def check_memory(operator: LinearOperator, num_vectors: int) -> None:
    """Raise RequestError, with a forecast, if so many basis vectors do not fit into memory."""
    if not fits(operator, num_vectors):
        needed = num_vectors * operator.size * basis_dtype(operator).itemsize
        free = available_bytes(operator.device)
        raise RequestError(
            f"a basis of {num_vectors} vectors of {operator.size:,} parameters takes "
            f"{format_bytes(needed)}, and {format_bytes(free)} is free. Ask for fewer pairs (k) or "
            "steps (num_steps), or select fewer parameters."
        )


class Krylov:
    """Rows q_0, q_1, ... that span a Krylov space, orthogonalised in full, twice.

    Args:
        operator: A, symmetric.
        capacity: m, the most basis vectors; memory is (m + 1) vectors.
        generator: of random vectors, for the start and after a breakdown.
        deflated: (d, n) orthonormal rows: everything stays orthogonal to them, so that A is
            seen on their complement only.

    Attributes:
        count: j, the basis vectors with a known product.
        beta: the norm of the part of A q_{j-1} that leaves the space: 0 after a breakdown.
        is_exhausted: the basis spans the whole (deflated) space.
        alphas, betas: the tridiagonal matrix of the run since its beginning; it ends with the
            first restart.
    """

    def __init__(
        self,
        operator: LinearOperator,
        capacity: int,
        *,
        generator: torch.Generator,
        deflated: Tensor | None = None,
    ) -> None:
        self._operator, self._generator, self._deflated = operator, generator, deflated
        self.capacity = capacity
        self._room = operator.size - (0 if deflated is None else len(deflated))
        dtype = basis_dtype(operator)
        self._basis = torch.empty(capacity + 1, operator.size, dtype=dtype, device=operator.device)
        self._projected = np.zeros((capacity + 1, capacity + 1))
        self._eps = float(torch.finfo(dtype).eps)
        self._scale = 0.0  # the largest coefficient so far: a lower bound of ||A||
        self.count, self.beta, self.is_exhausted = 0, 0.0, False
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self._is_first_cycle = True

    def begin(self, start: Tensor | None = None) -> None:
        """Set q_0 from `start` (n,), or at random."""
        if start is not None:
            vector = start.detach().to(self._basis).clone()
            self._project_out(vector, 0)
            norm = float(vector.norm())
            if norm > self._eps:
                self._basis[0] = vector / norm
                return
        self._append_random()

    def step(self) -> None:
        """One product: A q_j joins the projected matrix, its remainder becomes q_{j+1}."""
        j = self.count
        # A copy: an operator may hand out its own memory, and we work in place.
        image = self._operator.matvec(self._basis[j]).to(self._basis.dtype, copy=True)
        coefficients = self._project_out(image, j + 1)
        norm = float(image.norm())
        if not np.isfinite(norm) or not np.isfinite(coefficients).all():
            raise RequestError(
                f"product {j + 1} of this run is not finite. The second derivative overflows: use "
                "dtype=torch.float64 (--dtype float64)."
            )
        self._projected[j, : j + 1] = self._projected[: j + 1, j] = coefficients
        self._scale = max(self._scale, float(np.abs(coefficients).max()), norm)
        self.count = j + 1
        self.is_exhausted = self.count >= self._room
        if self.is_exhausted:
            norm = 0.0  # nothing is left to lead to: it is rounding
        self.beta = norm if norm > _BREAKDOWN_EPS * self._eps * self._scale else 0.0
        if self._is_first_cycle:
            self.alphas.append(float(coefficients[j]))
            self.betas.append(self.beta)
        if self.beta:
            self._basis[self.count] = image / norm
        elif not self.is_exhausted:
            # Normal for a matrix of low rank, or with multiple eigenvalues: go on elsewhere.
            self._append_random()

    def ritz(self) -> tuple[Array, Array, Array]:
        """Ritz values (j,) ascending, their coordinates (j, j) in columns, residual norms (j,)."""
        values, coordinates = np.linalg.eigh(self._projected[: self.count, : self.count])
        return values, coordinates, np.abs(self.beta * coordinates[-1])

    def vectors(self, coordinates: Array) -> Tensor:
        """Ritz vectors as rows (k, n), from columns (j, k) of coordinates."""
        rotation = torch.from_numpy(coordinates.T.copy()).to(self._basis)
        return rotation @ self._basis[: self.count]

    def restart(self, values: Array, coordinates: Array) -> None:
        """Keep some Ritz vectors and the next basis vector (Wu and Simon 2000)."""
        kept = len(values)
        rotation = torch.from_numpy(coordinates.T.copy()).to(self._basis)
        # Column blocks: the rotation needs no second basis.
        for columns in torch.split(self._basis, max(1, 2**22 // self.capacity), dim=1):
            columns[:kept] = rotation @ columns[: self.count]
        self._basis[kept] = self._basis[self.count]
        # Rounding in the rotation would live on in the next vector.
        following = self._basis[kept].clone()
        self._project_out(following, kept)
        self._basis[kept] = following / following.norm()
        self._projected[:] = 0
        self._projected[range(kept), range(kept)] = values
        self.count, self._is_first_cycle = kept, False

    def _project_out(self, vector: Tensor, count: int) -> Array:
        """Make `vector` orthogonal to the first `count` rows, in place; what was taken out."""
        basis = self._basis[:count]
        taken = torch.zeros(count, dtype=torch.float64, device=vector.device)
        for _ in range(2):  # "twice is enough" (Kahan, Parlett 1980)
            if self._deflated is not None:
                vector -= self._deflated.T @ (self._deflated @ vector)
            inner = basis @ vector
            vector -= basis.T @ inner
            taken += inner
        return cast(Array, taken.cpu().numpy())

    def _append_random(self) -> None:
        for _ in range(5):
            vector = torch.randn(
                self._operator.size, generator=self._generator, dtype=torch.float64
            ).to(self._basis)
            vector /= vector.norm()
            self._project_out(vector, self.count)
            norm = float(vector.norm())
            if norm > 1e3 * self._eps:
                vector /= norm
                self._project_out(vector, self.count)
                self._basis[self.count] = vector / vector.norm()
                return
        self.is_exhausted = True


def spectrum_edge(
    alphas: Sequence[float], betas: Sequence[float], size: int, delta: float
) -> float:
    """A value that no eigenvalue exceeds, with probability 1 - delta.

    A random unit vector puts the mass <v, u>^2 on the eigenvector u. Whatever the spectrum, a
    measure with the moments of this tridiagonal matrix has at a point x at most the mass
    1 / sum_j p_j(x)^2, its Christoffel function, p_j being the orthonormal polynomials; and
    P(<v, u>^2 <= s) <= sqrt(2 n s / pi). Beyond the largest Ritz value the first falls with x.

    Args:
        alphas: (m,) diagonal of a Lanczos run from a uniformly random start, not restarted.
        betas: (m,) off-diagonal; the last leads out of the space, 0 where that is invariant.
        size: dimension of the space that the start was drawn from.
        delta: the probability to be wrong.

    Returns:
        The edge, not below the largest Ritz value. For the lower end negate the `alphas`.

    Source: Akhiezer 1965, The Classical Moment Problem, theorem 2.5.2 (the bound on a mass).
    """
    diagonal, off = np.asarray(alphas), np.asarray(betas)
    steps = len(diagonal)
    matrix = np.diag(diagonal) + np.diag(off[: steps - 1], 1) + np.diag(off[: steps - 1], -1)
    values = np.linalg.eigvalsh(matrix)
    top, spread = float(values[-1]), float(values[-1] - values[0] + off[-1])
    if not off.all():
        return top  # the start lay in an invariant space: its whole measure is known
    needed = 2 * size / (np.pi * delta**2)

    def is_excluded(x: Array) -> NDArray[np.bool_]:
        before, current = np.zeros_like(x), np.ones_like(x)
        total = np.ones_like(x)
        with np.errstate(over="ignore", invalid="ignore"):
            for j in range(steps):
                link = off[j - 1] if j else 0.0
                before, current = current, ((x - diagonal[j]) * current - link * before) / off[j]
                # Once beyond what is needed it may overflow: it stays beyond.
                total = np.where(total >= needed, total, total + current**2)
        return np.asarray(total >= needed)

    width = spread
    while not is_excluded(np.asarray([top + width]))[0]:
        width *= 2
    low = top
    for _ in range(2):  # a grid within a grid: to a thousandth of the width
        points = np.linspace(low, low + width, 33)[1:]
        first = int(np.argmax(is_excluded(points)))
        low, width = points[first] - width / 32, width / 32
    return float(low + width)
