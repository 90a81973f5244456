"""What is asked for on the command line, before anything is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from landscape.errors import RequestError
from landscape.slice_plan import SlicePlan
from landscape.trainers.options import made


def test_points_are_those_of_the_probe_unless_given():
    assert SlicePlan().points("line") == (51,)
    assert SlicePlan().points("plane") == (21, 21)
    assert SlicePlan(num=(7,)).points("plane") == (7, 7)
    assert SlicePlan(num=(7, 3)).points("plane") == (7, 3)
    with pytest.raises(RequestError, match="--num 51"):
        SlicePlan(num=(7, 3)).points("line")


@pytest.mark.parametrize(
    ("text", "radii"),
    [
        ("1.5", 1.5),
        ("auto", "auto"),
        ("1,2", [1.0, 2.0]),
        ("-1:2,0:3", [(-1.0, 2.0), (0.0, 3.0)]),
        ("0:1", [(0.0, 1.0)]),
    ],
)
def test_radius_is_read_as_a_sweep_takes_it(text, radii):
    assert SlicePlan(radius=text).radii() == radii


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"radius": "wide"}, "auto"),
        ({"radius": "1;2"}, "1,2"),
        ({"shard": "0/3"}, "1/4"),
        ({"shard": "4/3"}, "1/4"),
        ({"shard": "1"}, "1/4"),
        ({"num": "0"}, "num"),
        ({"num": "x"}, "num"),
        ({"tolerance": "0"}, "tolerance"),
        ({"normalize": "filters"}, "'filter'"),
        ({"num_seeds": "0"}, "num_seeds"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_type(asked, said):
    with pytest.raises(RequestError, match=said):
        made(SlicePlan, asked)


def test_more_than_two_other_checkpoints_are_refused():
    with pytest.raises(RequestError, match="two a plane"):
        SlicePlan(towards=(Path("a"), Path("b"), Path("c")))


def test_shards_are_counted_from_one_on_the_command_line():
    assert SlicePlan(shard="1/4").shard_of() == (0, 4)
    assert SlicePlan(shard="4/4").shard_of() == (3, 4)
    assert SlicePlan().shard_of() is None


def test_settings_hold_what_was_asked_and_not_how_it_is_carried_out():
    plain = SlicePlan().settings("plane")
    assert plain == {"num": [21, 21]}
    assert SlicePlan(num=(21,)).settings("plane") == plain  # the same request in other words
    assert SlicePlan(execution="loop", topology=True).settings("plane") == plain
    for field in dataclasses.fields(SlicePlan):
        if field.name in ("num", "execution", "topology"):
            continue
        value = {
            "towards": (Path("x.pt"),),
            "members": (Path("x.pt"),),
            "test_arguments": {"split": "test"},
            "shard": "1/2",
            "radius": "2",
            "fields": ("loss",),
            "test_data": "my:data",
            "direction": "gradient",
            "normalize": "layer",
            "biases": "layer",
            "norms": "layer",
        }.get(field.name, 3 if field.type == "int" else True if field.type == "bool" else 0.5)
        other = dataclasses.replace(SlicePlan(), **{field.name: value}).settings("plane")
        assert other != plain, field.name
