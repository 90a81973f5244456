"""Every number of the record is that of its own function."""

from __future__ import annotations

import numpy as np

from landscape.probes.ensembles.binning_free import (
    ks_calibration_error,
    ks_calibration_null,
    smooth_calibration_error,
)
from landscape.probes.ensembles.calibration import (
    calibration_error,
    calibration_null,
    classwise_calibration_error,
    debiased_calibration_error,
    reliability,
    squared_calibration_error,
)
from landscape.probes.ensembles.calibration_report import calibration_report
from landscape.probes.ensembles.evaluation import evaluate
from landscape.probes.ensembles.selective import aurc


def test_it_holds_what_the_functions_say(draw):
    logits, labels = draw(2, 60, 3)
    held = evaluate(logits, labels)
    found = calibration_report(held, num_bins=6, seed=4, level=0.9)
    sure, right, log_p = held.confidence, held.correct, held.log_probability
    assert found.ece == calibration_error(sure, right, num_bins=6)
    assert found.ece_debiased == debiased_calibration_error(sure, right, num_bins=6, seed=4)
    assert found.ece_null == calibration_null(sure, num_bins=6, seed=4, level=0.9)
    assert found.squared_ece == squared_calibration_error(sure, right, num_bins=6)
    assert found.adaptive_ece == calibration_error(sure, right, num_bins=6, binning="mass")
    mass = calibration_null(sure, num_bins=6, binning="mass", seed=4, level=0.9)
    assert found.adaptive_ece_null == mass
    assert found.classwise_ece == classwise_calibration_error(log_p, labels, num_bins=6)
    assert found.tace == classwise_calibration_error(
        log_p, labels, num_bins=6, binning="mass", threshold=1e-3
    )
    assert found.ks_error == ks_calibration_error(sure, right)
    assert found.ks_null == ks_calibration_null(sure, seed=4, level=0.9)
    assert found.smooth_ece == smooth_calibration_error(sure, right)
    np.testing.assert_allclose(found.aurc, aurc(sure, right))
    expected = reliability(sure, right, num_bins=6, level=0.9)
    np.testing.assert_array_equal(found.reliability.low, expected.low)


def test_answers_that_round_to_certainty_are_still_ordered():
    logits = np.array([[[0.0, 50.0], [0.0, 60.0], [70.0, 0.0]]])
    held = evaluate(logits, [0, 1, 0])
    assert held.confidence.tolist() == [1, 1, 1]
    found = calibration_report(held, num_bins=5, seed=0, level=0.95)
    np.testing.assert_allclose(found.aurc, 1 / 9)  # the least sure answer is the wrong one
