"""Welch's interval of a difference of two means; of proportions it is Newcombe's (`newcombe`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from landscape.probes.arrays import Bools, Floats
from landscape.similarity.bootstrap import Intervals

__all__ = ["MeanDifference", "own_mean_difference", "paired_mean_difference"]


@dataclass(frozen=True, eq=False)
class MeanDifference:
    """Means over the models with an example less those over the models without.

    Attributes:
        difference: with Welch's interval; NaN where a group has no model.
        standard_error: NaN, as the interval, where a group has fewer than two.
    """

    difference: Intervals
    standard_error: Floats


def own_mean_difference(masks: Bools, values: Floats, confidence: float) -> MeanDifference:
    """(n,): what an example does to its own value, of masks (T, n) and values (T, n)."""
    centered = values - values.mean(0)  # or the squares would cancel for values far from 0
    moments = [
        (group.sum(0), (group * centered).sum(0), (group * np.square(centered)).sum(0))
        for group in (masks, ~masks)
    ]
    return _welch(moments, confidence)


def paired_mean_difference(masks: Bools, values: Floats, confidence: float) -> MeanDifference:
    """(m, n): what each example of masks (T, n) does to each column of values (T, m)."""
    centered = values - values.mean(0)
    moments = []
    for group in (masks.astype(np.float64), (~masks).astype(np.float64)):
        moments.append((group.sum(0), centered.T @ group, np.square(centered).T @ group))
    return _welch(moments, confidence)


def _welch(moments: list[tuple[Floats, Floats, Floats]], confidence: float) -> MeanDifference:
    """Source: Welch 1947, from the numbers, sums and sums of squares of two groups."""
    means, variances, shares = [], [], []
    with np.errstate(divide="ignore", invalid="ignore"):
        for count, total, squares in moments:
            mean = total / count
            spread = np.maximum(squares - total * mean, 0.0) / (count - 1)
            variance = np.where(count > 1, spread / count, np.nan)
            means.append(mean)
            variances.append(variance)
            shares.append(np.square(variance) / (count - 1))
        value = means[0] - means[1]
        square = variances[0] + variances[1]
        freedom = np.where(square > 0, np.square(square) / (shares[0] + shares[1]), 1.0)
        error = np.sqrt(square)
        half = stats.t.ppf((1 + confidence) / 2, freedom) * error
    return MeanDifference(Intervals(value, value - half, value + half), error)
