"""Small problems in float64: a softmax regression, a network that bends, data that are ragged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from landscape.objective import Objective

LEFT_OUT = 4  # of the 13 examples, by its target of -100


@pytest.fixture
def data():
    """13 examples of 5 inputs in 3 classes; one is left out of the loss."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(13, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (13,), generator=generator)
    labels[LEFT_OUT] = -100
    return inputs, labels


@pytest.fixture
def regression(data):
    """Softmax regression without biases: W (3, 5), probabilities (13, 3), one-hot labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(5, 3, bias=False, dtype=torch.float64)
    inputs, labels = data
    weight = model.weight.detach().clone()
    return SimpleNamespace(
        model=model,
        objective=Objective(model, data, batch_size=5),
        weight=weight,
        inputs=inputs,
        labels=labels,
        probabilities=(inputs @ weight.T).softmax(1),
        one_hot=nn.functional.one_hot(labels.clamp(min=0), 3).double(),
        kept=labels >= 0,
    )


@pytest.fixture
def network():
    """A perceptron of 5 inputs, 4 hidden units and 3 classes, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.fixture
def objective(network, data):
    return Objective(network, data, batch_size=5)


@pytest.fixture
def checkpoints(objective):
    """Four points on a line away from the objective's own."""
    generator = torch.Generator().manual_seed(2)
    step = torch.randn(objective.space.size, generator=generator, dtype=torch.float64)
    return objective.theta + torch.linspace(0, 1, 4, dtype=torch.float64)[:, None] * step
