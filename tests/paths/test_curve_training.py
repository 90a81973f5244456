"""CurveTraining: one step against plain autograd, many against the optimum in closed form."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, ConvNet, Transformer, cut, network, random_vectors
from torch import nn
from torch.func import functional_call

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.curve_state import BendState
from landscape.paths.curve_training import CurveTraining, learning_rate_factor
from landscape.paths.curves import straight_vertices
from landscape.paths.minibatches import Minibatches


def training_of(objective, vertices, **options):
    size = options.pop("batch_size", None)
    settings = {
        "kind": "bezier",
        "steps": 10,
        "learning_rate": 0.1,
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "strata": 3,
        "by_length": False,
        "seed": 0,
        "execution": "loop",
    } | options
    seed = settings["seed"]
    own = objective.under("batch") if objective.has_batch_norm else objective
    return CurveTraining(own, vertices=vertices, minibatches=Minibatches(objective, size, seed),
                         **settings)  # fmt: skip


def run(training, state=None):
    state = state or BendState.start(training.vertices[1:-1])
    stopped = training.run(state, lambda: None, None)
    return state, stopped


def objective_of(kind=MLP, num=12, **options):
    model, inputs, targets = network(kind, num=num)
    loss = options.pop("loss", "cross_entropy")
    if kind is Transformer:
        loss = nn.CrossEntropyLoss()
    return Objective(model, cut(inputs, targets, 5), loss, **options)


def vertices_of(objective, num_bends=2):
    ends = random_vectors(objective.space.size, 2, seed=3).T
    return straight_vertices(ends[0] / 2, ends[1] / 2, num_bends)


# -- one step against plain autograd --------------------------------------------------------------


def composed_gradient(training, objective, model, weight_decay=0.0):
    """Of the mean of L(phi(t)) over the points of the first step, by autograd through phi."""
    start = BendState.start(training.vertices[1:-1])
    weights, _ = training._points(start, 0)
    bends = start.bends.clone().requires_grad_()
    vertices = torch.cat([training.vertices[:1], bends, training.vertices[-1:]])
    total = torch.zeros((), dtype=torch.float64)
    model = model.train()  # BatchNorm by each batch
    batches = training.minibatches.batches(0, training.strata)
    for own, (x, y) in zip(weights, batches, strict=True):
        theta = sum(c * vertex for c, vertex in zip(own, vertices, strict=True))
        named = objective.space.named(theta)
        output = functional_call(model, named, (x,))
        total = total + F.cross_entropy(output.flatten(0, -2), y.flatten())
        total = total + weight_decay / 2 * theta.square().sum()
    mean = total / training.strata
    return float(mean.detach()), torch.autograd.grad(mean, bends)[0]


@pytest.mark.parametrize("execution", ["loop", "batched"])
@pytest.mark.parametrize("kind", ["bezier", "polygon"])
@pytest.mark.parametrize("network_kind", [MLP, ConvNet])
def test_a_step_goes_down_the_gradient_of_the_composition(network_kind, kind, execution):
    objective = objective_of(network_kind)
    training = training_of(
        objective, vertices_of(objective), kind=kind, steps=1, batch_size=4, execution=execution
    )
    model = network(network_kind, num=12)[0]
    loss, gradient = composed_gradient(training, objective, model)
    state, _ = run(training)
    moved = (training.vertices[1:-1] - state.bends) / training.learning_rate
    torch.testing.assert_close(moved, gradient, rtol=1e-9, atol=1e-11)
    assert state.losses == [pytest.approx(loss, rel=1e-12)]


def test_weight_decay_is_of_the_points_not_of_the_bends():
    objective = objective_of()
    training = training_of(objective, vertices_of(objective), steps=1, weight_decay=0.3)
    _, gradient = composed_gradient(training, objective, network(MLP)[0], 0.3)
    state, _ = run(training)
    moved = (training.vertices[1:-1] - state.bends) / training.learning_rate
    torch.testing.assert_close(moved, gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", ["weighted", "ignoring", "sum"])
def test_batches_of_an_epoch_estimate_the_loss_without_bias(loss):
    model, inputs, targets = network(MLP, num=12)
    targets = torch.cat([torch.zeros(6, dtype=torch.long), targets[6:]])
    if loss == "weighted":
        function = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64))
    else:
        function = nn.CrossEntropyLoss(reduction="sum" if loss == "sum" else "mean")
    if loss == "ignoring":
        targets[7:9] = -100
    objective = Objective(model, cut(inputs, targets, 5), function)
    ends = objective.theta.expand(3, -1)
    training = training_of(objective, ends, strata=4, steps=1, batch_size=3)
    state, _ = run(training)
    assert state.losses == [pytest.approx(objective.value, rel=1e-12)]


# -- many steps, against the optimum in closed form -----------------------------------------------


def quadratic(n=4, curved=True):
    """L = theta' H theta / 2 with minimum 0 at the origin; or no loss at all."""
    model = nn.Linear(n, 1, bias=False, dtype=torch.float64)
    inputs = random_vectors(8, n, seed=2) * curved
    targets = torch.zeros(8, 1, dtype=torch.float64)
    return Objective(model, (inputs, targets), "mse")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_bend_of_a_quadratic_bezier_comes_to_its_optimum(optimizer):
    # Stationary: E[c_1 c_0] w_0 + E[c_1^2] w_1 + E[c_1 c_2] w_2 = 0 with 1/10, 2/15, 1/10.
    objective = quadratic()
    ends = random_vectors(4, 2, seed=5).T
    training = training_of(
        objective,
        straight_vertices(*ends, 1),
        optimizer=optimizer,
        momentum=0.9,
        learning_rate=0.3 if optimizer == "sgd" else 0.05,
        steps=400,
        strata=16,
        execution="batched",
    )
    state, _ = run(training)
    torch.testing.assert_close(state.bends[0], -0.75 * ends.sum(0), rtol=0, atol=0.01)


