"""Measures: standard errors from paired differences, classes, metrics, penalties, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, Transformer, cut, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.evaluation import Evaluator
from landscape.slices.execution import Execution
from landscape.slices.measures import Measures, subset_error

MODES = [Execution(), Execution("batched", 3)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


model, inputs, labels = network(MLP, num=30)
batches = cut(inputs, labels, 7)


def chart_of(objective, k=1):
    return Chart(objective.theta, 0.5 * normal(k, objective.space.size, seed=5))


def measured(
    objective, fields=("loss",), *, points=None, execution=MODES[0], chart=None, **options
):
    chart = chart or chart_of(objective)
    if points is None:
        points = normal(5, chart.num_axes, seed=6)
    measures = Measures(objective, fields, **options)
    return Evaluator(objective, chart, measures, execution).values(points)


def elements(objective, theta):
    """Weighted losses and weights of all elements, examples first, by the loss alone."""
    with objective.evaluation(), torch.no_grad():
        terms = [objective.term(objective.space.split(theta), b) for b in objective.batches]
    return torch.cat([t.losses for t in terms]), torch.cat([t.weights for t in terms])


def by_example(values):
    return values.reshape(len(values), -1).sum(1)


# -- the standard error ---------------------------------------------------------------------------


class Constant(nn.Module):
    """The same output for every example: its one weight."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs):
        return inputs * self.w


@pytest.mark.parametrize("execution", MODES, ids=str)
@pytest.mark.parametrize("size", [3, 2, 1])
def test_standard_error_of_three_examples_is_the_one_worked_out_by_hand(size, execution):
    # (w - t)^2 from w = 0 to w = 1 changes by 1 - 2t: by 1, 2 and 6, whose variance is 7.
    targets = torch.tensor([[0.0], [-0.5], [-2.5]]).double()
    ones = torch.ones(3, 1).double()
    objective = Objective(Constant(), (ones, targets), "mse", batch_size=size)
    chart = Chart(objective.theta, torch.ones(1, 1).double())
    points = torch.tensor([[1.0], [0.0], [-1.0]]).double()
    found = measured(objective, points=points, execution=execution, chart=chart)
    assert found["standard_error"][0] == pytest.approx(math.sqrt(7 / 3), rel=1e-14)
    assert found["standard_error"][1] == 0.0  # at the center every difference is 0
    # There by 1 + 2t: 1, 0, -4, of variance 7, too.
    assert found["standard_error"][2] == pytest.approx(math.sqrt(7 / 3), rel=1e-14)
    runs = Evaluator(objective, chart, Measures(objective), execution)
    assert runs.center.loss == pytest.approx((0.25 + 6.25) / 3, rel=1e-14)
    # t^2 = 0, 1/4, 25/4: their variance is 12.52083.
    assert runs.center.standard_error == pytest.approx(math.sqrt(601 / 48 / 3), rel=1e-14)


def with_class_weights():
    weights = torch.tensor([0.2, 1.0, 3.0]).double()
    left_out = torch.where(torch.arange(30) % 4 == 0, -100, labels)
    return Objective(model, cut(inputs, left_out, 7), nn.CrossEntropyLoss(weight=weights))


def with_tokens():
    net, tokens, targets = network(Transformer, num=12)
    targets[:3, 1:] = -100  # sequences of different lengths
    return Objective(net, cut(tokens, targets, 5))


PAIRED = {
    "examples": lambda: Objective(model, batches),
    "class weights, labels left out": with_class_weights,
    "tokens of sequences of different lengths": with_tokens,
    "several outputs": lambda: Objective(model, cut(inputs, normal(30, 3), 7), "mse"),
    "a user's value an example": lambda: Objective(
        model, batches, lambda o, t: F.cross_entropy(o, t, reduction="none")
    ),
    "a sum": lambda: Objective(model, batches, nn.CrossEntropyLoss(reduction="sum")),
}


@pytest.mark.parametrize("execution", MODES, ids=str)
@pytest.mark.parametrize("build", PAIRED.values(), ids=list(PAIRED))
def test_standard_error_is_that_of_a_ratio_of_sums_over_examples(build, execution):
    objective = build()
    chart, points = chart_of(objective), normal(5, 1, seed=6)
    found = measured(objective, points=points, execution=execution, chart=chart)
    start, weights = map(by_example, elements(objective, chart.center))
    runs = Evaluator(objective, chart, Measures(objective), execution)
    count, total = (weights != 0).sum().item(), objective.total_weight
    for theta, error in zip(chart.thetas(points), found["standard_error"], strict=True):
        change = by_example(elements(objective, theta)[0]) - start
        ratio = change.sum() / weights.sum()
        spread = (change - weights * ratio).square().sum()
        assert error == pytest.approx(math.sqrt(count / (count - 1) * spread) / total, rel=1e-9)
    spread = (start - weights * start.sum() / weights.sum()).square().sum()
    own = math.sqrt(count / (count - 1) * spread) / total
    assert runs.center.standard_error == pytest.approx(own, rel=1e-12)


