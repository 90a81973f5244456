"""The trial: what it may choose, what it must leave, and how long it takes."""

from __future__ import annotations

import time

import pytest
import torch
from oracles import MLP, ConvNet, cut, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices import trial
from landscape.slices.chart import Chart
from landscape.slices.evaluation import Evaluator
from landscape.slices.execution import Execution, Runner
from landscape.slices.measures import Measures
from landscape.slices.trial import choose


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


net, inputs, labels = network(MLP, num=100)


def objective_of(model=net, size=25, **options):
    return Objective(model, cut(inputs, labels, size), **options)


def chart_of(objective, k=2):
    return Chart(objective.theta, 0.3 * normal(k, objective.space.size, seed=5))


def chosen(objective, *, num=400, execution="auto", bn="eval", chart=None, **options):
    chart = chart or chart_of(objective)
    points = normal(num, chart.num_axes, seed=6)
    return choose(objective, chart, Measures, points, bn=bn, execution=execution, **options)


def losses(objective, choice, points, bn="eval"):
    chart = chart_of(objective)
    runs = Evaluator(
        objective,
        chart,
        Measures(objective),
        choice.execution,
        bn=bn,
        compiled=choice.compiled,
    )
    return torch.as_tensor(runs.values(points)["loss"]), objective.losses(chart.thetas(points))


@pytest.fixture
def speeds(monkeypatch):
    """Tells the trial how fast an execution is, 1 us for others; to find out takes no time."""
    told = {}

    def seconds(self, execution, compiled=None):
        return next((s for is_meant, s in told.items() if is_meant(execution)), 1e-6)

    monkeypatch.setattr(trial._Trial, "_seconds", seconds)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: 0.0)
    return told


# -- what it chooses ------------------------------------------------------------------------------


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("name", ["auto", "loop", "batched"])
def test_whatever_it_chooses_is_right(name, bn):
    model, images, image_labels = network(ConvNet, num=20)
    objective = Objective(model, cut(images, image_labels, 5), bn=bn)
    choice = chosen(objective, execution=name, bn=bn)
    found, exact = losses(objective, choice, normal(9, 2, seed=8), bn)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)
    assert name == "auto" or choice.execution.mode == name


def test_the_fastest_is_chosen(speeds):
    speeds[lambda e: e.mode == "batched" and e.chunk == 64 and not e.reuse] = 1e-8
    speeds[lambda e: e.mode == "batched"] = 1e-7
    assert chosen(objective_of(), num=10**6).execution == Execution("batched", 64, 100)


def test_the_loop_is_chosen_where_batching_brings_nothing(speeds):
    speeds[lambda e: e.mode == "loop" and e.batch_size == 64] = 1e-7
    assert chosen(objective_of(), num=10**6).execution == Execution("loop", batch_size=64)


def test_images_may_be_laid_out_with_the_channels_last(speeds):
    model, images, image_labels = network(ConvNet, num=20)
    speeds[lambda e: e.channels_last] = 1e-7
    objective = Objective(model, cut(images, image_labels, 5))
    choice = chosen(objective, num=10**6)
    assert choice.execution.channels_last


def test_a_first_layer_is_reused_where_that_is_faster(speeds):
    speeds[lambda e: e.reuse] = 1e-8
    assert chosen(objective_of(), num=10**6).execution.reuse


def test_batches_keep_their_size_where_examples_feel_each_other(speeds):
    model, images, image_labels = network(ConvNet, num=100)
    objective = Objective(model, cut(images, image_labels, 50), bn="batch")
    choice = chosen(objective, bn="batch", num=10**5)
    assert choice.execution.batch_size is None
    assert not any("examples at a time" in note for note in choice.notes)


@pytest.mark.parametrize("name", ["auto", "batched", "compiled"])
def test_points_that_may_be_left_early_get_small_batches(name, monkeypatch):
    monkeypatch.setattr(trial, "_compiled", lambda objective: objective.model.forward)
    choice = chosen(objective_of(size=100), execution=name, largest_batch=40, num=10**5)
    assert choice.execution.batch_size is None or choice.execution.batch_size <= 40


