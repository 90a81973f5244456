"""A sweep from its record in a file: for shards that are to be merged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from landscape.errors import RequestError
from landscape.slices.quadratic import Quadratic
from landscape.slices.sweep import Sweep
from landscape.slices.verification import KINDS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["stored_sweep"]

# Scalars that follow from the fields; the others are caveats.
_DERIVED = ("center_loss", "center_error", "smallest_loss", "largest_loss", "nan_points")


def stored_sweep(record: xr.Dataset) -> Sweep:
    """What `Sweep.to_dataset` made, as `store.read` gives it.

    Raises:
        RequestError: a record of another kind.
    """
    kind = record.attrs.get("probe")
    if kind not in KINDS:
        raise RequestError(f"a record of {kind!r} is no sweep: {', '.join(KINDS)} are.")
    axes = record["loss"].dims
    fields = {
        str(name): np.array(variable.values, dtype=np.float64)
        for name, variable in record.data_vars.items()
        if variable.dims[: len(axes)] == axes and name != "done"
    }
    scalars = {
        str(name): float(variable)
        for name, variable in record.data_vars.items()
        if variable.ndim == 0
    }
    quadratic = None
    if "center_slope" in record:
        curvature = record["center_curvature"]
        quadratic = Quadratic(
            scalars["center_loss"],
            record["center_slope"].values,
            curvature.values,
            float(curvature.attrs["asymmetry"]),
        )
    marks = {}
    if "mark_place" in record:
        names = [str(name) for name in record["mark"].values]
        marks = dict(zip(names, map(tuple, record["mark_place"].values.tolist()), strict=True))
    vectors = None
    if "direction_vector" in record:
        vectors = torch.as_tensor(record["direction_vector"].values)
    return Sweep(
        settings=json.loads(record.attrs["settings"]),
        provenance=json.loads(record.attrs["provenance"]),
        num_products=int(record.attrs["num_products"]),
        wall_time=float(record.attrs["wall_time"]),
        notes=tuple(json.loads(record.attrs["notes"])),
        kind=kind,
        coordinates=tuple(np.array(record[name].values, dtype=np.float64) for name in axes),
        fields=fields,
        done=np.array(record["done"].values, dtype=bool),
        direction_names=tuple(record.attrs["direction_names"].split("\n")),
        direction_norms=record["direction_norm"].values,
        cosines=record["cosine"].values,
        center_loss=scalars["center_loss"],
        center_error=scalars["center_error"],
        caveats={name: value for name, value in scalars.items() if name not in _DERIVED},
        marks=marks,
        quadratic=quadratic,
        recipes=tuple(json.loads(record.attrs["direction_recipes"])),
        bn=record.attrs["bn"],
        vectors=vectors,
    )
