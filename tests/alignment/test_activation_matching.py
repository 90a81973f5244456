"""Activation matching: correlations over all data, one pass, hooks removed, every kind of layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from landscape.alignment import activation_matching
from landscape.alignment.activation_matching import match_activations, observed_groups
from landscape.alignment.permutations import PermutationSpec, Run
from landscape.alignment.reordering import Network
from landscape.objective import Objective
from tests.alignment.reordered import (
    mlp,
    objective_of,
    resnet,
    same_tensors,
    shaken,
    transformer,
    vgg,
)


def network(problem):
    return Network(problem.objective.theta, problem.objective.buffers)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_similarity_is_that_of_correlations_over_the_whole_data():
    problem, other = mlp((4, 9, 3), 0), mlp((4, 9, 3), 1)
    objective = problem.objective
    found = match_activations(objective, problem.spec, network(problem), network(other), seed=0)
    inputs = torch.cat([batch[0] for batch in objective.batches])
    first, second = (one.objective.model[0](inputs).detach().numpy() for one in (problem, other))
    covariance = np.cov(first.T, second.T, bias=True)
    scales = np.sqrt(np.diag(covariance))
    correlation = covariance[:9, 9:] / (np.outer(scales[:9], scales[9:]) + 1e-4)
    rows, columns = linear_sum_assignment(correlation, maximize=True)
    assert found.permutations["h1"].tolist() == columns.tolist()
    assert found.similarity == pytest.approx(correlation[rows, columns].sum(), rel=1e-12)


def test_places_of_an_image_are_samples():
    problem, other = vgg(0), vgg(1)
    objective = problem.objective
    found = match_activations(objective, problem.spec, network(problem), network(other), seed=0)
    inputs = torch.cat([batch[0] for batch in objective.batches])
    expected = 0.0
    with torch.no_grad():
        for depth in (1, 4, 8):
            values = []
            for one in (problem, other):
                output = one.objective.model[:depth](inputs)
                values.append(output.transpose(0, 1).flatten(1).numpy())
            units = len(values[0])
            covariance = np.cov(*values, bias=True)
            scales = np.sqrt(np.diag(covariance))
            own = (covariance / (np.outer(scales, scales) + 1e-4))[:units, units:]
            expected += own[linear_sum_assignment(own, maximize=True)].sum()
    assert found.similarity == pytest.approx(expected, rel=1e-12)


def test_a_large_mean_costs_no_digits():
    # As sums of squares the covariance of units around 1e8 is lost.
    generator = torch.Generator().manual_seed(0)
    moments = activation_matching._JointMoments()
    values = torch.randn(2, 3, 40, generator=generator, dtype=torch.float64)
    for part in values.split([11, 29], dim=2):
        moments.add(part[0] + 1e8, part[1] - 1e8)
    covariance = np.cov(*values.numpy(), bias=True)
    scales = np.sqrt(np.diag(covariance))
    expected = (covariance / (np.outer(scales, scales) + 1e-4))[:3, 3:]
    np.testing.assert_allclose(moments.correlation().numpy(), expected, rtol=1e-6)


def test_a_dead_unit_is_like_nothing():
    moments = activation_matching._JointMoments()
    values = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]], dtype=torch.float64)
    moments.add(values, values)
    assert moments.correlation()[0].tolist() == [0, 0]
    assert moments.correlation()[1, 1] == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("make", [vgg, resnet, transformer])
def test_one_pass_over_the_data_serves_both_networks_and_all_groups(make, monkeypatch):
    problem, other = make(0), make(1)
    calls = []
    term = Objective.term
    monkeypatch.setattr(
        Objective,
        "term",
        lambda self, *args, **kwargs: calls.append(1) or term(self, *args, **kwargs),
    )
    match_activations(problem.objective, problem.spec, network(problem), network(other), seed=0)
    assert len(calls) == 2 * problem.objective.batches.num_batches


def test_hooks_are_removed_also_after_an_error(monkeypatch):
    problem = vgg()
    match_activations(problem.objective, problem.spec, network(problem), network(problem), seed=0)
    assert hooks(problem.objective.model) == 0

    def fails(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "term", fails)
    with pytest.raises(KeyboardInterrupt):
        match_activations(
            problem.objective, problem.spec, network(problem), network(problem), seed=0
        )
    assert hooks(problem.objective.model) == 0


def test_each_network_is_seen_with_its_own_running_statistics():
    problem = resnet()
    theta, buffers, _ = problem.copy(3)
    own = match_activations(
        problem.objective, problem.spec, network(problem), Network(theta, buffers), seed=0
    )
    swapped = match_activations(
        problem.objective,
        problem.spec,
        network(problem),
        Network(theta, problem.objective.buffers),
        seed=0,
    )
    assert own.similarity > swapped.similarity + 0.1


def test_heads_are_matched_by_the_best_that_is_inside_of_them():
    problem = transformer(4)
    theta, buffers, drawn = problem.copy(2)
    assert observed_groups(problem.objective, problem.spec) == frozenset(problem.spec.sizes)
    found = match_activations(
        problem.objective, problem.spec, network(problem), Network(theta, buffers), seed=0
    )
    assert same_tensors(found.permutations, problem.spec.inverse(drawn))


def test_units_are_as_alike_as_their_entries_in_the_order_that_these_have():
    generator = torch.Generator().manual_seed(0)
    correlation = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    run = Run(2, "heads", block=3, inner=("in", "in"))
    axis = activation_matching._OutputAxis((Run(1), run), correlation)
    order = torch.tensor([2, 0, 1])
    found = axis.units(1, run, {"in": order, "heads": torch.tensor([1, 0])})
    for i in range(2):
        for j in range(2):
            block = correlation[1 + 3 * i : 4 + 3 * i, 1 + 3 * j : 4 + 3 * j]
            assert found[i, j] == pytest.approx(block[:, order].trace().item())


def test_what_no_module_outputs_is_said_and_stays():
    problem, other = transformer(0, fused=True), transformer(1, fused=True)
    seen = observed_groups(problem.objective, problem.spec)
    assert seen == {"stream", "hidden"}
    found = match_activations(
        problem.objective, problem.spec, network(problem), network(other), seed=0
    )
    for group in frozenset(problem.spec.sizes) - seen:
        assert torch.equal(found.permutations[group], torch.arange(problem.spec.sizes[group]))


class Layers(nn.Module):
    """Layers whose output features lie elsewhere than in a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.norm = nn.LayerNorm(5)
        self.widen = nn.ConvTranspose1d(5, 6, 3, padding=1)
        self.group = nn.InstanceNorm1d(6, affine=True)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens):
        x = self.norm(self.embed(tokens)).transpose(1, 2)
        return self.head(torch.relu(self.group(self.widen(x))).mean(2))