@pytest.mark.parametrize("mode", ["loop", "batched"])
def test_no_larger_batches_are_tried_where_points_may_be_left_early(mode, speeds):
    speeds[lambda e: e.mode == mode and (e.batch_size or 0) > 40] = 1e-9
    speeds[lambda e: e.mode == mode] = 1e-7
    choice = chosen(objective_of(size=100), largest_batch=40, num=10**6)
    assert choice.execution.batch_size is None or choice.execution.batch_size <= 40


def test_an_execution_is_taken_as_it_is():
    wanted = Execution("batched", 13, 7, reuse=True)
    assert chosen(objective_of(), execution=wanted).execution == wanted


def test_the_loop_is_taken_without_a_trial(monkeypatch):
    monkeypatch.setattr(trial, "_Trial", None)
    assert chosen(objective_of(), execution="loop").execution == Execution()


# -- what it leaves -------------------------------------------------------------------------------


class Branching(MLP):
    """Decides by a number that it reads, for which there is no batching rule."""

    def forward(self, inputs):
        hidden = self.hidden(inputs)
        return self.head(hidden if hidden.sum().item() > 0 else hidden.tanh())


def test_a_network_without_a_batching_rule_is_looped_over_with_a_note():
    torch.manual_seed(0)
    objective = objective_of(Branching().double())
    choice = chosen(objective)
    assert choice.execution.mode == "loop"
    assert any("4 points at a time: not possible (vmap" in note for note in choice.notes)
    found, exact = losses(objective, choice, normal(5, 2, seed=8))
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num", [1, 2, 5, 400])
def test_what_is_asked_for_and_impossible_is_an_error(num):
    torch.manual_seed(0)
    objective = objective_of(Branching().double())
    with pytest.raises(RequestError, match=r"'batched' is not possible here \(vmap.*give 'loop'"):
        chosen(objective, execution="batched", num=num)


def lying(monkeypatch, about, by=1e-6):
    """Makes the runner of some executions return wrong losses."""
    plain = Runner.sums

    def sums(self, place, part, index):
        found = plain(self, place, part, index)
        return found | {"total": found["total"] * (1 + by)} if about(self.execution) else found

    monkeypatch.setattr(Runner, "sums", sums)


def test_a_candidate_that_is_wrong_is_not_used(monkeypatch, speeds):
    speeds[lambda e: e.mode == "batched"] = 1e-9
    lying(monkeypatch, lambda e: e.mode == "batched")
    choice = chosen(objective_of())
    assert choice.execution.mode == "loop"
    assert "execution 4 points at a time: differs from the loop, not used" in choice.notes


def test_a_candidate_that_is_wrong_at_some_sizes_is_not_used_there(monkeypatch, speeds):
    speeds[lambda e: e.chunk == 256] = 1e-9
    speeds[lambda e: e.chunk == 64] = 1e-8
    speeds[lambda e: e.mode == "batched"] = 1e-7
    lying(monkeypatch, lambda e: e.chunk == 256 or e.reuse)
    choice = chosen(objective_of(), num=10**5)
    assert choice.execution.chunk == 64
    assert not choice.execution.reuse
    assert sum("differs from the loop" in note for note in choice.notes) >= 2


def test_what_is_asked_for_and_wrong_is_an_error(monkeypatch):
    lying(monkeypatch, lambda e: e.mode != "loop")
    monkeypatch.setattr(trial, "_compiled", lambda objective: objective.model.forward)
    for name in ("batched", "compiled"):
        with pytest.raises(RequestError, match=rf"'{name}' is not possible here \(its losses diff"):
            chosen(objective_of(), execution=name)


def test_single_precision_may_differ_by_its_rounding(monkeypatch, speeds):
    single, x, y = network(MLP, dtype=torch.float32, num=100)
    objective = Objective(single, (x, y))
    chart = Chart(objective.theta, 0.3 * normal(2, objective.space.size).float())
    speeds[lambda e: e.mode == "batched"] = 1e-9
    lying(monkeypatch, lambda e: e.mode == "batched", by=1e-5)
    assert chosen(objective, chart=chart).execution.mode == "batched"
    lying(monkeypatch, lambda e: e.mode == "batched", by=1e-3)
    assert chosen(objective, chart=chart).execution.mode == "loop"


