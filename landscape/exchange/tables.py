"""Tables: a slice for pandas (CSV) and for NumPy (NPZ), with its units and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from landscape.atomic import appearing
from landscape.exchange.grid import axes_of, fields_on_grid

__all__ = ["units_path", "write_csv", "write_npz"]

# Text in JSON, as the store and the sweeps keep it.
_JSON_ATTRIBUTES = ("direction_recipes", "notes", "provenance", "settings", "versions")


def write_csv(path: Path, record: xr.Dataset) -> tuple[str, ...]:
    """Write one row a point: its coordinates, then its fields; the last axis varies fastest.

    `pandas.read_csv(path)` reads it as it is. Units and settings do not fit in such a table: they
    go beside it, in the form and under the name of the W3C's "CSV on the Web".

    Returns:
        Where the units are.

    Raises:
        RequestError: the record is no sweep.

    Source: https://www.w3.org/TR/tabular-metadata/
    """
    fields = fields_on_grid(record)
    table = fields.to_dataframe(dim_order=list(axes_of(record))).reset_index()
    columns = [
        {
            "titles": str(name),
            "dc:description": fields[name].attrs.get("long_name", ""),
            "schema:unitText": fields[name].attrs.get("units", ""),
        }
        for name in table.columns
    ]
    described = {
        "@context": "http://www.w3.org/ns/csvw",
        "url": path.name,
        "tableSchema": {"columns": columns},
        "notes": [_attributes(record)],
    }
    with appearing(path) as target:
        table.to_csv(target, index=False, na_rep="NaN")
    with appearing(units_path(path)) as target:
        target.write_text(json.dumps(described, indent=1), encoding="utf-8")
    return (f"Units and settings are in {units_path(path)}.",)


def units_path(path: Path) -> Path:
    """The file beside a CSV that holds the units of its columns."""
    return path.with_name(f"{path.name}-metadata.json")


def write_npz(path: Path, record: xr.Dataset) -> tuple[str, ...]:
    """Write every array of a sweep under its name, whole, and `metadata`: text, in JSON.

    `metadata` has each array's `dimensions`, `units` and `long_name`, and the `record`'s settings.
    No array holds objects: `numpy.load(path)` needs no pickle.

    Returns:
        How to read the metadata.

    Raises:
        RequestError: the record is no sweep.
    """
    fields_on_grid(record)  # refuses what has no grid
    variables = {str(name): variable for name, variable in record.variables.items()}
    metadata = {
        "dimensions": {name: list(map(str, held.dims)) for name, held in variables.items()},
        "units": {name: held.attrs.get("units", "") for name, held in variables.items()},
        "long_name": {name: held.attrs.get("long_name", "") for name, held in variables.items()},
        "record": _attributes(record),
    }
    arrays: dict[str, Any] = {name: _plain(held.to_numpy()) for name, held in variables.items()}
    with appearing(path) as target, target.open("wb") as file:
        np.savez_compressed(file, metadata=np.array(json.dumps(metadata)), **arrays)
    return ('Units and settings: json.loads(str(numpy.load(path)["metadata"])).',)


def _attributes(record: xr.Dataset) -> dict[str, Any]:
    return {
        str(name): json.loads(value) if name in _JSON_ATTRIBUTES else value
        for name, value in record.attrs.items()
    }


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Text comes from HDF5 as objects, which only a pickle could hold."""
    return values.astype(str) if values.dtype.kind in "OT" else values
