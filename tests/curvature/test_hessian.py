"""Products with the Hessian are exact, leave no trace in the model, and free what they keep."""

from __future__ import annotations

import functools
import gc
import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import (
    MLP,
    ConvNet,
    IdentityChain,
    Product,
    Transformer,
    cut,
    dense_hessian,
    half_squared_error,
    linear_regression_hessian,
    logistic_hessian,
    network,
    random_vectors,
    softmax_hessian,
    token_cross_entropy,
    two_layer_linear_hessian,
    whitened,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.curvature.hessian import HessianOperator
from landscape.errors import RequestError
from landscape.objective import Objective

KINDS = [MLP, ConvNet, Transformer]
EXACT = {"rtol": 0, "atol": 1e-10}


@functools.cache
def _problem(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, inputs, labels, and the exact Hessian of the mean cross-entropy."""
    model, inputs, targets = network(kind)
    return model, inputs, targets, dense_hessian(model, inputs, targets, token_cross_entropy)


def _partial_budget(objective: Objective) -> int:
    """A budget that keeps some graphs, but not all."""
    for exponent in range(8, 40):
        for budget in (2**exponent, 3 * 2 ** (exponent - 1)):
            operator = HessianOperator(objective, graph_bytes=budget)
            operator.matvec(objective.theta)
            if operator.num_kept:
                assert operator.num_kept < objective.batches.num_batches
                return budget
    raise AssertionError("no budget keeps a graph")


# -- against torch.func.hessian -----------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [10, 5, 3])  # whole, even, ragged
@pytest.mark.parametrize("kind", KINDS)
def test_products_equal_the_dense_hessian(kind, batch_size):
    model, inputs, targets, exact = _problem(kind)
    objective = Objective(model, cut(inputs, targets, batch_size))
    vectors = random_vectors(len(exact), 3)
    kept = HessianOperator(objective)
    torch.testing.assert_close(kept.matmat(vectors), exact @ vectors, **EXACT)
    assert kept.num_kept == objective.batches.num_batches
    torch.testing.assert_close(kept.matmat(vectors), exact @ vectors, **EXACT)  # graphs in use
    rebuilt = HessianOperator(objective, graph_bytes=0)
    torch.testing.assert_close(rebuilt.matmat(vectors), exact @ vectors, **EXACT)
    assert rebuilt.num_kept == 0


@pytest.mark.parametrize("batch_size", [10, 5, 3])  # whole, even, ragged
@pytest.mark.parametrize("kind", KINDS)
def test_products_equal_torch_func_hessian_wherever_that_is_symmetric(kind, batch_size):
    model, inputs, targets, _ = _problem(kind)
    literal = dense_hessian(model, inputs, targets, token_cross_entropy, over=torch.func.hessian)
    objective = Objective(model, cut(inputs, targets, batch_size))
    # The rows of LayerNorm's weights are wrong in torch 2.13, and their columns are right.
    right = torch.ones(len(literal), dtype=torch.bool)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            right[objective.space.slice_of(f"{name}.weight")] = False
    is_symmetric = (literal - literal.T).abs().max() < 1e-12
    assert is_symmetric == right.all()  # else the exception is not needed any more
    vectors = random_vectors(len(literal), 3)
    products = HessianOperator(objective).matmat(vectors)
    torch.testing.assert_close(products[right], (literal @ vectors)[right], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_any_budget_for_graphs_gives_the_same_products(kind):
    model, inputs, targets, exact = _problem(kind)
    objective = Objective(model, cut(inputs, targets, 3))
    operator = HessianOperator(objective, graph_bytes=_partial_budget(objective))
    vectors = random_vectors(len(exact), 2)
    for _ in range(2):
        torch.testing.assert_close(operator.matmat(vectors), exact @ vectors, **EXACT)
    assert 0 < operator.num_kept < 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_dense_matrix_is_that_of_autograd(kind):
    model, inputs, targets, exact = _problem(kind)
    operator = HessianOperator(Objective(model, cut(inputs, targets, 3)))
    torch.testing.assert_close(operator.to_dense(), exact, **EXACT)


def test_float32_products_are_exact_to_their_noise_floor():
    model, inputs, targets, exact = _problem(ConvNet)
    operator = HessianOperator(Objective(model, cut(inputs, targets, 3), dtype=torch.float32))
    assert operator.dtype == torch.float32
    vectors = random_vectors(len(exact), 3)
    vectors = vectors / vectors.norm(dim=0)
    errors = (operator.matmat(vectors).double() - exact @ vectors).norm(dim=0)
    assert errors.max() < 10 * operator.noise().floor < 1e-4


def test_the_hessian_is_taken_at_theta_not_at_the_checkpoint():
    model, inputs, targets, _ = _problem(MLP)
    moved = network(MLP, seed=5)[0]
    exact = dense_hessian(moved, inputs, targets, token_cross_entropy)
    theta = torch.cat([p.detach().reshape(-1) for p in moved.parameters()])
    operator = HessianOperator(Objective(model, cut(inputs, targets, 5)), theta)
    theta.zero_()  # the operator has its own copy
    torch.testing.assert_close(operator.to_dense(), exact, **EXACT)


def test_data_that_does_not_fit_the_cache_gives_the_same_products():
    model, inputs, targets, exact = _problem(MLP)
    objective = Objective(model, cut(inputs, targets, 3), cache_bytes=0)
    assert not objective.batches.is_cached
    vectors = random_vectors(len(exact), 2)
    for budget in (None, 0):
        operator = HessianOperator(objective, graph_bytes=budget)
        torch.testing.assert_close(operator.matmat(vectors), exact @ vectors, **EXACT)


# -- which coordinates --------------------------------------------------------------------------


class _Odd(nn.Module):
    """Tied, frozen, unused and linear parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, 3)
        self.head.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))


