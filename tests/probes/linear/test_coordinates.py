"""The coordinates change no problem: gradients, norms and probes are those of the original."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.functional import hessian

from landscape.probes.linear.coordinates import coordinates, weighted_mean
from tests.probes.linear.softmax_problems import regression


def theta_like(frame, classes):
    generator = torch.Generator().manual_seed(2)
    shape = (len(frame.penalties), classes, frame.scales.shape[1])
    return torch.randn(shape, generator=generator, dtype=torch.float64)


PENALTIES = torch.tensor([1e-3, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("width", [4, 50])  # fewer features than examples, then more
def test_gradient_is_that_of_the_objective(width):
    problem = regression(width=width)
    frame = coordinates(problem, PENALTIES)
    theta = theta_like(frame, 3).requires_grad_()
    weights, intercept = frame.probes(theta)
    logits = torch.einsum("nd,pcd->pnc", problem.features, weights) + intercept[:, None]
    losses = -logits.log_softmax(-1)[:, torch.arange(30), problem.labels]
    value = losses @ problem.shares + PENALTIES / 2 * weights.square().sum((1, 2))
    value.sum().backward()
    found = frame.gradient(problem.data_term(weights.detach(), intercept.detach()), theta.detach())
    torch.testing.assert_close(found, theta.grad, rtol=1e-10, atol=1e-12)
    norms = frame.squared_norms(theta.detach())
    torch.testing.assert_close(norms, weights.detach().square().sum((1, 2)))


def test_no_curvature_exceeds_one_and_that_at_zero_comes_near():
    problem = regression(classes=2)
    frame = coordinates(problem, PENALTIES)

    def value(theta):
        weights, intercept = frame.probes(theta.view(1, 2, -1).expand(2, -1, -1))
        logits = torch.einsum("nd,pcd->pnc", problem.features, weights) + intercept[:, None]
        losses = -logits.log_softmax(-1)[:, torch.arange(30), problem.labels]
        return (losses @ problem.shares + PENALTIES / 2 * weights.square().sum((1, 2)))[0]

    for scale in (0.0, 1.0):
        curvature = hessian(value, scale * theta_like(frame, 2)[0].flatten())
        largest = torch.linalg.eigvalsh(curvature)[-1].item()
        assert largest <= 1 + 1e-12
    at_zero = hessian(value, torch.zeros(10, dtype=torch.float64))
    # With two classes of equal chances the bound is attained.
    assert torch.linalg.eigvalsh(at_zero)[-1].item() == pytest.approx(1, abs=1e-12)


def test_features_that_do_not_vary_or_repeat_others_have_no_axis():
    problem = regression()
    features = torch.cat([problem.features, torch.full((30, 1), 7.0), problem.features[:, :1]], 1)
    same = type(problem)(features, problem.labels, problem.shares, 3)
    assert coordinates(same, PENALTIES).axes.shape == (6, 4)


def test_mean_is_weighted():
    problem = regression()
    torch.testing.assert_close(weighted_mean(problem), problem.shares @ problem.features)
