"""Barrier matrices: each entry a barrier, basins, the spanning tree, going on after a break."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.barrier import barrier
from landscape.paths.barrier_matrix import _Matrix, barrier_matrix
from landscape.slices.execution import Execution


def network(seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    return nn.Sequential(*layers).double()


def data():
    torch.manual_seed(5)
    inputs = torch.randn(40, 4, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()


def trained(seed):
    model, (inputs, targets) = network(seed), data()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def family():
    models = [trained(seed) for seed in range(3)]
    objective = Objective(models[0], data())
    thetas = [objective.space.flatten(dict(model.named_parameters())) for model in models]
    return objective, [*thetas, thetas[1] + 1e-4]


@pytest.fixture(scope="module")
def matrix(family):
    return barrier_matrix(*family, num=7)


@pytest.mark.parametrize("definition", ["chord", "mean", "highest_end", "relative"])
@pytest.mark.parametrize("metric", ["loss", "error"])
def test_each_entry_is_the_barrier_of_its_pair(family, definition, metric):
    objective, thetas = family
    found = barrier_matrix(objective, thetas, 7, definition, metric=metric)
    for row, column in [(0, 1), (1, 2), (3, 1)]:
        one = barrier(
            objective, thetas[row], thetas[column], 7, definition, metric=metric, refine=False
        )
        assert found.values[row, column] == pytest.approx(one.value, abs=1e-13)
        assert found.values[column, row] == found.values[row, column]
        error = found.standard_errors[row, column]
        assert error == pytest.approx(one.standard_error, abs=1e-13)
        own = one.profiles[metric].values
        np.testing.assert_allclose(found.paths[row, column], own, atol=1e-13)
        np.testing.assert_allclose(found.paths[column, row], own[::-1], atol=1e-13)


def test_alpha_counts_from_the_row_to_the_column(family, matrix):
    objective, thetas = family
    for row, column in [(0, 2), (2, 0)]:
        one = barrier(objective, thetas[row], thetas[column], num=7, refine=False)
        assert matrix.alphas[row, column] == pytest.approx(one.alpha)


def test_from_the_column_to_the_row_it_is_the_rest_of_the_way():
    rows = {"alpha": np.array([0.25])}
    found = _Matrix(2, [(0, 1)], rows).alphas()
    np.testing.assert_array_equal(found, [[0, 0.25], [0.75, 0]])


def test_the_diagonal_has_no_barrier(matrix):
    assert (np.diag(matrix.values) == 0).all()
    assert (np.diag(matrix.angles) == 0).all()
    np.testing.assert_array_equal(matrix.paths[2, 2], matrix.ends[2])


@pytest.mark.parametrize(
    "execution", [Execution(), Execution("batched", 2), Execution("batched", 32)], ids=str
)
def test_any_execution_gives_the_same(family, matrix, execution):
    found = barrier_matrix(*family, num=7, execution=execution)
    np.testing.assert_allclose(found.values, matrix.values, atol=1e-12)


def test_what_no_barrier_separates_is_one_basin(matrix):
    assert matrix.basins.tolist() == [0, 1, 2, 1]
    assert "in 3 basins" in repr(matrix)


def with_values(matrix, values):
    return replace(matrix, values=np.asarray(values, dtype=float), threshold=0.1)


CHAIN = [
    [0, 0.05, 0.9, 0.8],
    [0.05, 0, 0.08, 0.7],
    [0.9, 0.08, 0, 0.5],
    [0.8, 0.7, 0.5, 0],
]


def test_basins_are_joined_step_by_step(matrix):
    assert with_values(matrix, CHAIN).basins.tolist() == [0, 0, 0, 1]


def test_basins_are_numbered_by_their_first_member(matrix):
    values = np.ones((4, 4)) - np.eye(4)
    values[0, 3] = values[3, 0] = 0
    assert with_values(matrix, values).basins.tolist() == [0, 1, 2, 0]


def test_the_spanning_tree_has_the_lowest_lines_and_the_bottlenecks_are_on_it(matrix):
    found = with_values(matrix, CHAIN)
    assert found.spanning_tree == [(0, 1), (1, 2), (2, 3)]
    expected = [
        [0, 0.05, 0.08, 0.5],
        [0.05, 0, 0.08, 0.5],
        [0.08, 0.08, 0, 0.5],
        [0.5, 0.5, 0.5, 0],
    ]
    np.testing.assert_allclose(found.bottlenecks, expected)
    np.testing.assert_allclose(found.linkage[:, 2], [0.05, 0.08, 0.5])


def test_lines_without_a_barrier_are_in_the_spanning_tree(matrix):
    found = with_values(matrix, np.zeros((4, 4)))
    assert len(found.spanning_tree) == 3
    assert found.basins.tolist() == [0, 0, 0, 0]


def test_an_unknown_barrier_joins_nothing(matrix):
    values = np.array(CHAIN)
    values[0, 1] = values[1, 0] = math.nan
    found = with_values(matrix, values)
    assert found.basins.tolist() == [0, 1, 1, 2]
    assert found.linkage is None
    assert found.bottlenecks is None
    assert found.spanning_tree == [(0, 3), (1, 2), (2, 3)]
    assert found.status == "1 barriers are NaN"
    assert "bottleneck" not in found.to_dataset()


def test_under_mode_connectivity_what_is_below_zero_separates(matrix):
    values = -np.array(CHAIN)
    found = replace(with_values(matrix, values), definition="mode_connectivity")
    assert found.basins.tolist() == [0, 0, 0, 1]


def test_a_valley_has_no_place_in_a_dendrogram(matrix):
    values = -np.array(CHAIN)
    values[0, 1] = values[1, 0] = 0.3
    found = replace(with_values(matrix, values), definition="mode_connectivity")
    assert found.linkage is None
    assert found.basins.tolist() == [0, 0, 0, 1]
    assert "bottleneck" not in found.to_dataset()


def test_the_threshold_is_two_per_cent_of_what_is_gained_over_chance(family, matrix):
    objective, thetas = family
    one = barrier(objective, thetas[0], thetas[2], num=7)
    room = one.profiles["loss"].chance - one.losses[[0, -1]].mean()
    assert matrix.threshold[0, 2] == pytest.approx(0.02 * max(room, 0))
    assert barrier_matrix(*family, num=3, metric="error").threshold == 0.02
    assert barrier_matrix(*family, num=3, threshold=0.3).threshold == 0.3


def test_a_matrix_that_broke_off_goes_on_bit_for_bit(family, matrix, tmp_path, monkeypatch):
    state = tmp_path / "state"
    seen = []

    def stop(done, total, _):
        seen.append(done)
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        barrier_matrix(*family, num=7, state=state, progress=stop, execution=Execution())
    assert state.exists()
    counted = []
    found = barrier_matrix(
        *family,
        num=7,
        state=state,
        progress=lambda *args: counted.append(args),
        execution=Execution("batched", 3),
    )
    assert "evaluated: loop" in found.notes  # a matrix keeps the way in which it was begun
    assert counted[0][0] == 4
    assert counted[-1][:2] == (6, 6)
    whole = barrier_matrix(*family, num=7, execution=Execution())
    np.testing.assert_array_equal(found.values, whole.values)
    assert not state.exists()


def test_the_state_of_another_family_is_refused(family, tmp_path):
    objective, thetas = family
    state = tmp_path / "state"

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        barrier_matrix(objective, thetas, num=7, state=state, progress=stop)
    with pytest.raises(RequestError, match="another"):
        barrier_matrix(objective, thetas[:3], num=7, state=state)


def test_buffers_are_interpolated_between_the_members(family):
    objective, thetas = family
    held = [
        {name: buffer + 0.3 * index for name, buffer in objective.buffers.items()}
        for index in range(4)
    ]
    found = barrier_matrix(objective, thetas, 5, bn="interpolate", buffers=held)
    one = barrier(
        objective, thetas[1], thetas[2], 5, bn="interpolate", buffers=held[1:3], refine=False
    )
    np.testing.assert_allclose(found.paths[1, 2], one.losses, rtol=1e-12)


def test_it_becomes_a_data_set_of_named_solutions(family):
    found = barrier_matrix(*family, num=5, names=["a", "b", "c", "d"]).to_dataset()
    assert found["barrier"].sel(solution="a", other="c") == found["barrier"].values[0, 2]
    assert int(found["num_basins"]) == 3
    assert found["path"].dims == ("solution", "other", "alpha")
    assert all({"units", "long_name"} <= set(v.attrs) for v in found.data_vars.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["a", "b"]}, "4 solutions need as many different names"),
        ({"names": ["a", "b", "c", "a"]}, "different names"),
        ({"num": 2}, "num is 2"),
        ({"bn": "interpolate"}, "buffers"),
        ({"metric": "acc"}, "metric"),
        ({"definition": "max"}, "definition"),
    ],
)
def test_wrong_requests_are_explained(family, arguments, message):
    with pytest.raises(RequestError, match=message):
        barrier_matrix(*family, **arguments)


def test_a_family_of_one_is_refused(family):
    objective, thetas = family
    with pytest.raises(RequestError, match="1 point was given"):
        barrier_matrix(objective, thetas[:1])