def test_tied_frozen_and_unused_parameters():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Odd().double()
    _, inputs, targets, _ = _problem(MLP)
    free = [name for name, p in model.named_parameters() if p.requires_grad]
    exact = dense_hessian(model, inputs, targets, token_cross_entropy, free)
    objective = Objective(model, cut(inputs, targets, 3))
    assert objective.space.names == tuple(free)
    dense = HessianOperator(objective).to_dense()
    torch.testing.assert_close(dense, exact, **EXACT)
    for name in ("unused.weight", "unused.bias"):
        assert not dense[objective.space.slice_of(name)].any()
    assert dense[objective.space.slice_of("second.bias")].any()


@pytest.mark.parametrize("select", ["head", "*.weight", ["*", "!hidden.weight"]])
def test_a_selection_gives_the_principal_submatrix(select):
    model, inputs, targets, exact = _problem(MLP)
    whole = Objective(model, (inputs, targets))
    part = Objective(model, cut(inputs, targets, 3), params=select)
    rows = torch.cat(
        [torch.arange(whole.space.size)[whole.space.slice_of(n)] for n in part.space.names]
    )
    dense = HessianOperator(part).to_dense()
    torch.testing.assert_close(dense, exact[rows][:, rows], **EXACT)


def test_parameters_that_enter_linearly_have_no_curvature():
    objective = Objective(
        nn.Linear(4, 1, dtype=torch.float64),
        (random_vectors(10, 4), torch.zeros(10)),
        lambda output, target: output.mean(),
    )
    for budget in (None, 0):
        operator = HessianOperator(objective, graph_bytes=budget)
        assert not operator.matvec(objective.theta).any()


# -- reductions ---------------------------------------------------------------------------------


def _mean_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def _sum_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="sum")


@pytest.mark.parametrize("batch_size", [10, 5, 3])
@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (_mean_loss, 1),
        (nn.CrossEntropyLoss(), 1),
        (nn.CrossEntropyLoss(reduction="none"), 1),
        (nn.CrossEntropyLoss(reduction="sum"), 10),
    ],
    ids=["mean", "mean_module", "per_example", "sum_module"],
)
def test_sum_and_mean_over_any_batches(loss, factor, batch_size):
    model, inputs, targets, exact = _problem(MLP)
    objective = Objective(model, cut(inputs, targets, batch_size), loss)
    vectors = random_vectors(len(exact), 2)
    products = HessianOperator(objective).matmat(vectors)
    torch.testing.assert_close(products, factor * exact @ vectors, **EXACT)


@pytest.mark.parametrize("batch_size", [5, 3])
def test_a_users_sum_is_recognised_or_declared(batch_size):
    model, inputs, targets, exact = _problem(MLP)
    vectors = random_vectors(len(exact), 2)
    for reduction in ("auto", "sum"):
        objective = Objective(
            model, cut(inputs, targets, batch_size), _sum_loss, reduction=reduction
        )
        products = HessianOperator(objective).matmat(vectors)
        torch.testing.assert_close(products, 10 * exact @ vectors, **EXACT)


def _pair_loss(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    losses = F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="sum")
    return losses, (target != -100).sum()


