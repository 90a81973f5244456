"""Calibration: whether what is said with 80 % confidence is right in 80 % of cases, in bins.

Every plug-in error is positive for a perfect predictor, too: `calibration_null` says how large it
is then. Measures without bins are in `binning_free`, temperatures in `temperature`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_bools, as_floats
from landscape.probes.ensembles.proper_scores import fitting_labels
from landscape.similarity.bootstrap import wilson

__all__ = [
    "Binning",
    "NullBand",
    "Reliability",
    "calibration_error",
    "calibration_null",
    "classwise_calibration_error",
    "debiased_calibration_error",
    "null_band",
    "reliability",
    "squared_calibration_error",
]

Binning = Literal["width", "mass"]
Measure = Callable[[Floats], Floats]

NUM_BINS = 15  # as in Guo et al. 2017
_NUM_SIMULATIONS = 1000
_BLOCK = 2**22  # simulated answers that are held at a time, 32 MiB
_ROUNDING = 1e-6  # by which the exponential of a logarithm may exceed 1


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: bins of confidence, from low to high.

    Attributes:
        count: (B,) examples.
        confidence: (B,) their mean; NaN in an empty bin, like what follows.
        accuracy: (B,) share of examples that are right.
        low, high: (B,) Wilson's interval of the accuracy.
    """

    count: Ints
    confidence: Floats
    accuracy: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class NullBand:
    """A measure of a perfectly calibrated predictor with the same confidences.

    Attributes:
        mean: its bias: what the measure is on average, where the truth is 0.
        low, high: the quantiles between which it lies.
    """

    mean: float
    low: float
    high: float


def reliability(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    binning: Binning = "width",
    level: float = 0.95,
) -> Reliability:
    """Mean confidence and accuracy, bin by bin.

    Args:
        confidence: (N,) predicted probabilities of being right.
        correct: (N,) whether it was.
        num_bins: B.
        binning: "width", equal parts ((b - 1) / B, b / B] of [0, 1], of which the first holds 0
            and the last holds 1; or "mass", about equally many examples in each, equal
            confidences in one.
        level: of the interval.

    Raises:
        RequestError: confidences outside [0, 1], unlike lengths, no bins, no examples.

    Source: Guo et al. 2017, arXiv:1706.04599; Nguyen and O'Connor 2015 for equal masses.
    """
    held, right = _checked(confidence, correct)
    bins = bins_of(held, num_bins, binning)
    count = np.bincount(bins, minlength=num_bins)
    trials = np.where(count, count, np.nan)
    share = wilson(_sums(right, bins, num_bins), trials, level)
    return Reliability(
        count, _sums(held, bins, num_bins) / trials, share.value, share.low, share.high
    )


def calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    binning: Binning = "width",
) -> float:
    """Expected calibration error: sum_b n_b / N |accuracy_b - confidence_b|.

    Of confidences in the predicted class it is the usual ECE, with equal masses the adaptive one.
    It is biased upwards, for a perfect predictor to about .03 with 500 examples and .008 with
    10,000: see `calibration_null` and `debiased_calibration_error`.

    Args:
        confidence, correct, num_bins, binning: as of `reliability`.

    Raises:
        RequestError: as `reliability`.

    Source: Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599.
    """
    held, right = _checked(confidence, correct)
    return float(_binned_error(held, bins_of(held, num_bins, binning), right))


def calibration_null(
    confidence: ArrayLike,
    *,
    seed: int,
    num_bins: int = NUM_BINS,
    binning: Binning = "width",
    level: float = 0.95,
) -> NullBand:
    """The expected calibration error of a perfect predictor with these confidences.

    Args:
        confidence: (N,).
        seed: of 1000 simulations, each of which is right with these probabilities.
        num_bins, binning: as of `reliability`.
        level: share of simulations within the band.

    Raises:
        RequestError: confidences outside [0, 1], no bins, or a level outside (0, 1).

    Source: Broecker and Smith 2007, consistency resampling.
    """
    held = checked_confidence(confidence)
    measure = partial(_binned_error, held, bins_of(held, num_bins, binning))
    return null_band(held, measure, seed=seed, level=level)


def null_band(confidence: Floats, measure: Measure, *, seed: int, level: float = 0.95) -> NullBand:
    """The same of any measure of simulated answers (S, N), 0 and 1, that gives (S,)."""
    if not 0 < level < 1:
        raise RequestError(f"level={level}, expected a number between 0 and 1, such as 0.95.")
    # A child: data drawn with the same seed must not come from the same stream.
    generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    size = max(1, _BLOCK // len(confidence))
    found = []
    for start in range(0, _NUM_SIMULATIONS, size):
        rows = min(size, _NUM_SIMULATIONS - start)
        draws = generator.random((rows, len(confidence))) < confidence
        found.append(measure(draws.astype(np.float64)))
    values = np.concatenate(found)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return NullBand(float(values.mean()), float(low), float(high))


def debiased_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    seed: int,
    num_bins: int = NUM_BINS,
    binning: Binning = "width",
) -> float:
    """Expected calibration error less its mean under `calibration_null`.

    About 0 for a perfect predictor, and negative as often as positive. Far from calibration the
    plug-in has less bias than this takes off: then it is a lower estimate.
    `squared_calibration_error` is unbiased everywhere, but of another quantity.

    Args:
        confidence, correct, num_bins, binning: as of `reliability`.
        seed: of the simulations.

    Raises:
        RequestError: as `reliability`.
    """
    plain = calibration_error(confidence, correct, num_bins=num_bins, binning=binning)
    null = calibration_null(confidence, seed=seed, num_bins=num_bins, binning=binning)
    return plain - null.mean


