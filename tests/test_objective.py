import copy
import random
from collections import UserDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from landscape.errors import RequestError
from landscape.objective import Objective


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(10, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 1])
METHODS = {
    "loss": lambda o: o.loss(o.theta + 0.1),
    "losses": lambda o: o.losses(torch.stack([o.theta, 2 * o.theta])),
    "metrics": lambda o: o.metrics(o.theta * 2),
    "per_example": lambda o: o.per_example(o.theta * 2),
    "gradient": lambda o: o.gradient(o.theta * 2),
    "provenance": lambda o: o.provenance(),
}


def split(*tensors, size):
    """Batches of `size`, the last one ragged."""
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def network(*, norm=True):
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.Identity(), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(4, 3)).double()
    if norm:
        model[1].running_mean.copy_(normal(4, seed=3))
        model[1].running_var.copy_(normal(4, seed=4).square() + 0.5)
    return model


def moved(model, theta, objective):
    """A copy of the model at theta, in eval mode, by plain assignment."""
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        named = dict(other.named_parameters())
        for name, block in objective.space.named(theta).items():
            named[name].copy_(block)
    return other


def snapshot(model):
    """Everything of a model and of the process that a measurement might leave changed."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    attributes = [
        {
            name: (id(value), list(value) if isinstance(value, (dict, list, set)) else None)
            for name, value in vars(module).items()
        }
        for module in model.modules()
    ]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return (
        attributes,
        [(n, id(t), t._version, t.requires_grad, t.detach().numpy().tobytes()) for n, t in tensors],
        [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        [module.training for module in model.modules()],
        (random.getstate(), kind, keys.tobytes(), rest),
        bytes(torch.get_rng_state().numpy()),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def lived_in():
    """A model in mixed modes, with gradients, a frozen tensor and a hook."""
    model = network().train()
    F.cross_entropy(model(X), Y).backward()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[4].register_forward_hook(lambda *_: None)
    return model


# -- values and derivatives -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 9, 3])
def test_any_batching_gives_the_same_numbers(size):
    model = network()
    whole, parts = Objective(model, (X, Y)), Objective(model, split(X, Y, size=size))
    theta = whole.theta + 0.3 * normal(whole.space.size, seed=7)
    for at in (None, theta):
        assert parts.loss(at) == pytest.approx(whole.loss(at), rel=1e-12)
        assert parts.metrics(at) == pytest.approx(whole.metrics(at), rel=1e-12)
        for quantity in ("gradient", "per_example"):
            torch.testing.assert_close(
                getattr(parts, quantity)(at), getattr(whole, quantity)(at), rtol=1e-12, atol=1e-13
            )


def test_duplicated_data_change_nothing():
    model = network()
    once, twice = Objective(model, (X, Y)), Objective(model, [(X, Y), (X, Y)])
    assert twice.value == pytest.approx(once.value, rel=1e-12)
    torch.testing.assert_close(twice.gradient(), once.gradient())


@pytest.mark.parametrize(
    "data",
    [
        lambda: (X.numpy(), Y.numpy()),
        lambda: {"inputs": X, "label": Y},
        lambda: UserDict(input=X, labels=Y),
        lambda: TensorDataset(X, Y),
        lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
        lambda: (pair for pair in split(X, Y, size=4)),
        lambda: [{"inputs": x, "y": y} for x, y in split(X, Y, size=4)],
    ],
)
def test_every_form_of_data_gives_the_same_loss(data):
    model = network()
    expected = F.cross_entropy(model.eval()(X), Y).item()
    assert Objective(model, data()).loss() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("budget", [0, 200, None])
def test_cache_budget_changes_no_number(budget):
    model = network()
    loader = DataLoader(TensorDataset(X, Y), batch_size=3)
    plain, other = Objective(model, (X, Y)), Objective(model, loader, cache_bytes=budget)
    assert other.loss(plain.theta * 2) == pytest.approx(plain.loss(plain.theta * 2), rel=1e-12)
    torch.testing.assert_close(other.gradient(), plain.gradient())


def test_gradient_and_loss_equal_autograd_on_the_model_itself():
    model = network()
    objective = Objective(model, split(X, Y, size=3))
    for theta in (objective.theta, objective.theta + normal(objective.space.size, seed=5)):
        other = moved(model, theta, objective)
        loss = F.cross_entropy(other(X), Y)
        gradient = torch.autograd.grad(loss, list(other.parameters()))
        assert objective.loss(theta) == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(objective.gradient(theta), objective.space.flatten(gradient))


def test_gradient_of_a_tied_parameter_is_the_sum_over_its_uses():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False, dtype=torch.float64)
            self.b = nn.Linear(3, 3, bias=False, dtype=torch.float64)
            self.b.weight = self.a.weight

        def forward(self, inputs):
            return self.b(self.a(inputs).tanh())

    model = Tied()
    objective = Objective(model, (X, Y))
    weights = [model.a.weight.detach().clone().requires_grad_() for _ in range(2)]
    loss = F.cross_entropy((X @ weights[0].T).tanh() @ weights[1].T, Y)
    both = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(objective.gradient(), (both[0] + both[1]).flatten())


def test_losses_equal_the_loss_at_each_point_and_are_float64():
    objective = Objective(network().float(), split(X.float(), Y, size=3))
    thetas = objective.theta + normal(4, objective.space.size, seed=6).float()
    found = objective.losses(thetas)
    assert found.dtype == torch.float64
    assert found.tolist() == [objective.loss(theta) for theta in thetas]


def test_batches_are_summed_in_float64():
    # 1 + 2^-24 is 1 in float32, so a float32 sum of a large and many small terms would stand still.
    inputs = [torch.full((1, 1), float(v)) for v in [2**24, *[1] * 64]]
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    objective = Objective(model, inputs, lambda model, batch: model(batch).sum(), reduction="sum")
    assert objective.loss() == objective.value == 2**24 + 64


def test_per_example_losses_average_to_the_loss():
    objective = Objective(network(), split(X, Y, size=3))
    torch.testing.assert_close(
        objective.per_example(), F.cross_entropy(network().eval()(X), Y, reduction="none")
    )
    assert objective.per_example().mean().item() == pytest.approx(objective.value, rel=1e-12)


def test_per_example_losses_average_to_the_loss_by_their_weights():
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    objective = Objective(network(), split(X, Y, size=3), nn.CrossEntropyLoss(weight=weight))
    mean = (objective.per_example() * weight[Y]).sum() / weight[Y].sum()
    assert mean.item() == pytest.approx(objective.value, rel=1e-12)


def test_per_example_needs_a_loss_that_tells_examples_apart():
    objective = Objective(network(), (X, Y), lambda o, t: F.cross_entropy(o, t))
    with pytest.raises(RequestError, match="does not tell its examples apart"):
        objective.per_example()


def test_accuracy_is_the_share_of_right_classes():
    model = network()
    right = (model.eval()(X).argmax(1) == Y).double().mean().item()
    for loss in ("cross_entropy", lambda o, t: F.cross_entropy(o, t)):
        assert Objective(model, split(X, Y, size=3), loss).metrics()["accuracy"] == right


def test_dtype_float64_evaluates_a_float32_model_in_float64():
    model = network().float()
    objective = Objective(model, (X.float(), Y), dtype=torch.float64)
    exact = F.cross_entropy(copy.deepcopy(model).double().eval()(X.float().double()), Y).item()
    assert objective.theta.dtype == torch.float64
    assert objective.value == pytest.approx(exact, rel=1e-14)
    assert model[0].weight.dtype == torch.float32


def test_only_the_selected_parameters_move():
    model = network()
    objective = Objective(model, (X, Y), params="4")
    assert objective.space.names == ("4.weight", "4.bias")
    hidden = model.eval()[:4](X)
    weight, bias = objective.space.split(objective.theta * 3)
    expected = F.cross_entropy(hidden @ weight.T + bias, Y).item()
    assert objective.loss(objective.theta * 3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer", "pruned"])
def test_layers_with_their_own_weight_lists_move_with_theta(kind):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            if kind == "transformer":
                self.body = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
            elif kind == "pruned":
                self.body = prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5)
            else:
                self.body = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](4, 4, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, inputs):
            hidden = self.body(inputs)
            return self.head((hidden[0] if isinstance(hidden, tuple) else hidden)[:, -1])

    if kind == "pruned":  # in float32, since the plain attribute does not follow .double()
        model, tolerance = Last(), 1e-6
    else:
        model, tolerance = Last().double(), 1e-12
    inputs = normal(10, 5, 4).to(next(model.parameters()).dtype)
    objective = Objective(model, split(inputs, Y, size=4))
    theta = objective.theta + 0.2
    before = model.eval()(inputs)
    attribute = getattr(model.body, "weight", None)
    state = snapshot(model)
    found = objective.loss(theta)
    gradient = objective.gradient(theta)
    assert snapshot(model) == state
    assert getattr(model.body, "weight", None) is attribute
    other = Last().to(inputs.dtype)
    other.load_state_dict({**model.state_dict(), **objective.space.named(theta)})
    loss = F.cross_entropy(other.eval()(inputs), Y)
    assert found == pytest.approx(loss.item(), rel=tolerance)
    expected = torch.autograd.grad(loss, list(other.parameters()))
    torch.testing.assert_close(gradient, objective.space.flatten(expected))
    assert torch.equal(model(inputs), before)


def test_padded_transformer_has_one_loss_with_and_without_gradients():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, tokens, padding):
            # Pooling sees the padding, which the fast path fills with zeros.
            return self.head(self.body(tokens, src_key_padding_mask=padding).mean(1))

    model = Pooled().double()
    padding = torch.zeros(10, 5, dtype=torch.bool)
    padding[::2, 3:] = True
    objective = Objective(model, ((normal(10, 5, 4), padding), Y))
    with torch.enable_grad():  # which takes the slow path
        expected = F.cross_entropy(model.eval()(normal(10, 5, 4), padding), Y).item()
    assert objective.value == pytest.approx(expected, rel=1e-12)
    step = 1e-5 * normal(objective.space.size, seed=1)
    slope = objective.loss(objective.theta + step) - objective.loss(objective.theta - step)
    assert slope / 2 == pytest.approx((objective.gradient() @ step).item(), rel=1e-6)


# -- BatchNorm ------------------------------------------------------------------------------------


def normalised(theta, objective, model, statistics):
    """Logits of `network()` at theta with the given (mean, variance) for its BatchNorm."""
    w0, b0, gamma, beta, w1, b1 = objective.space.split(theta)
    hidden = X @ w0.T + b0
    mean, variance = statistics(hidden)
    hidden = (hidden - mean) / (variance + model[1].eps).sqrt() * gamma + beta
    return hidden.tanh() @ w1.T + b1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("size", [10, 8, 4])
def test_recalibrated_statistics_are_those_of_the_whole_data_at_theta(size, order):
    model = network()
    objective = Objective(model, split(X, Y, size=size)[::order], bn="recalibrate")
    for theta in (objective.theta, objective.theta + 0.5 * normal(objective.space.size, seed=9)):
        logits = normalised(theta, objective, model, lambda h: (h.mean(0), h.var(0)))
        assert objective.loss(theta) == pytest.approx(F.cross_entropy(logits, Y).item(), rel=1e-12)
        both = objective.losses(torch.stack([objective.theta, theta]))
        assert both[1].item() == pytest.approx(objective.loss(theta), rel=1e-12)
    buffers = objective.buffers_at(objective.theta)
    assert set(buffers) == {"1.running_mean", "1.running_var"}


def test_recalibrated_statistics_of_images_pool_over_space():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3)).double()
    images = 100 + normal(10, 2, 3, 3)  # a large mean would cancel in a sum of squares
    objective = Objective(model, split(images, Y, size=4), bn="recalibrate")
    buffers = objective.buffers_at(objective.theta)
    values = images.movedim(1, 0).flatten(1)
    torch.testing.assert_close(buffers["0.running_mean"], values.mean(1))
    torch.testing.assert_close(buffers["0.running_var"], values.var(1))


def test_batch_policy_normalises_by_each_batchs_own_statistics():
    model = network()
    objective = Objective(model, split(X, Y, size=5), bn="batch")

    def own(hidden):
        halves = hidden.split(5)
        mean = torch.cat([h.mean(0).expand_as(h) for h in halves])
        return mean, torch.cat([h.var(0, correction=0).expand_as(h) for h in halves])

    logits = normalised(objective.theta, objective, model, own)
    assert objective.value == pytest.approx(F.cross_entropy(logits, Y).item(), rel=1e-12)


def test_eval_policy_takes_the_running_statistics():
    model = network()
    objective = Objective(model, split(X, Y, size=3))
    running = model[1].running_mean, model[1].running_var
    logits = normalised(objective.theta, objective, model, lambda _: running)
    assert objective.value == pytest.approx(F.cross_entropy(logits, Y).item(), rel=1e-12)


@pytest.mark.parametrize("bn", ["batch", "recalibrate"])
def test_batch_statistics_of_one_example_are_refused(bn):
    with pytest.raises(RequestError, match="one example has no variance"):
        Objective(network(), split(X, Y, size=9), bn=bn)


def test_unknown_policy_gets_the_nearest():
    with pytest.raises(RequestError, match="Did you mean 'recalibrate'"):
        Objective(network(), (X, Y), bn="recalibrated")


# -- the user's model is never changed ------------------------------------------------------------


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("budget", [None, 0])
def test_construction_and_every_method_leave_everything_as_it_was(bn, budget):
    model = lived_in()
    loader = DataLoader(TensorDataset(X, Y), batch_size=5)
    before = snapshot(model)
    objective = Objective(model, loader, bn=bn, cache_bytes=budget)
    assert snapshot(model) == before
    for name, method in METHODS.items():
        method(objective)
        assert snapshot(model) == before, name


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "provenance"])
@pytest.mark.parametrize("place", ["forward", "loss"])
def test_exception_leaves_everything_as_it_was(bn, method, place):
    model = lived_in()
    armed = False

    def fail(*_):
        torch.rand(1), np.random.rand()  # noqa: NPY002
        if armed:
            raise KeyError("the user's own")

    model[2].register_forward_hook(fail if place == "forward" else lambda *_: None)
    objective = Objective(model, split(X, Y, size=5), bn=bn)
    if place == "loss":
        objective.loss_function.function.register_forward_pre_hook(fail)
    before = snapshot(model)
    armed = True
    with pytest.raises(KeyError, match="the user's own"):
        METHODS[method](objective)
    assert snapshot(model) == before


def test_construction_that_fails_leaves_everything_as_it_was():
    model = lived_in()
    model[2].register_forward_hook(lambda _, __, output: F.dropout(output))
    before = snapshot(model)
    with pytest.raises(RequestError, match="functional dropout"):
        Objective(model, (X, Y))
    assert snapshot(model) == before


def test_exception_kept_by_the_caller_does_not_set_the_generators_back_later():
    armed = False

    def fail(*_):
        if armed:
            raise KeyError

    model = network()
    model[2].register_forward_hook(fail)
    loader = DataLoader(TensorDataset(X, Y), batch_size=5)
    objective = Objective(model, loader, cache_bytes=0)
    armed = True
    with pytest.raises(KeyError) as kept:
        objective.loss()
    torch.rand(1)
    before = torch.get_rng_state()
    del kept
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("built_inside", [False, True])
def test_every_method_works_in_every_grad_mode(mode, bn, built_inside):
    model = lived_in()
    plain = Objective(model, split(X, Y, size=5), bn=bn)

    def build():
        return Objective(
            model, split(X, Y, size=5), nn.CrossEntropyLoss(weight=torch.ones(3).double()), bn=bn
        )

    with mode():
        objective = build() if built_inside else plain
        before = snapshot(model)
        gradient = objective.gradient()
        found = {name: method(objective) for name, method in METHODS.items()}
        assert snapshot(model) == before
    objective = build() if not built_inside else objective
    torch.testing.assert_close(gradient, plain.gradient())
    assert not gradient.is_inference()
    assert found["loss"] == pytest.approx(METHODS["loss"](objective), rel=1e-12)
    torch.testing.assert_close(objective.gradient(), gradient)
    assert not gradient.requires_grad


def test_model_that_was_built_in_inference_mode_is_measured():
    with torch.inference_mode():
        model, inputs = network(), X.clone()
    objective = Objective(model, (inputs, Y))
    torch.testing.assert_close(objective.gradient(), Objective(network(), (X, Y)).gradient())


def test_further_training_does_not_move_the_objective():
    model, inputs = network(), X.clone()
    objective = Objective(model, (inputs, Y))
    before = objective.loss(), objective.gradient(), objective.provenance()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    F.cross_entropy(model(inputs), Y).backward()
    optimizer.step()
    inputs.zero_()
    assert objective.loss() == before[0]
    assert torch.equal(objective.gradient(), before[1])
    assert objective.provenance() == before[2]


def test_theta_is_left_alone():
    objective = Objective(network(), split(X, Y, size=5), bn="batch")
    theta = objective.theta.clone().requires_grad_()
    for method in METHODS.values():
        method(objective)
    objective.loss(theta)
    objective.gradient(theta)
    assert torch.equal(theta, objective.theta)
    assert theta.grad is None


# -- requests -------------------------------------------------------------------------------------


def test_points_of_another_size_are_refused():
    objective = Objective(network(), (X, Y))
    with pytest.raises(RequestError, match=r"expected \(k, 39\)"):
        objective.losses(torch.zeros(2, 5))
    with pytest.raises(RequestError, match="expected"):
        objective.loss(torch.zeros(5))
    for method in ("gradient", "metrics", "per_example"):
        with pytest.raises(RequestError, match=r"expected \(39,\)"):
            getattr(objective, method)(torch.zeros(5))


def test_provenance_tells_parameters_data_and_loss_apart():
    model, other = network(), network()
    with torch.no_grad():
        other[1].running_mean += 1
    base = Objective(model, (X, Y)).provenance()
    assert base["num_examples"] == 10
    assert base["num_parameters"] == 39
    changed = {
        "parameters_fingerprint": Objective(other, (X, Y)),
        "data_fingerprint": Objective(model, (X + 1, Y)),
        "bn": Objective(model, (X, Y), bn="batch"),
        "parameters": Objective(model, (X, Y), params="!0"),
    }
    for key, objective in changed.items():
        assert objective.provenance()[key] != base[key], key
    assert Objective(network(), (X, Y)).provenance() == base


def test_another_policy_is_found_out_once_and_shares_nothing_that_changes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    inputs, targets = torch.randn(8, 3), torch.arange(8) % 2
    objective = Objective(model, (inputs, targets))
    batch = objective.under("batch")
    assert objective.under("batch") is batch
    assert batch.under("eval").value == objective.value
    assert batch.under("recalibrate").bn == "recalibrate"
    assert objective.bn == "eval"


def test_without_batch_norm_another_policy_costs_no_pass():
    model = nn.Linear(3, 2)
    objective = Objective(model, (torch.randn(8, 3), torch.arange(8) % 2))
    count = []
    handle = model.register_forward_hook(lambda *_: count.append(None))
    other = objective.under("recalibrate")
    assert other.value == objective.value
    assert other.buffers_at(objective.theta) is None
    handle.remove()
    assert not count
