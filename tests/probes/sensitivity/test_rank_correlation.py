from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.sensitivity.rank_correlation import rank_correlation, resampled


def scores(n=40, seed=0):
    generator = np.random.default_rng(seed)
    first = generator.normal(size=n)
    second = first + generator.normal(size=n)
    return first, second, first + second + generator.normal(size=n)


def test_it_is_scipy_s_also_with_ties():
    first, second, _ = scores()
    tied = np.round(second)
    for other in (second, tied):
        found = rank_correlation(first, other)
        assert found.value == pytest.approx(stats.spearmanr(first, other).statistic, abs=1e-14)
        assert found.low < found.value < found.high
        assert (found.num_examples, found.num_left_out) == (40, 0)


def test_any_rising_function_leaves_it_and_a_falling_one_turns_it():
    first, second, _ = scores()
    found = rank_correlation(first, second)
    assert rank_correlation(np.exp(first), second**3) == found
    turned = rank_correlation(first, -second)
    assert turned.value == pytest.approx(-found.value)
    assert turned.low == pytest.approx(-found.high)


def test_the_partial_one_has_its_closed_form():
    first, second, given = scores()
    r = stats.spearmanr(np.stack([first, second, given], 1)).statistic
    wanted = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert rank_correlation(first, second, given).value == pytest.approx(wanted, abs=1e-12)


def test_given_a_score_that_explains_one_of_them_there_is_no_correlation():
    first, second, _ = scores()
    assert np.isnan(rank_correlation(first, second, np.exp(first)).value)
    assert np.isnan(rank_correlation(first, second, -second).value)
    for n in (7, 23, 61):  # and with ties, however ranks round
        first, second, _ = np.round(scores(n, seed=n), 1)
        assert np.isnan(rank_correlation(first, second, -first).value)


def test_a_constant_score_takes_nothing_out_and_correlates_with_nothing():
    first, second, _ = scores()
    constant = np.ones(40)
    assert rank_correlation(first, second, constant) == rank_correlation(first, second)
    found = rank_correlation(first, constant)
    assert np.isnan([found.value, found.low, found.high]).all()


def test_pairs_with_nan_are_left_out_and_counted():
    first, second, given = scores()
    kept = np.ones(40, bool)
    kept[[3, 7, 9]] = False
    holes = first.copy(), second.copy(), given.copy()
    for array, index in zip(holes, (3, 7, 9), strict=True):
        array[index] = np.nan
    found = rank_correlation(*holes)
    assert found.num_left_out == 3
    assert found.value == rank_correlation(first[kept], second[kept], given[kept]).value


def test_of_three_examples_there_is_none():
    found = rank_correlation([1.0, 2, 3], [1.0, 2, 3])
    assert np.isnan([found.value, found.low, found.high]).all()


def test_large_tables_are_resampled_in_parts(monkeypatch):
    monkeypatch.setattr("landscape.probes.sensitivity.rank_correlation._BLOCK", 300)
    sizes = []

    def statistic(tables):
        sizes.append(tables.shape)
        return tables.sum((1, 2))

    resampled(np.ones((40, 2)), statistic)
    assert sum(shape[0] for shape in sizes) == 1000
    assert {shape[1:] for shape in sizes} == {(40, 2)}
    assert len(sizes) == 334


def test_the_interval_covers_the_correlation():
    # Normal pairs of correlation r have Spearman's 6 / pi arcsin(r / 2).
    r, hits = 0.6, 0
    wanted = 6 / np.pi * np.arcsin(r / 2)
    for seed in range(40):
        generator = np.random.default_rng(seed)
        first, noise = generator.normal(size=(2, 60))
        found = rank_correlation(first, r * first + np.sqrt(1 - r**2) * noise, seed=seed)
        hits += found.low <= wanted <= found.high
    assert 34 <= hits <= 40


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    sample = np.random.default_rng(0).normal(size=(400, 1))
    low, high = resampled(sample, lambda tables: tables.mean((1, 2)))
    half, mean = 1.96 * sample.std() / 20, sample.mean()
    np.testing.assert_allclose([low, high], [mean - half, mean + half], atol=0.1 * half)
    narrow = resampled(sample, lambda tables: tables.mean((1, 2)), confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_seed_repeats():
    first, second, _ = scores()
    assert rank_correlation(first, second) == rank_correlation(first, second)
    assert rank_correlation(first, second).low != rank_correlation(first, second, seed=1).low


def test_wrong_requests_are_refused():
    with pytest.raises(RequestError, match=r"have \[3, 4\] examples"):
        rank_correlation([1.0, 2, 3], [1.0, 2, 3, 4])
    with pytest.raises(RequestError, match="confidence=95"):
        rank_correlation(*scores()[:2], confidence=95)
