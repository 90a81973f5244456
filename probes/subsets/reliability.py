"""Reliability: how far values of memorization can be trusted, without knowing the true ones.

Halves of the models against each other, permuted outcomes, and fewer models against all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from landscape.errors import RequestError
from landscape.probes.arrays import Bools, Floats, Ints
from landscape.probes.subsets.newcombe import newcombe
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.similarity.bootstrap import Intervals

__all__ = ["ChanceValues", "Convergence", "chance_values", "convergence", "split_half"]

_BLOCK = 2**22  # entries that are held as float64 at a time, 32 MiB
Seed = int | np.random.SeedSequence


@dataclass(frozen=True, eq=False)
class ChanceValues:
    """What values look like where being trained on an example changes nothing.

    Attributes:
        high: 97.5 % quantile of the largest value of all examples; NaN where none has a value.
        num_above: values of the threshold or more, the mean over the draws.
    """

    high: float
    num_above: float


@dataclass(frozen=True, eq=False)
class Convergence:
    """How the values settle as models are added.

    Attributes:
        sizes: (S,) numbers of models.
        distance: (S,) root mean square distance over the examples to the value from all models.
        error: (S,) root mean square distance to the value of infinitely many models: all models
            include the few, so `distance` is too small by the factor sqrt(1 - size / T). NaN at T.
        interval_width: (S,) mean width of the intervals at these numbers.
        num_undefined: (S,) examples without a value, the mean over the draws.
    """

    sizes: Ints
    distance: Floats
    error: Floats
    interval_width: Floats
    num_undefined: Floats


def split_half(
    masks: Bools, outcomes: npt.NDArray[np.generic], *, num_draws: int = 100, seed: Seed
) -> float:
    """Correlation over examples between values from T models and from T others.

    It is estimated from random halves of the models: r of halves becomes 2 r / (1 + r) of wholes
    (Spearman-Brown), r being the mean over the draws.

    Args:
        masks: (T, n).
        outcomes: (T, n) being right, or soft values.

    Returns:
        NaN where T < 4, or where the values of a half are all the same.
    """
    models = len(masks)
    if models < 4:
        return float("nan")
    generator = np.random.default_rng(seed)
    chosen = np.zeros((num_draws, models))
    for row in chosen:
        row[generator.permutation(models)[: models // 2]] = 1
    pairs = [
        (
            _values(chosen, masks[:, part], outcomes[:, part]),
            _values(1 - chosen, masks[:, part], outcomes[:, part]),
        )
        for part in _blocks(masks)
    ]
    first, second = (np.concatenate(half, axis=1) for half in zip(*pairs, strict=True))  # (D, n)
    known = ~np.isnan(first + second)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = [
            _correlation(a[both], b[both]) for a, b, both in zip(first, second, known, strict=True)
        ]
        mean = np.mean(correlations)
        return float(2 * mean / (1 + mean))


def chance_values(
    runs: SubsetRuns, *, num_draws: int = 100, seed: Seed, threshold: float = 0.25
) -> ChanceValues:
    """Values after the outcomes on each example are permuted over the models.

    The number of right answers among the models that saw an example is then hypergeometric, and is
    drawn as such.
    """
    generator = np.random.default_rng(seed)
    defined = (runs.num_in > 0) & (runs.num_out > 0)
    if not defined.any():
        return ChanceValues(float("nan"), 0.0)
    num_in, num_out = runs.num_in[defined], runs.num_out[defined]
    right = runs.correct[:, defined].sum(0)
    largest, above = np.empty(num_draws), np.empty(num_draws)
    for draw in range(num_draws):
        right_in = generator.hypergeometric(right, runs.num_models - right, num_in)
        values = right_in / num_in - (right - right_in) / num_out
        largest[draw], above[draw] = values.max(), (values >= threshold).sum()
    return ChanceValues(float(np.quantile(largest, 0.975)), float(above.mean()))


def convergence(
    runs: SubsetRuns,
    sizes: Sequence[int] | None = None,
    *,
    num_draws: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
) -> Convergence:
    """Values from fewer models, drawn at random, against those from all.

    Args:
        sizes: numbers of models; by default halves of T, down to 4.
        num_draws: of the models, for each size.

    Raises:
        RequestError: a size that is not in 2 ... T.
    """
    total = runs.num_models
    if sizes is None:
        halves = [total // 2**power for power in range(total.bit_length())]
        sizes = [size for size in reversed(halves) if size >= min(4, total)]
    if not len(sizes) or min(sizes) < 2 or max(sizes) > total:
        raise RequestError(
            f"sizes={list(sizes)}, expected numbers of models from 2 to {total}, which there are."
        )
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    whole = _intervals(runs.masks, runs.correct, confidence).value
    found = np.empty((3, len(sizes)))
    for index, size in enumerate(sizes):
        draws = [
            _against(runs, generator.permutation(total)[:size], whole, confidence)
            for _ in range(1 if size == total else num_draws)
        ]
        square, width, undefined = np.asarray(draws).T
        found[:, index] = np.sqrt(square.mean()), width.mean(), undefined.mean()
    taken = np.asarray(sizes, dtype=np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = found[0] / np.sqrt(1 - taken / total)
    return Convergence(taken, found[0], error, found[1], found[2])


def _against(
    runs: SubsetRuns, models: Ints, whole: Floats, confidence: float
) -> tuple[float, float, float]:
    """Mean square distance, mean interval width and undefined examples of some models."""
    held = _intervals(runs.masks[models], runs.correct[models], confidence)
    known = ~np.isnan(held.value)
    if not known.any():
        return float("nan"), float("nan"), float(len(known))
    distance = np.square(held.value - whole)[known].mean()
    return float(distance), float((held.high - held.low)[known].mean()), float((~known).sum())


def _intervals(masks: Bools, correct: Bools, confidence: float) -> Intervals:
    num_in, right_in = masks.sum(0), (masks & correct).sum(0)
    right_out, num_out = correct.sum(0) - right_in, len(masks) - num_in
    return newcombe(right_in, num_in, right_out, num_out, confidence)


def _correlation(first: Floats, second: Floats) -> float:
    """NaN where one of them is constant, or there is none."""
    if not len(first):
        return float("nan")
    a, b = first - first.mean(), second - second.mean()
    return float(np.float64(a @ b) / np.sqrt((a @ a) * (b @ b)))


def _values(weights: Floats, masks: Bools, outcomes: npt.NDArray[np.generic]) -> Floats:
    """(D, n) memorization from the models that each row of weights (D, T), 0 and 1, takes."""
    inside, found = masks.astype(np.float64), outcomes.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = (weights @ (inside * found)) / (weights @ inside)
        unseen = (weights @ ((1 - inside) * found)) / (weights @ (1 - inside))
    return np.asarray(seen - unseen)


def _blocks(masks: Bools) -> Iterator[slice]:
    models, examples = masks.shape
    step = max(1, _BLOCK // models)
    for start in range(0, examples, step):
        yield slice(start, start + step)
