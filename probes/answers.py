"""Answers: a network's logits on the data of an objective, beside the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.errors import RequestError
from landscape.losses import Term
from landscape.objective import Objective

__all__ = ["Answers", "answers"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of N examples; a position of a sequence is an example of its own.

    Attributes:
        logits: (N, C) float64, up to a constant of each row. A network with one logit for two
            classes has the columns (0, logit).
        labels: (N,) int64.
    """

    logits: Tensor
    labels: Tensor


def answers(
    objective: Objective,
    theta: Tensor | None = None,
    *,
    buffers: Mapping[str, Tensor] | None = None,
) -> Answers:
    """Logits in eval mode, in the data's order, without gradients.

    Args:
        theta: (n,) where; by default the objective's own point.
        buffers: by name, in place of the model's own. BatchNorm statistics are the policy's.

    Raises:
        RequestError: a loss that does not show outputs and one class for each.
    """
    theta = objective.theta if theta is None else theta
    blocks = objective.space.split(theta.to(objective.device))
    parts = []
    with objective.evaluation(), torch.no_grad():
        held = {**(buffers or {}), **(objective.buffers_at(theta) or {})}
        for batch in objective.batches:
            term = objective.term(blocks, batch, held)
            parts.append(_answers(objective.loss_function.function, term))
    return Answers(
        torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])
    )


def _answers(loss: object, term: Term) -> tuple[Tensor, Tensor]:
    output, target = term.output, term.target
    if output is None or target is None:
        raise _no_classes("it hides the network's outputs")
    if isinstance(loss, nn.BCEWithLogitsLoss):
        if output.shape[1:].numel() != 1:
            raise _no_classes(f"it has {output.shape[1:].numel()} yes-or-no targets an example")
        logit = output.double().flatten()
        return torch.stack([torch.zeros_like(logit), logit], 1), (target > 0.5).long().flatten()
    if target.is_floating_point() or output.ndim < 2:
        raise _no_classes("its targets are no class indices")
    if target.shape == (*output.shape[:-1], 1):
        target = target.squeeze(-1)
    classes = 1 if output.shape[:1] + output.shape[2:] == target.shape else -1
    by_row = output.movedim(classes, -1)
    if by_row.shape[:-1] != target.shape:
        raise _no_classes(f"outputs {tuple(output.shape)} and targets {tuple(target.shape)}")
    counted = target != getattr(loss, "ignore_index", -100)
    return by_row[counted].double(), target[counted].long()


def _no_classes(reason: str) -> RequestError:
    return RequestError(
        f"the loss does not show one class for each output: {reason}. Give 'cross_entropy' with "
        "class indices, or 'bce' with one logit."
    )
