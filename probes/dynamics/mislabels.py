"""Mislabeled examples: how well a score finds them, and where to cut it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_bools, as_floats, as_labels
from landscape.probes.ranking import roc

__all__ = [
    "AumThreshold",
    "NoisyLabelAuc",
    "ThresholdSamples",
    "aum_threshold",
    "noisy_label_auc",
    "threshold_samples",
]

_AWAY = 1e-12


@dataclass(frozen=True, eq=False)
class NoisyLabelAuc:
    """How well a score tells noisy labels from clean ones: 1 perfectly, 0.5 not at all.

    Attributes:
        value: probability that a noisy label is on its side of a clean one, ties counted half.
        low, high: of the interval, which is not empty at 0 and 1.
        num_noisy, num_clean: that have a score.
        num_undefined: examples whose score is NaN, left out.
    """

    value: float
    low: float
    high: float
    num_noisy: int
    num_clean: int
    num_undefined: int


def noisy_label_auc(
    scores: ArrayLike,
    is_noisy: ArrayLike,
    *,
    noisy: Literal["low", "high"],
    confidence: float = 0.95,
) -> NoisyLabelAuc:
    """Area under the ROC curve of a score for finding noisy labels.

    Args:
        scores: (n,), NaN where there is none.
        is_noisy: (n,) whether the label is wrong.
        noisy: on which side the score has them: "low" as AUM, "high" as EL2N or forgetting.
        confidence: of the interval.

    Raises:
        RequestError: shapes that do not fit, or only noisy or only clean labels with a score.

    Source: Mann and Whitney 1947; interval: Newcombe 2006, method 5, which inverts the variance of
    Hanley and McNeil 1982.
    """
    if noisy not in ("low", "high"):
        raise unknown_choice("side", noisy, ("low", "high"))
    if not 0 < confidence < 1:
        raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
    values, wrong = as_floats(scores, "scores", "(n,)"), as_bools(is_noisy, "is_noisy", "(n,)")
    if values.shape != wrong.shape:
        raise RequestError(f"scores are {len(values)}, is_noisy {len(wrong)}: expected one each.")
    curve = roc(values if noisy == "high" else -values, wrong)
    num_noisy, num_clean = curve.num_positive, curve.num_negative
    low, high = _newcombe(curve.auc, num_noisy, num_clean, confidence)
    return NoisyLabelAuc(curve.auc, low, high, num_noisy, num_clean, curve.num_left_out)


def _newcombe(value: float, first: int, second: int, confidence: float) -> tuple[float, float]:
    """Areas whose own standard error has `value` at the edge of its interval."""
    bound = float(stats.norm.ppf((1 + confidence) / 2))
    more = (first + second) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + more * ((1 - area) / (2 - area) + area / (1 + area))
        variance = area * (1 - area) * spread / (first * second)
        return abs(area - value) - bound * math.sqrt(variance)

    # Not from `value` itself: at 0 and 1, where nothing varies, it is a solution, too.
    low = 0.0 if value == 0 else float(optimize.brentq(excess, 0.0, value - _AWAY))
    high = 1.0 if value == 1 else float(optimize.brentq(excess, value + _AWAY, 1.0))
    return low, high


@dataclass(frozen=True, eq=False)
class ThresholdSamples:
    """Labels with a fake class, whose examples are mislabeled for sure.

    Attributes:
        labels: (n,) to train on, with num_classes + 1 classes; the last is the fake one.
        chosen: (m,) which examples are in it, increasing.
    """

    labels: Ints
    chosen: Ints


def threshold_samples(labels: ArrayLike, num_classes: int, *, seed: int) -> ThresholdSamples:
    """Put n // C examples at random into a fake class.

    They have no score of their own: draw with another seed, and train once more, for theirs.

    Raises:
        RequestError: labels out of range, or fewer examples than classes.

    Source: Pleiss et al. 2020, arXiv:2001.10528.
    """
    known = as_labels(labels, "labels", num_classes)
    count = len(known) // num_classes
    if not count:
        raise RequestError(
            f"{len(known)} examples of {num_classes} classes leave none for the fake class. Give "
            "more examples than classes."
        )
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    chosen = np.sort(generator.choice(len(known), count, replace=False)).astype(np.int64)
    known[chosen] = num_classes
    return ThresholdSamples(known, chosen)


@dataclass(frozen=True, eq=False)
class AumThreshold:
    """Where to cut an area under the margin.

    Attributes:
        value: the percentile of the threshold samples.
        flagged: (n,) whether the area is at most the value; False of threshold samples.
        is_threshold: (n,) whether it is one, so that nothing is known of its own label.
        num_threshold: how many they are; with few, the percentile is their maximum or near it.
    """

    value: float
    flagged: Bools
    is_threshold: Bools
    num_threshold: int


def aum_threshold(areas: ArrayLike, chosen: ArrayLike, *, percentile: float = 99) -> AumThreshold:
    """Flag the examples that are no better than those of the fake class.

    Args:
        areas: (n,) from a run with the labels of `threshold_samples`.
        chosen: (m,) indices of the threshold samples.
        percentile: of their areas, interpolated linearly.

    Raises:
        RequestError: no threshold samples, indices out of range, an area of theirs that is NaN.

    Source: Pleiss et al. 2020, arXiv:2001.10528.
    """
    values: Floats = as_floats(areas, "areas", "(n,)")
    indices = as_labels(chosen, "chosen")
    if not len(indices) or indices.max() >= len(values) or not 0 <= percentile <= 100:
        raise RequestError(
            f"chosen holds {len(indices)} indices among {len(values)} areas, percentile="
            f"{percentile}: expected one index at the least, all in range, and 0 ... 100."
        )
    if np.isnan(values[indices]).any():
        raise RequestError("a threshold sample has no area. Present each of them in training.")
    value = float(np.percentile(values[indices], percentile))
    is_threshold = np.zeros(len(values), dtype=bool)
    is_threshold[indices] = True
    flagged = (values <= value) & ~is_threshold
    return AumThreshold(value, flagged, is_threshold, int(is_threshold.sum()))
