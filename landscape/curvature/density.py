"""The spectral density of an operator, by stochastic Lanczos quadrature on what is deflated.

No smoothing: the result is a distribution function with a band around it. `figures` smooth for
the eye.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from landscape.curvature.eigen import eigsh
from landscape.curvature.eigenpairs import Eigenpairs
from landscape.curvature.lanczos import Array, Krylov, basis_dtype, check_memory, spectrum_edge
from landscape.curvature.operators import LinearOperator
from landscape.errors import RequestError
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SpectralDensity", "spectral_density"]

_DELTA = 0.01
_ROUNDING_EPS = 8  # as `eigen` allows for its own residuals


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralDensity(Result):
    """The distribution of an operator's n eigenvalues, F(x) = (eigenvalues <= x) / n.

    Attributes:
        outliers: (d,) eigenvalues that were deflated; each has the mass 1/n exactly.
        nodes: (p, m) quadrature nodes of each probe for the other n - d eigenvalues, ascending.
        weights: (p, m) their weights; each row sums to 1.
        is_exact: (p,) the probe's Krylov space was invariant: its quadrature has no error.
        size: n.
        edges: (low, high) hold all eigenvalues, with probability 99 %.
        noise_floor: eigenvalues below it in magnitude are rounding noise, of the products and of
            Lanczos.
    """

    probe: ClassVar[str] = "density"

    outliers: Array
    nodes: Array
    weights: Array
    is_exact: NDArray[np.bool_]
    size: int
    edges: tuple[float, float]
    noise_floor: float

    @property
    def status(self) -> str:
        """Always "converged": the doubt is in the band, not in a threshold."""
        return "converged"

    def cdf(self, x: ArrayLike) -> Array:
        """F at x, the shape of x."""
        return self._mix(self._probe_cdf(np.asarray(x, float), "value").mean(0), x)

    def cdf_band(self, x: ArrayLike, confidence: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper bounds of F at x.

        Two doubts add up. Quadrature: by the Chebyshev-Markov-Stieltjes inequalities the true
        distribution seen by a probe lies between the staircases one node back and one node
        ahead. Sampling: the mass that a random direction sees below x is Beta distributed around
        F, with the variance 2 F (1 - F) / (n - d + 2); Wilson's interval (1927) takes it at the
        ends of the band. Taken at what was seen, it would hold a single eigenvalue's mass in 75 %
        of the cases, not in 95 %.
        """
        if not 0 < confidence < 1:
            raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
        deviations = float(stats.norm.ppf((1 + confidence) / 2))
        low, high = self._rest_band(np.asarray(x, float), deviations)
        return self._mix(low, x), self._mix(high, x)

    def quantile(self, q: ArrayLike) -> Array:
        """The smallest node x with F(x) >= q, the shape of q.

        Raises:
            RequestError: a share outside [0, 1].
        """
        shares = np.asarray(q, float)
        if not ((shares >= 0) & (shares <= 1)).all():
            raise RequestError(f"q={shares}, expected shares between 0 and 1: the median is 0.5.")
        points = self._support()
        # A share of rounding below q must not move the answer by a node.
        found = np.searchsorted(self.cdf(points) + 1e-12, shares)
        return np.asarray(points[np.minimum(found, len(points) - 1)])

    def wasserstein_error(self) -> float:
        """A bound on the W1 distance to the true distribution: quadrature, plus two standard
        deviations of sampling; the unit is the eigenvalues'. Outliers are taken as exact."""
        low, high = self.edges
        points = np.unique(np.concatenate([[low, high], self.nodes.ravel()]))
        points = points[(points >= low) & (points <= high)]
        widths, left = np.diff(points), points[:-1]
        value = self._probe_cdf(left, "value").mean(0)
        least, most = self._rest_band(left, 2.0)
        share = self._rest / self.size
        return share * float((widths * np.maximum(value - least, most - value)).sum())

    def mass(self, low: float, high: float) -> float:
        """The share of eigenvalues in (low, high]."""
        ends = self.cdf(np.asarray([low, high]))
        return float(ends[1] - ends[0])

    @property
    def _rest(self) -> int:
        return self.size - len(self.outliers)

    def _rest_band(self, x: Array, deviations: float) -> tuple[Array, Array]:
        """Bounds of F, of the eigenvalues that are not outliers, so many deviations apart."""
        lower, upper = (self._probe_cdf(x, kind).mean(0) for kind in ("lower", "upper"))
        low = np.clip(self._wilson(lower, -deviations), 0, lower)  # up to rounding, it is so
        high = np.clip(self._wilson(upper, deviations), upper, 1)
        # A probe that is exact saw every eigenvalue: where it sees no mass, there is none.
        seen, is_exact = self._probe_cdf(x, "value").mean(0), self.is_exact.any()
        is_below = (x < self.edges[0]) | (is_exact & (seen <= 0))
        is_above = (x >= self.edges[1]) | (is_exact & (seen >= 1))
        ends = [is_below, is_above]
        return np.select(ends, [0.0, 1.0], low), np.select(ends, [0.0, 1.0], high)

    def _wilson(self, share: Array, deviations: float) -> Array:
        """The F whose own standard deviation, times `deviations`, leads from it to `share`."""
        tosses = (self._rest + 2) * len(self.nodes) / 2  # the variance is F (1 - F) / tosses
        shift = deviations**2 / tosses
        variance = share * (1 - share) / tosses + shift / (4 * tosses)
        found = (share + shift / 2 + deviations * np.sqrt(variance)) / (1 + shift)
        return np.asarray(found)

    def _support(self) -> Array:
        return np.unique(np.concatenate([self.outliers, self.nodes[self.weights > 0].ravel()]))

    def _mix(self, rest: Array, x: ArrayLike) -> Array:
        """The deflated eigenvalues' exact steps, and the rest by its share."""
        known = np.searchsorted(np.sort(self.outliers), np.asarray(x, float), side="right")
        return np.asarray((known + self._rest * rest) / self.size)

    def _probe_cdf(self, x: Array, kind: str) -> Array:
        """(p, *x.shape) the staircase of each probe, or that one node back or ahead."""
        rows = []
        for nodes, weights, exact in zip(self.nodes, self.weights, self.is_exact, strict=True):
            steps = np.concatenate([[0.0], np.cumsum(weights)])
            steps /= steps[-1]  # a sum of shares ends at 1 + rounding
            index = np.searchsorted(nodes, x, side="right")
            if kind == "lower" and not exact:
                index = np.maximum(index - 1, 0)
            elif kind == "upper" and not exact:
                index = np.minimum(index + 1, len(nodes))
            rows.append(steps[index])
        return np.stack(rows)

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `probe`, `node`, `outlier`; headline: median, negative and near-zero mass."""
        import xarray as xr

        unit = {"units": "loss / parameter^2"}
        share = {"units": "1"}
        floor = self.noise_floor
        below = float(np.nextafter(-floor, -np.inf))  # a zero matrix has a floor of 0
        low, high = (float(bound) for bound in self.cdf_band(below))
        return xr.Dataset(
            {
                "node": (("probe", "node"), self.nodes, {**unit, "long_name": "quadrature node"}),
                "weight": (
                    ("probe", "node"),
                    self.weights,
                    {**share, "long_name": "weight among the eigenvalues that are not outliers"},
                ),
                "is_exact": (
                    ("probe",),
                    self.is_exact,
                    {**share, "long_name": "invariant Krylov space"},
                ),
                "outlier": (
                    ("outlier",),
                    self.outliers,
                    {**unit, "long_name": "deflated eigenvalue, of mass 1/n"},
                ),
                "edge": (
                    ("side",),
                    np.asarray(self.edges),
                    {**unit, "long_name": "holds the spectrum, with probability 0.99"},
                ),
                "size": ((), self.size, {**share, "long_name": "number of eigenvalues"}),
                "median": ((), float(self.quantile(0.5)), {**unit, "long_name": "median"}),
                "negative_mass": (
                    (),
                    float(self.cdf(below)),
                    {**share, "long_name": "share of eigenvalues below -noise_floor"},
                ),
                "negative_mass_low": ((), low, {**share, "long_name": "lower end, 95 % band"}),
                "negative_mass_high": ((), high, {**share, "long_name": "upper end, 95 % band"}),
                "near_zero_mass": (
                    (),
                    self.mass(below, floor),
                    {**share, "long_name": "share within the noise floor"},
                ),
                "wasserstein_error": (
                    (),
                    self.wasserstein_error(),
                    {**unit, "long_name": "bound on the W1 distance to the truth"},
                ),
                "noise_floor": (
                    (),
                    floor,
                    {**unit, "long_name": "rounding noise of an eigenvalue"},
                ),
            },
            coords={"side": ["low", "high"]},
        )

    @classmethod
    def from_dataset(cls, record: xr.Dataset) -> SpectralDensity:
        """The inverse of `to_dataset`; the request is taken from a stored record's attributes."""
        held = record.attrs
        low, high = (float(edge) for edge in record["edge"].to_numpy())
        return cls(
            settings=json.loads(str(held.get("settings", "{}"))),
            provenance=json.loads(str(held.get("provenance", "{}"))),
            num_products=int(held.get("num_products", 0)),
            wall_time=float(held.get("wall_time", 0.0)),
            notes=tuple(json.loads(str(held.get("notes", "[]")))),
            outliers=record["outlier"].to_numpy(),
            nodes=record["node"].to_numpy(),
            weights=record["weight"].to_numpy(),
            is_exact=record["is_exact"].to_numpy().astype(bool),
            size=int(record["size"]),
            edges=(low, high),
            noise_floor=float(record["noise_floor"]),
        )


