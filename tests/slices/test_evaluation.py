"""Evaluation: BatchNorm by each policy, points left early, NaN, data that are read anew."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, ConvNet, cut, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.evaluation import Evaluator, Stop
from landscape.slices.execution import Execution
from landscape.slices.measures import Measures

LOOP = Execution()
MODES = [LOOP, Execution("batched", 3), Execution("batched", 64)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chart_of(objective, k=2, scale=0.3, steps=()):
    vectors = scale * normal(k, objective.space.size, seed=5)
    return Chart(objective.theta, vectors, tuple(steps))


def evaluator(objective, chart, execution=LOOP, fields=("loss", "accuracy"), **options):
    return Evaluator(objective, chart, Measures(objective, fields), execution, **options)


def values(objective, chart, coefficients, execution=LOOP, **options):
    return evaluator(objective, chart, execution, **options).values(coefficients)


# -- BatchNorm ------------------------------------------------------------------------------------


class TwoNorms(nn.Module):
    """Images through two BatchNorms, one without an affine part, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.head, self.last = nn.Linear(12, 3), nn.BatchNorm1d(3, affine=False, momentum=None)
        self.unused = nn.BatchNorm1d(2)

    def forward(self, images):
        hidden = F.avg_pool2d(torch.tanh(self.norm(self.conv(images))), 2)
        return self.last(self.head(hidden.flatten(1)))


def two_norms():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = TwoNorms().double()
        for norm in (net.norm, net.last):
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return net


_, images, labels = network(ConvNet, num=14)
batches = cut(images, labels, 5)  # 5, 5, 4


def moved(objective, theta):
    """A copy of the model at theta, by plain assignment."""
    other = copy.deepcopy(objective.model)
    with torch.no_grad():
        named = dict(other.named_parameters())
        for name, block in objective.space.named(theta).items():
            named[name].copy_(block)
    return other


def mean_loss(net):
    with torch.no_grad():
        return sum(F.cross_entropy(net(x), y, reduction="sum").item() for x, y in batches) / 14


def frozen(net):
    return mean_loss(net.eval())


def by_batch(net):
    return mean_loss(net.train())


def recalculated(net):
    """Statistics of all that enters a norm, in a pass in which each batch normalises itself."""
    seen = {}
    net.train()
    for norm in (net.norm, net.last):
        norm.register_forward_pre_hook(lambda m, x: seen.setdefault(m, []).append(x[0].detach()))
    with torch.no_grad():
        for x, _ in batches:
            net(x)
    for norm, parts in seen.items():
        inputs = torch.cat(parts).movedim(1, 0).flatten(1)
        norm.running_mean.copy_(inputs.mean(1))
        norm.running_var.copy_(inputs.var(1))
        norm._forward_pre_hooks.clear()
    return mean_loss(net.eval())


POLICIES = {"eval": frozen, "batch": by_batch, "recalibrate": recalculated}


@pytest.mark.parametrize("execution", MODES, ids=str)
@pytest.mark.parametrize("bn", POLICIES)
def test_batch_norm_is_what_a_plain_loop_over_copies_of_the_model_finds(bn, execution):
    objective = Objective(two_norms(), batches, bn=bn)
    chart, points = chart_of(objective), normal(5, 2, seed=6)
    runs = evaluator(objective, chart, execution, bn=bn)
    found = runs.values(points)["loss"]
    exact = [POLICIES[bn](moved(objective, theta)) for theta in chart.thetas(points)]
    assert found.tolist() == pytest.approx(exact, rel=1e-11)
    center = POLICIES[bn](moved(objective, objective.theta))
    assert runs.center.loss == pytest.approx(center, rel=1e-12)


@pytest.mark.parametrize("execution", MODES, ids=str)
def test_interpolated_buffers_are_what_a_plain_loop_over_copies_finds(execution):
    net, others = two_norms(), []
    objective = Objective(net, batches)
    own = dict(net.named_buffers())
    for seed in (1, 2):
        others.append(
            {
                name: held + 0.1 * normal(*held.shape, seed=seed).abs()
                for name, held in own.items()
                if held.is_floating_point()
            }
        )
    steps = [{name: other[name] - own[name] for name in other} for other in others]
    chart, points = chart_of(objective, steps=steps), normal(5, 2, seed=6).abs()
    exact = []
    for theta, (a, b) in zip(chart.thetas(points), points, strict=True):
        there = moved(objective, theta)
        for name, held in there.named_buffers():
            if held.is_floating_point():
                held.add_(a * steps[0][name] + b * steps[1][name])
        exact.append(frozen(there))
    found = values(objective, chart, points, execution, bn="interpolate")["loss"]
    assert found.tolist() == pytest.approx(exact, rel=1e-12)