@pytest.mark.parametrize("loss", ["cross_entropy", _pair_loss], ids=["named", "pair"])
@pytest.mark.parametrize("batch_size", [10, 5, 3])
def test_tokens_are_weighted_by_their_number(loss, batch_size):
    model, inputs, targets, _ = _problem(Transformer)
    targets = targets.clone()
    targets[0] = -100
    targets[7, 1:] = -100
    targets[9, 2] = -100
    exact = dense_hessian(model, inputs, targets, token_cross_entropy)
    objective = Objective(model, cut(inputs, targets, batch_size), loss)
    assert objective.total_weight == 32
    vectors = random_vectors(len(exact), 2)
    products = HessianOperator(objective).matmat(vectors)
    torch.testing.assert_close(products, exact @ vectors, **EXACT)


def test_class_weights_count_examples_by_their_class():
    model, inputs, targets, _ = _problem(MLP)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64))
    exact = dense_hessian(model, inputs, targets, loss)
    operator = HessianOperator(Objective(model, cut(inputs, targets, 3), loss))
    torch.testing.assert_close(operator.to_dense(), exact, **EXACT)


def test_duplicated_data_leaves_a_mean_and_doubles_a_sum():
    model, inputs, targets, exact = _problem(ConvNet)
    twice = [*cut(inputs, targets, 3), *cut(inputs, targets, 5)]
    vectors = random_vectors(len(exact), 2)
    for reduction, factor in (("mean", 1), ("sum", 20)):
        objective = Objective(model, twice, reduction=reduction)
        products = HessianOperator(objective).matmat(vectors)
        torch.testing.assert_close(products, factor * exact @ vectors, **EXACT)


# -- closed forms -------------------------------------------------------------------------------


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(random_vectors(num_outputs, num_inputs, seed=7))
    return layer


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("batch_size", [10, 5, 3])
def test_linear_regression_has_its_gram_matrix(batch_size, num_outputs):
    inputs, targets = random_vectors(10, 4), random_vectors(10, num_outputs, seed=2)
    objective = Objective(_linear(4, num_outputs), cut(inputs, targets, batch_size), "mse")
    exact = linear_regression_hessian(inputs, num_outputs)
    torch.testing.assert_close(HessianOperator(objective).to_dense(), exact, **EXACT)


@pytest.mark.parametrize("batch_size", [10, 3])
def test_logistic_regression(batch_size):
    inputs = random_vectors(10, 4)
    targets = (random_vectors(10, 1, seed=2) > 0).double()
    model = _linear(4, 1)
    objective = Objective(model, cut(inputs, targets, batch_size), "bce")
    exact = logistic_hessian(inputs, model.weight[0].detach())
    torch.testing.assert_close(HessianOperator(objective).to_dense(), exact, **EXACT)


@pytest.mark.parametrize("batch_size", [12, 5])
def test_softmax_regression_has_a_null_space_of_exactly_d(batch_size):
    d, num_classes = 4, 5
    inputs, targets = random_vectors(12, d), torch.arange(12) % num_classes
    model = _linear(d, num_classes)
    dense = HessianOperator(Objective(model, cut(inputs, targets, batch_size))).to_dense()
    torch.testing.assert_close(dense, softmax_hessian(inputs, model.weight.detach()), **EXACT)
    values = torch.linalg.eigvalsh(dense)
    assert (values[:d].abs() < 1e-14).all()
    assert values[d] > 1e-6


def test_softmax_regression_at_zero_has_each_eigenvalue_one_less_than_the_classes():
    d, num_classes = 4, 5
    inputs, targets = random_vectors(12, d), torch.arange(12) % num_classes
    model = _linear(d, num_classes)
    nn.init.zeros_(model.weight)
    dense = HessianOperator(Objective(model, cut(inputs, targets, 5))).to_dense()
    second_moments = torch.linalg.eigvalsh(inputs.T @ inputs / 12) / num_classes
    expected = torch.cat([torch.zeros(d), second_moments.repeat_interleave(num_classes - 1)])
    torch.testing.assert_close(torch.linalg.eigvalsh(dense), expected.double(), **EXACT)


@pytest.mark.parametrize("batch_size", [10, 3])
def test_two_linear_layers_have_a_mixed_block_with_the_error_in_it(batch_size):
    inputs, targets = random_vectors(10, 4), random_vectors(10, 2, seed=2)
    model = nn.Sequential(_linear(4, 3), _linear(3, 2))
    objective = Objective(model, cut(inputs, targets, batch_size), half_squared_error)
    exact = two_layer_linear_hessian(
        inputs, targets, model[0].weight.detach(), model[1].weight.detach()
    )
    assert torch.linalg.eigvalsh(exact)[0] < -0.01  # indefinite
    torch.testing.assert_close(HessianOperator(objective).to_dense(), exact, **EXACT)