def test_standard_error_is_the_spread_over_resampled_data():
    objective = with_class_weights()
    chart, points = chart_of(objective), normal(1, 1, seed=6)
    error = measured(objective, points=points, chart=chart)["standard_error"][0]
    start, weights = elements(objective, chart.center)
    change = (elements(objective, chart.thetas(points)[0])[0] - start).numpy()
    drawn = np.random.default_rng(0).integers(0, len(change), (4000, len(change)))
    spread = (change[drawn].sum(1) / weights.numpy()[drawn].sum(1)).std()
    assert error == pytest.approx(spread, rel=0.15)  # the linearised error, of 30 examples


def test_paired_errors_are_far_below_those_of_the_two_losses():
    objective = Objective(model, batches)
    chart = chart_of(objective)
    runs = Evaluator(objective, chart, Measures(objective), MODES[0])
    near = runs.values(torch.tensor([[0.01]], dtype=torch.float64))
    assert near["standard_error"][0] < 0.05 * runs.center.standard_error


UNPAIRED = {
    "a batch's mean": lambda output, target: F.cross_entropy(output, target),
    "a batch's sum and weight": lambda output, target: (
        F.cross_entropy(output, target, reduction="sum"),
        len(target),
    ),
    "a loss of the model": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
}


@pytest.mark.parametrize("loss", UNPAIRED.values(), ids=list(UNPAIRED))
def test_losses_that_do_not_tell_examples_apart_have_no_error(loss):
    objective = Objective(model, batches, loss)
    found = measured(objective)
    assert np.isnan(found["standard_error"]).all()
    runs = Evaluator(objective, chart_of(objective), Measures(objective), MODES[0])
    assert math.isnan(runs.center.standard_error)
    assert runs.center.loss == pytest.approx(objective.value, rel=1e-13)


def test_one_example_has_no_error():
    objective = Objective(model, (inputs[:1], labels[:1]))
    assert np.isnan(measured(objective)["standard_error"]).all()


def test_examples_seen_out_of_all_leave_this_error():
    assert subset_error(0.3, 50, 50) == 0.0
    assert subset_error(0.3, 25, 100) == pytest.approx(0.3 * math.sqrt(0.75))


@pytest.mark.slow
def test_errors_cover_the_truth_as_often_as_they_say():
    # y = w x + noise: the loss of any theta over all data is known, |theta - w|^2 + 1.
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([[1.0, -2.0, 0.5]]).double()
    net = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(truth + 0.2)
    direction = torch.tensor([[0.4, 0.1, -0.3]]).double()
    wanted = ((0.2 + direction) ** 2).sum() - 3 * 0.04
    scores = []
    for _ in range(200):
        x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
        y = x @ truth.T + torch.randn(60, 1, generator=generator, dtype=torch.float64)
        objective = Objective(net, (x, y), "mse")
        chart = Chart(objective.theta, direction)
        runs = Evaluator(objective, chart, Measures(objective), MODES[0])
        found = runs.values(torch.ones(1, 1).double())
        change = found["loss"][0] - runs.center.loss - float(wanted)
        own = runs.center.loss - (3 * 0.04 + 1)
        scores.append((change / found["standard_error"][0], own / runs.center.standard_error))
    for score in np.asarray(scores).T:
        within = (np.abs(score) < 2).mean()
        assert 0.90 < within < 0.99
        assert abs(score.mean()) < 4 / math.sqrt(200)


