"""Eigenpairs: what `eigen` finds, each pair with its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from landscape.curvature.lanczos import Array
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Eigenpairs"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Eigenpairs(Result):
    """Eigenpairs of a symmetric operator, the most wanted first.

    Attributes:
        values: (k,) Rayleigh quotients, float64; the unit is the operator's.
        vectors: (n, k) orthonormal columns.
        residual_norms: (k,) ||A v - value v||, recomputed with one product a pair.
        intervals: (k, 2) each holds an eigenvalue of A: value -+ (residual norm + rounding noise
            of the products), by Weyl's theorem, with no assumption on the solver.
        converged: (k,) residual norm <= max(tol |value|, 4 x rounding noise).
        complete: (k,) no eigenvalue that belongs before this one was missed, neither a larger one
            nor a copy of an equal one, but for one case in a hundred. False says only that this
            could not be shown: at a dense end of the spectrum it takes too many products.
        bounds: (low, high) the whole spectrum lies within, with probability 99 %; NaN where it
            was not looked at.
        noise_floor: rounding noise of a product, in the eigenvalues' unit.
    """

    probe: ClassVar[str] = "eigenvalues"

    values: Array
    vectors: Tensor
    residual_norms: Array
    intervals: Array
    converged: NDArray[np.bool_]
    complete: NDArray[np.bool_]
    bounds: tuple[float, float]
    noise_floor: float

    @property
    def status(self) -> str:
        """ "converged", or how many pairs are not."""
        missing = int((~self.converged).sum())
        return f"{missing} of {len(self.values)} not converged" if missing else "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `pair` and `side`; with `vectors`, `parameter`, too."""
        import xarray as xr

        pair, scalar = ("pair",), ()
        unit = {"units": "loss / parameter^2"}
        dataset = xr.Dataset(
            {
                "eigenvalue": (pair, self.values, {**unit, "long_name": "Rayleigh quotient"}),
                "residual_norm": (
                    pair,
                    self.residual_norms,
                    {**unit, "long_name": "norm of A v - value v, recomputed"},
                ),
                "interval": (
                    ("pair", "side"),
                    self.intervals,
                    {**unit, "long_name": "holds an eigenvalue"},
                ),
                "converged": (pair, self.converged, {"units": "1", "long_name": "converged"}),
                "complete": (
                    pair,
                    self.complete,
                    {"units": "1", "long_name": "none missed before it, with probability 0.99"},
                ),
                "bounds": (
                    ("side",),
                    np.asarray(self.bounds),
                    {**unit, "long_name": "holds the spectrum, with probability 0.99"},
                ),
                "largest": (scalar, self.values.max(), {**unit, "long_name": "largest found"}),
                "smallest": (scalar, self.values.min(), {**unit, "long_name": "smallest found"}),
                "largest_residual": (
                    scalar,
                    self.residual_norms[self.values.argmax()],
                    {**unit, "long_name": "residual norm of the largest"},
                ),
                "noise_floor": (
                    scalar,
                    self.noise_floor,
                    {**unit, "long_name": "rounding noise of a product"},
                ),
            },
            coords={"pair": np.arange(len(self.values)), "side": ["low", "high"]},
        )
        if vectors:
            columns = self.vectors.float() if self.vectors.dtype.itemsize < 4 else self.vectors
            attributes = {"units": "1", "long_name": "eigenvector"}
            dataset["eigenvector"] = (("parameter", "pair"), columns.cpu().numpy(), attributes)
        return dataset
