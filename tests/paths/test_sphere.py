"""Angles, and which parameters are scale-invariant."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from landscape.objective import Objective
from landscape.paths.sphere import angle_between, scale_invariant_mask


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.5, math.pi / 2, 3.0, math.pi])
def test_the_angle_is_exact_from_small_to_opposite(angle):
    one = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    two = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    assert angle_between(one, 5 * two) == pytest.approx(angle, rel=1e-12)


def test_a_vector_has_no_angle_to_itself_or_a_multiple():
    one = torch.randn(1000)
    assert angle_between(one, one) == 0
    assert angle_between(one, 3 * one) < 1e-7


def test_a_zero_vector_has_no_angle():
    assert math.isnan(angle_between(torch.zeros(3), torch.ones(3)))


@pytest.mark.parametrize("as_mapping", [False, True])
def test_what_stands_before_a_normalisation_is_scale_invariant(as_mapping):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(3, 8), nn.BatchNorm1d(8)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.norm(self.first(x)).relu())

    torch.manual_seed(0)
    model = Network().double()
    inputs, targets = torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 4
    data = [{"x": inputs, "labels": targets}] if as_mapping else (inputs, targets)
    objective = Objective(model, data, "cross_entropy")
    mask = scale_invariant_mask(objective)
    named = objective.space.named(mask.double())
    # A bias before the normalisation has no effect at all, alone or scaled.
    assert {name for name, block in named.items() if block.any()} == {"first.weight"}
    assert int(mask.sum()) == 24
