"""Scores: numbers of an example from its margins, probabilities and losses over time.

All functions take (T, n), or with more dimensions behind, and `presented` of the same shape: which
entries count, all of them where it is not given. A number that is NaN and counts, makes the score
NaN; so has an example that was never presented. `learning_events` holds what is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, as_floats, as_labels
from landscape.probes.dynamics.histories import as_outcomes, as_series
from landscape.probes.dynamics.measurements import MEASUREMENTS, measurements

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "DataMap",
    "Space",
    "aum",
    "cumulative_loss",
    "data_map",
    "el2n",
    "learnability_curve",
    "margins",
]

Space = Literal["logit", "probability"]
_SPACES = ("logit", "probability")
_COPIES = ("member", "augmentation")  # dimensions that r_t is a mean over


def margins(logits: ArrayLike, labels: ArrayLike, *, space: Space) -> Floats:
    """By how much the label is ahead of the best other class.

    Args:
        logits: (n, C).
        labels: (n,) class indices.
        space: "logit": z_y - max_{j != y} z_j; "probability": p_y - max_{j != y} p_j, the
            probability margin, in [-1, 1].

    Raises:
        RequestError: shapes that do not fit, labels out of range, another space.
    """
    _check_space(space)
    name = "margin" if space == "logit" else "probability_margin"
    return _measured(as_floats(logits, "logits", "(n, C)"), labels, name)


def aum(margins: ArrayLike, *, space: Space, presented: ArrayLike | None = None) -> Floats:
    """Area under the margin: its mean over time, low where the label contradicts the others.

    Args:
        margins: of the history, `margin` or `probability_margin`.
        space: of the margins. The source has "logit"; several codes have "probability", which is
            another score.

    Raises:
        RequestError: shapes that do not fit, or margins of probabilities outside [-1, 1].

    Source: Pleiss et al. 2020, arXiv:2001.10528.
    """
    _check_space(space)
    series = as_series(margins, "margins")
    counted = _presented(presented, series)
    if space == "probability" and (np.abs(series[counted]) > 1).any():
        raise RequestError(
            "margins of probabilities are in [-1, 1], and these are not. Give space='logit', or "
            "the history's `probability_margin`."
        )
    return _mean(series, counted)


def el2n(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Mean over runs of ||p - onehot(y)||_2: 0 ... sqrt(2), and sqrt(1 - 1/C) of a uniform p.

    It is the mean of norms, no mean of squares, nor the norm of a mean.

    Args:
        logits: (R, n, C) of R runs, at the same early time each; the source has 10.
        labels: (n,) class indices.

    Raises:
        RequestError: shapes that do not fit, or labels out of range.

    Source: Paul et al. 2021, arXiv:2107.07075.
    """
    return np.asarray(_measured(as_floats(logits, "logits", "(R, n, C)"), labels, "el2n").mean(0))


@dataclass(frozen=True, eq=False)
class DataMap:
    """Where each example lies on the map; variability^2 + aleatoric = confidence (1 - confidence).

    Attributes:
        confidence: mean of p_y over time.
        variability: standard deviation of p_y over time, ddof 0.
        aleatoric: mean of p_y (1 - p_y) over time (Data-IQ).
    """

    confidence: Floats
    variability: Floats
    aleatoric: Floats


def data_map(probabilities: ArrayLike, *, presented: ArrayLike | None = None) -> DataMap:
    """Confidence and variability of p_y over time; correctness is the count of right answers.

    Args:
        probabilities: p_y, the history's `probability`.

    Raises:
        RequestError: shapes that do not fit, or numbers outside [0, 1].

    Source: Swayamdipta et al. 2020, arXiv:2009.10795; aleatoric: Seedat et al. 2022,
    arXiv:2210.13043.
    """
    series = as_series(probabilities, "probabilities")
    counted = _presented(presented, series)
    if ((series < 0) | (series > 1))[counted].any():
        raise RequestError("probabilities are in [0, 1], and these are not. Give p_y, no margins.")
    confidence = _mean(series, counted)
    spread = np.sqrt(_mean(np.square(series - confidence), counted))
    return DataMap(confidence, spread, _mean(series * (1 - series), counted))


def cumulative_loss(losses: ArrayLike, *, presented: ArrayLike | None = None) -> Floats:
    """Sum of an example's losses over its presentations, in nats; NaN where there were none.

    It grows with the number of presentations: compare examples that had as many.

    Raises:
        RequestError: shapes that do not fit.
    """
    series = as_series(losses, "losses")
    counted = _presented(presented, series)
    return np.where(counted.any(0), np.where(counted, series, 0.0).sum(0), np.nan)


def learnability_curve(correct: ArrayLike | xr.Dataset) -> Floats:
    """r_t: the share of copies and augmentations that are right on an object, (T, n).

    Args:
        correct: (T, N, n, M) of N copies and M augmentations, (T, N, n), or a data set of
            `landscape.trainers.learnability`. Entries of -1 or NaN are left out of the share.

    Raises:
        RequestError: other dimensions, or other values than right, wrong and not presented.

    Source: Sadrtdinov et al. 2021, arXiv:2107.10143.
    """
    held = getattr(correct, "data_vars", {}).get("correct")
    if held is not None:
        correct = held.transpose("time", "member", "object", "augmentation").to_numpy()
    outcomes = as_outcomes(correct)
    if outcomes.ndim not in (3, 4):
        raise RequestError(
            f"correct has shape {outcomes.shape}, expected (T, N, n, M) or (T, N, n): times, "
            "copies, objects, augmentations. For one copy, give correct[:, None]."
        )
    over = (1, 3)[: outcomes.ndim - 2]
    with np.errstate(invalid="ignore"):
        return np.asarray((outcomes == 1).sum(over) / (outcomes >= 0).sum(over))


def _measured(logits: Floats, labels: ArrayLike, name: str) -> Floats:
    """One measurement (..., n) of logits (..., n, C)."""
    num_examples, num_classes = logits.shape[-2:]
    targets = torch.from_numpy(as_labels(labels, "labels", num_classes))
    if targets.shape != (num_examples,) or num_classes < 2:
        raise RequestError(
            f"logits has shape {logits.shape} and labels {tuple(targets.shape)}, expected a label "
            "for each of n examples, and two classes at the least."
        )
    numbers = torch.from_numpy(logits)
    found = measurements(numbers, targets.expand(numbers.shape[:-1]))
    return np.asarray(found[..., MEASUREMENTS.index(name)].numpy())


def _presented(presented: ArrayLike | None, series: Floats) -> Bools:
    if presented is None:
        return np.ones(series.shape, dtype=bool)
    counted = np.asarray(as_series(presented, "presented") != 0)
    if counted.shape != series.shape:
        raise RequestError(
            f"presented has shape {counted.shape}, and what it belongs to {series.shape}. Give "
            "the history's `presented`."
        )
    return counted


def _mean(series: Floats, counted: Bools) -> Floats:
    """Over time, of the entries that count; NaN without any."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counted, series, 0.0).sum(0) / counted.sum(0))


def _check_space(space: str) -> None:
    if space not in _SPACES:
        raise unknown_choice("space", space, _SPACES)
