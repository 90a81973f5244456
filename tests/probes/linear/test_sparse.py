"""Sparse probes: the optimality conditions, other libraries, and zeros that are zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from landscape.errors import RequestError
from landscape.probes.linear.fitting import linear_probe
from landscape.probes.linear.sparse import sparse_probe
from tests.probes.linear.softmax_problems import labelled

GRID = [1e-2, 1e-1, 3e-2]


def gradients(probe, index, features, labels):
    weights = probe.weights[index].clone().requires_grad_()
    intercept = probe.intercept[index].clone().requires_grad_()
    logits = torch.as_tensor(features) @ weights.T + intercept
    torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels)).backward()
    return weights.grad, intercept.grad


@pytest.mark.parametrize("units", [1.0, [1.0, 30.0, 0.1, 1.0, 3.0]])
def test_optimality_conditions_hold(units):
    features, labels = labelled()
    features = features * units
    probe = sparse_probe(features, labels, GRID)
    assert probe.converged.all()
    for index, penalty in enumerate(GRID):
        by_weight, by_intercept = gradients(probe, index, features, labels)
        weights = probe.weights[index]
        assert (by_weight.abs() <= penalty * (1 + 2e-3)).all()
        moved = weights != 0
        off = by_weight[moved] + penalty * weights[moved].sign()
        assert off.abs().max() < 2e-3 * penalty
        assert by_intercept.abs().max() < 1e-3
        assert 0 < moved.sum() < moved.numel()
    counts = [(probe.weights[index] != 0).sum() for index in (0, 2, 1)]  # as penalties rise
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learn_finds_the_same_objective(classes):
    features, labels = labelled(classes=classes)
    features = (features - features.mean(0)) / features.std(0)
    probe = sparse_probe(features, labels, GRID, tol=1e-6)
    for index, penalty in enumerate(GRID):
        peer = LogisticRegression(
            C=1 / (penalty * 60), l1_ratio=1, solver="saga", tol=1e-8, max_iter=20000
        )
        peer.fit(features, labels)
        weights, intercept = peer.coef_, peer.intercept_
        if classes == 2:
            weights, intercept = np.r_[0 * weights, weights], np.r_[0 * intercept, intercept]
        logits = torch.from_numpy(features @ weights.T + intercept)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item()
        expected = loss + penalty * np.abs(weights).sum()
        assert probe.objective[index].item() == pytest.approx(expected, rel=1e-6)


def test_at_the_largest_gradient_of_the_prior_all_weights_are_zero_and_below_one_is_not():
    features, labels = labelled()
    prior = sparse_probe(features, labels, [torch.inf])
    assert (prior.weights == 0).all()
    largest = gradients(prior, 0, features, labels)[0].abs().max().item()
    probe = sparse_probe(features, labels, [1.001 * largest, 0.98 * largest], tol=1e-6)
    assert (probe.weights[0] == 0).all()
    assert (probe.weights[1] != 0).sum() >= 1
    torch.testing.assert_close(probe.intercept[0], prior.intercept[0])


def test_violation_is_reported_when_the_budget_ends_the_search():
    features, labels = labelled()
    probe = sparse_probe(features, labels, [1e-3], max_iterations=3)
    assert not probe.converged
    assert probe.iterations.tolist() == [3]
    assert probe.gradient_norm > 1e-3 * 1e-3


def test_penalties_together_are_each_by_itself_and_validation_chooses():
    features, labels = labelled(90)
    validation = features[60:], labels[60:]
    probe = sparse_probe(features[:60], labels[:60], GRID, validation=validation)
    for index, penalty in enumerate(GRID):
        alone = sparse_probe(features[:60], labels[:60], [penalty])
        torch.testing.assert_close(alone.weights[0], probe.weights[index], rtol=0, atol=1e-10)
    assert probe.validation_accuracy[probe.chosen] == probe.validation_accuracy.max()


@pytest.mark.parametrize("constant", [7.0, 0.0])
def test_feature_that_does_not_vary_has_no_weight(constant):
    features, labels = labelled()
    features[:, 2] = constant
    probe = sparse_probe(features, labels, GRID)
    assert (probe.weights[:, :, 2] == 0).all()
    assert probe.converged.all()


def test_steps_are_short_enough_where_the_bound_is_nearly_attained():
    signs = np.where(np.arange(40) % 4 < 2, 1.0, -1.0)
    labels = (signs > 0) ^ (np.arange(40) % 5 == 0)  # a fifth of either sign is wrong
    probe = sparse_probe(signs[:, None], labels, [1e-3], tol=1e-6)
    assert probe.converged
    assert probe.iterations.item() < 30
    # The gradient of either row is (0.6 - tanh w) / 2 in size, and equals the penalty.
    assert np.tanh(probe.weights[0, 1, 0].item()) == pytest.approx(0.6 - 2e-3, abs=1e-6)


def test_no_penalty_is_for_the_other_probe():
    features, labels = labelled()
    with pytest.raises(RequestError, match="use linear_probe"):
        sparse_probe(features, labels, [0.0])
    with pytest.raises(RequestError, match="0 < tol < 1"):
        sparse_probe(features, labels, [1.0], tol=2.0)


def test_it_is_the_same_loss_as_the_smooth_probes():
    features, labels = labelled()
    both = [probe(features, labels, [torch.inf]) for probe in (linear_probe, sparse_probe)]
    assert torch.equal(both[0].train_loss, both[1].train_loss)
