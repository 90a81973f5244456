"""Shapley values of training examples for the k-nearest-neighbour classifier, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import cdist

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_floats, as_labels

__all__ = ["KnnShapley", "knn_shapley"]

_BLOCK = 2**22  # distances that are held at a time


@dataclass(frozen=True, eq=False)
class KnnShapley:
    """What each training example adds to the accuracy of its neighbours' vote.

    Attributes:
        value: (n,) mean over the tests; they add up to the utility.
        standard_error: (n,) of that mean, over tests; NaN for a single one.
        utility: of all examples: mean share of the k nearest that have the test's label, where
            neighbours that are missing count as wrong.
    """

    value: Floats = field(repr=False)
    standard_error: Floats = field(repr=False)
    utility: float


def knn_shapley(
    features: ArrayLike,
    labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    num_neighbours: int = 5,
    progress: Callable[[int, int, str], None] | None = None,
) -> KnnShapley:
    """Shapley values under v(S) = mean over tests of #{k nearest in S with its label} / k.

    From the farthest to the nearest, s_N = 1[y_N = y] min(k, N) / (N k) and
    s_j = s_{j+1} + (1[y_j = y] - 1[y_{j+1} = y]) min(k, j) / (k j). Nothing is cut off after k
    neighbours, and no (m, n) table is held: the tests come in blocks.

    Args:
        features: (n, d) float; Euclidean distances, of equal ones the first example is nearer.
        labels: (n,) classes.
        test_features: (m, d).
        test_labels: (m,) classes.
        num_neighbours: k.
        progress: called with (tests done, tests, words).

    Raises:
        RequestError: shapes that do not go together, no test, or k below 1.

    Source: Jia et al. 2019, arXiv:1908.08619, theorem 1.
    """
    points, queries = (
        as_floats(held, name, "(n, d)")
        for held, name in ((features, "features"), (test_features, "test_features"))
    )
    classes, wanted = as_labels(labels, "labels"), as_labels(test_labels, "test_labels")
    if len(points) != len(classes) or len(queries) != len(wanted) or not len(points):
        raise RequestError(
            f"features has {len(points)} examples for {len(classes)} labels, test_features "
            f"{len(queries)} for {len(wanted)}. Give one label each."
        )
    if points.shape[1] != queries.shape[1] or not len(queries):
        raise RequestError(
            f"test_features has shape {queries.shape}, expected (m, {points.shape[1]}), m >= 1."
        )
    if num_neighbours < 1:
        raise RequestError(f"num_neighbours={num_neighbours} asks nobody. Choose 1 or more.")
    n, k = len(points), num_neighbours
    ranks = np.arange(1, n)
    factors = np.minimum(k, ranks) / (k * ranks)  # (n - 1,)
    total, squares, utility = np.zeros(n), np.zeros(n), 0.0
    step = max(1, _BLOCK // n)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        # Not by a matrix product: equal examples would be at distances that differ in a last bit.
        distances = cdist(queries[part], points, "sqeuclidean")
        order = np.argsort(distances, axis=1, kind="stable")
        right = (classes[order] == wanted[part, None]).astype(np.float64)  # (b, n)
        ranked = np.empty_like(right)
        ranked[:, -1] = right[:, -1] * min(k, n) / (n * k)
        steps = (right[:, :-1] - right[:, 1:]) * factors
        ranked[:, :-1] = ranked[:, -1:] + np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
        values = np.empty_like(ranked)
        np.put_along_axis(values, order, ranked, axis=1)
        total += values.sum(0)
        squares += np.square(values).sum(0)
        utility += right[:, :k].sum() / k
        if progress is not None:
            progress(min(start + step, len(queries)), len(queries), "tests")
    m = len(queries)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.maximum(squares - total * total / m, 0.0) / (np.float64(m) - 1)
    return KnnShapley(total / m, np.sqrt(variance / m), utility / m)
