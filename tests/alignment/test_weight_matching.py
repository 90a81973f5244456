"""Weight matching: exact on copies, optimal against brute force, never worse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from landscape.alignment.permutations import PermutationSpec, Run
from landscape.alignment.weight_matching import match_weights
from tests.alignment.reordered import MLP_SHAPES, NETWORKS, mlp, same_tensors, transformer

HEADS = Run(2, "heads", block=3, inner=("in0", "in1"))
NESTED = PermutationSpec(
    {
        "query": ((HEADS,), (Run(3, "stream"),)),
        "both": ((Run(2), HEADS, HEADS),),
        "out": ((Run(3, "stream"),), (HEADS,)),
        "alone": ((Run(3, "in1"),), (Run(2, "heads"),)),
        "bias": ((Run(3, "stream"),),),
    }
)
FLAT = PermutationSpec(
    {
        "first": ((Run(3, "g"),), ()),
        "flat": ((Run(2), Run(3, "h")), (Run(3, "g", block=4), Run(1))),
        "last": ((), (Run(3, "h"),)),
    }
)
# Units that share what is inside, as the heads of multi-query attention share a key.
SHARED = PermutationSpec(
    {
        "query": ((Run(3, "heads", block=3, inner=("in",) * 3),), ()),
        "key": ((Run(3, "in"),), ()),
        "fixed": ((Run(2, None, block=3, inner=("in", "other")),), ()),
    }
)
RECURRENT = PermutationSpec({"w": ((Run(4, "h"),), (Run(4, "h"),)), "u": ((Run(4, "h"),), ())})
SPECS = {"nested": NESTED, "flat": FLAT, "shared": SHARED, "recurrent": RECURRENT}


def pair(spec: PermutationSpec, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of two unrelated networks."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(2):
        shapes = {n: [sum(map(len, axis)) or 2 for axis in axes] for n, axes in spec.axes.items()}
        found.append({n: torch.randn(s, generator=generator).double() for n, s in shapes.items()})
    return found[0], found[1]


def similarity(spec, a, b, permutations):
    moved = spec.apply(b, permutations)
    return sum((a[name] * moved[name]).sum().item() for name in a)


def everything(spec: PermutationSpec, groups: list[str]) -> Iterator[dict[str, Tensor]]:
    """All permutations of some groups."""
    orders = [list(itertools.permutations(range(spec.sizes[group]))) for group in groups]
    for chosen in itertools.product(*orders):
        yield {g: torch.tensor(order) for g, order in zip(groups, chosen, strict=True)}


@pytest.mark.parametrize("widths", MLP_SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_of_a_perceptron_is_recovered_bit_for_bit_from_the_identity(widths, seed):
    problem = mlp(widths, seed)
    own = problem.objective.space.named(problem.objective.theta)
    copy = problem.objective.space.named(problem.copy(seed + 10)[0])
    assert not same_tensors(own, copy)
    [found] = match_weights(problem.spec, own, copy, seed=seed)
    assert found.converged
    assert same_tensors(problem.spec.apply(copy, found.permutations), own)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_random_start_recovers_a_copy_of_any_network(network):
    problem = NETWORKS[network](1)
    own = problem.objective.space.named(problem.objective.theta)
    copy = problem.objective.space.named(problem.copy(5)[0])
    found = match_weights(problem.spec, own, copy, seed=0, num_restarts=3)
    assert len(found) == 4
    for matching in found:
        assert same_tensors(problem.spec.apply(copy, matching.permutations), own)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(6))
def test_the_reported_similarity_is_that_of_the_permutations_and_never_falls(name, seed):
    spec, (a, b) = SPECS[name], pair(SPECS[name], seed)
    for found in match_weights(spec, a, b, seed=seed, num_restarts=2):
        assert found.similarity == pytest.approx(similarity(spec, a, b, found.permutations))
        assert all(later >= earlier for earlier, later in itertools.pairwise(found.history))
        assert found.converged
        assert all(sorted(p.tolist()) == [*range(len(p))] for p in found.permutations.values())


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("flat", ["g"]),
        ("flat", ["h"]),
        ("nested", ["heads", "in0", "in1"]),
        ("nested", ["stream"]),
        ("shared", ["heads"]),
        ("shared", ["in"]),
        ("shared", ["other"]),
    ],
)
@pytest.mark.parametrize("seed", range(8))
def test_no_permutation_of_what_is_found_together_is_better(name, together, seed):
    spec, (a, b) = SPECS[name], pair(SPECS[name], seed)
    [found] = match_weights(spec, a, b, seed=seed)
    best = max(
        similarity(spec, a, b, found.permutations | other) for other in everything(spec, together)
    )
    assert found.similarity == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("name", ["flat", "shared"])
def test_with_restarts_the_best_of_all_permutations_is_found(name):
    spec, (a, b) = SPECS[name], pair(SPECS[name], 7)
    groups = list(spec.sizes)
    best = max(similarity(spec, a, b, one) for one in everything(spec, groups))
    found = match_weights(spec, a, b, seed=0, num_restarts=8)
    assert max(one.similarity for one in found) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("name", ["flat", "nested", "shared"])
def test_in_either_direction_the_permutations_are_inverse(name):
    spec, (a, _) = SPECS[name], pair(SPECS[name], 0)
    b = spec.apply(a, spec.random(3))
    there = match_weights(spec, a, b, seed=0)[0].permutations
    back = match_weights(spec, b, a, seed=0)[0].permutations
    assert same_tensors(spec.inverse(there), back)


def test_biases_count():
    spec = PermutationSpec({"weight": ((Run(5, "g"),), ()), "bias": ((Run(5, "g"),),)})
    a = {"weight": torch.ones(5, 3), "bias": torch.arange(5.0)}
    b = {"weight": torch.ones(5, 3), "bias": torch.tensor([3.0, 0, 4, 1, 2])}
    [found] = match_weights(spec, a, b, seed=0)
    assert found.permutations["g"].tolist() == [1, 3, 4, 0, 2]


def test_single_precision_is_summed_in_double():
    # The products are 1e8 + 0, 1, ...: float32 would see no difference between units.
    spec = PermutationSpec({"w": ((Run(4, "g"),), ())})
    small = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    a = {"w": torch.cat([torch.full((4, 1), 1e4), small], dim=1)}
    b = {"w": a["w"][[2, 0, 3, 1]]}
    [found] = match_weights(spec, a, b, seed=0)
    assert found.permutations["g"].tolist() == [1, 3, 0, 2]


def test_a_tiny_unit_finds_its_place_beside_large_ones():
    spec = PermutationSpec({"w": ((Run(4, "g"),), ())})
    a = {"w": torch.diag(torch.tensor([1.0, 1e-9, 1e-10, 1.0], dtype=torch.float64))}
    b = {"w": a["w"][[0, 2, 1, 3]]}
    [found] = match_weights(spec, a, b, seed=0)
    assert torch.equal(b["w"][found.permutations["g"]], a["w"])


def test_groups_that_are_not_free_stay_as_at_the_start():
    problem = transformer()
    own = problem.objective.space.named(problem.objective.theta)
    copy = problem.objective.space.named(problem.copy(2)[0])
    start = problem.spec.random(9)
    free = frozenset({"stream", "qk1", "heads"})
    for found in match_weights(
        problem.spec, own, copy, seed=0, num_restarts=2, start=start, free=free
    ):
        held = {n: p for n, p in found.permutations.items() if n not in free}
        assert same_tensors(held, {n: p for n, p in start.items() if n not in free})


def test_the_same_seed_gives_the_same_permutations():
    a, b = pair(NESTED, 0)
    first, second = (match_weights(NESTED, a, b, seed=4, num_restarts=3) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.history == other.history
        assert same_tensors(one.permutations, other.permutations)


def test_what_is_in_one_network_alone_does_not_count():
    a, b = pair(FLAT, 0)
    [whole] = match_weights(FLAT, a, b, seed=0)
    [part] = match_weights(FLAT, {n: a[n] for n in ("first", "last")}, b, seed=0)
    moved = FLAT.apply(b, part.permutations)
    assert part.similarity == pytest.approx(
        sum((a[n] * moved[n]).sum().item() for n in ("first", "last"))
    )
    assert not same_tensors(whole.permutations, part.permutations)
