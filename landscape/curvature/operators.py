"""LinearOperator: a symmetric matrix known by its products. `hessian` holds the one of a loss.

Every algorithm of this folder takes an operator and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.memory import available_bytes, format_bytes

if TYPE_CHECKING:
    import scipy.sparse.linalg

__all__ = ["LinearOperator", "MatrixOperator", "Noise"]

_NOISE_SEED = 20
_MAX_ASYMMETRY = 0.1  # of what an unsymmetric random matrix would show


@dataclass(frozen=True)
class Noise:
    """How far a product strays from exact linearity and symmetry.

    Attributes:
        floor: the norm of the rounding error of a product with a unit vector; an eigenvalue's
            unit. No result of products is surer than this.
        norm: the largest ||A v|| seen for a unit v: a lower bound of ||A||_2.
        num_products: what it took to find out; 0 where it was known already.
    """

    floor: float
    norm: float
    num_products: int


class LinearOperator(ABC):
    """A symmetric linear map on R^n, known only by its products with vectors.

    Attributes:
        size: n.
        dtype, device: of the vectors that it takes and gives.
        provenance: what identifies it in a result file; empty for a bare matrix.
        notes: what was done to make products possible.
    """

    def __init__(
        self,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self.provenance: Mapping[str, object] = provenance or {}
        self.notes: tuple[str, ...] = ()
        self._noise: Noise | None = None

    @abstractmethod
    def _products(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `vectors` (k, n), as rows (k, n)."""

    def matvec(self, vector: Tensor) -> Tensor:
        """The product with one vector: (n,) -> (n,)."""
        if vector.shape != (self.size,):
            raise RequestError(
                f"the vector has shape {tuple(vector.shape)}, expected ({self.size},)."
            )
        return self._products(self._fitted(vector).unsqueeze(0))[0]

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products with k vectors, the columns of a matrix: (n, k) -> (n, k)."""
        if vectors.ndim != 2 or vectors.shape[0] != self.size:
            raise RequestError(
                f"the vectors have shape {tuple(vectors.shape)}, expected ({self.size}, k): one "
                "vector a column."
            )
        return self._products(self._fitted(vectors).T.contiguous()).T

    def _fitted(self, vectors: Tensor) -> Tensor:
        return vectors.detach().to(self.device, self.dtype)

    def noise(self) -> Noise:
        """Rounding noise of the products, from three of them at the first call, then remembered.

        For unit vectors u, v and w = (u + v)/sqrt(2), exact products satisfy
        A w = (A u + A v)/sqrt(2) and u.(A v) = v.(A u).

        Raises:
            RequestError: a product that is not finite, or an operator that is not symmetric.
        """
        if self._noise is None:
            measured = self._measured_noise()
            self._noise = replace(measured, num_products=0)  # what the next call costs
            return measured
        return self._noise

    def _measured_noise(self) -> Noise:
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        pair = torch.randn(2, self.size, generator=generator, dtype=torch.float64)
        pair = pair / pair.norm(dim=1, keepdim=True)
        units = self._fitted(torch.cat([pair, pair.sum(0, keepdim=True) / 2**0.5]))
        images = torch.stack([self._products(unit.unsqueeze(0))[0] for unit in units]).double()
        if not images.isfinite().all():
            raise RequestError(
                "a product with the operator is not finite: the loss overflows in its second "
                "derivative. Use dtype=torch.float64 (--dtype float64)."
            )
        norm = float(images.norm(dim=1).max())
        units = units.double()
        # The vectors themselves were rounded: compare with the sum of what was really given.
        combined = (images[0] + images[1]) / 2**0.5
        drift = (units[2] - (units[0] + units[1]) / 2**0.5).norm()
        nonlinear = float((images[2] - combined).norm()) / 3**0.5
        asymmetry = float((units[0] @ images[1] - units[1] @ images[0]).abs())
        if asymmetry > _MAX_ASYMMETRY * norm / self.size**0.5 and asymmetry > 100 * nonlinear:
            raise RequestError(
                f"the operator is not symmetric: u.(Av) and v.(Au) differ by {asymmetry:.2e} where "
                f"||Av|| is {norm:.2e}. Eigenvalues by Lanczos would be wrong."
            )
        eps = torch.finfo(self.dtype).eps
        return Noise(max(nonlinear, asymmetry, eps * norm, float(drift) * norm), norm, len(units))

    def to_dense(self) -> Tensor:
        """The whole matrix (n, n), symmetrised; for checks on small problems.

        Raises:
            RequestError: it would take more than half of the free memory.
        """
        needed = 3 * self.size**2 * self.dtype.itemsize
        if needed > available_bytes(self.device) / 2:
            raise RequestError(
                f"a dense {self.size} x {self.size} matrix takes {format_bytes(needed)} to form. "
                "Use eigsh, trace or spectral_density, which need products only."
            )
        matrix = self.matmat(torch.eye(self.size, dtype=self.dtype, device=self.device))
        return (matrix + matrix.T) / 2

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """The same map for SciPy: NumPy vectors in and out."""
        import numpy as np
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        working = torch.promote_types(self.dtype, torch.float32)  # NumPy has no bfloat16
        dtype = torch.empty(0, dtype=working).numpy().dtype

        def matvec(vector: np.ndarray) -> np.ndarray:
            product = self.matvec(torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)))
            return product.to("cpu", working).numpy()

        def matmat(vectors: np.ndarray) -> np.ndarray:
            product = self.matmat(torch.from_numpy(np.ascontiguousarray(vectors)))
            return product.to("cpu", working).numpy()

        return ScipyOperator(
            shape=(self.size, self.size), matvec=matvec, rmatvec=matvec, matmat=matmat, dtype=dtype
        )


class MatrixOperator(LinearOperator):
    """A symmetric matrix (n, n) as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise RequestError(
                f"the matrix has shape {tuple(matrix.shape)}, expected (n, n) with n >= 1."
            )
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self._matrix = matrix.detach()

    def _products(self, vectors: Tensor) -> Tensor:
        return vectors @ self._matrix.T
