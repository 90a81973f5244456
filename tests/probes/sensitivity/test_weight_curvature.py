from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import landscape.probes.sensitivity.weight_curvature as weight_curvature_module
from landscape.curvature.eigen import eigsh
from landscape.curvature.hessian import HessianOperator
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.weight_curvature import curvature_along, weight_curvature


def dense(objective, index):
    """(P, P) Hessian of one example's loss, by torch.func."""
    batch = tuple(torch.cat(parts) for parts in zip(*objective.batches, strict=True))
    one = tuple(tensor[index : index + 1] for tensor in batch)

    def loss(theta):
        with objective.evaluation():
            term = objective.term(objective.space.split(theta), one)
        return term.total / term.weight

    return torch.autograd.functional.hessian(loss, objective.theta)


def jacobian(objective, index):
    """(C, P) of one example's outputs."""
    batch = tuple(torch.cat(parts) for parts in zip(*objective.batches, strict=True))
    one = tuple(tensor[index : index + 1] for tensor in batch)

    def outputs(theta):
        with objective.evaluation():
            return objective.term(objective.space.split(theta), one).output[0]

    return torch.autograd.functional.jacobian(outputs, objective.theta)


def quadratic_forms(matrix, directions):
    return torch.einsum("pk,pq,qk->k", directions, matrix, directions).numpy()


def directions_of(objective, k=3):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(objective.space.size, k, generator=generator, dtype=torch.float64)


def test_along_directions_it_is_the_dense_hessian_of_each_example(objective, data):
    directions = directions_of(objective)
    found = curvature_along(objective, directions)
    for index in np.flatnonzero(data[1].numpy() >= 0):
        wanted = quadratic_forms(dense(objective, index), directions)
        np.testing.assert_allclose(found.value[index], wanted, rtol=1e-10, atol=1e-13)


def test_the_gauss_newton_matrix_is_that_of_the_outputs_jacobian(objective, data):
    directions = directions_of(objective)
    found = curvature_along(objective, directions, matrix="gauss_newton")
    for index in np.flatnonzero(data[1].numpy() >= 0)[:5]:
        slopes = jacobian(objective, index) @ directions  # (C, k)
        p = objective.model(data[0][index]).softmax(0).detach()
        wanted = (p[:, None] * slopes.square()).sum(0) - (p @ slopes).square()
        np.testing.assert_allclose(found.value[index], wanted, rtol=1e-10)
    assert (np.nan_to_num(found.value) >= 0).all()


def test_of_softmax_regression_hessian_and_gauss_newton_are_one(regression):
    directions = directions_of(regression.objective)
    hessian, other = (
        curvature_along(regression.objective, directions, matrix=matrix)
        for matrix in ("hessian", "gauss_newton")
    )
    np.testing.assert_allclose(hessian.value, other.value, rtol=1e-11)
    # v.(H_i v) = u'(diag p - p p') u with u = V x, V the direction as a matrix.
    u = torch.einsum("cdk,nd->nck", directions.view(3, 5, 3), regression.inputs)
    p = regression.probabilities[:, :, None]
    wanted = ((p * u.square()).sum(1) - (p * u).sum(1).square()).numpy()
    kept = regression.kept.numpy()
    np.testing.assert_allclose(hessian.value[kept], wanted[kept], rtol=1e-11)


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    ],
)
def test_shares_of_the_top_eigenvectors_add_up_to_their_eigenvalues(network, data, loss):
    objective = Objective(network, data, loss, batch_size=5)
    pairs = eigsh(HessianOperator(objective), k=3, seed=0)
    found = curvature_along(objective, pairs.vectors)
    np.testing.assert_allclose(found.share.sum(0), pairs.values, rtol=1e-12)
    np.testing.assert_allclose(found.total, pairs.values, rtol=1e-12)
    assert np.isnan(found.value[4]).all()
    assert not found.share[4].any()


def test_shares_weigh_the_examples_as_the_loss_does(network, data):
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    objective = Objective(network, data, nn.CrossEntropyLoss(weight=weights), batch_size=5)
    found = curvature_along(objective, directions_of(objective))
    own = torch.where(data[1] >= 0, weights[data[1].clamp(min=0)], 0).numpy()
    wanted = np.nan_to_num(found.value) * own[:, None] / own.sum()
    np.testing.assert_allclose(found.share, wanted, rtol=1e-12)


def test_one_direction_may_be_a_vector_and_its_length_counts(objective):
    direction = directions_of(objective, 1)
    one = curvature_along(objective, direction[:, 0])
    assert one.value.shape == (13, 1)
    np.testing.assert_allclose(
        curvature_along(objective, 3 * direction).value, 9 * one.value, rtol=1e-12
    )


def test_the_trace_is_within_its_error_of_the_sum_over_all_directions(objective, data):
    axes = torch.eye(objective.space.size, dtype=torch.float64)
    kept = data[1].numpy() >= 0
    for matrix in ("hessian", "gauss_newton"):
        exact = curvature_along(objective, axes, matrix=matrix).value.sum(1)
        found = weight_curvature(objective, num_probes=80, matrix=matrix)
        error = np.abs(found.value - exact)[kept]
        assert (error < 4 * found.standard_error[kept]).all()
        assert np.isnan(found.value[~kept]).all()
        assert found.matrix == matrix


def test_the_standard_error_is_that_of_the_estimates(objective):
    found = [weight_curvature(objective, num_probes=8, seed=seed) for seed in range(24)]
    spread = np.std([one.value[0] for one in found])
    assert spread == pytest.approx(np.mean([one.standard_error[0] for one in found]), rel=0.35)


