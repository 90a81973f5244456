"""The three terms of a cross-entropy gap add up to it, example by example."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.objective import Objective
from landscape.paths.decomposition import decompose


def perceptron(seed, sizes=(5, 8, 3)):
    torch.manual_seed(seed)
    one, two, three = sizes
    return nn.Sequential(nn.Linear(one, two), nn.Tanh(), nn.Linear(two, three)).double()


def classes(num=20):
    torch.manual_seed(9)
    return torch.randn(num, 5, dtype=torch.float64), torch.randint(0, 3, (num,))


def thetas_of(objective, alpha, other):
    end = objective.space.flatten(dict(other.named_parameters()))
    return [objective.theta, (1 - alpha) * objective.theta + alpha * end, end]


LOSSES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.2),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]).double()),
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]).double(), label_smoothing=0.1),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_the_terms_add_up_to_the_gap_of_each_example(loss, alpha):
    inputs, targets = classes()
    batches = [(inputs[:13], targets[:13]), (inputs[13:], targets[13:])]
    objective = Objective(perceptron(0), batches, loss)
    thetas = thetas_of(objective, alpha, perceptron(1))
    found = decompose(objective, thetas, alpha)
    scale = torch.ones(20).double() if loss.weight is None else loss.weight[targets]
    gaps = [objective.per_example(theta) for theta in thetas]
    own = gaps[1] - (1 - alpha) * gaps[0] - alpha * gaps[2]
    torch.testing.assert_close(found.gap, own * scale / scale.sum(), rtol=1e-12, atol=1e-16)
    assert (found.convexity >= -1e-16).all()


def test_the_terms_are_those_of_the_formula():
    inputs, targets = classes()
    objective = Objective(perceptron(0), (inputs, targets))
    alpha, thetas = 0.3, thetas_of(objective, 0.3, perceptron(1))
    found = decompose(objective, thetas, alpha)
    with torch.no_grad():
        logits = []
        for theta in thetas:
            model = perceptron(0)
            torch.nn.utils.vector_to_parameters(theta, model.parameters())
            logits.append(model(inputs))
    mean = 0.7 * logits[0] + 0.3 * logits[2]
    deviation = logits[1] - mean
    partition = logits[1].logsumexp(1) - mean.logsumexp(1)
    torch.testing.assert_close(found.partition * 20, partition)
    convexity = 0.7 * logits[0].logsumexp(1) + 0.3 * logits[2].logsumexp(1) - mean.logsumexp(1)
    torch.testing.assert_close(found.convexity * 20, convexity)
    torch.testing.assert_close(found.target * 20, deviation[torch.arange(20), targets])


def test_a_network_linear_in_its_weights_deviates_nowhere():
    inputs, targets = classes()
    torch.manual_seed(0)
    one, two = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    objective = Objective(one, (inputs, targets))
    found = decompose(objective, thetas_of(objective, 0.4, two), 0.4)
    assert found.partition.abs().max() < 1e-16
    assert found.target.abs().max() < 1e-16
    assert (found.convexity > 0).all()
    assert found.gap.sum() < 0


def test_identical_ends_have_no_terms():
    objective = Objective(perceptron(0), classes())
    found = decompose(objective, [objective.theta] * 3, 0.5)
    assert found.gap.abs().max() < 1e-16


def test_tokens_and_probabilities_are_targets_too():
    torch.manual_seed(0)
    model, other = (nn.Conv1d(4, 3, 1).double() for _ in range(2))
    inputs = torch.randn(6, 4, 7, dtype=torch.float64)
    labels = torch.randint(0, 3, (6, 7))
    labels[2, 3:] = -100
    for target in (labels, torch.rand(6, 3, 7, dtype=torch.float64).softmax(1)):
        objective = Objective(model, (inputs, target), nn.CrossEntropyLoss())
        thetas = thetas_of(objective, 0.25, other)
        found = decompose(objective, thetas, 0.25)
        values = [objective.loss(theta) for theta in thetas]
        gap = values[1] - 0.75 * values[0] - 0.25 * values[2]
        assert float(found.gap.sum()) == pytest.approx(gap, abs=1e-14)
        assert len(found.gap) == 6


def test_statistics_of_each_point_are_used():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    objective = Objective(model, classes(), "cross_entropy", bn="recalibrate")
    end = objective.theta * 1.5 + 0.1
    thetas = [objective.theta, (objective.theta + end) / 2, end]
    found = decompose(objective, thetas, 0.5, [objective.buffers_at(theta) for theta in thetas])
    values = objective.losses(torch.stack(thetas))
    gap = values[1] - values[0] / 2 - values[2] / 2
    assert float(found.gap.sum()) == pytest.approx(float(gap), abs=1e-14)


def test_other_losses_have_no_such_terms():
    inputs, targets = classes()
    objective = Objective(perceptron(0), (inputs, F.one_hot(targets, 3).double()), "mse")
    assert decompose(objective, [objective.theta] * 3, 0.5) is None
