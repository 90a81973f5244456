"""Sparse linear probes: softmax regression under the sum of the weights' sizes.

    f(W, b) = sum_i w_i CE(W x_i + b, y_i) / sum_i w_i  +  penalty sum_cj |W_cj|

by accelerated proximal steps, all penalties together. The smooth probe is in `fitting`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike
from landscape.probes.linear.coordinates import centred_gram, weighted_mean
from landscape.probes.linear.grid import LinearProbe, Method, Pair, Selection, fit_grid
from landscape.probes.linear.labelled import Features
from landscape.probes.linear.logistic import DataTerm, SoftmaxRegression, Solution
from landscape.probes.linear.newton import prior_intercept

__all__ = ["sparse_probe"]


def sparse_probe(
    features: Features,
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None = None,
    test: Pair | None = None,
    sample_weights: ArrayLike | None = None,
    standardize: bool = False,
    select: Selection = "accuracy",
    tol: float = 1e-3,
    max_iterations: int = 5000,
    seed: int = 0,
) -> LinearProbe | dict[str, LinearProbe]:
    """As `linear_probe`, under penalty ||W||_1; weights that the penalty holds at 0 are exactly 0.

    `gradient_norm` is the largest violation of the optimality conditions: of |g| <= penalty where
    a weight is 0, of g = -penalty sign(w) elsewhere, and of g = 0 for the intercept. Converged
    means that it is at most tol penalty; that of the intercept in units of the features' root mean
    square deviation.

    scikit-learn's `LogisticRegression(l1_ratio=1, C=C, solver="saga")` has this minimum at
    penalty = 1 / (C sum_i w_i) with three classes or more. With two it has one vector w, and its
    penalty is that of (w, 0) here: the same objective at the same penalty.

    Args:
        penalties: (P,) positive, in any order; infinity included.
        max_iterations: passes over the training examples.

    Raises:
        RequestError: as `linear_probe`, and a penalty of 0, which that one is for.

    Source: Beck and Teboulle 2009 (FISTA); restarts of O'Donoghue and Candès 2015.
    """
    if not 0 < tol < 1 or max_iterations < 1:
        raise RequestError(
            f"tol={tol}, max_iterations={max_iterations}: expected 0 < tol < 1 and 1 or more."
        )
    method = Method(
        solve=lambda problem, grid: _solve(problem, grid, tol, max_iterations),
        value=lambda weights: weights.abs().sum((1, 2)),
        violation=_violation,
    )
    return fit_grid(
        method,
        features,
        labels,
        penalties,
        validation=validation,
        test=test,
        sample_weights=sample_weights,
        standardize=standardize,
        select=select,
        seed=seed,
    )


def _violation(term: DataTerm, weights: Tensor, penalties: Tensor) -> Tensor:
    bound = penalties[:, None, None]
    gradient = term.weight_gradient
    at_zero = (gradient.abs() - bound).clamp_min(0)
    return torch.where(weights == 0, at_zero, gradient + bound * weights.sign())


def _solve(
    problem: SoftmaxRegression, penalties: Tensor, tol: float, max_iterations: int
) -> Solution:
    if not (penalties > 0).all():
        raise RequestError("penalties has a 0, expected positive ones: use linear_probe for 0.")
    mean = weighted_mean(problem)
    gram = centred_gram(problem, mean)
    variances = gram.diagonal()
    # Half the Gram matrix bounds the Hessian; scaled to correlations, so does half its largest
    # eigenvalue times the variances: steps of their own for features of any units.
    roots = torch.where(variances > 0, variances, 1.0).sqrt()
    steps = 2 / (torch.linalg.eigvalsh(gram / torch.outer(roots, roots))[-1] * variances)
    steps[variances == 0] = 0.0
    spread = variances.mean().sqrt()
    prior = prior_intercept(problem)
    weights = prior.new_zeros(len(penalties), len(prior), len(mean))
    intercept = prior.repeat(len(penalties), 1)  # at the mean
    ahead, ahead_intercept = weights.clone(), intercept.clone()
    momentum = prior.new_ones(len(penalties))
    iterations = torch.zeros(len(penalties), dtype=torch.int64)
    converged = penalties.isinf()
    while True:
        live = (~converged & (iterations < max_iterations)).nonzero().flatten()
        if not len(live):
            return Solution(weights, intercept - weights @ mean, iterations, converged)
        bound = penalties[live, None, None]
        where, at = ahead[live], ahead_intercept[live]
        term = problem.data_term(where, at - where @ mean)
        by_intercept = term.intercept_gradient
        centred = term.weight_gradient - by_intercept[:, :, None] * mean
        iterations[live] += 1
        # What is measured is the point ahead, where the gradient is; it is what comes back.
        short = DataTerm(term.loss, centred, by_intercept)
        off = torch.maximum(
            _violation(short, where, penalties[live]).abs().amax((1, 2)),
            by_intercept.abs().amax(1) * spread,
        )
        converged[live] = off <= tol * penalties[live]
        moved = where - steps * centred
        new = moved.sign() * (moved.abs() - steps * bound).clamp_min(0)
        new_intercept = at - 2 * by_intercept
        change, change_intercept = new - weights[live], new_intercept - intercept[live]
        # Ahead of the descent: start again.
        against = ((where - new) * change / steps.clamp_min(1e-300)).sum((1, 2)) + (
            (at - new_intercept) * change_intercept / 2
        ).sum(1)
        old = torch.where(against > 0, 1.0, momentum[live])
        grown = (1 + (1 + 4 * old.square()).sqrt()) / 2
        share = ((old - 1) / grown)[:, None]
        done = converged[live]
        weights[live] = torch.where(done[:, None, None], where, new)
        intercept[live] = torch.where(done[:, None], at, new_intercept)
        ahead[live] = new + share[:, None] * change
        ahead_intercept[live] = new_intercept + share * change_intercept
        momentum[live] = grown
