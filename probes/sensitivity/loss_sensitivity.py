"""Loss sensitivity: how strongly the loss of each example hung on its input during training.

The gradients are sparse over examples where a network learns real data and even where it memorizes
noise: their Gini coefficient says which. `critical_samples` asks for other predictions near by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.arrays import ArrayLike, Floats, Ints, as_labels
from landscape.probes.features.sparsity_measures import gini
from landscape.probes.sensitivity.class_scores import class_scores
from landscape.probes.sensitivity.rank_correlation import resampled
from landscape.probes.sensitivity.single_examples import (
    BuffersOf,
    Point,
    Thetas,
    differentiation,
    gradient_by,
    input_gradients,
    inputs_of,
    points,
    with_inputs,
)

__all__ = ["ClassSensitivity", "LossSensitivity", "SensitivityRecorder", "class_sensitivity"]
__all__ += ["loss_sensitivity"]


@dataclass(frozen=True, eq=False)
class LossSensitivity:
    """g_i = mean over steps of ||d l_i / d x_i||_1, in loss per unit of the inputs.

    Attributes:
        value: (N,) NaN for an example that was never looked at, or is left out of the loss.
        num_looks: (N,) steps at which it was.
        gini: of the values that there are: 0 if all are equal, towards 1 if few have it all.
        gini_low: of its interval, by a bootstrap over the examples.
        gini_high: of its interval.
    """

    value: Floats
    num_looks: Ints
    gini: float
    gini_low: float
    gini_high: float


@dataclass(frozen=True, eq=False)
class ClassSensitivity:
    """g_ij = mean over examples of class j and over points of ||d(-log p_i) / d x||_1.

    Attributes:
        value: (C, C) the class of the loss by the class of the examples; NaN where a class has no
            example.
        standard_error: (C, C) from the spread over the examples of the class; NaN for a single one.
        num_examples: (C,)
    """

    value: Floats
    standard_error: Floats
    num_examples: Ints


class SensitivityRecorder:
    """Loss sensitivities, collected while a network is trained.

    Args:
        num_examples: N.

    Use `record` for all examples at a step, in eval mode, or `add` with the gradients that a
    training loop has itself: of each example's own loss, not of the mean over its batch.
    """

    def __init__(self, num_examples: int) -> None:
        if num_examples < 1:
            raise RequestError(f"num_examples={num_examples}, expected 1 or more.")
        self._sums = np.zeros(num_examples)
        self._looks = np.zeros(num_examples, dtype=np.int64)

    def add(self, indices: ArrayLike, gradients: Tensor) -> None:
        """Gradients (b, ...) of the losses of some examples with respect to their inputs.

        An example may be among them more than once. NaN is no look at an example.

        Raises:
            RequestError: another number of gradients, or indices out of range.
        """
        own = as_labels(indices, "indices", len(self._sums))
        if len(own) != len(gradients):
            raise RequestError(
                f"there are {len(gradients)} gradients for {len(own)} indices. Give one for each."
            )
        norms = gradients.detach().double().reshape(len(own), -1).abs().sum(1).cpu().numpy()
        known = ~np.isnan(norms)
        np.add.at(self._sums, own[known], norms[known])
        np.add.at(self._looks, own[known], 1)

    def record(self, objective: Objective, theta: Tensor | None = None) -> None:
        """All examples of an objective at one point, in eval mode.

        Raises:
            RequestError: another number of examples, or examples that cannot be told apart.
        """
        self._record(objective, theta, None)

    def result(self, *, confidence: float = 0.95, seed: int = 0) -> LossSensitivity:
        """What was collected so far.

        Args:
            confidence: of the interval of the Gini coefficient.
            seed: of its resamples.
        """
        with np.errstate(invalid="ignore"):
            value = self._sums / self._looks
        known = value[~np.isnan(value)]
        whole = low = high = np.nan
        if len(known):
            whole = float(gini(known))
            low, high = resampled(known[:, None], _ginis, confidence=confidence, seed=seed)
        return LossSensitivity(value, self._looks.copy(), whole, low, high)

    def _record(self, objective: Objective, thetas: Thetas, buffers: BuffersOf) -> None:
        if objective.batches.num_examples != len(self._sums):
            raise RequestError(
                f"the objective has {objective.batches.num_examples} examples, the recorder "
                f"{len(self._sums)}: record those of the whole data."
            )
        with differentiation(objective):
            for point in points(objective, thetas, buffers):
                start = 0
                for batch in objective.batches:
                    inputs = inputs_of(batch).detach().clone().requires_grad_()
                    gradients = input_gradients(objective, point, batch, inputs)
                    self.add(np.arange(start, start + len(gradients)), gradients)
                    start += len(gradients)


def loss_sensitivity(
    objective: Objective,
    thetas: Thetas = None,
    *,
    buffers: BuffersOf = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> LossSensitivity:
    """Loss sensitivity of every example over the checkpoints of a run, in eval mode.

    Args:
        thetas: (T, P) checkpoints; by default the objective's own point.
        buffers: of each, such as running statistics of its BatchNorm layers.
        confidence: of the interval of the Gini coefficient.
        seed: of its resamples.

    Raises:
        RequestError: no floating-point inputs, or examples that cannot be told apart.

    Source: Arpit et al. 2017, arXiv:1706.05394.
    """
    recorder = SensitivityRecorder(objective.batches.num_examples)
    recorder._record(objective, thetas, buffers)
    return recorder.result(confidence=confidence, seed=seed)


def class_sensitivity(
    objective: Objective, thetas: Thetas = None, *, buffers: BuffersOf = None
) -> ClassSensitivity:
    """How strongly the loss of each class hangs on the inputs of each class.

    Args:
        thetas, buffers: as in `loss_sensitivity`.

    Raises:
        RequestError: a network without classes, or examples that cannot be told apart.

    Source: Arpit et al. 2017, arXiv:1706.05394.
    """
    rows, labels = [], np.zeros(0, dtype=np.int64)
    with differentiation(objective):
        for point in points(objective, thetas, buffers):
            parts = [_of_classes(objective, point, batch) for batch in objective.batches]
            rows.append(np.concatenate([norms for norms, _ in parts], 1))
            labels = np.concatenate([label for _, label in parts])
    norms = np.mean(rows, axis=0)  # (C, N)
    num = len(norms)
    value, error = np.full((2, num, num), np.nan)
    counts = np.bincount(labels[labels >= 0], minlength=num)
    for one in np.flatnonzero(counts):
        own = norms[:, labels == one]
        value[:, one] = own.mean(1)
        if counts[one] > 1:
            error[:, one] = own.std(1, ddof=1) / np.sqrt(counts[one])
    return ClassSensitivity(value, error, counts)


def _of_classes(objective: Objective, point: Point, batch: object) -> tuple[Floats, Ints]:
    """(C, b) ||d(-log p_i) / d x||_1 for each class i, and (b,) labels, -1 where left out."""
    inputs = inputs_of(batch).detach().clone().requires_grad_()
    term = objective.term(point.blocks, with_inputs(batch, inputs), point.buffers)
    scores = class_scores(objective.loss_function, term)
    losses = -scores.logits.log_softmax(1)
    gradients = torch.stack(
        [gradient_by(column.sum(), inputs, retain_graph=True).flatten(1) for column in losses.T]
    )
    norms = gradients.double().abs().sum(2).cpu().numpy()
    return norms, scores.labels.masked_fill(~scores.counted, -1).cpu().numpy()


def _ginis(tables: Floats) -> Floats:
    """(R,) of tables (R, n, 1)."""
    return gini(tables[..., 0]).numpy()