@pytest.mark.parametrize("depth", [1, 5])
def test_a_product_of_ones_has_its_depth_as_only_eigenvalue(depth):
    one = torch.ones(1, 1, dtype=torch.float64)
    operator = HessianOperator(Objective(Product(depth), (one, one), half_squared_error))
    dense = operator.to_dense()
    torch.testing.assert_close(dense, torch.ones(depth, depth, dtype=torch.float64), **EXACT)
    assert abs(torch.linalg.eigvalsh(dense)[-1] - depth) < 1e-12


def test_a_chain_of_identities_has_its_depth_once_for_each_entry_of_a_layer():
    depth, width = 3, 2
    inputs = whitened(8, width)
    objective = Objective(IdentityChain(depth, width), cut(inputs, inputs, 3), half_squared_error)
    values = torch.linalg.eigvalsh(HessianOperator(objective).to_dense())
    expected = torch.zeros(depth * width**2, dtype=torch.float64)
    expected[-(width**2) :] = depth
    torch.testing.assert_close(values, expected, **EXACT)


def test_weight_decay_shifts_every_eigenvalue():
    model, inputs, targets, exact = _problem(MLP)

    def decayed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        decay = sum(p.square().sum() for p in model.parameters())
        return F.cross_entropy(model(batch[0]), batch[1]) + 0.3 / 2 * decay

    objective = Objective(model, cut(inputs, targets, 3), decayed)
    shifted = exact + 0.3 * torch.eye(len(exact), dtype=torch.float64)
    torch.testing.assert_close(HessianOperator(objective).to_dense(), shifted, **EXACT)


@pytest.mark.parametrize("batch_size", [10, 4])
def test_weights_before_batchnorm_are_scale_invariant(batch_size):
    # L(a w) = L(w) gives <g, w> = 0, and its derivative H w = -g.
    _, inputs, targets, _ = _problem(MLP)
    norm = nn.BatchNorm1d(5, eps=1e-30, dtype=torch.float64)
    model = nn.Sequential(_linear(4, 5), norm, nn.Tanh(), _linear(5, 3))
    objective = Objective(model, cut(inputs, targets, batch_size), params="0.weight", bn="batch")
    gradient, weights = objective.gradient(), objective.theta
    assert gradient.norm() > 1e-3
    assert abs(gradient @ weights) < 1e-12
    operator = HessianOperator(objective)
    torch.testing.assert_close(operator.matvec(weights), -gradient, **EXACT)
    farther = HessianOperator(objective, 3 * weights)
    vector = random_vectors(operator.size, 1)[:, 0]
    torch.testing.assert_close(9 * farther.matvec(vector), operator.matvec(vector), **EXACT)


def test_rescaled_relu_layers_move_along_a_level_set():
    # L is constant along W1 -> a W1, W2 -> W2 / a, so H (s w) = -s g with s = (1, -1).
    _, inputs, targets, _ = _problem(MLP)
    model = nn.Sequential(_linear(4, 5), nn.ReLU(), _linear(5, 3))
    objective = Objective(model, cut(inputs, targets, 3))
    signs = torch.ones_like(objective.theta)
    signs[objective.space.slice_of("2.weight")] = -1
    gradient = objective.gradient()
    assert abs(gradient @ (signs * objective.theta)) < 1e-12
    product = HessianOperator(objective).matvec(signs * objective.theta)
    torch.testing.assert_close(product, -signs * gradient, **EXACT)


# -- no trace -----------------------------------------------------------------------------------


