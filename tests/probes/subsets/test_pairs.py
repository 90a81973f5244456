import numpy as np
import pytest
from oracles_nearest_neighbour import correct_of, ranking, uniform_masks

from landscape.errors import RequestError
from landscape.probes.subsets.influence import influence
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.pairs import influential_pairs
from landscape.probes.subsets.subset_runs import SubsetRuns


@pytest.fixture(scope="module")
def runs():
    """Random labels in the plane; the first ten examples have near copies among the tests."""
    generator = np.random.default_rng(0)
    points, labels = generator.normal(size=(60, 2)), generator.integers(0, 4, 60)
    tests = np.concatenate([points[:10] + 1e-6, generator.normal(size=(20, 2))])
    wanted = np.concatenate([labels[:10], generator.integers(0, 4, 20)])
    masks = uniform_masks(generator, 200, 60, 30)
    return SubsetRuns(
        masks,
        correct_of(ranking(points), labels, labels, masks),
        correct_test=correct_of(ranking(points, tests), labels, wanted, masks),
    )


def test_pairs_are_those_above_both_thresholds_in_the_whole_table(runs):
    memory, whole = memorization(runs), influence(runs)
    found = influential_pairs(runs, memory, num_permutations=20)
    table = (whole.value >= 0.15) & (memory.value >= 0.25)
    assert set(zip(*np.nonzero(table), strict=True)) == set(
        zip(found.test, found.example, strict=True)
    )
    assert len(found) == table.sum() > 10
    np.testing.assert_array_equal(found.influence, whole.value[found.test, found.example])
    np.testing.assert_array_equal(found.upper, whole.upper[found.test, found.example])
    np.testing.assert_array_equal(found.lower, whole.lower[found.test, found.example])
    np.testing.assert_array_equal(found.memorization, memory.value[found.example])
    assert (np.diff(found.influence) <= 0).all()
    assert found.num_memorized == (memory.value >= 0.25).sum()


def test_planted_copies_are_among_the_pairs(runs):
    memory = memorization(runs)
    found = influential_pairs(runs, memory, num_permutations=1)
    pairs = set(zip(found.test, found.example, strict=True))
    copied = [example for example in range(10) if memory.value[example] >= 0.25]
    assert copied
    assert {(example, example) for example in copied} <= pairs


def test_chance_gives_as_many_pairs_as_permuted_models_do(runs):
    memory = memorization(runs)
    found = influential_pairs(runs, memory, num_permutations=100)
    assert found.expected_by_chance < found.chance_high < len(found)
    generator = np.random.default_rng(3)
    counts = []
    for _ in range(100):
        correct = runs.correct_test[generator.permutation(200)]
        counts.append(len(influential_pairs(runs, memory, correct, num_permutations=1)))
    error = 4 * np.std(counts) / np.sqrt(50)
    assert found.expected_by_chance == pytest.approx(np.mean(counts), abs=error)
    assert found.chance_high == pytest.approx(np.quantile(counts, 0.975), abs=12)


def test_thresholds_are_those_that_are_given(runs):
    memory = memorization(runs)
    many = influential_pairs(
        runs, memory, min_memorization=0.0, min_influence=-1.0, num_permutations=1
    )
    assert len(many) == (memory.value >= 0).sum() * 30
    none = influential_pairs(runs, memory, min_memorization=2.0)
    assert len(none) == none.num_memorized == none.expected_by_chance == 0


def test_wrong_requests_are_refused(runs):
    memory = memorization(runs)
    with pytest.raises(RequestError, match="memorized has 60 examples and the runs 5"):
        influential_pairs(runs.select(examples=range(5)), memory)
    with pytest.raises(RequestError, match="num_permutations=0"):
        influential_pairs(runs, memory, num_permutations=0)
    with pytest.raises(RequestError, match="there are no tests"):
        influential_pairs(SubsetRuns(runs.masks, runs.correct), memory)
