"""Quadratic: the second-order expansion of the loss at the center of a slice, from products.

The Hessian in the coordinates is D^T H D: one product a direction makes it exact, whatever the
grid. Beside a measured slice it shows where the picture ends that curvature alone would draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.curvature.hessian import HessianOperator
from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = ["Quadratic", "expand"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Quadratic:
    """L(a) = value + slope . a + a . curvature a / 2, in the coordinates of a slice.

    Attributes:
        value: loss at the center.
        slope: (k,) derivatives along the directions.
        curvature: (k, k) symmetric: d_i . H d_j.
        asymmetry: largest |d_i . H d_j - d_j . H d_i| before symmetrising: rounding.
    """

    value: float
    slope: Array
    curvature: Array
    asymmetry: float = 0.0

    def __call__(self, *coordinates: Array) -> Array:
        """The expansion on the grid of these coordinates: k arrays, one a direction.

        Raises:
            RequestError: another number of them.
        """
        if len(coordinates) != len(self.slope):
            raise RequestError(
                f"{len(coordinates)} array(s) of coordinates were given, and the expansion has "
                f"{len(self.slope)} direction(s). Give one for each."
            )
        grids = np.meshgrid(*coordinates, indexing="ij")
        points = np.stack(grids, axis=-1)  # (*grid, k)
        linear = points @ self.slope
        found: Array = self.value + linear + 0.5 * ((points @ self.curvature) * points).sum(-1)
        return found


def expand(objective: Objective, vectors: Tensor, center: Tensor | None = None) -> Quadratic:
    """The expansion at `center` along the rows of `vectors` (k, n): k products and one gradient.

    With bn="recalibrate" the statistics are those at the center, and do not move.
    """
    center = objective.theta if center is None else center
    vectors = vectors.to(objective.device, objective.space.dtype)
    with HessianOperator(objective, center) as hessian:
        images = torch.stack([hessian.matvec(vector) for vector in vectors])
    wide = vectors.double()
    curvature = (wide @ images.double().T).cpu().numpy()
    slope = (wide @ objective.gradient(center).double()).cpu().numpy()
    return Quadratic(
        value=objective.loss(center),
        slope=slope,
        curvature=(curvature + curvature.T) / 2,
        asymmetry=float(np.abs(curvature - curvature.T).max()),
    )
