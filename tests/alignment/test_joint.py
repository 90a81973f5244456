"""Several networks at once: copies become one, the similarity never falls, cycles close."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from landscape.alignment import joint
from landscape.alignment.aligning import align
from landscape.alignment.joint import align_many
from landscape.alignment.permutations import PermutationSpec
from landscape.errors import RequestError
from tests.alignment.reordered import NETWORKS, mlp, resnet, same_tensors, transformer, vgg


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_become_the_first_of_them_bit_for_bit(network):
    problem = NETWORKS[network](2)
    objective = problem.objective
    copies = [problem.copy(seed)[:2] for seed in (1, 2, 3)]
    found = align_many(
        objective,
        [theta for theta, _ in copies],
        spec=problem.spec,
        buffers=[buffers for _, buffers in copies],
    )
    assert found.status == "converged"
    assert all(torch.equal(theta, copies[0][0]) for theta in found.thetas)
    assert all(same_tensors(buffers, copies[0][1]) for buffers in found.buffers)
    assert (found.distances_after == 0).all()


def test_the_sum_of_inner_products_never_falls_and_is_that_of_the_networks():
    problems = [transformer(seed) for seed in range(4)]
    thetas = [problem.objective.theta for problem in problems]
    found = align_many(problems[0].objective, thetas, spec=problems[0].spec)
    pairs = itertools.combinations(found.thetas, 2)
    assert found.history[-1] == pytest.approx(sum((x @ y).item() for x, y in pairs))
    pairs = itertools.combinations(thetas, 2)
    assert found.history[0] == pytest.approx(sum((x @ y).item() for x, y in pairs))
    assert all(later >= earlier for earlier, later in itertools.pairwise(found.history[1:]))
    assert found.history[-1] > found.history[1] > found.history[0]
    for x, y in itertools.combinations(range(4), 2):
        gap = (found.thetas[x] - found.thetas[y]).norm().item()
        assert found.distances_after[x, y] == pytest.approx(gap)


def test_the_first_network_stays_and_all_keep_their_function():
    problems = [resnet(seed) for seed in range(3)]
    objective = problems[0].objective
    found = align_many(
        objective,
        [problem.objective.theta for problem in problems],
        spec=problems[0].spec,
        buffers=[problem.objective.buffers for problem in problems],
    )
    assert torch.equal(found.thetas[0], objective.theta)
    assert same_tensors(found.permutations[0], problems[0].spec.identity())
    inputs = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    for index, problem in enumerate(problems):
        expected = problem.objective.model.eval()(inputs)
        objective.model.load_state_dict(found.tensors(index))
        torch.testing.assert_close(objective.model.eval()(inputs), expected, rtol=1e-12, atol=1e-12)


def test_permutations_between_networks_close_around_every_cycle():
    problems = [transformer(seed) for seed in range(3)]
    spec = problems[0].spec
    found = align_many(
        problems[0].objective, [problem.objective.theta for problem in problems], spec=spec
    )
    assert not same_tensors(found.between(0, 1), spec.identity())
    halfway = spec.compose(found.between(0, 1), found.between(1, 2))
    around = spec.compose(halfway, found.between(2, 0))
    assert same_tensors(around, spec.identity())
    assert same_tensors(spec.inverse(found.between(0, 1)), found.between(1, 0))


def test_what_lies_between_two_copies_is_what_was_done_to_them():
    problem = vgg(0)
    thetas = [problem.copy(seed)[0] for seed in (4, 5, 6)]
    found = align_many(problem.objective, thetas, spec=problem.spec)
    for x, y in itertools.permutations(range(3), 2):
        named = problem.objective.space.named(thetas[x])
        moved = problem.spec.apply(named, found.between(x, y))
        assert torch.equal(problem.objective.space.flatten(moved), thetas[y])


def test_two_networks_are_aligned_as_by_a_pair():
    first, second = mlp((4, 16, 16, 3), 0), mlp((4, 16, 16, 3), 1)
    a, b = first.objective.theta, second.objective.theta
    pair = align(first.objective, a, b, spec=first.spec, num_restarts=6)
    found = align_many(first.objective, [a, b], spec=first.spec, num_restarts=6)
    assert found.distances_after[0, 1].item() == pytest.approx(pair.distance_after, rel=0.02)
    assert found.distances_before[0, 1].item() == pytest.approx(pair.distance_before)


def test_single_precision_copies_become_one():
    problem = mlp((6, 12, 24, 12, 2), 0, torch.float32)
    thetas = [problem.copy(seed)[0] for seed in range(4)]
    found = align_many(problem.objective, thetas, spec=problem.spec)
    assert found.thetas.dtype == torch.float32
    assert all(torch.equal(theta, thetas[0]) for theta in found.thetas)


def test_rounds_that_are_cut_off_are_not_converged(monkeypatch):
    problems = [mlp((4, 32, 32, 3), seed) for seed in range(5)]
    monkeypatch.setattr(joint, "_MAX_ROUNDS", 1)
    found = align_many(
        problems[0].objective,
        [problem.objective.theta for problem in problems],
        spec=problems[0].spec,
    )
    assert len(found.history) == 3
    assert not found.converged
    assert found.status == "not converged: still better after 1 rounds"


def test_the_data_set_holds_what_was_found():
    problems = [mlp((4, 8, 3), seed) for seed in range(3)]
    found = align_many(
        problems[0].objective,
        [problem.objective.theta for problem in problems],
        spec=problems[0].spec,
    )
    dataset = found.to_dataset()
    above = np.triu_indices(3, 1)
    for when in ("before", "after"):
        held = getattr(found, f"distances_{when}").numpy()
        assert (dataset[f"distance_{when}"].values == held).all()
        assert dataset[f"mean_distance_{when}"] == pytest.approx(held[above].mean())
    assert dataset["history"].values.tolist() == list(found.history)
    assert dataset["similarity"] == found.history[-1]
    assert all({"units", "long_name"} <= v.attrs.keys() for v in dataset.data_vars.values())
    assert "theta" not in dataset
    assert (found.to_dataset(vectors=True)["theta"].values == found.thetas.numpy()).all()
    assert dataclasses.replace(found, converged=True).status == "converged"


def test_the_mean_of_single_precision_networks_is_not_rounded():
    problem = mlp((4, 8, 3), 0, torch.float32)
    points = [problem.objective.theta, problem.copy(1)[0], problem.copy(2)[0]]
    mean = torch.stack([point.double() for point in points]).mean(0)
    found = joint._mean_of(problem.objective, points)
    assert torch.equal(torch.cat([tensor.flatten() for tensor in found.values()]), mean)


def test_a_specification_that_changes_the_function_is_refused():
    problems = [mlp((4, 8, 8, 3), seed) for seed in range(2)]
    wrong = {name: axes for name, axes in problems[0].spec.axes.items() if name != "2.bias"}
    thetas = [problem.objective.theta for problem in problems]
    with pytest.raises(RequestError, match="is another function"):
        align_many(problems[0].objective, thetas, spec=PermutationSpec(wrong))


def test_what_is_wrong_with_a_request_is_said():
    problem = resnet()
    theta = problem.objective.theta
    with pytest.raises(RequestError, match="1 points were given"):
        align_many(problem.objective, [theta], spec=problem.spec)
    buffers = [problem.objective.buffers]
    with pytest.raises(RequestError, match="2 points and 1 sets of buffers"):
        align_many(problem.objective, [theta, theta], spec=problem.spec, buffers=buffers)
    with pytest.raises(RequestError, match="not finite"):
        align_many(problem.objective, [theta, theta / 0], spec=problem.spec)
    found = align_many(problem.objective, [theta, theta], spec=problem.spec)
    assert any("running statistics" in note for note in found.notes)
