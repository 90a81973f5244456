"""fit_curve: curves that beat the straight line, the same on each run, the model left alone."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, ConvNet, cut, half_squared_error, network, random_vectors
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths import curve_fit, curve_training
from landscape.paths.curve_fit import CurveOptions, fit_curve
from landscape.trainers.data.bundled import digits
from landscape.trainers.models.convolutional import cnn
from landscape.trainers.models.perceptron import mlp

FEW = {"steps": 12, "batch_size": 4, "strata": 2}


def objective_of(kind=MLP, **options):
    model, inputs, targets = network(kind, num=12)
    return Objective(model, cut(inputs, targets, 5), **options)


def ends_of(objective, seed=4):
    return random_vectors(objective.space.size, 2, seed=seed).T / 3


def same(one, other):
    assert torch.equal(one.vertices, other.vertices)
    assert one.training_losses.tobytes() == other.training_losses.tobytes()
    assert one.losses.tobytes() == other.losses.tobytes()


# -- what it is for -------------------------------------------------------------------------------


def trained(make, seed, num_epochs):
    inputs, targets = digits("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().train()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(num_epochs):
            for rows in torch.randperm(len(inputs)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
                optimizer.step()
    return model.eval(), inputs, targets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "num_epochs", "options"),
    [
        (lambda: mlp(64, (64, 64)), 20, None),
        (lambda: mlp(64, (64, 64), norm="batch"), 20, None),
        (lambda: mlp(64, (32, 32, 32), activation="tanh"), 20, None),
        (lambda: cnn(width=8), 6, CurveOptions(steps=200)),
    ],
    ids=["mlp", "batch norm", "deep tanh", "cnn"],
)
@pytest.mark.parametrize("kind", ["bezier", "polygon"])
def test_between_digits_classifiers_a_curve_leaves_a_twentieth_of_the_barrier(
    make, num_epochs, options, kind
):
    (first, inputs, targets), (second, _, _) = (trained(make, s, num_epochs) for s in (0, 1))
    objective = Objective(first, (inputs, targets), batch_size=256)
    other = nn.utils.parameters_to_vector(second.parameters()).detach()
    found = fit_curve(objective, objective.theta, other, kind, 31, options=options)
    line = found.straight["loss"].heights["chord"].value
    assert found.status == "converged"
    assert line > 0.05  # there is something to go around
    assert found.excess <= 0.05 * line


def test_a_curve_beats_the_line_between_permuted_copies():
    # The same function twice: the barrier is of the path alone.
    model, inputs, _ = network(MLP, num=40)
    targets = (inputs @ random_vectors(4, 3, seed=8)).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    order = torch.tensor([1, 2, 3, 4, 0])
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in (copied.hidden.weight, copied.hidden.bias):
            parameter.copy_(parameter[order])
        copied.head.weight.copy_(copied.head.weight[:, order])
    objective = Objective(model, (inputs, targets))
    other = nn.utils.parameters_to_vector(copied.parameters()).detach()
    found = fit_curve(objective, objective.theta, other, num=21, options=CurveOptions(steps=200))
    assert found.losses[0] == pytest.approx(found.losses[-1], rel=1e-9)
    line = found.straight["loss"].heights["chord"].value
    assert line > 0.2
    assert found.excess < 0.05 * line
    assert found.training_losses[-20:].mean() < 0.2 * found.training_losses[:20].mean()


def test_it_works_without_an_argument_to_tune_in_any_order_of_the_curve():
    objective = objective_of()
    for num_bends in (1, 2, 4):
        for kind in ("bezier", "polygon"):
            options = CurveOptions(steps=40)
            found = fit_curve(
                objective, *ends_of(objective), kind, 9, num_bends=num_bends, options=options
            )
            assert found.vertices.shape == (num_bends + 2, objective.space.size)
            assert found.integral() < np.trapezoid(found.straight["loss"].values, found.t)


# -- what must stay -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bezier", "polygon"])
def test_the_ends_stay_bit_for_bit(kind):
    objective = objective_of(ConvNet)
    a, b = ends_of(objective)
    found = fit_curve(objective, a, b, kind, 5, options=CurveOptions(**FEW))
    assert torch.equal(found.point(0.0), a)
    assert torch.equal(found.point(1.0), b)
    ends = objective.under("recalibrate").losses(torch.stack([a, b]))
    np.testing.assert_allclose(found.losses[[0, -1]], ends, rtol=1e-9)


@pytest.mark.parametrize("network_kind", [MLP, ConvNet])
def test_identical_ends_stay_flat(network_kind):
    objective = objective_of(network_kind)
    found = fit_curve(objective, objective.theta, objective.theta, num=5,
                      options=CurveOptions(**FEW))  # fmt: skip
    assert torch.equal(found.vertices, objective.theta.expand(3, -1))
    assert (found.losses == found.losses[0]).all()
    assert found.excess == 0


def test_swapped_ends_come_to_the_same_curve():
    objective = linear_regression()
    a, b = ends_of(objective)
    options = CurveOptions(steps=400, strata=16)
    there = fit_curve(objective, a, b, options=options)
    back = fit_curve(objective, b, a, options=options)
    torch.testing.assert_close(there.vertices, back.vertices.flip(0), rtol=0, atol=1e-2)
    np.testing.assert_allclose(there.losses, back.losses[::-1], rtol=0, atol=1e-2)


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_model_and_the_generators_are_as_they_were(is_interrupted):
    model, inputs, targets = network(ConvNet, num=12)
    model.train()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    objective = Objective(model, cut(inputs, targets, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    def stop(done, steps, message):
        if is_interrupted and done == 5:
            raise KeyboardInterrupt

    try:
        fit_curve(objective, *ends_of(objective), num=5, options=CurveOptions(**FEW, progress=stop))
    except KeyboardInterrupt:
        assert is_interrupted
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for module, held in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == held.keys()
        assert module.training
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_a_seed_makes_the_curve_and_another_one_another():
    objective = objective_of()
    ends = ends_of(objective)
    one, again, other = (
        fit_curve(objective, *ends, num=5, options=CurveOptions(**FEW, seed=seed))
        for seed in (1, 1, 2)
    )
    same(one, again)
    assert not torch.equal(one.vertices, other.vertices)


def test_the_policy_of_the_measurement_does_not_touch_the_fit():
    objective = objective_of(ConvNet)
    ends = ends_of(objective)
    options = CurveOptions(**FEW)
    own, eval_ = (fit_curve(objective, *ends, num=5, bn=bn, options=options)
                  for bn in ("recalibrate", "eval"))  # fmt: skip
    batch = fit_curve(objective.under("batch"), *ends, num=5, options=options)
    for other in (eval_, batch):
        assert torch.equal(own.vertices, other.vertices)
    assert own.losses[2] != eval_.losses[2]


def test_steps_start_from_given_bends():
    objective = objective_of()
    bends = random_vectors(objective.space.size, 2, seed=9).T.contiguous()
    found = fit_curve(objective, *ends_of(objective), num=5, num_bends=2, init=bends,
                      options=CurveOptions(steps=0))  # fmt: skip
    assert torch.equal(found.vertices[1:-1], bends)
    assert len(found.training_losses) == 0


def test_without_a_rate_a_tenth_of_the_distance_of_a_coordinate():
    objective = objective_of()
    a, b = ends_of(objective)
    found = fit_curve(objective, a, b, num=5, options=CurveOptions(steps=1))
    expected = float((b - a).square().mean().sqrt()) / 10
    assert found.settings["learning_rate"] == pytest.approx(expected)
    # Adam's first step is as long as its rate, along every coordinate.
    moved = (found.vertices[1] - (a + b) / 2).abs()
    assert float(moved.median()) == pytest.approx(expected, rel=1e-3)


def linear_regression():
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    inputs = random_vectors(8, 4, seed=2)
    return Objective(model, (inputs, torch.zeros(8, 1, dtype=torch.float64)), "mse")


def test_a_loss_that_is_not_finite_is_a_status_and_not_an_error():
    objective = linear_regression()
    options = CurveOptions(steps=50, optimizer="sgd", learning_rate=1e200)
    found = fit_curve(objective, *ends_of(objective), num=5, options=options)
    assert found.status.startswith("stopped at step")
    assert found.vertices.isfinite().all()
    assert np.isfinite(found.losses).all()
    assert len(found.training_losses) < 50


def test_a_fit_that_flies_off_to_finite_losses_says_so():
    objective = objective_of()  # its units saturate
    options = CurveOptions(steps=30, optimizer="sgd", learning_rate=1e5)
    found = fit_curve(objective, *ends_of(objective), num=5, options=options)
    assert np.isfinite(found.losses).all()
    assert "rises higher than the straight line" in found.status


# -- going on after a kill ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network_kind", "more", "of_objective"),
    [
        (MLP, {}, {}),
        (MLP, {"optimizer": "sgd", "learning_rate": 0.1}, {}),
        (MLP, {"uniform_in": "length"}, {}),
        (ConvNet, {}, {}),
        (MLP, {"batch_size": None}, {"cache_bytes": 0}),
    ],
    ids=["adam", "sgd", "by length", "batch norm", "streamed"],
)
@pytest.mark.parametrize("at", [1, 7, 12])
def test_an_interrupted_fit_goes_on_to_the_same_curve(
    tmp_path, monkeypatch, network_kind, more, of_objective, at
):
    monkeypatch.setattr(curve_training, "_SECONDS", -1.0)
    objective = objective_of(network_kind, **of_objective)
    ends = ends_of(objective)
    whole = fit_curve(objective, *ends, num=5, options=CurveOptions(**(FEW | more)))
    path = tmp_path / "new" / "curve.state"
    seen = []

    def stop(done, steps, message):
        seen.append(done)
        if done == at and len(seen) == at:
            raise KeyboardInterrupt

    options = CurveOptions(**(FEW | more), state=path, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        fit_curve(objective, *ends, num=5, options=options)
    assert path.exists()
    same(fit_curve(objective, *ends, num=5, options=options), whole)
    assert seen == list(range(1, 13))  # no step was taken twice
    assert not path.exists()


def test_a_kill_while_it_is_measured_costs_no_step(tmp_path, monkeypatch):
    objective = objective_of()
    ends, seen = ends_of(objective), []
    whole = fit_curve(objective, *ends, num=5, options=CurveOptions(**FEW))
    options = CurveOptions(
        **FEW, state=tmp_path / "s", progress=lambda done, steps, message: seen.append(done)
    )

    def killed(*arguments, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(curve_fit, "curve", killed)
        with pytest.raises(KeyboardInterrupt):
            fit_curve(objective, *ends, num=5, options=options)
    same(fit_curve(objective, *ends, num=5, options=options), whole)
    assert seen == list(range(1, 13))


def test_a_state_of_another_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(curve_training, "_SECONDS", -1.0)
    objective = objective_of()
    a, b = ends_of(objective)
    path = tmp_path / "curve.state"

    def stop(done, steps, message):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_curve(objective, a, b, options=CurveOptions(**FEW, state=path, progress=stop))
    kept = path.read_bytes()
    for other, more in (((b, a), {}), ((a, b), {"seed": 1}), ((a, b), {"weight_decay": 0.1})):
        with pytest.raises(RequestError, match="belongs to another curve"):
            fit_curve(objective, *other, options=CurveOptions(**FEW, **more, state=path))
    assert path.read_bytes() == kept


# -- requests -------------------------------------------------------------------------------------


def test_data_that_cannot_be_drawn_from_are_said():
    objective = objective_of(cache_bytes=0)
    found = fit_curve(objective, *ends_of(objective), num=5, options=CurveOptions(steps=3))
    assert any("own batches, in their order" in note for note in found.notes)
    assert found.settings["execution"] == "loop"


def test_losses_of_whole_batches_are_fitted_in_them():
    model = nn.Linear(4, 2, dtype=torch.float64)
    inputs, targets = random_vectors(10, 4), random_vectors(10, 2, seed=3)
    objective = Objective(model, cut(inputs, targets, 5), half_squared_error)
    found = fit_curve(objective, *ends_of(objective), num=5, options=CurveOptions(steps=30))
    assert found.training_losses[-1] < found.training_losses[0]
    assert np.isnan(found.excess_error)
    assert found.status == "converged"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"strata": 0}, "strata is 0"),
        ({"optimizer": "adamw"}, "Did you mean 'adam'"),
        ({"optimizer": "sgd"}, "give learning_rate, such as"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
        ({"uniform_in": "arc"}, "unknown uniform_in 'arc'"),
        ({"execution": "compiled"}, "unknown execution"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(RequestError, match=words):
        CurveOptions(**options)


def test_what_does_not_fit_the_objective_is_refused_before_the_first_step():
    objective = objective_of()
    a, b = ends_of(objective)

    def never(done, steps, message):
        raise AssertionError

    options = CurveOptions(progress=never)
    for words, arguments, more in (
        ("expected", (a[:5], b), {}),
        ("the end b is not finite", (a, b * float("nan")), {}),
        ("1 bend or more", (a, b), {"num_bends": 0}),
        ("a row for each bend", (a, b), {"init": torch.zeros(2, 43)}),
        ("a row for each bend", (a, b), {"init": torch.full((1, 43), float("inf"))}),
        ("unknown kind of curve", (a, b, "spline"), {}),
        ("num is 2", (a, b, "bezier", 2), {}),
        ("unknown BatchNorm policy", (a, b), {"bn": "interpolate"}),
        ("the data 'test' belong to", (a, b), {"also": {"test": linear_regression()}}),
    ):
        with pytest.raises(RequestError, match=words):
            fit_curve(objective, *arguments, **more, options=options)


def test_batchnorm_needs_more_than_one_example_in_a_batch():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    _, inputs, targets = network(MLP)
    objective = Objective(model, (inputs, targets))
    with pytest.raises(RequestError, match="a batch of one example has no variance"):
        fit_curve(objective, *ends_of(objective), options=CurveOptions(batch_size=1))
