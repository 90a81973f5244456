"""Calibration without bins: the Kolmogorov-Smirnov and the smooth calibration error."""

from __future__ import annotations

from functools import partial

import numpy as np

from landscape.probes.arrays import ArrayLike, Floats, Ints
from landscape.probes.ensembles.calibration import (
    NullBand,
    checked_confidence,
    checked_correct,
    null_band,
)

__all__ = ["ks_calibration_error", "ks_calibration_null", "smooth_calibration_error"]

_GRID = 2048  # cells of [0, 1]; the bandwidths that come out are far wider
_NUM_BISECTIONS = 40


def ks_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Largest gap between the sums of confidences and of right answers, up to any confidence.

    max_t |sum_{i: c_i <= t} (right_i - c_i)| / N: equal confidences enter together.

    Args:
        confidence: (N,) predicted probabilities of being right.
        correct: (N,) whether it was.

    Raises:
        RequestError: confidences outside [0, 1], or unlike lengths.

    Source: Gupta et al. 2021, arXiv:2006.12800.
    """
    held = checked_confidence(confidence)
    right = checked_correct(correct, len(held)).astype(np.float64)
    return float(_ks(held, np.argsort(held, kind="stable"), right))


def ks_calibration_null(confidence: ArrayLike, *, seed: int, level: float = 0.95) -> NullBand:
    """What `ks_calibration_error` is for a perfect predictor with these confidences (N,).

    Raises:
        RequestError: confidences outside [0, 1], or a level outside (0, 1).
    """
    held = checked_confidence(confidence)
    measure = partial(_ks, held, np.argsort(held, kind="stable"))
    return null_band(held, measure, seed=seed, level=level)


def smooth_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Smooth ECE: the bandwidth s at which the smoothed residuals have the mean size s.

    Residuals right - confidence are smoothed over the confidence by a Gaussian that [0, 1]
    reflects; their integrated size falls with its width s, and meets s in one point.

    Args:
        confidence: (N,) predicted probabilities of being right.
        correct: (N,) whether it was.

    Raises:
        RequestError: confidences outside [0, 1], or unlike lengths.

    Source: Blasiok and Nakkiran 2023, arXiv:2309.12236, definition 1.
    """
    held = checked_confidence(confidence)
    residuals = checked_correct(correct, len(held)) - held
    low, high = 0.0, 1.0
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        if smoothed_size(held, residuals, middle) > middle:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def smoothed_size(confidence: Floats, residuals: Floats, width: float) -> float:
    """Integral over t in [0, 1] of |mean_i residual_i K(t, c_i)|, K the reflected Gaussian."""
    from scipy.fft import dct, idct

    # Reflection at both ends is what the cosine transform assumes: there the Gaussian is a factor.
    cells = np.minimum((confidence * _GRID).astype(np.int64), _GRID - 1)
    mass = np.bincount(cells, residuals, minlength=_GRID) / len(confidence)
    factor = np.exp(-0.5 * np.square(np.pi * width * np.arange(_GRID)))
    return float(np.abs(idct(dct(mass) * factor)).sum())


def _ks(confidence: Floats, order: Ints, correct: Floats) -> Floats:
    """(...,) of answers (..., N)."""
    held = confidence[order]
    last = np.append(held[1:] > held[:-1], True)
    sums = np.cumsum((correct - confidence)[..., order], axis=-1)[..., last]
    return np.asarray(np.abs(sums).max(-1) / len(held))
