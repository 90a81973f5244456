import itertools

import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.subsets.attribution import ridge_attribution
from landscape.probes.subsets.datamodels import (
    datamodel,
    leave_one_out_correlation,
    linear_datamodeling_score,
)


def linear(seed=0, num_models=150, n=20, noise=0.1):
    generator = np.random.default_rng(seed)
    masks = generator.random((num_models, n)) < 0.5
    weights = generator.normal(size=(3, n))
    return masks, 2 + masks @ weights.T + noise * generator.normal(size=(num_models, 3)), weights


@pytest.mark.parametrize("kind", ["ridge", "lasso"])
def test_linear_outcomes_are_recovered_and_predicted(kind):
    masks, values, weights = linear()
    found = datamodel(masks, values, kind=kind)
    np.testing.assert_allclose(found.weights, weights, atol=0.1)
    other = np.random.default_rng(9).random((30, 20)) < 0.3
    wanted = 2 + other @ weights.T
    np.testing.assert_allclose(found.predict(other), wanted, atol=0.3)
    assert (found.explained > 0.99).all()
    assert (linear_datamodeling_score(found.weights, other, wanted) > 0.98).all()


def test_differences_are_unbiased_on_all_subsets():
    masks = np.array(list(itertools.product([0, 1], repeat=6)))
    weights = np.arange(12.0).reshape(2, 6)
    found = datamodel(masks, 1 + masks @ weights.T, kind="difference")
    np.testing.assert_allclose(found.weights, weights, atol=1e-12)
    np.testing.assert_allclose(found.intercept, 1, atol=1e-12)
    assert np.isnan(found.explained).all()


def test_intervals_of_both_kinds_cover_the_weights():
    for kind in ("ridge", "difference"):
        shares = []
        for seed in range(10):
            masks, values, weights = linear(seed, noise=1.0)
            found = datamodel(masks, values, kind=kind)
            half = 1.96 * found.standard_error
            shares.append(np.mean(np.abs(found.weights - weights) <= half))
        assert np.mean(shares) == pytest.approx(0.95, abs=0.03)


def test_what_is_explained_is_what_is_left_out_and_predicted():
    masks, values, _ = linear(num_models=30, noise=2.0)
    found = datamodel(masks, values, penalty=3.0)
    errors = np.zeros(3)
    for row in range(30):
        rest = np.arange(30) != row
        part = datamodel(masks[rest], values[rest], penalty=3.0)
        errors += np.square(part.predict(masks[[row]])[0] - values[row])
    np.testing.assert_allclose(found.explained, 1 - errors / 30 / values.var(0), atol=1e-10)


def test_a_constant_outcome_has_no_weights_and_nothing_to_explain():
    masks, _, _ = linear()
    for kind in ("ridge", "lasso", "difference"):
        found = datamodel(masks, np.full((150, 1), 0.1), kind=kind)
        np.testing.assert_allclose(found.weights, 0, atol=1e-12)
        assert np.isnan(found.explained).all()


def test_an_example_in_all_subsets_does_not_harm_the_prediction():
    masks, values, _ = linear()
    masks[:, 0] = True
    for kind in ("ridge", "difference"):
        found = datamodel(masks, values, kind=kind)
        assert np.isfinite(found.intercept).all()


def test_the_score_is_the_rank_correlation_of_scipy():
    generator = np.random.default_rng(0)
    masks, values, _ = linear(num_models=25)
    values = np.round(values)  # ties
    attributions = generator.normal(size=(3, 20))
    found = linear_datamodeling_score(attributions, masks, values)
    for test in range(3):
        wanted = stats.spearmanr(masks @ attributions[test], values[:, test]).statistic
        assert found[test] == pytest.approx(wanted, abs=1e-12)
    scaled = linear_datamodeling_score(1e-6 * attributions, masks, values)
    np.testing.assert_allclose(scaled, found, atol=1e-12)


def test_equal_sums_are_ties_whatever_their_rounding():
    masks = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 1]])
    attributions = np.array([[0.1, 0.2, 0.3, 0.4]])
    assert len(np.unique(masks @ attributions[0])) == 4  # 0.1 + 0.2 > 0.3 in floating point
    values = np.array([[1.0], [2.0], [0.0], [3.0]])
    wanted = stats.spearmanr([3, 3, 1, 7], values[:, 0]).statistic
    found = linear_datamodeling_score(attributions, masks, values)
    assert found[0] == pytest.approx(wanted, abs=1e-12)


def test_subsets_need_not_be_contiguous_and_constants_have_no_score():
    masks = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1]])
    attributions = np.array([[3.0, 0.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    values = np.array([[9.0, 1.0], [1.0, 2.0], [5.0, 3.0]])
    found = linear_datamodeling_score(attributions, masks, values)
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1])
    assert np.isnan(linear_datamodeling_score(attributions, masks, np.ones((3, 2)))).all()


def test_leaving_out_is_compared_at_the_index_that_was_left_out():
    generator = np.random.default_rng(0)
    features, targets = generator.normal(size=(30, 4)), generator.normal(size=30)
    tests = generator.normal(size=(5, 4))
    attribution = ridge_attribution(features, targets, tests, penalty=0.5)
    removed = np.array([17, 3, 28, 9, 22, 0])
    effects = np.empty((5, 6))
    whole = np.linalg.solve(features.T @ features + 0.5 * np.eye(4), features.T @ targets)
    for column, example in enumerate(removed):
        x, y = np.delete(features, example, 0), np.delete(targets, example)
        part = np.linalg.solve(x.T @ x + 0.5 * np.eye(4), x.T @ y)
        effects[:, column] = tests @ (whole - part)
    found = leave_one_out_correlation(attribution.effect, effects, removed)
    np.testing.assert_allclose(found, 1, atol=1e-12)
    assert (leave_one_out_correlation(attribution.first_order, effects, removed) > 0.9).all()
    assert leave_one_out_correlation(attribution.effect, effects, removed[::-1]).max() < 0.99
    assert np.isnan(leave_one_out_correlation(np.ones((5, 30)), effects, removed)).all()


def test_wrong_requests_are_refused():
    masks, values, weights = linear()
    with pytest.raises(RequestError, match="unknown kind 'ridgee'"):
        datamodel(masks, values, kind="ridgee")
    with pytest.raises(RequestError, match="penalty is given with kind='difference'"):
        datamodel(masks, values, kind="difference", penalty=1.0)
    with pytest.raises(RequestError, match="150 models and values_test 149"):
        datamodel(masks, values[1:])
    with pytest.raises(RequestError, match="not finite"):
        datamodel(masks, np.where(values > 0, np.nan, values))
    with pytest.raises(RequestError, match="masks has 19 examples, and there are weights for 20"):
        datamodel(masks, values).predict(masks[:, 1:])
    with pytest.raises(RequestError, match="attributions has 2 tests"):
        linear_datamodeling_score(weights[:2], masks, values)
    with pytest.raises(RequestError, match="masks has 20 examples"):
        linear_datamodeling_score(weights[:, 1:], masks, values)
    with pytest.raises(RequestError, match="effects has shape"):
        leave_one_out_correlation(weights, values, [0, 1])
    with pytest.raises(RequestError, match=r"removed has examples 0 \.\.\. 20"):
        leave_one_out_correlation(weights, np.zeros((3, 2)), [0, 20])
