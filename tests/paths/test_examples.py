"""Losses and errors of every example along a path, against plain loops."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.examples import PathEvaluator, joined
from landscape.paths.vertices import Vertices, line_weights
from landscape.slices.execution import Execution

ALPHAS = torch.linspace(0, 1, 5, dtype=torch.float64)
EXECUTIONS = [
    "auto",
    Execution(),
    Execution("batched", 2),
    Execution("batched", 5, 4),
    Execution("loop", 1, 3, channels_last=True),
    Execution("loop", reuse=True),
]


def network(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]
    model = nn.Sequential(*layers).double()
    model.train()
    model(torch.randn(40, 1, 4, 4, dtype=torch.float64) + seed)
    return model.eval()


def data(seed=0, num=11):
    torch.manual_seed(100 + seed)
    return torch.randn(num, 1, 4, 4, dtype=torch.float64), torch.randint(0, 3, (num,))


def batches(seed=0, num=11, size=4):
    inputs, targets = data(seed, num)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


@pytest.fixture
def objective():
    return Objective(network(), batches(), "cross_entropy")


def other(objective):
    return objective.space.flatten(dict(network(1).named_parameters()))


def evaluated(objective, bn, execution="auto", **kwargs):
    buffers = [dict(network(seed).named_buffers()) for seed in (0, 1)]
    chart = Vertices.of(objective, [objective.theta, other(objective)], buffers)
    coefficients = chart.coefficients(line_weights(ALPHAS))
    return PathEvaluator(objective, chart, coefficients, bn=bn, execution=execution, **kwargs).at(
        coefficients
    )


def by_plain_loops(bn, num=11, seed=0):
    """Losses and hits (5, N) from copies of the network, by torch's own BatchNorm."""
    losses, hits = [], []
    for alpha in ALPHAS:
        model, end = network(), network(1)
        with torch.no_grad():
            for one, two in zip(model.parameters(), end.parameters(), strict=True):
                one.copy_((1 - alpha) * one + alpha * two)
            if bn == "interpolate":
                for one, two in zip(model.buffers(), end.buffers(), strict=True):
                    if one.is_floating_point():
                        one.copy_((1 - alpha) * one + alpha * two)
            if bn == "recalibrate":
                entering = torch.cat([model[0](inputs) for inputs, _ in batches()])
                model[1].running_mean.copy_(entering.mean((0, 2, 3)))
                model[1].running_var.copy_(entering.var((0, 2, 3)))
            model.train(bn == "batch")
            outputs = torch.cat([model(inputs) for inputs, _ in batches(seed, num)])
        targets = data(seed, num)[1]
        losses.append(F.cross_entropy(outputs, targets, reduction="none"))
        hits.append(outputs.argmax(1) == targets)
    return torch.stack(losses), torch.stack(hits).double()


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
@pytest.mark.parametrize("bn", ["eval", "recalibrate", "interpolate"])
def test_every_example_is_what_a_plain_loop_finds(objective, bn, execution):
    found = evaluated(objective, bn, execution)[""]
    losses, hits = by_plain_loops(bn)
    torch.testing.assert_close(found.losses, losses, rtol=1e-11, atol=1e-12)
    assert torch.equal(found.right, hits)
    torch.testing.assert_close(found.loss, losses.mean(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.error, 1 - hits.mean(1))
    assert torch.equal(found.classes, data()[1])
    assert torch.equal(found.weights, torch.ones(11).double())


@pytest.mark.parametrize("execution", ["auto", Execution("batched", 3)], ids=str)
def test_statistics_of_each_batch_are_its_own(objective, execution):
    found = evaluated(objective, "batch", execution)[""]
    torch.testing.assert_close(found.losses, by_plain_loops("batch")[0], rtol=1e-11, atol=1e-12)


def test_further_data_see_the_statistics_of_the_objectives_own(objective):
    test = Objective(network(), batches(3, 7), "cross_entropy")
    found = evaluated(objective, "recalibrate", also={"test": test})
    losses, hits = by_plain_loops("recalibrate", 7, 3)
    torch.testing.assert_close(found["test"].losses, losses, rtol=1e-11, atol=1e-12)
    assert torch.equal(found["test"].right, hits)
    torch.testing.assert_close(found[""].losses, by_plain_loops("recalibrate")[0])


def test_data_that_are_read_anew_give_the_same(objective):
    streamed = Objective(network(), batches(), "cross_entropy", cache_bytes=0)
    found, expected = evaluated(streamed, "recalibrate"), evaluated(objective, "recalibrate")
    torch.testing.assert_close(found[""].losses, expected[""].losses, rtol=1e-12, atol=1e-12)


def test_the_standard_error_is_that_of_paired_differences(objective):
    found = evaluated(objective, "eval")[""]
    combination = torch.tensor([-0.75, 1.0, 0, 0, -0.25])
    differences = found.losses[1] - 0.75 * found.losses[0] - 0.25 * found.losses[4]
    expected = differences.std() / math.sqrt(11)
    assert found.standard_error("loss", combination) == pytest.approx(float(expected), rel=1e-12)
    wrong = 1 - found.right
    of_errors = (wrong[1] - 0.75 * wrong[0] - 0.25 * wrong[4]).std() / math.sqrt(11)
    assert found.standard_error("error", combination) == pytest.approx(float(of_errors), rel=1e-12)
    whole = found.contributions("loss", combination).sum()
    torch.testing.assert_close(whole, differences.mean())
    share = found.contributions("error", combination).sum()
    torch.testing.assert_close(share, (wrong[1] - 0.75 * wrong[0] - 0.25 * wrong[4]).mean())


def test_outputs_that_are_nan_have_no_error_rate(objective):
    chart = Vertices.of(objective, [objective.theta, 1e308 * other(objective).sign()])
    coefficients = chart.coefficients(line_weights(ALPHAS))
    found = PathEvaluator(objective, chart, coefficients, bn="eval").at(coefficients)[""]
    assert found.loss[-1].isnan()
    assert found.error[-1].isnan()
    assert found.error[0].isfinite()


def test_a_point_put_between_others_is_found_there(objective):
    found = evaluated(objective, "eval")[""]
    outer, inner = found.select(torch.tensor([0, 1, 3, 4])), found.select(torch.tensor([2]))
    again = joined([outer, inner], at=2)
    assert torch.equal(again.losses, found.losses)
    assert torch.equal(again.loss, found.loss)
    assert torch.equal(again.right, found.right)


def test_a_weighted_loss_weighs_its_examples():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]).double())
    objective = Objective(network(), batches(), loss)
    found = evaluated(objective, "eval")[""]
    losses, _ = by_plain_loops("eval")
    weights = loss.weight[data()[1]]
    torch.testing.assert_close(found.weights, weights)
    torch.testing.assert_close(found.losses, losses * weights, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.loss, (losses * weights).sum(1) / weights.sum())
    # The ratio estimator: residuals about the weighted mean.
    one = torch.tensor([0, 1.0, 0, 0, 0])
    residuals = weights * (losses[1] - found.loss[1])
    expected = math.sqrt(float(residuals.square().sum()) * 11 / 10) / float(weights.sum())
    assert found.standard_error("loss", one) == pytest.approx(expected, rel=1e-9)


