"""Intervals over examples: the paired bootstrap of whatever follows from sums, and Wilson's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from landscape.errors import RequestError

__all__ = ["Intervals", "bootstrap", "wilson"]

Array = NDArray[np.float64]
Statistic = Callable[[Array], Mapping[str, Array]]

NUM_RESAMPLES = 1000
_BLOCK = 2**22  # entries of the resampled counts that are held at a time, 32 MiB


@dataclass(frozen=True, eq=False)
class Intervals:
    """Numbers of any shape, each with an interval; NaN where there is none.

    Attributes:
        value: what was measured.
        low: of the interval.
        high: of the interval.
    """

    value: Array
    low: Array
    high: Array


def bootstrap(
    columns: Tensor, statistic: Statistic, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Intervals]:
    """Percentile intervals of functions of sums over examples.

    An example is drawn with all of its columns, so what two networks have in common on it stays
    common: differences between them are paired.

    Args:
        columns: (N, F) float64, what each example adds.
        statistic: sums (..., F) -> arrays (..., ...) by name.
        confidence: of the intervals, pointwise.
        seed: of the draws.

    Raises:
        RequestError: a confidence that is not between 0 and 1.

    Source: Efron and Tibshirani 1993, chapter 13; 1000 resamples.
    """
    if not 0 < confidence < 1:
        raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
    count = len(columns)
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
    )
    replicates: dict[str, list[Array]] = {}
    size = max(1, _BLOCK // count)
    for start in range(0, NUM_RESAMPLES, size):
        rows = min(size, NUM_RESAMPLES - start)
        drawn = torch.randint(count, (rows, count), generator=generator)
        times = torch.zeros(rows, count, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        for name, values in statistic((times @ columns).numpy()).items():
            replicates.setdefault(name, []).append(values)
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    found = {}
    for name, value in statistic(columns.sum(0).numpy()).items():
        with np.errstate(invalid="ignore"):  # an infinite divergence has no interval
            low, high = np.quantile(np.concatenate(replicates[name]), ends, axis=0)
        found[name] = Intervals(value, low, high)
    return found


def wilson(successes: Array, trials: Array | float, confidence: float = 0.95) -> Intervals:
    """Intervals of proportions; not empty at 0 and 1, where a bootstrap's is.

    Source: Wilson 1927; Brown, Cai and DasGupta 2001.
    """
    share = np.asarray(successes / trials)
    squared = float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    center = (successes + squared / 2) / (trials + squared)
    spread = share * (1 - share) / trials + squared / (4 * np.square(trials))
    half = np.sqrt(squared * spread) / (1 + squared / trials)
    return Intervals(share, np.maximum(center - half, 0.0), np.minimum(center + half, 1.0))
