"""Blocks come from whom they should, and what does not see them does not mind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.features import swaps
from landscape.probes.features.swaps import (
    answered,
    crossed_gains,
    flips,
    same_class,
    some_other_class,
)

LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 2, 0, 0, 1])


def generator(seed=0):
    return np.random.default_rng(seed)


def by_block(first, num_classes=3):
    """A network that reads the class off one entry."""

    def network(inputs):
        return torch.nn.functional.one_hot(inputs.flatten(1)[:, first].long(), num_classes).double()

    return network


def inputs(labels=LABELS, width=4):
    """Each entry is the label, and which example it is of after the point."""
    marks = torch.arange(len(labels)).double() / 100
    return (labels + marks)[:, None].expand(-1, width).clone()


def test_donors_of_another_class_are_of_any_other_and_no_own():
    drawn = torch.stack([some_other_class(LABELS, generator(seed)) for seed in range(300)])
    assert (LABELS[drawn] != LABELS).all()
    for example, label in enumerate(LABELS.tolist()):
        counts = drawn[:, example].bincount(minlength=len(LABELS))
        others = label != LABELS
        expected = 300 / int(others.sum())
        assert counts[~others].sum() == 0
        assert (counts[others] - expected).abs().max() < 5 * expected**0.5


def test_donors_of_the_same_class_are_others_of_it():
    drawn = torch.stack([same_class(LABELS, generator(seed)) for seed in range(100)])
    assert (LABELS[drawn] == LABELS).all()
    assert (drawn != torch.arange(len(LABELS))).all()
    assert set(drawn[:, 0].tolist()) == {3, 5, 7, 8}


def test_who_is_alone_in_a_class_keeps_its_own():
    assert same_class(torch.tensor([0, 1, 0]), generator()).tolist() == [2, 1, 0]


@pytest.mark.parametrize("rows", [3, 4096])
def test_only_the_block_is_swapped(rows, monkeypatch):
    monkeypatch.setattr(swaps, "_ROWS", rows)
    seen = []

    def network(shown):
        seen.append(shown)
        return torch.zeros(len(shown), 2)

    donors = torch.arange(len(LABELS)).flip(0)
    shown = inputs().reshape(-1, 2, 2)
    before = shown.clone()
    flips(network, shown, [1, 3], donors)
    changed = torch.cat(seen)[len(LABELS) :].reshape(-1, 4)
    assert (changed[:, [1, 3]] == before.reshape(-1, 4)[donors][:, [1, 3]]).all()
    assert (changed[:, [0, 2]] == before.reshape(-1, 4)[:, [0, 2]]).all()
    assert (shown == before).all()
    assert max(len(part) for part in seen) <= rows
    assert {part.shape[1:] for part in seen} == {(2, 2)}


def test_flips_are_all_of_a_block_that_is_read_and_none_of_another():
    donors = some_other_class(LABELS, generator())
    assert flips(by_block(2), inputs(), [2], donors).tolist() == [1] * 10
    assert flips(by_block(2), inputs(), [0, 1, 3], donors).tolist() == [0] * 10
    assert flips(by_block(2), inputs(), [2], same_class(LABELS, generator())).tolist() == [0] * 10


def test_flips_are_counted_example_by_example():
    donors = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    expected = (LABELS[donors] != LABELS).double()
    assert (flips(by_block(0), inputs(), [0], donors) == expected).all()


@pytest.mark.parametrize("labels", [LABELS, LABELS.clamp(max=1)], ids=["three", "two"])
def test_crossing_gives_all_to_the_block_that_is_read_and_nothing_to_another(labels):
    classes = len(labels.unique())
    shown = inputs(labels)
    read = crossed_gains(by_block(1), shown, labels, [1], generator())
    torch.testing.assert_close(read, torch.full((10,), 1 - 1 / classes, dtype=torch.float64))
    assert (crossed_gains(by_block(1), shown, labels, [0, 2, 3], generator()) == 0).all()


def test_a_constant_answer_gains_nothing_whatever_the_classes_shares():
    labels = torch.tensor([0] * 9 + [1])
    constant = crossed_gains(lambda x: torch.ones(len(x)), inputs(labels), labels, [0], generator())
    assert (constant == 0).all()


def test_crossing_keeps_the_block_of_the_own_class():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    seen = []

    def network(shown):
        seen.append(shown[:, 0])
        return torch.zeros(len(shown), 2)

    crossed_gains(network, inputs(labels), labels, [0], generator())
    own = inputs(labels)[:, 0]
    assert (seen[0][:3] == own[:3]).all()
    assert (seen[1][3:] == own[3:]).all()
    assert (seen[0].long() == 0).all()
    assert (seen[1].long() == 1).all()


def test_one_class_alone_cannot_be_swapped():
    with pytest.raises(RequestError, match=r"all 3 labels are class \[1\]"):
        some_other_class(torch.ones(3).long(), generator())


def test_many_inputs_are_asked_about_some_at_a_time(monkeypatch):
    monkeypatch.setattr(swaps, "_ROWS", 4)
    sizes = []

    def network(shown):
        sizes.append(len(shown))
        return by_block(0)(shown)

    assert (answered(network, inputs()) == LABELS).all()
    assert sizes == [4, 4, 2]
