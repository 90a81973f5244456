"""Pairs of a memorized example and a test that it decides; all pairs are in `influence`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints
from landscape.probes.subsets.influence import outcomes_on_tests, success_counts
from landscape.probes.subsets.memorization import MEMORIZED, Memorization
from landscape.probes.subsets.newcombe import newcombe
from landscape.probes.subsets.subset_runs import SubsetRuns

__all__ = ["InfluentialPairs", "influential_pairs"]


@dataclass(frozen=True, eq=False)
class InfluentialPairs:
    """Pairs above two thresholds, the most influential first.

    Attributes:
        test: (P,) index of the test.
        example: (P,) index of the training example.
        influence: (P,) of the example on the test, with Newcombe's interval `lower`, `upper`.
        memorization: (P,) of the example.
        num_memorized: examples that were looked at.
        expected_by_chance: pairs to expect if the tests depended on no example: the mean over
            permutations of the models' answers to the tests, all tests by one permutation, so that
            what tests have in common stays common.
        chance_high: their 97.5 % quantile.
    """

    test: Ints = field(repr=False)
    example: Ints = field(repr=False)
    influence: Floats = field(repr=False)
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    memorization: Floats = field(repr=False)
    num_memorized: int
    expected_by_chance: float
    chance_high: float

    def __len__(self) -> int:
        return len(self.test)


def influential_pairs(
    runs: SubsetRuns,
    memorized: Memorization,
    correct_test: ArrayLike | None = None,
    *,
    min_memorization: float = MEMORIZED,
    min_influence: float = 0.15,
    num_permutations: int = 100,
    seed: int = 0,
) -> InfluentialPairs:
    """Pairs whose example is memorized and changes the answer to the test.

    Only the memorized examples are compared with the tests, so that no (m, n) table is made.

    Args:
        memorized: of the same runs.
        correct_test: (T, m); that of the runs if not given.
        min_memorization: of the example, at least.
        min_influence: of the pair, at least.
        num_permutations: of the models, for what chance would give.
        seed: of these.

    Raises:
        RequestError: memorization of other runs, no tests, or no permutation.

    Source: Feldman and Zhang 2020, arXiv:2008.03703, section 3 (thresholds .25 and .15).
    """
    if len(memorized.value) != runs.num_examples:
        raise RequestError(
            f"memorized has {len(memorized.value)} examples and the runs {runs.num_examples}. Give "
            "memorization(runs)."
        )
    if num_permutations < 1:
        raise RequestError(f"num_permutations={num_permutations}, expected 1 or more.")
    correct = outcomes_on_tests(runs, correct_test)
    chosen = np.flatnonzero(memorized.value >= min_memorization)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    if not len(chosen):
        nothing, none = np.zeros(0), np.zeros(0, dtype=np.int64)
        return InfluentialPairs(none, none, nothing, nothing, nothing, nothing, 0, 0.0, 0.0)
    few = runs.select(examples=chosen)
    held = newcombe(*success_counts(few, correct), memorized.confidence)
    test, place = np.nonzero(held.value >= min_influence)
    order = np.argsort(-held.value[test, place], kind="stable")
    test, place = test[order], place[order]
    counts = [
        _num_above(few, correct[generator.permutation(runs.num_models)], min_influence)
        for _ in range(num_permutations)
    ]
    return InfluentialPairs(
        test=test,
        example=chosen[place],
        influence=held.value[test, place],
        lower=held.low[test, place],
        upper=held.high[test, place],
        memorization=memorized.value[chosen[place]],
        num_memorized=len(chosen),
        expected_by_chance=float(np.mean(counts)),
        chance_high=float(np.quantile(counts, 0.975)),
    )


def _num_above(runs: SubsetRuns, correct: Bools, threshold: float) -> int:
    right_in, num_in, right_out, num_out = success_counts(runs, correct)
    return int((right_in / num_in - right_out / num_out >= threshold).sum())
