"""A reordered network: with which buffers it is evaluated, and all its tensors by name."""

from __future__ import annotations

import torch
from torch import nn

from landscape.alignment.reordering import Network, moved_shares, state_of, tensors_at
from tests.alignment.reordered import objective_of, resnet, same_tensors, shaken


def test_a_network_is_evaluated_with_the_statistics_that_the_policy_asks_for():
    problem, other = resnet(0), resnet(1)
    network = Network(other.objective.theta, other.objective.buffers)
    with problem.objective.evaluation(), torch.no_grad():
        assert same_tensors(tensors_at(problem.objective, network), network.buffers)
    objective = problem.objective.under("recalibrate")
    with objective.evaluation(), torch.no_grad():
        found, pooled = tensors_at(objective, network), objective.buffers_at(network.theta)
    assert found.keys() == network.buffers.keys()
    assert same_tensors({name: found[name] for name in pooled}, pooled)
    assert not same_tensors(found, network.buffers)


def test_a_tied_parameter_has_its_new_weights_under_both_names():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    objective = objective_of(shaken(Tied(), 0), (4,), 4, 0)
    found = state_of(objective, Network(objective.theta + 1, {}))
    assert found.keys() == objective.model.state_dict().keys()
    for name, held in objective.model.state_dict().items():
        assert torch.equal(found[name], held + 1)


def test_units_that_move_are_counted_group_by_group():
    found = moved_shares({"one": torch.tensor([0, 2, 1, 3]), "two": torch.arange(3)})
    assert found == {"one": 0.5, "two": 0.0}
