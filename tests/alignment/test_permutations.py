"""Permutations of units: reordering tensors, undoing it, doing one after another."""

from __future__ import annotations

import pytest
import torch

from landscape.alignment.permutations import PermutationSpec, Run
from landscape.errors import RequestError

HEADS = tuple(f"head{i}" for i in range(3))
SPEC = PermutationSpec(
    {
        "first": ((Run(4, "hidden"),), ()),
        "flat": ((), (Run(4, "hidden", block=3),)),
        "joined": ((Run(2), Run(4, "hidden"), Run(6, "other")),),
        "heads": ((Run(3, "heads", block=5, inner=HEADS),),),
        "values": ((Run(3, "heads", block=2, inner=("v0", "v1", "v2")),),),
    }
)


def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = {"first": (4, 7), "flat": (2, 12), "joined": (12,), "heads": (15,), "values": (6,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {
        "untouched": torch.arange(3.0)
    }


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_an_entry_comes_from_where_the_permutation_says():
    found = SPEC.apply(tensors(), SPEC.identity() | {"hidden": torch.tensor([2, 0, 3, 1])})
    assert torch.equal(found["first"], tensors()["first"][[2, 0, 3, 1]])
    assert torch.equal(found["joined"][2:6], tensors()["joined"][[4, 2, 5, 3]])
    blocks = tensors()["flat"].view(2, 4, 3)
    assert torch.equal(found["flat"], blocks[:, [2, 0, 3, 1]].reshape(2, 12))
    assert torch.equal(found["untouched"], tensors()["untouched"])


def test_inner_units_are_reordered_and_move_with_their_outer_one():
    permutations = SPEC.identity() | {
        "heads": torch.tensor([2, 0, 1]),
        "head2": torch.tensor([4, 3, 2, 1, 0]),
    }
    found = SPEC.apply(tensors(), permutations)["heads"].view(3, 5)
    held = tensors()["heads"].view(3, 5)
    assert torch.equal(found, torch.stack([held[2].flip(0), held[0], held[1]]))


def test_the_identity_changes_nothing():
    assert same(SPEC.apply(tensors(), SPEC.identity()), tensors())


@pytest.mark.parametrize("seed", range(5))
def test_the_inverse_undoes_a_permutation(seed):
    drawn = SPEC.random(seed)
    moved = SPEC.apply(tensors(), drawn)
    assert not torch.equal(moved["heads"], tensors()["heads"])
    assert same(SPEC.apply(moved, SPEC.inverse(drawn)), tensors())


@pytest.mark.parametrize("seed", range(5))
def test_a_composition_does_one_after_the_other(seed):
    first, second = SPEC.random(seed), SPEC.random(seed + 100)
    expected = SPEC.apply(SPEC.apply(tensors(), first), second)
    assert same(SPEC.apply(tensors(), SPEC.compose(first, second)), expected)


def test_sizes_are_those_of_all_groups():
    assert SPEC.sizes == {
        "hidden": 4, "other": 6, "heads": 3, "head0": 5, "head1": 5, "head2": 5,
        "v0": 2, "v1": 2, "v2": 2,
    }  # fmt: skip


def test_runs_of_one_group_that_disagree_on_its_size_are_refused():
    with pytest.raises(RequestError, match="has 3 units, but 4 in b"):
        PermutationSpec({"a": ((Run(3, "g"),),), "b": ((Run(4, "g"),),)})


def test_a_wrong_number_of_inner_groups_is_refused():
    with pytest.raises(RequestError, match="a run of 3 units in a has 2 inner groups"):
        PermutationSpec({"a": ((Run(3, "g", block=2, inner=("x", "y")),),)})


@pytest.mark.parametrize("shape", [(4,), (4, 8), (5, 7), (4, 7, 1)])
def test_axes_that_do_not_fit_a_tensor_are_refused(shape):
    spec = PermutationSpec({"a": ((Run(4, "g"),), (Run(7, "h"),))})
    spec.check({"a": (4, 7)})
    with pytest.raises(RequestError, match="a has shape"):
        spec.check({"a": shape})


def test_a_tensor_that_the_network_lacks_is_named():
    with pytest.raises(RequestError, match="'a', which the network lacks"):
        PermutationSpec({"a": ((Run(4, "g"),),)}).check({"b": (4,)})
