"""Datamodels: what a model will say of a test, predicted from which examples it is trained on.

Also how well any attribution predicts that: the linear datamodeling score, leave-one-out
correlation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, as_bools, as_floats
from landscape.probes.subsets.lasso import lasso
from landscape.probes.subsets.regression import ridge
from landscape.probes.subsets.welch import paired_mean_difference

__all__ = [
    "Datamodel",
    "datamodel",
    "leave_one_out_correlation",
    "linear_datamodeling_score",
]

_KINDS = ("ridge", "lasso", "difference")


@dataclass(frozen=True, eq=False)
class Datamodel:
    """Linear predictions of m outcomes from the mask of a subset.

    Attributes:
        kind: how the weights were found.
        weights: (m, n) what an example adds when it is in the subset; NaN only for "difference"
            and examples that were in all subsets, or in none.
        intercept: (m,) prediction for the empty subset.
        penalty: (m,) of the regressions; NaN for "difference".
        explained: (m,) share of the variance over subsets that is predicted for subsets left out:
            1 - error / variance, below 0 where the mean predicts better. NaN where the outcome is
            constant, and where nothing was left out.
        standard_error: (m, n) of "ridge" in the posterior whose mean the weights are, of
            "difference" Welch's; NaN for "lasso".
    """

    kind: Literal["ridge", "lasso", "difference"]
    weights: Floats = field(repr=False)
    intercept: Floats = field(repr=False)
    penalty: Floats = field(repr=False)
    explained: Floats
    standard_error: Floats = field(repr=False)

    def predict(self, masks: ArrayLike) -> Floats:
        """(S, m) outcomes for the subsets of masks (S, n)."""
        subsets = as_bools(masks, "masks", "(S, n)")
        _require_width(subsets.shape[1], self.weights.shape[1])
        return np.asarray(self.intercept + subsets.astype(np.float64) @ self.weights.T)


def datamodel(
    masks: ArrayLike,
    values_test: ArrayLike,
    *,
    kind: Literal["ridge", "lasso", "difference"] = "ridge",
    penalty: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Datamodel:
    """Regress soft values of tests on the masks of the subsets.

    Args:
        masks: (T, n).
        values_test: (T, m), such as log odds or margins.
        kind: "lasso" is the published one, by scikit-learn, a test at a time; "ridge" takes all
            tests at once; "difference" of means is unbiased for independent examples, noisy, and
            no sum of it predicts a subset well.
        penalty: of the regressions; None chooses it on models left out.
        progress: called with (tests done, tests, words).

    Raises:
        RequestError: shapes that do not go together, values that are not finite, or an option out
            of range.

    Source: Ilyas et al. 2022, arXiv:2202.00622.
    """
    if kind not in _KINDS:
        raise unknown_choice("kind", kind, _KINDS)
    if kind == "difference" and penalty is not None:
        raise RequestError("penalty is given with kind='difference', which has none.")
    subsets, values = _table(masks, values_test)
    variance, shape = values.var(0), (values.shape[1], subsets.shape[1])
    explained = np.full(shape[0], np.nan)
    penalties, errors = np.full(shape[0], np.nan), np.full(shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "ridge":
            fit = ridge(subsets, values, penalty)
            weights, intercept = fit.weights, fit.intercept
            penalties[:] = fit.penalty
            errors = fit.noise[:, None] * fit.spread
            explained = 1 - np.square(values - fit.left_out).mean(0) / variance
        elif kind == "lasso":
            sparse = lasso(subsets, values, penalty, progress=progress)
            weights, intercept, penalties = sparse.weights, sparse.intercept, sparse.penalties
            explained = 1 - sparse.fold_error / variance
        else:
            found = paired_mean_difference(subsets, values, 0.95)
            weights, errors = found.difference.value, found.standard_error
            intercept = values.mean(0) - np.nansum(weights * subsets.mean(0), axis=1)
    explained[(values == values[0]).all(0)] = np.nan
    return Datamodel(kind, weights, intercept, penalties, explained, errors)


def linear_datamodeling_score(
    attributions: ArrayLike, masks: ArrayLike, values_test: ArrayLike
) -> Floats:
    """How well sums of attributions rank the outcomes of models trained on subsets.

    Spearman's correlation over the subsets S of (sum_{i in S} attribution_i, outcome of S), for
    each test. Units of the attributions do not matter, nor their intercept.

    Args:
        attributions: (m, n).
        masks: (S, n) subsets, of which the attributions know nothing.
        values_test: (S, m) outcomes of models trained on these.

    Returns:
        (m,) NaN where the outcomes, or the sums, are all the same.

    Raises:
        RequestError: shapes that do not go together, or values that are not finite.

    Source: Park et al. 2023, arXiv:2303.14186 (TRAK).
    """
    subsets, values = _table(masks, values_test)
    scores = as_floats(attributions, "attributions", "(m, n)")
    _require_width(subsets.shape[1], scores.shape[1])
    if len(scores) != values.shape[1]:
        raise RequestError(
            f"attributions has {len(scores)} tests and values_test {values.shape[1]}. Give equal."
        )
    predicted = subsets.astype(np.float64) @ scores.T  # (S, m)
    # Sums of equal parts in another order differ in the last bit, which would untie them.
    step = np.finfo(np.float64).eps * scores.shape[1] * np.abs(scores).max(initial=0.0)
    predicted = np.round(predicted / step) if step else predicted
    return _correlations(stats.rankdata(predicted, axis=0), stats.rankdata(values, axis=0))


def leave_one_out_correlation(
    attributions: ArrayLike, effects: ArrayLike, removed: ArrayLike
) -> Floats:
    """Pearson's correlation of attributions with what leaving out single examples really does.

    Args:
        attributions: (m, n) of all examples.
        effects: (m, k) outcome with all examples, less that without one of them.
        removed: (k,) which example that was, in any order.

    Returns:
        (m,) NaN where one of both is constant.

    Raises:
        RequestError: shapes that do not go together, or an example that there is not.
    """
    scores = as_floats(attributions, "attributions", "(m, n)")
    truth = as_floats(effects, "effects", "(m, k)")
    indices = as_floats(removed, "removed", "(k,)").astype(np.int64)
    if truth.shape != (len(scores), len(indices)):
        raise RequestError(
            f"effects has shape {truth.shape}, expected {(len(scores), len(indices))}: one for "
            "each test and each removed example."
        )
    if len(indices) and not 0 <= indices.min() <= indices.max() < scores.shape[1]:
        raise RequestError(
            f"removed has examples {indices.min()} ... {indices.max()}, and there are "
            f"{scores.shape[1]}."
        )
    return _correlations(scores[:, indices].T, truth.T)


def _table(masks: ArrayLike, values: ArrayLike) -> tuple[Bools, Floats]:
    subsets = as_bools(masks, "masks", "(T, n)")
    held = as_floats(values, "values_test", "(T, m)")
    if len(subsets) != len(held):
        raise RequestError(
            f"masks has {len(subsets)} models and values_test {len(held)}. Give a row for each."
        )
    if not np.isfinite(held).all():
        raise RequestError("values_test is not finite. Leave these models or tests out.")
    return subsets, held


def _require_width(found: int, wanted: int) -> None:
    if found != wanted:
        raise RequestError(f"masks has {found} examples, and there are weights for {wanted}.")


def _correlations(first: Floats, second: Floats) -> Floats:
    """(m,) Pearson's, column by column."""
    a, b = first - first.mean(0), second - second.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0)))
