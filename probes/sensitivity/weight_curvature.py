"""Weight curvature: what each example adds to the curvature of the loss in the weights.

L = sum_i w_i l_i / sum_i w_i, so v.(H v) = sum_i w_i v.(H_i v) / sum_i w_i for any direction v:
of a top eigenvector, the eigenvalue example by example. `landscape.curvature` has the operator of
the whole loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp

from landscape.errors import RequestError, unknown_choice
from landscape.losses import Term
from landscape.objective import Objective
from landscape.probes.arrays import Floats
from landscape.probes.sensitivity.single_examples import (
    Point,
    differentiation,
    losses_of,
    points,
)

__all__ = ["CurvatureMatrix", "DirectionalCurvature", "WeightCurvature", "curvature_along"]
__all__ += ["weight_curvature"]

CurvatureMatrix = Literal["hessian", "gauss_newton"]
_MATRICES = ("hessian", "gauss_newton")


@dataclass(frozen=True, eq=False)
class WeightCurvature:
    """The trace of each example's own curvature matrix H_i.

    Attributes:
        value: (N,) tr(H_i), the mean of v.(H_i v) over random signs v, in loss / parameter^2; NaN
            for an example that is left out.
        standard_error: (N,) of `value`. The probes are those of all examples: the errors of two
            examples are not independent.
        samples: (num_probes, N) v.(H_i v).
        matrix: "hessian", or "gauss_newton", which is never negative for convex losses.
    """

    value: Floats
    standard_error: Floats
    samples: Floats
    matrix: CurvatureMatrix


@dataclass(frozen=True, eq=False)
class DirectionalCurvature:
    """Curvature along k directions, example by example.

    Attributes:
        value: (N, k) v.(H_i v) of each example's own loss; NaN for one that is left out.
        share: (N, k) what the example adds to v.(H v) of the whole loss; 0 for one that is left
            out. The columns add up to `total`.
        matrix: "hessian" or "gauss_newton".
    """

    value: Floats
    share: Floats
    matrix: CurvatureMatrix

    @property
    def total(self) -> Floats:
        """(k,) v.(H v): of a unit eigenvector its eigenvalue."""
        return np.asarray(self.share.sum(0))


def weight_curvature(
    objective: Objective,
    theta: Tensor | None = None,
    *,
    num_probes: int = 32,
    matrix: CurvatureMatrix = "hessian",
    seed: int = 0,
) -> WeightCurvature:
    """The trace of every example's Hessian, or Gauss-Newton matrix, by Hutchinson's estimator.

    Args:
        theta: (P,) where; by default the objective's own point.
        num_probes: random signs v, common to all examples; each costs about four forward passes.
        matrix: "gauss_newton" is J' (d^2 l / dz^2) J, for losses of a known function of z.
        seed: of the probes.

    Raises:
        RequestError: fewer than two probes, an unknown matrix, or examples that cannot be told
            apart.

    Source: Hutchinson 1989.
    """
    if num_probes < 2:
        raise RequestError(f"num_probes={num_probes}: a standard error needs 2 or more.")
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
    )
    space = objective.space
    signs = torch.randint(0, 2, (num_probes, space.size), generator=generator, dtype=torch.int8)
    probes = ((2 * sign - 1).to(objective.device, space.dtype) for sign in signs)
    samples, weights = _curvatures(objective, probes, theta, matrix)
    samples[:, weights == 0] = np.nan
    error = samples.std(0, ddof=1) / np.sqrt(num_probes)
    return WeightCurvature(samples.mean(0), error, samples, matrix)


def curvature_along(
    objective: Objective,
    directions: Tensor,
    theta: Tensor | None = None,
    *,
    matrix: CurvatureMatrix = "hessian",
) -> DirectionalCurvature:
    """v.(H_i v) of every example along given directions, exactly.

    Args:
        directions: (P, k) columns, such as `eigsh(...).vectors`, or one direction (P,); their
            lengths count.
        theta: (P,) where; by default the objective's own point.
        matrix: as in `weight_curvature`.

    Raises:
        RequestError: directions of another space, an unknown matrix, or examples that cannot be
            told apart.
    """
    columns = directions[:, None] if directions.ndim == 1 else directions
    for column in columns.T:
        objective.space.check(column)
    moved = (column.to(objective.device, objective.space.dtype) for column in columns.T)
    values, weights = _curvatures(objective, moved, theta, matrix)
    share = np.where(weights == 0, 0.0, values * weights) / objective.total_weight
    values[:, weights == 0] = np.nan
    return DirectionalCurvature(values.T, share.T, matrix)


def _curvatures(
    objective: Objective,
    directions: Iterator[Tensor],
    theta: Tensor | None,
    matrix: CurvatureMatrix,
) -> tuple[Floats, Floats]:
    """(k, N) v.(H_i v) for each direction, and (N,) the examples' weights in L."""
    if matrix not in _MATRICES:
        raise unknown_choice("matrix", matrix, _MATRICES)
    if matrix == "gauss_newton" and not objective.loss_function.is_pointwise:
        raise RequestError(
            f"the loss {objective.loss_function.name!r} is not known as a function of the outputs. "
            "Give 'cross_entropy', 'mse', 'bce' or a torch loss module, or matrix='hessian'."
        )
    along = _hessian_along if matrix == "hessian" else _gauss_newton_along
    rows = []
    with differentiation(objective):
        (point,) = points(objective, theta)
        weights = torch.cat([_weights(objective, point, batch) for batch in objective.batches])
        for direction in directions:
            blocks = objective.space.split(direction)
            parts = [along(objective, point, batch, blocks) for batch in objective.batches]
            rows.append(torch.cat(parts).detach().double().cpu().numpy())
    return np.stack(rows), weights.double().cpu().numpy()