def test_policies_differ_where_statistics_matter():
    objective = Objective(two_norms(), batches)
    chart, points = chart_of(objective), normal(1, 2, seed=6)
    losses = [values(objective.under(bn), chart, points, bn=bn)["loss"][0] for bn in POLICIES]
    assert len({round(loss, 6) for loss in losses}) == 3


def test_a_remainder_of_one_example_is_explained():
    objective = Objective(two_norms(), cut(images[:11], labels[:11], 5))
    with pytest.raises(RequestError, match="a batch of one example has no variance"):
        objective.under("batch")


# -- the user's model -----------------------------------------------------------------------------


def lived_in():
    """A model in mixed modes, with gradients, a frozen tensor, hooks and a forward of its own."""
    net = two_norms().train()
    F.cross_entropy(net(images), labels).backward()
    net.norm.eval()
    net.head.bias.requires_grad_(False)
    net.head.register_forward_hook(lambda *_: None)
    net.head.forward = net.head.forward
    return net


def snapshot(net):
    """Everything of a model and of the process that a measurement might leave changed."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    tensors = [*net.named_parameters(), *net.named_buffers()]
    return (
        [
            {
                name: (id(value), list(value) if isinstance(value, (dict, list, set)) else None)
                for name, value in vars(module).items()
            }
            for module in net.modules()
        ],
        [(n, id(t), t._version, t.requires_grad, t.detach().numpy().tobytes()) for n, t in tensors],
        [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in net.parameters()],
        [module.training for module in net.modules()],
        (random.getstate(), kind, keys.tobytes(), rest),
        bytes(torch.get_rng_state().numpy()),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    )


WAYS = [LOOP, Execution("batched", 2), Execution("loop", reuse=True), Execution("batched", 2, 3)]


@pytest.mark.parametrize("execution", WAYS, ids=str)
@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate", "interpolate"])
def test_the_model_is_left_as_it_was(bn, execution):
    net = lived_in()
    policy = "eval" if bn == "interpolate" else bn
    objective = Objective(net, batches, bn=policy)
    steps = [{"norm.running_mean": torch.ones(3).double()}, {}] if bn == "interpolate" else ()
    chart, points = chart_of(objective, steps=steps), normal(3, 2)
    if policy != "eval":
        execution = Execution(**(vars(execution) | {"batch_size": None}))
    before = snapshot(net)
    values(objective, chart, points, execution, fields=("loss", "slope"), bn=bn)
    assert snapshot(net) == before


@pytest.mark.parametrize("execution", WAYS, ids=str)
@pytest.mark.parametrize("calls", [0, 4, 7])
def test_the_model_is_left_as_it_was_after_an_error_in_the_middle(calls, execution):
    net = lived_in()
    objective = Objective(net, batches)
    left = [calls]

    def failing(output, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyError("in the middle")
        return output.sum(1)

    before = snapshot(net)
    measures = Measures(objective, metrics={"failing": failing})
    with pytest.raises(KeyError, match="in the middle"):
        Evaluator(objective, chart_of(objective), measures, execution).values(normal(30, 2))
    assert snapshot(net) == before


def test_everything_works_in_the_callers_inference_mode():
    net, fields = two_norms(), ("loss", "slope")
    objective = Objective(net, batches)
    outside = values(objective, chart_of(objective), normal(3, 2), fields=fields)
    with torch.inference_mode():
        objective = Objective(net, batches)
        inside = values(objective, chart_of(objective), normal(3, 2), fields=fields)
    for name, found in outside.items():
        assert inside[name].tolist() == found.tolist()


# -- NaN and infinity -----------------------------------------------------------------------------


class Root(nn.Module):
    """NaN where its first weight is negative, infinite where its second is huge."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, inputs):
        return inputs * self.w[0].sqrt() * torch.exp(self.w[1])


