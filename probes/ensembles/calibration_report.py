"""All that is said of an ensemble's calibration, in one record."""

from __future__ import annotations

from dataclasses import dataclass

from landscape.probes.ensembles.binning_free import (
    ks_calibration_error,
    ks_calibration_null,
    smooth_calibration_error,
)
from landscape.probes.ensembles.calibration import (
    NullBand,
    Reliability,
    calibration_error,
    calibration_null,
    classwise_calibration_error,
    reliability,
    squared_calibration_error,
)
from landscape.probes.ensembles.evaluation import Evaluation
from landscape.probes.ensembles.probabilities import log_odds
from landscape.probes.ensembles.selective import aurc

__all__ = ["CalibrationReport", "calibration_report"]

_TACE_THRESHOLD = 1e-3  # as in Nixon et al. 2019


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """Of the ensemble's confidence in its own class, and of all classes.

    Attributes:
        ece: expected calibration error in bins of equal width, the plug-in.
        ece_debiased: less the mean of its null.
        ece_null: what a perfect predictor with these confidences has.
        squared_ece: unbiased estimate of the squared error.
        adaptive_ece: in bins of equal mass.
        adaptive_ece_null: its null.
        classwise_ece: mean over classes, equal width (SCE).
        tace: mean over classes, equal mass, probabilities above 1e-3.
        ks_error: Kolmogorov-Smirnov, without bins.
        ks_null: its null.
        smooth_ece: smoothed, without bins.
        aurc: area under the risk-coverage curve.
        reliability: the diagram, in bins of equal width.
    """

    ece: float
    ece_debiased: float
    ece_null: NullBand
    squared_ece: float
    adaptive_ece: float
    adaptive_ece_null: NullBand
    classwise_ece: float
    tace: float
    ks_error: float
    ks_null: NullBand
    smooth_ece: float
    aurc: float
    reliability: Reliability


def calibration_report(
    held: Evaluation, *, num_bins: int, seed: int, level: float
) -> CalibrationReport:
    """All measures of an evaluated ensemble.

    Args:
        num_bins: of all that have bins.
        seed: of the simulated nulls.
        level: of the nulls and of the diagram's intervals.

    Raises:
        RequestError: no bins, or a level outside (0, 1).
    """
    sure, right = held.confidence, held.correct
    ece = calibration_error(sure, right, num_bins=num_bins)
    null = calibration_null(sure, num_bins=num_bins, seed=seed, level=level)
    log_p, labels = held.log_probability, held.labels
    return CalibrationReport(
        ece=ece,
        ece_debiased=ece - null.mean,
        ece_null=null,
        squared_ece=squared_calibration_error(sure, right, num_bins=num_bins),
        adaptive_ece=calibration_error(sure, right, num_bins=num_bins, binning="mass"),
        adaptive_ece_null=calibration_null(
            sure, num_bins=num_bins, binning="mass", seed=seed, level=level
        ),
        classwise_ece=classwise_calibration_error(log_p, labels, num_bins=num_bins),
        tace=classwise_calibration_error(
            log_p, labels, num_bins=num_bins, binning="mass", threshold=_TACE_THRESHOLD
        ),
        ks_error=ks_calibration_error(sure, right),
        ks_null=ks_calibration_null(sure, seed=seed, level=level),
        smooth_ece=smooth_calibration_error(sure, right),
        aurc=aurc(log_odds(log_p), right),
        reliability=reliability(sure, right, num_bins=num_bins, level=level),
    )
