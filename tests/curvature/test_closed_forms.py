"""Activations with closed-form second derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.curvature.closed_forms import ClosedForms
from landscape.curvature.hessian import HessianOperator
from landscape.objective import Objective


def _two_derivatives(function, x):
    x = x.clone().requires_grad_()
    value = function(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return value.detach(), first.detach(), second


def test_gelu_has_torchs_value_and_both_derivatives():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    expected = _two_derivatives(F.gelu, x)
    with ClosedForms():
        found = _two_derivatives(F.gelu, x)
        assert "_Gelu" in type(F.gelu(x.clone().requires_grad_()).grad_fn).__name__
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("call", [{"approximate": "tanh"}, {"approximate": "none"}])
def test_the_approximation_that_was_asked_for_is_kept(call):
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    with ClosedForms():
        torch.testing.assert_close(F.gelu(x, **call), torch.nn.GELU(**call)(x), rtol=0, atol=1e-15)
    tanh = F.gelu(x, approximate="tanh")
    assert (tanh - F.gelu(x)).abs().max() > 1e-5  # else this test could not fail


def test_products_of_a_gelu_network_are_those_of_plain_autograd():
    generator = torch.Generator().manual_seed(0)
    inputs, targets, vector = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(9, 3), (9, 2), (26,)]
    )
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    objective = Objective(model, (inputs, targets), "mse", batch_size=4)
    assert objective.space.size == len(vector)
    leaves = objective.leaves(objective.theta)
    hidden = F.gelu(inputs @ leaves[0].T + leaves[1])
    loss = (hidden @ leaves[2].T + leaves[3] - targets).square().mean()
    gradient = torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(loss, leaves, create_graph=True)]
    )
    plain = torch.autograd.grad(gradient @ vector, leaves)
    expected = torch.cat([p.reshape(-1) for p in plain])
    for graph_bytes in (None, 0):
        operator = HessianOperator(objective, graph_bytes=graph_bytes)
        torch.testing.assert_close(operator.matvec(vector), expected, rtol=0, atol=1e-13)
