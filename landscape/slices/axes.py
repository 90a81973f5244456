"""Axes: the coordinates of a slice, one array an axis, and its points in the order of the grid."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError

__all__ = ["Radius", "evenly_spaced", "points_of_grid", "points_of_lines"]

Array = NDArray[np.float64]
Ends = float | tuple[float, float]  # a radius, or (low, high)
# One number for all axes, or for each axis a number or (low, high); "auto" looks for one.
Radius = float | Literal["auto"] | Sequence[Ends]


def evenly_spaced(
    k: int, num: int | Sequence[int], radius: float | Sequence[Ends]
) -> tuple[Array, ...]:
    """k axes of evenly spaced coordinates, ends included.

    Raises:
        RequestError: numbers of points or radii that are no such, or not one for each axis.
    """
    counts = list(num) if isinstance(num, (Sequence, np.ndarray)) else [num] * k
    if len(counts) != k or not all(isinstance(n, Integral) and int(n) >= 1 for n in counts):
        raise RequestError(f"num is {num!r}, expected {k} whole number(s) of points from 1 on.")
    ends = list(radius) if isinstance(radius, (Sequence, np.ndarray)) else [radius] * k
    if len(ends) != k:
        raise RequestError(
            f"radius is {radius!r}, expected one number, or a list of {k}: numbers or (low, high), "
            f"such as {[(0.0, 1.0)] * k}."
        )
    return tuple(_axis(end, int(count)) for end, count in zip(ends, counts, strict=True))


def _axis(end: Ends, count: int) -> Array:
    given = np.asarray(end, dtype=np.float64)
    both = np.stack([-given, given]) if given.ndim == 0 else given
    if both.shape != (2,) or not np.isfinite(both).all() or not both[0] < both[1]:
        raise RequestError(f"an axis of {end!r}: expected a radius above 0, or finite (low, high).")
    low, high = both.tolist()
    if count == 1:
        return np.asarray([(low + high) / 2])
    axis = np.linspace(low, high, count)
    # An odd axis around the center goes through it exactly, and both halves are equal.
    return (axis - axis[::-1]) / 2 if low == -high else axis


def points_of_grid(coordinates: Sequence[Array]) -> Tensor:
    """(P, k) float64: the points in the order of the flattened grid."""
    grids = np.meshgrid(*coordinates, indexing="ij")
    return torch.as_tensor(np.stack([one.ravel() for one in grids], axis=1))


def points_of_lines(axis: Array, k: int) -> Tensor:
    """(k P, k) float64: the points of the axis along each direction in turn."""
    each = torch.zeros(k, len(axis), k, dtype=torch.float64)
    for index in range(k):
        each[index, :, index] = torch.as_tensor(axis)
    return each.flatten(0, 1)
