import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.copies.goodness_of_fit import over_dispersion, tail_merged_chi_square


def test_the_dispersion_is_the_sum_of_squared_standardized_counts():
    counts, trials = np.array([3, 5, 2, 6, 4]), 8
    p = counts.sum() / 40
    expected = sum((c - trials * p) ** 2 / (trials * p * (1 - p)) for c in counts)
    found = over_dispersion(counts, trials)
    assert found.chi_square == pytest.approx(expected, rel=1e-12)
    assert found.ratio == pytest.approx(expected / 4, rel=1e-12)
    assert found.p_value == pytest.approx(stats.chi2.sf(expected, 4), rel=1e-12)


def test_equally_hard_objects_have_dispersion_one():
    counts = np.random.default_rng(0).binomial(100, 0.3, 20_000)
    found = over_dispersion(counts, 100)
    assert found.ratio == pytest.approx(1, abs=4 * np.sqrt(2 / 20_000))
    assert 0.001 < found.p_value < 0.999


def test_a_beta_distributed_difficulty_has_its_known_dispersion():
    rng = np.random.default_rng(1)
    ratios = [over_dispersion(rng.binomial(100, rng.beta(0.5, 1.2, 5000)), 100) for _ in range(20)]
    values = np.array([found.ratio for found in ratios])
    exact = 1 + 99 / (0.5 + 1.2 + 1)  # 37.7; one draw gives 37.8
    error = values.std(ddof=1) / np.sqrt(20)
    assert abs(values.mean() - exact) < 4 * error
    assert error < 0.2


def test_the_merged_statistic_is_uniform_for_equally_hard_objects():
    rng = np.random.default_rng(2)
    for trials, share, objects in ((30, 0.4, 200), (10, 0.05, 300)):
        drawn = rng.binomial(trials, share, (300, objects))
        found = np.array([tail_merged_chi_square(row, trials).p_value for row in drawn])
        assert stats.kstest(found, "uniform").pvalue > 0.01
        assert (found < 0.05).mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 300))


def test_the_merged_statistic_is_pearsons_of_bins_that_expect_five():
    counts = np.repeat([0, 1, 2, 3], [9, 11, 7, 3])
    p = 34 / 90
    probability = stats.binom.pmf(np.arange(4), 3, p)
    expected = 30 * np.array([probability[0], probability[1], probability[2:].sum()])
    assert (expected >= 5).all()
    assert 30 * probability[3] < 5
    statistic, p_value = stats.chisquare([9, 11, 10], expected, ddof=1)
    found = tail_merged_chi_square(counts, 3)
    assert found.statistic == pytest.approx(statistic, rel=1e-12)
    assert found.p_value == pytest.approx(p_value, rel=1e-12)
    assert found.degrees_of_freedom == 1


def test_empty_tails_do_not_make_a_statistic_of_1e17():
    counts = np.concatenate([np.full(900, 15), [0, 30]])
    expected = len(counts) * stats.binom.pmf(np.arange(31), 30, 0.5)
    observed = np.bincount(counts, minlength=31)
    assert ((observed - expected) ** 2 / expected).sum() > 1e6  # as published
    assert tail_merged_chi_square(counts, 30).statistic < 6000


def test_objects_that_differ_are_found():
    rng = np.random.default_rng(3)
    counts = rng.binomial(30, rng.beta(2, 2, 300))
    assert tail_merged_chi_square(counts, 30).p_value < 1e-6


@pytest.mark.parametrize("share", [0, 1])
def test_nothing_is_said_where_all_answers_are_equal(share):
    counts = np.full(50, 20 * share)
    assert np.isnan(tail_merged_chi_square(counts, 20).p_value)
    assert np.isnan(over_dispersion(counts, 20).ratio)


@pytest.mark.parametrize("counts", [[1, 2, 3], [0, 1] * 6])  # one bin, and two
def test_too_few_objects_for_three_bins_are_not_tested(counts):
    found = tail_merged_chi_square(counts, 5)
    assert np.isnan(found.statistic)
    assert np.isnan(found.p_value)


@pytest.mark.parametrize("counts", [[1, 6], [], [0.5, 1.0], [-1, 2]])
def test_counts_beyond_the_trials_are_refused(counts):
    for measure in (over_dispersion, tail_merged_chi_square):
        with pytest.raises(RequestError, match="counts"):
            measure(np.array(counts), 5)
