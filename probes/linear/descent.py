"""L-BFGS for many convex problems at once, each with its own step and its own preconditioner.

`newton` says on which examples, and with which Hessian. All problems that are not done share each
pass over the data; one whose step was too long takes a shorter one while the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.probes.linear.coordinates import Coordinates
from landscape.probes.linear.logistic import SoftmaxRegression

__all__ = ["Descent", "descend"]

_MEMORY = 12  # pairs
_CURVATURE = 0.9  # of the slope may be left with the other sign
_LEAST_LOSS = 1e-10  # without a penalty: separable classes would be followed down for ever


@dataclass(frozen=True, eq=False)
class Descent:
    """Where P descents ended.

    Attributes:
        theta: (P, C, r + 1).
        passes: (P,) evaluations of value and gradient.
        converged: (P,).
    """

    theta: Tensor
    passes: Tensor
    converged: Tensor


@dataclass(frozen=True)
class _Limits:
    """What rounding leaves.

    Attributes:
        tol: the least that is asked for.
        rounding: relative; below, differences of values say nothing, and slopes decide.
        step: the shortest.
    """

    tol: float
    rounding: float
    step: float


_LIMITS = {torch.float32: _Limits(1e-3, 1e-6, 1e-2), torch.float64: _Limits(0.0, 1e-12, 1e-10)}


@dataclass(frozen=True, eq=False)
class _Point:
    value: Tensor  # (P,)
    gradient: Tensor  # (P, C, r + 1)
    converged: Tensor  # (P,)


def descend(
    problems: Sequence[SoftmaxRegression],
    frame: Coordinates,
    theta: Tensor,
    factors: list[Tensor] | None,
    *,
    unit: Tensor,
    tol: float,
    max_passes: int,
) -> Descent:
    """From theta (P, C, r + 1) down, until converged or out of passes.

    Args:
        problems: the same in rising precision, on which to descend in turn. What is returned is
            measured by the last.
        factors: Cholesky factor of each problem's approximate Hessian; None for the identity.
        unit: the gradient's norm over the loss, at the prior.
        tol: see `newton.solve`; in float32 no less than 1e-3.
    """
    descent = _Descent(frame, theta.clone(), _Memory(factors, theta), unit)
    for left, problem in zip(reversed(range(len(problems))), problems, strict=True):
        descent.run(problem, tol, max_passes - left)
    return Descent(descent.theta, descent.passes, descent.converged)


class _Descent:
    """P descents under way; `run` goes on with those that are not done."""

    def __init__(self, frame: Coordinates, theta: Tensor, memory: _Memory, unit: Tensor) -> None:
        self.theta = theta
        self.passes = torch.zeros(len(theta), dtype=torch.int64)
        self.converged = torch.zeros(len(theta), dtype=torch.bool)
        self._frame, self._memory, self._unit = frame, memory, unit

    def run(self, problem: SoftmaxRegression, tol: float, max_passes: int) -> None:
        """Until each is converged by `tol`, or has had so many passes in all, or can no more."""
        limits = _LIMITS[problem.precision]
        tol = max(tol, limits.tol)
        point = self._look(problem, torch.arange(len(self.theta)), self.theta, tol)
        value, gradient = point.value, point.gradient
        self.converged = point.converged
        self.passes += 1
        direction, step = torch.zeros_like(self.theta), torch.ones_like(value)
        is_new = torch.ones_like(self.converged)
        stuck = torch.zeros_like(self.converged)
        while True:
            live = (~self.converged & ~stuck & (self.passes < max_passes)).nonzero().flatten()
            if not len(live):
                return
            starting = live[is_new[live]]
            direction[starting] = self._memory.direction(gradient[starting], starting)
            step[starting] = 1.0
            slope = _dot(gradient[live], direction[live])
            trial = self.theta[live] + step[live, None, None] * direction[live]
            found = self._look(problem, live, trial, tol)
            self.passes[live] += 1
            new_slope = _dot(found.gradient, direction[live])
            rounding = limits.rounding * value[live].abs()
            # Convex: where the slope is still negative the value has fallen all the way.
            accepted = (new_slope <= 0) | (
                (found.value <= value[live] + rounding) & (new_slope <= -_CURVATURE * slope)
            )
            moved = live[accepted]
            self._memory.add(
                trial[accepted] - self.theta[moved],
                found.gradient[accepted] - gradient[moved],
                moved,
            )
            self.theta[moved], value[moved] = trial[accepted], found.value[accepted]
            gradient[moved] = found.gradient[accepted]
            self.converged[moved] = found.converged[accepted]
            is_new[live] = accepted
            shorter = -slope / (new_slope - slope)  # where the slope, if linear, is 0
            step[live] *= torch.where(accepted, 1.0, shorter.nan_to_num(0.1).clamp(0.1, 0.5))
            stuck[live] = (step[live] < limits.step) | (slope >= 0)

    def _look(self, problem: SoftmaxRegression, cells: Tensor, where: Tensor, tol: float) -> _Point:
        part = self._frame.at(cells)
        weights, intercept = part.probes(where)
        term = problem.data_term(weights, intercept)
        gradient = part.gradient(term, where)
        value = term.loss + part.penalties / 2 * part.squared_norms(where)
        least = min(tol, 1e-3) * self._unit * term.loss
        small = _is_small(part, gradient, weights, least, tol)
        is_endless = (part.penalties == 0) & (term.loss < _LEAST_LOSS)
        return _Point(value, gradient, small | is_endless)


def _is_small(
    frame: Coordinates, gradient: Tensor, weights: Tensor, least: Tensor, tol: float
) -> Tensor:
    units = frame.scales[:, None] * gradient
    norm = (units[:, :, 1:] @ frame.axes.T).abs().amax((1, 2))
    # The intercept's gradient in the features' units: that of a feature of their spread.
    spread = (frame.scales[:, 1:].square() - frame.penalties[:, None]).clamp_min(0).sum(1)
    width = max(frame.axes.shape[0], 1)
    norm = torch.maximum(norm, units[:, :, 0].abs().amax(1) * (2 * spread / width).sqrt())
    scale = torch.maximum(frame.penalties * weights.abs().amax((1, 2)), least)
    return norm <= tol * scale


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum((1, 2))


class _Memory:
    """The last steps and changes of gradient of P problems, and the inverse Hessians they imply.

    A problem that did not move has an empty pair, which is without effect.
    """

    def __init__(self, factors: list[Tensor] | None, like: Tensor) -> None:
        self._factors = factors
        self._like = like
        self._gamma = like.new_ones(len(like))
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # step, change, 1 / (step . change)

    def add(self, steps: Tensor, changes: Tensor, cells: Tensor) -> None:
        products = _dot(steps, changes)
        known = products > 0  # rounding may have eaten it
        cells, steps, changes, products = (
            part[known] for part in (cells, steps, changes, products)
        )
        step, change = torch.zeros_like(self._like), torch.zeros_like(self._like)
        rho = self._like.new_zeros(len(self._like))
        step[cells], change[cells], rho[cells] = steps, changes, 1 / products
        self._pairs = [*self._pairs[1 - _MEMORY :], (step, change, rho)]
        self._gamma[cells] = products / _dot(changes, self._solved(changes, cells))

    def direction(self, gradient: Tensor, cells: Tensor) -> Tensor:
        """Minus the inverse Hessian times the gradient.

        Source: Nocedal and Wright 2006, algorithm 7.4, with gamma by the preconditioner.
        """
        found = gradient.clone()
        factors = []
        for step, change, rho in reversed(self._pairs):
            factor = (rho[cells] * _dot(step[cells], found))[:, None, None]
            found -= factor * change[cells]
            factors.append(factor)
        found = self._gamma[cells, None, None] * self._solved(found, cells)
        for (step, change, rho), factor in zip(self._pairs, reversed(factors), strict=True):
            back = (rho[cells] * _dot(change[cells], found))[:, None, None]
            found += (factor - back) * step[cells]
        return -found

    def _solved(self, vectors: Tensor, cells: Tensor) -> Tensor:
        if self._factors is None:
            return vectors
        found = torch.empty_like(vectors)
        for row, cell in enumerate(cells.tolist()):
            column = vectors[row].reshape(-1, 1).float()
            found[row] = torch.cholesky_solve(column, self._factors[cell]).view(vectors.shape[1:])
        return found