def spectral_density(
    operator: LinearOperator,
    *,
    num_steps: int = 80,
    num_probes: int = 1,
    deflate: Eigenpairs | int = 10,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> SpectralDensity:
    """The distribution of all eigenvalues, outliers exact, the bulk by Lanczos quadrature.

    Args:
        operator: A, symmetric.
        num_steps: Lanczos steps, one product each: the resolution. Spend here first.
        num_probes: random directions; one is enough for large n, since a direction's sampling
            variance falls with 1/n.
        deflate: eigenpairs that are known, or how many of largest magnitude to compute first. A
            probe's weight on a single eigenvalue is chi-squared noise; deflated, it is 1/n.
        seed: of the probes (and of the eigenpairs, if they are computed here).
        progress: called with (products, total, message).

    Raises:
        RequestError: no steps or probes, eigenpairs of another operator, or a basis that does not
            fit into memory.

    Source: Golub and Meurant 2010, Matrices, Moments and Quadrature; Ubaru, Chen and Saad 2017.
    """
    if num_steps < 1 or num_probes < 1:
        raise RequestError(
            f"num_steps={num_steps}, num_probes={num_probes}: expected at least 1 of each."
        )
    if isinstance(deflate, int) and deflate < 0:
        raise RequestError(f"deflate={deflate}, expected eigenpairs or how many, 0 or more.")
    if isinstance(deflate, Eigenpairs) and len(deflate.vectors) != operator.size:
        raise RequestError(
            f"deflate holds vectors of {len(deflate.vectors)} parameters, the operator has "
            f"{operator.size}: pass eigenpairs of this operator."
        )
    began = time.perf_counter()
    noise = operator.noise()
    num_products = noise.num_products
    requested = deflate if isinstance(deflate, int) else len(deflate.values)
    if isinstance(deflate, int):
        count = min(deflate, operator.size - 1)
        pairs = eigsh(operator, count, which="LM", seed=seed, progress=progress) if count else None
        num_products += pairs.num_products if pairs is not None else 0
    else:
        pairs = deflate
    vectors = torch.empty(0, operator.size, dtype=basis_dtype(operator), device=operator.device)
    outliers, residual_norms = np.empty(0), np.empty(0)
    if pairs is not None and pairs.converged.any():
        kept = np.flatnonzero(pairs.converged)[: operator.size - 1]  # a probe needs a dimension
        outliers, residual_norms = pairs.values[kept], pairs.residual_norms[kept]
        vectors = pairs.vectors.T[torch.from_numpy(kept)].to(vectors)
    steps = min(num_steps, operator.size - len(outliers))
    check_memory(operator, steps + 1 + len(outliers))
    streams = np.random.SeedSequence([seed, 1]).spawn(num_probes)
    nodes, weights = np.zeros((num_probes, steps)), np.zeros((num_probes, steps))
    is_exact = np.zeros(num_probes, dtype=bool)
    low, high = np.inf, -np.inf
    for row, stream in enumerate(streams):
        generator = torch.Generator().manual_seed(int(stream.generate_state(1, np.uint64)[0]) >> 1)
        krylov = Krylov(operator, steps, generator=generator, deflated=vectors)
        krylov.begin()
        while krylov.count < steps:
            krylov.step()
            num_products += 1
            if progress is not None:
                done = row * steps + krylov.count
                progress(done, steps * num_probes, "density")
            if krylov.beta == 0:  # an invariant space: the quadrature is exact already
                is_exact[row] = True
                break
        values, coordinates, _ = krylov.ritz()
        nodes[row], weights[row] = values[-1], 0.0
        nodes[row, : len(values)], weights[row, : len(values)] = values, coordinates[0] ** 2
        room = operator.size - len(outliers)
        one_side = _DELTA / 2
        high = max(high, spectrum_edge(krylov.alphas, krylov.betas, room, one_side))
        low = min(low, -spectrum_edge([-a for a in krylov.alphas], krylov.betas, room, one_side))
    ends = np.asarray([low, high, *outliers])
    # What Lanczos leaves of an eigenvalue that is 0: some eps of the largest, more than a product.
    noise_floor = noise.floor + _ROUNDING_EPS * torch.finfo(operator.dtype).eps * np.abs(ends).max()
    gap = np.maximum(low - outliers, outliers - high).min(initial=np.inf)
    margin = noise_floor + _coupling_error(float(np.linalg.norm(residual_norms)), max(gap, 0.0))
    return SpectralDensity(
        settings={
            "num_steps": num_steps,
            "num_probes": num_probes,
            "deflated": requested,
            "seed": seed,
        },
        provenance=operator.provenance,
        num_products=num_products,
        wall_time=time.perf_counter() - began,
        notes=operator.notes,
        outliers=outliers,
        nodes=nodes,
        weights=weights / weights.sum(1, keepdims=True),
        is_exact=is_exact,
        size=operator.size,
        edges=(float(ends.min() - margin), float(ends.max() + margin)),
        noise_floor=float(noise_floor),
    )


def _coupling_error(residual: float, gap: float) -> float:
    """How far eigenvalues of A can lie from those of its parts on the outliers and on the rest.

    Args:
        residual: norm of the block that couples the parts.
        gap: distance between the spectra of the parts.

    Source: C.-K. Li and R.-C. Li 2005, A note on eigenvalues of perturbed Hermitian matrices.
    """
    if residual == 0 or gap == np.inf:
        return 0.0
    return 2 * residual**2 / (gap + float(np.hypot(gap, 2 * residual)))
