"""Class scores: the logits of each example of a batch with their graph, beside its class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.errors import RequestError
from landscape.losses import Loss, Term

__all__ = ["ClassScores", "class_scores"]


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Of the b examples of a batch.

    Attributes:
        logits: (b, C), up to a constant of each row; of one logit for two classes (0, logit).
        labels: (b,) int64; 0 where an example is left out.
        counted: (b,) bool, whether it is not.
    """

    logits: Tensor
    labels: Tensor
    counted: Tensor

    @property
    def log_probability(self) -> Tensor:
        """(b,) of the label."""
        return self.logits.log_softmax(1).gather(1, self.labels[:, None])[:, 0]


def class_scores(loss: Loss, term: Term) -> ClassScores:
    """The logits behind a term of the objective.

    Raises:
        RequestError: a loss that does not show one class and its logits for each example.
    """
    output, target = term.output, term.target
    if output is None or target is None:
        raise _no_classes("it hides the network's outputs")
    if isinstance(loss.function, nn.BCEWithLogitsLoss):
        if output.numel() != len(output):
            raise _no_classes(f"an example has {output[0].numel()} yes-or-no targets")
        logit = output.flatten()
        logits = torch.stack([torch.zeros_like(logit), logit], 1)
        return ClassScores(logits, (target > 0.5).long().flatten(), torch.ones_like(logit).bool())
    if target.shape == (len(output), 1):
        target = target.squeeze(1)
    if target.is_floating_point() or output.ndim != 2 or target.shape != output.shape[:1]:
        raise _no_classes(f"outputs {tuple(output.shape)} and targets {tuple(target.shape)}")
    counted = target != getattr(loss.function, "ignore_index", -100)
    return ClassScores(output, target.long().masked_fill(~counted, 0), counted)


def _no_classes(reason: str) -> RequestError:
    return RequestError(
        f"the loss does not show one class for each example: {reason}. Give 'cross_entropy' with "
        "logits (n, C) and class indices (n,), or 'bce' with one logit."
    )
