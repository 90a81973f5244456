"""Heights: how far the loss rises along a path, in each of the definitions that papers use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landscape.errors import unknown_choice

__all__ = ["DEFINITIONS", "Height", "check_definition", "height"]

Array = NDArray[np.float64]

# E on the path from E0 at its start to E1 at its end.
DEFINITIONS = {
    "chord": "sup E(a) - (1 - a) E0 - a E1 (Entezari et al. 2022, arXiv:2110.06296)",
    "midpoint": "E(1/2) - (E0 + E1) / 2 (what the code of the same paper computes)",
    "mean": "max E - (E0 + E1) / 2 (Frankle et al. 2020, arXiv:1912.05671: instability, of the "
    "error; Ainsworth et al. 2023, arXiv:2209.04836)",
    "highest_end": "max E - max(E0, E1)",
    "saddle": "max E (Draxler et al. 2018, arXiv:1803.00885)",
    "mode_connectivity": "(E0 + E1) / 2 - E(t), t where it deviates most: below 0 a barrier, above "
    "0 a valley (Yang et al. 2021, arXiv:2107.11228)",
    "relative": "the chord's, as a share of (chance level - (E0 + E1) / 2) (Jordan et al. 2023, "
    "arXiv:2211.08403)",
}


@dataclass(frozen=True, eq=False)
class Height:
    """A height in one definition.

    Attributes:
        value: in the unit of the metric; of "relative" a share.
        alpha: where on the path it is reached.
        gradient: (P,) its derivative by the values at the points: what a standard error needs.
    """

    value: float
    alpha: float
    gradient: Array


def check_definition(name: str) -> None:
    """Raise RequestError unless a definition has this name."""
    if name not in DEFINITIONS:
        raise unknown_choice("definition of a barrier", name, tuple(DEFINITIONS))


def height(definition: str, alphas: Array, values: Array, chance: float = math.nan) -> Height:
    """The height of a path.

    Args:
        definition: a name from `DEFINITIONS`.
        alphas: (P,) ascending from 0 to 1.
        values: (P,) of the loss or the error there. One that is NaN makes the height NaN.
        chance: value of a network that knows the frequencies of the classes alone; "relative" is
            NaN without it.

    Raises:
        RequestError: no definition of this name.
    """
    check_definition(definition)
    if definition == "relative":
        return _relative(alphas, values, chance)
    # What is subtracted, and its derivative; so written that equal ends leave no rounding.
    with np.errstate(invalid="ignore"):  # an infinite end: the height is unknown
        above, below = _above(definition, alphas, values)
    if definition == "midpoint":
        index = int(np.abs(alphas - 0.5).argmin())
    else:
        # argmax is a NaN where there is one: then the height is unknown.
        index = int(np.argmax(np.abs(above) if definition == "mode_connectivity" else above))
    sign = -1.0 if definition == "mode_connectivity" else 1.0
    gradient = sign * (np.eye(len(alphas))[index] - below[index])
    return Height(float(sign * above[index]), float(alphas[index]), gradient)


def _above(definition: str, alphas: Array, values: Array) -> tuple[Array, Array]:
    """(P,) the values above what the definition subtracts, and (P, P) the derivative of that."""
    first, last = values[0], values[-1]
    start, end = np.eye(len(alphas))[[0, -1]]
    if definition == "chord":
        above = values - first - alphas * (last - first)
        below = np.outer(1 - alphas, start) + np.outer(alphas, end)
    elif definition == "highest_end":
        above = values - max(first, last)
        below = np.tile(end if last > first else start, (len(alphas), 1))
    elif definition == "saddle":
        above, below = values, np.zeros((len(alphas), len(alphas)))
    else:
        above = values - (first + last) / 2
        below = np.tile((start + end) / 2, (len(alphas), 1))
    return above, below


def _relative(alphas: Array, values: Array, chance: float) -> Height:
    chord = height("chord", alphas, values)
    room = chance - (values[0] + values[-1]) / 2
    if not room > 0:  # the ends are no better than chance
        return Height(math.nan, chord.alpha, np.full(len(alphas), math.nan))
    value = chord.value / room
    gradient = chord.gradient.copy()
    gradient[[0, -1]] += value / 2
    return Height(float(value), chord.alpha, gradient / room)
