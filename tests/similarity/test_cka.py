"""CKA: the definition, its invariances, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.similarity.cka import cka, cka_estimate


def hsic_by_definition(K, L, debiased):
    n, one = len(K), np.ones(len(K))
    if not debiased:
        H = np.eye(n) - 1 / n
        return np.trace(K @ H @ L @ H) / (n - 1) ** 2
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    both = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    crossed = 2 / (n - 2) * (one @ K @ L @ one)
    return (np.trace(K @ L) + both - crossed) / (n * (n - 3))


def cka_by_definition(x, y, debiased):
    K, L = x @ x.T, y @ y.T
    own = hsic_by_definition(K, K, debiased) * hsic_by_definition(L, L, debiased)
    return hsic_by_definition(K, L, debiased) / np.sqrt(own)


def correlated(n, p, q, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    return x, x @ rng.normal(size=(p, q)) / np.sqrt(p) + rng.normal(size=(n, q))


def rotation(p, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(p, p)))[0]


BOTH = pytest.mark.parametrize("debiased", [True, False])


@BOTH
@pytest.mark.parametrize(("n", "p", "q"), [(30, 3, 5), (12, 40, 25), (9, 30, 2), (4, 2, 3)])
def test_cka_is_its_definition(n, p, q, debiased):
    x, y = correlated(n, p, q)
    expected = cka_by_definition(x, y, debiased)
    assert cka(x, y, debiased=debiased) == pytest.approx(min(1.0, expected), abs=1e-11)


def test_a_centered_pair_of_columns_has_the_square_of_their_correlation():
    x, y = correlated(50, 1, 1)
    expected = np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2
    assert cka(x, y, debiased=False) == pytest.approx(expected, rel=1e-12)


@BOTH
@pytest.mark.parametrize("width", [3, 40])
def test_identical_features_have_exactly_one(width, debiased):
    x, _ = correlated(20, width, 1)
    assert cka(x, x.copy(), debiased=debiased) == 1.0


def test_rounding_does_not_lift_it_above_one():
    x, _ = correlated(20, 5, 1)
    assert max(cka(x, 0.3 * x @ rotation(5, seed)) for seed in range(30)) == 1.0


@BOTH
@pytest.mark.parametrize("width", [6, 40])
def test_rotation_scale_shift_and_order_of_examples_change_nothing(width, debiased):
    x, y = correlated(20, width, width)
    moved = -3e4 * x @ rotation(width) + 7
    order = np.random.default_rng(1).permutation(20)
    found = cka(moved[order], y[order], debiased=debiased)
    assert found == pytest.approx(cka(x, y, debiased=debiased), abs=1e-11)


def test_a_general_linear_map_changes_it():
    x, y = correlated(20, 6, 6)
    stretched = x * np.array([10.0, 1, 1, 1, 1, 1])
    assert abs(cka(stretched, y) - cka(x, y)) > 0.05


def test_it_is_symmetric():
    x, y = correlated(20, 3, 30)
    assert cka(x, y) == pytest.approx(cka(y, x), rel=1e-13)


@pytest.mark.parametrize("width", [2, 60])
def test_of_independent_features_the_debiased_one_is_zero_on_average(width):
    rng = np.random.default_rng(0)
    found = [cka(rng.normal(size=(15, width)), rng.normal(size=(15, width))) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)
    assert min(found) < 0


def test_the_biased_one_is_near_one_for_many_independent_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 10, 500))
    assert cka(x, y, debiased=False) > 0.95


def test_a_large_common_offset_costs_no_digits():
    x, y = correlated(30, 4, 5)
    assert cka(x + 1e6, y - 1e6) == pytest.approx(cka(x, y), abs=1e-8)


def test_images_are_flattened_and_tensors_of_any_real_type_are_taken():
    x, y = correlated(12, 24, 3)
    images = torch.tensor(x, dtype=torch.float32).reshape(12, 2, 3, 4)
    labels = torch.arange(12) % 3
    assert cka(images, y) == pytest.approx(cka(x, y), abs=1e-6)
    assert cka(labels, y) == pytest.approx(cka(labels.double().numpy()[:, None], y))


@BOTH
@pytest.mark.parametrize("count", [1, 3])
def test_fewer_than_four_examples_are_refused(count, debiased):
    x, y = correlated(count, 2, 2)
    with pytest.raises(RequestError, match=f"{count} examples, expected at least 4"):
        cka(x, y, debiased=debiased)


def test_other_wrong_features_are_refused():
    x, y = correlated(8, 2, 2)
    with pytest.raises(RequestError, match="8 of 'x', 7 of 'y'"):
        cka(x, y[:-1])
    with pytest.raises(RequestError, match="real numbers"):
        cka(x + 1j, y)
    with pytest.raises(RequestError, match="confidence=2"):
        cka_estimate(x, y, confidence=2)


@BOTH
@pytest.mark.parametrize("width", [3, 30])
def test_constant_features_have_no_cka(width, debiased):
    y = correlated(20, width, 4)[1]
    constant = np.full((20, width), 0.1)
    assert np.isnan(cka(constant, y, debiased=debiased))
    assert np.isnan(cka(y, constant, debiased=debiased))
    estimate = cka_estimate(constant, y, debiased=debiased)
    assert np.isnan([estimate.value, estimate.standard_error, *estimate.interval]).all()


def test_one_example_that_differs_from_all_others_alone_says_nothing():
    # Off the diagonal its kernel is a sum of one term a row and one a column: HSIC_1 is 0.
    x = np.full((12, 2), 0.3)
    x[5] = [1.7, -2.1]
    assert np.isnan(cka(x, correlated(12, 3, 3)[0]))


def test_features_that_hold_nan_give_nan():
    x, y = correlated(8, 2, 2)
    x[3, 1] = np.nan
    assert np.isnan(cka(x, y))


# -- intervals ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("n", "p", "q"), [(14, 3, 2), (9, 20, 30)])
def test_the_standard_error_is_that_of_leaving_one_out(n, p, q, debiased):
    x, y = correlated(n, p, q)
    left_out = [
        cka_by_definition(np.delete(x, i, 0), np.delete(y, i, 0), debiased) for i in range(n)
    ]
    expected = np.sqrt((n - 1) / n * np.square(left_out - np.mean(left_out)).sum())
    found = cka_estimate(x, y, debiased=debiased)
    assert found.standard_error == pytest.approx(expected, rel=1e-9)
    assert float(found) == found.value == cka(x, y, debiased=debiased)
    assert found.interval[0] < found.value < found.interval[1] <= 1


def test_identical_features_are_certain():
    x, _ = correlated(20, 4, 1)
    found = cka_estimate(x, x @ rotation(4))
    assert found.interval == (found.value, found.value) == pytest.approx((1, 1), abs=1e-12)


def test_four_examples_have_a_value_without_an_interval():
    found = cka_estimate(*correlated(4, 2, 2))
    assert np.isfinite(found.value)
    assert np.isnan(found.interval).all()


def test_a_wider_confidence_has_a_wider_interval():
    x, y = correlated(30, 3, 3)
    narrow, wide = (cka_estimate(x, y, confidence=c).interval for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def gaussian_pair(rng, n, mixing, noise):
    x = rng.normal(size=(n, len(mixing)))
    return x, x @ mixing + noise * rng.normal(size=(n, mixing.shape[1]))


@pytest.mark.parametrize(("n", "p", "q", "noise"), [(40, 3, 4, 1.0), (30, 40, 60, 3.0)])
def test_intervals_cover_the_population_value(n, p, q, noise):
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(p, q))
    covariance = mixing.T @ mixing + noise**2 * np.eye(q)
    truth = np.square(mixing).sum() / (np.sqrt(p) * np.linalg.norm(covariance))
    found = [cka_estimate(*gaussian_pair(rng, n, mixing, noise)) for _ in range(150)]
    covered = np.mean([one.interval[0] <= truth <= one.interval[1] for one in found])
    assert covered > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 150)
    spread = np.std([one.value for one in found])
    assert 0.8 < np.mean([one.standard_error for one in found]) / spread < 1.6


def test_a_bootstrap_would_miss_it():
    rng = np.random.default_rng(0)
    x, y = gaussian_pair(rng, 30, rng.normal(size=(40, 60)), 6.0)
    drawn = [rng.integers(30, size=30) for _ in range(60)]
    replicates = [cka(x[rows], y[rows]) for rows in drawn]
    estimate = cka_estimate(x, y)
    assert np.quantile(replicates, 0.025) > estimate.interval[1]
