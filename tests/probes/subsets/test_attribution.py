import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.subsets.attribution import ridge_attribution


def fitted(features, targets, penalty):
    gram = features.T @ features + penalty * np.eye(features.shape[1])
    return np.linalg.solve(gram, features.T @ targets)


@pytest.mark.parametrize("shape", [(12, 4), (4, 12)])
def test_it_is_what_refitting_without_each_example_gives(shape):
    generator = np.random.default_rng(0)
    features, targets = generator.normal(size=shape), generator.normal(size=shape[0])
    tests = generator.normal(size=(3, shape[1]))
    found = ridge_attribution(features, targets, tests, penalty=0.3)
    whole = fitted(features, targets, 0.3)
    np.testing.assert_allclose(found.residual, targets - features @ whole, atol=1e-12)
    for example in range(shape[0]):
        rest = np.arange(shape[0]) != example
        part = fitted(features[rest], targets[rest], 0.3)
        np.testing.assert_allclose(found.effect[:, example], tests @ (whole - part), atol=1e-12)
        own = targets[example] - features[example] @ part
        assert found.left_out_residual[example] == pytest.approx(own, abs=1e-12)


def test_influence_functions_are_its_slope_in_the_weight_of_an_example():
    generator = np.random.default_rng(1)
    features, targets = generator.normal(size=(10, 3)), generator.normal(size=10)
    tests = generator.normal(size=(2, 3))
    found = ridge_attribution(features, targets, tests, penalty=0.3)
    np.testing.assert_allclose(found.first_order, found.effect * (1 - found.leverage), atol=1e-14)
    step = 1e-6
    for example in range(10):
        ends = []
        for weight in (1 + step, 1 - step):
            scale = np.ones(10)
            scale[example] = np.sqrt(weight)
            ends.append(tests @ fitted(features * scale[:, None], targets * scale, 0.3))
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(found.first_order[:, example], slope, atol=1e-8)


def test_wrong_requests_are_refused():
    with pytest.raises(RequestError, match="penalty=0"):
        ridge_attribution(np.eye(2), np.ones(2), np.eye(2), penalty=0)
    with pytest.raises(RequestError, match=r"Expected \(n, d\), \(n,\), \(m, d\)"):
        ridge_attribution(np.eye(2), np.ones(3), np.eye(2), penalty=1)
    with pytest.raises(RequestError, match=r"Expected \(n, d\), \(n,\), \(m, d\)"):
        ridge_attribution(np.eye(2), np.ones(2), np.eye(3), penalty=1)
