"""Selective prediction: how much is wrong when only the surest answers are given."""

from __future__ import annotations

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_floats
from landscape.probes.ensembles.calibration import checked_correct

__all__ = ["aurc", "risk_coverage"]


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> Floats:
    """(N,) share of errors among the k + 1 surest examples.

    Examples of equal confidence come in no order: each has their mean error, which is what the
    curve is on average over all orders.

    Args:
        confidence: (N,) any score that is higher for surer answers.
        correct: (N,) whether they are right.

    Raises:
        RequestError: unlike lengths, NaN, or no examples.

    Source: Geifman and El-Yaniv 2017, arXiv:1705.08500.
    """
    held = as_floats(confidence, "confidence", "(N,)")
    right = checked_correct(correct, len(held))
    if not len(held) or np.isnan(held).any():
        raise RequestError(
            f"confidence has {np.isnan(held).sum()} NaN of {len(held)} entries, expected one or "
            "more numbers and no NaN."
        )
    _, group, size = np.unique(-held, return_inverse=True, return_counts=True)
    error = np.bincount(group, ~right) / size
    return np.cumsum(np.repeat(error, size)) / np.arange(1, len(held) + 1)


def aurc(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Area under the risk-coverage curve: mean of `risk_coverage`; 0 is without an error."""
    return float(risk_coverage(confidence, correct).mean())
