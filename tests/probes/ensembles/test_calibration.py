"""Calibration errors: bins at their ends, the plug-in's bias, and the null without it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.ensembles.calibration import (
    calibration_error,
    calibration_null,
    classwise_calibration_error,
    debiased_calibration_error,
    null_band,
    reliability,
    squared_calibration_error,
)
from landscape.probes.ensembles.probabilities import log_probabilities
from landscape.similarity.comparing import compare_family

SIMULATIONS = 1000


def calibrated(count, generator):
    """Confidences from .6 to 1, and answers that are right as often as they say."""
    confidence = generator.uniform(0.6, 1, count)
    return confidence, generator.random(count) < confidence


# --- Plug-in ---


def test_confidence_one_falls_in_the_last_bin():
    assert calibration_error([0.95, 1.0], [True, False], num_bins=10) == pytest.approx(0.475)
    bins = reliability([0.95, 1.0], [True, False], num_bins=10)
    assert bins.count.tolist() == [0] * 9 + [2]


def test_confidence_zero_falls_in_the_first_bin():
    assert calibration_error([0.0, 0.05], [False, True], num_bins=10) == pytest.approx(0.475)
    assert reliability([0.0], [False], num_bins=10).count[0] == 1


def test_a_bin_has_its_upper_end():
    assert reliability([0.25, 0.5, 0.75], [1, 1, 1], num_bins=4).count.tolist() == [1, 1, 1, 0]


def test_by_hand():
    confidence, correct = [0.55, 0.6, 0.9, 0.95], [1, 0, 1, 1]
    error = (abs(1 - 1.15) + abs(2 - 1.85)) / 4
    assert calibration_error(confidence, correct, num_bins=4) == pytest.approx(error)


def test_it_is_the_mean_gap_of_the_diagram(draw):
    generator = np.random.default_rng(0)
    confidence, correct = calibrated(200, generator)
    bins = reliability(confidence, correct, num_bins=7)
    gaps = np.abs(bins.accuracy - bins.confidence)
    expected = np.nansum(bins.count * gaps) / 200
    assert calibration_error(confidence, correct, num_bins=7) == pytest.approx(expected)
    assert np.isnan(bins.low[0])
    full = bins.count > 0
    assert (bins.low[full] <= bins.accuracy[full]).all()
    assert (bins.accuracy[full] <= bins.high[full]).all()


def test_it_is_that_of_compared_networks():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (50,), generator=generator)
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, dtype=torch.float64)
    objective = Objective(nn.Sequential(layer), (inputs, labels))
    thetas = [objective.theta, 2 * objective.theta]
    theirs = compare_family(objective, thetas).predictions
    for index, scale in enumerate((1, 2)):
        log_p = (scale * layer(inputs)).log_softmax(1).detach().numpy()
        ours = calibration_error(np.exp(log_p.max(1)), log_p.argmax(1) == labels.numpy())
        assert ours == pytest.approx(theirs["calibration_error"].value[index])


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_the_order_of_examples_does_not_matter(binning):
    generator = np.random.default_rng(1)
    confidence = generator.integers(5, 11, 90) / 10  # many ties
    correct = generator.random(90) < confidence
    found = calibration_error(confidence, correct, num_bins=4, binning=binning)
    for _ in range(5):
        order = generator.permutation(90)
        again = calibration_error(confidence[order], correct[order], num_bins=4, binning=binning)
        assert again == pytest.approx(found, abs=1e-15)


def test_bins_of_equal_mass_hold_equally_many():
    confidence = np.random.default_rng(0).random(103) ** 4
    count = reliability(confidence, confidence > 0.5, num_bins=10, binning="mass").count
    assert set(count) <= {10, 11}
    assert count.sum() == 103


def test_equal_confidences_share_a_bin_of_equal_mass():
    count = reliability([0.7] * 9 + [0.9], [1] * 10, num_bins=5, binning="mass").count
    assert sorted(count) == [0, 0, 0, 1, 9]


def test_a_probability_above_one_by_rounding_is_one():
    assert calibration_error([1 + 1e-9] * 3, [1, 1, 1]) == 0


def test_sure_and_always_right_is_without_error():
    assert calibration_error([1.0] * 5, [True] * 5) == 0
    assert squared_calibration_error([1.0] * 5, [True] * 5) == 0


@pytest.mark.parametrize(
    ("confidence", "correct", "options", "reason"),
    [
        ([1.2], [1], {}, "expected .* probabilities"),
        ([-0.1], [1], {}, "not logits"),
        ([math.nan], [1], {}, "probabilities"),
        ([], [], {}, "empty"),
        ([0.5], [1, 0], {}, "correct has 2 entries for 1"),
        ([0.5], [1], {"num_bins": 0}, "num_bins=0"),
        ([0.5], [1], {"binning": "masses"}, "Did you mean 'mass'"),
    ],
)
def test_other_input_is_refused(confidence, correct, options, reason):
    with pytest.raises(RequestError, match=reason):
        calibration_error(np.asarray(confidence, float), correct, **options)


# --- Null ---


@pytest.mark.parametrize(("count", "bias"), [(500, 0.033), (2000, 0.0165), (10_000, 0.0074)])
def test_a_perfect_predictor_has_an_error_that_the_null_takes_off(count, bias):
    generator = np.random.default_rng(0)
    pairs = [calibrated(count, generator) for _ in range(40)]
    plain = np.asarray([calibration_error(*pair) for pair in pairs])
    nulls = [calibration_null(pair[0], seed=0).mean for pair in pairs[:2]]
    assert plain.mean() == pytest.approx(bias, rel=0.1)
    error = plain.std(ddof=1) / math.sqrt(len(plain))
    assert abs(plain.mean() - np.mean(nulls)) < 4 * error
    # In a bin of n examples the gap is normal, with the variance of right and wrong.
    held = pairs[0][0]
    bins = np.ceil(held * 15)
    sums = [math.sqrt((held * (1 - held))[bins == b].sum()) for b in np.unique(bins)]
    assert nulls[0] == pytest.approx(math.sqrt(2 / math.pi) * sum(sums) / count, rel=0.04)


def test_the_debiased_error_is_the_plug_in_less_the_null():
    confidence, correct = calibrated(300, np.random.default_rng(3))
    plain = calibration_error(confidence, correct, num_bins=8, binning="mass")
    null = calibration_null(confidence, seed=5, num_bins=8, binning="mass")
    found = debiased_calibration_error(confidence, correct, seed=5, num_bins=8, binning="mass")
    assert found == pytest.approx(plain - null.mean, abs=1e-15)


def test_the_band_holds_a_perfect_predictor_as_often_as_it_says():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.6, 1, 200)
    band = calibration_null(confidence, seed=1, level=0.8)
    inside = [
        band.low <= calibration_error(confidence, generator.random(200) < confidence) <= band.high
        for _ in range(200)
    ]
    assert np.mean(inside) == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 200))


def test_an_overconfident_predictor_lies_above_the_band():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.6, 1, 500)
    correct = generator.random(500) < confidence - 0.15
    assert calibration_error(confidence, correct) > calibration_null(confidence, seed=0).high
    assert debiased_calibration_error(confidence, correct, seed=0) > 0.1


def test_the_seed_repeats_the_null_and_another_does_not():
    confidence = np.linspace(0.5, 1, 50)
    assert calibration_null(confidence, seed=1) == calibration_null(confidence, seed=1)
    assert calibration_null(confidence, seed=1) != calibration_null(confidence, seed=2)


def test_the_null_simulates_with_the_confidences_in_blocks(monkeypatch):
    from landscape.probes.ensembles import calibration

    monkeypatch.setattr(calibration, "_BLOCK", 900)  # of 3 examples, 300 simulations at a time
    seen = []

    def measure(answers):
        seen.append(answers)
        return answers.mean(1)

    band = null_band(np.array([0.0, 0.5, 1.0]), measure, seed=0)
    answers = np.concatenate(seen)
    assert [len(part) for part in seen] == [300, 300, 300, 100]
    assert answers[:, 0].max() == 0
    assert answers[:, 2].min() == 1
    assert answers[:, 1].mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(SIMULATIONS))
    assert band.mean == pytest.approx(0.5, abs=0.03)


def test_a_level_outside_zero_and_one_is_refused():
    with pytest.raises(RequestError, match=r"level=95, .* such as 0.95"):
        calibration_null([0.5], seed=0, level=95)


# --- Squared ---


def test_the_squared_error_is_unbiased_for_perfect_and_for_wrong_confidences():
    generator = np.random.default_rng(0)
    for shift in (0.0, 0.1):
        found = []
        for _ in range(400):
            confidence = generator.uniform(0.6, 1, 100)
            correct = generator.random(100) < confidence - shift
            found.append(squared_calibration_error(confidence, correct, num_bins=5))
        error = np.std(found, ddof=1) / math.sqrt(len(found))
        assert abs(np.mean(found) - shift**2) < 4 * error
    assert min(found) < 0  # unbiased near 0 cannot be without it


def test_with_one_confidence_in_each_bin_it_is_the_published_estimator():
    confidence = np.repeat([0.3, 0.8], [7, 12])
    correct = np.random.default_rng(0).random(19) < 0.5
    expected = 0.0
    for value in (0.3, 0.8):
        right = correct[confidence == value]
        n, share = len(right), right.mean()
        expected += n / 19 * ((value - share) ** 2 - share * (1 - share) / (n - 1))
    assert squared_calibration_error(confidence, correct) == pytest.approx(expected)


def test_bins_of_one_example_are_left_out():
    assert math.isnan(squared_calibration_error([0.1, 0.9], [0, 1]))
    alone = squared_calibration_error([0.9, 0.9], [0, 1])
    assert squared_calibration_error([0.9, 0.9, 0.1], [0, 1, 1]) == pytest.approx(alone)


# --- Class by class ---


def test_class_by_class_it_is_the_mean_error_of_each_class(draw):
    logits, labels = draw(1, 80, 3)
    log_p = log_probabilities(logits)[0]
    for binning in ("width", "mass"):
        expected = np.mean(
            [
                calibration_error(np.exp(log_p[:, c]), labels == c, num_bins=6, binning=binning)
                for c in range(3)
            ]
        )
        found = classwise_calibration_error(log_p, labels, num_bins=6, binning=binning)
        assert found == pytest.approx(expected)


def test_probabilities_up_to_the_threshold_do_not_count():
    log_p = np.log([[0.6, 0.3995, 0.0005], [0.6, 0.3995, 0.0005], [0.2, 0.2, 0.6]])
    found = classwise_calibration_error(log_p, [0, 1, 2], num_bins=1, threshold=1e-3)
    errors = [abs(1 - 1.4) / 3, abs(1 - 0.999) / 3, abs(1 - 0.6) / 1]
    assert found == pytest.approx(np.mean(errors))
    never = classwise_calibration_error(log_p[:2], [0, 1], num_bins=1, threshold=1e-3)
    assert never == pytest.approx((abs(1 - 1.2) + abs(1 - 0.799)) / 2 / 3)
