"""CurveTraining: moves the bends of a curve to where the mean loss along it is low.

`curve_fit` sets it up; `curves` has the bases.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import batch_length
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.curve_state import BendState
from landscape.paths.curves import CurveKind, arc_parameters, curve_weights
from landscape.paths.minibatches import Minibatches

__all__ = ["CurveTraining", "Optimizer", "TrainingExecution", "learning_rate_factor"]

Optimizer = Literal["adam", "sgd"]
TrainingExecution = Literal["auto", "loop", "batched"]

_CHILD = 1  # of the seed; another one draws examples
_SECOND_MOMENT, _EPSILON = 0.999, 1e-8  # of Adam (Kingma and Ba 2015)
_WINDOW = 20  # steps whose mean loss tells which bends are the best so far
_SECONDS = 5.0  # between two writes: what a kill can cost
_RTOL = {torch.float64: 1e-9, torch.float32: 1e-3}
_LOW_PRECISION_RTOL = 1e-1


def learning_rate_factor(step: int, steps: int) -> float:
    """1 for the first half, then linearly down to 0.01 at nine tenths, and there to the end.

    Source: Garipov et al. 2018, arXiv:1802.10026, their code.
    """
    gone = step / steps
    return 1.0 if gone <= 0.5 else max(0.01, 1 - 0.99 * (gone - 0.5) / 0.4)


@dataclass(eq=False)
class CurveTraining:
    """Minimises E_t L(phi(t)) + weight_decay / 2 |phi(t)|^2 over the bends.

    A step takes a point in each of `strata` equal parts of the curve, and a batch for each point.
    BatchNorm normalises by the batch.

    Attributes:
        objective: with bn="batch", if it has BatchNorm.
        vertices: (K, n) at the start; the first and the last stay.
        learning_rate: of the first half of the steps; see `learning_rate_factor`.
        momentum: of SGD; of Adam, the decay of the first moment.
        by_length: the parts are equal in length, not in t.
        execution: "batched", all points of a step in one call by `vmap`, or "loop"; "auto" loops
            over convolutions (grouped when batched: 1.5 times as slow for a digits CNN) and over
            what `vmap` cannot batch.
    """

    objective: Objective
    kind: CurveKind
    vertices: Tensor
    steps: int
    learning_rate: float
    optimizer: Optimizer
    momentum: float
    weight_decay: float
    strata: int
    by_length: bool
    minibatches: Minibatches
    seed: int
    execution: TrainingExecution = "auto"

    def run(
        self,
        state: BendState,
        keep: Callable[[], None],
        progress: Callable[[int, int, str], None] | None,
    ) -> str:
        """Take the steps that are left, in place; why it ended early, or nothing.

        Args:
            keep: called now and then to write the state.
            progress: called with (steps done, steps, "").
        """
        written = time.monotonic()
        with self.objective.evaluation():
            if self.execution == "auto":
                self.execution = self._chosen()
            while len(state.losses) < self.steps:
                loss = self._step(state)
                if not math.isfinite(loss):
                    state.bends = state.best.clone()
                    return (
                        f"stopped at step {len(state.losses) + 1} of {self.steps}, whose loss is "
                        "not finite: these are the best bends before. A smaller learning_rate "
                        "may go on"
                    )
                if time.monotonic() - written > _SECONDS:
                    keep()
                    written = time.monotonic()
                if progress is not None:
                    progress(len(state.losses), self.steps, "")
        return ""

    def _step(self, state: BendState) -> float:
        """Its loss; one that is not finite leaves the state as it was."""
        step = len(state.losses)
        weights, thetas = self._points(state, step)
        losses, gradients = self._gradients(thetas, step)
        loss = float(losses.mean())
        if not math.isfinite(loss):
            return loss
        gradients = gradients + self.weight_decay * thetas
        self._move(state, weights[:, 1:-1].T @ gradients / self.strata)
        state.losses.append(loss)
        window = state.losses[-_WINDOW:]
        if len(state.losses) % _WINDOW == 0 and sum(window) / _WINDOW < state.best_loss:
            state.best, state.best_loss = state.bends.clone(), sum(window) / _WINDOW
        return loss

    def _points(self, state: BendState, step: int) -> tuple[Tensor, Tensor]:
        """The weights (k, K) of a point in each stratum, and the points (k, n)."""
        seeds = np.random.SeedSequence(self.seed, spawn_key=(_CHILD, step))
        inside = np.random.default_rng(seeds).random(self.strata)
        t = torch.as_tensor((np.arange(self.strata) + inside) / self.strata)
        vertices = torch.cat([self.vertices[:1], state.bends, self.vertices[-1:]])
        if self.by_length:
            t = arc_parameters(self.kind, vertices, t)
        weights = curve_weights(self.kind, t, len(vertices)).to(vertices)
        return weights, weights @ vertices

    def _move(self, state: BendState, gradient: Tensor) -> None:
        step = len(state.losses)
        rate = self.learning_rate * learning_rate_factor(step, self.steps)
        if self.optimizer == "sgd":
            state.first.mul_(self.momentum).add_(gradient)
            state.bends.sub_(rate * state.first)
            return
        state.first.lerp_(gradient, 1 - self.momentum)
        state.second.lerp_(gradient.square(), 1 - _SECOND_MOMENT)
        first = state.first / (1 - self.momentum ** (step + 1))
        second = state.second / (1 - _SECOND_MOMENT ** (step + 1))
        state.bends.sub_(rate * first / (second.sqrt() + _EPSILON))

    # -- loss and gradient at the points of a step -----------------------------------------------

    def _gradients(self, thetas: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Losses (k,) and gradients (k, n) at points (k, n), each on a batch of its own."""
        if self.execution == "batched":
            return self._at_once(thetas, step)
        return self._one_by_one(thetas, step)

    def _one_by_one(self, thetas: Tensor, step: int) -> tuple[Tensor, Tensor]:
        losses, gradients = [], []
        batches = self.minibatches.batches(step * self.strata, self.strata)
        for theta, batch in zip(thetas, batches, strict=True):
            with torch.enable_grad():
                leaves = self.objective.leaves(theta)
                loss = self._loss(leaves, batch, batch_length(batch))
                blocks = self._derivatives(loss, leaves)
            losses.append(loss.detach())
            gradients.append(self.objective.space.flatten(blocks))
        return torch.stack(losses), torch.stack(gradients)

    def _at_once(self, thetas: Tensor, step: int) -> tuple[Tensor, Tensor]:
        size = self.minibatches.size
        assert size is not None

        def loss_of(theta: Tensor, rows: Tensor, buffers: dict[str, Tensor]) -> Tensor:
            blocks = self.objective.space.split(theta)
            return self._loss(blocks, self.minibatches.at(rows), size, buffers)

        rows = self.minibatches.rows(step * self.strata, self.strata)
        with torch.enable_grad():
            leaf = thetas.detach().requires_grad_()
            losses = vmap(loss_of)(leaf, rows, self._statistics())
            # A point's loss depends on its own row only, so the sum's gradient holds them all.
            (gradients,) = self._derivatives(losses.sum(), [leaf])
        return losses.detach(), gradients

    def _derivatives(self, loss: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        if not loss.requires_grad:
            raise RequestError(
                f"the loss {self.objective.loss_function.name!r} carries no gradient (detached, or "
                "under no_grad). Return a differentiable tensor."
            )
        return torch.autograd.grad(loss, leaves, materialize_grads=True)

    def _loss(
        self,
        blocks: list[Tensor],
        batch: object,
        size: int,
        buffers: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The estimate of L that a batch drawn at random makes, without bias."""
        total = self.objective.term(blocks, batch, buffers).total
        share = size / self.objective.batches.num_examples
        return total / (share * self.objective.total_weight)

    def _statistics(self) -> dict[str, Tensor]:
        """Statistics that BatchNorm in training mode can write to: a copy for each point."""
        norms = {
            name for name, module in self.objective.model.named_modules()
            if isinstance(module, _BatchNorm)
        }  # fmt: skip
        return {
            name: buffer.expand(self.strata, *buffer.shape).clone()
            for name, buffer in self.objective.buffers.items()
            # Not the number of batches, which a cumulative average reads back.
            if name.rpartition(".")[0] in norms and buffer.is_floating_point()
        }

    def _chosen(self) -> TrainingExecution:
        """By what the network is made of, not by the clock: the same curve on each run."""
        convolves = any(len(shape) > 2 for shape in self.objective.space.shapes)
        if convolves or self.strata == 1 or not self.minibatches.are_drawn:
            return "loop"
        _, thetas = self._points(BendState.start(self.vertices[1:-1]), 0)
        expected = self._one_by_one(thetas, 0)
        try:
            # A warning tells that an operation has no batching rule.
            with warnings.catch_warnings(action="error"):
                found = self._at_once(thetas, 0)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, Warning):
            return "loop"
        rtol = _RTOL.get(thetas.dtype, _LOW_PRECISION_RTOL)
        equal = all(
            torch.linalg.vector_norm(one - other) <= rtol * torch.linalg.vector_norm(one)
            for one, other in zip(expected, found, strict=True)
        )
        return "batched" if equal else "loop"
