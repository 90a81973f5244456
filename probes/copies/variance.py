"""Variance: how much of what is hard is the object, and how much the single view of it.

Whether there is anything beyond chance is in `heterogeneity`; what the class of an object explains
is in `classes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from landscape.probes.arrays import Floats
from landscape.probes.copies.copies import Copies
from landscape.similarity.bootstrap import Intervals, bootstrap

__all__ = ["VarianceComponents", "variance_components"]


@dataclass(frozen=True, eq=False)
class VarianceComponents:
    """Variance of a single answer (0 or 1), by source; each (T,), with intervals over the objects.

    Each is unbiased, and so can be negative where there is nothing. The copies are those that were
    measured: the intervals say what other objects would give.

    Attributes:
        object: of the probability to be right, between objects, whatever their views.
        view: of that probability between the views of one object; an effect that an augmentation
            has on all objects counts here.
        systematic: object + view: what all copies agree on. The only one of the three that one
            augmentation determines; the others are then NaN.
        object_share: of `systematic`, with negative components taken as 0; NaN where both are.
        view_share: the rest.
        copy: between copies, over all objects: some are better.
        copy_object: a copy's own preference for an object, on all of its views.
        residual: the rest: noise of a single answer.
    """

    object: Intervals
    view: Intervals
    systematic: Intervals
    object_share: Intervals
    view_share: Intervals
    copy: Intervals
    copy_object: Intervals
    residual: Intervals


def variance_components(
    copies: Copies, *, confidence: float = 0.95, seed: int
) -> VarianceComponents:
    """Random effects of copy x object x augmentation, by the method of moments.

    The three factors are crossed, all of them with their interactions; the views of an object are
    the augmentation's effect and its interaction with the object. That is unbiased for views that
    each object has of its own (nested) as well as for augmentations that all objects share.

    Noise of a share of N copies is p (1 - p) / N: the variance of raw shares holds it, and so
    overstates the views. All is NaN for one copy or one object.

    Args:
        confidence: of the percentile intervals, from objects drawn with all their answers.
        seed: of the draws, the same at all times.

    Raises:
        RequestError: a confidence that is not between 0 and 1.

    Source: Searle, Casella and McCulloch 1992, chapter 4 (balanced data).
    """
    shape = copies.num_copies, copies.num_objects, copies.num_augmentations

    def statistic(sums: Floats) -> Mapping[str, Floats]:
        return _components(sums, *shape)

    at_times = [
        bootstrap(_columns(correct), statistic, confidence=confidence, seed=seed)
        for correct in copies.correct
    ]
    return VarianceComponents(
        **{
            name: Intervals(
                np.array([one[name].value for one in at_times]),
                np.array([one[name].low for one in at_times]),
                np.array([one[name].high for one in at_times]),
            )
            for name in at_times[0]
        }
    )


def _columns(correct: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> torch.Tensor:
    """(K, N M + 3): each answer, and squares of the means over views, copies and both."""
    answers = correct.transpose(1, 0, 2).astype(np.float64)  # (K, N, M)
    squares = [
        np.square(answers.mean(2)).sum(1),
        np.square(answers.mean(1)).sum(1),
        np.square(answers.mean((1, 2))),
    ]
    flat = answers.reshape(len(answers), -1)
    return torch.from_numpy(np.column_stack([flat, *squares]))


def _components(sums: Floats, N: int, K: int, M: int) -> dict[str, Floats]:
    """Components from sums over K objects, (..., N M + 3)."""
    cells = sums[..., :-3].reshape(*sums.shape[:-1], N, M) / K
    by_copy, by_view, by_object = sums[..., -3], sums[..., -2], sums[..., -1]
    copy, view = cells.mean(-1), cells.mean(-2)
    mean = copy.mean(-1)
    squared = np.square(mean)
    copy_squares, view_squares = np.square(copy).sum(-1), np.square(view).sum(-1)
    # Sums of squares of the effects; answers are 0 or 1, so their squares are themselves.
    of_object = N * M * (by_object - K * squared)
    of_copy = K * M * (copy_squares - N * squared)
    of_view = K * N * (view_squares - M * squared)
    of_copy_object = M * (by_copy - N * by_object - K * copy_squares + N * K * squared)
    of_view_object = N * (by_view - M * by_object - K * view_squares + M * K * squared)
    of_copy_view = K * (
        np.square(cells).sum((-1, -2)) - M * copy_squares - N * view_squares + N * M * squared
    )
    residual = (
        N * M * K * (mean - squared)
        - (of_object + of_copy + of_view)
        - (of_copy_object + of_view_object + of_copy_view)
    )
    o, c, v = K - 1, N - 1, M - 1
    square_object, square_copy = _mean_square(of_object, o), _mean_square(of_copy, c)
    square_copy_object = _mean_square(of_copy_object, c * o)
    if M == 1:  # views and copies' answers to them are one with the objects
        unknown = np.full_like(mean, np.nan)
        return {
            "object": unknown,
            "view": unknown,
            "systematic": (square_object - square_copy_object) / N,
            "object_share": unknown,
            "view_share": unknown,
            "copy": (square_copy - square_copy_object) / K,
            "copy_object": unknown,
            "residual": square_copy_object,
        }
    noise = _mean_square(residual, c * o * v)
    square_view = _mean_square(of_view, v)
    square_view_object = _mean_square(of_view_object, v * o)
    square_copy_view = _mean_square(of_copy_view, c * v)
    between = (square_object - square_copy_object - square_view_object + noise) / (N * M)
    shared = (square_view - square_copy_view - square_view_object + noise) / (N * K)
    within = shared + (square_view_object - noise) / N
    share = _share(between, within)
    return {
        "object": between,
        "view": within,
        "systematic": between + within,
        "object_share": share,
        "view_share": 1 - share,
        "copy": (square_copy - square_copy_object - square_copy_view + noise) / (M * K),
        "copy_object": (square_copy_object - noise) / M,
        "residual": noise,
    }


def _mean_square(summed: Floats, degrees_of_freedom: int) -> Floats:
    if degrees_of_freedom == 0:
        return np.full_like(summed, np.nan)
    return np.asarray(summed / degrees_of_freedom)


def _share(part: Floats, rest: Floats) -> Floats:
    positive, other = np.maximum(part, 0), np.maximum(rest, 0)
    # Rounding leaves something where all answers are equal.
    whole = np.where(positive + other > 1e-12, positive + other, np.nan)
    return np.asarray(positive / whole)