def test_tokens_that_are_left_out_do_not_count():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    inputs, targets = torch.randn(6, 5, 4).double(), torch.randint(0, 3, (6, 5))
    targets[0, 2:] = -100

    def loss(output, target):
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")

    objective = Objective(model, (inputs, targets), nn.CrossEntropyLoss())
    chart = Vertices.of(objective, [objective.theta, 2 * objective.theta])
    coefficients = chart.coefficients(line_weights(ALPHAS))
    found = PathEvaluator(objective, chart, coefficients).at(coefficients)[""]
    outputs = model(inputs)
    kept = targets != -100
    assert torch.equal(found.counted, kept.sum(1).double())
    hits = ((outputs.argmax(2) == targets) & kept).sum(1).double()
    assert torch.equal(found.right[0], hits)
    expected = loss(outputs, targets).view(6, 5).sum(1)
    torch.testing.assert_close(found.losses[0], expected)
    assert found.classes is None


def test_a_loss_of_whole_batches_has_values_and_no_errors():
    def loss(model, batch):
        inputs, targets = batch
        return F.cross_entropy(model(inputs), targets)

    objective = Objective(network(), batches(), loss)
    found = evaluated(objective, "eval")[""]
    torch.testing.assert_close(found.loss, by_plain_loops("eval")[0].mean(1))
    assert found.losses is None
    assert math.isnan(found.standard_error("loss", torch.ones(5)))
    with pytest.raises(RequestError, match="no classes"):
        found.values("error")


def test_an_infinite_loss_elsewhere_does_not_spoil_a_combination(objective):
    chart = Vertices.of(objective, [objective.theta, 1e308 * other(objective).sign()])
    coefficients = chart.coefficients(line_weights(ALPHAS))
    found = PathEvaluator(objective, chart, coefficients, bn="eval").at(coefficients)[""]
    assert not found.loss[-1].isfinite()
    assert math.isfinite(found.standard_error("loss", torch.tensor([1.0, 0, 0, 0, 0])))


def test_the_model_is_as_it_was(objective):
    model = network()
    model.train()
    before = copy.deepcopy(model.state_dict())
    objective = Objective(model, batches(), "cross_entropy")
    evaluated(objective, "recalibrate")
    after = model.state_dict()
    assert model.training
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_wrong_requests_are_explained(objective):
    with pytest.raises(RequestError, match="BatchNorm policy"):
        evaluated(objective, "evil")
    linear = Objective(nn.Linear(2, 2), (torch.zeros(3, 2), torch.zeros(3).long()))
    with pytest.raises(RequestError, match="the data 'test' belong to an objective with other"):
        evaluated(objective, "eval", also={"test": linear})
    with pytest.raises(RequestError, match="metric"):
        evaluated(objective, "eval")[""].values("acuracy")


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_statistics_of_an_evaluated_point_are_kept(objective, execution):
    chart = Vertices.of(objective, [objective.theta, other(objective)])
    coefficients = chart.coefficients(line_weights(ALPHAS))
    evaluator = PathEvaluator(objective, chart, coefficients, execution=execution)
    evaluator.at(coefficients)
    fresh = objective.under("recalibrate")
    for point, theta in zip(coefficients, chart.thetas(coefficients), strict=True):
        kept, expected = evaluator.buffers(point), fresh.buffers_at(theta)
        assert kept.keys() == expected.keys()
        for name, buffer in expected.items():
            torch.testing.assert_close(kept[name], buffer, rtol=1e-12, atol=1e-12)
