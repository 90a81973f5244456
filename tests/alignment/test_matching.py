"""Coordinate descent over groups: what it forms anew, and when it ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from landscape.alignment import matching
from landscape.alignment.matching import match
from landscape.alignment.permutations import Run

CHAIN = 6  # groups g0 ... g5, each beside the next


class Counted:
    """Products between two neighbours in a chain of groups, as of a matrix (4, 4)."""

    def __init__(self, left: int, right: int, a: torch.Tensor, b: torch.Tensor) -> None:
        self.axis = (Run(4, f"g{left}"),)
        self.right, self.a, self.b = f"g{right}", a, b
        self.others = frozenset({self.right})
        self.asked: list[list[int]] = []  # with which permutations of the neighbour

    def entries(self, rows, columns, permutations):
        return (self.a @ self.b[:, permutations[self.right]].T)[rows, columns]

    def units(self, start, run, permutations):
        self.asked.append(permutations[self.right].tolist())
        return self.a @ self.b[:, permutations[self.right]].T


def chain(seed: int):
    generator = torch.Generator().manual_seed(seed)
    own, axes = [], []
    for index in range(CHAIN - 1):
        a, b = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
        own.append((index, a, b))
        axes += [Counted(index, index + 1, a, b), Counted(index + 1, index, a.T, b.T)]

    def total(permutations):
        return sum(
            (a * b[permutations[f"g{i}"]][:, permutations[f"g{i + 1}"]]).sum().item()
            for i, a, b in own
        )

    return axes, total


START = {f"g{index}": torch.arange(4) for index in range(CHAIN)}


def test_a_product_is_formed_anew_only_if_what_it_depends_on_has_moved():
    axes, total = chain(0)
    found = match(axes, total, START, seed=np.random.SeedSequence(0), free=frozenset(START))
    assert found.converged
    assert any(len(axis.asked) > 1 for axis in axes)
    for axis in axes:
        assert all(before != after for before, after in itertools.pairwise(axis.asked))


def test_an_assignment_is_solved_anew_only_if_its_matrix_has_changed(monkeypatch):
    axes, total = chain(0)
    solved = []
    solve = matching._assignment
    monkeypatch.setattr(
        matching, "_assignment", lambda matrix: solved.append(matrix.tobytes()) or solve(matrix)
    )
    match(axes, total, START, seed=np.random.SeedSequence(0), free=frozenset(START))
    assert len(solved) > CHAIN
    assert len(set(solved)) == len(solved)


def test_a_descent_from_where_another_one_ended_moves_nothing():
    axes, total = chain(0)
    seed = np.random.SeedSequence(0)
    first = match(axes, total, START, seed=seed, free=frozenset(START))
    again = match(axes, total, first.permutations, seed=seed, free=frozenset(START))
    assert again.history == (first.similarity,) * 2


def test_a_descent_that_is_cut_off_says_so(monkeypatch):
    axes, total = chain(1)
    monkeypatch.setattr(matching, "_MAX_SWEEPS", 1)
    found = match(axes, total, START, seed=np.random.SeedSequence(0), free=frozenset(START))
    assert not found.converged
    assert len(found.history) == 2
    assert found.similarity == pytest.approx(total(found.permutations))


def test_moves_that_bring_nothing_come_to_an_end():
    # As where rounding makes one of two equal permutations look better, in turns.
    generator = torch.Generator().manual_seed(0)

    class Noise(Counted):
        def units(self, start, run, permutations):
            return torch.randn(4, 4, generator=generator, dtype=torch.float64)

    axes = [Noise(0, 1, torch.eye(4), torch.eye(4)), Noise(1, 0, torch.eye(4), torch.eye(4))]
    start = {name: START[name] for name in ("g0", "g1")}
    found = match(axes, lambda _: 1.0, start, seed=np.random.SeedSequence(0), free=frozenset(start))
    assert found.history == (1.0,) * 4
    assert found.converged


def test_the_start_is_left_as_it_was():
    axes, total = chain(2)
    start = {name: order.clone() for name, order in START.items()}
    match(axes, total, start, seed=np.random.SeedSequence(0), free=frozenset(START))
    assert all(torch.equal(start[name], START[name]) for name in START)