def _weights(objective: Objective, point: Point, batch: object) -> Tensor:
    with torch.no_grad():
        return losses_of(objective.term(point.blocks, batch, point.buffers))[1]


def _hessian_along(
    objective: Objective, point: Point, batch: object, direction: list[Tensor]
) -> Tensor:
    """(b,) the second derivative of each example's loss along a direction in the weights."""

    def losses(blocks: list[Tensor]) -> Tensor:
        return losses_of(objective.term(blocks, batch, point.buffers))[0]

    def moved(step: Tensor) -> Tensor:
        return losses([b + step * d for b, d in zip(point.blocks, direction, strict=True)])

    try:
        return _second_derivative(moved, direction[0])
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # an operation without a forward derivative
        leaves = [block.detach().clone().requires_grad_() for block in point.blocks]
        slopes = _slopes_by_backward(losses(leaves), leaves, direction)
        return _slopes_by_backward(slopes, leaves, direction)


def _gauss_newton_along(
    objective: Objective, point: Point, batch: object, direction: list[Tensor]
) -> Tensor:
    """(b,) u.(d^2 l / dz^2 u) of each example, u the derivative of its outputs z."""
    target: list[Tensor] = []

    def outputs(blocks: list[Tensor]) -> Tensor:
        term = objective.term(blocks, batch, point.buffers)
        assert term.output is not None
        assert term.target is not None
        target[:] = [term.target]
        return term.output

    def moved(step: Tensor) -> Tensor:
        return outputs([b + step * d for b, d in zip(point.blocks, direction, strict=True)])

    zero = torch.zeros((), dtype=direction[0].dtype, device=direction[0].device)
    try:
        pair: tuple[Tensor, Tensor] = jvp(moved, (zero,), (torch.ones_like(zero),))  # type: ignore[assignment]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # as above
        leaves = [block.detach().clone().requires_grad_() for block in point.blocks]
        made = outputs(leaves)
        pair = made.detach(), _slopes_by_backward(made, leaves, direction).detach()
    output, change = pair

    def losses(step: Tensor) -> Tensor:
        found, weights = objective.loss_function.pointwise(output + step * change, target[0])
        return losses_of(Term(found.sum(), 0.0, losses=found, weights=weights))[0]

    return _second_derivative(losses, output)


def _second_derivative(function: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """f''(0) of a function of a scalar, by forward mode twice."""
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    one = torch.ones_like(zero)

    def slope(step: Tensor) -> Tensor:
        found: Tensor = jvp(function, (step,), (one,))[1]
        return found

    second: Tensor = jvp(slope, (zero,), (one,))[1]
    return second


def _slopes_by_backward(values: Tensor, leaves: list[Tensor], direction: list[Tensor]) -> Tensor:
    """The derivative of every value along a direction in the leaves, by backward passes alone."""
    if not values.requires_grad:
        return torch.zeros_like(values)
    # The gradient of sum_i c_i f_i is linear in c: its product with v, differentiated by c.
    contraction = torch.ones_like(values, requires_grad=True)
    gradients = torch.autograd.grad(
        (contraction * values).sum(), leaves, create_graph=True, materialize_grads=True
    )
    along = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum()
    (slopes,) = torch.autograd.grad(along, contraction, create_graph=True)
    return slopes
