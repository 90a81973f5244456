"""What users hand over: forms of features, kinds of labels, weights and parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.linear.labelled import (
    Labelled,
    as_classes,
    as_features,
    as_weights,
    hold_out,
    layers,
)

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (ROWS, torch.float64),
        (np.array(ROWS), torch.float64),
        (np.array(ROWS, dtype=np.float32), torch.float32),
        (np.array(ROWS, dtype=int), torch.float64),
        (torch.tensor(ROWS), torch.float32),
        (torch.tensor(ROWS, dtype=torch.bfloat16), torch.float32),
        (torch.tensor(ROWS, requires_grad=True), torch.float32),
    ],
)
def test_features_of_any_kind_are_float32_or_float64(values, dtype):
    found = as_features(values, "features")
    assert found.dtype == dtype
    assert found.tolist() == ROWS
    assert not found.requires_grad


@pytest.mark.parametrize(
    "values", [ROWS, np.array(ROWS), np.array(ROWS, order="F"), torch.tensor(ROWS).double()]
)
def test_two_dimensions_are_one_layer(values):
    assert list(layers(values, "features")) == [""]


@pytest.mark.parametrize(
    "values", [[ROWS, ROWS], np.array([ROWS, ROWS]), torch.tensor([ROWS, ROWS]), (np.array(ROWS),)]
)
def test_three_dimensions_and_sequences_of_two_are_layers(values):
    found = layers(values, "features")
    assert list(found) == [str(index) for index in range(len(values))]
    assert all(part.tolist() == ROWS for part in found.values())


@pytest.mark.parametrize("values", [np.zeros(3), torch.zeros(1, 1, 1, 1), [1.0, 2.0]])
def test_other_dimensions_are_refused(values):
    with pytest.raises(RequestError, match=r"expected \(n, d\)"):
        layers(values, "features")


def test_no_layer_at_all_is_refused():
    with pytest.raises(RequestError, match="0 layers"):
        layers(np.zeros((0, 3, 2)), "features")


def test_rows_that_are_not_finite_are_named():
    with pytest.raises(RequestError, match=r"1 rows, the first of them \[1\]"):
        as_features([[1.0], [np.inf]], "features")


def test_classes_are_any_integers():
    assert as_classes(torch.tensor([3, -1]), "labels").tolist() == [3, -1]
    assert as_classes([True, False], "labels").tolist() == [1, 0]
    with pytest.raises(RequestError, match="numbers any other kind"):
        as_classes(["a", "b"], "labels")
    with pytest.raises(RequestError, match=r"shape \(1, 1\)"):
        as_classes([[1]], "labels")


def test_weights_are_shares_of_one():
    assert as_weights(None, 4).tolist() == [0.25] * 4
    assert as_weights([1, 0, 3], 3).tolist() == [0.25, 0, 0.75]
    with pytest.raises(RequestError, match="positive sum"):
        as_weights([0.0, 0.0], 2)
    with pytest.raises(RequestError, match="have to be finite"):
        as_weights([1.0, np.inf], 2)


def test_parts_of_a_split_are_disjoint_and_all():
    labels = torch.arange(30) % 3
    examples = Labelled({"": torch.zeros(30, 1)}, labels)
    kept, held = hold_out(examples, 0.2, seed=0)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(30))
    assert labels[held].bincount().tolist() == [2, 2, 2]
