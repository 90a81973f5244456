import numpy as np
import pytest
from scipy import stats

from landscape.probes.subsets.welch import own_mean_difference, paired_mean_difference


@pytest.fixture
def drawn():
    generator = np.random.default_rng(0)
    masks = generator.random((30, 7)) < 0.4
    return masks, 1e6 + generator.normal(size=(30, 7)) * np.arange(1, 8)


def test_both_are_the_interval_of_scipy(drawn):
    masks, values = drawn
    own, pairs = own_mean_difference(masks, values, 0.9), paired_mean_difference(masks, values, 0.9)
    for test in range(7):
        for example in range(7):
            inside, outside = values[masks[:, example], test], values[~masks[:, example], test]
            found = stats.ttest_ind(inside, outside, equal_var=False)
            interval = found.confidence_interval(0.9)
            wanted = [inside.mean() - outside.mean(), interval.low, interval.high]
            held = pairs.difference
            got = [side[test, example] for side in (held.value, held.low, held.high)]
            np.testing.assert_allclose(got, wanted, atol=1e-7)
            if test == example:
                got = [s[test] for s in vars(own.difference).values()]
                np.testing.assert_allclose(got, wanted, atol=1e-7)
                error = wanted[0] / found.statistic
                assert own.standard_error[test] == pytest.approx(error, rel=1e-6)


def test_small_groups_have_no_interval_and_empty_ones_no_value():
    masks = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]], dtype=bool)
    held = own_mean_difference(masks, np.arange(9.0).reshape(3, 3), 0.95)
    assert np.isnan(held.difference.value).tolist() == [True, False, True]
    assert np.isnan(held.standard_error).all()
    assert np.isnan(held.difference.low).all()


def test_constant_values_differ_by_exactly_nothing():
    masks = np.array([[1], [1], [0], [0]], dtype=bool)
    held = own_mean_difference(masks, np.full((4, 1), 0.1), 0.95)
    assert held.difference.value == held.difference.low == held.difference.high == 0
