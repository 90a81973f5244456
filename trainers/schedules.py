"""Learning-rate schedules: the factor on a member's learning rate, as a function of the step.

A schedule is a plain function of the step, so that a run can go on from any step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "cosine_cycles", "delayed", "triangles"]

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """1 at every step."""
    return lambda step: 1.0


def cosine(steps: int, *, warmup: int = 0, hold: int = 1) -> Schedule:
    """Half a cosine from 1 to 0 over `steps`, after a linear rise.

    Args:
        warmup: steps of the rise: (step + 1) / warmup.
        hold: the factor changes every `hold` steps only: an epoch's, for schedules by epoch.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983.
    """

    def factor(step: int) -> float:
        step -= step % hold
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def cosine_cycles(steps: int, *, hold: int = 1) -> Schedule:
    """`cosine`, again and again: each cycle of `steps` starts from 1.

    Source: Huang et al. 2017 (Snapshot Ensembles), arXiv:1704.00109.
    """
    one = cosine(steps, hold=hold)
    return lambda step: one(step % steps)


def delayed(steps: int, then: Schedule) -> Schedule:
    """1 for the first `steps`, then another schedule from its own first step."""
    return lambda step: 1.0 if step < steps else then(step - steps)


def triangles(steps: int, *, low: float = 0.01) -> Schedule:
    """Linear from 1 to `low` and back to 1 in each cycle of `steps`; lowest in its middle.

    Source: Garipov et al. 2018 (Fast Geometric Ensembling), arXiv:1802.10026.
    """

    def factor(step: int) -> float:
        phase = (step % steps) / steps
        height = abs(1 - 2 * phase)
        return low + (1 - low) * height

    return factor
