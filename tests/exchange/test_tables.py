"""pandas and NumPy read the tables without further arguments, and lose nothing."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from exchange.sweeps import NAMES, asymmetric_sweep, flat_fields

from landscape import store
from landscape.errors import RequestError
from landscape.exchange.tables import units_path, write_csv, write_npz


@pytest.fixture
def stored(tmp_path):
    """A record as it comes from a file, with NaN, infinity and a mark."""

    def make(num_axes=2):
        sweep = asymmetric_sweep(num_axes)
        sweep.fields["loss"].flat[1], sweep.fields["loss"].flat[2] = np.nan, np.inf
        sweep = replace(sweep, marks={"größte": (0.5,) * num_axes})
        (group,) = store.save(tmp_path / "a.h5", sweep)
        return sweep, store.read(tmp_path / "a.h5", group)

    return make


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_pandas_reads_a_row_a_point(tmp_path, stored, num_axes):
    sweep, record = stored(num_axes)
    write_csv(tmp_path / "a.csv", record)
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table.columns) == [*sweep.axes, *NAMES]
    assert table["done"].dtype == bool
    grids = np.meshgrid(*sweep.coordinates, indexing="ij")
    for axis, grid in zip(sweep.axes, grids, strict=True):
        np.testing.assert_allclose(table[axis], grid.ravel(), rtol=1e-15)
    for name, values in flat_fields(sweep).items():
        np.testing.assert_allclose(table[name], values.ravel(), rtol=1e-15)


def test_a_row_holds_the_function_at_its_coordinates(tmp_path):
    write_csv(tmp_path / "a.csv", asymmetric_sweep().to_dataset())
    table = pd.read_csv(tmp_path / "a.csv")
    np.testing.assert_allclose(table["loss"], table["a"] ** 2 + 10 * table["b"], rtol=1e-14)


def test_every_digit_is_in_the_text(tmp_path):
    sweep = asymmetric_sweep()
    sweep.fields["loss"][:] = np.random.default_rng(0).standard_normal((5, 4))
    write_csv(tmp_path / "a.csv", sweep.to_dataset())
    with (tmp_path / "a.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses == sweep.loss.ravel().tolist()


def test_units_and_settings_lie_beside_the_table(tmp_path, stored):
    _, record = stored()
    (note,) = write_csv(tmp_path / "a.csv", record)
    assert "a.csv-metadata.json" in note
    described = json.loads(units_path(tmp_path / "a.csv").read_text())
    assert described["url"] == "a.csv"
    columns = {column["titles"]: column for column in described["tableSchema"]["columns"]}
    assert list(columns) == list(pd.read_csv(tmp_path / "a.csv").columns)
    assert columns["class_loss_1"]["schema:unitText"] == "loss"
    assert "random 1" in columns["b"]["dc:description"]
    assert described["notes"][0]["settings"]["num"] == [5, 4]


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_numpy_reads_every_array_without_a_pickle(tmp_path, stored, num_axes):
    sweep, record = stored(num_axes)
    write_npz(tmp_path / "a.npz", record)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        for axis, coordinate in zip(sweep.axes, sweep.coordinates, strict=True):
            np.testing.assert_array_equal(arrays[axis], coordinate)
        for name in ("loss", "accuracy", "class_loss"):
            np.testing.assert_array_equal(arrays[name], sweep[name])
        np.testing.assert_array_equal(arrays["done"], sweep.done)
        assert arrays["mark"].tolist() == ["größte"]
        np.testing.assert_array_equal(arrays["direction_norm"], sweep.direction_norms)
        metadata = json.loads(str(arrays["metadata"]))
    assert metadata["dimensions"]["class_loss"] == [*sweep.axes, "class"]
    assert metadata["units"]["loss"] == "loss"
    assert metadata["long_name"]["a"].startswith("along random 0")
    assert metadata["record"]["settings"] == {"num": list(sweep.shape), "seed": 0}
    assert metadata["record"]["notes"] == ["one"]
    assert metadata["record"]["direction_recipes"][0] == {"kind": "random", "index": 0}


def test_text_that_came_as_objects_needs_no_pickle_either(tmp_path):
    record = asymmetric_sweep().to_dataset()
    record["mark"] = ("mark", np.array(["größte", "a"], dtype=object))
    write_npz(tmp_path / "a.npz", record)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["mark"].tolist() == ["größte", "a"]


@pytest.mark.parametrize("write", [write_csv, write_npz])
def test_what_is_no_sweep_is_refused(tmp_path, write):
    with pytest.raises(RequestError, match="grid"):
        write(tmp_path / "a", xr.Dataset({"value": 1.5}))
    assert not list(tmp_path.iterdir())
