"""Matching: the times at which two kinds of training know equally much on average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, Ints, as_floats
from landscape.probes.copies.copies import Copies

__all__ = ["TimeMatching", "first_time_above", "match_times"]


@dataclass(frozen=True, eq=False)
class TimeMatching:
    """For each time of A, the time of B of the nearest mean learnability.

    Attributes:
        times: (T_A,) of A.
        matched: (T_A,) of B.
        indices: (T_A,) of the matched times among those of B; the first where several are as near.
        mismatch: (T_A,) what remains: mean r_t of B at the matched time less that of A. Where it is
            not near 0, B does not know as much, or as little, at any recorded time: a comparison
            of the curves is then one of unequal means.
        distance: (T_A,) between both distributions of r_t over the objects at the matched times:
            the mean absolute difference of the sorted curves where both have the same number of
            objects, the Wasserstein distance in any case. At least |mismatch|.
    """

    times: Floats
    matched: Floats
    indices: Ints
    mismatch: Floats
    distance: Floats


def match_times(a: Copies, b: Copies) -> TimeMatching:
    """t_B = argmin_t |E r^A_{t_A} - E r^B_t| for every t_A.

    Source: Sadrtdinov et al. 2021, arXiv:2107.10143.
    """
    from scipy.stats import wasserstein_distance

    gaps = b.mean_learnability[None] - a.mean_learnability[:, None]  # (T_A, T_B)
    indices = np.abs(gaps).argmin(1)
    distance = [
        wasserstein_distance(own, b.learnability[index])
        for own, index in zip(a.learnability, indices, strict=True)
    ]
    return TimeMatching(
        times=a.times,
        matched=b.times[indices],
        indices=indices,
        mismatch=gaps[np.arange(a.num_times), indices],
        distance=np.array(distance, dtype=np.float64),
    )


def first_time_above(copies: Copies, levels: ArrayLike = (0.25, 0.5, 0.75)) -> Floats:
    """(L,) first time at which mean r_t is above each level; NaN where it never is.

    Raises:
        RequestError: a level outside 0 ... 1.
    """
    wanted = as_floats(levels, "levels", "(L,)")
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise RequestError(f"levels={wanted.tolist()}, expected shares such as 0.25, 0.5, 0.75.")
    above = copies.mean_learnability[None] > wanted[:, None]  # (L, T)
    return np.where(above.any(1), copies.times[above.argmax(1)], np.nan)
