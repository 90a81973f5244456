"""HSIC from sums, whole and without each example, against the estimator's definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from landscape.similarity.hsic import Sums
from landscape.similarity.products import rows_by_kernels


def centred_features(n=8):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    y[:, 0] += x[:, 0]
    return x - x.mean(0), y - y.mean(0)


def by_u_statistic(x, y):
    """The mean over all ordered quadruples of different examples, whose expectation is HSIC."""
    K, L = x @ x.T, y @ y.T
    found = [
        K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
        for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    return np.mean(found)


def rows_of(x, y):
    tensors = {"x": torch.tensor(x), "y": torch.tensor(y)}
    return rows_by_kernels(["x", "y"], tensors.__getitem__, [("x", "y")])["x", "y"]


def test_the_debiased_hsic_is_the_u_statistic():
    x, y = centred_features()
    found = rows_of(x, y).sums().hsic(debiased=True)
    assert found == pytest.approx(by_u_statistic(x, y), rel=1e-12)


def test_without_each_example_it_is_the_u_statistic_of_the_others():
    x, y = centred_features()
    rows = rows_of(x, y)
    expected = [by_u_statistic(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(8)]
    np.testing.assert_allclose(rows.without_each(rows.sums(), debiased=True), expected, rtol=1e-12)


def test_the_biased_hsic_is_the_squared_norm_of_the_covariance():
    x, y = centred_features()
    rows = rows_of(x, y)
    assert rows.sums().hsic(debiased=False) == pytest.approx(np.square(x.T @ y / 7).sum())
    expected = []
    for i in range(8):
        a, b = np.delete(x, i, 0), np.delete(y, i, 0)
        expected.append(np.square((a - a.mean(0)).T @ (b - b.mean(0)) / 6).sum())
    np.testing.assert_allclose(rows.without_each(rows.sums(), debiased=False), expected, rtol=1e-12)


def test_rounding_is_no_hsic():
    sums = {"num_examples": 4, "first": 1.0, "second": 1.0, "product": 0.5}
    assert Sums(pairs=1 / 3 + 1e-16, **sums).hsic(debiased=True) == 0.0
    assert Sums(pairs=1 / 3 + 1e-12, **sums).hsic(debiased=True) > 0.0
