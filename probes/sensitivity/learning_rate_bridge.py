"""Memorization and curvature along a sweep of learning rates, example by example.

`memorization_sweep` puts together what was measured; `learning_rate_bridge` trains a small problem
for it. `geometry_bridge` looks at one network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.arrays import ArrayLike, Floats, as_floats, as_labels
from landscape.probes.sensitivity.rank_correlation import Correlation, rank_correlation, resampled
from landscape.probes.sensitivity.weight_curvature import weight_curvature
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.probes.subsets.training import Training, run_subsets
from landscape.result import Result
from landscape.trainers.data.splits import subset_masks
from landscape.trainers.examples import Examples
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.orders import child_seed
from landscape.trainers.schedules import constant, cosine
from landscape.trainers.stacking import Stack, stack
from landscape.trainers.training import Plan, fit

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MemorizationSweep", "Trend", "learning_rate_bridge", "memorization_sweep"]

_MASKS, _NETWORKS = 31, 32  # purposes of child seeds
_BATCH = 256


@dataclass(frozen=True)
class Trend:
    """The slope of a mean over examples, per decade of the learning rate, by least squares.

    Attributes:
        value: NaN where it is not defined.
        low: of a bootstrap interval over the examples, the same at all learning rates. How far
            other networks would differ is not in it.
        high: of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MemorizationSweep(Result):
    """A table of L learning rates and N examples.

    Attributes:
        learning_rates: (L,) ascending.
        memorization: (L, N) NaN where an example was never held out, or always.
        curvature: (L, N)
        accuracy_in: (L,) of networks on examples that they were trained on.
        accuracy_out: (L,) on those that they were not.
        correlations: of memorization and curvature at each learning rate.
        memorization_trend: of the mean memorization.
        curvature_trend: of the logarithm (base 10) of the mean curvature; NaN where that is not
            above 0 at every learning rate.
        num_left_out: examples that have not all numbers at all learning rates: they are in no
            trend.
        confidence: of the intervals.
    """

    probe: ClassVar[str] = "memorization_sweep"

    learning_rates: Floats
    memorization: Floats = field(repr=False)
    curvature: Floats = field(repr=False)
    accuracy_in: Floats
    accuracy_out: Floats
    correlations: tuple[Correlation, ...]
    memorization_trend: Trend
    curvature_trend: Trend
    num_left_out: int
    confidence: float

    @property
    def status(self) -> str:
        """ "converged", or how many examples are in no trend."""
        if not self.num_left_out:
            return "converged"
        return f"{self.num_left_out} of {self.memorization.shape[1]} examples are in no trend"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `learning_rate` and `example`; trends as scalars."""
        import xarray as xr

        ends = f"{100 * self.confidence:g}% interval"
        each, both = ("learning_rate",), ("learning_rate", "example")
        together = "rank correlation of memorization and curvature"
        known = np.isfinite(self.memorization)
        with np.errstate(invalid="ignore"):
            mean = np.where(known, self.memorization, 0).sum(1) / known.sum(1)
        table: list[tuple[str, tuple[str, ...], object, str, str]] = [
            ("memorization", both, self.memorization, "1", "memorization, size-matched"),
            ("curvature", both, self.curvature, "loss / parameter^2", "curvature of the example"),
            ("mean_memorization", each, mean, "1", "mean memorization"),
            ("accuracy_in", each, self.accuracy_in, "1", "accuracy on what was trained on"),
            ("accuracy_out", each, self.accuracy_out, "1", "accuracy on what was held out"),
        ]
        for name, attribute, words in (
            ("correlation", "value", together),
            ("correlation_low", "low", f"lower end, {ends}, {together}"),
            ("correlation_high", "high", f"upper end, {ends}, {together}"),
        ):
            values = [getattr(one, attribute) for one in self.correlations]
            table.append((name, each, values, "1", words))
        for name, trend, meaning in (
            ("memorization_trend", self.memorization_trend, "mean memorization"),
            ("curvature_trend", self.curvature_trend, "log10 of the mean curvature"),
        ):
            words = f"slope of the {meaning} per decade of the learning rate"
            table.append((name, (), trend.value, "1", words))
            table.append((f"{name}_low", (), trend.low, "1", f"lower end, {ends}, {words}"))
            table.append((f"{name}_high", (), trend.high, "1", f"upper end, {ends}, {words}"))
        table.append(("num_left_out", (), self.num_left_out, "1", "examples in no trend"))
        return xr.Dataset(
            {
                name: (dims, values, {"units": unit, "long_name": words})
                for name, dims, values, unit, words in table
            },
            coords={
                "learning_rate": (
                    each, self.learning_rates, {"units": "1", "long_name": "learning rate"},
                )
            },
        )  # fmt: skip


def memorization_sweep(
    learning_rates: Sequence[float],
    runs: Sequence[SubsetRuns],
    curvature: ArrayLike,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> MemorizationSweep:
    """What was memorized at each learning rate, beside the curvature of every example.

    Args:
        learning_rates: L, two or more.
        runs: of each, on the same examples, best with the same masks: then the learning rates are
            compared on the same subsets.
        curvature: (L, N) of every example, such as of `weight_curvature`.
        confidence: of the intervals, by a bootstrap over the examples.
        seed: of the resamples.

    Raises:
        RequestError: learning rates that are not positive or repeat, or tables that do not fit.
    """
    began = time.perf_counter()
    rates = np.asarray(learning_rates, dtype=np.float64)
    bent = as_floats(curvature, "curvature", "(L, N)")
    _require(rates, runs, bent)
    order = np.argsort(rates)
    rates, bent, runs = rates[order], bent[order], [runs[index] for index in order]
    found = [memorization(one, num_draws=1, seed=seed) for one in runs]
    memorized = np.stack([one.value for one in found])
    known = ~np.isnan(memorized).any(0) & ~np.isnan(bent).any(0)
    decades = np.log10(rates)

    def trend(table: Floats, *, logarithm: bool) -> Trend:
        def slope(sample: Floats) -> float:
            means = sample.mean(0)
            if logarithm and not (means > 0).all():
                return float("nan")
            return _slope(decades, np.log10(means) if logarithm else means)

        columns = table[:, known].T
        if not len(columns):
            return Trend(np.nan, np.nan, np.nan)
        return Trend(slope(columns), *resampled(columns, slope, confidence=confidence, seed=seed))

    return MemorizationSweep(
        settings={"confidence": confidence, "seed": seed, "learning_rates": rates.tolist()},
        provenance=dict(runs[0].provenance),
        wall_time=time.perf_counter() - began,
        learning_rates=rates,
        memorization=memorized,
        curvature=bent,
        accuracy_in=np.array([one.correct[one.masks].mean() for one in runs]),
        accuracy_out=np.array([one.correct[~one.masks].mean() for one in runs]),
        correlations=tuple(
            rank_correlation(values, own, confidence=confidence, seed=seed)
            for values, own in zip(memorized, bent, strict=True)
        ),
        memorization_trend=trend(memorized, logarithm=False),
        curvature_trend=trend(bent, logarithm=True),
        num_left_out=int((~known).sum()),
        confidence=confidence,
    )


def _require(rates: Floats, runs: Sequence[SubsetRuns], curvature: Floats) -> None:
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
    if curvature.shape != (len(rates), *examples):
        raise RequestError(
            f"curvature has shape {curvature.shape}, expected {(len(rates), *examples)}: learning "
            "rates by examples."
        )


def _slope(x: Floats, y: Floats) -> float:
    centred = x - x.mean()
    return float(centred @ y / (centred @ centred))


def learning_rate_bridge(
    model: Callable[[], nn.Module],
    data: tuple[Tensor, Tensor],
    learning_rates: Sequence[float],
    *,
    num_subsets: int = 64,
    num_networks: int = 4,
    ratio: float = 0.7,
    training: Training | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> MemorizationSweep:
    """Train a small problem at every learning rate, and put together what comes of it.

    Subsets, initial weights and orders of batches are the same at every learning rate. The
    curvature is the trace of each example's Hessian, by `weight_curvature`, averaged over networks
    that were trained on all examples.

    Args:
        model: makes a network, whose outputs are logits; torch's generator is seeded for it.
        data: inputs (N, ...) and labels (N,).
        num_subsets: networks at each learning rate that are trained on subsets.
        num_networks: networks at each learning rate that are trained on all examples.
        ratio: share of the examples in a subset.
        training: how all are trained; its own learning rate is not used.
        seed: of everything that is drawn.
        progress: called with (learning rates done, learning rates, words).

    Raises:
        RequestError: learning rates, numbers or data that do not fit.
    """
    rates = [float(rate) for rate in learning_rates]
    if num_networks < 1 or not rates or not all(rate > 0 for rate in rates):
        raise RequestError(
            f"num_networks={num_networks}, learning_rates={rates}: expected 1 network or more, and "
            "learning rates above 0."
        )
    training = training or Training()
    inputs, labels = data
    classes = torch.from_numpy(as_labels(labels, "labels"))
    masks = subset_masks(len(classes), num_subsets, ratio, seed=child_seed(seed, _MASKS) >> 1)
    stacked = _trained_on_all(model, Examples(inputs, classes), rates, num_networks, training, seed)
    runs, curvature = [], []
    for index, rate in enumerate(rates):
        own = replace(training, learning_rate=rate)
        runs.append(run_subsets(model, data, masks=masks, seed=seed, training=own))
        traces = []
        for member in range(index * num_networks, (index + 1) * num_networks):
            objective = Objective(stacked.member(member), (inputs, classes), batch_size=_BATCH)
            traces.append(weight_curvature(objective, seed=seed).value)
        curvature.append(np.mean(traces, axis=0))
        if progress is not None:
            progress(index + 1, len(rates), "learning rates")
    return memorization_sweep(rates, runs, np.stack(curvature), seed=seed)


def _trained_on_all(
    model: Callable[[], nn.Module],
    examples: Examples,
    rates: Sequence[float],
    num_networks: int,
    training: Training,
    seed: int,
) -> Stack:
    """Networks of the first learning rate, then those of the next, ..., trained side by side."""
    seeds = [child_seed(seed, _NETWORKS, index) for index in range(num_networks)]
    made = []
    for one in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(one)
            made.append(model())
    steps = training.epochs * -(-len(examples) // training.batch_size)
    plan = Plan(
        steps=steps,
        learning_rate=[rate for rate in rates for _ in seeds],
        batch_size=training.batch_size,
        seeds=seeds * len(rates),
        loss="cross_entropy",
        schedule=cosine(steps) if training.schedule == "cosine" else constant(),
        optimizer=Optimizer(momentum=training.momentum),
        weight_decay=[training.weight_decay] * (len(rates) * len(seeds)),
        chunk=training.chunk,  # no trial: sums of another width round otherwise
    )
    return fit(stack(made * len(rates)), plan, examples).stack
