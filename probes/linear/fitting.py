"""Linear probes: logistic regression on features, at many penalties and of many layers.

The objective is that of `logistic`, its minimum found by `newton`. Probes with few weights are in
`sparse`, those for groups and for few examples in `group_balanced` and `few_shot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike
from landscape.probes.linear.grid import LinearProbe, Method, Pair, Selection, fit_grid
from landscape.probes.linear.labelled import Features
from landscape.probes.linear.newton import solve

__all__ = ["LinearProbe", "linear_probe"]


@overload
def linear_probe(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None = None,
    test: Pair | None = None,
    sample_weights: ArrayLike | None = None,
    standardize: bool = False,
    select: Selection = "accuracy",
    tol: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> dict[str, LinearProbe]: ...


@overload
def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None = None,
    test: Pair | None = None,
    sample_weights: ArrayLike | None = None,
    standardize: bool = False,
    select: Selection = "accuracy",
    tol: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> LinearProbe: ...


def linear_probe(
    features: Features,
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None = None,
    test: Pair | None = None,
    sample_weights: ArrayLike | None = None,
    standardize: bool = False,
    select: Selection = "accuracy",
    tol: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> LinearProbe | dict[str, LinearProbe]:
    """Minimise sum_i w_i CE(W x_i + b, y_i) / sum_i w_i + penalty / 2 ||W||^2 at each penalty.

    W has a row for each class, b is free. scikit-learn's `LogisticRegression(C=C)` has the same
    minimum at penalty = 1 / (C sum_i w_i) where there are three classes or more. With two it has
    one vector, our w_1 - w_0, at half the penalty: its C is 2 / (penalty sum_i w_i), and
    objectives are equal.

    Converged means ||g||_inf <= tol penalty ||W||_inf, with g the gradient by the weights of
    centred features and by the intercept, this one in units of the features' root mean square
    deviation; then W is off by tol of itself at most, and the objective by about tol^2. Or, for
    penalties near 0, ||g||_inf / loss is tol^2 of what it is at W = 0. At penalty 0 nothing has
    converged where every training example is right: separable classes have no minimum.

    Args:
        features: (n, d); (L, n, d) or a sequence of (n, d) for layers or checkpoints of one width;
            or layers of any widths by name, for which there are as many results. Held as float32
            or float64, computed with in float64.
        labels: (n,) integers; each value that occurs is a class.
        penalties: (P,) from 0 on, in any order. At infinity W = 0 and b is the classes' shares.
        validation: (features, labels) in the same form, or a fraction of the examples to be held
            out, with the classes' shares. It chooses the penalty.
        test: (features, labels), which are scored and decide nothing.
        sample_weights: (n,) from 0 on. A row twice is a row of weight 2.
        standardize: divide the features by their standard deviations in training, so that the
            penalty is in these units. The weights that come back are in the features' own.
        select: by the largest validation accuracy, the smaller loss among equals, or by the
            smallest validation loss. Among what is still equal, the largest penalty.
        tol: see above.
        max_iterations: passes over the training examples, at each penalty.
        seed: of the examples that are held out.

    Raises:
        RequestError: fewer than two classes or no example, features that are not finite, parts
            that do not fit together, negative penalties or weights, an unknown `select`.
    """
    if not 0 < tol < 1 or max_iterations < 1:
        raise RequestError(
            f"tol={tol}, max_iterations={max_iterations}: expected 0 < tol < 1 and 1 or more."
        )
    method = Method(
        solve=lambda problem, grid: solve(problem, grid, tol=tol, max_iterations=max_iterations),
        value=lambda weights: weights.square().sum((1, 2)) / 2,
        violation=lambda term, weights, grid: term.weight_gradient + grid[:, None, None] * weights,
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