# -- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", MODES, ids=str)
@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0, 1.0]])
def test_classes_have_their_own_losses_and_accuracies(weights, execution):
    net = nn.Sequential(model, nn.Linear(3, 4).double())  # of four classes the data know three
    counted = torch.where(torch.arange(30) % 5 == 0, -100, labels)
    weight = None if weights is None else torch.tensor(weights).double()
    loss = nn.CrossEntropyLoss(weight=weight)
    objective = Objective(net, cut(inputs, counted, 7), loss)
    chart, points = chart_of(objective), normal(4, 1, seed=6)
    fields = ("loss", "accuracy", "class_loss", "class_accuracy")
    found = measured(objective, fields, points=points, execution=execution, chart=chart)
    for index, theta in enumerate(chart.thetas(points)):
        output = torch.func.functional_call(net, objective.space.named(theta), (inputs,)).detach()
        for label in range(3):
            own = counted == label
            mean = F.cross_entropy(output[own], counted[own])
            right = (output[own].argmax(1) == label).double().mean()
            assert found["class_loss"][index, label] == pytest.approx(mean.item(), rel=1e-12)
            assert found["class_accuracy"][index, label] == right.item()
        own = counted >= 0
        right = (output[own].argmax(1) == counted[own]).double().mean()
        assert found["accuracy"][index] == pytest.approx(right.item(), rel=1e-15)
    for name in ("class_loss", "class_accuracy"):
        assert found[name].shape == (4, 4)
        assert np.isnan(found[name][:, 3]).all()  # nobody is there: not 0


def test_tokens_have_classes_too():
    objective = with_tokens()
    chart, points = chart_of(objective), normal(2, 1, seed=6)
    found = measured(objective, ("class_loss", "class_accuracy"), points=points, chart=chart)
    target = torch.cat([batch[1] for batch in objective.batches]).flatten()
    for index, theta in enumerate(chart.thetas(points)):
        losses = elements(objective, theta)[0].flatten()
        means = [losses[target == label].mean().item() for label in range(3)]
        assert found["class_loss"][index].tolist() == pytest.approx(means, rel=1e-12)


def test_a_column_of_labels_has_classes_too():
    fields = ("accuracy", "class_loss", "class_accuracy")
    counted = torch.where(torch.arange(30) % 5 == 0, -100, labels)
    row = measured(Objective(model, cut(inputs, counted, 7)), fields)
    column = measured(Objective(model, cut(inputs, counted[:, None], 7)), fields)
    for name in fields:
        assert column[name].tolist() == row[name].tolist()


def test_a_class_that_is_lost_does_not_take_the_others_along():
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, inputs):
            return torch.cat([inputs * self.w, -inputs * self.w], dim=1)

    data = (torch.tensor([[1.0], [-1.0], [1.0]]).double(), torch.tensor([0, 1, 1]))
    objective = Objective(Overflowing(), data)
    chart = Chart(objective.theta, torch.ones(1, 1).double())
    far = torch.tensor([[1e308 * 1.5]], dtype=torch.float64)
    found = measured(objective, ("class_loss",), points=far, chart=chart)
    assert found["loss"][0] == math.inf
    assert found["class_loss"][0].tolist() == [0.0, math.inf]


# -- the user's own -------------------------------------------------------------------------------


def margin(output, target):
    others = output.masked_fill(F.one_hot(target, output.shape[1]).bool(), -math.inf)
    return output.gather(1, target[:, None])[:, 0] - others.amax(1)


METRICS = {
    "margin": margin,
    "mean_margin": lambda output, target: margin(output, target).mean(),
    "share": lambda output, target: margin(output, target) > 0,
    "single": lambda output, target: margin(output, target).float(),
}


@pytest.mark.parametrize("execution", MODES, ids=str)
def test_metrics_of_examples_or_batches_are_means_over_the_data(execution):
    objective = Objective(model, batches)
    chart, points = chart_of(objective), normal(4, 1, seed=6)
    found = measured(objective, points=points, execution=execution, chart=chart, metrics=METRICS)
    for index, theta in enumerate(chart.thetas(points)):
        output = torch.func.functional_call(model, objective.space.named(theta), (inputs,)).detach()
        exact = margin(output, labels)
        assert found["margin"][index] == pytest.approx(exact.mean().item(), rel=1e-12)
        assert found["mean_margin"][index] == pytest.approx(exact.mean().item(), rel=1e-12)
        assert found["share"][index] == pytest.approx((exact > 0).double().mean().item())
        assert found["single"][index] == pytest.approx(exact.mean().item(), rel=1e-6)


def test_a_metric_may_return_a_plain_number():
    objective = Objective(model, batches)
    metrics = {"half": lambda output, target: 0.5}
    assert measured(objective, metrics=metrics)["half"].tolist() == pytest.approx([0.5] * 5)


