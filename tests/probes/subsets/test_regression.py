import numpy as np
import pytest
from sklearn.linear_model import Ridge

from landscape.errors import RequestError
from landscape.probes.subsets import regression
from landscape.probes.subsets.regression import ridge


@pytest.fixture(params=[(20, 7), (7, 20), (12, 12)], ids=str)
def drawn(request):
    generator = np.random.default_rng(0)
    models, examples = request.param
    masks = generator.random((models, examples)) < 0.4
    return masks, generator.normal(size=(models, 3)) + 5


def test_weights_and_intercept_are_those_of_scikit_learn(drawn):
    masks, values = drawn
    found = ridge(masks, values, 0.7)
    other = Ridge(alpha=0.7).fit(masks.astype(float), values)
    np.testing.assert_allclose(found.weights, other.coef_, atol=1e-10)
    np.testing.assert_allclose(found.intercept, other.intercept_, atol=1e-10)


def test_left_out_predictions_are_those_of_as_many_fits(drawn):
    masks, values = drawn
    found = ridge(masks, values, 0.7)
    for row in range(len(masks)):
        rest = np.arange(len(masks)) != row
        other = Ridge(alpha=0.7).fit(masks[rest].astype(float), values[rest])
        wanted = other.predict(masks[row : row + 1].astype(float))[0]
        np.testing.assert_allclose(found.left_out[row], wanted, atol=1e-10)


def test_the_chosen_penalty_has_the_least_error_of_those_tried(drawn):
    masks, values = drawn
    # So that neither end of the grid is the best.
    values = values / 2 + masks @ np.random.default_rng(1).normal(size=(masks.shape[1], 3))
    chosen = ridge(masks, values)
    assert not chosen.at_edge

    def error(penalty):
        return np.square(values - ridge(masks, values, penalty).left_out).sum()

    step = 10 ** (8 / 32)
    # The grid ends somewhere: beyond, it may be better by next to nothing.
    for power in (-8, -1, 1, 8):
        assert error(chosen.penalty) <= error(chosen.penalty * step**power) * (1 + 1e-3)


def test_spread_is_that_of_the_posterior(drawn):
    masks, values = drawn
    found = ridge(masks, values, 0.7)
    inputs = masks - masks.mean(0)
    covariance = np.linalg.inv(inputs.T @ inputs + 0.7 * np.eye(masks.shape[1]))
    np.testing.assert_allclose(found.spread, np.sqrt(np.diag(covariance)), atol=1e-10)


def test_intervals_cover_weights_that_come_from_the_prior():
    generator = np.random.default_rng(1)
    masks = generator.random((40, 60)) < 0.5
    weights = generator.normal(size=(200, 60)) * 0.5
    values = masks @ weights.T + generator.normal(size=(40, 200))
    found = ridge(masks, values, 1 / 0.25)
    share = np.mean(np.abs(found.weights - weights) <= 1.96 * found.noise[:, None] * found.spread)
    assert share == pytest.approx(0.95, abs=0.015)
    assert np.mean(np.square(found.noise)) == pytest.approx(1, abs=0.1)


def test_the_penalty_that_is_chosen_is_near_that_of_the_prior():
    generator = np.random.default_rng(2)
    masks = generator.random((80, 60)) < 0.5
    values = masks @ (generator.normal(size=(200, 60)) * 0.5).T + generator.normal(size=(80, 200))
    assert 4 / 2 < ridge(masks, values).penalty < 4 * 2


def test_blocks_of_columns_change_nothing(drawn, monkeypatch):
    masks, values = drawn
    whole = ridge(masks, values, 0.7)
    monkeypatch.setattr(regression, "_BLOCK", 3)
    parts = ridge(masks, values, 0.7)
    np.testing.assert_allclose(parts.weights, whole.weights, atol=1e-12)
    np.testing.assert_allclose(parts.spread, whole.spread, atol=1e-12)


def test_subsets_of_one_size_say_nothing_of_what_all_examples_share():
    masks = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]] * 3)
    values = np.random.default_rng(0).normal(size=(15, 1))
    found = ridge(masks.astype(bool), values, 1e-8)
    assert abs(found.weights.sum()) < 1e-6
    assert found.spread.max() < 1  # and not 1 / sqrt(1e-8)


def test_wrong_requests_are_refused():
    masks = np.array([[True, False]])
    with pytest.raises(RequestError, match="Give two or more"):
        ridge(masks, np.zeros((1, 1)))
    with pytest.raises(RequestError, match="penalty=0"):
        ridge(np.repeat(masks, 2, 0), np.zeros((2, 1)), 0.0)
