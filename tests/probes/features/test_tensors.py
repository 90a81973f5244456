"""What users hand over is in float64, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.features.tensors import as_float64


@pytest.mark.parametrize(
    "values",
    [[1, 2], (1.0, 2.0), np.array([1, 2], np.int32), torch.tensor([1.0, 2.0]).half()],
    ids=str,
)
def test_whatever_is_handed_over_is_float64(values):
    found = as_float64(values, "x")
    assert found.dtype == torch.float64
    assert found.tolist() == [1, 2]


def test_an_array_that_cannot_be_written_to_is_copied():
    array = np.arange(3.0)
    array.flags.writeable = False
    assert as_float64(array[::-1], "x").tolist() == [2, 1, 0]


def test_what_requires_gradients_is_detached():
    assert not as_float64(torch.ones(2, requires_grad=True), "x").requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a"], "x holds <U1"),
        (torch.ones(2, dtype=torch.complex64), "x is complex"),
        ([1.0, float("nan"), float("inf")], "x has 2 values that are NaN or infinite"),
    ],
)
def test_what_cannot_be_measured_is_refused(values, message):
    with pytest.raises(RequestError, match=message):
        as_float64(values, "x")
