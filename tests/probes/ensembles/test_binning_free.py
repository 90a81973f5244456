"""Calibration without bins: gaps of sums, and smoothed residuals against a plain integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from landscape.probes.ensembles.binning_free import (
    ks_calibration_error,
    ks_calibration_null,
    smooth_calibration_error,
    smoothed_size,
)


def test_the_largest_gap_of_sums_by_hand():
    # Residuals in the order of confidence: +.8, -.5, +.1; sums .8, .3, .4.
    assert ks_calibration_error([0.9, 0.2, 0.5], [1, 1, 0]) == pytest.approx(0.8 / 3)


def test_equal_confidences_enter_together():
    # One by one the sums would reach .5 or -.5.
    assert ks_calibration_error([0.5, 0.5], [1, 0]) == 0
    assert ks_calibration_error([0.5, 0.5], [0, 1]) == 0


def test_it_is_the_mean_gap_where_all_are_too_sure():
    confidence = np.linspace(0.5, 0.9, 20)
    correct = np.zeros(20, bool)
    assert ks_calibration_error(confidence, correct) == pytest.approx(confidence.mean())


def test_the_null_is_what_a_perfect_predictor_has():
    generator = np.random.default_rng(0)
    confidence = generator.random(150)
    null = ks_calibration_null(confidence, seed=0)
    found = [
        ks_calibration_error(confidence, generator.random(150) < confidence) for _ in range(200)
    ]
    error = np.std(found, ddof=1) / math.sqrt(200)
    assert abs(np.mean(found) - null.mean) < 4 * error
    assert null.low < null.mean < null.high
    assert null == ks_calibration_null(confidence, seed=0)


def test_smoothed_residuals_are_the_integral_over_the_reflected_gaussian():
    generator = np.random.default_rng(0)
    confidence, residuals = generator.random(12), generator.normal(size=12)
    places = (np.arange(4000) + 0.5) / 4000
    for width in (0.05, 0.2, 0.7):
        kernel = sum(
            norm.pdf(places[:, None], sign * confidence + 2 * shift, width)
            for sign in (1, -1)
            for shift in range(-4, 5)
        )
        expected = np.abs(kernel @ residuals / 12).mean()
        assert smoothed_size(confidence, residuals, width) == pytest.approx(expected, rel=2e-3)


def test_the_smooth_error_is_its_own_bandwidth():
    generator = np.random.default_rng(1)
    confidence = generator.random(300)
    correct = generator.random(300) < confidence**2
    found = smooth_calibration_error(confidence, correct)
    assert smoothed_size(confidence, correct - confidence, found) == pytest.approx(found, rel=1e-6)


def test_a_constant_gap_is_the_smooth_error():
    # All residuals have one sign: smoothing takes nothing away from their mean.
    assert smooth_calibration_error([0.9] * 10, [0] * 10) == pytest.approx(0.9, abs=1e-6)
    assert smooth_calibration_error([1.0] * 10, [1] * 10) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("error", [ks_calibration_error, smooth_calibration_error])
def test_the_order_of_examples_does_not_matter(error):
    generator = np.random.default_rng(0)
    confidence = generator.integers(0, 11, 60) / 10
    correct = generator.random(60) < 0.5
    order = generator.permutation(60)
    again = error(confidence[order], correct[order])
    assert again == pytest.approx(error(confidence, correct), abs=1e-12)
