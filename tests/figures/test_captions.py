"""The words of a slice's figure: nothing that the record knows against itself is left out."""

from __future__ import annotations

import numpy as np
import pytest

from landscape.figures.canvas import described
from landscape.figures.captions import (
    along,
    along_each,
    caveats,
    clip_name,
    fields_over,
    missing,
    spans_a_decade,
)


def test_an_axis_names_its_own_direction(plane_sweep):
    data = described(plane_sweep(norms=[2.0, 0.125]))
    assert along(data, 0, letters=40) == "along here\n(units of d, ‖d‖ = 2)"
    assert along(data, 1, letters=40) == "along there\n(units of d, ‖d‖ = 0.125)"
    assert along(data, 1, letters=6) == "along\nthere\n(units of d, ‖d‖ = 0.125)"


def test_a_direction_without_name_or_norm_is_numbered(plane_sweep):
    data = described(plane_sweep(norms=[2.0, np.nan]))
    del data.attrs["direction_names"]
    assert along(data, 1, letters=40) == "direction 2\n(units of d)"


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["random, filter-normalised, seed 0, #1", "random, filter-normalised, seed 0, #2"], 1),
        (["random, filter-normalised, seed 1", "random, filter-normalised, seed 10"], 1),
        (["gradient", "towards b"], 0),
    ],
)
def test_several_directions_are_named_by_what_they_share(lines_sweep, names, common):
    data = described(lines_sweep(2, norms=[1.0, 2.0]))
    data.attrs["direction_names"] = "\n".join(names)
    expected = ["various", "random, filter-normalised"][common]
    assert along_each(data) == f"2 directions: {expected}\n(units of each d, ‖d‖ = 1 to 2)"


def test_fields_are_those_over_the_grid(plane_sweep):
    zeros = np.zeros((7, 5))
    fields = {"test_loss": zeros, "accuracy": zeros, "class_loss": np.zeros((7, 5, 3))}
    data = described(plane_sweep(fields=fields))
    assert fields_over(data, "loss", ("a", "b")) == ["loss", "test_loss"]  # center_loss is a number
    assert fields_over(data, "accuracy", ("a", "b")) == ["accuracy"]
    assert fields_over(data, "loss", ("a",)) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 10], True),
        ([1, 9], False),
        ([0, 10], False),
        ([-1, 100], False),
        ([1, 10, np.inf, np.nan], True),
        ([1, np.inf], False),
        ([np.nan], False),
    ],
)
def test_a_decade_is_positive_and_finite(values, expected):
    assert spans_a_decade(np.asarray(values, float)) is expected


def test_missing_points_are_counted_by_reason(plane_sweep):
    loss = np.ones((5, 4))
    loss[0, 0], loss[1, :2], loss[2, :3], loss[3, 0] = np.nan, np.nan, np.inf, -np.inf
    done = np.ones((5, 4), bool)
    done[1, :2] = False
    sweep = plane_sweep(loss=loss, a=np.arange(5), b=np.arange(4), done=done)
    assert missing(described(sweep)) == [
        "2 points (10 %) NaN",  # -inf is no loss either
        "2 points (10 %) not measured",
        "3 points (15 %) infinite",
    ]
    assert missing(described(plane_sweep())) == []


def test_an_infinite_loss_is_the_clip_where_there_was_one(plane_sweep):
    assert clip_name(described(plane_sweep())) == "infinite"
    assert clip_name(described(plane_sweep(settings={"clip": 12.5}))) == "beyond the clip of 12.5"


def test_every_caveat_of_the_record_is_written(plane_sweep):
    caveat = {
        "max_cosine": 0.25,
        "stale_bn_gap": 1.5,
        "rescaling_change": 0.75,
        "interpolated_share": 0.4,
        "clipped_share": 0.0,
    }
    errors = {"standard_error": np.full((7, 5), 0.03)}
    sweep = plane_sweep(caveats=caveat, fields=errors, center_loss=20.0, center_error=0.1)
    text = caveats(described(sweep))
    for part in (
        "Loss at the center 20.0 ± 0.1;",
        "difference to it at most 0.03",
        "cosine between the directions 0.25",
        "BatchNorm statistics change the loss by up to 1.5",
        "rescaled neurons, the function being equal, change the loss by up to 0.75",
        "40 % of the points filled in",
    ):
        assert part in text
    assert "clip" not in text
    assert "filled in" not in caveats(described(plane_sweep(caveats={"interpolated_share": 0.0})))


def test_a_cosine_of_rounding_is_none(plane_sweep):
    assert "directions 0." in caveats(described(plane_sweep(caveats={"max_cosine": 2e-16})))


def test_a_record_without_anything_to_say_says_nothing(plane_sweep):
    data = described(plane_sweep())
    assert caveats(data.drop_vars(["center_loss", "loss"])) == ""
