"""What users hand over becomes arrays, or an error that says what to give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.arrays import as_bools, as_floats, as_labels


@pytest.mark.parametrize(
    "values", [[[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), torch.tensor([[1.0, 2], [3, 4]])]
)
def test_lists_arrays_and_tensors_are_the_same(values):
    np.testing.assert_array_equal(as_floats(values, "x", "(T, n)"), [[1.0, 2], [3, 4]])


def test_what_comes_back_is_a_copy():
    values = np.ones((2, 2))
    as_floats(values, "x", "(T, n)")[0, 0] = 7
    assert values[0, 0] == 1


def test_half_precision_and_gradients_are_read():
    for dtype in (torch.bfloat16, torch.float16):
        values = torch.ones(3, dtype=dtype, requires_grad=True)
        assert as_floats(values, "x", "(n,)").dtype == np.float64


def test_other_dimensions_are_refused():
    with pytest.raises(RequestError, match=r"x has shape \(2,\), expected \(T, n\)"):
        as_floats([1, 2], "x", "(T, n)")
    with pytest.raises(RequestError, match=r"x has shape \(1, 1\), expected \(n,\)"):
        as_floats([[1]], "x", "(n,)")


def test_words_are_no_numbers():
    with pytest.raises(RequestError, match="expected numbers"):
        as_floats(["a"], "x", "(n,)")


def test_a_mask_holds_0_and_1_only():
    assert as_bools([0, 1.0], "m", "(n,)").tolist() == [False, True]
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        as_bools([0, 2], "m", "(n,)")
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        as_bools([0, np.nan], "m", "(n,)")
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        as_bools(["0", "1"], "m", "(n,)")


def test_labels_are_whole_and_in_range():
    assert as_labels(torch.tensor([0, 2]), "y", 3).tolist() == [0, 2]
    assert as_labels(np.empty(0, int), "y", 3).shape == (0,)
    with pytest.raises(RequestError, match="expected class indices from 0 on"):
        as_labels([-1], "y")
    with pytest.raises(RequestError, match=r"y has class 3, and there are 3 classes"):
        as_labels([3], "y", 3)
    with pytest.raises(RequestError, match="integers: class indices"):
        as_labels([0.5], "y")
