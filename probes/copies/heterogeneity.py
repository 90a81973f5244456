"""Heterogeneity: are all objects equally hard? Sorted r_t against what chance alone would give.

What tells objects from their views is in `variance`; one augmentation's counts against the
binomial distribution are in `goodness_of_fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import Floats, Ints
from landscape.probes.copies.copies import Copies

__all__ = ["Heterogeneity", "Null", "debiased_variance", "heterogeneity"]

Null = Literal["copies", "views", "answers", "binomial"]

NUM_DRAWS = 200
_BAND = (0.025, 0.975)
_ENTRIES = 2**24  # of permuted columns that are held at a time, 128 MiB


@dataclass(frozen=True, eq=False)
class Heterogeneity:
    """How unequal r_t is over the objects, and how unequal it would be by chance.

    NaN at times at which all answers are right, or all are wrong: nothing tells objects apart then.

    Attributes:
        null: which chance, see `heterogeneity`.
        num_draws: B, so no p value is below 1 / (B + 1).
        mae: (T,) mean over the draws of the mean absolute difference between the sorted r_t and a
            sorted draw from the null.
        mae_spread: (T,) its standard deviation over the draws.
        mae_null: (T,) the same of one draw against the others: what homogeneous objects give.
        mae_null_spread: (T,) its standard deviation over the draws.
        mae_p: (T,) p value of `mae`; small for curves that are flatter than chance, too.
        over_dispersion: (T,) variance of the objects' counts divided by the binomial one:
            chi^2 / (K - 1), chi^2 = sum_k (c_k - n p)^2 / (n p (1 - p)), c_k being the right ones
            among the n answers on object k and p their share over all objects.
        over_dispersion_null: (T,) its mean over the draws: 1 for independent answers only.
        over_dispersion_null_spread: (T,) its standard deviation over the draws.
        over_dispersion_p: (T,) p value of `over_dispersion`, one-sided: greater than chance.
        variance: (T,) of the objects' difficulty, without sampling noise: `debiased_variance`.
        null_curve: (T, K) mean of the sorted draws, increasing.
        null_low, null_high: (T, K) band that holds 95 % of the sorted draws at each rank.
    """

    null: Null
    num_draws: int
    mae: Floats
    mae_spread: Floats
    mae_null: Floats
    mae_null_spread: Floats
    mae_p: Floats
    over_dispersion: Floats
    over_dispersion_null: Floats
    over_dispersion_null_spread: Floats
    over_dispersion_p: Floats
    variance: Floats
    null_curve: Floats
    null_low: Floats
    null_high: Floats


def heterogeneity(
    copies: Copies, *, null: Null | None = None, num_draws: int = NUM_DRAWS, seed: int
) -> Heterogeneity:
    """Compare the sorted r_t at each time with draws from a null hypothesis.

    The hypotheses differ in what they let stand:

    - "copies": copies are independent of each other, and to each copy all objects are alike.
      Objects are permuted within each copy, with all their views together. This keeps each copy's
      accuracy on each augmentation and whatever the views of an object have in common within a
      copy, positive or negative. Exact.
    - "views": views differ in hardness, and those of one object have no more in common than those
      of several. Objects are permuted within each augmentation, with the answers of all copies
      together. What is left over this null is the object's own, beyond its single views.
    - "answers": views are independent within a copy as well. Objects are permuted within each copy
      and augmentation. Calibrated only if the views of an object are independent for one copy.
    - "binomial": the paper's null. Counts Bin(N, p) over N equally accurate copies, given their
      total. Right for one augmentation; for averages over M of them it is wrong: too wide where
      views are independent, and it knows nothing of their dependence.

    Args:
        null: by default "binomial" for one augmentation and "copies" for several.
        num_draws: from the null, at each time.
        seed: of the draws.

    Raises:
        RequestError: an unknown null, less than 2 draws, or "views" for a single augmentation.

    Source: mean absolute difference: Sadrtdinov et al. 2021, arXiv:2107.10143, with 10 draws;
    over-dispersion: Cochran 1954; p values: Phipson and Smyth 2010, arXiv:1603.05766.
    """
    if null is None:
        null = "binomial" if copies.num_augmentations == 1 else "copies"
    if null not in get_args(Null):
        raise unknown_choice("null", null, get_args(Null))
    if null == "views" and copies.num_augmentations == 1:
        raise RequestError(
            'null="views" permutes objects within augmentations, and there is one: every draw '
            'would be the measurement. Give null="copies".'
        )
    if num_draws < 2:
        raise RequestError(f"num_draws={num_draws}, expected 2 or more, such as {NUM_DRAWS}.")
    seeds = np.random.SeedSequence(seed).spawn(copies.num_times)
    variance = debiased_variance(copies)
    rows = [
        _at_one_time(copies.correct[index], null, num_draws, np.random.default_rng(child))
        for index, child in enumerate(seeds)
    ]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    variance = np.where(np.isnan(found["mae"]), np.nan, variance)
    return Heterogeneity(null=null, num_draws=num_draws, variance=variance, **found)


def debiased_variance(copies: Copies) -> Floats:
    """(T,) variance over the objects of their difficulty, free of the noise of N copies.

    Var(r) - mean over objects of the squared standard error of r, from the spread of the copies;
    for one augmentation that is Var(r) - mean(r (1 - r)) / (N - 1). Unbiased for objects drawn
    from many and copies of equal accuracy; where accuracies differ it is too small by their
    variance / N, which `variance_components` takes apart. It can be negative. With several
    augmentations the difficulty is the mean over those M views. NaN for one copy or one object.

    Source: expectation of a sum of binomial counts, for example Kleinman 1973.
    """
    if copies.num_copies == 1 or copies.num_objects == 1:
        return np.full(copies.num_times, np.nan)
    noise = copies.copy_learnability.var(1, ddof=1).mean(1) / copies.num_copies
    return np.asarray(copies.learnability.var(1, ddof=1) - noise)


def _at_one_time(
    correct: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    null: Null,
    num_draws: int,
    generator: np.random.Generator,
) -> dict[str, Floats | float]:
    copies, objects, augmentations = correct.shape
    answers = copies * augmentations
    counts = correct.sum((0, 2), dtype=np.int64)  # (K,)
    # Counts are integers, so that ties between draws and measurement are exact.
    drawn = _draws(correct, null, num_draws, generator)  # (B, K)
    curves = np.sort(np.concatenate([counts[None], drawn]), axis=1)  # (B + 1, K)
    share = counts.sum() / (answers * objects)
    if share in (0, 1) or objects == 1:
        return _undefined(objects)
    unit = objects * answers
    total = _summed_distances(curves) / unit  # (B + 1,) to all others
    from_measured = np.abs(curves[1:] - curves[0]).sum(1) / unit  # (B,)
    within = (total[1:] - from_measured) / (num_draws - 1)
    spread = objects * np.square(curves).sum(1) - np.square(curves.sum(1))  # K^2 variance, exact
    dispersion = spread / (objects * (objects - 1) * answers * share * (1 - share))
    low, high = np.quantile(curves[1:], _BAND, axis=0) / answers
    return {
        "mae": float(from_measured.mean()),
        "mae_spread": float(from_measured.std(ddof=1)),
        "mae_null": float(within.mean()),
        "mae_null_spread": float(within.std(ddof=1)),
        "mae_p": _p_value(total),
        "over_dispersion": float(dispersion[0]),
        "over_dispersion_null": float(dispersion[1:].mean()),
        "over_dispersion_null_spread": float(dispersion[1:].std(ddof=1)),
        "over_dispersion_p": _p_value(spread),
        "null_curve": curves[1:].mean(0) / answers,
        "null_low": low,
        "null_high": high,
    }


def _undefined(objects: int) -> dict[str, Floats | float]:
    curves = ("null_curve", "null_low", "null_high")
    numbers = [
        name
        for name in Heterogeneity.__dataclass_fields__
        if name not in ("null", "num_draws", "variance", *curves)
    ]
    return {
        **dict.fromkeys(numbers, np.nan),
        **{name: np.full(objects, np.nan) for name in curves},
    }


def _p_value(statistics: Floats | Ints) -> float:
    """Rank of the first among all, from above: exact where all are exchangeable."""
    return float((statistics >= statistics[0]).mean())


def _draws(
    correct: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    null: Null,
    num_draws: int,
    generator: np.random.Generator,
) -> Ints:
    """(B, K) counts among the N M answers on each object."""
    copies, objects, augmentations = correct.shape
    if null == "binomial":
        # In units of the N copies, as published, whatever M is. Binomial counts given their total
        # are hypergeometric, and free of the unknown p.
        total = round(int(correct.sum()) / augmentations)
        drawn = generator.multivariate_hypergeometric(
            np.full(objects, copies), total, size=num_draws, method="marginals"
        )
        return np.asarray(drawn * augmentations, dtype=np.int64)
    columns = {
        "copies": correct.sum(2, dtype=np.int64),  # (N, K)
        "views": correct.sum(0, dtype=np.int64).T,  # (M, K)
        "answers": correct.transpose(0, 2, 1).reshape(-1, objects).astype(np.int64),  # (N M, K)
    }[null]
    size = max(1, _ENTRIES // columns.size)
    parts = []
    for start in range(0, num_draws, size):
        shape = (min(size, num_draws - start), *columns.shape)
        parts.append(generator.permuted(np.broadcast_to(columns, shape), axis=2).sum(1))
    return np.concatenate(parts)


def _summed_distances(curves: Ints) -> Ints:
    """(B + 1,) sum over all curves of the absolute differences to each one, rank by rank."""
    count = len(curves)
    order = np.argsort(curves, axis=0, kind="stable")
    values = np.take_along_axis(curves, order, 0)
    below = np.cumsum(values, axis=0) - values  # sum of those before
    above = values.sum(0) - below - values
    before = np.arange(count)[:, None]
    summed = before * values - below + above - (count - 1 - before) * values
    distances = np.empty_like(summed)
    np.put_along_axis(distances, order, summed, 0)
    return np.asarray(distances.sum(1))