def squared_calibration_error(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    binning: Binning = "width",
) -> float:
    """Unbiased estimate of sum_b n_b / N (accuracy_b - confidence_b)^2; it may be negative.

    From each squared gap its variance is taken, s^2(correct - confidence) / n_b. With one
    confidence in each bin that is the published accuracy (1 - accuracy) / (n_b - 1). Bins of one
    example tell nothing of their variance and are left out; NaN without others.

    Args:
        confidence, correct, num_bins, binning: as of `reliability`.

    Raises:
        RequestError: as `reliability`.

    Source: Broecker 2012; Kumar, Liang and Ma 2019, arXiv:1909.10155, definition 5.1.
    """
    held, right = _checked(confidence, correct)
    bins = bins_of(held, num_bins, binning)
    count = np.bincount(bins, minlength=num_bins)
    used = count > 1
    if not used.any():
        return float("nan")
    n = count[used]
    gaps = right - held
    means = _sums(gaps, bins, num_bins)[used] / n
    squares = _sums(np.square(gaps), bins, num_bins)[used] / n
    unbiased = means**2 - (squares - means**2) / (n - 1)
    return float(np.average(unbiased, weights=n))


def classwise_calibration_error(
    log_probability: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    binning: Binning = "width",
    threshold: float = 0.0,
) -> float:
    """Mean over classes of the calibration error of "it is class c" with confidence p_c.

    With equal widths the static calibration error (SCE), with equal masses the adaptive one (ACE),
    and with a threshold of 1e-3 beside, the thresholded one (TACE).

    Args:
        log_probability: (N, C).
        labels: (N,) classes.
        num_bins, binning: as of `reliability`.
        threshold: probabilities up to it do not count; a class without others adds 0.

    Raises:
        RequestError: labels that do not fit, or as `reliability`.

    Source: Nixon et al. 2019, arXiv:1904.01685.
    """
    held = as_floats(log_probability, "log_probability", "(N, C)")
    classes = fitting_labels(labels, *held.shape)
    total = 0.0
    for index in range(held.shape[1]):
        confidence = np.exp(held[:, index])
        counted = confidence > threshold if threshold > 0 else np.ones(len(held), bool)
        if counted.any():
            right = (classes[counted] == index).astype(np.float64)
            kept = checked_confidence(confidence[counted])
            total += float(_binned_error(kept, bins_of(kept, num_bins, binning), right))
    return total / int(held.shape[1])


def checked_confidence(confidence: ArrayLike) -> Floats:
    """(N,) probabilities.

    Raises:
        RequestError: none, or some outside [0, 1].
    """
    held = as_floats(confidence, "confidence", "(N,)")
    if not len(held) or not ((held >= 0) & (held <= 1 + _ROUNDING)).all():
        shown = f"from {held.min()} to {held.max()}" if len(held) else "empty"
        raise RequestError(
            f"confidence is {shown}, expected (N,) probabilities in [0, 1]. Give softmax outputs, "
            "not logits."
        )
    return np.minimum(held, 1.0)


def checked_correct(correct: ArrayLike, count: int) -> Bools:
    """(N,) whether the answers are right.

    Raises:
        RequestError: another number of them.
    """
    right = as_bools(correct, "correct", "(N,)")
    if len(right) != count:
        raise RequestError(
            f"correct has {len(right):,} entries for {count:,} confidences. Give one for each."
        )
    return right


def bins_of(confidence: Floats, num_bins: int, binning: Binning) -> Ints:
    """(N,) the bin of each example, from 0.

    Raises:
        RequestError: no bins, or an unknown binning.
    """
    if num_bins < 1:
        raise RequestError(f"num_bins={num_bins}, expected 1 or more.")
    if binning not in get_args(Binning):
        raise unknown_choice("binning", str(binning), get_args(Binning))
    if binning == "width":
        upper = np.ceil(confidence * num_bins).astype(np.int64)
        return np.clip(upper, 1, num_bins) - 1
    # By the rank of the first of its equals: the order of the examples must not matter.
    first = np.searchsorted(np.sort(confidence), confidence)
    return np.asarray(first * num_bins // len(confidence))


def _checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    held = checked_confidence(confidence)
    return held, checked_correct(correct, len(held)).astype(np.float64)


def _binned_error(confidence: Floats, bins: Ints, correct: Floats) -> Floats:
    """(...,) of answers (..., N)."""
    gaps = _sums(correct - confidence, bins, int(bins.max()) + 1)
    return np.asarray(np.abs(gaps).sum(-1) / len(confidence))


def _sums(values: Floats, bins: Ints, num_bins: int) -> NDArray[np.float64]:
    """(..., B) sums over the examples (..., N) of each bin."""
    rows = values.reshape(-1, len(bins))
    places = num_bins * np.arange(len(rows))[:, None] + bins
    sums = np.bincount(places.ravel(), rows.ravel(), minlength=num_bins * len(rows))
    return np.asarray(sums.reshape(*values.shape[:-1], num_bins))
