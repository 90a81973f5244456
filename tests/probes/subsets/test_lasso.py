import numpy as np
import pytest
from sklearn.linear_model import Lasso
from sklearn.model_selection import KFold

from landscape.errors import RequestError
from landscape.probes.subsets.lasso import lasso


@pytest.fixture
def drawn():
    generator = np.random.default_rng(0)
    masks = generator.random((60, 10)) < 0.5
    true = np.zeros((2, 10))
    true[0, 3], true[1, 7] = 2.0, -1.0
    return masks, 1 + masks @ true.T + 0.1 * generator.normal(size=(60, 2)), true


def test_the_examples_that_matter_are_found(drawn):
    masks, values, true = drawn
    steps = []
    found = lasso(masks, values, progress=lambda done, total, words: steps.append(done))
    np.testing.assert_allclose(found.weights, true, atol=0.1)
    np.testing.assert_allclose(found.intercept, 1, atol=0.15)
    assert found.fold_error == pytest.approx([0.01, 0.01], rel=0.5)
    assert steps == [1, 2]
    errors = []
    for fit, asked in KFold(5).split(masks):
        other = Lasso(alpha=found.penalties[0]).fit(masks[fit].astype(float), values[fit, 0])
        errors.append(np.square(other.predict(masks[asked]) - values[asked, 0]).mean())
    assert found.fold_error[0] == pytest.approx(np.mean(errors), rel=0.02)


def test_it_meets_the_conditions_of_the_optimum(drawn):
    masks, values, _ = drawn
    found = lasso(masks, values, 0.05)
    residual = values - found.intercept - masks @ found.weights.T
    slopes = masks.T @ residual / len(masks)  # (n, m)
    np.testing.assert_allclose(residual.mean(0), 0, atol=1e-10)
    for test in range(2):
        active = found.weights[test] != 0
        signs = np.sign(found.weights[test][active])
        np.testing.assert_allclose(slopes[active, test], 0.05 * signs, atol=1e-4)
        assert (np.abs(slopes[~active, test]) <= 0.05 + 1e-4).all()
    assert np.isnan(found.fold_error).all()


def test_a_constant_outcome_has_no_weights(drawn):
    masks, _, _ = drawn
    found = lasso(masks, np.full((60, 1), 0.1))
    assert not found.weights.any()
    assert found.intercept[0] == pytest.approx(0.1)
    assert np.isnan(found.penalties[0])


def test_wrong_requests_are_refused(drawn):
    masks, values, _ = drawn
    with pytest.raises(RequestError, match="penalty=-1"):
        lasso(masks, values, -1)
    with pytest.raises(RequestError, match="9 models are too few"):
        lasso(masks[:9], values[:9])
