"""A sweep is the same after it was in a file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from oracles import MLP

import landscape as ls
from landscape import store
from landscape.errors import RequestError
from landscape.slices.stored import stored_sweep


@pytest.fixture
def objective():
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 4).double(), torch.randint(3, (40,))
    return ls.Objective(MLP().double(), (inputs, targets))


def through_a_file(tmp_path, sweep):
    (group,) = store.save(tmp_path / "a.h5", sweep, vectors=True)
    return stored_sweep(store.read(tmp_path / "a.h5", group))


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second, equal_nan=True)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        return all(same(getattr(first, n), getattr(second, n)) for n in names)
    return first == second or (first != first and second != second)


@pytest.mark.parametrize("kind", ["line", "lines", "plane", "through"])
def test_everything_comes_back_bit_for_bit(objective, tmp_path, kind):
    directions = ls.random_directions(objective, 2, seed=1)
    options = ls.SweepOptions(execution="loop", quadratic=True)
    fields = ("loss", "accuracy", "class_loss", "slope", "gradient_norm")
    if kind == "line":
        sweep = ls.line(objective, directions[0], 4, fields=fields, options=options)
    elif kind == "lines":
        sweep = ls.lines(objective, directions, 4, options=options)
    elif kind == "plane":
        sweep = ls.plane(objective, directions, (3, 4), fields=fields, options=options)
    else:
        points = [objective.theta + direction for direction in directions]
        sweep = ls.plane_through(objective, *points, num=3, options=options)
        assert len(sweep.marks) == 3
    again = through_a_file(tmp_path, sweep)
    for field in dataclasses.fields(sweep):
        assert same(getattr(sweep, field.name), getattr(again, field.name)), field.name


def test_shards_that_were_in_files_merge_to_the_whole(objective, tmp_path):
    directions = ls.random_directions(objective, 2, seed=1)

    def measured(shard):
        options = ls.SweepOptions(execution="loop", caveats=False, shard=shard)
        return ls.plane(objective, directions, (3, 4), options=options)

    shards = [through_a_file(tmp_path, measured((i, 3))) for i in range(3)]
    whole = measured(None)
    merged = ls.merge(shards)
    assert np.array_equal(merged.loss, whole.loss)
    assert np.array_equal(merged.standard_error, whole.standard_error, equal_nan=True)
    assert merged.status == "converged"
    assert merged.settings == whole.settings


def test_a_record_of_another_kind_is_refused(objective, tmp_path):
    trace = ls.trace(ls.HessianOperator(objective), seed=0)
    (group,) = store.save(tmp_path / "a.h5", trace)
    with pytest.raises(RequestError, match="no sweep"):
        stored_sweep(store.read(tmp_path / "a.h5", group))
