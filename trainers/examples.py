"""Examples: data sets of many runs as tensors, and what networks make of them.

`data` loads them, `orders` says who sees which when.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import unknown_choice
from landscape.trainers.gradients import Task
from landscape.trainers.stacking import Network, Stack

__all__ = ["Examples", "Outcomes", "evaluate", "loss_task", "mean_outcomes"]

LOSSES = ("cross_entropy", "bce", "mse")
_MEMBER_BYTES = 256 * 2**20  # of activations that an evaluation may take at a time, roughly
_WIDENING = 16  # activations of a small network, in units of its input


@dataclass(frozen=True)
class Examples:
    """Inputs and targets of M runs, shared by all of them or several sets side by side.

    Attributes:
        inputs: (n, ...), or (S, n, ...) with `input_set`.
        targets: (n, ...), or (S, n, ...) with `target_set`.
        input_set, target_set: (M,) which of the S sets a member has; None: all share one.
    """

    inputs: Tensor
    targets: Tensor
    input_set: Tensor | None = None
    target_set: Tensor | None = None

    def __len__(self) -> int:
        return self.inputs.shape[0 if self.input_set is None else 1]

    @property
    def is_shared(self) -> bool:
        """Whether all members have the same inputs."""
        return self.input_set is None

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets (M, b, ...) for indices (M, b)."""
        return (
            _gathered(self.inputs, self.input_set, indices),
            _gathered(self.targets, self.target_set, indices),
        )

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Examples:
        """A copy on another device, its floating-point tensors in another precision."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        sets = [None if s is None else s.to(device) for s in (self.input_set, self.target_set)]
        return Examples(moved(self.inputs), moved(self.targets), *sets)


@dataclass(frozen=True)
class Outcomes:
    """What each member makes of each example, (M, n) each.

    Attributes:
        loss: in nats; for "mse" the mean square over classes.
        correct: bool.
        margin: logit of the true class less the greatest other one; the logit, signed towards
            the true class, where there are two classes and one output.
        probability: of the true class.
    """

    loss: Tensor
    correct: Tensor
    margin: Tensor
    probability: Tensor


def _gathered(tensor: Tensor, which: Tensor | None, indices: Tensor) -> Tensor:
    return tensor[indices] if which is None else tensor[which[:, None], indices]


def loss_task(name: str) -> Task:
    """The training loss of that name: the mean over a batch.

    "cross_entropy": outputs (n, C) or, for sequences, (n, T, C). "bce": outputs (n, 1), one logit
    each. "mse": outputs (n, C) for one-hot targets; the mean over classes, too.
    """
    if name not in LOSSES:
        raise unknown_choice("loss", name, LOSSES)

    def task(network: Network, inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = network(inputs)
        if name == "cross_entropy":
            return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        if name == "bce":
            return F.binary_cross_entropy_with_logits(outputs.flatten(), targets.flatten())
        return F.mse_loss(outputs, targets)

    return task


def evaluate(stack: Stack, examples: Examples, loss: str) -> Outcomes:
    """Outcomes of every member on every example, in evaluation mode and without gradients.

    Each position of a sequence counts as an example of its own.
    """
    if loss not in LOSSES:
        raise unknown_choice("loss", loss, LOSSES)
    score = {"cross_entropy": _of_classes, "bce": _of_two, "mse": _of_vectors}[loss]
    size = examples.inputs.element_size() * examples.inputs[:1].numel()
    size = size if examples.is_shared else size // len(examples)
    rows = max(1, _MEMBER_BYTES // max(1, size * _WIDENING * len(stack)))
    pieces = []
    with torch.no_grad(), stack.mode(training=False):
        for start in range(0, len(examples), rows):
            part = slice(start, start + rows)
            inputs, targets = examples.inputs, examples.targets
            if examples.input_set is None:
                outputs = stack(inputs[part])
            else:
                outputs = stack(inputs[:, part][examples.input_set], shared=False)
            if examples.target_set is None:
                wanted = targets[part].expand(len(stack), *targets[part].shape)
            else:
                wanted = targets[:, part][examples.target_set]
            pieces.append(score(outputs, wanted))
    return Outcomes(
        *(
            torch.cat([getattr(piece, name) for piece in pieces], 1)
            for name in ("loss", "correct", "margin", "probability")
        )
    )


def mean_outcomes(outcomes: Outcomes) -> dict[str, Tensor]:
    """`loss` and `accuracy` of each member, (M,) float64 each."""
    return {
        "loss": outcomes.loss.double().mean(1),
        "accuracy": outcomes.correct.double().mean(1),
    }


def _of_classes(outputs: Tensor, targets: Tensor) -> Outcomes:
    logits = outputs.flatten(1, -2)  # (M, n, C), also of sequences
    targets = targets.flatten(1)
    chosen = targets.unsqueeze(-1)
    true = logits.gather(-1, chosen).squeeze(-1)
    other = logits.scatter(-1, chosen, -torch.inf).amax(-1)
    log_probability = logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
    return Outcomes(
        loss=-log_probability,
        correct=logits.argmax(-1) == targets,
        margin=true - other,
        probability=log_probability.exp(),
    )


def _of_two(outputs: Tensor, targets: Tensor) -> Outcomes:
    logits = outputs.flatten(1)  # (M, n)
    wanted = targets.flatten(1).to(logits.dtype)
    margin = logits * (2 * wanted - 1)
    return Outcomes(
        loss=F.softplus(-margin),
        correct=(logits > 0) == (wanted > 0.5),
        margin=margin,
        probability=margin.sigmoid(),
    )


def _of_vectors(outputs: Tensor, targets: Tensor) -> Outcomes:
    classes = targets.argmax(-1)
    found = _of_classes(outputs, classes)
    loss = (outputs - targets).square().mean(-1)
    # Outputs of a squared loss estimate the probability themselves.
    probability = outputs.gather(-1, classes.unsqueeze(-1)).squeeze(-1)
    return Outcomes(loss, found.correct, found.margin, probability)
