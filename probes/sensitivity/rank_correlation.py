"""Rank correlation of two scores of the same examples, also given a third, with intervals.

`resampled` is the bootstrap behind them, for any statistic of a table of examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_floats

__all__ = ["Correlation", "rank_correlation", "resampled"]

NUM_RESAMPLES = 1000
_BLOCK = 2**20  # entries of resampled tables that are held at a time
_FEWEST = 4  # examples: ranks of three can agree in six ways only


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation, NaN where it is not defined.

    Attributes:
        value: between the ranks, ties at their mean rank; partial where a third score is given.
        low: of the interval.
        high: of the interval.
        num_examples: that have all scores.
        num_left_out: that have not (NaN).
    """

    value: float
    low: float
    high: float
    num_examples: int
    num_left_out: int


def rank_correlation(
    first: ArrayLike,
    second: ArrayLike,
    given: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Spearman's correlation of two scores, with a bootstrap interval over the examples.

    Args:
        first, second: (n,) scores of the same examples.
        given: (n,) a third one, whose ranks are taken out of both linearly.
        confidence: of the interval.
        seed: of the resamples.

    Raises:
        RequestError: scores of different lengths, or a confidence outside (0, 1).
    """
    scores = {"first": first, "second": second} | ({} if given is None else {"given": given})
    columns = [as_floats(values, name, "(n,)") for name, values in scores.items()]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise RequestError(f"the scores have {sorted(lengths)} examples. Give one for each.")
    table = np.stack(columns, 1)
    known = ~np.isnan(table).any(1)
    kept = table[known]
    left_out = int((~known).sum())
    if len(kept) < _FEWEST:
        return Correlation(np.nan, np.nan, np.nan, len(kept), left_out)
    low, high = resampled(kept, _correlations, confidence=confidence, seed=seed)
    return Correlation(float(_correlations(kept)), low, high, len(kept), left_out)


def resampled(
    table: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of a table of examples.

    An example is drawn with all of its columns. Resamples in which the statistic is not defined
    are left out; NaN if none is left.

    Args:
        table: (n, columns).
        statistic: of resampled tables (R, n, columns), one number (R,) each.
        confidence: of the interval.
        seed: of the resamples.

    Raises:
        RequestError: a confidence outside (0, 1).

    Source: Efron and Tibshirani 1993, chapter 13; 1000 resamples.
    """
    if not 0 < confidence < 1:
        raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    size = max(1, _BLOCK // table.size)
    found = []
    for start in range(0, NUM_RESAMPLES, size):
        rows = min(size, NUM_RESAMPLES - start)
        drawn = generator.integers(len(table), size=(rows, len(table)))
        found.append(statistic(table[drawn]))
    values = np.concatenate(found)
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _correlations(tables: Floats) -> Floats:
    """(...,) of the first two columns (..., n, 2), or given the third (..., n, 3)."""
    ranks = stats.rankdata(tables, axis=-2)
    centred = ranks - ranks.mean(-2, keepdims=True)
    if centred.shape[-1] == 3:
        third = centred[..., 2:]
        own = np.square(third).sum(-2, keepdims=True)
        shared = (third * centred[..., :2]).sum(-2, keepdims=True)
        # A score that is the same for all takes nothing out.
        centred = centred[..., :2] - third * shared / np.where(own == 0, 1, own)
    lengths = np.sqrt(np.square(centred).sum(-2))
    # 0 exactly where the third score explains one: ranks are halves of integers.
    product = np.where((lengths > 0).all(-1), lengths.prod(-1), np.nan)
    return np.asarray(centred.prod(-1).sum(-1) / product)
