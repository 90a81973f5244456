"""Headline numbers of an ensemble with their intervals, and of two on the same examples.

Everything here follows from sums over examples, which `landscape.similarity.bootstrap` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats
from landscape.probes.ensembles.calibration import NUM_BINS, bins_of
from landscape.probes.ensembles.diversity import diversity_of
from landscape.probes.ensembles.evaluation import Evaluation, evaluate
from landscape.probes.ensembles.probabilities import Members
from landscape.probes.ensembles.temperature import calibrated_nll
from landscape.similarity.bootstrap import Intervals, bootstrap, wilson

__all__ = ["HEADLINE", "headline", "paired_difference"]

# Unit and meaning of what has an interval.
HEADLINE = {
    "ensemble_accuracy": ("1", "share of examples that the ensemble gets right"),
    "ensemble_nll": ("nat", "loss of the ensemble"),
    "ensemble_brier": ("1", "Brier score of the ensemble, a sum over classes"),
    "calibrated_nll": ("nat", "loss of the ensemble at a temperature from other examples"),
    "mean_accuracy": ("1", "accuracy of a member, mean over members"),
    "mean_nll": ("nat", "loss of a member, mean over members"),
    "mean_brier": ("1", "Brier score of a member, mean over members"),
    "accuracy_gain": ("1", "accuracy of the ensemble - mean of the members'"),
    "nll_gain": ("nat", "mean of the members' losses - the ensemble's"),
    "brier_gain": ("1", "mean of the members' Brier scores - the ensemble's"),
    "disagreement": ("1", "share of pairs of members that predict different classes"),
    "normalized_disagreement": ("1", "disagreement / mean error of the members"),
    "mutual_information": ("nat", "mean divergence of a member from the ensemble"),
}


def headline(
    held: Evaluation, calibrated: Floats, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Intervals]:
    """What `HEADLINE` lists, with bootstrap intervals; the ensemble's accuracy has Wilson's.

    Temperatures are not fitted again in a resample.

    Args:
        calibrated: (N,) losses at a temperature from other examples.
        confidence: of the intervals.
        seed: of the resamples.

    Raises:
        RequestError: a confidence that is not between 0 and 1.
    """
    columns = torch.from_numpy(_columns(held, calibrated))
    found = bootstrap(columns, _measures, confidence=confidence, seed=seed)
    right = np.asarray(float(held.correct.sum()))
    return found | {"ensemble_accuracy": wilson(right, float(held.num_examples), confidence)}


def paired_difference(
    logits: ArrayLike | Members,
    other: ArrayLike | Members,
    labels: ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Intervals]:
    """One ensemble less another on the same examples: value, low and high by name.

    An example is resampled with what both say of it. Temperatures are fitted once, on the same
    folds for both.

    Args:
        logits: (K, N, C) of the one, or as `Members.of` takes them.
        other: (K', N, C) of the other.
        labels: (N,) classes.
        num_bins: of the calibration error.
        confidence: of the intervals.
        seed: of the resamples and of the folds.

    Returns:
        `HEADLINE`'s names, and `ensemble_ece`; e.g. a negative `ensemble_nll` speaks for the one.

    Raises:
        RequestError: logits or labels that do not fit, or a confidence outside (0, 1).
    """
    first, second = evaluate(logits, labels), evaluate(other, labels)
    if first.members.num_classes != second.members.num_classes:
        raise RequestError(
            f"logits has {first.members.num_classes} classes and other has "
            f"{second.members.num_classes}. Give two ensembles for the same labels."
        )
    columns = [
        part
        for held in (first, second)
        for part in (
            _columns(
                held, calibrated_nll(held.log_probability, held.labels, seed=seed).per_example
            ),
            _gaps(held, num_bins),
        )
    ]
    return bootstrap(
        torch.from_numpy(np.concatenate(columns, axis=1)),
        _difference(num_bins),
        confidence=confidence,
        seed=seed,
    )


def _columns(held: Evaluation, calibrated: Floats) -> Floats:
    """(N, F) what each example adds; the first counts it."""
    return np.stack(
        [
            np.ones(held.num_examples),
            held.correct.astype(np.float64),
            held.nll,
            held.brier,
            calibrated,
            held.member_correct.mean(0),
            held.member_nll.mean(0),
            held.member_brier.mean(0),
            diversity_of(held).disagreement,
            held.mutual_information,
        ],
        axis=1,
    )


_WIDTH = 10


def _measures(sums: Floats) -> dict[str, Floats]:
    """Of sums (..., F), by the names of `HEADLINE`."""
    means = np.moveaxis(sums[..., 1:_WIDTH] / sums[..., :1], -1, 0)
    right, nll, brier, calibrated, member_right, member_nll, member_brier, apart, shared = means
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(member_right < 1, apart / (1 - member_right), np.nan)
        values = (
            right,
            nll,
            brier,
            calibrated,
            member_right,
            member_nll,
            member_brier,
            right - member_right,
            member_nll - nll,
            member_brier - brier,
            apart,
            relative,
            shared,
        )
    return dict(zip(HEADLINE, values, strict=True))


def _gaps(held: Evaluation, num_bins: int) -> Floats:
    """(N, B) right - confidence in the bin of the example's confidence, else 0."""
    found = np.zeros((held.num_examples, num_bins))
    bins = bins_of(held.confidence, num_bins, "width")
    found[np.arange(held.num_examples), bins] = held.correct - held.confidence
    return found


def _difference(num_bins: int) -> Callable[[Floats], Mapping[str, Floats]]:
    def statistic(sums: Floats) -> Mapping[str, Floats]:
        one, other = np.split(sums, [_WIDTH + num_bins], axis=-1)
        values = []
        for part in (one, other):
            error = np.abs(part[..., _WIDTH:]).sum(-1) / part[..., 0]
            values.append(_measures(part) | {"ensemble_ece": error})
        with np.errstate(invalid="ignore"):  # two infinite losses have no difference
            return {name: values[0][name] - values[1][name] for name in values[0]}

    return statistic
