"""Minibatches: every example once in an epoch, the same ones on each run."""

from __future__ import annotations

import pytest
import torch
from oracles import MLP, cut, half_squared_error, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.minibatches import Minibatches


def numbered(count=10, **options):
    """An objective whose example i has the input i."""
    inputs = torch.arange(float(count), dtype=torch.float64)[:, None]
    model = nn.Linear(1, 1, dtype=torch.float64)
    batches = cut(inputs, inputs.clone(), options.pop("batch_size", 4))
    return Objective(model, batches, options.pop("loss", "mse"), **options)


def inputs_of(batches):
    return [batch[0].flatten().long().tolist() for batch in batches]


def test_an_epoch_holds_every_example_once_in_an_order_of_its_own():
    minibatches = Minibatches(numbered(12), 4, seed=0)
    first, second = minibatches.rows(0, 3), minibatches.rows(3, 3)
    for rows in (first, second):
        assert sorted(rows.flatten().tolist()) == list(range(12))
    assert not torch.equal(first, second)


def test_what_does_not_fill_a_batch_is_left_out_of_an_epoch_and_no_batch_is_ragged():
    minibatches = Minibatches(numbered(10), 4, seed=0)
    rows = minibatches.rows(0, 2)
    assert rows.shape == (2, 4)
    assert len(set(rows.flatten().tolist())) == 8
    left_out = {tuple(sorted(set(range(10)) - set(minibatches.rows(2 * e, 2).flatten().tolist())))
                for e in range(20)}  # fmt: skip
    assert len(left_out) > 10


def test_batches_hold_the_examples_of_their_rows():
    minibatches = Minibatches(numbered(), 3, seed=1)
    assert inputs_of(minibatches.batches(2, 4)) == minibatches.rows(2, 4).tolist()


def test_batches_are_the_same_wherever_one_starts():
    straight = Minibatches(numbered(), 3, seed=0).rows(0, 9)
    again = Minibatches(numbered(), 3, seed=0)
    assert torch.equal(torch.cat([again.rows(5, 4), again.rows(0, 5)]), straight.roll(-5, 0))
    assert not torch.equal(Minibatches(numbered(), 3, seed=1).rows(0, 9), straight)


@pytest.mark.parametrize(("count", "expected"), [(300, 128), (10, 10)])
def test_without_a_size_128_examples_or_all(count, expected):
    assert Minibatches(numbered(count), None, seed=0).size == expected


def test_targets_go_with_their_inputs():
    model, inputs, targets = network(MLP, num=9)
    minibatches = Minibatches(Objective(model, cut(inputs, targets, 4)), 3, seed=0)
    for rows, (x, y) in zip(minibatches.rows(0, 3), minibatches.batches(0, 3), strict=True):
        assert torch.equal(x, inputs[rows])
        assert torch.equal(y, targets[rows])


@pytest.mark.parametrize(
    "options", [{"cache_bytes": 0}, {"loss": half_squared_error}], ids=["streamed", "whole batches"]
)
def test_what_cannot_be_put_together_anew_comes_in_its_own_batches(options):
    objective = numbered(**options)
    minibatches = Minibatches(objective, None, seed=0)
    assert not minibatches.are_drawn
    own = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert inputs_of(minibatches.batches(0, 2)) == own[:2]
    assert inputs_of(minibatches.batches(2, 3)) == [own[2], *own[:2]]
    assert inputs_of(minibatches.batches(1, 2)) == own[1:]  # not where it stopped
    assert inputs_of(Minibatches(objective, None, seed=0).batches(4, 2)) == own[1:]


def test_a_size_that_was_asked_for_is_had_or_refused():
    assert Minibatches(numbered(loss=half_squared_error), 3, seed=0).size == 3
    with pytest.raises(RequestError, match="not held in memory"):
        Minibatches(numbered(cache_bytes=0), 3, seed=0)
    with pytest.raises(RequestError, match="at least 1"):
        Minibatches(numbered(), 0, seed=0)
    ragged = [(torch.zeros(2, 3), torch.zeros(2, 3)), (torch.zeros(2, 4), torch.zeros(2, 4))]
    objective = Objective(nn.Conv1d(1, 1, 1), [(x[:, None], y[:, None]) for x, y in ragged], "mse")
    with pytest.raises(RequestError, match="batch_size is 2, but the batches cannot be joined"):
        Minibatches(objective, 2, seed=0)
    assert not Minibatches(objective, None, seed=0).are_drawn
