"""VTK reads the surface: points over their coordinates as high as the loss."""

from __future__ import annotations

import numpy as np
import pytest
from exchange.sweeps import (
    NAMES,
    asymmetric_sweep,
    extent_of,
    flat_fields,
    point_fields,
    point_places,
)
from vtkmodules.vtkIOXML import vtkXMLStructuredGridReader

from landscape.errors import RequestError
from landscape.exchange.vts import write_vts


def surface_of(path):
    reader = vtkXMLStructuredGridReader()
    assert reader.CanReadFile(str(path))
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_vtk_finds_every_value_at_its_point(tmp_path, num_axes):
    sweep = asymmetric_sweep(num_axes)
    assert write_vts(tmp_path / "a.vts", sweep.to_dataset()) == ()
    surface = surface_of(tmp_path / "a.vts")
    assert extent_of(surface) == (*sweep.shape, 1, 1)[:3]
    found = point_fields(surface)
    assert set(found) == set(NAMES)
    for name, values in flat_fields(sweep).items():
        np.testing.assert_array_equal(found[name].reshape(sweep.shape), values)
    assert surface.GetPointData().GetScalars().GetName() == "loss"
    places = point_places(surface).reshape(*sweep.shape, 3)
    grids = np.meshgrid(*sweep.coordinates, indexing="ij")
    np.testing.assert_array_equal(places[..., :num_axes], np.stack(grids, axis=-1))
    if num_axes < 3:
        np.testing.assert_array_equal(places[..., 2], sweep.loss)
    if num_axes == 1:
        assert (places[..., 1] == 0).all()


def test_the_points_lie_on_the_function(tmp_path):
    write_vts(tmp_path / "a.vts", asymmetric_sweep().to_dataset())
    x, y, z = np.moveaxis(point_places(surface_of(tmp_path / "a.vts")), -1, 0)
    np.testing.assert_allclose(z, x**2 + 10 * y, atol=1e-14)


def test_uneven_axes_keep_their_coordinates(tmp_path):
    coordinates = (np.array([0, 0.1, 5.0]), np.array([-3.0, 7.0]))
    write_vts(tmp_path / "a.vts", asymmetric_sweep(coordinates=coordinates).to_dataset())
    places = point_places(surface_of(tmp_path / "a.vts"))
    np.testing.assert_array_equal(places[:, 0, 0, 0], coordinates[0])
    np.testing.assert_array_equal(places[0, :, 0, 1], coordinates[1])


def test_a_point_without_a_finite_loss_keeps_it_and_stands_as_high_as_the_highest(tmp_path):
    sweep = asymmetric_sweep()
    sweep.fields["loss"][1, 2], sweep.fields["loss"][4, 0] = np.nan, np.inf
    (note,) = write_vts(tmp_path / "a.vts", sweep.to_dataset())
    assert note.startswith("2 of 20 points")
    assert "z = 31" in note
    surface = surface_of(tmp_path / "a.vts")
    np.testing.assert_array_equal(point_fields(surface)["loss"][..., 0], sweep.loss)
    heights = point_places(surface)[:, :, 0, 2]
    assert heights[1, 2] == heights[4, 0] == heights.max() == 31
    finite = np.isfinite(sweep.loss)
    np.testing.assert_array_equal(heights[finite], sweep.loss[finite])


def test_a_field_may_have_any_name(tmp_path):
    sweep = asymmetric_sweep()
    fields = {"loss": sweep.loss, 'a<b & "c"': sweep.loss + 1}
    write_vts(tmp_path / "a.vts", asymmetric_sweep(fields=fields).to_dataset())
    assert 'a<b & "c"' in point_fields(surface_of(tmp_path / "a.vts"))


def test_a_surface_without_a_finite_point_is_refused(tmp_path):
    fields = {"loss": np.full((5, 4), np.nan)}
    with pytest.raises(RequestError, match="finite"):
        write_vts(tmp_path / "a.vts", asymmetric_sweep(fields=fields).to_dataset())
    assert not list(tmp_path.iterdir())


def test_lines_along_many_directions_are_no_surface(tmp_path):
    coordinates = (np.arange(2.0), np.linspace(-1, 1, 3))
    record = asymmetric_sweep(kind="lines", coordinates=coordinates).to_dataset()
    with pytest.raises(RequestError, match="csv"):
        write_vts(tmp_path / "a.vts", record)
