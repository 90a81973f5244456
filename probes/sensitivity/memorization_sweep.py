"""Memorization, curvature and barriers along learning rates, example by example.

`geometry_bridge` looks at one network, `learning_rate_bridge` trains a small problem for the sweep.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_floats
from landscape.probes.sensitivity.geometry_bridge import MEANINGS, correlations_of
from landscape.probes.sensitivity.rank_correlation import Correlation, resampled
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MemorizationSweep", "Trend", "memorization_sweep"]

_TRENDS = {
    "memorization": "mean memorization",
    "curvature": "log10 of the mean curvature",
    "barrier": "sum of the shares of the barrier",
}


@dataclass(frozen=True)
class Trend:
    """A slope per decade of the learning rate, by least squares.

    Attributes:
        value: NaN where it is not defined.
        low: of a bootstrap interval over the examples, the same ones at all learning rates. How
            far other networks would differ is not in it.
        high: of the interval.
        num_examples: that have a number at every learning rate; the others are left out.
    """

    value: float
    low: float
    high: float
    num_examples: int


@dataclass(frozen=True, kw_only=True, eq=False)
class MemorizationSweep(Result):
    """A table of L learning rates and N examples.

    Attributes:
        learning_rates: (L,) ascending.
        memorization: (L, N) NaN where an example was never held out, or always.
        curvature: (L, N)
        barrier_share: (L, N) what the example adds to a barrier; NaN where it was not given.
        loss: (L, N) NaN where it was not given.
        accuracy_in: (L,) of networks on examples that they were trained on.
        accuracy_out: (L,) on those that they were not.
        correlations: at each learning rate, by the names of `Bridge.correlations`.
        trends: of the mean "memorization"; of the logarithm (base 10) of the mean "curvature", NaN
            where that is not above 0 at every learning rate; of the height of the "barrier".
        confidence: of the intervals.
    """

    probe: ClassVar[str] = "memorization_sweep"

    learning_rates: Floats
    memorization: Floats = field(repr=False)
    curvature: Floats = field(repr=False)
    barrier_share: Floats = field(repr=False)
    loss: Floats = field(repr=False)
    accuracy_in: Floats
    accuracy_out: Floats
    correlations: Mapping[str, tuple[Correlation, ...]] = field(repr=False)
    trends: Mapping[str, Trend]
    confidence: float

    @property
    def status(self) -> str:
        """ "converged", or how many examples have no memorization at some learning rate."""
        num = self.memorization.shape[1]
        left_out = num - self.trends["memorization"].num_examples
        return f"{left_out} of {num} examples are undefined" if left_out else "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `learning_rate` and `example`; trends as scalars."""
        import xarray as xr

        each, both = ("learning_rate",), ("learning_rate", "example")
        ends = f"{100 * self.confidence:g}% interval"
        table: list[tuple[str, tuple[str, ...], object, str, str]] = [
            ("memorization", both, self.memorization, "1", "memorization, size-matched"),
            ("curvature", both, self.curvature, "loss / parameter^2", "curvature of the example"),
            ("barrier_share", both, self.barrier_share, "loss", "what it adds to the barrier"),
            ("loss", both, self.loss, "loss", "loss of the example"),
            ("mean_memorization", each, _means(self.memorization), "1", "mean memorization"),
            ("accuracy_in", each, self.accuracy_in, "1", "accuracy on what was trained on"),
            ("accuracy_out", each, self.accuracy_out, "1", "accuracy on what was held out"),
        ]
        for name, found in self.correlations.items():
            meaning = f"rank correlation {MEANINGS[name]}"
            for suffix, attribute, words in (
                ("", "value", meaning),
                ("_low", "low", f"lower end, {ends}, {meaning}"),
                ("_high", "high", f"upper end, {ends}, {meaning}"),
            ):
                values = [getattr(one, attribute) for one in found]
                table.append((f"{name}_correlation{suffix}", each, values, "1", words))
        for name, trend in self.trends.items():
            meaning = f"slope of the {_TRENDS[name]} per decade of the learning rate"
            unit = "loss" if name == "barrier" else "1"
            table += [
                (f"{name}_trend", (), trend.value, unit, meaning),
                (f"{name}_trend_low", (), trend.low, unit, f"lower end, {ends}, {meaning}"),
                (f"{name}_trend_high", (), trend.high, unit, f"upper end, {ends}, {meaning}"),
                (f"{name}_trend_examples", (), trend.num_examples, "1", f"examples in {meaning}"),
            ]
        return xr.Dataset(
            {
                name: (dims, values, {"units": unit, "long_name": words})
                for name, dims, values, unit, words in table
            },
            coords={
                "learning_rate": (
                    each,
                    self.learning_rates,
                    {"units": "1", "long_name": "learning rate"},
                )
            },
        )


