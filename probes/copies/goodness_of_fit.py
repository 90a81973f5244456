"""Goodness of fit: counts of one augmentation against the binomial distribution.

Nulls for averages over several augmentations are in `heterogeneity`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_labels

__all__ = ["GoodnessOfFit", "OverDispersion", "over_dispersion", "tail_merged_chi_square"]

_MIN_EXPECTED = 5.0  # Cochran 1954: below, the statistic is not chi-square distributed


@dataclass(frozen=True)
class GoodnessOfFit:
    """Pearson's test; NaN where p is 0 or 1, or where less than three bins are left.

    Attributes:
        statistic: sum over bins of (observed - expected)^2 / expected.
        degrees_of_freedom: bins - 2, since p was estimated.
        p_value: probability of at least this statistic for equally hard objects.
    """

    statistic: float
    degrees_of_freedom: int
    p_value: float


@dataclass(frozen=True)
class OverDispersion:
    """The dispersion test; NaN where p is 0 or 1, or for one object.

    Attributes:
        chi_square: sum_k (c_k - n p)^2 / (n p (1 - p)), p = mean(c) / n.
        ratio: chi_square / (K - 1): 1 for equally hard objects, 1 + (n - 1) rho where two answers
            on one object have correlation rho.
        p_value: of chi_square under the chi-square distribution with K - 1 degrees of freedom.
    """

    chi_square: float
    ratio: float
    p_value: float


def over_dispersion(counts: ArrayLike, trials: int) -> OverDispersion:
    """Whether counts of `trials` independent answers vary more than binomial ones.

    Args:
        counts: (K,) right answers on each object.
        trials: n answers on each object. Answers of one copy on several views are not independent:
            for those, `heterogeneity` has nulls that hold.

    Raises:
        RequestError: counts outside 0 ... trials.

    Source: Fisher's dispersion test, Cochran 1954.
    """
    held = _checked(counts, trials)
    share = held.mean() / trials
    if share in (0, 1) or len(held) == 1:
        return OverDispersion(np.nan, np.nan, np.nan)
    variance = trials * share * (1 - share)
    chi_square = float(np.square(held - held.mean()).sum() / variance)
    freedom = len(held) - 1
    p_value = float(stats.chi2.sf(chi_square, freedom))
    return OverDispersion(chi_square, chi_square / freedom, p_value)


def tail_merged_chi_square(counts: ArrayLike, trials: int) -> GoodnessOfFit:
    """Pearson's chi-square of counts against K Bin(trials, p), with p their mean share.

    Neighbouring counts are merged, from 0 on, until 5 objects or more are expected in each bin;
    what is left at the upper end goes to the last bin. Unmerged, one object in a tail in which
    1e-17 are expected makes a statistic of 1e17.

    Args:
        counts: (K,) right answers on each object, of `trials` equally accurate copies.

    Raises:
        RequestError: counts outside 0 ... trials.

    Source: Cochran 1954; the unmerged form: Sadrtdinov et al. 2021, arXiv:2107.10143.
    """
    held = _checked(counts, trials)
    share = held.mean() / trials
    expected = len(held) * stats.binom.pmf(np.arange(trials + 1), trials, share)
    observed = np.bincount(held.astype(np.int64), minlength=trials + 1)
    starts = _merged(expected)
    if len(starts) < 3:
        return GoodnessOfFit(np.nan, 0, np.nan)
    expected, observed = np.add.reduceat(expected, starts), np.add.reduceat(observed, starts)
    statistic = float((np.square(observed - expected) / expected).sum())
    freedom = len(starts) - 2
    return GoodnessOfFit(statistic, freedom, float(stats.chi2.sf(statistic, freedom)))


def _merged(expected: Floats) -> list[int]:
    """Where the merged bins begin."""
    starts, gathered = [0], 0.0
    for index, one in enumerate(expected):
        if gathered >= _MIN_EXPECTED:
            starts.append(index)
            gathered = 0.0
        gathered += float(one)
    if gathered < _MIN_EXPECTED and len(starts) > 1:
        starts.pop()
    return starts


def _checked(counts: ArrayLike, trials: int) -> Floats:
    held = as_labels(counts, "counts")
    if trials < 1 or not len(held) or held.max() > trials:
        raise RequestError(
            f"counts of {len(held)} objects reach {held.max(initial=0)} of trials={trials}. Give "
            "one count or more, each the number of right answers among the trials."
        )
    return held.astype(np.float64)