def test_embeddings_norms_and_transposed_convolutions_have_their_features_where_they_are():
    model = shaken(Layers(), 0)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 7, (9, 4), generator=generator)
    objective = Objective(model, (tokens, torch.arange(9) % 3))
    one, two = (Run(5, "one"),), (Run(6, "two"),)
    spec = PermutationSpec(
        {
            **{"embed.weight": ((), one), "norm.weight": (one,), "norm.bias": (one,)},
            **{"widen.weight": (one, two, ()), "widen.bias": (two,)},
            **{"group.weight": (two,), "group.bias": (two,), "head.weight": ((), two)},
        }
    )
    drawn = spec.random(1)
    theta = objective.space.flatten(spec.apply(objective.space.named(objective.theta), drawn))
    own, other = Network(objective.theta, {}), Network(theta, {})
    found = match_activations(objective, spec, own, other, seed=0)
    assert same_tensors(found.permutations, spec.inverse(drawn))
    # Five modules in which each unit is like itself: 2 x 5 and 2 x 6.
    assert found.similarity == pytest.approx(22, rel=1e-2)


def test_a_layer_that_runs_twice_gives_samples_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))

    objective = objective_of(shaken(Twice(), 0), (4,), 3, 0)
    outputs = activation_matching._outputs(
        objective, PermutationSpec({"inner.weight": ((Run(4, "h"),), ()), "head.weight": ((), ())})
    )
    with objective.evaluation(), torch.no_grad():
        batch = next(iter(objective.batches))
        found = activation_matching._record(objective, outputs, objective.theta, {}, batch)
        first = objective.model.inner(batch[0])
        second = objective.model.inner(torch.relu(first))
    assert [tuple(one.shape) for one in found["inner"]] == [(4, 7), (4, 7)]
    torch.testing.assert_close(found["inner"][0], first.T)
    torch.testing.assert_close(found["inner"][1], second.T)
