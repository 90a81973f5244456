"""The trace of an operator, from random probes, with an interval that says how sure it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from landscape.curvature.eigenpairs import Eigenpairs
from landscape.curvature.operators import LinearOperator
from landscape.errors import RequestError
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Estimate", "trace"]

_FIRST_LOOK = 16  # probes before the first decision: below, the spread itself is unknown
_LOOK_GROWTH = 1.25  # looking after every probe would stop on lucky spreads, and cover too little


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate(Result):
    """A number estimated from independent samples.

    Attributes:
        value: the mean; the unit is the operator's.
        standard_error: of the mean, from the samples' own spread.
        interval: (low, high) by Student's t.
        confidence: of the interval.
        samples: (m,) one for each probe.
        converged: the interval's half-width is at most rtol |value|.
    """

    probe: ClassVar[str] = "trace"

    value: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    samples: NDArray[np.float64]
    converged: bool

    @property
    def status(self) -> str:
        """ "converged", or how wide the interval still is."""
        if self.converged:
            return "converged"
        half = (self.interval[1] - self.interval[0]) / 2
        return f"not converged: +-{half:.2g} at {100 * self.confidence:g}%"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Scalars, and the samples along `probe`."""
        import xarray as xr

        unit = {"units": "loss / parameter^2"}
        confidence = f"{100 * self.confidence:g}% interval"
        return xr.Dataset(
            {
                "value": ((), self.value, {**unit, "long_name": "trace"}),
                "standard_error": (
                    (),
                    self.standard_error,
                    {**unit, "long_name": "standard error of the trace"},
                ),
                "low": ((), self.interval[0], {**unit, "long_name": f"lower end, {confidence}"}),
                "high": ((), self.interval[1], {**unit, "long_name": f"upper end, {confidence}"}),
                "sample": (("probe",), self.samples, {**unit, "long_name": "one probe's value"}),
            }
        )


def trace(
    operator: LinearOperator,
    *,
    rtol: float = 0.05,
    seed: int,
    max_products: int = 200,
    confidence: float = 0.95,
    deflate: Eigenpairs | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Estimate:
    """tr A by Hutchinson's estimator, E z.(A z) over random signs z.

    Args:
        operator: A, symmetric.
        rtol: stop when the interval's half-width is below rtol times the value. 0 uses the whole
            budget, unless all samples are equal.
        seed: of the probes.
        max_products: budget, one product a probe; an estimate that has not converged is returned
            with the interval that it has.
        confidence: of the interval.
        deflate: eigenpairs of A. Their part of the trace is taken exactly and the probes see the
            rest: the identity tr A = tr(V'AV) + tr(PAP), P = I - VV', holds for any orthonormal
            V, converged or not, and leaves the spread of the small eigenvalues only.
        progress: called with (products, budget, message).

    Raises:
        RequestError: a budget below two probes, a confidence outside (0, 1), negative rtol,
            eigenpairs of another operator, a product that is not finite.

    Source: Hutchinson 1989. Successive means are no stop rule: theirs fails silently.
    """
    if max_products < 2 or not 0 < confidence < 1 or not rtol >= 0:
        raise RequestError(
            f"max_products={max_products}, confidence={confidence}, rtol={rtol}: expected at least "
            "2 products, a confidence between 0 and 1, and rtol >= 0."
        )
    if deflate is not None and len(deflate.vectors) != operator.size:
        raise RequestError(
            f"deflate holds vectors of {len(deflate.vectors)} parameters, the operator has "
            f"{operator.size}: pass eigenpairs of this operator."
        )
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
    )
    known, basis = 0.0, None
    if deflate is not None:
        known = float(deflate.values.sum())
        basis = deflate.vectors.to(operator.device, operator.dtype)
    samples: list[float] = []
    mean = error = half = np.inf
    look = _FIRST_LOOK
    converged = False
    while len(samples) < max_products and not converged:
        signs = torch.randint(0, 2, (operator.size,), generator=generator, dtype=torch.int8)
        probe = (2 * signs - 1).to(operator.device, operator.dtype)
        if basis is not None:
            probe = probe - basis @ (basis.T @ probe)
        sample = float(probe.double() @ operator.matvec(probe).double())
        if not np.isfinite(sample):
            raise RequestError(
                f"product {len(samples) + 1} is not finite. The second derivative overflows: use "
                "dtype=torch.float64 (--dtype float64)."
            )
        samples.append(known + sample)
        if progress is not None:
            progress(len(samples), max_products, "trace")
        if len(samples) >= min(look, max_products) and len(samples) > 1:
            look = int(np.ceil(look * _LOOK_GROWTH))
            mean = float(np.mean(samples))
            error = float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
            half = float(stats.t.ppf((1 + confidence) / 2, len(samples) - 1)) * error
            converged = half <= rtol * abs(mean)
    settings = {
        "rtol": rtol,
        "seed": seed,
        "max_products": max_products,
        "confidence": confidence,
        "deflated": 0 if deflate is None else len(deflate.values),
    }
    return Estimate(
        settings=settings,
        provenance=operator.provenance,
        num_products=len(samples),
        wall_time=time.perf_counter() - began,
        notes=operator.notes,
        value=mean,
        standard_error=error,
        interval=(mean - half, mean + half),
        confidence=confidence,
        samples=np.asarray(samples),
        converged=converged,
    )
