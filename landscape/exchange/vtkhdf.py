"""VTKHDF: a slice as an image that ParaView opens, in a file of its own or in a result file.

The group /VTKHDF is an ImageData of the format's version 2: axis a is x, b is y, c is z. It is a
netCDF-4 group as well, so that whatever reads the rest of a result file reads it too. ParaView
before 5.12 (VTK 9.3) cannot read flat images: for it there is `vts`.
Source: https://docs.vtk.org/en/latest/vtk_file_formats/vtkhdf_file_format/
"""

from __future__ import annotations

from pathlib import Path

import h5netcdf
import numpy as np
import xarray as xr

from landscape.atomic import appearing
from landscape.errors import RequestError
from landscape.exchange.grid import axes_of, even_spacing, fields_on_grid

__all__ = ["GROUP", "obstacle", "write_image", "write_vtkhdf"]

GROUP = "VTKHDF"  # at the root, as the format demands


def obstacle(record: xr.Dataset) -> str | None:
    """What keeps a record from being an image; None when nothing does."""
    axes = axes_of(record)
    if not 1 <= len(axes) <= 3 or "direction" in axes:
        return f"an image has one to three axes of numbers, this record {list(axes)}"
    for axis in axes:
        if even_spacing(record[axis].to_numpy()) is None:
            return f"an image has evenly spaced points, two or more on an axis: not so on {axis!r}"
    return None


def write_vtkhdf(path: Path, record: xr.Dataset) -> tuple[str, ...]:
    """Write a sweep to a file of its own; what to do with it.

    Raises:
        RequestError: the record is no image.
    """
    if (reason := obstacle(record)) is not None:
        raise RequestError(f"{reason}. Write it as vts, csv or npz.")
    with appearing(path) as target, h5netcdf.File(target, "w") as file:
        write_image(file, record)
    return ("In ParaView, Filters > Warp By Scalar with loss makes the image a surface.",)


def write_image(file: h5netcdf.File, record: xr.Dataset, source: str = "") -> None:
    """Add /VTKHDF to a file that has none. NaN and infinities stay what they are.

    Args:
        record: one without an `obstacle`.
        source: group of the record in the file; readers of VTKHDF ignore it.
    """
    fields = fields_on_grid(record)
    axes = axes_of(record)
    group = file.create_group(GROUP)
    arrays = group.create_group("PointData")
    # VTK ignores the scales beside PointData; in it, they would be point arrays of a wrong size.
    for axis in axes:
        group.dimensions[axis] = fields.sizes[axis]
        scale = group.create_variable(axis, (axis,), data=fields[axis].to_numpy())
        scale.attrs.update(fields[axis].attrs)
    for name, field in fields.data_vars.items():
        values = field.transpose(*reversed(axes)).to_numpy()  # x varies fastest
        values = values.astype(np.uint8) if values.dtype == bool else values
        variable = arrays.create_variable(str(name), axes[::-1], data=values)
        variable.attrs.update(field.attrs)
    flat = 3 - len(axes)  # VTK's images have three axes, their arrays only those that extend
    group.attrs["Version"] = np.array([2, 0])
    group.attrs["Type"] = np.bytes_("ImageData")  # VTK wants ASCII of fixed length
    group.attrs["WholeExtent"] = np.array(
        [bound for axis in axes for bound in (0, fields.sizes[axis] - 1)] + [0, 0] * flat
    )
    group.attrs["Origin"] = np.array([float(fields[axis][0]) for axis in axes] + [0.0] * flat)
    group.attrs["Spacing"] = np.array(
        [even_spacing(fields[axis].to_numpy()) for axis in axes] + [1.0] * flat
    )
    group.attrs["Direction"] = np.eye(3).ravel()
    if source:
        group.attrs["source"] = source
