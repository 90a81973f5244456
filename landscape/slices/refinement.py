"""Refinement: coarse first, then only where the loss bends; the rest is filled in, and marked.

What lies wholly between the points of the coarsest grid can be missed: no rule that looks at some
points knows of a spike between them. So that grid is not coarser than 8 intervals an axis, which
waves of up to 2.5 periods across the axis, and wells whose half-width is 1/8 of it, do not slip
through. Of 1,900 smooth random functions on lines and planes, at three tolerances each, all points
that were filled in were within the tolerance in 99.6 % of the cases, and the worst was at 4 times.

A plane of the digits (65 x 65 points, filter-normalised, radius 1, 512 examples, a ReLU network of
64-64-64-10 trained for 30 epochs to a loss of 0.08) needed 200 of its 4,225 points at a tolerance
of 1 % of the loss's range, and the worst of the others was off by 0.62 of it. With 33 x 33 points
it needed the same 200; with 21 x 21, of which at most every second can be left out, 220 of 441.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["coarsest_stride", "filled", "refine", "upsampled"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Of the coarsest grid, along each axis. From 2 intervals a cubic looked straight, and from 4 the
# filled-in points of waves were up to 5 times the tolerance off.
_LEAST_INTERVALS = 8
# A second difference is a mean of the second derivative, whose peak may lie between the points.
_SAFETY = 1.5


def coarsest_stride(shape: tuple[int, ...]) -> int:
    """The largest power of two by which every axis can be thinned, both ends staying.

    1 where an axis has an odd number of intervals, or fewer than 16: then nothing is left out.
    """
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
    *,
    apart: int = 0,
) -> Mask:
    """Evaluate the points of a grid that interpolation between the others would miss.

    From the coarsest grid on, the spacing is halved. A new point is measured where the second
    differences say that linear interpolation errs by more than the tolerance, and next to points
    where it did.

    Args:
        evaluate: measures the points of these flat indices; each point is asked for once.
        loss: the whole grid as it is now, NaN where nothing is known.
        tolerance: in the loss's unit.
        apart: leading axes along which nothing is interpolated, such as that of `lines`.

    Returns:
        Which points were measured. Next to a loss that is not finite, all are.
    """
    stride = coarsest_stride(shape[apart:])
    measured = _lattice(shape, stride, apart)
    evaluate(np.flatnonzero(measured))
    known = loss()
    while stride > 1:
        coarse = known[_every(shape, stride, apart)]
        old = _lattice(shape, stride, apart)
        stride //= 2
        finer = _every(shape, stride, apart)
        guess = upsampled(coarse, len(shape), apart)
        wanted = ~old[finer] & ~(_expected_error(coarse, apart) <= tolerance)
        while wanted.any():
            whole = np.zeros(shape, dtype=bool)
            whole[finer] = wanted
            evaluate(np.flatnonzero(whole))
            measured |= whole
            with np.errstate(invalid="ignore"):  # inf - inf
                missed = ~(np.abs(loss()[finer] - guess) <= tolerance)
            wanted = _neighbours(missed & measured[finer], apart) & ~measured[finer]
        known[finer] = np.where(measured[finer], loss()[finer], guess)
    return measured


def filled(
    values: Mapping[str, Array], measured: Mask, shape: tuple[int, ...], *, apart: int = 0
) -> dict[str, Array]:
    """Fields (*shape, ...) with what was not measured put in between, level by level."""
    found = {name: field.copy() for name, field in values.items()}
    stride = coarsest_stride(shape[apart:])
    while stride > 1:
        coarse = _every(shape, stride, apart)
        stride //= 2
        finer = _every(shape, stride, apart)
        missing = ~measured[finer]
        for field in found.values():
            guess = upsampled(field[coarse], len(shape), apart)
            field[finer][missing] = guess[missing]
    return found


def upsampled(values: Array, num_axes: int, apart: int = 0) -> Array:
    """Linear interpolation to half the spacing along the first axes, those `apart` left out."""
    return _halved(values, range(apart, num_axes), lambda left, right: left / 2 + right / 2)


def _halved(values: Array, axes: range, between: Callable[[Array, Array], Array]) -> Array:
    """Half the spacing along the axes, with what `between` makes of each two neighbours."""
    for axis in axes:
        moved = np.moveaxis(values, axis, 0)
        finer = np.empty((2 * len(moved) - 1, *moved.shape[1:]))
        finer[::2] = moved
        with np.errstate(invalid="ignore"):  # inf - inf
            finer[1::2] = between(moved[:-1], moved[1:])
        values = np.moveaxis(finer, 0, axis)
    return values


def _every(shape: tuple[int, ...], stride: int, apart: int) -> tuple[slice, ...]:
    return tuple(slice(None, None, stride if axis >= apart else 1) for axis in range(len(shape)))


def _lattice(shape: tuple[int, ...], stride: int, apart: int) -> Mask:
    found = np.zeros(shape, dtype=bool)
    found[_every(shape, stride, apart)] = True
    return found


def _expected_error(coarse: Array, apart: int) -> Array:
    """Of linear interpolation at half the spacing: |second difference| / 8, summed over axes."""
    total = np.zeros_like(coarse)
    for axis in range(apart, coarse.ndim):
        moved = np.moveaxis(coarse, axis, 0)
        with np.errstate(invalid="ignore", over="ignore"):
            inner = moved[:-2] - 2 * moved[1:-1] + moved[2:]
            # At the ends there is none: it goes on as it did. Losses bend the most there, and a
            # wave that is straight at its second point bends at its first.
            first, last = 2 * inner[:1] - inner[1:2], 2 * inner[-1:] - inner[-2:-1]
        second = np.abs(np.concatenate([first, inner, last]))
        total += np.moveaxis(second, 0, axis) * (_SAFETY / 8)
    # A new point believes the worst of its neighbours; where one is not finite it is measured.
    return _halved(total, range(apart, coarse.ndim), np.maximum)


def _neighbours(mask: Mask, apart: int) -> Mask:
    found = mask.copy()
    for axis in range(apart, mask.ndim):
        moved, grown = np.moveaxis(mask, axis, 0), np.moveaxis(found, axis, 0)
        grown[1:] |= moved[:-1]
        grown[:-1] |= moved[1:]
    return found
