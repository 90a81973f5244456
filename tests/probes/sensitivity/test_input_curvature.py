from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.input_curvature import input_curvature

MANY = 300


def softmax_hessians(regression):
    """(N, 5, 5) W' (diag p - p p') W."""
    p, weight = regression.probabilities, regression.weight
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return (weight.T @ middle @ weight).numpy()


@pytest.mark.parametrize("method", ["exact", "differences"])
def test_of_a_quadratic_loss_it_is_the_same_everywhere(method):
    # l = |W x - y|^2 / 3, so H = 2 W' W / 3; with one row W it is w w', and H v = w (w.v).
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 3, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    data = tuple(torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (4, 3))
    hessian = (2 / 3 * model.weight.T @ model.weight).detach().numpy()
    objective = Objective(model, data, "mse", batch_size=4)
    found = input_curvature(objective, num_probes=MANY, method=method)
    error = np.abs(found.value - np.sum(hessian**2))
    assert (error < 4 * found.standard_error).all()
    assert (np.abs(found.trace - np.trace(hessian)) < 4 * found.trace_error).all()
    assert (found.standard_error < 0.1 * found.value).all()


def test_where_the_hessian_is_diagonal_signs_have_no_spread():
    model = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.diag(torch.arange(1.0, 5)))
    data = (torch.randn(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64))
    found = input_curvature(Objective(model, data, "mse"), num_probes=2)
    squares = np.arange(1.0, 5) ** 2 / 2  # of l = |W x|^2 / 4
    np.testing.assert_allclose(found.value, np.sum(squares**2), rtol=1e-12)
    np.testing.assert_allclose(found.trace, squares.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-10)


def test_of_softmax_regression_it_is_the_closed_form(regression):
    exact, kept = softmax_hessians(regression), regression.kept.numpy()
    found = input_curvature(regression.objective, num_probes=MANY)
    scores = (found.value - (exact**2).sum((1, 2))) / found.standard_error
    traces = (found.trace - np.trace(exact, axis1=1, axis2=2)) / found.trace_error
    assert np.abs(scores[kept]).max() < 4
    assert np.abs(traces[kept]).max() < 4
    assert np.isnan(found.value[~kept]).all()
    assert np.isnan(found.trace[~kept]).all()


def test_each_product_is_with_the_example_s_own_hessian(regression):
    # Two probes: value, trace and error are known functions of the two products.
    found = input_curvature(regression.objective, num_probes=2, seed=5)
    seeds = np.random.SeedSequence(5).spawn(2)
    states = [int(one.generate_state(1, np.uint64)[0]) >> 1 for one in seeds]
    probes = [
        2 * torch.randint(0, 2, (13, 5), generator=torch.Generator().manual_seed(state),
                          dtype=torch.int8) - 1
        for state in states
    ]  # fmt: skip
    exact, kept = softmax_hessians(regression), regression.kept.numpy()
    images = [np.einsum("nij,nj->ni", exact, probe.double().numpy()) for probe in probes]
    squared = np.stack([(image**2).sum(1) for image in images])
    np.testing.assert_allclose(found.value[kept], squared.mean(0)[kept], rtol=1e-12)
    wanted = squared.std(0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(found.standard_error[kept], wanted[kept], rtol=1e-9, atol=1e-15)
    traces = np.mean([(i * p.numpy()).sum(1) for i, p in zip(images, probes, strict=True)], 0)
    np.testing.assert_allclose(found.trace[kept], traces[kept], rtol=1e-9)


def test_differences_converge_to_the_exact_products(objective, data):
    exact = input_curvature(objective)
    errors = []
    for h in (1e-2, 1e-3, 1e-4):
        near = input_curvature(objective, method="differences", h=h)
        kept = data[1].numpy() >= 0
        errors.append(np.abs(near.value - exact.value)[kept].max())
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.3)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.3)


def test_differences_see_kinks_that_are_near_and_exact_products_do_not():
    # l = relu(x) at x = -h / 2: the slope jumps between x and x + h.
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.zero_()
    data = (torch.full((2, 1), -5e-4, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))
    objective = Objective(model, data, nn.L1Loss())
    assert not input_curvature(objective).value.any()
    found = input_curvature(objective, method="differences", h=1e-3, num_probes=32)
    up = found.value * 1e-6  # the share of probes that step over the kink
    assert (up > 0.2).all()
    assert (up < 0.8).all()


def test_over_checkpoints_it_is_the_mean_and_the_error_is_that_of_the_mean(objective, checkpoints):
    together = input_curvature(objective, checkpoints, num_probes=20)
    alone = [input_curvature(objective, theta, num_probes=20) for theta in checkpoints]
    np.testing.assert_allclose(together.value, np.mean([one.value for one in alone], 0))
    # The probes are the same at all of them: twice the same checkpoint says no more than once.
    twice = input_curvature(objective, checkpoints[[0, 0]], num_probes=20)
    np.testing.assert_allclose(twice.standard_error, alone[0].standard_error)


def test_the_standard_error_is_that_of_the_estimates(regression):
    exact = (softmax_hessians(regression) ** 2).sum((1, 2))[0]
    found = [input_curvature(regression.objective, num_probes=16, seed=s) for s in range(40)]
    spread = np.std([one.value[0] for one in found])
    assert spread == pytest.approx(np.mean([one.standard_error[0] for one in found]), rel=0.3)
    assert abs(np.mean([one.value[0] for one in found]) - exact) < 4 * spread / np.sqrt(40)


def test_wrong_options_are_refused(objective):
    with pytest.raises(RequestError, match="The choices are: differences, exact"):
        input_curvature(objective, method="autograd")
    with pytest.raises(RequestError, match="num_probes=1"):
        input_curvature(objective, num_probes=1)
    with pytest.raises(RequestError, match="h=0"):
        input_curvature(objective, h=0.0)
