"""Decomposition: where a cross-entropy barrier comes from, exactly and example by example.

On the line between two networks the logits z(a) deviate by e(a) from the mean of the ends' logits,
m(a) = (1 - a) z_A + a z_B. With lse the log of the summed exponentials and y the class,

    L(a) - (1 - a) L_A - a L_B = mean of [D - J - e_y],
    D = lse(m + e) - lse(m),    J = (1 - a) lse(z_A) + a lse(z_B) - lse(m) >= 0.

J is what averaging the logits gains, as an ensemble does; D - e_y is what the network's deviation
from its own linear interpolation costs. Linear in its weights, a network has e = 0.

Idea: the account of linear mode connectivity at anemptyship.com/lmc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.losses import Term
from landscape.objective import Objective

__all__ = ["Decomposition", "decompose"]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The gap above the chord at one point, as three terms of each example.

    All three have the weights of the examples in them and add up to the terms of the whole loss.

    Attributes:
        alpha: of the point.
        partition: (N,) D, the change of the log partition function.
        convexity: (N,) J >= 0, the gain of averaged logits.
        target: (N,) e_y, the deviation of the target's own logit.
    """

    alpha: float
    partition: Tensor
    convexity: Tensor
    target: Tensor

    @property
    def gap(self) -> Tensor:
        """(N,) D - J - e_y: each example's share of L(a) - (1 - a) L_A - a L_B."""
        return self.partition - self.convexity - self.target


def decompose(
    objective: Objective,
    thetas: Sequence[Tensor],
    alpha: float,
    buffers: Sequence[Mapping[str, Tensor] | None] = (None, None, None),
) -> Decomposition | None:
    """The three terms at the middle one of three points; None where the loss is no cross-entropy.

    Args:
        objective: whose loss is "cross_entropy" or `torch.nn.CrossEntropyLoss`: with weights of
            the classes, smoothed labels, probabilities as targets.
        thetas: three points (n,): start, the point at alpha, end.
        buffers: of each, where they are not the objective's own.
    """
    function = objective.loss_function.function
    if not isinstance(function, nn.CrossEntropyLoss):
        return None
    found: list[Tensor] = []
    with objective.evaluation(), torch.no_grad():
        for batch in objective.batches:
            terms = [
                objective.term(
                    objective.space.split(theta), batch, None if own is None else dict(own)
                )
                for theta, own in zip(thetas, buffers, strict=True)
            ]
            found.append(_terms_of(function, terms, alpha))
    whole = torch.cat(found, dim=1) / objective.total_weight
    return Decomposition(alpha, *whole)


def _terms_of(function: nn.CrossEntropyLoss, terms: Sequence[Term], alpha: float) -> Tensor:
    """(3, b) of a batch."""
    target = terms[0].target
    assert target is not None
    start, here, end = (_classes_last(term, target) for term in terms)  # (b, elements, K)
    mean = (1 - alpha) * start + alpha * end
    deviation = here - mean
    wanted = _wanted(function, target, start)
    scale = wanted.sum(-1)
    partition = here.logsumexp(-1) - mean.logsumexp(-1)
    convexity = (1 - alpha) * start.logsumexp(-1) + alpha * end.logsumexp(-1) - mean.logsumexp(-1)
    return torch.stack(
        [
            (scale * partition).sum(1),
            (scale * convexity).sum(1),
            (wanted * deviation).sum((1, 2)),
        ]
    ).cpu()


def _classes_last(term: Term, target: Tensor) -> Tensor:
    """Logits (b, elements, K), float64."""
    output = term.output
    assert output is not None
    second = output.shape == target.shape or output.shape[:1] + output.shape[2:] == target.shape
    moved = output.movedim(1, -1) if second else output
    return moved.double().reshape(len(output), -1, moved.shape[-1])


def _wanted(function: nn.CrossEntropyLoss, target: Tensor, logits: Tensor) -> Tensor:
    """(b, elements, K) q with the loss sum_c q_c (lse(z) - z_c): smoothing and weights included."""
    num = logits.shape[-1]
    if target.is_floating_point():
        wanted = target.movedim(1, -1).double().reshape(logits.shape)
        kept = torch.ones_like(wanted[..., 0])
    else:
        labels = target.reshape(len(logits), -1)
        kept = (labels != function.ignore_index).double()
        labels = labels.masked_fill(kept == 0, 0)
        wanted = torch.nn.functional.one_hot(labels, num).double()
    smoothing = function.label_smoothing
    wanted = (1 - smoothing) * wanted + smoothing / num
    if function.weight is not None:
        wanted = wanted * function.weight.double()
    return wanted * kept[..., None]
