"""A sweep whose axes cannot be swapped unseen, and what VTK makes of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOHDF import vtkHDFReader

from landscape.slices.sweep import Sweep

COORDINATES = (np.linspace(-1, 1, 5), np.linspace(0, 3, 4), np.linspace(-2, 2, 3))
NAMES = ("loss", "accuracy", "class_loss_0", "class_loss_1", "class_loss_2", "done")


def asymmetric_sweep(num_axes: int = 2, **changes: Any) -> Sweep:
    """loss = a^2 + 10 b + 100 c^3 over the first axes, with a value for each of three classes."""
    coordinates = changes.pop("coordinates", COORDINATES[:num_axes])
    grids = np.meshgrid(*coordinates, indexing="ij")
    terms = zip(grids, (1, 10, 100), (2, 1, 3), strict=False)
    loss = sum(factor * grid**power for grid, factor, power in terms)
    return Sweep(
        **{
            "kind": ("line", "plane", "grid")[num_axes - 1],
            "coordinates": coordinates,
            "fields": {
                "loss": loss,
                "accuracy": 1 / (1 + np.abs(loss)),
                "class_loss": loss[..., None] * np.arange(1, 4),
            },
            "done": loss != 0,
            "direction_names": tuple(f"random {i}" for i in range(num_axes)),
            "direction_norms": np.arange(1.0, num_axes + 1),
            "cosines": np.eye(num_axes),
            "recipes": tuple({"kind": "random", "index": i} for i in range(num_axes)),
            "center_loss": 0.0,
            "settings": {"num": [len(axis) for axis in coordinates], "seed": 0},
            "provenance": {"loss": "mse"},
            "notes": ("one",),
        }
        | changes
    )


def flat_fields(sweep: Sweep) -> dict[str, NDArray[Any]]:
    """What the files are to hold, each array with the axes of the grid."""
    fields = {name: sweep[name] for name in ("loss", "accuracy")}
    classes = {f"class_loss_{k}": sweep["class_loss"][..., k] for k in range(3)}
    return {**fields, **classes, "done": sweep.done}


def image_of(path: Path) -> Any:
    """The image that VTK reads from a file."""
    reader = vtkHDFReader()
    assert reader.CanReadFile(str(path))
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


def extent_of(picture: Any) -> tuple[int, int, int]:
    """Points along x, y, z; a structured grid fills a list where an image answers."""
    low_high = picture.GetExtent()
    x, y, z = (high - low + 1 for low, high in zip(low_high[::2], low_high[1::2], strict=True))
    return x, y, z


def point_fields(picture: Any) -> dict[str, NDArray[Any]]:
    """VTK's arrays at the points, with the axes x, y, z: point ids run along x first."""
    data = picture.GetPointData()
    arrays = (data.GetArray(index) for index in range(data.GetNumberOfArrays()))
    shape = extent_of(picture)
    return {array.GetName(): vtk_to_numpy(array).reshape(shape, order="F") for array in arrays}


def point_places(picture: Any) -> NDArray[np.float64]:
    """(nx, ny, nz, 3) where VTK puts the points."""
    places = [picture.GetPoint(index) for index in range(picture.GetNumberOfPoints())]
    return np.array(places).reshape(*extent_of(picture), 3, order="F")