def test_value_and_error_are_those_of_the_samples(objective):
    found = weight_curvature(objective, num_probes=5)
    np.testing.assert_allclose(found.value, found.samples.mean(0))
    np.testing.assert_allclose(found.standard_error, found.samples.std(0, ddof=1) / np.sqrt(5))


def test_probes_are_common_to_the_examples_so_that_the_mean_is_the_whole_trace(objective, data):
    # Sample by sample: the weighted mean of v.(H_i v) is v.(H v) of the whole loss.
    found = weight_curvature(objective, num_probes=3, seed=7)
    state = int(np.random.SeedSequence(7).generate_state(1, np.uint64)[0]) >> 1
    signs = torch.randint(
        0, 2, (3, objective.space.size), generator=torch.Generator().manual_seed(state),
        dtype=torch.int8,
    )  # fmt: skip
    hessian = HessianOperator(objective)
    for sample, sign in zip(found.samples, signs, strict=True):
        probe = (2 * sign - 1).double()
        wanted = float(probe @ hessian.matvec(probe))
        assert sample[data[1].numpy() >= 0].mean() == pytest.approx(wanted, rel=1e-10)


class Cubed(torch.autograd.Function):
    """x^3, of which torch knows no forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * gradient * x**2


class Cube(nn.Module):
    def forward(self, x):
        return Cubed.apply(x)


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


LAYERS = {
    "autograd function": lambda: [nn.Flatten(), nn.Linear(32, 4), Cube(), nn.Linear(4, 3)],
    "gelu": lambda: [nn.Conv2d(2, 3, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 3)],
    "batch norm": lambda: [
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Linear(12, 3)
    ],
    "layer norm": lambda: [
        nn.Flatten(2), nn.Linear(16, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(8, 3)
    ],
    "instance norm": lambda: [
        nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    ],
    "group norm": lambda: [
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3)
    ],
    "attention": lambda: [
        nn.Flatten(2), Attention(16, 2, batch_first=True), nn.Flatten(), nn.Linear(32, 3)
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_examples_add_up_to_the_hessian_of_layers_of_every_kind(kind):
    # Third derivatives, by which this could be had faster, are wrong for two of them (torch 2.13).
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*LAYERS[kind]()).double()
        inputs = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    objective = Objective(model, (inputs, torch.tensor([0, 2, 1])), batch_size=2)
    directions = directions_of(objective, 2)
    found = curvature_along(objective, directions)
    product = HessianOperator(objective).matmat(directions)
    wanted = (directions * product).sum(0).numpy()
    np.testing.assert_allclose(found.total, wanted, rtol=1e-9, atol=1e-12)
    alone = Objective(model, (inputs[1:2], torch.tensor([2])))
    product = HessianOperator(alone).matmat(directions)
    np.testing.assert_allclose(found.value[1], (directions * product).sum(0), rtol=1e-9, atol=1e-12)


def test_where_vmap_would_be_wrong_the_examples_are_taken_one_by_one(objective, monkeypatch):
    directions = directions_of(objective)
    wanted = curvature_along(objective, directions)
    vjp = weight_curvature_module.vjp

    def wrong(*arguments, **options):
        values, pulled, weight = vjp(*arguments, **options)
        return values, lambda own: ([1.001 * block for block in pulled(own)[0]],), weight

    monkeypatch.setattr(weight_curvature_module, "vjp", wrong)
    found = curvature_along(objective, directions)
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-10)


def test_what_the_weights_do_not_bend_has_no_curvature(data):
    model = nn.Linear(5, 3, dtype=torch.float64)
    inputs = data[0]
    objective = Objective(model, (inputs, torch.zeros(13, 3, dtype=torch.float64)), nn.L1Loss())
    assert not curvature_along(objective, directions_of(objective)).value.any()
    assert not weight_curvature(objective).value.any()


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature(data):
    model, labels = nn.Linear(5, 3, dtype=torch.float64), data[1].clamp(min=0)
    objective = Objective(model, (data[0], labels), lambda output, target: output[:, 0])
    assert not curvature_along(objective, directions_of(objective)).value.any()


def test_the_point_may_be_another(objective, checkpoints):
    directions = directions_of(objective)
    found = curvature_along(objective, directions, checkpoints[2])
    product = HessianOperator(objective, checkpoints[2]).matmat(directions)
    np.testing.assert_allclose(found.total, (directions * product).sum(0), rtol=1e-10)


def test_wrong_requests_are_refused(objective, network, data):
    with pytest.raises(RequestError, match="num_probes=1"):
        weight_curvature(objective, num_probes=1)
    with pytest.raises(RequestError, match="Did you mean 'gauss_newton'"):
        weight_curvature(objective, matrix="gauss-newton")
    with pytest.raises(RequestError, match="the vector has shape"):
        curvature_along(objective, torch.zeros(3, 2))
    with pytest.raises(RequestError, match=r"expected \(P, k\) with k >= 1"):
        curvature_along(objective, torch.zeros(39, 0))
    loss = lambda output, target: (output[:, 0] - target).square()  # noqa: E731
    own = Objective(network, (data[0], data[0][:, 0]), loss)
    with pytest.raises(RequestError, match="not known as a function of the outputs"):
        weight_curvature(own, matrix="gauss_newton")
    assert np.isfinite(weight_curvature(own).value).all()