def test_weight_decay_alone_pulls_the_curve_to_the_same_optimum():
    ends = random_vectors(4, 2, seed=5).T
    training = training_of(
        quadratic(curved=False), straight_vertices(*ends, 1), weight_decay=2.0, learning_rate=1.0,
        steps=200, strata=16, execution="batched",
    )  # fmt: skip
    state, _ = run(training)
    torch.testing.assert_close(state.bends[0], -0.75 * ends.sum(0), rtol=0, atol=0.01)


def test_the_corner_of_two_segments_comes_to_its_optimum():
    # Hats: E[c_1 c_0] = 1/12, E[c_1^2] = 1/3.
    ends = random_vectors(4, 2, seed=5).T
    training = training_of(
        quadratic(), straight_vertices(*ends, 1), kind="polygon", learning_rate=0.3, momentum=0.9,
        steps=400, strata=16, execution="batched",
    )  # fmt: skip
    state, _ = run(training)
    torch.testing.assert_close(state.bends[0], -0.25 * ends.sum(0), rtol=0, atol=0.01)


def test_strata_bring_down_the_spread_of_the_gradient():
    # The same number of points in all: 4 steps of 1, or 1 step of 4.
    objective = quadratic()
    vertices = straight_vertices(*random_vectors(4, 2, seed=5).T, 1)

    def spread(strata, steps):
        found = []
        for seed in range(40):
            training = training_of(objective, vertices, strata=strata, seed=seed)
            state, sums = BendState.start(vertices[1:-1]), 0.0
            for step in range(steps):
                weights, thetas = training._points(state, step)
                _, gradients = training._one_by_one(thetas, step)
                sums = sums + weights[:, 1] @ gradients / (strata * steps)
            found.append(sums)
        return float(torch.stack(found).var(0).sum())

    assert spread(4, 1) < spread(1, 4) / 2


# -- points ---------------------------------------------------------------------------------------


