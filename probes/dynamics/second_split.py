"""Second-split forgetting: what is lost of one half of the data while the other is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import SeedSequence

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, Ints
from landscape.probes.dynamics.histories import as_outcomes
from landscape.probes.dynamics.learning_events import iteration_learned

__all__ = ["SecondSplitScores", "second_split_forgetting", "second_split_protocol"]

# (first half, second half, seed) -> correct (T, first half) at each epoch of the second stage
Run = Callable[[Ints, Ints, int], ArrayLike]


def second_split_forgetting(correct: ArrayLike, *, never: float = np.nan) -> Floats:
    """First time of the second stage from which on an example of the first stays wrong.

    It is the iteration learned of the complement, and counts times from 0; published code counts
    from 1. Small where an example was mislabeled.

    Args:
        correct: (T, n) of the first stage's examples at each epoch of the second, in evaluation
            mode: in training mode the answers would depend on the batch, and change the network.
        never: of an example that is right at the end. T + 1 in the source, which counts from 1.

    Raises:
        RequestError: other values than right, wrong and not presented.

    Source: Maini et al. 2022, arXiv:2210.15031.
    """
    outcomes = as_outcomes(correct)
    return iteration_learned(np.where(outcomes >= 0, 1 - outcomes, outcomes), never=never)


@dataclass(frozen=True, eq=False)
class SecondSplitScores:
    """Second-split forgetting of every example, from both halves of several runs.

    Attributes:
        value: (n,) mean over the runs.
        standard_error: (n,) of the mean, from the spread of the runs; NaN of one run.
        num_never: (n,) runs that did not forget it, in which it counts as T.
        num_unlearned: (n,) runs whose second stage began with it wrong: it was forgotten at
            time 0, or not learned at all.
        num_runs: number of runs; each has every example in the first half once.
    """

    value: Floats
    standard_error: Floats
    num_never: Ints
    num_unlearned: Ints
    num_runs: int


def second_split_protocol(
    run: Run, num_examples: int, *, seeds: Sequence[int]
) -> SecondSplitScores:
    """The two-way protocol: random halves A and B, trained A then B and B then A, for each seed.

    Args:
        run: trains on the examples of its first argument, goes on with those of the second alone,
            and gives `correct` (T, k) of the k first ones at each epoch of the second stage; the
            third argument is a seed of its own.
        seeds: one for each run of both ways.

    Raises:
        RequestError: fewer than two examples, no seed, or outcomes that do not fit.
    """
    if num_examples < 2 or not seeds:
        raise RequestError(
            f"num_examples={num_examples}, seeds={list(seeds)}: expected two examples to split, "
            "and one seed at the least."
        )
    values = np.full((len(seeds), num_examples), np.nan)
    never = np.zeros((len(seeds), num_examples), dtype=bool)
    unlearned = np.zeros_like(never)
    for index, seed in enumerate(seeds):
        split, *own = SeedSequence(seed).spawn(3)
        shuffled = np.random.default_rng(split).permutation(num_examples).astype(np.int64)
        halves = np.sort(shuffled[: num_examples // 2]), np.sort(shuffled[num_examples // 2 :])
        for ways, child in zip((halves, halves[::-1]), own, strict=True):
            outcomes = as_outcomes(run(*ways, int(child.generate_state(1)[0])))
            if outcomes.shape[1:] != ways[0].shape:
                raise RequestError(
                    f"the run gave outcomes {outcomes.shape}, expected (T, {len(ways[0])}): the "
                    "examples of its first argument, in their order."
                )
            found = second_split_forgetting(outcomes)
            never[index, ways[0]] = np.isnan(found)
            values[index, ways[0]] = np.where(np.isnan(found), len(outcomes), found)
            unlearned[index, ways[0]] = outcomes[0] == 0
    count = len(seeds)
    spread = values.std(0, ddof=1) if count > 1 else np.full(num_examples, np.nan)
    return SecondSplitScores(
        values.mean(0), spread / np.sqrt(count), never.sum(0), unlearned.sum(0), count
    )
