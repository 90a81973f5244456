import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.trainers.options import made, option


@dataclass(frozen=True)
class Options:
    model: str = option("mlp", "network")
    rate: float = option(0.1, "rate", above=0)
    rates: tuple[float, ...] = option((0.1, 0.2), "rates", above=0)
    counts: tuple[int, ...] = option((1,), "counts", low=1)
    steps: int = option(5, "steps", low=1)
    limit: float | None = option(None, "limit", low=0)
    share: float = option(0.0, "any number")
    fast: bool = option(False, "or slow")
    kind: Literal["plain", "round"] = option("plain", "which")


def test_what_is_not_given_has_its_default():
    assert made(Options, {}) == Options()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("rate", "0.5", 0.5),
        ("rate", 1, 1.0),
        ("rate", np.float64(0.25), 0.25),
        ("steps", "7", 7),
        ("steps", 7.0, 7),
        ("rates", "0.01,0.1", (0.01, 0.1)),
        ("rates", "1e-3", (0.001,)),
        ("rates", " 0.1 , 2", (0.1, 2.0)),
        ("rates", [1, 0.5], (1.0, 0.5)),
        ("rates", 0.5, (0.5,)),
        ("rates", np.array([0.5, 0.25]), (0.5, 0.25)),
        ("counts", "3,4", (3, 4)),
        ("limit", None, None),
        ("limit", "0", 0.0),
        ("fast", True, True),
        ("kind", "round", "round"),
        ("model", "cnn", "cnn"),
        ("share", -2, -2.0),
    ],
)
def test_values_are_read_as_what_the_option_takes(name, value, read):
    found = getattr(made(Options, {name: value}), name)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stepz", 3, "Did you mean 'steps'"),
        ("kind", "rond", "Did you mean 'round'"),
        ("rate", 0, "rate=0.0 is out of range. It has to be above 0"),
        ("rate", -1, "rate=-1.0 is out of range"),
        ("rate", math.nan, "rate=nan is out of range"),
        ("rate", "inf", "rate=inf is out of range"),
        ("share", math.nan, "share=nan is out of range. It has to be finite"),
        ("rates", "0.1,nan", "rates=nan is out of range"),
        ("rates", "0.1,,0.2", "rates='' is not what rates takes: a number"),
        ("rates", "a", "rates='a' is not what rates takes: a number"),
        ("rates", None, "rates=None is no list. Write values with commas between"),
        ("rates", [0.1, -0.1], "rates=-0.1 is out of range"),
        ("counts", "1,2.5", "counts='2.5' is not what counts takes: a whole number"),
        ("steps", 0, "steps=0 is out of range. It has to be 1 or more"),
        ("steps", 2.5, "steps=2.5 is no whole number"),
        ("steps", "many", "steps='many' is not what steps takes: a whole number"),
        ("steps", True, "steps=True is not what steps takes"),
        ("steps", None, "steps=None is not what steps takes"),
        ("steps", math.inf, "steps=inf is not what steps takes: a whole number"),
        ("rate", 10**400, "is not what rate takes: a number"),
        ("limit", -1, "limit=-1.0 is out of range. It has to be 0 or more"),
        ("fast", "yes", "fast='yes' is neither True nor False"),
        ("model", 3, "model=3 is not what model takes: str"),
    ],
)
def test_what_an_option_cannot_take_is_refused(name, value, message):
    with pytest.raises(RequestError, match=message):
        made(Options, {name: value})
