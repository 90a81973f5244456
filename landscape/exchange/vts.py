"""VTS: a plane as the surface itself, z = loss, for any ParaView.

XML of VTK's StructuredGrid with its numbers in base64: no digit is lost, and NaN stays NaN.
Source: https://docs.vtk.org/en/latest/vtk_file_formats/vtkxml_file_format.html
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.atomic import appearing
from landscape.errors import RequestError
from landscape.exchange.grid import axes_of, fields_on_grid

__all__ = ["write_vts"]

_PAGE = """\
<?xml version="1.0"?>
<VTKFile type="StructuredGrid" version="1.0" byte_order="LittleEndian" header_type="UInt64">
<StructuredGrid WholeExtent="{extent}">
<Piece Extent="{extent}">
<PointData Scalars="loss">
{fields}
</PointData>
<Points>
{points}
</Points>
</Piece>
</StructuredGrid>
</VTKFile>
"""


def write_vts(path: Path, record: xr.Dataset) -> tuple[str, ...]:
    """Write a sweep of one or two axes as a surface over them, of three as a block of points.

    A point without a finite loss keeps it in its fields, and stands as high as the highest other.

    Returns:
        What the reader of the picture should know.

    Raises:
        RequestError: the record has more axes, or no finite loss.
    """
    fields = fields_on_grid(record)
    axes = axes_of(record)
    if len(axes) > 3 or "direction" in axes:
        raise RequestError(
            f"a surface has one or two axes of numbers, a block three; this record has "
            f"{list(axes)}. Write it as csv or npz."
        )
    # VTK's order of points: x varies fastest.
    ordered = fields.transpose(*reversed(axes))
    places = np.meshgrid(*(ordered[axis].to_numpy() for axis in axes[::-1]), indexing="ij")[::-1]
    points = np.zeros((ordered["loss"].size, 3))
    points[:, : len(axes)] = np.stack([place.ravel() for place in places], axis=-1)
    notes: tuple[str, ...] = ()
    if len(axes) < 3:
        points[:, 2], notes = _heights(ordered["loss"].to_numpy().ravel())
    sizes = [fields.sizes[axis] for axis in axes] + [1] * (3 - len(axes))
    page = _PAGE.format(
        extent=" ".join(f"0 {size - 1}" for size in sizes),
        fields="\n".join(
            _data_array(str(name), field.to_numpy().ravel())
            for name, field in ordered.data_vars.items()
        ),
        points=_data_array("Points", points),
    )
    with appearing(path) as target:
        target.write_text(page, encoding="utf-8")
    return notes


def _heights(losses: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    finite = np.isfinite(losses)
    if not finite.any():
        raise RequestError("no loss on the grid is finite: there is no surface. Write csv or npz.")
    top = losses[finite].max()
    missing = int((~finite).sum())
    if not missing:
        return losses, ()
    note = (
        f"{missing} of {losses.size} points without a finite loss stand at z = {top:g}, the "
        "largest finite one; their fields are as measured."
    )
    return np.where(finite, losses, top), (note,)


def _data_array(name: str, values: NDArray[Any]) -> str:
    """One array in base64, its length in bytes before it as a 64-bit number."""
    kind, dtype = ("UInt8", "u1") if values.dtype == bool else ("Float64", "<f8")
    raw = np.ascontiguousarray(values, dtype=dtype).tobytes()
    text = base64.b64encode(np.array(len(raw), "<u8").tobytes() + raw).decode("ascii")
    components = values.shape[1] if values.ndim > 1 else 1
    return (
        f'<DataArray type="{kind}" Name={quoteattr(name)} NumberOfComponents="{components}" '
        f'format="binary">{text}</DataArray>'
    )
