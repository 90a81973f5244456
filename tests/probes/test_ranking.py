import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from landscape.errors import RequestError
from landscape.probes.ranking import roc


@pytest.fixture(params=[1000, 4], ids=["without ties", "with ties"])
def drawn(request):
    generator = np.random.default_rng(0)
    positive = generator.random(200) < 0.3
    scores = generator.normal(size=200) + positive
    return np.round(scores * request.param) / request.param, positive


def test_the_area_is_that_of_scikit_learn_and_of_all_pairs(drawn):
    scores, positive = drawn
    found = roc(scores, positive)
    assert found.auc == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    pairs = scores[positive][:, None] - scores[~positive][None]
    won = (pairs > 0) + 0.5 * (pairs == 0)
    assert found.auc == pytest.approx(won.mean(), abs=1e-12)
    variances = [won.mean(axis).var(ddof=1) / won.shape[1 - axis] for axis in (0, 1)]
    assert found.standard_error == pytest.approx(np.sqrt(sum(variances)), abs=1e-12)


def test_the_curve_is_that_of_scikit_learn(drawn):
    scores, positive = drawn
    found = roc(scores, positive)
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positive_rate, false, atol=1e-15)
    np.testing.assert_allclose(found.true_positive_rate, true, atol=1e-15)


def test_equal_scores_tell_nothing():
    found = roc(np.zeros(10), np.arange(10) < 3)
    assert found.auc == 0.5
    assert found.standard_error == 0
    assert found.true_positive_rate_at(0.5).value == 0  # no threshold gets there


def test_a_rate_is_never_taken_from_beyond_the_allowed_one():
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    found = roc(scores, [1, 0, 1, 1, 0, 0])
    assert found.true_positive_rate_at(0.0).value == pytest.approx(1 / 3)
    assert found.true_positive_rate_at(0.3).value == pytest.approx(1 / 3)
    held = found.true_positive_rate_at(1 / 3)
    assert held.value == 1
    assert held.low < 1 == held.high


def test_the_standard_error_is_that_of_repeated_draws():
    generator = np.random.default_rng(0)
    positive = np.arange(150) < 50
    drawn = [roc(generator.normal(size=150) + positive, positive) for _ in range(300)]
    spread = np.std([one.auc for one in drawn])
    assert np.mean([one.standard_error for one in drawn]) == pytest.approx(spread, rel=0.15)


def test_scores_that_are_missing_are_left_out_and_counted():
    scores = np.array([1.0, np.nan, 0.0, 2.0])
    found = roc(scores, [1, 1, 0, 0])
    assert found.num_left_out == 1
    assert (found.num_positive, found.num_negative) == (1, 2)
    assert found.auc == 0.5
    assert np.isnan(found.standard_error)


def test_wrong_requests_are_refused():
    with pytest.raises(RequestError, match="2 positives and 0 negatives"):
        roc([1.0, 2.0], [1, 1])
    with pytest.raises(RequestError, match="scores has 2 entries, positive has 3"):
        roc([1.0, 2.0], [1, 0, 1])
    with pytest.raises(RequestError, match="false_positive_rate=5"):
        roc([1.0, 2.0], [1, 0]).true_positive_rate_at(5)
