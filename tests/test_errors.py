"""The words of an error."""

from __future__ import annotations

import pytest

from landscape.errors import RequestError, unknown_choice


@pytest.mark.parametrize(
    ("name", "near"), [("eigenvalue", "eigenvalues"), ("la", "LA"), ("Trace", "trace")]
)
def test_an_unknown_name_gets_the_nearest_whatever_its_case(name, near):
    error = unknown_choice("thing", name, ["eigenvalues", "LA", "trace"])
    assert isinstance(error, RequestError)
    assert f"Did you mean {near!r}?" in str(error)
    assert "LA, eigenvalues, trace" in str(error)


def test_a_name_like_no_other_gets_the_choices_only():
    assert "Did you mean" not in str(unknown_choice("thing", "xyz", ["trace"]))
