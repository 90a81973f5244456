"""Stored sweeps, evaluated again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from oracles import MLP, ConvNet
from torch import nn

import landscape as ls
from landscape import store
from landscape.errors import RequestError
from landscape.slices.verification import verify


@pytest.fixture
def objective():
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 4).double(), torch.randint(3, (40,))
    return ls.Objective(MLP().double(), (inputs, targets))


def stored(tmp_path, sweep, **options):
    (group,) = store.save(tmp_path / "a.h5", sweep, **options)
    return store.read(tmp_path / "a.h5", group)


def plain(**options):
    return ls.SweepOptions(execution="loop", caveats=False, **options)


def test_a_plane_of_random_directions_is_drawn_again_from_its_seed(objective, tmp_path):
    directions = ls.random_directions(objective, 2, seed=3)
    sweep = ls.plane(objective, directions, (4, 5), (1.0, 0.5), options=plain())
    found = verify(objective, stored(tmp_path, sweep), num=20)
    assert len(found.stored) == 20
    assert len(np.unique(found.points, axis=0)) == 20  # without replacement: each point once
    assert found.differences.max() < 1e-14
    assert found.is_right


@pytest.mark.parametrize("kind", ["line", "lines", "grid"])
def test_every_kind_of_sweep_is_verified(objective, tmp_path, kind):
    directions = ls.random_directions(objective, 3, seed=1)
    if kind == "line":
        sweep = ls.line(objective, directions[0], 5, options=plain())
    elif kind == "lines":
        sweep = ls.lines(objective, directions, 5, options=plain())
    else:
        sweep = ls.grid(objective, directions, (3, 2, 4), options=plain())
    found = verify(objective, stored(tmp_path, sweep), num=6, seed=2)
    assert found.is_right
    assert found.differences.max() < 1e-14
    # The coordinates are those of the stored losses.
    wrong = dataclasses.replace(found, again=found.again + 1e-3)
    assert not wrong.is_right


def test_a_changed_value_and_swapped_axes_are_found(objective, tmp_path):
    directions = ls.random_directions(objective, 2, seed=3)
    sweep = ls.plane(objective, directions, (4, 4), options=plain())
    record = stored(tmp_path, sweep)
    tampered = record.copy(deep=True)
    tampered["loss"].values[:] += 1e-5
    assert not verify(objective, tampered, num=16).is_right
    swapped = record.copy(deep=True)
    swapped["loss"].values[:] = record["loss"].values.T
    assert not verify(objective, swapped, num=16).is_right


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
def test_the_batch_norm_policy_of_the_sweep_is_the_one_that_is_checked(tmp_path, bn):
    torch.manual_seed(0)
    images, targets = torch.randn(24, 1, 6, 6).double(), torch.randint(3, (24,))
    objective = ls.Objective(ConvNet().double(), (images, targets), batch_size=8)
    (direction,) = ls.random_directions(objective, 1)
    sweep = ls.line(objective, direction, 3, bn=bn, options=plain())
    record = stored(tmp_path, sweep)
    assert verify(objective, record).is_right
    record.attrs["bn"] = "eval" if bn != "eval" else "batch"
    assert not verify(objective, record).is_right


def test_given_directions_are_read_from_the_record_or_asked_for(objective, tmp_path):
    direction = torch.ones(objective.space.size, dtype=torch.float64)
    sweep = ls.line(objective, direction, 3, options=plain())
    with pytest.raises(RequestError, match="--vectors"):
        verify(objective, stored(tmp_path, sweep))
    record = stored(tmp_path, sweep, vectors=True, force=True)
    assert verify(objective, record).is_right


def test_another_checkpoint_and_other_data_are_refused(objective, tmp_path):
    (direction,) = ls.random_directions(objective, 1)
    record = stored(tmp_path, ls.line(objective, direction, 3, options=plain()))
    batch = next(iter(objective.batches))
    torch.manual_seed(5)
    with pytest.raises(RequestError, match="another checkpoint"):
        verify(ls.Objective(MLP().double(), batch), record)
    model = MLP().double()
    torch.nn.utils.vector_to_parameters(objective.theta, model.parameters())
    with pytest.raises(RequestError, match="another data"):
        verify(ls.Objective(model, (batch[0] + 1, batch[1])), record)
    with pytest.raises(RequestError, match="no sweep"):
        verify(objective, record.assign_attrs(probe="trace"))
    with pytest.raises(RequestError, match="1 or more"):
        verify(objective, record, num=0)


def test_points_left_early_may_be_off_by_the_error_that_they_state(tmp_path):
    torch.manual_seed(0)
    inputs, targets = torch.randn(2000, 4).double(), torch.randint(3, (2000,))
    objective = ls.Objective(MLP().double(), (inputs, targets), batch_size=100)
    (direction,) = ls.random_directions(objective, 1)
    sweep = ls.line(objective, direction, 5, options=plain(stop_error=0.02))
    assert (sweep["num_examples"] < 2000).any()
    found = verify(objective, stored(tmp_path, sweep))
    assert found.is_right
    assert found.differences.max() > 1e-6  # estimates they are


def test_nan_is_equal_to_nan_and_clipped_points_are_left_out(tmp_path):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 2, dtype=torch.float64))

        def forward(self, inputs):
            return (inputs @ self.weight.T.abs().neg().neg()).sub(1.0).sqrt()

    inputs = torch.full((4, 2), 1.0, dtype=torch.float64)
    objective = ls.Objective(Root(), (inputs, torch.zeros(4, 1).double()), loss="mse")
    sweep = ls.line(objective, torch.ones(2).double(), 5, options=plain())
    assert sweep.num_nan > 0
    record = stored(tmp_path, sweep, vectors=True)
    found = verify(objective, record)
    assert found.is_right
    assert np.isnan(found.stored).sum() == sweep.num_nan