class _Recording(MLP):
    """Keeps weak references to its activations that carry a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[weakref.ref[Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        activations = torch.tanh(self.hidden(inputs))
        if activations.requires_grad:
            self.seen.append(weakref.ref(activations))
        return self.head(activations)

    def num_alive(self) -> int:
        return sum(reference() is not None for reference in self.seen)


@pytest.fixture
def recorded():
    """A recording model and its objective of four batches, with the garbage collector off."""
    _, inputs, targets, _ = _problem(MLP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Recording().double()
    objective = Objective(model, cut(inputs, targets, 3))
    gc.collect()
    gc.disable()
    try:
        yield model, objective
    finally:
        gc.enable()


def test_graphs_are_freed_with_the_operator_and_without_the_garbage_collector(recorded):
    model, objective = recorded
    assert model.num_alive() == 0  # the objective's own trial left nothing
    operator = HessianOperator(objective)
    operator.matvec(objective.theta)
    assert model.num_alive() == 4  # one for each batch; the graph that was measured is gone
    leaves = [weakref.ref(leaf) for leaf in operator._leaves]
    del operator
    assert model.num_alive() == 0
    assert not any(leaf() is not None for leaf in leaves)


def test_rebuilt_graphs_are_freed_at_once(recorded):
    model, objective = recorded
    operator = HessianOperator(objective, graph_bytes=0)
    operator.matvec(objective.theta)
    assert model.num_alive() == 0


def test_twenty_operators_leave_nothing_behind(recorded):
    model, objective = recorded
    for _ in range(20):
        with HessianOperator(objective) as operator:
            operator.matvec(objective.theta)
            assert model.num_alive() == 4
        assert model.num_alive() == 0
        assert operator.num_kept is None


def test_a_closed_operator_builds_its_graphs_again():
    model, inputs, targets, exact = _problem(MLP)
    operator = HessianOperator(Objective(model, cut(inputs, targets, 3)))
    vector = random_vectors(len(exact), 1)[:, 0]
    first = operator.matvec(vector)
    operator.close()
    operator.close()
    assert operator.num_kept is None
    assert torch.equal(operator.matvec(vector), first)


def _flags() -> tuple[object, ...]:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return (
        *(cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()),
        *(cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled()),
        *(cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    )


def _state(model: nn.Module) -> dict[str, object]:
    """Everything of a model, and of the process, that a product might disturb."""
    return {
        "training": [module.training for module in model.modules()],
        "tensors": [(n, t.clone(), t._version) for n, t in model.state_dict().items()],
        "identity": [id(p) for p in (*model.parameters(), *model.buffers())],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "rng": (torch.get_rng_state(), random.getstate(), np.random.get_state()),  # noqa: NPY002
        "flags": _flags(),
    }


def _assert_same(one: object, other: object) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        _assert_same(list(one.items()), list(other.items()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _assert_same(left, right)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other)
    else:
        assert one == other


class _Everything(nn.Module):
    """BatchNorm, dropout, attention and random numbers, left in a mixed state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvNet()
        self.drop, self.mix = nn.Dropout(0.5), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        torch.rand(3)  # drawn, and not used
        random.random()
        tokens = self.mix(self.drop(self.conv(images))).unsqueeze(1)
        return F.scaled_dot_product_attention(tokens, tokens, tokens).squeeze(1)


@pytest.fixture
def disturbed():
    """A model in a mixed state, its data, and unusual flags of the backends."""
    _, images, targets, _ = _problem(ConvNet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Everything().double()
    model.train()
    model.conv.head.eval()
    model.mix.bias.requires_grad_(False)
    model.mix.weight.grad = torch.full_like(model.mix.weight, 2.5)
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.allow_tf32)
    cudnn.deterministic, cudnn.allow_tf32 = True, False
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        yield model, cut(images, targets, 4)
    cudnn.deterministic, cudnn.allow_tf32 = before


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("graph_bytes", [None, 0])
def test_products_leave_the_state_bit_identical(disturbed, bn, graph_bytes):
    model, batches = disturbed
    before = _state(model)
    operator = HessianOperator(Objective(model, batches, bn=bn), graph_bytes=graph_bytes)
    first = operator.matvec(operator.objective.theta)
    assert first.isfinite().all()
    assert torch.equal(operator.matvec(operator.objective.theta), first)
    _assert_same(_state(model), before)


@pytest.mark.parametrize("bn", ["eval", "batch"])
@pytest.mark.parametrize("graph_bytes", [None, 0])
def test_an_exception_in_the_middle_leaves_the_state_bit_identical(disturbed, bn, graph_bytes):
    model, batches = disturbed
    calls_left = [10**6]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls_left[0] -= 1
        if calls_left[0] < 0:
            raise RuntimeError("pulled the plug")
        return F.cross_entropy(output, target)

    objective = Objective(model, batches, loss, bn=bn)
    before = _state(model)
    expected = HessianOperator(objective, graph_bytes=0).matvec(objective.theta)
    for calls in range(4):  # while measuring, and while building each batch
        operator = HessianOperator(objective, graph_bytes=graph_bytes)
        calls_left[0] = calls
        with pytest.raises(RuntimeError, match="plug"):
            operator.matvec(objective.theta)
        _assert_same(_state(model), before)
        calls_left[0] = 10**6
        torch.testing.assert_close(operator.matvec(objective.theta), expected, **EXACT)


