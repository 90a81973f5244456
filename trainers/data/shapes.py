"""Shapes: two classes in the square [-2, 2]^2 that no line separates, of equal areas.

`multi_view` puts several of them side by side as the features of one example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from landscape.errors import unknown_choice

__all__ = ["SHAPES", "SIDE", "Shape", "shape_named"]

Points = npt.NDArray[np.float64]

SIDE = 2.0  # half the square's side: each class has half of its area 16

_RADIUS = math.sqrt(8 / math.pi)
_ARM = 2 - math.sqrt(2)  # the four corner squares of side 2 - arm have area 8 together
# Outside the flag's eight bars lie eight right triangles with legs 2 - (1 + sqrt(2)) bar; for
# area 8 the legs must be sqrt(2).
_BAR = 3 * math.sqrt(2) - 4


@dataclass(frozen=True)
class Shape:
    """Two regions of [-2, 2]^2 with area 8 and mean (0, 0) each: a class has no linear signal.

    Attributes:
        value: points (k, 2) -> (k,): distance to the boundary's line or circle, perpendicular to
            it; negative in class 0, positive in class 1. At a corner, where a boundary point has
            no perpendicular, it is the distance to the nearest line.
        boundary: (generator, k) -> (k, 2) random points of the boundary, uniform in x1 or along
            each piece.
        widest: the margin at which nothing is left of one of the classes.
    """

    value: Callable[[Points], Points]
    boundary: Callable[[np.random.Generator, int], Points]
    widest: float

    def sample(
        self, generator: np.random.Generator, classes: npt.NDArray[np.bool_], margin: float
    ) -> Points:
        """A uniform point of each class (k,), at least `margin` from the boundary; (k, 2)."""
        points = np.empty((len(classes), 2))
        missing = np.arange(len(classes))
        while len(missing):  # rejection from the square: half of what is left, or less, each time
            drawn = generator.uniform(-SIDE, SIDE, (len(missing), 2))
            value = self.value(drawn)
            fits = np.where(classes[missing], value >= margin, value <= -margin)
            points[missing[fits]] = drawn[fits]
            missing = missing[~fits]
        return points


def shape_named(name: str) -> Shape:
    """One of `SHAPES`.

    Raises:
        RequestError: no such shape.
    """
    if name not in SHAPES:
        raise unknown_choice("shape", name, SHAPES)
    return SHAPES[name]


def _band(centre: Callable[[Points], Points], slope: float) -> Shape:
    """Class 0 is {|x2 - centre(x1)| <= 1}, where |centre| <= 1 has mean 0 and a constant slope."""
    steepness = math.hypot(1, slope)

    def value(points: Points) -> Points:
        return (np.abs(points[:, 1] - centre(points[:, 0])) - 1) / steepness

    def boundary(generator: np.random.Generator, count: int) -> Points:
        x1 = generator.uniform(-SIDE, SIDE, count)
        return np.stack([x1, centre(x1) + _signs(generator, count)], 1)

    return Shape(value, boundary, 1 / steepness)


def _signs(generator: np.random.Generator, shape: int | tuple[int, int]) -> Points:
    return generator.choice(np.array([-1.0, 1.0]), shape)


def _scattered(generator: np.random.Generator, points: Points) -> Points:
    """Points of one octant in all eight: random signs, and x1 and x2 swapped at random."""
    swapped = generator.random(len(points)) < 0.5
    points = np.where(swapped[:, None], points[:, ::-1], points)
    return points * _signs(generator, (len(points), 2))


def _circle_boundary(generator: np.random.Generator, count: int) -> Points:
    angle = generator.uniform(0, 2 * np.pi, count)
    return _RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1)


def _diagonals(generator: np.random.Generator, count: int) -> Points:
    x1 = generator.uniform(-SIDE, SIDE, count)
    return np.stack([x1, x1 * _signs(generator, count)], 1)


def _diamond_boundary(generator: np.random.Generator, count: int) -> Points:
    x1 = generator.uniform(-SIDE, SIDE, count)
    return np.stack([x1, (SIDE - np.abs(x1)) * _signs(generator, count)], 1)


def _cross_boundary(generator: np.random.Generator, count: int) -> Points:
    along = generator.uniform(_ARM, SIDE, count)
    return _scattered(generator, np.stack([along, np.full(count, _ARM)], 1))


def _flag_boundary(generator: np.random.Generator, count: int) -> Points:
    # The two legs' common corner with the long side are x2 = bar and x2 = 2 - sqrt(2) bar.
    offset = math.sqrt(2) * _BAR
    along = generator.uniform(_BAR, SIDE - offset, count)
    straight = np.stack([along + offset, np.full(count, _BAR)], 1)
    slanted = np.stack([along + offset, along], 1)
    is_straight = generator.random(count) < 0.5
    return _scattered(generator, np.where(is_straight[:, None], straight, slanted))


def _cross_value(points: Points) -> Points:
    nearest: Points = np.abs(points).min(1)
    return nearest - _ARM


def _flag_value(points: Points) -> Points:
    size = np.abs(points)
    diagonal = np.abs(size[:, 0] - size[:, 1]) / math.sqrt(2)
    nearest: Points = np.minimum(size.min(1), diagonal)
    return nearest - _BAR


def _diamond_value(points: Points) -> Points:
    total: Points = np.abs(points).sum(1)
    return (total - SIDE) / math.sqrt(2)


def _sector_value(points: Points) -> Points:
    return (np.abs(points[:, 1]) - np.abs(points[:, 0])) / math.sqrt(2)


def _circle_value(points: Points) -> Points:
    return np.hypot(points[:, 0], points[:, 1]) - _RADIUS


# Named by class 0. The tick lies between x2 = |x1| - 2 and x2 = |x1|; the peaks are two of them
# upside down, twice as steep; the union jack is the flag's cross and diagonals.
SHAPES: dict[str, Shape] = {
    "tick": _band(lambda x1: np.abs(x1) - 1, 1),
    "stripe": _band(np.zeros_like, 0),
    "peaks": _band(lambda x1: 1 - 2 * np.abs(np.abs(x1) - 1), 2),
    "circles": Shape(_circle_value, _circle_boundary, math.sqrt(8) - _RADIUS),
    "sectors": Shape(_sector_value, _diagonals, math.sqrt(2)),
    "diamond": Shape(_diamond_value, _diamond_boundary, math.sqrt(2)),
    "cross": Shape(_cross_value, _cross_boundary, _ARM),
    "union_jack": Shape(_flag_value, _flag_boundary, _BAR),
}
