"""A stored sweep laid flat: every field an array of the grid's shape. The formats start here."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.errors import RequestError

__all__ = ["axes_of", "even_spacing", "fields_on_grid"]


def axes_of(record: xr.Dataset) -> tuple[str, ...]:
    """The axes of a sweep's grid in their order; of another record, none."""
    return tuple(map(str, record["done"].dims)) if "done" in record.data_vars else ()


def fields_on_grid(record: xr.Dataset) -> xr.Dataset:
    """The fields of a sweep, each of the grid's shape, with the coordinates.

    What has a value for each class or direction comes apart: `class_loss_0`, `class_loss_1`, ...

    Args:
        record: as `Sweep.to_dataset` makes it and `store.read` gives it back.

    Raises:
        RequestError: the record is no sweep.
    """
    axes = axes_of(record)
    if not axes:
        raise RequestError(
            f"a record of {record.attrs.get('probe', 'another kind')!r} has no grid to write. "
            "Sweeps have: landscape probe CKPT --probe plane."
        )
    fields: dict[str, xr.Variable] = {}
    for name, field in record.data_vars.items():
        if field.dims[: len(axes)] != axes:
            continue
        if field.ndim == len(axes):
            fields[str(name)] = field.variable
        else:
            for index in range(field.shape[-1]):
                fields[f"{name}_{index}"] = field.variable[..., index]
    return xr.Dataset(fields, coords={axis: record[axis].variable for axis in axes})


def even_spacing(axis: NDArray[np.float64]) -> float | None:
    """Distance of neighbours on an axis that rises evenly; None for any other axis."""
    steps = np.diff(axis)
    if not len(steps) or not steps.min() > 0:
        return None
    even = float(axis[-1] - axis[0]) / len(steps)
    # Far above the rounding of a linspace, far below what a picture shows.
    return even if np.abs(steps - even).max() <= 1e-6 * even else None