def test_the_users_backend_flags_hold_inside_a_product(disturbed):
    model, batches = disturbed
    inside = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        cudnn = torch.backends.cudnn
        inside.append((cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))
        return F.cross_entropy(output, target)

    objective = Objective(model, batches, loss)
    inside.clear()
    HessianOperator(objective).matvec(objective.theta)
    assert set(inside) == {(torch.backends.cudnn.enabled, True, False)}


def test_cudnn_is_off_for_recurrent_networks_only_and_only_inside():
    inside = []

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 2, batch_first=True, dtype=torch.float64)

        def forward(self, tokens: Tensor) -> Tensor:
            inside.append(torch.backends.cudnn.enabled)
            return self.rnn(tokens)[0][:, -1]

    objective = Objective(Recurrent(), (random_vectors(5, 12).view(5, 4, 3), torch.arange(5) % 2))
    outside = torch.backends.cudnn.enabled
    inside.clear()
    operator = HessianOperator(objective)
    operator.matvec(objective.theta)
    assert set(inside) == {False}
    assert torch.backends.cudnn.enabled is outside


# -- notes and errors ---------------------------------------------------------------------------


class _WithAttention(nn.Module):
    def __init__(self, attention: nn.Module, *, is_layer: bool, need_weights: bool = False) -> None:
        super().__init__()
        self.attention, self.is_layer, self.need_weights = attention, is_layer, need_weights

    def forward(self, tokens: Tensor) -> Tensor:
        if self.is_layer:
            return self.attention(tokens).mean(1)
        return self.attention(tokens, tokens, tokens, need_weights=self.need_weights)[0].mean(1)


def _attention_model(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "encoder_layer":
            layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.1, batch_first=True)
            return _WithAttention(layer, is_layer=True).double()
        attention = nn.MultiheadAttention(4, 2, batch_first=True)
        need_weights = name == "multihead_weights"
        return _WithAttention(attention, is_layer=False, need_weights=need_weights).double()


@pytest.mark.parametrize("name", ["multihead", "encoder_layer", "multihead_weights"])
def test_torchs_own_attention_is_exact_and_fused_attention_is_noted(name):
    model = _attention_model(name)
    tokens, targets = random_vectors(5, 12).view(5, 3, 4), torch.arange(5) % 4
    objective = Objective(model, cut(tokens, targets, 2))
    operator = HessianOperator(objective)
    exact = dense_hessian(model, tokens, targets, token_cross_entropy)
    vectors = random_vectors(operator.size, 2)
    torch.testing.assert_close(operator.matmat(vectors), exact @ vectors, **EXACT)
    noted = any("math kernel" in note for note in operator.notes)
    assert noted is (name != "multihead_weights")  # weights are returned by an unfused path


@pytest.mark.parametrize("graph_bytes", [None, 0])
def test_fused_attention_is_noted_once_and_other_networks_have_no_note(graph_bytes):
    model, inputs, targets, _ = _problem(Transformer)
    operator = HessianOperator(Objective(model, (inputs, targets)), graph_bytes=graph_bytes)
    for _ in range(2):
        operator.matvec(operator.objective.theta)
        operator.close()
    assert sum("math kernel" in note for note in operator.notes) == 1
    model, inputs, targets, _ = _problem(ConvNet)
    operator = HessianOperator(Objective(model, (inputs, targets)))
    operator.matvec(operator.objective.theta)
    assert operator.notes == ()


def test_a_loss_without_a_gradient_is_refused():
    model, inputs, targets, _ = _problem(MLP)
    objective = Objective(
        model, (inputs, targets), lambda output, target: F.cross_entropy(output.detach(), target)
    )
    with pytest.raises(RequestError, match="no Hessian"):
        HessianOperator(objective).matvec(objective.theta)


def test_a_point_of_another_size_is_refused():
    model, inputs, targets, _ = _problem(MLP)
    with pytest.raises(RequestError, match=r"expected \(43,\)"):
        HessianOperator(Objective(model, (inputs, targets)), torch.zeros(3))


def test_a_hessian_that_overflows_is_refused_with_the_mend():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1e-8)
    data = (torch.full((2, 1), 1e25), torch.full((2, 1), 1e17))
    objective = Objective(model, data, "mse")
    with pytest.raises(RequestError, match="not finite"):
        HessianOperator(objective).noise()
