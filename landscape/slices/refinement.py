"""Refinement: coarse first, then only where the loss bends; the rest is filled in, and marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["coarsest_stride", "refine", "upsampled"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_LEAST_INTERVALS = 2  # of the coarsest grid, along each axis: a second difference needs two


def coarsest_stride(shape: tuple[int, ...]) -> int:
    """The largest power of two by which every axis can be thinned, both ends staying."""
    stride = 1
    while all(
        (count - 1) % (2 * stride) == 0 and (count - 1) // (2 * stride) >= _LEAST_INTERVALS
        for count in shape
    ):
        stride *= 2
    return stride


def refine(
    shape: tuple[int, ...],
    evaluate: Callable[[NDArray[np.int64]], None],
    loss: Callable[[], Array],
    tolerance: float,
) -> Mask:
    """Evaluate the points of a grid that interpolation between the others would miss.

    From the coarsest grid on, the spacing is halved. A new point is measured where the second
    differences say that linear interpolation errs by more than the tolerance, and next to measured
    points where it did.

    Args:
        evaluate: measures the points of these flat indices.
        loss: the whole grid as it is now, NaN where nothing is known.
        tolerance: in the loss's unit.

    Returns:
        Which points were measured.
    """
    stride = coarsest_stride(shape)
    measured = _lattice(shape, stride)
    evaluate(np.flatnonzero(measured))
    known = loss()
    while stride > 1:
        here = tuple(slice(None, None, stride) for _ in shape)
        coarse = known[here]
        stride //= 2
        finer = tuple(slice(None, None, stride) for _ in shape)
        guess = upsampled(coarse, len(shape))
        fresh = _lattice(shape, stride)[finer] & ~_lattice(shape, 2 * stride)[finer]
        wanted = fresh & ~(_expected_error(coarse) <= tolerance)
        while wanted.any():
            whole = np.zeros(shape, dtype=bool)
            whole[finer] = wanted
            evaluate(np.flatnonzero(whole))
            measured |= whole
            seen = loss()[finer]
            missed = measured[finer] & fresh & ~(np.abs(seen - guess) <= tolerance)
            wanted = _neighbours(missed) & fresh & ~measured[finer]
        values = loss()[finer]
        known[finer] = np.where(measured[finer], values, guess)
    return measured


def filled(values: Mapping[str, Array], measured: Mask, shape: tuple[int, ...]) -> dict[str, Array]:
    """Fields (*shape, ...) with what was not measured put in between, level by level."""
    found = {name: field.copy() for name, field in values.items()}
    stride = coarsest_stride(shape)
    while stride > 1:
        here = tuple(slice(None, None, stride) for _ in shape)
        stride //= 2
        finer = tuple(slice(None, None, stride) for _ in shape)
        fresh = _lattice(shape, stride)[finer] & ~measured[finer]
        fresh &= ~_lattice(shape, 2 * stride)[finer]
        for field in found.values():
            guess = upsampled(field[here], len(shape))
            part = field[finer]
            part[fresh] = guess[fresh]
    return found


def upsampled(values: Array, num_axes: int) -> Array:
    """Linear interpolation to half the spacing along the first axes."""
    for axis in range(num_axes):
        moved = np.moveaxis(values, axis, 0)
        finer = np.empty((2 * len(moved) - 1, *moved.shape[1:]))
        finer[::2] = moved
        with np.errstate(invalid="ignore"):  # inf - inf
            finer[1::2] = (moved[:-1] + moved[1:]) / 2
        values = np.moveaxis(finer, 0, axis)
    return values


def _lattice(shape: tuple[int, ...], stride: int) -> Mask:
    found = np.zeros(shape, dtype=bool)
    found[tuple(slice(None, None, stride) for _ in shape)] = True
    return found


def _expected_error(coarse: Array) -> Array:
    """Of linear interpolation at half the spacing: |second difference| / 8, summed over axes."""
    total = np.zeros_like(coarse)
    for axis in range(coarse.ndim):
        moved = np.moveaxis(coarse, axis, 0)
        with np.errstate(invalid="ignore"):
            inner = np.abs(moved[:-2] - 2 * moved[1:-1] + moved[2:]) / 8
        second = np.concatenate([inner[:1], inner, inner[-1:]])
        total += np.moveaxis(second, 0, axis)
    # A new point believes the worst of its neighbours; where one is not finite it is measured.
    worst = total
    for axis in range(coarse.ndim):
        moved = np.moveaxis(worst, axis, 0)
        finer = np.empty((2 * len(moved) - 1, *moved.shape[1:]))
        finer[::2] = moved
        finer[1::2] = np.maximum(moved[:-1], moved[1:])
        worst = np.moveaxis(finer, 0, axis)
    return worst


def _neighbours(mask: Mask) -> Mask:
    found = mask.copy()
    for axis in range(mask.ndim):
        moved, grown = np.moveaxis(mask, axis, 0), np.moveaxis(found, axis, 0)
        grown[1:] |= moved[:-1]
        grown[:-1] |= moved[1:]
    return found
