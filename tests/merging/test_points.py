"""Single points: examples, policies, and what does not fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from landscape.merging.points import PointEvaluator, accuracy, joined
from landscape.objective import Objective


def normalized(bn="eval"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
        data = torch.randn(12, 3, dtype=torch.float64), torch.randint(0, 2, (12,))
    return Objective(model, data, batch_size=6, bn=bn)


def test_examples_of_several_elements_are_summed_and_weighed_by_them():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Embedding(5, 5).double()
        tokens = torch.randint(0, 5, (6, 4))
    targets = tokens.flip(1).clone()
    targets[0, 1:] = -100  # left out
    network = nn.Sequential(model, Transposed())
    objective = Objective(network, (tokens, targets), batch_size=4)
    found = PointEvaluator(objective).at(objective.theta)[""]
    assert found.weights.tolist() == [1, 4, 4, 4, 4, 4]
    assert found.counted.tolist() == [1, 4, 4, 4, 4, 4]
    torch.testing.assert_close(found.losses[0] / found.weights, objective.per_example())
    assert float(found.loss) == pytest.approx(objective.value, rel=1e-12)
    assert float(accuracy(found)) == pytest.approx(objective.metrics()["accuracy"])


class Transposed(nn.Module):
    """Classes second, as the loss wants them."""

    def forward(self, x):
        return x.transpose(1, 2)


@pytest.mark.parametrize("own", ["eval", "batch", "recalibrate"])
def test_the_policy_is_the_one_asked_for_whatever_the_objective_has(own):
    objective = normalized(own)
    for bn in ("eval", "batch", "recalibrate"):
        found = PointEvaluator(objective, bn=bn).at(objective.theta)[""]
        assert float(found.loss) == pytest.approx(objective.under(bn).value, rel=1e-12)


def test_outputs_that_are_not_a_number_have_no_accuracy():
    objective = normalized()
    theta = objective.theta.clone()
    theta[objective.space.slice_of("2.weight")] = 1e308
    theta[objective.space.slice_of("0.weight")] *= 1e3
    found = PointEvaluator(objective, bn="eval").at(theta)[""]
    assert math.isnan(float(found.loss))
    assert math.isnan(float(accuracy(found)))


def test_points_are_joined_row_by_row():
    objective = normalized()
    points = PointEvaluator(objective)
    one, other = (points.at(theta)[""] for theta in (objective.theta, 2 * objective.theta))
    both = joined([one, other])
    assert both.loss.tolist() == [float(one.loss), float(other.loss)]
    assert torch.equal(both.losses[1], other.losses[0])
    assert torch.equal(both.right[0], one.right[0])