def test_the_penalty_stands_apart_from_the_loss():
    objective = Objective(model, batches)
    chart, points = chart_of(objective), normal(4, 1, seed=6)
    plain = measured(objective, points=points, chart=chart)

    def decay(theta):
        return 0.5 * 1e-2 * theta.square().sum()

    found = measured(objective, ("loss", "penalty"), points=points, chart=chart, penalty=decay)
    assert found["loss"].tolist() == plain["loss"].tolist()
    assert found["penalty"].tolist() == [float(decay(theta)) for theta in chart.thetas(points)]


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", MODES, ids=str)
@pytest.mark.parametrize("build", [PAIRED["examples"], with_class_weights, with_tokens])
def test_gradients_along_the_slice_are_those_of_autograd(build, execution):
    objective = build()
    chart, points = chart_of(objective, k=2), normal(4, 2, seed=6)
    fields = ("gradient_norm", "slope")
    found = measured(objective, fields, points=points, execution=execution, chart=chart)
    for index, theta in enumerate(chart.thetas(points)):
        gradient = objective.gradient(theta)
        assert found["gradient_norm"][index] == pytest.approx(gradient.norm().item(), rel=1e-12)
        slope = (chart.vectors @ gradient).tolist()
        assert found["slope"][index].tolist() == pytest.approx(slope, rel=1e-10, abs=1e-13)


def test_gradients_of_single_precision_are_added_up_in_double():
    net, x, y = network(MLP, dtype=torch.float32, num=60)
    objective = Objective(net, cut(x, y, 2))
    chart = Chart(objective.theta, normal(1, objective.space.size).float())
    found = measured(objective, ("gradient_norm",), chart=chart, points=torch.zeros(1, 1).double())
    parts = [Objective(net, batch).gradient().double() for batch in objective.batches]
    exact = torch.stack(parts).mean(0).norm().item()
    assert found["gradient_norm"][0] == pytest.approx(exact, rel=2e-8)


def test_the_slope_is_the_derivative_of_the_loss():
    objective = Objective(model, batches)
    chart = chart_of(objective, k=2)
    point, step = torch.tensor([[0.4, -0.7]]).double(), 1e-5
    around = torch.cat([point + step * sign * row for row in torch.eye(2) for sign in (1, -1)])
    losses = measured(objective, points=around, chart=chart)["loss"]
    slope = measured(objective, ("slope",), points=point, chart=chart)["slope"][0]
    assert slope[0] == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-7)
    assert slope[1] == pytest.approx((losses[2] - losses[3]) / (2 * step), rel=1e-7)


@pytest.mark.parametrize("bn", ["batch", "recalibrate"])
def test_gradients_take_the_statistics_of_the_policy(bn):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    objective = Objective(net, cut(inputs, labels, 10), bn=bn)
    chart, points = chart_of(objective), normal(2, 1, seed=6)
    runs = Evaluator(objective, chart, Measures(objective, ("slope",)), MODES[0], bn=bn)
    exact = [float(chart.vectors[0] @ objective.gradient(t)) for t in chart.thetas(points)]
    assert runs.values(points)["slope"][:, 0].tolist() == pytest.approx(exact, rel=1e-10)


# -- requests that cannot be met ------------------------------------------------------------------


def request(fields=("loss",), loss="cross_entropy", target=labels, **options):
    Measures(Objective(model, cut(inputs, target, 7), loss), fields, **options)


def whole_model(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


WRONG = {
    "misspelt": ({"fields": ("acuracy",)}, r"unknown field 'acuracy'.*Did you mean 'accuracy'"),
    "no penalty": ({"fields": ("penalty",)}, "give penalty=lambda theta"),
    "a field's name": ({"metrics": {"loss": margin}}, "'loss' has the name of a field"),
    "an axis's name": ({"metrics": {"a": margin}}, "'a' has the name of a field, an axis"),
    "an error's name": ({"metrics": {"subset_error": margin}}, "'subset_error' has the name"),
    "no classes": (
        {"fields": ("class_loss",), "loss": "mse", "target": normal(30, 3)},
        "'mse' has no classes to tell apart",
    ),
    "classes not apart": (
        {"fields": ("class_accuracy",), "loss": lambda o, t: F.cross_entropy(o, t)},
        "no classes to tell apart.*give 'cross_entropy'",
    ),
    "no output": (
        {"metrics": {"margin": margin}, "loss": whole_model},
        r"metrics take \(output, target\)",
    ),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=list(WRONG))
def test_what_cannot_be_measured_is_refused_in_words(options, words):
    with pytest.raises(RequestError, match=words):
        request(**options)


def test_a_loss_without_a_gradient_is_refused_in_words():
    detached = Objective(model, batches, lambda o, t: F.cross_entropy(o.detach(), t))
    with pytest.raises(RequestError, match=r"carries no gradient.*leave gradient_norm and slope"):
        measured(detached, ("slope",))


def test_accuracy_is_left_out_where_there_is_none():
    objective = Objective(model, cut(inputs, normal(30, 3), 7), "mse")
    assert "accuracy" not in measured(objective, ("loss", "accuracy"))
