"""Potentials in the plane whose minima and saddles are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from landscape.paths.potential import FunctionPotential


def point(*coordinates: float) -> Tensor:
    return torch.tensor(coordinates, dtype=torch.float64)


# Mueller and Brown 1979: energies and places to the digits that are printed.
MB_MINIMA = [point(-0.558224, 1.441726), point(-0.050011, 0.466694), point(0.623499, 0.028038)]
MB_LOSSES = [-146.699517, -80.767818, -108.166724]
MB_SADDLES = {
    (0, 1): (-40.664844, (-0.822002, 0.624313)),
    (1, 2): (-72.248940, (0.212487, 0.292988)),
}


def mueller_brown_values(points: Tensor) -> Tensor:
    height, xx, xy, yy = (
        point(*row)
        for row in [
            (-200, -100, -170, 15),
            (-1, -1, -6.5, 0.7),
            (0, 0, 11, 0.6),
            (-10, -10, -6.5, 0.7),
        ]
    )
    x = points[:, :1] - point(1, 0, -0.5, -1)
    y = points[:, 1:] - point(0, 0.5, 1.5, 1)
    return (height * (xx * x**2 + xy * x * y + yy * y**2).exp()).sum(1)


CURVY_END = 5 * math.pi / 2


def curvy_valley_values(points: Tensor) -> Tensor:
    """(y - sin x)^2 + (x^2 / x0^2 - 1)^2: minima 0 at (+-x0, +-1), saddle 1 at the origin."""
    x, y = points[:, 0], points[:, 1]
    return (y - x.sin()) ** 2 + x**4 / CURVY_END**4 - 2 * x**2 / CURVY_END**2 + 1


def egg_carton_values(points: Tensor) -> Tensor:
    """Minima -2 at half integers, saddles 0 between neighbours, maxima 2."""
    return (2 * math.pi * points).cos().sum(1)


MUELLER_BROWN = FunctionPotential(mueller_brown_values, 2)
CURVY_VALLEY = FunctionPotential(curvy_valley_values, 2)
EGG_CARTON = FunctionPotential(egg_carton_values, 2)