def memorization_sweep(
    learning_rates: Sequence[float],
    runs: Sequence[SubsetRuns],
    curvature: ArrayLike,
    *,
    barrier_share: ArrayLike | None = None,
    loss: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> MemorizationSweep:
    """What was memorized at each learning rate, beside curvature and barriers, by example.

    Args:
        learning_rates: L, two or more.
        runs: of each, on the same examples, best with the same masks: then the learning rates are
            compared on the same subsets.
        curvature: (L, N) of every example, such as of `weight_curvature`.
        barrier_share: (L, N) such as `example_shares` of a barrier at each learning rate.
        loss: (L, N) of the network whose curvature it is, for the partial correlations.
        confidence: of the intervals, by a bootstrap over the examples.
        seed: of the resamples.

    Raises:
        RequestError: learning rates that are not positive or repeat, or tables that do not fit.
    """
    began = time.perf_counter()
    rates = np.asarray(learning_rates, dtype=np.float64)
    shape = _required(rates, runs)
    order = np.argsort(rates)
    rates, runs = rates[order], [runs[index] for index in order]
    bent, shares, losses = (
        _table(values, name, shape)[order]
        for values, name in (
            (curvature, "curvature"),
            (barrier_share, "barrier_share"),
            (loss, "loss"),
        )
    )
    memorized = np.stack([memorization(one, num_draws=1, seed=seed).value for one in runs])
    found = [
        correlations_of(*row, confidence=confidence, seed=seed)
        for row in zip(memorized, bent, shares, losses, strict=True)
    ]
    return MemorizationSweep(
        settings={"confidence": confidence, "seed": seed, "learning_rates": rates.tolist()},
        provenance=dict(runs[0].provenance),
        wall_time=time.perf_counter() - began,
        learning_rates=rates,
        memorization=memorized,
        curvature=bent,
        barrier_share=shares,
        loss=losses,
        accuracy_in=np.array([one.correct[one.masks].mean() for one in runs]),
        accuracy_out=np.array([one.correct[~one.masks].mean() for one in runs]),
        correlations={name: tuple(one[name] for one in found) for name in MEANINGS},
        trends={
            name: _trend(name, rates, table, confidence, seed)
            for name, table in (
                ("memorization", memorized),
                ("curvature", bent),
                ("barrier", shares),
            )
        },
        confidence=confidence,
    )


def _required(rates: Floats, runs: Sequence[SubsetRuns]) -> tuple[int, int]:
    """L and N."""
    if len(rates) < 2 or not (rates > 0).all() or len(set(rates.tolist())) < len(rates):
        raise RequestError(
            f"learning_rates={rates.tolist()}, expected two or more, positive and each once."
        )
    examples = {one.num_examples for one in runs}
    if len(runs) != len(rates) or len(examples) > 1:
        raise RequestError(
            f"there are {len(runs)} runs of {sorted(examples)} examples for {len(rates)} learning "
            "rates. Give one of each, on the same examples."
        )
    return len(rates), examples.pop()


def _table(values: ArrayLike | None, name: str, shape: tuple[int, int]) -> Floats:
    if values is None:
        return np.full(shape, np.nan)
    table = as_floats(values, name, "(L, N)")
    if table.shape != shape:
        raise RequestError(
            f"{name} has shape {table.shape}, expected {shape}: learning rates by examples."
        )
    return table


def _means(table: Floats) -> Floats:
    """(L,) over the examples that have a value; NaN without any."""
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, table, 0).sum(1) / known.sum(1))


def _trend(name: str, rates: Floats, table: Floats, confidence: float, seed: int) -> Trend:
    columns = table[:, ~np.isnan(table).any(0)].T  # (examples, L)
    decades = np.log10(rates) - np.log10(rates).mean()

    def slopes(tables: Floats) -> Floats:
        levels = tables.mean(-2)
        if name == "curvature":
            levels = np.log10(np.where(levels > 0, levels, np.nan))
        elif name == "barrier":  # whose height is a sum
            levels = levels * tables.shape[-2]
        return np.asarray(levels @ decades / (decades @ decades))

    if not len(columns):
        return Trend(np.nan, np.nan, np.nan, 0)
    low, high = resampled(columns, slopes, confidence=confidence, seed=seed)
    return Trend(float(slopes(columns)), low, high, len(columns))
