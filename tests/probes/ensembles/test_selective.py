"""Risk and coverage: ties have no order."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.ensembles.selective import aurc, risk_coverage


def test_by_hand():
    found = risk_coverage([0.9, 0.5, 0.7], [True, False, False])
    np.testing.assert_allclose(found, [0, 1 / 2, 2 / 3])
    assert aurc([0.9, 0.5, 0.7], [1, 0, 0]) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)


def test_equal_confidences_have_the_mean_over_their_orders():
    correct = np.array([1, 0, 0, 1, 1])
    orders = [[0, *order, 4] for order in permutations([1, 2, 3])]
    curves = [np.cumsum(1 - correct[order]) / np.arange(1, 6) for order in orders]
    found = risk_coverage([0.9, 0.7, 0.7, 0.7, 0.2], correct)
    np.testing.assert_allclose(found, np.mean(curves, 0))


def test_constant_confidence_has_the_error_everywhere():
    assert aurc([0.5] * 8, [1, 0, 1, 1, 0, 1, 1, 1]) == pytest.approx(0.25)


def test_it_is_invariant_to_order_and_to_rising_functions():
    generator = np.random.default_rng(0)
    confidence = generator.integers(0, 6, 40).astype(float)
    correct = generator.random(40) < 0.6
    order = generator.permutation(40)
    expected = aurc(confidence, correct)
    assert aurc(confidence[order], correct[order]) == pytest.approx(expected, abs=1e-15)
    assert aurc(np.exp(confidence), correct) == pytest.approx(expected, abs=1e-15)


def test_without_errors_it_is_zero():
    assert aurc([0.1, 0.2], [1, 1]) == 0


@pytest.mark.parametrize(
    ("confidence", "correct", "reason"),
    [
        ([math.nan, 1.0], [1, 1], "1 NaN of 2"),
        ([1.0], [1, 1], "correct has 2 entries"),
        ([], [], "one or more numbers"),
    ],
)
def test_other_input_is_refused(confidence, correct, reason):
    with pytest.raises(RequestError, match=reason):
        aurc(np.asarray(confidence), np.asarray(correct, bool))
