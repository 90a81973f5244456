"""L-BFGS of several problems at once: steps that are too long, and cells on their own."""

from __future__ import annotations

import torch

from landscape.probes.linear.coordinates import coordinates
from landscape.probes.linear.descent import descend
from tests.probes.linear.softmax_problems import regression

PENALTIES = torch.tensor([1e-2, 1.0], dtype=torch.float64)


def descended(factors, tol=1e-6, max_passes=200, start=0.0):
    problem = regression()
    frame = coordinates(problem, PENALTIES)
    theta = torch.full((2, 3, 5), start, dtype=torch.float64)
    theta[:, 0] *= -1
    unit = torch.ones(1, dtype=torch.float64)
    found = descend([problem], frame, theta, factors, unit=unit, tol=tol, max_passes=max_passes)
    return found, problem, frame


def value(problem, frame, theta):
    weights, intercept = frame.probes(theta)
    term = problem.data_term(weights, intercept)
    return term.loss + PENALTIES / 2 * weights.square().sum((1, 2))


def test_a_preconditioner_whose_steps_are_far_too_long_costs_a_few_passes():
    plain, problem, frame = descended(None)
    tiny = [torch.eye(15, dtype=torch.float32) * scale for scale in (1e-3, 1.0)]
    found, _, _ = descended(tiny)
    assert found.converged.all()
    assert plain.converged.all()
    torch.testing.assert_close(
        value(problem, frame, found.theta), value(problem, frame, plain.theta), rtol=0, atol=1e-11
    )
    assert found.passes[1] == plain.passes[1]  # the other goes its own way meanwhile


def test_no_pass_leads_up():
    values = []
    for passes in range(1, 20):
        tiny = [torch.eye(15, dtype=torch.float32) * 1e-2] * 2
        found, problem, frame = descended(tiny, max_passes=passes, start=3.0)
        assert (found.passes <= passes).all()
        values.append(value(problem, frame, found.theta))
    falls = torch.stack(values).diff(dim=0)
    assert (falls <= 1e-12).all()
    assert (values[-1] < values[0]).all()


def test_a_start_at_the_minimum_takes_one_pass():
    found, problem, frame = descended(None, tol=1e-9)
    unit = torch.ones(1, dtype=torch.float64)
    again = descend([problem], frame, found.theta, None, unit=unit, tol=1e-8, max_passes=50)
    assert again.passes.tolist() == [1, 1]
    assert torch.equal(again.theta, found.theta)
