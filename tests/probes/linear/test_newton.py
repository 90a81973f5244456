"""The minimum at every penalty: where it is, whichever way leads there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.autograd.functional import hessian

from landscape.probes.linear import newton
from landscape.probes.linear.coordinates import coordinates
from landscape.probes.linear.logistic import SoftmaxRegression
from landscape.probes.linear.newton import prior_intercept, solve
from tests.probes.linear.softmax_problems import labelled, points, regression

PENALTIES = torch.tensor([1e-2, 1.0, 1e-4, 1e-1], dtype=torch.float64)


def objective(problem, solution, penalties):
    term = problem.data_term(solution.weights, solution.intercept)
    return term.loss + penalties / 2 * solution.weights.square().sum((1, 2))


def even(features, labels):
    count = len(labels)
    shares = torch.full((count,), 1 / count, dtype=torch.float64)
    classes = int(labels.max()) + 1
    return SoftmaxRegression(torch.as_tensor(features), torch.as_tensor(labels), shares, classes)


def by_scipy(problem, penalty):
    """The least objective that SciPy finds from 0, with its own L-BFGS."""
    shape = (1, problem.num_classes, problem.features.shape[1])

    def value_and_gradient(flat):
        both = torch.from_numpy(flat)
        weights, intercept = both[: -shape[1]].view(shape), both[-shape[1] :].view(1, -1)
        term = problem.data_term(weights, intercept)
        value = term.loss.item() + penalty / 2 * weights.square().sum().item()
        gradient = [
            (term.weight_gradient + penalty * weights).flatten(),
            term.intercept_gradient[0],
        ]
        return value, torch.cat(gradient).numpy()

    found = minimize(
        value_and_gradient,
        np.zeros(shape[1] * (shape[2] + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 0, "gtol": 1e-9},
    )
    return found.fun


@pytest.mark.parametrize("classes", [2, 4])
def test_newton_is_lbfgs_is_scipy(classes, monkeypatch):
    problem = even(*labelled(classes=classes))
    found = solve(problem, PENALTIES, tol=1e-5, max_iterations=100)
    assert found.converged.all()
    values = objective(problem, found, PENALTIES)
    monkeypatch.setattr(newton, "_LARGEST_HESSIAN", 0)  # L-BFGS under the bound alone
    plain = solve(problem, PENALTIES, tol=1e-5, max_iterations=1000)
    assert plain.converged.all()
    assert (plain.iterations > found.iterations).any()
    torch.testing.assert_close(objective(problem, plain, PENALTIES), values, rtol=0, atol=1e-10)
    expected = [by_scipy(problem, penalty) for penalty in PENALTIES.tolist()]
    torch.testing.assert_close(
        torch.tensor(expected, dtype=torch.float64), values, rtol=0, atol=1e-10
    )


def test_a_sampled_hessian_leads_to_the_same_minimum(monkeypatch):
    problem = even(*labelled(400, classes=4))
    expected = objective(
        problem, solve(problem, PENALTIES, tol=1e-6, max_iterations=100), PENALTIES
    )
    monkeypatch.setattr(newton, "_FEWEST_EXAMPLES", 60)
    found = solve(problem, PENALTIES, tol=1e-6, max_iterations=200)
    assert found.converged.all()
    torch.testing.assert_close(objective(problem, found, PENALTIES), expected, rtol=0, atol=1e-11)


def test_weights_are_off_by_tol_at_most():
    problem = even(*labelled())
    exact = solve(problem, PENALTIES, tol=1e-7, max_iterations=200)
    for tol in (1e-1, 1e-2, 1e-3):
        found = solve(problem, PENALTIES, tol=tol, max_iterations=100)
        assert found.converged.all()
        norms = exact.weights.flatten(1).norm(dim=1)
        errors = (found.weights - exact.weights).flatten(1).norm(dim=1) / norms
        # The criterion's norms are largest entries: off by the root of their number at most.
        assert (errors <= tol * exact.weights[0].numel() ** 0.5).all()


def test_all_penalties_together_are_each_by_itself():
    problem = even(*labelled())
    together = solve(problem, PENALTIES, tol=1e-9, max_iterations=200)
    for index, penalty in enumerate(PENALTIES):
        alone = solve(problem, penalty[None], tol=1e-9, max_iterations=200)
        torch.testing.assert_close(alone.weights[0], together.weights[index], rtol=0, atol=1e-7)
        value = objective(problem, alone, penalty[None])
        torch.testing.assert_close(
            value[0], objective(problem, together, PENALTIES)[index], rtol=0, atol=1e-12
        )


def test_infinite_penalty_is_the_prior_and_large_ones_go_there():
    problem = regression()
    prior = problem.shares.new_zeros(3).index_add_(0, problem.labels, problem.shares)
    penalties = torch.tensor([torch.inf, 1e9], dtype=torch.float64)
    found = solve(problem, penalties, tol=1e-6, max_iterations=50)
    assert (found.weights[0] == 0).all()
    assert found.weights[1].abs().max() < 1e-8
    assert found.converged.all()
    assert found.iterations[0] == 0
    for row in found.intercept:
        torch.testing.assert_close(row.softmax(0), prior, rtol=1e-7, atol=0)
    torch.testing.assert_close(prior_intercept(problem).softmax(0), prior)


def test_no_penalty_finds_the_maximum_likelihood():
    problem = even(*labelled(90, separation=0.3))
    nothing = torch.zeros(1, dtype=torch.float64)
    found = solve(problem, nothing, tol=1e-4, max_iterations=100)
    assert found.converged.all()
    term = problem.data_term(found.weights, found.intercept)
    assert term.weight_gradient.abs().max() < 1e-8


def test_a_budget_that_is_used_up_is_not_called_converged():
    problem = even(*labelled())
    found = solve(problem, PENALTIES, tol=1e-6, max_iterations=2)
    assert not found.converged[2]
    assert (found.iterations <= 2).all()


@pytest.mark.parametrize("penalty", [1e-3, 1e-9])
def test_condition_of_1e8_converges_or_says_that_it_did_not(penalty):
    features, labels = labelled(200, width=6)
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    left, _, right = np.linalg.svd(features - features.mean(0), full_matrices=False)
    ill = (left * np.logspace(0, -8, 6) * 14) @ right @ turned
    problem = even(ill, labels)
    penalties = torch.tensor([penalty], dtype=torch.float64)
    found = solve(problem, penalties, tol=1e-4, max_iterations=300)
    value = objective(problem, found, penalties)
    expected = by_scipy_newton(problem, penalty)
    if found.converged:
        assert value.item() == pytest.approx(expected, abs=1e-6)
    assert value.item() >= expected - 1e-10
    assert bool(found.converged) is True


def by_scipy_newton(problem, penalty):
    """Dense Newton steps, damped by halving, in double precision."""
    shape = (problem.num_classes, problem.features.shape[1] + 1)
    columns = torch.cat([problem.features, torch.ones(len(problem.labels), 1)], 1)

    def value(flat):
        both = flat.view(shape)
        logs = (columns @ both.T).log_softmax(1)
        own = logs[torch.arange(len(logs)), problem.labels]
        return -(own @ problem.shares) + penalty / 2 * both[:, :-1].square().sum()

    at = torch.zeros(shape[0] * shape[1], dtype=torch.float64)
    for _ in range(40):
        at = at.requires_grad_()
        (gradient,) = torch.autograd.grad(value(at), at)
        curvature = hessian(value, at.detach())
        step = torch.linalg.lstsq(curvature, gradient[:, None], driver="gelsd").solution[:, 0]
        at, length = at.detach(), 1.0
        while value(at - length * step) > value(at) and length > 1e-8:
            length /= 2
        at = at - length * step
    return value(at).item()


def test_sampled_hessian_is_without_bias():
    problem = regression(400, classes=3)
    frame = coordinates(problem, torch.tensor([0.1], dtype=torch.float64))
    weights, intercept = points(problem, 1)
    curvature = problem.curvature_shares(weights, intercept)[0]
    expected = curvature.sum().item()
    generator = torch.Generator().manual_seed(0)
    sums = []
    for _ in range(200):
        rows, chances = newton._drawn(curvature.sqrt(), 50, generator)
        assert abs(len(rows) - 50) <= 1
        sums.append((curvature[rows] / chances).sum().item())
    assert frame.scales.shape == (1, 5)
    standard_error = np.std(sums, ddof=1) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - expected) < 4 * standard_error


@pytest.mark.parametrize(("examples", "error"), [(3000, 1e-4), (300, 0.5)])
def test_factors_are_those_of_the_hessian_and_a_sample_comes_near(examples, error, monkeypatch):
    monkeypatch.setattr(newton, "_FEWEST_EXAMPLES", examples)
    problem = regression(2000, classes=3)
    frame = coordinates(problem, torch.tensor([3e-3, 1e-3], dtype=torch.float64))
    weights, _ = points(problem, 1)
    theta = torch.zeros(2, 3, 5, dtype=torch.float64)
    theta[:, :, 1:] = (weights @ frame.axes) * frame.scales[:, None, 1:]  # of equal probes
    factors = newton._factors(problem, frame, theta, share=True)
    for cell, factor in enumerate(factors):
        own = frame.at(torch.tensor([cell]))

        def value(flat, own=own):
            weights, intercept = own.probes(flat.view(1, 3, 5))
            logits = problem.features @ weights[0].T + intercept[0]
            loss = (
                logits.logsumexp(1) - logits[torch.arange(2000), problem.labels]
            ) @ problem.shares
            return loss + own.penalties[0] / 2 * weights.square().sum()

        exact = hessian(value, theta[cell].flatten())
        # Among vectors that are not the same in all classes, as no gradient is.
        contrasts = torch.eye(3, dtype=torch.float64) - 1 / 3
        basis = torch.linalg.svd(torch.kron(contrasts, torch.eye(5, dtype=torch.float64)))[0][
            :, :10
        ]
        both = [basis.T @ matrix @ basis for matrix in (exact, (factor @ factor.T).double())]
        ratios = torch.linalg.eigvals(torch.linalg.solve(both[0], both[1])).real
        assert (ratios - 1).abs().max() < error


def test_neighbours_are_pairs_of_the_path_that_are_near():
    penalties = torch.tensor([1.0, 1e-3, 0.3, 4.0, 0.0], dtype=torch.float64)
    pairs = newton._neighbours(penalties, 5.0)
    assert [pair.tolist() for pair in pairs] == [[4], [1], [2, 0], [3]]
    assert [len(pair) for pair in newton._neighbours(penalties, 0.0)] == [1] * 5


def test_softmax_hessian_is_that_of_autograd():
    problem = regression()
    weights, _ = points(problem, 1)

    def value(flat):
        return torch.logsumexp(problem.features @ flat.view(3, 4).T, 1) @ problem.shares

    for scale, precision in ((1.0, torch.float64), (30.0, torch.float32)):  # then nearly certain
        expected = hessian(value, scale * weights.flatten()).tril()
        chances = (scale * problem.features @ weights[0].T).softmax(1).to(precision)
        features = (problem.features * problem.shares.sqrt()[:, None]).to(precision)
        found = newton._softmax_hessian(chances, features).tril().double()
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < (1e-12 if precision == torch.float64 else 1e-5)
