"""Classes: mean learnability of each class, and how much of what is hard is the class.

Objects against views are in `variance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.arrays import Floats, Ints
from landscape.probes.copies.copies import Copies
from landscape.similarity.bootstrap import Intervals

__all__ = ["ClassLearnability", "class_learnability"]

NUM_PERMUTATIONS = 1000


@dataclass(frozen=True, eq=False)
class ClassLearnability:
    """Mean r_t of each class.

    Attributes:
        classes: (C,) those that occur, increasing.
        num_objects: (C,) of each.
        learnability: (T, C) mean of r_t, with intervals by Student's t over the class's objects;
            no interval for a class of one.
        variance: (T,) between classes of the objects' difficulty, unbiased: the part of the
            systematic variance of `variance_components` that the class explains. NaN for one class
            or one copy, or where no class has two objects.
        share: (T,) of the systematic variance of a single view; negative `variance` counts as 0,
            NaN where nothing is systematic.
        p_value: (T,) that classes assigned to the objects at random differ as much: permutation.
    """

    classes: Ints
    num_objects: Ints
    learnability: Intervals
    variance: Floats
    share: Floats
    p_value: Floats


def class_learnability(
    copies: Copies, systematic: Floats, *, confidence: float = 0.95, seed: int
) -> ClassLearnability:
    """Mean r_t by class, and the class-level share of the variance.

    Args:
        systematic: (T,) `variance_components(copies).systematic.value`, of which the share is.
        confidence: of the intervals.
        seed: of the permutations.

    Raises:
        RequestError: copies without labels, or a confidence that is not between 0 and 1.
    """
    if copies.labels is None:
        raise RequestError("these copies have no labels. Give Copies(..., labels=...), (K,).")
    if not 0 < confidence < 1:
        raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
    classes, index, sizes = np.unique(copies.labels, return_inverse=True, return_counts=True)
    membership = np.eye(len(classes))[index]  # (K, C)
    means = copies.learnability @ membership / sizes  # (T, C)
    variance = _between_classes(copies, membership, sizes)
    whole = np.where(systematic > 1e-12, systematic, np.nan)
    return ClassLearnability(
        classes=classes,
        num_objects=sizes,
        learnability=_intervals(copies, membership, sizes, means, confidence),
        variance=variance,
        share=np.minimum(np.maximum(variance, 0) / whole, 1.0),
        p_value=_permuted(copies, membership, sizes, means, np.random.default_rng(seed)),
    )


def _intervals(
    copies: Copies, membership: Floats, sizes: Ints, means: Floats, confidence: float
) -> Intervals:
    deviations = np.square(copies.learnability - means @ membership.T) @ membership  # (T, C)
    several = sizes > 1
    freedom = np.where(several, sizes - 1, 1)
    factor = stats.t.ppf((1 + confidence) / 2, freedom)
    half = np.where(several, factor * np.sqrt(deviations / freedom / sizes), np.nan)
    return Intervals(means, np.maximum(means - half, 0.0), np.minimum(means + half, 1.0))


def _between_classes(copies: Copies, membership: Floats, sizes: Ints) -> Floats:
    """Copies crossed with classes, and objects nested in these."""
    N, K, C = copies.num_copies, copies.num_objects, len(sizes)
    if N == 1 or C == 1 or K == C:
        return np.full(copies.num_times, np.nan)
    answers = copies.copy_learnability  # (T, N, K)
    of_class = answers @ membership / sizes  # (T, N, C)
    own = answers - of_class @ membership.T  # of objects in their class, for each copy
    of_object = N * np.square(own.mean(1)).sum(1) / (K - C)
    of_noise = np.square(own - own.mean(1, keepdims=True)).sum((1, 2)) / ((N - 1) * (K - C))
    centered = of_class - (answers.mean(2))[..., None]
    mean = centered.mean(1)
    summed = N * (np.square(mean) * sizes).sum(1)
    preferred = (np.square(centered - mean[:, None]) * sizes).sum((1, 2)) / ((N - 1) * (C - 1))
    expected = (C - 1) * (of_object + preferred - of_noise)  # if classes were alike
    return np.asarray((summed - expected) / (N * (K - 1)))


def _permuted(
    copies: Copies, membership: Floats, sizes: Ints, means: Floats, generator: np.random.Generator
) -> Floats:
    if len(sizes) == 1:
        return np.full(copies.num_times, np.nan)
    measured = (np.square(means) * sizes).sum(1)
    at_least = np.ones(copies.num_times)
    for _ in range(NUM_PERMUTATIONS):
        shuffled = copies.learnability @ generator.permutation(membership) / sizes
        found = (np.square(shuffled) * sizes).sum(1)
        at_least += found >= measured * (1 - 1e-12)  # ties up to rounding
    constant = np.ptp(copies.learnability, axis=1) == 0
    return np.where(constant, math.nan, at_least / (NUM_PERMUTATIONS + 1))
