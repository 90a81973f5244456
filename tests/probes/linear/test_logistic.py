"""Value and gradient of softmax regression against autograd, and its scores by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landscape.probes.linear import logistic
from landscape.probes.linear.logistic import SoftmaxRegression
from tests.probes.linear.softmax_problems import points, regression


@pytest.mark.parametrize("rows", [8192, 7])  # whole, then ragged blocks
def test_loss_and_gradient_are_those_of_autograd(rows, monkeypatch):
    monkeypatch.setattr(logistic, "_FEWEST_ROWS", rows)
    monkeypatch.setattr(logistic, "_MOST_ROWS", rows)
    problem = regression()
    weights, intercept = points(problem, 2)
    term = problem.data_term(weights, intercept)
    for index in range(2):
        own = weights[index].clone().requires_grad_()
        offset = intercept[index].clone().requires_grad_()
        losses = F.cross_entropy(
            problem.features @ own.T + offset, problem.labels, reduction="none"
        )
        loss = losses @ problem.shares
        loss.backward()
        torch.testing.assert_close(term.loss[index], loss.detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(term.weight_gradient[index], own.grad, rtol=0, atol=1e-14)
        torch.testing.assert_close(term.intercept_gradient[index], offset.grad, rtol=0, atol=1e-14)


def test_logits_in_the_thousands_overflow_nothing():
    problem = regression()
    weights, intercept = points(problem, 1)
    term = problem.data_term(1e4 * weights, intercept)
    expected = F.cross_entropy(
        problem.features @ (1e4 * weights[0]).T + intercept[0], problem.labels, reduction="none"
    )
    torch.testing.assert_close(term.loss[0], expected @ problem.shares)
    assert term.weight_gradient.isfinite().all()


def test_a_loss_of_nearly_nothing_is_exact():
    features = torch.tensor([[45.0]], dtype=torch.float64)
    share = torch.ones(1, dtype=torch.float64)
    problem = SoftmaxRegression(features, torch.tensor([1]), share, 2)
    weights = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    intercept = torch.zeros(1, 2, dtype=torch.float64)
    for one, digits in ((problem, 1e-14), (problem.rounded(), 1e-5)):
        term = one.data_term(weights, intercept)
        assert term.loss.item() == pytest.approx(np.exp(-45), rel=digits, abs=0)
        gradients = term.intercept_gradient[0].tolist()
        assert gradients == pytest.approx([np.exp(-45), -np.exp(-45)], rel=digits, abs=0)


def test_float32_features_are_computed_with_in_float64():
    problem = regression(dtype=torch.float32)
    double = SoftmaxRegression(
        problem.features.double(), problem.labels, problem.shares, problem.num_classes
    )
    weights, intercept = points(problem, 2)
    found, expected = (one.data_term(weights, intercept) for one in (problem, double))
    assert torch.equal(found.weight_gradient, expected.weight_gradient)


def test_rounded_is_off_by_float32():
    problem = regression()
    weights, intercept = points(problem, 2)
    exact, rough = (one.data_term(weights, intercept) for one in (problem, problem.rounded()))
    torch.testing.assert_close(rough.loss, exact.loss, rtol=1e-5, atol=0)
    error = (rough.weight_gradient - exact.weight_gradient).abs().max()
    assert 1e-10 < error < 1e-6


def test_curvature_shares_are_traces_of_the_softmax_hessian():
    problem = regression()
    weights, intercept = points(problem, 2)
    shares = problem.curvature_shares(weights, intercept)
    logits = torch.einsum("nd,pcd->pnc", problem.features, weights) + intercept[:, None]
    probabilities = logits.softmax(-1)
    traces = (probabilities - probabilities.square()).sum(-1) * problem.shares
    torch.testing.assert_close(shares, traces)


def test_scores_weigh_examples_and_hold_an_unknown_class_for_wrong():
    features = torch.tensor([[1.0], [2.0], [-1.0], [3.0]], dtype=torch.float64)
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    weights = torch.tensor([[[-1.0], [1.0]]], dtype=torch.float64)
    intercept = torch.zeros(1, 2, dtype=torch.float64)
    known = SoftmaxRegression(features, torch.tensor([1, 0, 0, 1]), shares, 2)
    accuracy, loss = known.scores(weights, intercept)
    assert accuracy.item() == pytest.approx(0.4 + 0.2 + 0.1)
    margins = torch.tensor([2.0, -4.0, 2.0, 6.0], dtype=torch.float64)
    assert loss.item() == pytest.approx((shares @ F.softplus(-margins)).item(), rel=1e-12)
    unknown = SoftmaxRegression(features, torch.tensor([1, 0, 0, -1]), shares, 2)
    accuracy, loss = unknown.scores(weights, intercept)
    assert accuracy.item() == pytest.approx(0.4 + 0.2)
    assert loss.item() == torch.inf


def test_sample_is_a_part_whose_shares_sum_to_one():
    problem = regression()
    part = problem.sample(10, seed=0)
    assert len(part.labels) == len(part.features) == 10
    assert part.shares.sum().item() == pytest.approx(1)
    rows = [(problem.features == row).all(1).nonzero().item() for row in part.features]
    assert len(set(rows)) == 10
    assert torch.equal(part.labels, problem.labels[rows])
    assert problem.sample(30, seed=0) is problem
