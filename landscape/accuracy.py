"""Accuracy: which elements of a batch are right, where outputs and targets are classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.losses import Loss, Term

__all__ = ["Correctness", "correctness"]


@dataclass(frozen=True)
class Correctness:
    """Right or wrong, element by element, in the target's shape.

    Attributes:
        right: whether an element is right; False where it does not count.
        counted: whether it counts: not left out by `ignore_index`.
    """

    right: Tensor
    counted: Tensor

    @property
    def count(self) -> int:
        """Elements that count."""
        return int(self.counted.sum())


def correctness(loss: Loss, term: Term) -> Correctness | None:
    """What a batch's outputs get right; None where outputs and targets are no classes."""
    output, target = term.output, term.target
    if output is None or target is None:
        return None
    if isinstance(loss.function, (nn.BCEWithLogitsLoss, nn.BCELoss)):
        threshold = 0.0 if isinstance(loss.function, nn.BCEWithLogitsLoss) else 0.5
        target = target.view(output.shape)
        return Correctness(
            (output > threshold) == (target > 0.5), torch.ones_like(target, dtype=torch.bool)
        )
    by_class = not loss.is_pointwise or hasattr(loss.function, "ignore_index")
    if target.is_floating_point() or output.ndim < 2 or not by_class:
        return None
    ignored = getattr(loss.function, "ignore_index", -100)
    if target.shape == (*output.shape[:-1], 1):
        target = target.squeeze(-1)
    classes = 1 if output.shape[:1] + output.shape[2:] == target.shape else -1
    predicted = output.argmax(classes)
    if predicted.shape != target.shape:
        return None
    counted = target != ignored
    return Correctness((predicted == target) & counted, counted)