def test_each_stratum_has_one_point_and_steps_have_other_ones():
    objective = quadratic()
    vertices = straight_vertices(*random_vectors(4, 2).T, 1)
    training = training_of(objective, vertices, strata=5)
    state = BendState.start(vertices[1:-1])
    seen = []
    for step in range(30):
        weights, thetas = training._points(state, step)
        t = weights[:, 1:] @ torch.tensor([0.5, 1.0], dtype=torch.float64)
        assert (t * 5).floor().tolist() == [0, 1, 2, 3, 4]
        torch.testing.assert_close(thetas, weights @ vertices)
        seen.append(t)
    inside = torch.stack(seen) * 5 % 1
    assert float(inside.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 150))


def test_strata_of_length_are_equal_along_the_curve():
    vertices = torch.tensor([[0.0, 0, 0, 0], [3, 0, 0, 0], [4, 0, 0, 0]], dtype=torch.float64)
    training = training_of(quadratic(), vertices, kind="polygon", strata=4, by_length=True)
    for step in range(10):
        _, thetas = training._points(BendState.start(vertices[1:-1]), step)
        assert thetas[:, 0].floor().tolist() == [0, 1, 2, 3]


# -- executions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network_kind", [MLP, ConvNet])
def test_batched_steps_are_those_of_the_loop_but_for_rounding(network_kind):
    objective = objective_of(network_kind)
    training = training_of(objective, vertices_of(objective), batch_size=4, optimizer="adam",
                           momentum=0.9, learning_rate=0.01)  # fmt: skip
    one, _ = run(training)
    other, _ = run(replace(training, execution="batched"))
    torch.testing.assert_close(one.bends, other.bends, rtol=1e-9, atol=1e-11)
    assert one.losses == pytest.approx(other.losses, rel=1e-10)


@pytest.mark.parametrize(
    ("network_kind", "options", "expected"),
    [
        (MLP, {}, "batched"),
        (ConvNet, {}, "loop"),  # a batched convolution is a grouped one
        (MLP, {"strata": 1}, "loop"),
        (MLP, {"cache_bytes": 0}, "loop"),
    ],
)
def test_auto_takes_what_suits_the_network(network_kind, options, expected):
    own = {name: options.pop(name) for name in ("cache_bytes",) if name in options}
    objective = objective_of(network_kind, **own)
    training = training_of(objective, vertices_of(objective), execution="auto", steps=1, **options)
    run(training)
    assert training.execution == expected


class Unbatchable(nn.Module):
    """Decides by what it sees."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, inputs):
        output = self.head(inputs)
        return output if output.sum() > 0 else 2 * output


def test_auto_loops_over_what_cannot_be_batched():
    _, inputs, targets = network(MLP)
    objective = Objective(Unbatchable(), (inputs, targets))
    training = training_of(objective, vertices_of(objective), execution="auto", steps=2)
    state, _ = run(training)
    assert training.execution == "loop"
    assert len(state.losses) == 2


class Slow(nn.Module):
    """Says so when it is slow, as an operation without a batching rule does."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, inputs):
        if torch._C._functorch.is_batchedtensor(self.head.weight):
            warnings.warn("There is a performance drop", stacklevel=1)
        return self.head(inputs)


class Deviating(Slow):
    """Another function when it is batched."""

    def forward(self, inputs):
        is_batched = torch._C._functorch.is_batchedtensor(self.head.weight)
        return self.head(inputs) * (1.01 if is_batched else 1.0)


@pytest.mark.parametrize("kind", [Slow, Deviating])
def test_auto_loops_over_what_is_slow_or_wrong_when_batched(kind):
    _, inputs, targets = network(MLP)
    objective = Objective(kind(), (inputs, targets))
    training = training_of(objective, vertices_of(objective), execution="auto", steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(training)
    assert training.execution == "loop"


@pytest.mark.parametrize("execution", ["loop", "batched"])
def test_dropout_is_off(execution):
    _, inputs, targets = network(MLP)
    layers = nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)
    objective = Objective(nn.Sequential(*layers).double().train(), (inputs, targets))
    training = training_of(objective, objective.theta.expand(3, -1), steps=1, execution=execution)
    state, _ = run(training)
    assert state.losses == [pytest.approx(objective.value, rel=1e-12)]


