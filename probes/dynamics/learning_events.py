"""Learning events: when an example was learned and how often it was forgotten.

All functions take `correct` (T, n), or with more dimensions behind: 1 right, 0 wrong, and -1 or NaN
where an example was not presented; what was not presented is passed over. They give one number an
example, and count times from 0. `second_split` has forgetting after training went on elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.probes.arrays import ArrayLike, Bools, Floats
from landscape.probes.dynamics.histories import Outcomes, as_outcomes

__all__ = [
    "ForgettingEvents",
    "first_learned",
    "forgetting_events",
    "iteration_learned",
    "presentations_needed",
]


@dataclass(frozen=True, eq=False)
class ForgettingEvents:
    """How often each example was forgotten.

    Attributes:
        count: presentations that were wrong where the one before was right.
        learned: right at least once. An example without, has nothing to forget: its count of 0 does
            not make it easy.
    """

    count: Floats
    learned: Bools

    @property
    def unforgettable(self) -> Bools:
        """Learned, and never forgotten."""
        return np.asarray(self.learned & (self.count == 0))


def forgetting_events(correct: ArrayLike, *, fill: float | None = None) -> ForgettingEvents:
    """Counts presentations t that are wrong where t - 1 was right.

    Args:
        fill: count of an example that was never right; by default the 0 that was counted. Published
            code has T a run (Toneva et al.), inf (data diet), 1000 (cartography), and 0.

    Raises:
        RequestError: other values than right, wrong and not presented.

    Source: Toneva et al. 2019, arXiv:1812.05159; there, of presentations in training mode.
    """
    outcomes = as_outcomes(correct)
    before = _last_outcomes(outcomes)[:-1]
    count = ((before == 1) & (outcomes[1:] == 0)).sum(0).astype(np.float64)
    learned = np.asarray((outcomes == 1).any(0))
    if fill is not None:
        count = np.where(learned, count, fill)
    return ForgettingEvents(count, learned)


def first_learned(correct: ArrayLike, *, never: float = np.nan) -> Floats:
    """First time that an example was right.

    Args:
        never: of an example that never was.

    Raises:
        RequestError: other values than right, wrong and not presented.
    """
    right = as_outcomes(correct) == 1
    return np.where(right.any(0), right.argmax(0), never)


def iteration_learned(correct: ArrayLike, *, never: float = np.nan) -> Floats:
    """First time from which on an example was right at every presentation.

    Args:
        never: of an example that was wrong at its last presentation, or had none. T in the source.

    Raises:
        RequestError: other values than right, wrong and not presented.

    Source: Baldock et al. 2021, arXiv:2106.09647.
    """
    outcomes = as_outcomes(correct)
    lasting = _right_to_the_end(outcomes)
    return np.where(lasting.any(0), lasting.argmax(0), never)


def presentations_needed(correct: ArrayLike, *, never: float = np.nan) -> Floats:
    """Presentations up to the last one that was wrong: as many as were needed.

    It is the iteration learned by the example's own clock: where some times passed without it,
    those do not count.

    Args:
        never: of an example that was wrong at its last presentation, or had none.

    Raises:
        RequestError: other values than right, wrong and not presented.
    """
    outcomes = as_outcomes(correct)
    lasting = _right_to_the_end(outcomes)
    needed = (outcomes >= 0).sum(0) - lasting.sum(0)
    return np.where(lasting.any(0), needed, never)


def _last_outcomes(outcomes: Outcomes) -> Outcomes:
    """Of the last presentation until each time; -1 before the first."""
    times = np.arange(len(outcomes)).reshape(-1, *[1] * (outcomes.ndim - 1))
    latest = np.maximum.accumulate(np.where(outcomes >= 0, times, 0), 0)
    return np.take_along_axis(outcomes, latest, 0)


def _right_to_the_end(outcomes: Outcomes) -> Bools:
    """Presentations that are right, as all later ones are."""
    no_error_since = np.logical_and.accumulate(outcomes[::-1] != 0, 0)[::-1]
    return np.asarray(no_error_since & (outcomes == 1))