def test_points_that_are_nan_at_both_ends_do_not_hide_a_wrong_candidate(monkeypatch, speeds):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, inputs):
            return inputs * self.w.sqrt()

    objective = Objective(Root(), (normal(40, 1), normal(40, 1, seed=1)), "mse")
    chart = Chart(objective.theta, torch.ones(1, 1).double())
    points = torch.full((10**5, 1), 0.1, dtype=torch.float64)
    points[[0, -1]] = -3.0
    speeds[lambda e: e.mode == "batched"] = 1e-9
    lying(monkeypatch, lambda e: e.mode == "batched")
    choice = choose(objective, chart, Measures, points, bn="eval", execution="auto")
    assert choice.execution.mode == "loop"
    assert any("differs from the loop" in note for note in choice.notes)


# -- memory ---------------------------------------------------------------------------------------


def largest_chunk(monkeypatch, room, model=net, **options):
    monkeypatch.setattr("landscape.slices.trial.available_bytes", lambda _: room)
    monkeypatch.setattr(trial._Trial, "_try", lambda self, e, **_: tried.append(e) or True)
    tried = []
    objective = objective_of(model, **options)
    chosen(objective, num=10**5)
    sizes = [e.chunk * (e.batch_size or 25) for e in tried if e.mode == "batched" and not e.reuse]
    return max(sizes, default=0)


def test_chunks_fit_into_memory(monkeypatch):
    # Of 43 weights on three axes, and 5 + 3 + 3 outputs of all modules, in doubles.
    plenty = largest_chunk(monkeypatch, 10**12)
    assert plenty == 256 * 64
    some = largest_chunk(monkeypatch, 8 * 4 * (25 * 11 * 8 + 3 * 43 * 8) + 8)
    assert some == 4 * 25
    assert largest_chunk(monkeypatch, 8) == 0


def test_the_weights_of_a_chunk_count_too(monkeypatch):
    wide = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)).double()
    wide.register_parameter("idle", nn.Parameter(torch.zeros(10**5, dtype=torch.float64)))
    of_chunk = 4 * 3 * (10**5 + 27) * 8
    assert largest_chunk(monkeypatch, 8 * (of_chunk + 10**5), wide) == 4 * 100
    assert largest_chunk(monkeypatch, 8 * of_chunk, wide) == 0


# -- time -----------------------------------------------------------------------------------------


class Slow(MLP):
    """Takes a millisecond for each call."""

    def forward(self, inputs):
        end = time.perf_counter() + 1e-3
        while time.perf_counter() < end:
            pass
        return super().forward(inputs)


@pytest.mark.parametrize("num", [10, 3000])
def test_the_trial_is_short_beside_the_sweep(num):
    torch.manual_seed(0)
    objective = objective_of(Slow().double())
    began = time.perf_counter()
    chosen(objective, num=num)
    taken = time.perf_counter() - began
    whole = num * 4 * 1e-3  # of a plain loop, in four batches
    assert taken < max(0.5 * whole, 0.5)


def test_no_candidate_starts_that_would_not_end_in_time(monkeypatch):
    begun = []
    monkeypatch.setattr(trial._Trial, "_compiling_pays", lambda self: False)
    monkeypatch.setattr(trial._Trial, "_totals", lambda self, e, *_: torch.zeros(3).double())
    monkeypatch.setattr(
        trial._Trial,
        "_seconds",
        lambda self, e, *_: begun.append(e) or 1e-3,  # 0.1 s a point
    )
    chosen(objective_of(), num=50)  # 5 s in all: 0.3 s for the trial
    assert len(begun) <= 4
    begun.clear()
    chosen(objective_of(), num=5000)  # 500 s in all: 25 s for the trial
    assert len(begun) > 4


# -- requests -------------------------------------------------------------------------------------


def test_a_misspelt_execution_gets_the_nearest_right_one():
    with pytest.raises(RequestError, match=r"unknown execution 'batch'.*Did you mean 'batched'"):
        chosen(objective_of(), execution="batch")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # what the compiler imports warns of itself
@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
def test_a_compiled_pass_is_right_or_refused(bn):
    model, images, image_labels = network(ConvNet, num=20)
    objective = Objective(model, cut(images, image_labels, 5), bn=bn)
    choice = chosen(objective, execution="compiled", bn=bn)
    assert choice.execution.mode == "compiled"
    found, exact = losses(objective, choice, normal(5, 2, seed=8), bn)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)
