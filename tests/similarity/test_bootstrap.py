"""Intervals over examples: closed forms, pairing and coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from landscape.errors import RequestError
from landscape.similarity import bootstrap as page
from landscape.similarity.bootstrap import bootstrap, wilson


def mean(sums):
    return {"mean": sums[..., 0] / sums[..., 1]}


def columns_of(values):
    values = torch.as_tensor(values, dtype=torch.float64)
    return torch.stack([values, torch.ones_like(values)], 1)


def test_the_value_is_that_of_the_sums_and_the_spread_that_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, size=200)
    found = bootstrap(columns_of(values), mean)["mean"]
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / np.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_blocks_of_resamples_and_the_seed_decide_alone(monkeypatch):
    columns = columns_of(np.random.default_rng(0).normal(size=50))
    whole = bootstrap(columns, mean, seed=1)["mean"]
    assert bootstrap(columns, mean, seed=2)["mean"].low != whole.low
    monkeypatch.setattr(page, "_BLOCK", 50 * 7)
    again = bootstrap(columns, mean, seed=1)["mean"]
    assert again.low == pytest.approx(whole.low, abs=0.05)
    assert again.value == whole.value


def test_every_example_is_as_likely_and_resamples_are_as_large():
    identity = torch.eye(5, dtype=torch.float64)
    drawn = []

    def keep(sums):
        drawn.append(np.atleast_2d(sums))
        return {"first": sums[..., 0]}

    bootstrap(identity, keep)
    times = np.concatenate(drawn[:-1])
    assert times.shape == (1000, 5)
    assert (times.sum(1) == 5).all()
    assert np.abs(times.mean(0) - 1).max() < 4 * np.sqrt(0.8 / 1000)
    assert times.var(0) == pytest.approx(np.full(5, 0.8), rel=0.2)  # n p (1 - p)


def test_differences_are_paired():
    values = np.random.default_rng(0).normal(0, 10, size=60)
    columns = torch.tensor(np.stack([values, values + 1, np.ones(60)], 1))
    found = bootstrap(columns, lambda s: {"difference": (s[..., 1] - s[..., 0]) / s[..., 2]})
    assert found["difference"].low == pytest.approx(1)
    assert found["difference"].high == pytest.approx(1)


def test_intervals_of_a_skewed_ratio_cover_it():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        weight = rng.exponential(size=80)
        columns = torch.tensor(np.stack([weight * rng.exponential(2, size=80), weight], 1))
        found = bootstrap(columns, mean)["mean"]
        covered += found.low <= 2 <= found.high
    assert covered >= 95 - 4 * np.sqrt(100 * 0.95 * 0.05) - 1


def test_a_confidence_is_between_zero_and_one():
    with pytest.raises(RequestError, match="confidence=95"):
        bootstrap(torch.ones(3, 2), mean, confidence=95)


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (3, 20), (20, 20), (50, 173)])
def test_wilson_is_scipys(hits, trials):
    found = wilson(np.array(float(hits)), trials, 0.9)
    expected = stats.binomtest(hits, trials).proportion_ci(0.9, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == hits / trials
