"""Averaging: members of a stack as one network, in the space of weights or of predictions.

A soup is the mean of weights, an ensemble the mean of predicted probabilities. How far the members
lie apart is measured in both spaces, too; what makes them is in the recipes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.objective import Objective
from landscape.trainers.examples import Examples, evaluate
from landscape.trainers.stacking import Stack

__all__ = [
    "Combined",
    "angles",
    "average",
    "barriers",
    "clones",
    "combined",
    "distances",
    "diversity",
    "log_probabilities",
    "recalibrated",
]

_CLONE = 1e-6  # relative distance below which two members are one
_ROWS = 2_000  # examples that go through a network at a time


# --- In the space of weights ---


def average(stack: Stack, examples: Examples, loss: str) -> Stack:
    """The uniform soup of all members, as a stack of one.

    Frozen parameters are averaged like the trained ones. BatchNorm statistics are those of the
    examples at the averaged weights; other buffers are the first member's.

    Source: Izmailov et al. 2018, arXiv:1803.05407; Wortsman et al. 2022, arXiv:2203.05482.
    """
    first = stack.select([0])
    frozen = {name: _mean(tensor) for name, tensor in stack.frozen.items()}
    soup = Stack(stack.template, stack.space, _mean(stack.theta), frozen, first.buffers)
    return recalibrated(soup, examples, loss)


def recalibrated(stack: Stack, examples: Examples, loss: str) -> Stack:
    """The same weights with the BatchNorm statistics of the examples; a copy.

    Mean and unbiased variance are pooled over all examples, in batches of 2,000. Without running
    statistics there is nothing to do, and a member that is not finite stays as it is.

    Args:
        examples: shared by all members.
    """
    moved = stack.clone()
    if not any(isinstance(m, _BatchNorm) for m in stack.template.modules()):
        return moved
    for index in stack.theta.isfinite().all(1).nonzero().flatten().tolist():
        objective = Objective(
            stack.member(index),
            (examples.inputs, examples.targets),
            loss,
            bn="recalibrate",
            batch_size=min(_ROWS, len(examples)),
        )
        with objective.evaluation():
            statistics = objective.buffers_at(stack.theta[index])
        for name, tensor in (statistics or {}).items():
            moved.buffers[name][index] = tensor
    return moved


def distances(theta: Tensor, origin: Tensor) -> Tensor:
    """Euclidean distance of each row of theta (M, P) from a point (P,): (M,) float64."""
    apart: Tensor = torch.linalg.vector_norm(theta.double() - origin.double(), dim=1)
    return apart


def angles(theta: Tensor, origin: Tensor) -> Tensor:
    """Angle in radians between each row of theta (M, P) and a vector (P,): (M,) float64.

    Lengths do not matter; nearly parallel vectors keep their digits, which arccos would lose.
    """
    rows = F.normalize(theta.double(), dim=1, eps=0)
    axis = F.normalize(origin.double(), dim=0, eps=0)
    apart = torch.linalg.vector_norm(rows - axis, dim=1)
    together = torch.linalg.vector_norm(rows + axis, dim=1)
    return torch.atan2(apart, together).mul(2)


def barriers(
    stack: Stack,
    examples: Examples,
    loss: str,
    *,
    num_points: int = 11,
    measure: Literal["loss", "error"] = "loss",
) -> Tensor:
    """Greatest height above the chord, on the lines from the first member to each.

    Members in one basin have a barrier near 0, the certificate that they can be averaged.
    BatchNorm statistics are those of the examples at every point.

    Args:
        num_points: evenly spaced, both ends included.
        measure: of the mean loss, or of the share of wrong predictions.

    Returns:
        (M,) float64, never negative, in the measure's unit; 0 for the first member.

    Source: Entezari et al. 2022, arXiv:2110.06296.
    """
    weights = torch.linspace(0, 1, num_points, dtype=torch.float64, device=stack.theta.device)
    found = [0.0]
    for index in range(1, len(stack)):
        ends = stack.select([0, index])
        line = replace(
            ends.select([0] * num_points),
            theta=_between(ends.theta, weights),
            frozen={name: _between(both, weights) for name, both in ends.frozen.items()},
        )
        outcomes = evaluate(recalibrated(line, examples, loss), examples, loss)
        values = outcomes.loss if measure == "loss" else ~outcomes.correct
        heights = values.double().mean(1)
        chord = torch.lerp(heights[0], heights[-1], weights)
        found.append((heights - chord).max().item())
    return torch.tensor(found, dtype=torch.float64)


def clones(stack: Stack) -> list[tuple[int, int]]:
    """Pairs of members with equal weights, up to a relative distance of 1e-6.

    Children of one network that see the same batches are clones, and an ensemble of them is none.
    Frozen parameters count as weights; members that are not finite are nobody's clones.
    """
    parts = [stack.theta, *(tensor.flatten(1) for tensor in stack.frozen.values())]
    weights = torch.cat([part.double() for part in parts], 1)
    norms = torch.linalg.vector_norm(weights, dim=1)
    found = []
    for i in range(len(weights)):
        # Row by row: differences, not products, whose rounding would hide what is nearly equal.
        apart = torch.linalg.vector_norm(weights[i + 1 :] - weights[i], dim=1)
        near = apart <= _CLONE * torch.maximum(norms[i + 1 :], norms[i])
        found += [(i, i + 1 + int(j)) for j in near.nonzero().flatten()]
    return found


# --- In the space of predictions ---


@dataclass(frozen=True)
class Combined:
    """What members make of the same examples, one by one and together.

    Attributes:
        accuracies, losses: (M,) of each member; losses in nats.
        accuracy, loss: of the ensemble, the mean of the members' probabilities.
        diversity: see `diversity`.
    """

    accuracies: Tensor
    losses: Tensor
    accuracy: float
    loss: float
    diversity: float


def log_probabilities(stack: Stack, examples: Examples, loss: str) -> Tensor:
    """Logarithms of every member's predicted probabilities, (M, n, C), in evaluation mode.

    A network with one logit, for "bce", has two classes here. Positions of a sequence count as
    examples of their own.

    Args:
        examples: shared by all members.
    """
    pieces = []
    with torch.no_grad(), stack.mode(training=False):
        for start in range(0, len(examples), _ROWS):
            outputs = stack(examples.inputs[start : start + _ROWS]).double()
            if loss == "bce":
                logit = outputs.flatten(1)
                pieces.append(torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], -1))
            else:
                pieces.append(outputs.flatten(1, -2).log_softmax(-1))
    return torch.cat(pieces, 1)


def combined(log_probability: Tensor, targets: Tensor) -> Combined:
    """Accuracy and loss of members and of their ensemble.

    Args:
        log_probability: (M, n, C). The mean is taken without leaving the logarithms, so that an
            example which every member finds impossible keeps a finite loss.
        targets: n classes.
    """
    targets = targets.flatten().long()
    together = log_probability.logsumexp(0) - math.log(len(log_probability))
    predictions = log_probability.argmax(-1)
    wanted = targets.expand(len(log_probability), -1).unsqueeze(-1)
    return Combined(
        accuracies=(predictions == targets).double().mean(1),
        losses=-log_probability.gather(-1, wanted).squeeze(-1).mean(1),
        accuracy=(together.argmax(-1) == targets).double().mean().item(),
        loss=F.nll_loss(together, targets).item(),
        diversity=diversity(predictions, targets),
    )


def diversity(predictions: Tensor, targets: Tensor) -> float:
    """Mean over pairs of the share of unlike predictions, divided by the mean error.

    The division makes members of unlike accuracy comparable: better ones have less to differ in.

    Args:
        predictions: (M, n) classes.

    Returns:
        NaN for one member, or for members without an error.

    Source: Fort et al. 2019, arXiv:1912.02757.
    """
    pairs = torch.combinations(torch.arange(len(predictions), device=predictions.device))
    error = (predictions != targets).double().mean()
    if not len(pairs) or error == 0:
        return float("nan")
    unlike = (predictions[pairs[:, 0]] != predictions[pairs[:, 1]]).double().mean()
    return (unlike / error).item()


def _between(both: Tensor, weights: Tensor) -> Tensor:
    """Points on the line between two tensors (2, ...), (k, ...) for weights (k,)."""
    start, end = both.double()
    shape = (-1, *[1] * start.ndim)
    return torch.lerp(start, end, weights.view(shape)).to(both.dtype)


def _mean(tensor: Tensor) -> Tensor:
    return tensor.double().mean(0, keepdim=True).to(tensor.dtype)