@pytest.mark.parametrize("fields", [("loss",), ("loss", "gradient_norm", "slope")])
@pytest.mark.parametrize("execution", MODES, ids=str)
def test_nan_and_infinity_stay_what_and_where_they_are(execution, fields):
    objective = Objective(Root(), (normal(9, 1), normal(9, 1, seed=1)), "mse", batch_size=4)
    chart = Chart(objective.theta, torch.eye(2).double())
    points = torch.tensor([[0.5, 0], [-2, 0], [0, 800], [-1, 0.0], [-2, 800]]).double()
    runs = evaluator(objective, chart, execution, fields)
    found = runs.values(points)
    assert np.isnan(found["loss"]).tolist() == [False, True, False, False, True]
    assert np.isposinf(found["loss"]).tolist() == [False, False, True, False, False]
    assert np.isnan(found["standard_error"]).tolist() == [False, True, True, False, True]
    for index in (0, 3):  # whoever shares a chunk with them is as it would be alone
        alone = runs.values(points[index : index + 1])
        for name in found:
            assert found[name][index].tolist() == pytest.approx(
                alone[name][0].tolist(), rel=1e-13, nan_ok=True
            )
    clipped = evaluator(objective, chart, execution, stop=Stop(clip=1e3)).values(points)
    assert np.isnan(clipped["loss"]).tolist() == [False, True, False, False, True]


# -- points left early ----------------------------------------------------------------------------


def sorted_by_class(num=1200, size=40, seed=0):
    """Two clouds, one after the other: the first batches know one class alone."""
    x = normal(num, 2, seed=seed)
    y = (torch.arange(num) >= num // 2).long()
    x[:, 0] += 2.0 * y - 1.0
    net = nn.Sequential(nn.Linear(2, 2).double())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-1.0, 0.2], [1.0, -0.2]]))
        net[0].bias.zero_()
    return Objective(net, cut(x, y, size))


def towards_one_class(objective):
    vector = torch.zeros(objective.space.size).double()
    vector[objective.space.slice_of("0.bias")] = torch.tensor([1.0, -1.0]).double()
    return Chart(objective.theta, vector[None])


POINTS = torch.tensor([[0.0], [0.3], [-1.0], [1.5]]).double()


@pytest.mark.parametrize("execution", [LOOP, Execution("batched", 3)], ids=str)
def test_a_point_is_left_once_its_error_is_small_and_says_so(execution):
    objective = sorted_by_class()
    chart = towards_one_class(objective)
    exact = objective.losses(chart.thetas(POINTS)).numpy()
    runs = evaluator(objective, chart, execution, stop=Stop(error=0.02))
    found = runs.values(POINTS)
    assert (found["subset_error"] < 0.02).all()
    assert (found["num_examples"] < 1200).all()
    assert (found["num_examples"] >= 30).all()
    assert (np.abs(found["loss"] - exact) <= 4 * found["subset_error"] + 1e-12).all()
    assert found["num_examples"][0] == 40  # at the center nothing is left to learn
    assert found["loss"][0] == pytest.approx(exact[0], rel=1e-13)
    assert runs.passes == pytest.approx(1 + found["num_examples"].sum() / 1200)
    # In the order of the data the first examples are of one class, and far off.
    first = Objective(objective.model, list(objective.batches)[:2])
    biased = first.losses(chart.thetas(POINTS)).numpy() - first.value + objective.value
    assert (np.abs(biased - exact)[2:] > 0.2).all()


def test_a_point_that_saw_everything_is_exact_and_has_no_subset_error():
    objective = sorted_by_class(num=200)
    chart = towards_one_class(objective)
    full = values(objective, chart, POINTS)
    found = values(objective, chart, POINTS[1:], stop=Stop(error=1e-9))
    assert found["num_examples"].tolist() == [200.0] * 3
    assert found["subset_error"].tolist() == [0.0] * 3
    assert found["loss"].tolist() == pytest.approx(full["loss"][1:].tolist(), rel=1e-13)
    assert found["accuracy"].tolist() == full["accuracy"][1:].tolist()
    assert found["standard_error"] == pytest.approx(full["standard_error"][1:], rel=1e-9)


