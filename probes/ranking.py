"""ROC curve of a score: how well it tells two kinds of examples apart, ties counted as halves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_bools, as_floats
from landscape.similarity.bootstrap import Intervals, wilson

__all__ = ["Roc", "roc"]


@dataclass(frozen=True, eq=False)
class Roc:
    """What thresholds on a score achieve.

    Attributes:
        auc: probability that a positive has a higher score than a negative, ties as halves.
        standard_error: of it, as for independent scores; NaN with fewer than two of a kind.
        false_positive_rate: (K,) of all thresholds, from the highest on.
        true_positive_rate: (K,)
        num_positive: positives that have a score.
        num_negative: negatives that have one.
        num_left_out: scores that are NaN.
    """

    auc: float
    standard_error: float
    false_positive_rate: Floats = field(repr=False)
    true_positive_rate: Floats = field(repr=False)
    num_positive: int
    num_negative: int
    num_left_out: int

    def true_positive_rate_at(
        self, false_positive_rate: float, confidence: float = 0.95
    ) -> Intervals:
        """Most positives found by a threshold with no more false positives than this.

        With Wilson's interval; nothing is interpolated between thresholds.

        Raises:
            RequestError: a rate that is not in 0 ... 1.
        """
        if not 0 <= false_positive_rate <= 1:
            raise RequestError(
                f"false_positive_rate={false_positive_rate} is not in 0 ... 1. Choose 0.01."
            )
        allowed = self.false_positive_rate <= false_positive_rate
        best = self.true_positive_rate[allowed].max()
        found = np.asarray(np.rint(best * self.num_positive))
        return wilson(found, self.num_positive, confidence)


def roc(scores: ArrayLike, positive: ArrayLike) -> Roc:
    """The ROC curve of scores, higher ones for positives; NaN are left out and counted.

    Args:
        scores: (N,).
        positive: (N,) bool.

    Raises:
        RequestError: other shapes, or only one kind.

    Source: DeLong et al. 1988 (standard error), by ranks.
    """
    values, kind = as_floats(scores, "scores", "(N,)"), as_bools(positive, "positive", "(N,)")
    if values.shape != kind.shape:
        raise RequestError(f"scores has {len(values)} entries, positive has {len(kind)}.")
    known = ~np.isnan(values)
    values, kind = values[known], kind[known]
    positives, negatives = int(kind.sum()), int((~kind).sum())
    if not positives or not negatives:
        raise RequestError(
            f"there are {positives} positives and {negatives} negatives with a score. Give both."
        )
    ranks = stats.rankdata(values)
    above = (ranks[kind] - stats.rankdata(values[kind])) / negatives  # negatives below each
    below = (ranks[~kind] - stats.rankdata(values[~kind])) / positives
    error = float("nan")
    if min(positives, negatives) > 1:
        error = float(np.sqrt(above.var(ddof=1) / positives + below.var(ddof=1) / negatives))
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))  # of each tie
    hits = np.cumsum(kind[order])[last]
    return Roc(
        auc=float(above.mean()),
        standard_error=error,
        false_positive_rate=np.concatenate([[0.0], (last + 1 - hits) / negatives]),
        true_positive_rate=np.concatenate([[0.0], hits / positives]),
        num_positive=positives,
        num_negative=negatives,
        num_left_out=int((~known).sum()),
    )
