"""Newcombe's interval of a difference of two proportions; of two means it is Welch's (`welch`)."""

from __future__ import annotations

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import Floats, Ints
from landscape.similarity.bootstrap import Intervals, wilson

__all__ = ["newcombe", "require_confidence"]


def newcombe(
    successes: Floats | Ints,
    trials: Floats | Ints,
    other_successes: Floats | Ints,
    other_trials: Floats | Ints,
    confidence: float = 0.95,
) -> Intervals:
    """The difference of two proportions p - q, with an interval from Wilson's for each.

    low = d - sqrt((p - l_p)^2 + (u_q - q)^2), high = d + sqrt((u_p - p)^2 + (q - l_q)^2). It is not
    empty where both are 0 or 1, and never leaves [-1, 1]; the usual normal interval does both.

    Args:
        successes: of the first group, of `trials`; arrays that broadcast.

    Returns:
        NaN where either group has no trial.

    Raises:
        RequestError: a confidence that is not between 0 and 1, more successes than trials.

    Source: Newcombe 1998, Statistics in Medicine 17, method 10.
    """
    require_confidence(confidence)
    counts = [
        np.asarray(count, dtype=np.float64)
        for count in (successes, trials, other_successes, other_trials)
    ]
    for right, total in (counts[:2], counts[2:]):
        if (right < 0).any() or (right > total).any():
            raise RequestError("there are successes below 0 or above the trials. Give counts.")
    with np.errstate(divide="ignore", invalid="ignore"):
        first = wilson(counts[0], counts[1], confidence)
        second = wilson(counts[2], counts[3], confidence)
        value = first.value - second.value
        below = np.hypot(first.value - first.low, second.high - second.value)
        above = np.hypot(first.high - first.value, second.value - second.low)
    return Intervals(value, value - below, value + above)


def require_confidence(confidence: float) -> None:
    """Raise RequestError for a confidence that is none."""
    if not 0 < confidence < 1:
        raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