def test_the_error_of_a_part_is_that_of_so_many_fresh_examples():
    objective = sorted_by_class()
    chart = towards_one_class(objective)
    found = values(objective, chart, POINTS[2:], stop=Stop(error=0.02))
    full = values(objective, chart, POINTS[2:])["standard_error"]
    share = found["num_examples"] / 1200
    assert found["subset_error"] == pytest.approx(found["standard_error"] * np.sqrt(1 - share))
    assert found["standard_error"] * np.sqrt(share) == pytest.approx(full, rel=0.25)


@pytest.mark.slow
def test_the_error_of_a_part_covers_the_whole_as_often_as_it_says():
    objective = sorted_by_class()
    chart = towards_one_class(objective)
    exact = objective.losses(chart.thetas(POINTS[1:])).numpy()
    scores = []
    for seed in range(200):
        found = values(objective, chart, POINTS[1:], stop=Stop(error=0.03, seed=seed))
        scores.append((found["loss"] - exact) / found["subset_error"])
    scores = np.asarray(scores)
    for column in scores.T:
        # Left where the error happens to look small: a little less than 95 %.
        assert 0.88 < (np.abs(column) < 2).mean() < 0.99
        assert abs(column.mean()) < 4 * column.std() / math.sqrt(200)  # unbiased


def test_the_order_is_the_seeds():
    objective = sorted_by_class()
    chart = towards_one_class(objective)
    one, again, other = (
        values(objective, chart, POINTS, stop=Stop(error=0.03, seed=seed)) for seed in (1, 1, 2)
    )
    assert one["loss"].tolist() == again["loss"].tolist()
    assert one["loss"].tolist() != other["loss"].tolist()


