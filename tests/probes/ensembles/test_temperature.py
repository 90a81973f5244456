"""Temperatures: the convex minimum with its slope, its limits, and the loss on other examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from landscape.errors import RequestError
from landscape.probes.ensembles import temperature
from landscape.probes.ensembles.probabilities import log_probabilities
from landscape.probes.ensembles.temperature import calibrated_nll, fit_temperature


def loss(logits, labels, beta):
    scaled = beta * np.asarray(logits)
    return float((logsumexp(scaled, 1) - scaled[np.arange(len(scaled)), labels]).mean())


# --- The fit ---


def test_two_classes_have_it_in_closed_form():
    # Log-odds +-1, right in 3 of 4: the best log-odds are log 3.
    logits = [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    found = fit_temperature(logits, [1, 1, 0, 1])
    assert found.beta == pytest.approx(math.log(3), rel=1e-12)
    assert found.temperature == pytest.approx(1 / math.log(3))
    assert found.nll == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found.verdict == "positive"


def test_it_is_the_minimum_that_another_search_finds(draw):
    logits, labels = draw(1, 200, 5)
    found = fit_temperature(logits[0], labels)
    other = minimize_scalar(lambda beta: loss(logits[0], labels, beta), bracket=(0.1, 2))
    assert found.beta == pytest.approx(other.x, rel=1e-6)
    assert found.nll == pytest.approx(other.fun, abs=1e-13)
    assert loss(logits[0], labels, found.beta) == pytest.approx(found.nll, abs=1e-13)


def test_the_reported_slope_is_that_of_the_loss_there(draw, monkeypatch):
    logits, labels = draw(1, 100, 4)
    assert abs(fit_temperature(logits[0], labels).gradient) < 1e-10
    monkeypatch.setattr(temperature, "_MAX_STEPS", 2)  # stopped on the way
    early = fit_temperature(logits[0], labels)
    ahead, behind = (loss(logits[0], labels, early.beta + h) for h in (1e-5, -1e-5))
    assert early.gradient == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)
    assert not early.converged


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e8])
def test_scaled_logits_have_the_scaled_temperature(draw, scale):
    logits, labels = draw(1, 60, 4)
    one, other = (fit_temperature(a * logits[0], labels) for a in (1, scale))
    assert other.temperature == pytest.approx(scale * one.temperature, rel=1e-10)
    assert other.nll == pytest.approx(one.nll, abs=1e-12)


def test_constants_of_a_row_do_not_matter(draw):
    logits, labels = draw(1, 60, 4)
    shifted = logits[0] + 1000 * np.random.default_rng(0).normal(size=(60, 1))
    one, other = fit_temperature(logits[0], labels), fit_temperature(shifted, labels)
    assert other.beta == pytest.approx(one.beta, rel=1e-9)


def test_a_step_into_the_plain_is_taken_back():
    # Of 1000 classes one stands out, and is right in 9 of 10: it should have the probability .9.
    # At 0 the loss is all but straight, and beyond the minimum all but flat.
    logits = np.zeros((10, 1000))
    logits[:, 0] = 1
    found = fit_temperature(logits, [0] * 9 + [1])
    assert found.beta == pytest.approx(math.log(0.9 * 999 / 0.1), rel=1e-10)
    assert found.converged


def test_one_example_far_off_is_found_by_bisection():
    # Newton from the flat side would leave for infinity.
    logits = np.array([[0.0, 1e-3]] * 999 + [[0.0, 300.0]])
    labels = [1] * 999 + [0]
    found = fit_temperature(logits, labels)
    other = minimize_scalar(lambda beta: loss(logits, labels, beta), bounds=(-1, 1))
    assert found.converged
    assert found.nll <= other.fun + 1e-12


def test_without_a_wrong_answer_beta_is_infinite():
    found = fit_temperature([[0.0, 1.0], [2.0, 0.0]], [1, 0])
    assert (found.beta, found.temperature, found.nll) == (math.inf, 0, 0)
    assert found.verdict == "separable"
    tied = fit_temperature([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]], [0, 1])
    assert tied.verdict == "separable"
    assert tied.nll == pytest.approx(math.log(2) / 2)


def test_a_predictor_that_is_worse_than_guessing_has_a_negative_beta(draw):
    logits, labels = draw(1, 60, 4)
    one, other = fit_temperature(logits[0], labels), fit_temperature(-logits[0], labels)
    assert other.beta == pytest.approx(-one.beta, rel=1e-10)
    assert other.verdict == "anti-correlated"
    never = fit_temperature([[0.0, 1.0], [2.0, 0.0]], [0, 1])
    assert (never.beta, never.nll, never.verdict) == (-math.inf, 0, "anti-correlated")


def test_a_predictor_that_knows_nothing_has_beta_zero_or_none():
    balanced = fit_temperature([[0.0, 1.0], [0.0, 1.0]], [0, 1])
    assert (balanced.beta, balanced.temperature) == (0, math.inf)
    assert balanced.verdict == "uninformative"
    flat = fit_temperature([[3.0, 3.0]], [1])
    assert math.isnan(flat.beta)
    assert (flat.nll, flat.verdict) == (pytest.approx(math.log(2)), "flat")


def test_blocks_do_not_matter(draw, monkeypatch):
    logits, labels = draw(1, 50, 3)
    one, folded = fit_temperature(logits[0], labels), calibrated_nll(logits[0], labels)
    monkeypatch.setattr(temperature, "_BLOCK", 7)
    assert fit_temperature(logits[0], labels).beta == pytest.approx(one.beta, rel=1e-12)
    again = calibrated_nll(logits[0], labels)
    np.testing.assert_allclose(again.per_example, folded.per_example, rtol=1e-10)


# --- Test-time cross-validation ---


def test_each_half_is_scored_at_the_temperature_of_the_other(draw):
    logits, labels = draw(1, 41, 3)
    log_p = log_probabilities(logits)[0]
    found = calibrated_nll(log_p, labels, seed=3, num_shuffles=2)
    expected = np.zeros(41)
    for row, child in enumerate(np.random.SeedSequence(3).spawn(2)):
        order = np.random.default_rng(child).permutation(41)
        halves = order[:20], order[20:]
        for index, (fit, score) in enumerate((halves, halves[::-1])):
            beta = fit_temperature(log_p[fit], labels[fit]).beta
            assert found.betas[row, index] == pytest.approx(beta, rel=1e-9)
            scaled = beta * log_p[score]
            own = scaled[np.arange(len(score)), labels[score]]
            expected[score] += (logsumexp(scaled, 1) - own) / 2
    np.testing.assert_allclose(found.per_example, expected, rtol=1e-9)
    assert found.value == pytest.approx(expected.mean())


def test_it_does_not_see_how_loud_the_predictor_is(draw):
    logits, labels = draw(1, 80, 4)
    one, other = (calibrated_nll(a * logits[0], labels, seed=1) for a in (1, 9.5))
    assert other.value == pytest.approx(one.value, abs=1e-12)
    np.testing.assert_allclose(9.5 * other.betas, one.betas, rtol=1e-9)


def test_of_a_calibrated_predictor_it_is_the_loss_and_of_a_loud_one_less(draw):
    logits, labels = draw(1, 2000, 3, spread=0)
    log_p = log_probabilities(logits)[0]
    plain = loss(log_p, labels, 1)
    assert calibrated_nll(log_p, labels).value == pytest.approx(plain, abs=0.005)
    assert calibrated_nll(5 * log_p, labels).value < loss(5 * log_p, labels, 1) - 0.3


def test_it_is_no_better_than_the_best_temperature_in_hindsight(draw):
    logits, labels = draw(1, 60, 3)
    found = calibrated_nll(logits[0], labels)
    assert found.value > found.fitted.nll
    assert found.fitted == fit_temperature(logits[0], labels)


def test_the_seed_repeats_the_halves_and_another_does_not(draw):
    logits, labels = draw(1, 40, 3)
    one, again, other = (calibrated_nll(logits[0], labels, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.betas, again.betas)
    assert one.value == again.value
    assert (one.betas != other.betas).all()
    assert one.spread > 0
    assert len(np.unique(one.betas)) == one.betas.size  # the shuffles differ, too


def test_gradients_and_verdicts_are_of_every_half(draw):
    logits, labels = draw(1, 60, 3)
    found = calibrated_nll(logits[0], labels, num_shuffles=3)
    assert found.gradients.shape == found.betas.shape == (3, 2)
    assert np.abs(found.gradients).max() < 1e-9
    assert found.verdicts == ("positive",) * 6
    assert found.converged


def test_halves_may_lie_on_either_side_of_guessing():
    logits, labels = np.array([[0.0, 1.0]] * 12), np.array([1] * 7 + [0] * 5)
    found = calibrated_nll(logits, labels, num_shuffles=12)
    for row, child in enumerate(np.random.SeedSequence(0).spawn(12)):
        order = np.random.default_rng(child).permutation(12)
        for index, half in enumerate((order[:6], order[6:])):
            ones = labels[half].sum()
            expected = math.log(ones / (6 - ones)) if ones < 6 else math.inf
            assert found.betas[row, index] == pytest.approx(expected, abs=1e-10)
    assert found.betas.min() < 0 < found.betas.max()
    assert found.converged


def test_separable_halves_are_reported_and_cost_what_they_miss():
    logits = np.array([[0.0, 1.0]] * 10)
    right = calibrated_nll(logits, [1] * 10)
    assert (right.value, set(right.verdicts)) == (0, {"separable"})
    wrong = calibrated_nll(logits, [1] * 9 + [0], num_shuffles=4)
    assert wrong.value == math.inf
    assert np.isinf(wrong.per_example).tolist() == [False] * 9 + [True]
    assert wrong.verdicts.count("separable") == 4
    assert math.isnan(wrong.spread)


def test_halves_without_information_have_the_loss_of_guessing():
    assert calibrated_nll(np.zeros((6, 4)), [0, 1, 2, 3, 0, 1]).value == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("logits", "labels", "options", "reason"),
    [
        ([[0.0, 1.0]], [0], {}, "2 or more examples to halve"),
        ([[0.0, 1.0]] * 2, [0, 1], {"num_shuffles": 0}, "num_shuffles=0"),
        ([[0.0, math.nan]] * 2, [0, 1], {}, "2 values that are not finite"),
        ([[0.0, 1.0]] * 2, [0, 2], {}, "labels has class 2"),
        (np.zeros((0, 2)), np.zeros(0, int), {}, "one or more examples"),
    ],
)
def test_other_input_is_refused(logits, labels, options, reason):
    with pytest.raises(RequestError, match=reason):
        calibrated_nll(logits, labels, **options)
