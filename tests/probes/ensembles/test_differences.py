"""Headline numbers have intervals that hold them, and differences are paired."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from landscape.errors import RequestError
from landscape.probes.ensembles.calibration import calibration_error
from landscape.probes.ensembles.differences import HEADLINE, headline, paired_difference
from landscape.probes.ensembles.diversity import diversity
from landscape.probes.ensembles.evaluation import evaluate
from landscape.probes.ensembles.temperature import calibrated_nll
from landscape.similarity.bootstrap import wilson


def values(logits, labels, seed=0):
    held, apart = evaluate(logits, labels), diversity(logits, labels)
    return {
        "ensemble_accuracy": held.correct.mean(),
        "ensemble_nll": held.nll.mean(),
        "ensemble_brier": held.brier.mean(),
        "calibrated_nll": calibrated_nll(held.log_probability, labels, seed=seed).value,
        "mean_accuracy": held.member_correct.mean(),
        "mean_nll": held.member_nll.mean(),
        "mean_brier": held.member_brier.mean(),
        "accuracy_gain": held.correct.mean() - held.member_correct.mean(),
        "nll_gain": apart.nll_gain.mean(),
        "brier_gain": apart.brier_gain.mean(),
        "disagreement": apart.disagreement.mean(),
        "normalized_disagreement": apart.normalized_disagreement,
        "mutual_information": apart.mutual_information.mean(),
    }


def test_each_value_is_what_its_own_module_says(draw):
    logits, labels = draw(4, 70, 3)
    held = evaluate(logits, labels)
    calibrated = calibrated_nll(held.log_probability, labels)
    found = headline(held, calibrated.per_example)
    assert list(found) == list(HEADLINE)
    for name, expected in values(logits, labels).items():
        assert found[name].value == pytest.approx(expected), name
        assert found[name].low <= found[name].value <= found[name].high, name


def test_the_accuracy_has_the_interval_of_a_proportion():
    held = evaluate([[[0.0, 3.0]] * 12], [1] * 12)
    found = headline(held, held.nll, confidence=0.9)["ensemble_accuracy"]
    expected = wilson(np.asarray(12.0), 12, 0.9)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(expected.low)
    assert found.low < 1


def test_the_width_is_that_of_the_standard_error(draw):
    logits, labels = draw(3, 400, 3)
    held = evaluate(logits, labels)
    found = headline(held, held.nll)["ensemble_nll"]
    expected = 2 * 1.96 * held.nll.std(ddof=1) / 20
    assert found.high - found.low == pytest.approx(expected, rel=0.12)


def test_a_difference_is_that_of_both_and_names_their_calibration(draw):
    logits, labels = draw(4, 70, 3)
    other = 1.7 * logits[:3] + np.random.default_rng(0).normal(size=(3, 70, 3))
    found = paired_difference(logits, other, labels, num_bins=6, seed=2)
    one, two = values(logits, labels, seed=2), values(other, labels, seed=2)
    for name in one:
        assert found[name].value == pytest.approx(one[name] - two[name]), name
    errors = []
    for each in (logits, other):
        held = evaluate(each, labels)
        errors.append(calibration_error(held.confidence, held.correct, num_bins=6))
    assert found["ensemble_ece"].value == pytest.approx(errors[0] - errors[1])
    assert set(found) == {*HEADLINE, "ensemble_ece"}


def test_an_ensemble_does_not_differ_from_itself(draw):
    logits, labels = draw(3, 40, 3)
    for name, held in paired_difference(logits, logits[::-1], labels).items():
        assert abs(held.low) < 1e-12, name
        assert abs(held.high) < 1e-12, name


def test_what_both_have_in_common_drops_out(draw):
    logits, labels = draw(3, 200, 3)
    other = logits + 0.05 * np.random.default_rng(0).normal(size=logits.shape)
    paired = paired_difference(logits, other, labels)["ensemble_nll"]
    held = evaluate(logits, labels)
    alone = headline(held, held.nll)["ensemble_nll"]
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_exchanged_ensembles_have_the_opposite_difference(draw):
    logits, labels = draw(2, 50, 3)
    one = paired_difference(logits[:1], logits[1:], labels)["ensemble_brier"]
    other = paired_difference(logits[1:], logits[:1], labels)["ensemble_brier"]
    assert other.value == pytest.approx(-one.value)
    assert other.low == pytest.approx(-one.high)


@pytest.mark.slow
def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    apart = np.linspace(-12, 12, 4001)  # log-odds of two classes, normal with variance 2
    weight = norm.pdf(apart, scale=math.sqrt(2)) * (apart[1] - apart[0])
    right = 1 / (1 + np.exp(-apart))
    losses = [
        right * np.logaddexp(0, -a * apart) + (1 - right) * np.logaddexp(0, a * apart)
        for a in (1, 2)
    ]
    truly = float(weight @ (losses[0] - losses[1]))
    generator = np.random.default_rng(0)
    covered = []
    for seed in range(300):
        truth = generator.normal(size=(80, 2))
        labels = (truth + generator.gumbel(size=truth.shape)).argmax(1)
        held = paired_difference(truth[None], 2 * truth[None], labels, seed=seed)["ensemble_nll"]
        covered.append(held.low <= truly <= held.high)
    assert 0.9 < np.mean(covered) < 0.985


def test_the_seed_repeats_the_intervals(draw):
    logits, labels = draw(3, 40, 3)
    one, again, other = (
        paired_difference(logits, logits[:2], labels, seed=s)["ensemble_nll"] for s in (1, 1, 2)
    )
    assert (one.low, one.high) == (again.low, again.high)
    assert one.low != other.low


def test_without_errors_the_normalised_disagreement_is_undefined():
    held = evaluate([[[0.0, 3.0]] * 4] * 2, [1] * 4)
    found = headline(held, held.nll)["normalized_disagreement"]
    assert math.isnan(found.value)


def test_two_infinite_losses_have_no_difference():
    logits = np.array([[[0.0, 1.0]] * 6])
    found = paired_difference(logits, 2 * logits, [1, 1, 1, 1, 1, 0])
    assert math.isnan(found["calibrated_nll"].value)
    assert np.isfinite(found["ensemble_nll"].low)


def test_other_classes_are_refused(draw):
    logits, _ = draw(2, 5, 3)
    with pytest.raises(RequestError, match="logits has 3 classes and other has 4"):
        paired_difference(logits, np.zeros((1, 5, 4)), [0, 1, 0, 1, 0])
    with pytest.raises(RequestError, match="confidence=95"):
        paired_difference(logits, logits, [0, 1, 0, 1, 0], confidence=95)
