"""Agreement: SciPy's rank correlation, on what two scores share; and of runs, on an example."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.dynamics.agreement import disagreement, score_agreement


def test_it_is_spearmans_with_ties_and_without():
    generator = np.random.default_rng(0)
    scores = {
        "smooth": generator.normal(size=40),
        "tied": generator.integers(4, size=40),
        "moved": np.exp(generator.normal(size=40)),
    }
    found = score_agreement(scores)
    for (i, a), (j, b) in itertools.product(enumerate(scores), repeat=2):
        expected = stats.spearmanr(scores[a], scores[b]).statistic
        assert found.correlation.value[i, j] == pytest.approx(expected, abs=1e-12)
    assert found.names == ("smooth", "tied", "moved")


def test_each_pair_has_the_examples_that_both_have():
    generator = np.random.default_rng(1)
    first, second, third = generator.normal(size=(3, 30))
    first[:5] = second[3:9] = np.nan
    found = score_agreement({"a": first, "b": second, "c": third})
    expected = stats.spearmanr(first, second, nan_policy="omit").statistic
    assert found.correlation.value[0, 1] == pytest.approx(expected, abs=1e-12)
    assert found.num_examples.tolist() == [[25, 21, 25], [21, 24, 24], [25, 24, 30]]


def test_the_intervals_are_those_of_drawing_and_ranking_anew():
    generator = np.random.default_rng(2)
    first = generator.integers(6, size=25).astype(float)
    second = first + 2 * generator.normal(size=25)
    found = score_agreement({"a": first, "b": second}, seed=3).correlation
    draws = np.random.default_rng(np.random.SeedSequence(3)).integers(25, size=(1000, 25))
    ranked = [stats.spearmanr(first[rows], second[rows]).statistic for rows in draws[:200]]
    exact = np.quantile(ranked, (0.025, 0.975))
    assert found.low[0, 1] == pytest.approx(exact[0], abs=0.1)
    assert found.high[0, 1] == pytest.approx(exact[1], abs=0.1)
    assert found.low[0, 1] < found.value[0, 1] < found.high[0, 1]
    np.testing.assert_array_equal(found.low, found.low.T)
    again = score_agreement({"a": first, "b": second}, seed=3).correlation
    np.testing.assert_array_equal(again.low, found.low)


def test_a_draw_has_the_rank_correlation_of_its_examples():
    from landscape.probes.dynamics.agreement import _correlation, _Order

    generator = np.random.default_rng(4)
    first = generator.integers(5, size=20).astype(float)
    second = generator.integers(7, size=20).astype(float)
    rows = generator.integers(20, size=20)
    times = np.bincount(rows, minlength=20)[None].astype(float)
    found = _correlation([_Order(first), _Order(second)], times)
    expected = stats.spearmanr(first[rows], second[rows]).statistic
    assert found[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_the_interval_covers_no_correlation():
    generator, hits = np.random.default_rng(5), 0
    for seed in range(100):
        first, second = generator.normal(size=(2, 60))
        found = score_agreement({"a": first, "b": second}, seed=seed).correlation
        hits += found.low[0, 1] <= 0 <= found.high[0, 1]
    assert 87 <= hits <= 99  # 95 within 4 standard errors


def test_constant_scores_and_too_few_examples_have_none():
    found = score_agreement({"a": [1.0, 2, 3, 4], "b": [5, 5, 5, 5], "c": [np.nan, np.nan, 1, 2]})
    value = found.correlation.value
    assert np.isnan(value[0, 1])
    assert np.isnan(value[0, 2])
    assert value[0, 0] == pytest.approx(1)
    assert np.isnan(found.correlation.low[0, 1])


def test_scores_must_be_of_the_same_examples():
    with pytest.raises(RequestError, match="two at the least"):
        score_agreement({"a": [1, 2, 3]})
    with pytest.raises(RequestError, match="of the same examples"):
        score_agreement({"a": [1, 2, 3], "b": [1, 2]})


def test_disagreement_is_the_share_of_pairs_and_its_formula():
    predictions = np.random.default_rng(0).integers(3, size=(5, 20))
    pairs = list(itertools.combinations(predictions, 2))
    expected = np.mean([a != b for a, b in pairs], axis=0)
    np.testing.assert_allclose(disagreement(predictions), expected)
    counts = np.array([(predictions == c).sum(0) for c in range(3)])
    np.testing.assert_allclose(disagreement(predictions), 1 - (counts * (counts - 1)).sum(0) / 20)


def test_equal_runs_agree_and_one_run_has_nobody_to_agree_with():
    assert disagreement([[0, 1], [0, 1]]).tolist() == [0, 0]
    assert disagreement([[-1, 1], [-1, 1]]).tolist() == [1, 0]
    with pytest.raises(RequestError, match="two runs"):
        disagreement([[0, 1]])
