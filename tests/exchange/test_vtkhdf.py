"""VTK itself reads the image, each value at its place; so do h5py and xarray."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray as xr
from exchange.sweeps import (
    COORDINATES,
    NAMES,
    asymmetric_sweep,
    extent_of,
    flat_fields,
    image_of,
    point_fields,
    point_places,
)

from landscape.errors import RequestError
from landscape.exchange.vtkhdf import obstacle, write_vtkhdf


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_vtk_finds_every_value_at_its_coordinates(tmp_path, num_axes):
    sweep = asymmetric_sweep(num_axes)
    (hint,) = write_vtkhdf(tmp_path / "a.vtkhdf", sweep.to_dataset())
    assert "Warp By Scalar" in hint
    image = image_of(tmp_path / "a.vtkhdf")
    assert image.GetClassName() == "vtkImageData"
    assert extent_of(image) == (*sweep.shape, 1, 1)[:3]
    found = point_fields(image)
    assert set(found) == set(NAMES)
    for name, values in flat_fields(sweep).items():
        np.testing.assert_array_equal(found[name].reshape(sweep.shape), values)
    places = point_places(image).reshape(*sweep.shape, 3)
    grids = np.meshgrid(*COORDINATES[:num_axes], indexing="ij")
    for axis, grid in enumerate(grids):
        np.testing.assert_allclose(places[..., axis], grid, rtol=0, atol=1e-15)
    assert (places[..., num_axes:] == 0).all()


def test_the_values_at_the_places_are_those_of_the_function(tmp_path):
    write_vtkhdf(tmp_path / "a.vtkhdf", asymmetric_sweep().to_dataset())
    image = image_of(tmp_path / "a.vtkhdf")
    a, b, _ = np.moveaxis(point_places(image), -1, 0)
    np.testing.assert_allclose(point_fields(image)["loss"], a**2 + 10 * b, atol=1e-14)


def test_nan_and_infinity_stay_what_they_are(tmp_path):
    sweep = asymmetric_sweep()
    sweep.fields["loss"][1, 2], sweep.fields["loss"][4, 0] = np.nan, np.inf
    write_vtkhdf(tmp_path / "a.vtkhdf", sweep.to_dataset())
    loss = point_fields(image_of(tmp_path / "a.vtkhdf"))["loss"][..., 0]
    np.testing.assert_array_equal(loss, sweep.loss)


def test_the_layout_is_the_one_of_the_specification(tmp_path):
    write_vtkhdf(tmp_path / "a.vtkhdf", asymmetric_sweep().to_dataset())
    with h5py.File(tmp_path / "a.vtkhdf") as file:
        assert list(file) == ["VTKHDF"]
        attributes = file["VTKHDF"].attrs
        kind = h5py.check_string_dtype(attributes.get_id("Type").dtype)
        assert (attributes["Type"], kind) == (b"ImageData", ("ascii", 9))
        assert attributes["Version"].tolist() == [2, 0]
        assert attributes["WholeExtent"].tolist() == [0, 4, 0, 3, 0, 0]
        assert attributes["Origin"].tolist() == [-1, 0, 0]
        assert attributes["Spacing"].tolist() == [0.5, 1, 1]
        assert attributes["Direction"].tolist() == np.eye(3).ravel().tolist()
        arrays = file["VTKHDF/PointData"]
        assert {name: array.shape for name, array in arrays.items()} == dict.fromkeys(NAMES, (4, 5))
        assert arrays["done"].dtype == np.uint8


def test_xarray_reads_the_image_with_named_dimensions_and_units(tmp_path):
    sweep = asymmetric_sweep()
    write_vtkhdf(tmp_path / "a.vtkhdf", sweep.to_dataset())
    with xr.open_datatree(tmp_path / "a.vtkhdf", engine="h5netcdf") as tree:
        loss = tree["VTKHDF/PointData/loss"]
        assert loss.dims == ("b", "a")
        assert loss.attrs["units"] == "loss"
        np.testing.assert_array_equal(loss.transpose("a", "b"), sweep.loss)
        np.testing.assert_array_equal(loss["a"], COORDINATES[0])
        assert "random 0" in loss["a"].attrs["long_name"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coordinates": (np.array([0, 1, 3.0]), COORDINATES[1])}, "'a'"),
        ({"coordinates": (COORDINATES[0], np.array([2.0]))}, "'b'"),
        ({"coordinates": (np.arange(2.0), COORDINATES[1]), "kind": "lines"}, "direction"),
    ],
)
def test_what_is_no_image_is_refused_with_the_formats_that_take_it(tmp_path, changes, said):
    record = asymmetric_sweep(2, **changes).to_dataset()
    assert said in obstacle(record)
    with pytest.raises(RequestError, match=rf"{said}.*csv"):
        write_vtkhdf(tmp_path / "a.vtkhdf", record)
    assert not list(tmp_path.iterdir())


def test_four_axes_are_no_image():
    record = xr.Dataset({"done": (("a", "b", "c", "d"), np.ones((2, 2, 2, 2), bool))})
    assert "three axes" in obstacle(record)
    assert obstacle(xr.Dataset({"value": 1.5})) is not None
