"""Lasso regression of outcomes on masks, one outcome at a time; `regression` has the ridge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import Bools, Floats

__all__ = ["LassoFit", "lasso"]

_FOLDS = 5
_MOST_ITERATIONS = 10_000


@dataclass(frozen=True, eq=False)
class LassoFit:
    """Sparse slopes of m outcomes on n masks.

    Attributes:
        weights: (m, n).
        intercept: (m,).
        penalties: (m,) alpha of |y - b - X w|^2 / (2 T) + alpha |w|_1.
        fold_error: (m,) mean squared error on models left out, fold by fold; NaN where the penalty
            was given.
    """

    weights: Floats
    intercept: Floats
    penalties: Floats
    fold_error: Floats


def lasso(
    masks: Bools,
    values: Floats,
    penalty: float | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> LassoFit:
    """Regress each column of values on the masks, with an intercept.

    Args:
        masks: (T, n).
        values: (T, m).
        penalty: None chooses one for each outcome, on five folds of the models.

    Raises:
        RequestError: a penalty that is not above 0, or fewer models than folds.

    Source: Ilyas et al. 2022, arXiv:2202.00622; the solver is scikit-learn's.
    """
    from sklearn.linear_model import Lasso, LassoCV

    if penalty is not None and not penalty > 0:
        raise RequestError(f"penalty={penalty}, expected a number above 0, or None to choose one.")
    if penalty is None and len(masks) < 2 * _FOLDS:
        raise RequestError(
            f"{len(masks)} models are too few to choose a penalty on {_FOLDS} folds of them. Give "
            "one, or take method='ridge'."
        )
    inputs = masks.astype(np.float64)
    count = values.shape[1]
    weights = np.zeros((count, masks.shape[1]))
    intercept, penalties, errors = values.mean(0), np.full(count, np.nan), np.full(count, np.nan)
    for index, outcome in enumerate(values.T):
        if np.ptp(outcome) > 0:  # a constant one has no slope, whatever the penalty
            if penalty is None:
                solver = LassoCV(cv=_FOLDS, max_iter=_MOST_ITERATIONS).fit(inputs, outcome)
                errors[index] = solver.mse_path_.mean(1).min()
                penalties[index] = solver.alpha_
            else:
                solver = Lasso(alpha=penalty, max_iter=_MOST_ITERATIONS).fit(inputs, outcome)
                penalties[index] = penalty
            weights[index], intercept[index] = solver.coef_, solver.intercept_
        if progress is not None:
            progress(index + 1, count, "lasso")
    return LassoFit(weights, intercept, penalties, errors)
