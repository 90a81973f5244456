"""Agreement: of scores with one another, and of runs on single examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_floats
from landscape.similarity.bootstrap import NUM_RESAMPLES, Intervals

__all__ = ["ScoreAgreement", "disagreement", "score_agreement"]

_BLOCK = 2**21  # numbers that are held at a time, 16 MiB


def disagreement(predictions: ArrayLike) -> Floats:
    """Share of the pairs of runs that give an example different classes, (n,).

    Args:
        predictions: (R, n) classes of R >= 2 runs; -1 where a run had no answer, which differs from
            all others.

    Raises:
        RequestError: another shape, fewer than two runs, or no whole numbers.
    """
    classes = as_floats(predictions, "predictions", "(R, n)")
    num_runs = len(classes)
    if num_runs < 2 or not (classes == np.round(classes)).all():
        raise RequestError(
            f"predictions has shape {classes.shape}, expected whole numbers (R, n) of two runs at "
            "the least."
        )
    equal = np.zeros(classes.shape[1])
    for run in range(num_runs):
        equal += ((classes[run + 1 :] == classes[run]) & (classes[run] >= 0)).sum(0)
    return np.asarray(1 - equal / (num_runs * (num_runs - 1) / 2))


@dataclass(frozen=True, eq=False)
class ScoreAgreement:
    """Spearman's rank correlation of k scores, two by two.

    Attributes:
        names: (k,) of the scores.
        correlation: (k, k) with percentile intervals over examples; NaN where a score is constant
            on what both have, or both have less than three examples.
        num_examples: (k, k) that have both scores.
    """

    names: tuple[str, ...]
    correlation: Intervals
    num_examples: Ints


def score_agreement(
    scores: Mapping[str, ArrayLike], *, confidence: float = 0.95, seed: int = 0
) -> ScoreAgreement:
    """Do scores put the examples in the same order?

    Each pair is compared on the examples that have both scores. Examples are drawn anew, the same
    ones for all pairs, and ranked anew in every draw; equal scores share their mean rank.

    Args:
        scores: (n,) each by name, NaN where there is none.
        confidence: of the intervals, pointwise.
        seed: of the draws.

    Raises:
        RequestError: fewer than two scores, or not all of one length.

    Source: Spearman 1904; bootstrap: Efron and Tibshirani 1993, chapter 13; 1000 resamples.
    """
    if not 0 < confidence < 1:
        raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
    columns = {name: as_floats(values, name, "(n,)") for name, values in scores.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(columns) < 2 or len(set(lengths.values())) > 1:
        raise RequestError(
            f"scores holds {lengths}, expected two at the least, of the same examples."
        )
    names, size = tuple(columns), len(columns)
    value, low, high = (np.full((size, size), np.nan) for _ in range(3))
    count = np.zeros((size, size), dtype=np.int64)
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    for a in range(size):
        for b in range(a, size):
            first, second = columns[names[a]], columns[names[b]]
            both = ~(np.isnan(first) | np.isnan(second))
            count[a, b] = count[b, a] = both.sum()
            if both.sum() < 3:
                continue
            found = _correlations(first, second, both, seed)
            known = found[1:][np.isfinite(found[1:])]
            value[a, b] = value[b, a] = found[0]
            if np.isfinite(found[0]) and len(known):
                low[a, b], high[a, b] = np.quantile(known, ends)
                low[b, a], high[b, a] = low[a, b], high[a, b]
    return ScoreAgreement(names, Intervals(value, low, high), count)


class _Order:
    """The order of values, for ranking them in many draws without sorting anew."""

    def __init__(self, values: Floats) -> None:
        self._sorted = np.argsort(values, kind="stable")
        _, self._starts, self._group = np.unique(
            values[self._sorted], return_index=True, return_inverse=True
        )

    def ranks(self, times: Floats) -> Floats:
        """Mean ranks (B, n), from 1, where the values occur (B, n) times each."""
        totals = np.add.reduceat(times[:, self._sorted], self._starts, axis=1)
        middle = np.cumsum(totals, 1) - (totals - 1) / 2
        ranks = np.empty_like(times)
        ranks[:, self._sorted] = middle[:, self._group]
        return ranks


def _correlations(first: Floats, second: Floats, both: Bools, seed: int) -> Floats:
    """Of all examples that have both scores, and then of each draw: (1 + resamples,)."""
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    total = len(first)
    orders = [_Order(values[both]) for values in (first, second)]
    found = [_correlation(orders, np.ones((1, int(both.sum()))))]
    rows = max(1, _BLOCK // total)
    for start in range(0, NUM_RESAMPLES, rows):
        shape = (min(rows, NUM_RESAMPLES - start), total)
        drawn = generator.integers(total, size=shape) + total * np.arange(shape[0])[:, None]
        times = np.bincount(drawn.ravel(), minlength=shape[0] * total).reshape(shape)
        found.append(_correlation(orders, times[:, both].astype(np.float64)))
    return np.concatenate(found)


def _correlation(orders: list[_Order], times: Floats) -> Floats:
    """Pearson's, of the ranks in each draw: (B,)."""
    count = times.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of equal scores has none
        first, second = (
            ranks - (times * ranks).sum(1, keepdims=True) / count
            for ranks in (order.ranks(times) for order in orders)
        )
        product = (times * first * second).sum(1)
        norms = (times * first**2).sum(1), (times * second**2).sum(1)
        return np.asarray(product / np.sqrt(norms[0] * norms[1]))
