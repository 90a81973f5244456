"""Few-shot probes: what a linear probe learns from k examples of each class, drawn many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats
from landscape.probes.linear.fitting import linear_probe
from landscape.probes.linear.labelled import Labelled, as_classes, as_features
from landscape.similarity.bootstrap import Intervals

__all__ = ["FewShot", "few_shot_probe"]

_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShot:
    """Test accuracies after training on few examples.

    Attributes:
        shots: (K,) examples of each class.
        accuracy: (K, R) of each draw, at the penalty that its validation chose.
        penalty: (K, R) that one.
        mean: over the draws, (K,), with Student's t interval; NaN ends where there is one draw.
            It is about which examples are drawn: the test examples are the same in all.
    """

    shots: tuple[int, ...]
    accuracy: Floats
    penalty: Floats
    mean: Intervals


def few_shot_probe(
    features: ArrayLike,
    labels: ArrayLike,
    shots: Sequence[int],
    penalties: ArrayLike,
    *,
    test: tuple[ArrayLike, ArrayLike],
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    repeats: int = 10,
    standardize: bool = False,
    seed: int,
) -> FewShot:
    """Fit on k examples of each class, drawn without replacement, and score on all of test.

    With the same draw, k examples are the first of more: accuracies rise with k in pairs.

    Args:
        features: (n, d) to draw from.
        labels: (n,) integers.
        shots: numbers of examples of each class.
        penalties: (P,), see `linear_probe`; one, unless there is a validation to choose by.
        test: (features, labels).
        validation: (features, labels), which choose the penalty of each draw.
        repeats: R draws.
        seed: of the draws.

    Raises:
        RequestError: more shots than a class has examples, no shot or repeat, several penalties
            without validation, and as `linear_probe`.
    """
    pool = Labelled({"": as_features(features, "features")}, as_classes(labels, "labels"))
    classes, positions, counts = torch.unique(pool.labels, return_inverse=True, return_counts=True)
    if not shots or min(shots) < 1 or max(shots) > int(counts.min()) or repeats < 1:
        raise RequestError(
            f"shots={list(shots)}, repeats={repeats}: expected numbers from 1 to {counts.min()}, "
            f"which is how many examples class {classes[counts.argmin()]} has, and repeats from 1."
        )
    if validation is None and np.size(np.asarray(penalties)) != 1:
        raise RequestError(
            f"{np.size(np.asarray(penalties))} penalties and no validation to choose by: pass one "
            "penalty, or validation=(features, labels)."
        )
    accuracy, penalty = np.empty((2, len(shots), repeats))
    for draw, child in enumerate(np.random.SeedSequence(seed).spawn(repeats)):
        order = _shuffled(positions, child)
        for row, count in enumerate(shots):
            taken = torch.cat([group[:count] for group in order])
            part = pool.at(taken)
            probe = linear_probe(
                part.layers[""],
                part.labels,
                penalties,
                validation=validation,
                test=test,
                standardize=standardize,
            )
            chosen = 0 if probe.chosen is None else int(probe.chosen)
            assert probe.test_accuracy is not None
            accuracy[row, draw] = probe.test_accuracy[chosen]
            penalty[row, draw] = probe.penalties[chosen]
    return FewShot(shots=tuple(shots), accuracy=accuracy, penalty=penalty, mean=_mean(accuracy))


def _shuffled(positions: Tensor, seed: np.random.SeedSequence) -> list[Tensor]:
    """Rows of each class in random order."""
    generator = np.random.default_rng(seed)
    return [
        torch.from_numpy(generator.permutation(np.flatnonzero(positions.numpy() == group)))
        for group in range(int(positions.max()) + 1)
    ]


def _mean(values: Floats) -> Intervals:
    count = values.shape[1]
    mean = values.mean(1)
    if count == 1:
        return Intervals(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1))
    half = quantile * values.std(1, ddof=1) / np.sqrt(count)
    return Intervals(mean, mean - half, mean + half)