@pytest.mark.parametrize(("kept", "size"), [(200, 40), (3, 40), (3, 2)])
def test_examples_that_are_left_out_tell_nothing(kept, size):
    # Of three among 400, most batches of any order hold none: not even a weight to divide by.
    net, (x, y) = sorted_by_class(num=400, size=400).model, *sorted_by_class(400, 400).batches
    y = torch.where(torch.arange(400) % (400 // kept) == 0, y, -100)
    objective = Objective(net, cut(x, y, size))
    chart = towards_one_class(objective)
    exact = objective.losses(chart.thetas(POINTS)).numpy()
    found = values(objective, chart, POINTS, stop=Stop(error=0.05))
    assert (np.abs(found["loss"] - exact) <= 4 * found["subset_error"] + 1e-12).all()


@pytest.mark.parametrize(("every", "least"), [(1, 30), (4, 100)])
def test_an_error_is_believed_only_of_thirty_examples_that_count(every, least):
    net, (x, y) = sorted_by_class(num=400, size=400).model, *sorted_by_class(400, 400).batches
    y = torch.where(torch.arange(400) % every == 0, y, -100)
    objective = Objective(net, cut(x, y, 5))
    found = values(objective, towards_one_class(objective), POINTS, stop=Stop(error=1e3))
    assert (found["num_examples"] >= least).all()
    assert (found["num_examples"] <= 1.5 * least).all()


class Centered(nn.Module):
    """Subtracts the batch's mean: examples feel each other, and no BatchNorm says so."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, inputs):
        return self.head(inputs - inputs.mean(0))


def test_examples_that_feel_each_other_are_found_out():
    data = list(sorted_by_class(num=200).batches)
    objective = Objective(Centered().double(), data)
    chart = Chart(objective.theta, normal(1, objective.space.size))
    with pytest.raises(RequestError, match=r"lets the examples of a batch feel each other"):
        evaluator(objective, chart, stop=Stop(error=0.02))


def norm_net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()


NOT_SHUFFLED = {
    "a batch's mean": ({"loss": lambda o, t: F.cross_entropy(o, t)}, {}),
    "statistics of the batch": ({"bn": "batch"}, {"bn": "batch"}),
}


@pytest.mark.parametrize(("made", "run"), NOT_SHUFFLED.values(), ids=list(NOT_SHUFFLED))
def test_stop_error_needs_examples_that_stand_alone(made, run):
    objective = Objective(norm_net(), list(sorted_by_class(num=200).batches), **made)
    chart = Chart(objective.theta, normal(1, objective.space.size))
    with pytest.raises(RequestError, match="each must have a loss that does not depend on its nei"):
        evaluator(objective, chart, stop=Stop(error=0.02), **run)


def test_recalibrated_statistics_allow_to_leave_early():
    objective = Objective(norm_net(), list(sorted_by_class(num=800).batches), bn="recalibrate")
    chart = Chart(objective.theta, 0.3 * normal(1, objective.space.size, seed=2))
    found = values(objective, chart, POINTS, bn="recalibrate", stop=Stop(error=0.02))
    exact = objective.losses(chart.thetas(POINTS)).numpy()
    assert (found["num_examples"] < 800).any()
    assert (np.abs(found["loss"] - exact) <= 4 * found["subset_error"] + 1e-12).all()


# -- the clip -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 7, 200])
@pytest.mark.parametrize("execution", [*MODES, Execution("batched", 5, reuse=True)], ids=str)
def test_a_point_is_infinite_exactly_where_its_loss_is_beyond_the_clip(execution, size):
    objective = sorted_by_class(num=200, size=size)
    chart = towards_one_class(objective)
    points = torch.linspace(-6, 6, 41, dtype=torch.float64)[:, None]
    points = points[torch.randperm(41, generator=torch.Generator().manual_seed(0))]
    full = values(objective, chart, points, execution)
    clip = float(np.median(full["loss"]))  # of odd number: one point lies on it, not beyond
    runs = evaluator(objective, chart, execution, stop=Stop(clip=clip))
    found = runs.values(points)
    beyond = full["loss"] > clip
    assert 0 < beyond.sum() < 41
    assert np.isposinf(found["loss"]).tolist() == beyond.tolist()
    assert np.isnan(found["standard_error"]).tolist() == beyond.tolist()
    inside = ~beyond
    for name in ("loss", "standard_error", "accuracy"):
        assert found[name][inside] == pytest.approx(full[name][inside], rel=1e-12)
    assert runs.passes < 42 if size < 200 else runs.passes == 42


def test_fields_of_a_point_that_was_left_are_not_those_of_the_first_examples():
    objective = sorted_by_class(num=200)
    chart = towards_one_class(objective)
    points = torch.tensor([[-6.0], [0.2]]).double()
    fields = ("loss", "accuracy", "class_loss", "class_accuracy")
    found = values(objective, chart, points, fields=fields, stop=Stop(clip=1.0))
    for name in fields[1:]:
        assert np.isnan(found[name][0]).all()
        assert np.isfinite(found[name][1]).all()
    # In random order they stand for all, so they stay.
    shuffled = values(objective, chart, points, fields=fields, stop=Stop(clip=1.0, error=1e-3))
    assert np.isposinf(shuffled["loss"][0])
    assert np.isfinite(shuffled["accuracy"][0])


def clipped(loss, target, net=None):
    net = net or nn.Linear(2, 2).double()
    objective = Objective(net, cut(normal(12, 2), target, 5), loss)
    evaluator(objective, Chart(objective.theta, normal(1, objective.space.size)), stop=Stop(clip=9))


def mse(output, target):
    return (output - target).square().mean() - 1


class FocalLoss(nn.CrossEntropyLoss):
    def forward(self, output, target):
        return -super().forward(output, target)


classes = torch.arange(12) % 2
MAY_BE_NEGATIVE = {
    "a user's function, whatever its name": (mse, normal(12, 2)),
    "a user's value an example": (lambda o, t: -(o - t).square().mean(1), normal(12, 2)),
    "a subclass": (FocalLoss(), classes),
    "log likelihood of anything": (nn.NLLLoss(), classes),
    "binary beyond 1": ("bce", 1.5 * torch.ones(12, 2).double()),
    "probabilities below 0": ("cross_entropy", torch.tensor([[1.5, -0.5]] * 12).double()),
    "negative weights": (nn.CrossEntropyLoss(torch.tensor([1.0, -0.2]).double()), classes),
}


@pytest.mark.parametrize(("loss", "target"), MAY_BE_NEGATIVE.values(), ids=list(MAY_BE_NEGATIVE))
def test_a_clip_is_refused_where_a_later_example_could_bring_the_loss_down(loss, target):
    with pytest.raises(RequestError, match=r"may be negative for some examples. Leave clip out"):
        clipped(loss, target)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("cross_entropy", classes),
        ("cross_entropy", torch.softmax(normal(12, 2), 1)),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 0.2]).double(), label_smoothing=0.1), classes),
        (nn.CrossEntropyLoss(reduction="sum"), classes),
        ("mse", normal(12, 2)),
        ("bce", torch.rand(12, 2).double()),
        (nn.HuberLoss(), normal(12, 2)),
    ],
)
def test_a_clip_is_taken_where_losses_are_never_negative(loss, target):
    clipped(loss, target)


# -- data that are read anew ----------------------------------------------------------------------


class Reading:
    """A loader that counts how often it is read."""

    def __init__(self, batches):
        self.batches, self.count = batches, 0

    def __iter__(self):
        self.count += 1
        yield from self.batches


@pytest.mark.parametrize("execution", [*MODES, Execution("batched", 4, 3)], ids=str)
@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
def test_data_that_are_read_anew_give_the_same_bits(bn, execution):
    if bn != "eval":
        execution = Execution(**(vars(execution) | {"batch_size": None}))
    kept = Objective(two_norms(), batches, bn=bn)
    read = Objective(two_norms(), Reading(batches), bn=bn, cache_bytes=0)
    half = Objective(two_norms(), Reading(batches), bn=bn, cache_bytes=5000)
    assert (kept.batches.is_cached, read.batches.is_cached) == (True, False)
    chart, points = chart_of(kept), normal(9, 2)
    fields = ("loss", "accuracy", "class_loss", "gradient_norm")
    wanted = values(kept, chart, points, execution, fields=fields, bn=bn)
    for objective in (read, half):
        found = values(objective, chart, points, execution, fields=fields, bn=bn)
        for name, expected in wanted.items():
            assert found[name].tolist() == expected.tolist()


def test_many_points_take_one_pass_over_data_that_are_read_anew():
    loader = Reading(batches)
    objective = Objective(two_norms(), loader, cache_bytes=0)
    for execution, points_at_a_time in ((LOOP, 64), (Execution("batched", 4), 256)):
        runs = evaluator(objective, chart_of(objective), execution, fields=("loss", "slope"))
        assert runs.points_at_a_time == points_at_a_time
        before = loader.count
        runs.values(normal(40, 2))
        assert loader.count == before + 2  # one for the losses, one for the gradients


def test_points_over_data_that_are_read_anew_fit_into_memory(monkeypatch):
    objective = Objective(two_norms(), Reading(batches), cache_bytes=0)
    chart = chart_of(objective)
    room = 8 * 10 * chart.center.nbytes  # an eighth of it holds ten points
    monkeypatch.setattr("landscape.slices.evaluation.available_bytes", lambda _: room)
    assert evaluator(objective, chart).points_at_a_time == 10
    assert evaluator(objective, chart, Execution("batched", 4)).points_at_a_time == 8
    assert evaluator(objective, chart, Execution("batched", 64)).points_at_a_time == 64
    assert evaluator(objective, chart, fields=("slope",)).points_at_a_time == 5


def test_stop_error_needs_data_in_memory():
    net, inputs, targets = network(MLP)
    objective = Objective(net, Reading(cut(inputs, targets, 4)), cache_bytes=0)
    with pytest.raises(RequestError, match=r"must be in memory. Raise the objective's cache_bytes"):
        evaluator(objective, chart_of(objective), stop=Stop(error=0.1))


def test_a_pass_is_counted_for_each_point_and_one_for_the_center():
    objective = Objective(two_norms(), batches)
    runs = evaluator(objective, chart_of(objective), Execution("batched", 3))
    assert runs.passes == 1
    runs.values(normal(7, 2))
    assert runs.passes == pytest.approx(8)


def test_outputs_that_are_nan_have_no_accuracy():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))

        def forward(self, inputs):
            return (inputs @ self.weight.T).sqrt()

    inputs = torch.ones(4, 2, dtype=torch.float64)
    objective = Objective(Root(), (inputs, torch.zeros(4, dtype=torch.long)))
    chart = Chart(objective.theta, torch.ones(1, 6, dtype=torch.float64))
    measures = Measures(objective, ("loss", "accuracy", "class_accuracy"))
    evaluator = Evaluator(objective, chart, measures, Execution())
    found = evaluator.values(torch.tensor([[-2.0], [0.0], [1.0]], dtype=torch.float64))
    for name in ("loss", "accuracy"):
        assert np.isnan(found[name]).tolist() == [True, False, False], name
    assert np.isnan(found["class_accuracy"][0]).all()
    assert found["class_accuracy"][1:, 0].tolist() == [1.0, 1.0]
