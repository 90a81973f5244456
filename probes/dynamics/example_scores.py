"""ExampleScores: all scores of one run, from its history or from sums that were kept on the way.

`learning_events` and `scores` define them; `Accumulators` gives the same numbers without holding
more than one time at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from landscape.probes.arrays import Bools, Floats, Ints
from landscape.probes.dynamics.histories import History, Row
from landscape.probes.dynamics.learning_events import (
    first_learned,
    forgetting_events,
    iteration_learned,
    presentations_needed,
)
from landscape.probes.dynamics.scores import aum, cumulative_loss, data_map

__all__ = ["Accumulators", "ExampleScores", "example_scores"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleScores:
    """Scores of one run, (n,) or (n, M) each, and curves over its times, (T,).

    Attributes:
        learned: right at its last presentation.
        ever_learned: right at least once.
        forgetting: presentations that were wrong where the one before was right; NaN where it was
            never right, which is not the same as never forgotten.
        first_learned: index of the time when it was right first; NaN: never.
        iteration_learned: index of the time from which on it was always right; NaN: never.
        presentations_needed: until it was right for good; NaN: never.
        aum: mean margin of logits.
        aum_probability: mean margin of probabilities.
        el2n: mean over time of ||p - onehot(y)||_2.
        confidence, variability, aleatoric: of the data map.
        correctness: times that it was right.
        cumulative_loss: sum of its losses, in nats.
        times_presented: number of its presentations.
        num_undefined: those whose logits were no numbers; wrong, and NaN in every mean.
        accuracy: share of right answers among those that were given at a time.
        mean_loss: of those, in nats.
    """

    learned: Bools
    ever_learned: Bools
    forgetting: Floats
    first_learned: Floats
    iteration_learned: Floats
    presentations_needed: Floats
    aum: Floats
    aum_probability: Floats
    el2n: Floats
    confidence: Floats
    variability: Floats
    aleatoric: Floats
    correctness: Ints
    cumulative_loss: Floats
    times_presented: Ints
    num_undefined: Ints
    accuracy: Floats
    mean_loss: Floats


def example_scores(history: History) -> ExampleScores:
    """All scores of a history."""
    presented, correct = history.presented, history.correct
    events = forgetting_events(correct, fill=np.nan)
    settled = iteration_learned(correct)
    by_map = data_map(history.probability, presented=presented)
    times_presented = presented.sum(0)
    over = tuple(range(1, correct.ndim))
    with np.errstate(invalid="ignore"):
        mean_el2n = np.where(presented, history.el2n, 0.0).sum(0) / times_presented
        mean_loss = np.where(presented, history.loss, 0.0).sum(over) / presented.sum(over)
        accuracy = (correct == 1).sum(over) / presented.sum(over)
    return ExampleScores(
        learned=np.isfinite(settled),
        ever_learned=events.learned,
        forgetting=events.count,
        first_learned=first_learned(correct),
        iteration_learned=settled,
        presentations_needed=presentations_needed(correct),
        aum=aum(history.margin, space="logit", presented=presented),
        aum_probability=aum(history.probability_margin, space="probability", presented=presented),
        el2n=mean_el2n,
        confidence=by_map.confidence,
        variability=by_map.variability,
        aleatoric=by_map.aleatoric,
        correctness=(correct == 1).sum(0),
        cumulative_loss=cumulative_loss(history.loss, presented=presented),
        times_presented=times_presented,
        num_undefined=(presented & np.isnan(history.log_odds)).sum(0),
        accuracy=accuracy,
        mean_loss=mean_loss,
    )


@dataclass(kw_only=True, eq=False)
class _Sums:
    """What is kept of each example (n, ...), and of each time (T,)."""

    presentations: Ints
    undefined: Ints
    right: Ints
    needed: Ints  # presentations until the last wrong one
    forgotten: Ints
    previous: Ints  # the last outcome; -1 before the first
    first: Floats
    since: Floats  # when the run of right answers began that still lasts
    margin: Floats
    probability_margin: Floats
    el2n: Floats
    loss: Floats
    aleatoric: Floats
    confidence: Floats  # running mean, and the sum of squares about it
    squares: Floats
    accuracy: Floats
    mean_loss: Floats


_COUNTS = ("presentations", "undefined", "right", "needed", "forgotten", "previous")
_TIMES = ("accuracy", "mean_loss")


class Accumulators:
    """Scores from one time after another, of which none is kept.

    Args:
        shape: (n,) or (n, M).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        kept: dict[str, Any] = {}
        for field in fields(_Sums):
            if field.name in _TIMES:
                kept[field.name] = np.zeros(0)
            else:
                kept[field.name] = np.zeros(shape, np.int64 if field.name in _COUNTS else None)
        self._sums = _Sums(**kept)
        self._sums.previous[:] = -1
        self._sums.first[:] = self._sums.since[:] = np.nan

    @property
    def num_times(self) -> int:
        """T, until now."""
        return len(self._sums.accuracy)

    def enter(self, row: Row) -> None:
        """The measurements of the next time."""
        sums = self._sums
        self._enter_outcomes(row["correct"])
        presented = row["correct"] >= 0
        sums.undefined += presented & np.isnan(row["log_odds"])
        with np.errstate(invalid="ignore"):  # inf - inf, of margins
            for name in ("margin", "probability_margin", "el2n", "loss"):
                getattr(sums, name)[presented] += row[name][presented]
        probability = row["probability"][presented]
        sums.aleatoric[presented] += probability * (1 - probability)
        # Welford: a difference of two large sums would lose the digits of a small variance.
        away = probability - sums.confidence[presented]
        sums.confidence[presented] += away / sums.presentations[presented]
        sums.squares[presented] += away * (probability - sums.confidence[presented])
        with np.errstate(invalid="ignore"):
            accuracy = (row["correct"] == 1).sum() / presented.sum()
            mean_loss = row["loss"][presented].sum() / presented.sum()
        sums.accuracy = np.append(sums.accuracy, accuracy)
        sums.mean_loss = np.append(sums.mean_loss, mean_loss)

    def _enter_outcomes(self, correct: npt.NDArray[np.int8]) -> None:
        sums, time = self._sums, self.num_times
        right, wrong = correct == 1, correct == 0
        sums.presentations += right | wrong
        sums.right += right
        sums.forgotten += wrong & (sums.previous == 1)
        sums.needed[wrong] = sums.presentations[wrong]
        sums.first[right & np.isnan(sums.first)] = time
        sums.since[right & np.isnan(sums.since)] = time
        sums.since[wrong] = np.nan
        sums.previous = np.where(right | wrong, correct, sums.previous).astype(np.int64)

    def scores(self) -> ExampleScores:
        """Of the times until now."""
        sums = self._sums
        count = sums.presentations
        learned, ever = sums.previous == 1, sums.right > 0
        with np.errstate(invalid="ignore"):
            means = {
                name: np.asarray(getattr(sums, name) / count)
                for name in ("margin", "probability_margin", "el2n", "aleatoric", "squares")
            }
        return ExampleScores(
            learned=learned,
            ever_learned=ever,
            forgetting=np.where(ever, sums.forgotten, np.nan),
            first_learned=sums.first.copy(),
            iteration_learned=sums.since.copy(),
            presentations_needed=np.where(learned, sums.needed, np.nan),
            aum=means["margin"],
            aum_probability=means["probability_margin"],
            el2n=means["el2n"],
            confidence=np.where(count > 0, sums.confidence, np.nan),
            variability=np.sqrt(means["squares"]),
            aleatoric=means["aleatoric"],
            correctness=sums.right.copy(),
            cumulative_loss=np.where(count > 0, sums.loss, np.nan),
            times_presented=count.copy(),
            num_undefined=sums.undefined.copy(),
            accuracy=sums.accuracy.copy(),
            mean_loss=sums.mean_loss.copy(),
        )

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What `restore` goes on from."""
        return {field.name: getattr(self._sums, field.name) for field in fields(_Sums)}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a state."""
        self._sums = _Sums(**{field.name: state[field.name].copy() for field in fields(_Sums)})
