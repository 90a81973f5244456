"""Gains: how good an ensemble is by its size, and the size of another that is as good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_floats, as_labels
from landscape.probes.ensembles.probabilities import Members
from landscape.probes.ensembles.proper_scores import brier_scores, fitting_labels, nll_scores
from landscape.probes.ensembles.temperature import calibrated_nll

__all__ = ["Equivalent", "GainCurve", "deep_ensemble_equivalent", "gain_curve"]

_NUM_SUBSETS = 10
_EVERY_SIZE = 10  # members up to which no size is left out
_EXHAUSTIVE = 10_000  # subsets up to which they are listed, and some of them drawn


@dataclass(frozen=True, eq=False)
class GainCurve:
    """Means over subsets of members, by the size of the subset.

    Attributes:
        sizes: (S,) rising; with many members about three in each doubling.
        num_subsets: (S,) how many of a size were taken.
        exact: (S,) whether these are all there are.
        accuracy: (S,) mean share of examples that are right.
        nll: (S,) mean loss in nats.
        brier: (S,) mean Brier score, a sum over classes.
        calibrated_nll: (S,) mean loss at a temperature from other examples.
        spreads: (4, S) standard deviations over the subsets of these four, in their order; NaN
            where there is one subset, or an infinite loss.
    """

    sizes: Ints
    num_subsets: Ints
    exact: Bools
    accuracy: Floats
    nll: Floats
    brier: Floats
    calibrated_nll: Floats
    spreads: Floats


@dataclass(frozen=True)
class Equivalent:
    """How many members of a reference ensemble are as good.

    Attributes:
        size: of the reference, interpolated between its sizes.
        relation: "equal"; "more": better than the largest reference, whose size is given; "less":
            worse than the smallest, whose size is given.
    """

    size: float
    relation: Literal["equal", "more", "less"]


def gain_curve(
    logits: ArrayLike | Members,
    labels: ArrayLike,
    *,
    num_subsets: int = _NUM_SUBSETS,
    seed: int = 0,
) -> GainCurve:
    """How good subsets of the members are together.

    Args:
        logits: (K, N, C), or as `Members.of` takes them.
        labels: (N,) classes, of 2 or more examples.
        num_subsets: of each size; all where there are no more, else that many different ones.
        seed: of the subsets, and of the folds of the calibrated loss, which are those of
            `calibrated_nll` with this seed.

    Raises:
        RequestError: logits or labels that do not fit, or no subsets.
    """
    if num_subsets < 1:
        raise RequestError(f"num_subsets={num_subsets}, expected 1 or more.")
    classes = as_labels(labels, "labels")
    members = Members.of(logits, len(classes))
    fitting_labels(classes, members.num_examples, members.num_classes)
    generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    sizes = _sizes(len(members))
    means, spreads, taken = [], [], []
    for size in sizes:
        subsets = _subsets(len(members), size, num_subsets, generator)
        scores = np.asarray(
            [
                _scores(log_probability.numpy(), classes, seed)
                for log_probability in members.ensembles(subsets)
            ]
        )
        means.append(scores.mean(0))
        with np.errstate(invalid="ignore"):  # among infinite losses there is no deviation
            several = len(scores) > 1
            spreads.append(scores.std(0, ddof=1) if several else np.full(4, np.nan))
        taken.append(len(subsets))
    every = [math.comb(len(members), size) for size in sizes]
    accuracy, nll, brier, calibrated = np.asarray(means).T
    return GainCurve(
        sizes=np.asarray(sizes),
        num_subsets=np.asarray(taken),
        exact=np.asarray(taken) == np.asarray(every),
        accuracy=accuracy,
        nll=nll,
        brier=brier,
        calibrated_nll=calibrated,
        spreads=np.asarray(spreads).T,
    )


def deep_ensemble_equivalent(value: float, sizes: ArrayLike, values: ArrayLike) -> Equivalent:
    """Smallest size of a deep ensemble that is as good, on the broken line through its sizes.

    Args:
        value: calibrated loss of the ensemble in question; the lower the better.
        sizes: (S,) numbers of members of the reference, in any order, with or without gaps.
        values: (S,) its mean calibrated losses.

    Raises:
        RequestError: unlike lengths, no sizes, equal sizes, or numbers that are not finite.

    Source: Ashukha et al. 2020, arXiv:2002.06470, section 5.
    """
    places = as_floats(sizes, "sizes", "(S,)")
    heights = as_floats(values, "values", "(S,)")
    if len(places) != len(heights) or not len(places) or len(set(places)) < len(places):
        raise RequestError(
            f"sizes is {places.tolist()} for {len(heights)} values. Give one loss for each size, "
            "and each size once."
        )
    if not (np.isfinite(places).all() and np.isfinite(heights).all() and np.isfinite(value)):
        raise RequestError(
            f"value={value} and values={heights.tolist()}: expected finite losses. Leave out the "
            "sizes that have none."
        )
    order = np.argsort(places)
    places, heights = places[order], heights[order]
    reached = np.flatnonzero(heights <= value)
    if not len(reached):
        return Equivalent(float(places[-1]), "more")
    first = int(reached[0])
    if first == 0:
        return Equivalent(float(places[0]), "equal" if heights[0] == value else "less")
    share = (heights[first - 1] - value) / (heights[first - 1] - heights[first])
    size = places[first - 1] + share * (places[first] - places[first - 1])
    return Equivalent(float(size), "equal")


def _scores(log_probability: Floats, labels: Ints, seed: int) -> tuple[float, float, float, float]:
    return (
        float((log_probability.argmax(1) == labels).mean()),
        float(nll_scores(log_probability, labels).mean()),
        float(brier_scores(log_probability, labels).mean()),
        calibrated_nll(log_probability, labels, seed=seed).value,
    )


def _sizes(count: int) -> list[int]:
    kept = {1, count, *(2**power for power in range(20)), *(3 * 2**power for power in range(20))}
    return [size for size in range(1, count + 1) if count <= _EVERY_SIZE or size in kept]


def _subsets(
    count: int, size: int, num_subsets: int, generator: np.random.Generator
) -> Sequence[tuple[int, ...]]:
    """Different subsets of `size` members out of `count`."""
    every = math.comb(count, size)
    if every <= max(_EXHAUSTIVE, num_subsets):
        listed = list(combinations(range(count), size))
        if every <= num_subsets:
            return listed
        chosen = generator.choice(every, num_subsets, replace=False)
        return [listed[index] for index in np.sort(chosen)]
    found: dict[tuple[int, ...], None] = {}
    while len(found) < num_subsets:  # so few of so many that a second draw is seldom in vain
        drawn = np.sort(generator.choice(count, size, replace=False))
        found[tuple(int(member) for member in drawn)] = None
    return list(found)
