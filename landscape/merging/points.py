"""Points: sets of weights that come one by one, each evaluated example by example.

`examples` evaluates many points of one chart at once; here only one is held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from landscape.accuracy import correctness
from landscape.errors import RequestError, unknown_choice
from landscape.objective import BatchNormPolicy, Objective
from landscape.paths.examples import Examples

__all__ = ["PointEvaluator", "accuracy", "checked", "joined"]


class PointEvaluator:
    """Objectives at single points, all with the BatchNorm statistics of the first one's data.

    Args:
        bn: BatchNorm statistics: "recalibrate", those of the objective's data at each point;
            "batch"; "eval", the objective's own.
        also: further data by name.

    Raises:
        RequestError: an unknown policy, or data of another network.

    Attributes:
        objective: under the policy.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        bn: BatchNormPolicy = "recalibrate",
        also: Mapping[str, Objective] | None = None,
    ) -> None:
        if bn not in get_args(BatchNormPolicy):
            raise unknown_choice("BatchNorm policy", str(bn), get_args(BatchNormPolicy))
        self.objective = _under(objective, bn)
        self._objectives = {"": self.objective}
        for name, other in (also or {}).items():
            space = other.space
            if (space.names, space.shapes) != (objective.space.names, objective.space.shapes):
                raise RequestError(
                    f"the data {name!r} belong to an objective with other parameters. Make it of "
                    "the same network and the same params=."
                )
            # The statistics are given to it: those of the first one's data.
            self._objectives[name] = _under(other, "eval" if bn == "recalibrate" else bn)

    def statistics(self, theta: Tensor) -> dict[str, Tensor]:
        """BatchNorm statistics by name that belong to theta (n,); empty if they do not change."""
        if not self.objective.has_batch_norm:
            return {}
        with self.objective.evaluation():
            return self.objective.buffers_at(theta) or {}

    def buffers(self, theta: Tensor) -> dict[str, Tensor]:
        """All buffers of the network by name, as they are at theta (n,); copies."""
        held = {name: buffer.clone() for name, buffer in self.objective.buffers.items()}
        return held | self.statistics(theta)

    def at(self, theta: Tensor, buffers: Mapping[str, Tensor] | None = None) -> dict[str, Examples]:
        """All examples at theta (n,): "" for the objective's own, others by name.

        Args:
            buffers: by name, where they are known; by default those that belong to theta.
        """
        held = self.statistics(theta) if buffers is None else buffers
        return {name: self.on(name, theta, held) for name in self._objectives}

    def on(self, name: str, theta: Tensor, buffers: Mapping[str, Tensor]) -> Examples:
        """The examples of one of the data sets at theta (n,)."""
        return _examples(self._objectives[name], theta, dict(buffers))


def joined(examples: Sequence[Examples]) -> Examples:
    """The same data at the points of all."""
    first = examples[0]

    def rows(parts: Sequence[Tensor | None]) -> Tensor | None:
        held = [part for part in parts if part is not None]
        return torch.cat(held) if len(held) == len(parts) else None

    return Examples(
        totals=torch.cat([one.totals for one in examples]),
        total_weight=first.total_weight,
        losses=rows([one.losses for one in examples]),
        weights=first.weights,
        right=rows([one.right for one in examples]),
        counted=first.counted,
    )


def accuracy(examples: Examples) -> Tensor:
    """(P,) share of elements that are right; NaN where there are no classes."""
    if examples.right is None or examples.counted is None:
        return torch.full_like(examples.totals, math.nan)
    shares = examples.right.sum(1) / examples.counted.sum()
    # The largest of outputs that are NaN is one of them, and no answer.
    return shares.masked_fill(examples.loss.isnan(), math.nan)


def checked(objective: Objective, theta: Tensor, index: int) -> Tensor:
    """Theta (n,) on the objective's device.

    Raises:
        RequestError: it does not fit, or is not finite.
    """
    objective.space.check(theta)
    if not theta.isfinite().all():
        raise RequestError(
            f"member {index + 1} holds weights that are not finite. Leave it out, or give an "
            "earlier checkpoint."
        )
    return theta.detach().to(objective.theta)


def _under(objective: Objective, bn: BatchNormPolicy) -> Objective:
    # Without BatchNorm a policy changes nothing, and asking for one would cost passes.
    return objective.under(bn if objective.has_batch_norm else objective.bn)


def _examples(objective: Objective, theta: Tensor, buffers: dict[str, Tensor]) -> Examples:
    totals = torch.zeros(1, dtype=torch.float64)
    losses, weights, right, counted = [], [], [], []
    with objective.evaluation(), torch.no_grad():
        blocks = objective.space.split(theta.to(objective.theta))
        for batch in objective.batches:
            term = objective.term(blocks, batch, buffers)
            totals += term.total.double().cpu()
            if term.losses is not None and term.weights is not None:
                losses.append(_by_example(term.losses))
                weights.append(_by_example(term.weights))
            told = correctness(objective.loss_function, term)
            if told is not None:
                right.append(_by_example(told.right))
                counted.append(_by_example(told.counted))
    return Examples(
        totals=totals,
        total_weight=objective.total_weight,
        losses=torch.cat(losses).unsqueeze(0) if losses else None,
        weights=torch.cat(weights) if weights else None,
        right=torch.cat(right).unsqueeze(0) if right else None,
        counted=torch.cat(counted) if counted else None,
    )


def _by_example(elements: Tensor) -> Tensor:
    return elements.double().reshape(len(elements), -1).sum(1).cpu()
