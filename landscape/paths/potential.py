"""Potential: what bands and simplices move in. A network's objective is one, a formula another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import batch_length
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.paths.examples import Examples, PathEvaluator
from landscape.paths.minibatches import Minibatches
from landscape.paths.vertices import Vertices
from landscape.slices.execution import BatchNormMode, Execution

__all__ = ["FunctionPotential", "ObjectivePotential", "Potential"]
__all__ += ["ends_fingerprint", "potential_of"]

_COPIED_WEIGHTS = 1 << 24  # of all points in one call: with more, arithmetic takes the time
_RTOL = {torch.float64: 1e-9, torch.float32: 1e-3}
_LOW_PRECISION_RTOL = 1e-1


class Potential(Protocol):
    """A scalar function of points of R^n, of which minibatches may give estimates."""

    @property
    def size(self) -> int:
        """n."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader of a result."""

    def provenance(self) -> Mapping[str, object]:
        """What identifies it in a result file."""

    def point(self, theta: Tensor) -> Tensor:
        """Theta (n,) in the type and on the device that it is computed in.

        Raises:
            RequestError: it does not fit, or is not finite.
        """

    def gradients(self, points: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """Values (P,) float64 and gradients (P, n) at points (P, n), in one pass over the data.

        Args:
            step: the minibatch of this number, the same at all points; None takes all the data.
        """

    def examples(self, vertices: Tensor, weights: Tensor) -> dict[str, Examples]:
        """What is found at weighted sums of vertices (K, n), by weights (M, K).

        "" holds the potential's own data, further data go by their names.
        """


class FunctionPotential:
    """A formula.

    Args:
        function: differentiable, from points (P, n) to values (P,).
        size: n.

    Attributes:
        notes: none.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self, function: Callable[[Tensor], Tensor], size: int, *, dtype: torch.dtype = torch.float64
    ) -> None:
        self._function, self._size, self._dtype = function, size, dtype

    @property
    def size(self) -> int:
        """n."""
        return self._size

    def provenance(self) -> Mapping[str, object]:
        """The function's name: what it computes is not known."""
        return {"potential": getattr(self._function, "__name__", type(self._function).__name__)}

    def point(self, theta: Tensor) -> Tensor:
        """Theta (n,) in the type of the potential."""
        if theta.shape != (self._size,) or not theta.isfinite().all():
            raise RequestError(
                f"the point has shape {tuple(theta.shape)}, expected ({self._size},), finite."
            )
        return theta.detach().to(self._dtype)

    def gradients(self, points: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """Values (P,) float64 and gradients (P, n); every step sees the whole function."""
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            values = self._function(leaf)
            (gradients,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach().double(), gradients

    def examples(self, vertices: Tensor, weights: Tensor) -> dict[str, Examples]:
        """The values at weighted sums of vertices (K, n), which have no examples."""
        with torch.no_grad():
            values = self._function(weights.to(vertices) @ vertices)
        return {"": Examples(totals=values.double(), total_weight=1.0)}


class ObjectivePotential:
    """An objective.

    Args:
        bn: BatchNorm statistics where a path is measured; see `PathEvaluator`. Gradients are
            taken with those of each batch, or, with "eval", with the objective's own.
        batch_size: examples of a minibatch; None takes 128, or the data's own batches.
        seed: of the order of the examples.
        also: further data by name, measured along with the objective's own.

    Raises:
        RequestError: a policy or a batch size that cannot be had.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        bn: BatchNormMode = "recalibrate",
        batch_size: int | None = None,
        seed: int,
        also: Mapping[str, Objective] | None = None,
    ) -> None:
        if bn == "interpolate":
            raise RequestError(
                "bn='interpolate' needs buffers for every point, and those that are found on the "
                "way have none. Take 'recalibrate', 'batch' or 'eval'."
            )
        self._objective, self._bn, self._also = objective, bn, also
        has_own_statistics = objective.has_batch_norm and bn != "eval"
        self._trained = objective.under("batch" if has_own_statistics else "eval")
        self._minibatches = Minibatches(self._trained, batch_size, seed)
        self._execution: Execution | None = None
        self._evaluation_notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """n."""
        return self._objective.space.size

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the objective, and how it was evaluated so far."""
        return (*self._objective.notes, *self._evaluation_notes)

    def provenance(self) -> Mapping[str, object]:
        """That of the objective."""
        return self._objective.provenance()

    def point(self, theta: Tensor) -> Tensor:
        """Theta (n,) in the type and on the device of the objective."""
        self._objective.space.check(theta)
        if not theta.isfinite().all():
            raise RequestError("the point is not finite. Give finite weights.")
        return theta.detach().to(self._objective.theta)

    # -- measuring --------------------------------------------------------------------------------

    def examples(self, vertices: Tensor, weights: Tensor) -> dict[str, Examples]:
        """All examples at weighted sums of vertices (K, n), by weights (M, K)."""
        chart = Vertices.of(self._objective, vertices)
        coefficients = chart.coefficients(weights)
        evaluator = PathEvaluator(
            self._objective,
            chart,
            coefficients,
            bn=self._bn,
            also=self._also,
            execution=self._execution or "auto",
        )
        if self._execution is None:
            found = evaluator.execution
            self._evaluation_notes = (f"evaluated: {found}", *evaluator.notes)
            # What is compiled, and what the first layer keeps, belong to these vertices.
            mode = "loop" if found.mode == "compiled" else found.mode
            self._execution = replace(found, mode=mode, reuse=False)
        return evaluator.at(coefficients)

    # -- moving -----------------------------------------------------------------------------------

    def gradients(self, points: Tensor, step: int | None = None) -> tuple[Tensor, Tensor]:
        """Losses (P,) float64 and gradients (P, n) at points (P, n), in one pass over the data."""
        with self._trained.evaluation():
            if step is not None:
                (batch,) = self._minibatches.batches(step, 1)
                share = batch_length(batch) / self._trained.batches.num_examples
                return self._scaled(*self._sums(points, batch), share)
            values = torch.zeros(len(points), dtype=torch.float64)
            gradients = torch.zeros_like(points)
            for batch in self._trained.batches:
                own_values, own_gradients = self._sums(points, batch)
                values += own_values
                gradients += own_gradients
            return self._scaled(values, gradients, 1.0)

    def _scaled(self, values: Tensor, gradients: Tensor, share: float) -> tuple[Tensor, Tensor]:
        weight = share * self._trained.total_weight
        return values / weight, gradients / weight

    def _sums(self, points: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        if not self._is_batched:
            return self._one_by_one(points, batch)
        size = max(1, _COPIED_WEIGHTS // self.size)
        pieces = [self._at_once(several, batch) for several in torch.split(points, size)]
        values, gradients = zip(*pieces, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def _one_by_one(self, points: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        """The sums of a batch's losses and their gradients, point by point."""
        values, gradients = [], []
        for point in points:
            with torch.enable_grad():
                leaves = self._trained.leaves(point)
                total = self._differentiable(self._trained.term(leaves, batch).total)
                blocks = torch.autograd.grad(total, leaves, materialize_grads=True)
            values.append(total.detach().double().cpu())
            gradients.append(self._trained.space.flatten(blocks))
        return torch.stack(values), torch.stack(gradients)

    def _at_once(self, points: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        """The same, all points in one call."""

        def total_at(point: Tensor, buffers: dict[str, Tensor]) -> Tensor:
            return self._trained.term(self._trained.space.split(point), batch, buffers).total

        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            totals = self._differentiable(vmap(total_at)(leaf, self._statistics(len(points))))
            (gradients,) = torch.autograd.grad(totals.sum(), leaf, materialize_grads=True)
        return totals.detach().double().cpu(), gradients

    def _differentiable(self, total: Tensor) -> Tensor:
        if not total.requires_grad:
            raise RequestError(
                f"the loss {self._trained.loss_function.name!r} carries no gradient (detached, or "
                "under no_grad). Return a differentiable tensor."
            )
        return total

    def _statistics(self, count: int) -> dict[str, Tensor]:
        """Statistics that BatchNorm in training mode can write to: a copy for each point."""
        norms = {
            name for name, module in self._trained.model.named_modules()
            if isinstance(module, _BatchNorm)
        }  # fmt: skip
        return {
            name: buffer.expand(count, *buffer.shape).clone()
            for name, buffer in self._trained.buffers.items()
            # Not the number of batches, which a cumulative average reads back.
            if name.rpartition(".")[0] in norms and buffer.is_floating_point()
        }

    @cached_property
    def _is_batched(self) -> bool:
        """By what the network is made of, not by the clock: the same band on each run.

        Convolutions loop: batched they are grouped, and slow (pytorch/pytorch#73764).
        """
        if any(len(shape) > 2 for shape in self._objective.space.shapes):
            return False
        points = self._objective.theta.expand(2, -1)
        (batch,) = self._minibatches.batches(0, 1)
        expected = self._one_by_one(points, batch)
        try:
            # A warning tells that an operation has no batching rule.
            with warnings.catch_warnings(action="error"):
                found = self._at_once(points, batch)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, Warning):
            return False
        rtol = _RTOL.get(points.dtype, _LOW_PRECISION_RTOL)
        return all(
            bool(torch.linalg.vector_norm(one - other) <= rtol * torch.linalg.vector_norm(one))
            for one, other in zip(expected, found, strict=True)
        )


def potential_of(
    objective: Objective | Potential,
    *,
    bn: BatchNormMode = "recalibrate",
    batch_size: int | None = None,
    seed: int,
    also: Mapping[str, Objective] | None = None,
) -> Potential:
    """An objective as a potential, by these options; a potential as it is."""
    if isinstance(objective, Objective):
        return ObjectivePotential(objective, bn=bn, batch_size=batch_size, seed=seed, also=also)
    return objective


def ends_fingerprint(*points: Tensor) -> str:
    """What identifies the points that a path joins."""
    return fingerprint({str(index): point for index, point in enumerate(points)}).hex()
