"""Only what has a value at each point is laid out, under names that are told apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from exchange.sweeps import NAMES, asymmetric_sweep, flat_fields

from landscape.errors import RequestError
from landscape.exchange.grid import axes_of, even_spacing, fields_on_grid


@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_each_class_is_a_field_of_its_own_and_nothing_without_a_grid_is_kept(num_axes):
    sweep = asymmetric_sweep(num_axes)
    record = sweep.to_dataset()
    fields = fields_on_grid(record)
    assert axes_of(record) == ("a", "b", "c")[:num_axes]
    assert tuple(fields.data_vars) == NAMES
    assert tuple(fields.coords) == axes_of(record)
    for name, values in flat_fields(sweep).items():
        np.testing.assert_array_equal(fields[name], values)
    assert fields["class_loss_2"].attrs["units"] == "loss"


def test_slopes_come_apart_by_direction_also_where_the_grid_is_a_fan_of_lines():
    coordinates = (np.arange(2.0), np.linspace(-1, 1, 3))
    loss = np.arange(6.0).reshape(2, 3)
    lines = asymmetric_sweep(2, kind="lines", coordinates=coordinates, fields={"loss": loss})
    lines = replace(lines, done=np.ones((2, 3), bool))
    assert axes_of(lines.to_dataset()) == ("direction", "a")
    assert tuple(fields_on_grid(lines.to_dataset()).data_vars) == ("loss", "done")
    plane = asymmetric_sweep(2)
    plane = replace(plane, fields={**plane.fields, "slope": np.ones((5, 4, 2)) * [1, 2]})
    fields = fields_on_grid(plane.to_dataset())
    assert float(fields["slope_1"].min()) == 2


def test_a_record_without_a_grid_is_refused_by_its_name():
    record = xr.Dataset({"value": 1.5}, attrs={"probe": "trace"})
    assert axes_of(record) == ()
    with pytest.raises(RequestError, match="'trace'"):
        fields_on_grid(record)


@pytest.mark.parametrize(
    ("axis", "spacing"),
    [
        (np.linspace(-0.1, 0.7, 1001), 0.8e-3),
        (np.linspace(1e6, 1e6 + 1, 11), 0.1),
        ([0, 1, 2.001], None),
        ([1, 0, -1], None),
        ([0, 0, 0], None),
        ([3], None),
        ([0, np.nan, 2], None),
    ],
)
def test_an_axis_is_even_when_it_rises_by_equal_steps(axis, spacing):
    found = even_spacing(np.asarray(axis, dtype=np.float64))
    assert found == (None if spacing is None else pytest.approx(spacing, rel=1e-9))
