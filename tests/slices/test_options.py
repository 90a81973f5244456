"""Options: what is refused, and what of them makes a record another one."""

from __future__ import annotations

import json
import math

import pytest

from landscape.errors import RequestError
from landscape.slices.execution import Execution
from landscape.slices.options import SweepOptions

WRONG = {
    "an error of 0": ({"stop_error": 0.0}, "stop_error is 0.0, expected a finite number above 0"),
    "an error below 0": ({"stop_error": -1.0}, "stop_error is -1.0"),
    "a NaN tolerance": ({"tolerance": math.nan}, "tolerance is nan"),
    "a clip of 0": ({"clip": 0.0}, "clip is 0.0, expected a finite number above 0"),
    "a clip without end": ({"clip": math.inf}, "clip is inf"),
    "a shard beyond the last": (
        {"shard": (4, 4)},
        r"shard is \(4, 4\), expected \(i, m\) with 0 <= i < m",
    ),
    "a shard before the first": ({"shard": (-1, 4)}, r"shard is \(-1, 4\)"),
    "shards of a refinement": (
        {"shard": (0, 4), "tolerance": 0.1},
        "Leave tolerance or shard out",
    ),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=list(WRONG))
def test_options_that_mean_nothing_are_refused(options, words):
    with pytest.raises(RequestError, match=words):
        SweepOptions(**options)


def test_a_plain_sweep_has_no_settings_of_its_own():
    assert SweepOptions().settings() == {}


CHANGES = {
    "stop_error": 0.1,
    "clip": 3.0,
    "tolerance": 0.2,
    "quadratic": True,
    "metrics": {"margin": lambda output, target: output},
    "shard": (1, 3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_numbers_changes_the_settings(name):
    found = SweepOptions(**{name: CHANGES[name]}).settings()
    assert name in found
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    "options",
    [
        {"execution": "loop"},
        {"execution": Execution("batched", 7)},
        {"state": "somewhere.npz"},
        {"caveats": False},
        {"progress": print},
        {"penalty": lambda theta: theta.sum()},  # the field "penalty" is among the fields
        {"seed": 3},  # of an order that nothing asks for
    ],
    ids=lambda options: next(iter(options)),
)
def test_how_it_is_carried_out_changes_no_settings(options):
    assert SweepOptions(**options).settings() == {}


def test_the_seed_counts_where_the_order_is_random():
    one, two = (SweepOptions(stop_error=0.1, seed=seed).settings() for seed in (0, 1))
    assert one != two
