import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.subsets.newcombe import newcombe


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_the_published_intervals(counts, low, high):
    held = newcombe(*map(np.array, counts))
    assert held.value == pytest.approx(counts[0] / counts[1] - counts[2] / counts[3])
    assert held.low == pytest.approx(low, abs=6e-5)
    assert held.high == pytest.approx(high, abs=6e-5)


def test_a_group_without_trials_has_no_interval():
    held = newcombe(np.array([0, 3]), np.array([0, 4]), np.array([2, 0]), np.array([4, 0]))
    for values in (held.value, held.low, held.high):
        assert np.isnan(values).all()


def test_exchanging_the_groups_mirrors_the_interval():
    generator = np.random.default_rng(0)
    trials, others = generator.integers(1, 30, 50), generator.integers(1, 30, 50)
    right, wrong = generator.integers(0, trials + 1), generator.integers(0, others + 1)
    one, two = newcombe(right, trials, wrong, others), newcombe(wrong, others, right, trials)
    np.testing.assert_allclose(one.low, -two.high, atol=1e-15)
    np.testing.assert_allclose(one.value, -two.value, atol=1e-15)
    assert (one.low >= -1).all()
    assert (one.high <= 1).all()
    assert (one.low <= one.value).all()


def test_it_covers_as_often_as_it_says_where_the_normal_interval_does_not():
    a, b = np.arange(26)[:, None], np.arange(26)[None]
    held = newcombe(a, np.array(25), b, np.array(25))
    half = 1.96 * np.sqrt(a * (25 - a) / 25**3 + b * (25 - b) / 25**3)
    covered, normal = [], []
    for p in (0.05, 0.2, 0.5, 0.8, 0.98):
        for q in (0.02, 0.1, 0.4, 0.75, 0.9):
            weights = stats.binom.pmf(a, 25, p) * stats.binom.pmf(b, 25, q)  # exact, no draws
            covered.append((weights * ((held.low <= p - q) & (p - q <= held.high))).sum())
            normal.append((weights * (np.abs(a / 25 - b / 25 - p + q) <= half)).sum())
    assert 0.95 < np.mean(covered) < 0.97
    assert min(covered) > 0.92
    assert min(normal) < 0.8


def test_a_wider_confidence_has_a_wider_interval():
    narrow, wide = (
        newcombe(np.array(5), np.array(9), np.array(2), np.array(8), c) for c in (0.5, 0.99)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_counts_and_confidences_that_are_none_are_refused():
    with pytest.raises(RequestError, match="confidence=95"):
        newcombe(np.array(1), np.array(2), np.array(1), np.array(2), 95)
    with pytest.raises(RequestError, match="above the trials"):
        newcombe(np.array(3), np.array(2), np.array(1), np.array(2))
    with pytest.raises(RequestError, match="below 0"):
        newcombe(np.array(1), np.array(2), np.array(-1), np.array(2))
