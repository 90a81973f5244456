"""Ridge regression of outcomes on masks, its penalty by exact leave-one-out over the models.

`influence` and `datamodels` read its slopes; the attributions of a ridge regression's own training
examples are in `attribution`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import Bools, Floats

__all__ = ["RidgeFit", "ridge"]

_BLOCK = 4096  # columns of the masks that are held as float64 at a time
_GRID = np.logspace(-4, 4, 33)  # penalties, in units of the mean eigenvalue


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """Slopes of m outcomes on n masks, by least squares with a penalty.

    Attributes:
        weights: (m, n).
        intercept: (m,), of the masks 0 and 1.
        penalty: lambda of |y - b - X w|^2 + lambda |w|^2, one for all outcomes.
        left_out: (T, m) what the other models predict of a model, exactly.
        noise: (m,) standard deviation of an outcome around the regression.
        spread: (n,) standard deviation of a slope for noise 1, in the posterior whose mean the
            weights are: the prior has variance noise^2 / penalty.
        at_edge: the penalty was chosen, and a stronger one than all that were tried may be better.
    """

    weights: Floats
    intercept: Floats
    penalty: float
    left_out: Floats
    noise: Floats
    spread: Floats
    at_edge: bool


def ridge(masks: Bools, values: Floats, penalty: float | None = None) -> RidgeFit:
    """Regress each column of values on the masks, with an intercept that is not penalized.

    Args:
        masks: (T, n).
        values: (T, m).
        penalty: above 0; None takes the one with the least squared error of models left out, over
            all outcomes together.

    Raises:
        RequestError: fewer than two models, or a penalty that is not above 0.

    The T x T products of the centered masks are enough where n is the larger. With left-out
    residuals e / (1 - H) no regression is done twice.

    Source: Saunshi et al. 2022, arXiv:2212.03095 (datamodels by ridge); Allen 1974 (PRESS).
    """
    if len(masks) < 2:
        raise RequestError(f"a regression over {len(masks)} model is none. Give two or more.")
    if penalty is not None and not penalty > 0:
        raise RequestError(f"penalty={penalty}, expected a number above 0, or None to choose one.")
    models, examples = masks.shape
    center, mean = masks.mean(0), values.mean(0)
    vectors, eigenvalues = _spectrum(masks, center)  # (T, r), (r,)
    coordinates = vectors.T @ (values - mean)  # (r, m)
    at_edge = False
    if penalty is None:
        unit = eigenvalues.mean() if len(eigenvalues) else 1.0
        errors = [
            np.square(values - _left_out(vectors, eigenvalues, coordinates, values, tried)).sum()
            for tried in unit * _GRID
        ]
        best = int(np.nanargmin(errors))
        penalty, at_edge = float(unit * _GRID[best]), best == len(_GRID) - 1
    dual = vectors @ (coordinates / (eigenvalues + penalty)[:, None])  # (T, m)
    unexplained = (
        values - mean - vectors @ (coordinates * (eigenvalues / (eigenvalues + penalty))[:, None])
    )
    weights = np.empty((values.shape[1], examples))
    spread = np.empty(examples)
    sizes = masks.sum(1)
    # Subsets of one size never tell what all examples have in common: that is no uncertainty.
    known = 1 / examples if (sizes == sizes[0]).all() else 0.0
    for part, block in _centered(masks, center):
        weights[:, part] = dual.T @ block
        loading = np.square(block.T @ vectors) / eigenvalues  # (b, r)
        rest = np.maximum(1 - loading.sum(1) - known, 0.0)
        spread[part] = np.sqrt(loading @ (1 / (eigenvalues + penalty)) + rest / penalty)
    energy = ((values - mean) * unexplained).sum(0)
    return RidgeFit(
        weights=weights,
        intercept=mean - weights @ center,
        penalty=penalty,
        left_out=_left_out(vectors, eigenvalues, coordinates, values, penalty),
        noise=np.sqrt(np.maximum(energy, 0.0) / (models - 1)),
        spread=spread,
        at_edge=at_edge,
    )


def _spectrum(masks: Bools, center: Floats) -> tuple[Floats, Floats]:
    """Eigenvectors (T, r) and eigenvalues (r,) of X X' for the centered masks X, without zeros."""
    models, examples = masks.shape
    if models <= examples:
        gram = np.zeros((models, models))
        for _, block in _centered(masks, center):
            gram += block @ block.T
        values, vectors = np.linalg.eigh(gram)
    else:
        whole = masks - center
        values, right = np.linalg.eigh(whole.T @ whole)
        with np.errstate(divide="ignore", invalid="ignore"):
            vectors = (whole @ right) / np.sqrt(values)
    kept = values > values.max() * max(models, examples) * np.finfo(np.float64).eps
    return vectors[:, kept], values[kept]


def _left_out(
    vectors: Floats, eigenvalues: Floats, coordinates: Floats, values: Floats, penalty: float
) -> Floats:
    """(T, m) prediction for each model from all others."""
    filtered = eigenvalues / (eigenvalues + penalty)
    fitted = values.mean(0) + vectors @ (filtered[:, None] * coordinates)
    leverage = 1 / len(values) + np.square(vectors) @ filtered  # (T,)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(values - (values - fitted) / (1 - leverage)[:, None])


def _centered(masks: Bools, center: Floats) -> Iterator[tuple[slice, Floats]]:
    for start in range(0, masks.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        yield part, masks[:, part] - center[part]
