"""Weight curvature: what each example adds to the curvature of the loss in the weights.

L = sum_i w_i l_i / sum_i w_i, so v.(H v) = sum_i w_i v.(H_i v) / sum_i w_i for any direction v:
of a top eigenvector, the eigenvalue example by example. `landscape.curvature` has the operator of
the whole loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp

from landscape.errors import RequestError, unknown_choice
from landscape.objective import Objective
from landscape.probes.arrays import Floats
from landscape.probes.sensitivity.each_example import EachExample, OneLoss
from landscape.probes.sensitivity.single_examples import (
    Point,
    differentiation,
    gradient_by,
    losses_of,
    points,
)

__all__ = ["CurvatureMatrix", "DirectionalCurvature", "WeightCurvature", "curvature_along"]
__all__ += ["weight_curvature"]

CurvatureMatrix = Literal["hessian", "gauss_newton"]
_MATRICES = ("hessian", "gauss_newton")
_GRADIENTS = (
    6  # of an example that are held at a time: gradient, product, and what they are made of
)
_RTOL = {torch.float64: 1e-8, torch.float32: 1e-3}
_LOW_PRECISION_RTOL = 3e-2


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
        num_probes: random signs v, common to all examples.
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
    size = (num_probes, objective.space.size)
    signs = torch.randint(0, 2, size, generator=generator, dtype=torch.int8)
    samples, weights = _curvatures(objective, 2 * signs - 1, theta, matrix)
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
    if columns.ndim != 2 or not columns.shape[1]:
        raise RequestError(
            f"directions has shape {tuple(directions.shape)}, expected (P, k) with k >= 1, or (P,)."
        )
    for column in columns.T:
        objective.space.check(column)
    values, weights = _curvatures(objective, columns.T, theta, matrix)
    share = np.where(weights == 0, 0.0, values * weights) / objective.total_weight
    values[:, weights == 0] = np.nan
    return DirectionalCurvature(values.T, share.T, matrix)


def _curvatures(
    objective: Objective, directions: Tensor, theta: Tensor | None, matrix: CurvatureMatrix
) -> tuple[Floats, Floats]:
    """(k, N) v.(H_i v) for directions (k, P), and (N,) the examples' weights in L."""
    if matrix not in _MATRICES:
        raise unknown_choice("matrix", matrix, _MATRICES)
    if matrix == "gauss_newton" and not objective.loss_function.is_pointwise:
        raise RequestError(
            f"the loss {objective.loss_function.name!r} is not known as a function of the outputs. "
            "Give 'cross_entropy', 'mse', 'bce' or a torch loss module, or matrix='hessian'."
        )
    rows, weights = [], []
    with differentiation(objective):
        (point,) = points(objective, theta)
        columns = [
            objective.space.split(direction.to(objective.device, objective.space.dtype))
            for direction in directions
        ]
        hessians = _Hessians(objective, point, columns)
        for batch in objective.batches:
            if matrix == "hessian":
                forms, weight = hessians(batch)
            else:
                forms, weight = _gauss_newton(objective, point, batch, columns)
            rows.append(forms.double())
            weights.append(weight.double())
    return torch.cat(rows).T.cpu().numpy(), torch.cat(weights).cpu().numpy()


class _Hessians:
    """v.(H_i v) of the examples of batch after batch, by two backward passes.

    No third derivative is taken, though contractions with one for each example could do without
    vmap: those of LayerNorm and InstanceNorm are wrong, backward as well as forward (torch 2.13).
    """

    def __init__(self, objective: Objective, point: Point, columns: list[list[Tensor]]) -> None:
        self._objective, self._point, self._columns = objective, point, columns
        self._each = EachExample(
            objective, point, self._vectorized, self._alone, gradients=_GRADIENTS
        )
        self._is_checked = False

    def __call__(self, batch: object) -> tuple[Tensor, Tensor]:
        """(b, k) and weights (b,)."""
        forms, weights = self._each(batch)
        if not self._is_checked and self._each.method == "vmap":
            self._is_checked = True
            if not self._agrees(batch, forms.nan_to_num() * weights[:, None]):
                self._each.method = "loop"
                forms, weights = self._each(batch)
        return forms, weights

    def _vectorized(self, loss: OneLoss, blocks: list[Tensor]) -> tuple[Tensor, Tensor]:
        _, pulled, weight = vjp(grad(loss, has_aux=True), blocks, has_aux=True)  # type: ignore[misc]
        return torch.stack([_dot(pulled(own)[0], own) for own in self._columns]), weight

    def _alone(self, loss: OneLoss, leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
        value, weight = loss(leaves)
        return _forms(value, leaves, self._columns), weight

    def _agrees(self, batch: object, forms: Tensor) -> bool:
        """Whether examples (b, k) add up to the Hessian of the batch: vmap has its own rules."""
        leaves = [block.detach().clone().requires_grad_() for block in self._point.blocks]
        term = self._objective.term(leaves, batch, self._point.buffers)
        wanted = _forms(term.total, leaves, self._columns)
        rtol = _RTOL.get(self._objective.space.dtype, _LOW_PRECISION_RTOL)
        return bool(((forms.sum(0) - wanted).abs() <= rtol * forms.abs().sum(0)).all())


def _forms(value: Tensor, leaves: list[Tensor], columns: list[list[Tensor]]) -> Tensor:
    """(k,) v.(H v) of a scalar."""
    gradients = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
    found = []
    for own in columns:
        slope = _dot(gradients, own)
        if not slope.requires_grad:
            found.append(torch.zeros_like(slope))
            continue
        products = torch.autograd.grad(slope, leaves, retain_graph=True, materialize_grads=True)
        found.append(_dot(products, own))
    return torch.stack(found)


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


def _gauss_newton(
    objective: Objective, point: Point, batch: object, columns: list[list[Tensor]]
) -> tuple[Tensor, Tensor]:
    """(b, k) u.(d^2 l / dz^2 u) for the slopes u of each example's outputs z, and weights (b,)."""
    leaves = [block.detach().clone().requires_grad_() for block in point.blocks]
    term = objective.term(leaves, batch, point.buffers)
    assert term.output is not None
    assert term.target is not None
    # The gradient of sum_j c_j z_j is linear in c: its product with a direction, differentiated
    # by c, is the slope of every z_j along it.
    contraction = torch.ones_like(term.output, requires_grad=True)
    gradients = torch.autograd.grad(
        (contraction * term.output).sum(), leaves, create_graph=True, materialize_grads=True
    )
    output = term.output.detach().requires_grad_()
    losses, weights = objective.loss_function.pointwise(output, term.target)
    found, kept = losses_of(replace(term, losses=losses, weights=weights))
    of_loss = gradient_by(found.sum(), output, create_graph=True)
    forms = []
    for own in columns:
        slopes = gradient_by(_dot(gradients, own), contraction, retain_graph=True)
        image = gradient_by((of_loss * slopes).sum(), output, retain_graph=True)
        forms.append((slopes * image).flatten(1).sum(1))
    return torch.stack(forms, 1), kept