def test_attention_is_trained_in_either_way():
    objective = objective_of(Transformer)
    training = training_of(objective, vertices_of(objective), execution="auto", steps=3)
    chosen, _ = run(training)
    looped, _ = run(training_of(objective, vertices_of(objective), steps=3))
    torch.testing.assert_close(chosen.bends, looped.bends, rtol=1e-9, atol=1e-11)


# -- the course of a training ---------------------------------------------------------------------


def test_the_rate_is_that_of_the_reference():
    factors = [learning_rate_factor(step, 100) for step in (0, 50, 70, 90, 99)]
    assert factors == [1.0, 1.0, pytest.approx(0.505), pytest.approx(0.01), 0.01]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_optimizers_are_those_of_torch(optimizer):
    objective = objective_of()
    training = training_of(
        objective, vertices_of(objective), optimizer=optimizer, momentum=0.8, learning_rate=0.05,
        steps=12,
    )  # fmt: skip
    state, _ = run(training)
    bends = nn.Parameter(training.vertices[1:-1].clone())
    if optimizer == "sgd":
        theirs = torch.optim.SGD([bends], lr=0.05, momentum=0.8)
    else:
        theirs = torch.optim.Adam([bends], lr=0.05, betas=(0.8, 0.999))
    for step in range(12):
        at = BendState.start(bends.detach())
        weights, thetas = training._points(at, step)
        with training.objective.evaluation():
            _, gradients = training._one_by_one(thetas, step)
        bends.grad = weights[:, 1:-1].T @ gradients / training.strata
        theirs.param_groups[0]["lr"] = 0.05 * learning_rate_factor(step, 12)
        theirs.step()
    torch.testing.assert_close(state.bends, bends.detach(), rtol=1e-9, atol=1e-11)


class Overflowing(nn.Module):
    """exp(w^2 x): beyond |w| = 26.6 or so there is no number."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs):
        return torch.exp(self.w.square() * inputs)


def overflowing(learning_rate, **options):
    inputs = torch.ones(4, 1, dtype=torch.float64)
    objective = Objective(Overflowing(), (inputs, 0 * inputs), "mse")
    vertices = torch.tensor([[-1.0], [0.5], [1.0]], dtype=torch.float64)
    return training_of(objective, vertices, learning_rate=learning_rate, **options)


def test_a_loss_that_overflows_stops_and_keeps_the_best_bends():
    training = overflowing(30.0, steps=30)
    state, stopped = run(training)
    assert "stopped at step" in stopped
    assert "not finite" in stopped
    assert torch.equal(state.bends, training.vertices[1:-1])  # it never came far
    assert all(map(math.isfinite, state.losses))


def test_the_best_bends_are_those_of_the_least_mean_loss_so_far():
    training = overflowing(0.01, steps=60)
    calm, stopped = run(training)
    assert not stopped
    assert calm.best_loss == pytest.approx(sum(calm.losses[40:]) / 20)
    assert torch.equal(calm.best, calm.bends)
    # Steps that go up are no better.
    up = replace(calm, losses=[*calm.losses[:40], *[1e9] * 19], best=calm.best + 1)
    later, _ = run(replace(training), up)
    assert torch.equal(later.best, calm.best + 1)
    # Thrown far off, it stops, and goes back to what it had.
    start = replace(calm, bends=calm.bends + 40, losses=calm.losses[:45])
    off, stopped = run(replace(training), start)
    assert stopped.startswith("stopped at step 46 of 60")
    assert torch.equal(off.bends, calm.best)


def test_a_loss_without_gradient_is_refused():
    _, inputs, targets = network(MLP)
    model = nn.Linear(4, 3, dtype=torch.float64)

    def detached(output, target):
        return F.cross_entropy(output, target).detach()

    objective = Objective(model, (inputs, targets), detached)
    for execution in ("loop", "batched"):
        with pytest.raises(RequestError, match="carries no gradient"):
            run(training_of(objective, vertices_of(objective), batch_size=5, execution=execution))
