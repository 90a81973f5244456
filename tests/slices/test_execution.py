"""Executions: whichever evaluates a slice, the numbers are those of the objective at each point."""

from __future__ import annotations

import functools
from collections import UserDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, ConvNet, Transformer, cut, network
from torch import nn

from landscape.batches import join_batches
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.evaluation import Evaluator
from landscape.slices.execution import Execution, Runner, can_resize
from landscape.slices.measures import Measures


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class NormedMLP(nn.Module):
    """LayerNorm between two layers: n = 53."""

    def __init__(self):
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, inputs):
        return self.head(F.gelu(self.norm(self.hidden(inputs))))


class Attention(nn.Module):
    """Fused attention with its own projections, tokens in, a tied head out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens)))


def seeded(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().double()


model, inputs, labels = network(MLP)
images_model, images, image_labels = network(ConvNet)
tokens_model, tokens, token_labels = network(Transformer)
words = torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(0))
ragged = [4, 1, 5]


def cuts(*tensors, sizes=ragged):
    return list(zip(*(tensor.split(sizes) for tensor in tensors), strict=True))


def mean_of_model(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def pair(output, target):
    counted = target != 2
    losses = F.cross_entropy(output, target, reduction="none")
    return (losses * counted).sum(), counted.sum()


def mean(output, target):
    return F.cross_entropy(output, target)


def each(output, target):
    return F.cross_entropy(output, target, reduction="none")


def left_out(target, every=3):
    return torch.where(torch.arange(target.numel()).view(target.shape) % every == 0, -100, target)


PROBLEMS = {
    "mlp": lambda: (model, (inputs, labels), "cross_entropy"),
    "mlp, ragged batches": lambda: (model, cuts(inputs, labels), "cross_entropy"),
    "layer norm": lambda: (seeded(NormedMLP), cut(inputs, labels, 4), "cross_entropy"),
    "convolutions with batch norm": lambda: (
        images_model,
        cut(images, image_labels, 4),
        "cross_entropy",
    ),
    "attention": lambda: (tokens_model, cut(tokens, token_labels, 3), "cross_entropy"),
    "fused attention, tied head": lambda: (
        seeded(Attention),
        cut(words, words, 4),
        "cross_entropy",
    ),
    "dictionaries": lambda: (
        model,
        [{"inputs": x, "labels": y} for x, y in cuts(inputs, labels)],
        "cross_entropy",
    ),
    "user dictionaries": lambda: (
        model,
        [UserDict(inputs=x, labels=y) for x, y in cuts(inputs, labels)],
        "cross_entropy",
    ),
    "tokens left out": lambda: (
        tokens_model,
        cut(tokens, left_out(token_labels), 4),
        "cross_entropy",
    ),
    "class weights, labels left out": lambda: (
        model,
        cuts(inputs, left_out(labels)),
        nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]).double()),
    ),
    "smoothed labels": lambda: (model, (inputs, labels), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "class probabilities": lambda: (
        model,
        cuts(inputs, torch.softmax(normal(10, 3), 1)),
        "cross_entropy",
    ),
    "squared error": lambda: (model, cuts(inputs, normal(10, 3)), "mse"),
    "binary": lambda: (model, cuts(inputs, (normal(10, 3) > 0).double()), "bce"),
    "sum": lambda: (model, cuts(inputs, labels), nn.CrossEntropyLoss(reduction="sum")),
    "loss of the model": lambda: (model, cuts(inputs, labels), mean_of_model),
    "a batch's mean": lambda: (model, cuts(inputs, labels), mean),
    "a batch's sum and weight": lambda: (model, cuts(inputs, labels), pair),
    "a value an example": lambda: (model, cuts(inputs, labels), each),
}
EXECUTIONS = [
    Execution(),
    Execution("batched", 1),
    Execution("batched", 3),
    Execution("batched", 64),
    Execution("loop", batch_size=1),
    Execution("loop", batch_size=3),
    Execution("loop", batch_size=100),
    Execution("batched", 4, batch_size=3),
    Execution("batched", 4, batch_size=7),
    Execution("loop", channels_last=True),
    Execution("batched", 3, channels_last=True),
    Execution("loop", reuse=True),
    Execution("batched", 5, batch_size=4, reuse=True),
]


def chart_of(objective, k=2):
    return Chart(objective.theta, 0.3 * normal(k, objective.space.size, seed=5))


def evaluator(objective, chart, execution, fields=("loss", "accuracy"), **options):
    if not can_resize(objective):
        execution = Execution(**(vars(execution) | {"batch_size": None}))
    return Evaluator(objective, chart, Measures(objective, fields), execution, **options)


@functools.cache
def solved(name):
    """A problem, a chart of it, and what the objective itself finds at some points."""
    objective = Objective(*PROBLEMS[name]())
    chart, coefficients = chart_of(objective), normal(7, 2, seed=6)
    thetas = chart.thetas(coefficients)
    metrics = [objective.metrics(theta) for theta in thetas]
    return objective, chart, coefficients, objective.losses(thetas), metrics


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_execution_gives_the_losses_of_the_objective(name, execution):
    objective, chart, coefficients, exact, metrics = solved(name)
    found = evaluator(objective, chart, execution).values(coefficients)
    torch.testing.assert_close(torch.as_tensor(found["loss"]), exact, rtol=1e-12, atol=1e-13)
    if "accuracy" in metrics[0]:
        assert found["accuracy"].tolist() == [one["accuracy"] for one in metrics]
    else:
        assert "accuracy" not in found


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
@pytest.mark.parametrize("bn", ["batch", "recalibrate"])
def test_every_execution_takes_the_statistics_of_the_objectives_own_batches(bn, execution):
    objective = Objective(images_model, cuts(images, image_labels, sizes=[4, 2, 4]), bn=bn)
    chart, coefficients = chart_of(objective), normal(7, 2, seed=6)
    found = evaluator(objective, chart, execution, bn=bn).values(coefficients)
    exact = objective.losses(chart.thetas(coefficients))
    torch.testing.assert_close(torch.as_tensor(found["loss"]), exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", ["loop", "batched"])
@pytest.mark.parametrize("bn", ["batch", "recalibrate"])
def test_batch_norm_may_see_the_data_themselves(bn, mode):
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    objective = Objective(net.double(), cut(inputs, labels, 5), bn=bn)
    chart, coefficients = chart_of(objective), normal(4, 2, seed=6)
    for reuse in (False, True):
        runs = evaluator(objective, chart, Execution(mode, 3, reuse=reuse), bn=bn)
        exact = objective.losses(chart.thetas(coefficients))
        found = torch.as_tensor(runs.values(coefficients)["loss"])
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)


# -- batches of another size ----------------------------------------------------------------------


def batches_of(objective, execution):
    chart = chart_of(objective)
    runner = Runner(objective, chart, Measures(objective), execution)
    return list(runner.batches())


@pytest.mark.parametrize(
    ("size", "sizes"), [(3, [3, 3, 3, 1]), (10, [10]), (64, [10]), (1, [1] * 10)]
)
def test_examples_come_in_the_size_that_was_asked_for(size, sizes):
    found = batches_of(Objective(model, cuts(inputs, labels)), Execution(batch_size=size))
    assert [count for _, count in found] == sizes
    assert [len(batch[0]) for batch, _ in found] == sizes
    assert torch.equal(torch.cat([batch[0] for batch, _ in found]), inputs)
    assert torch.equal(torch.cat([batch[1] for batch, _ in found]), labels)


def test_texts_of_different_lengths_are_cut_but_not_joined():
    short, long = words[:4, :3], words[:5]
    objective = Objective(seeded(Attention), [(short, short), (long, long)])
    found = batches_of(objective, Execution(batch_size=3))
    assert [batch[0].shape for batch, _ in found] == [(3, 3), (1, 3), (2, 5), (3, 5)]
    chart, coefficients = chart_of(objective), normal(3, 2, seed=6)
    values = evaluator(objective, chart, Execution("batched", 2, 3)).values(coefficients)
    exact = objective.losses(chart.thetas(coefficients))
    torch.testing.assert_close(torch.as_tensor(values["loss"]), exact, rtol=1e-12, atol=1e-13)


class Masked(nn.Module):
    """Tokens mixed by a mask that all examples share."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, inputs, mask, scale):
        return self.head(inputs @ mask) * scale


def test_what_belongs_to_no_example_stays_whole():
    mask, scale = normal(5, 5, seed=1), torch.tensor(2.0).double()
    data = [
        {"inputs": normal(n, 5, seed=n), "mask": mask, "scale": scale, "labels": labels[:n]}
        for n in (3, 4, 2)
    ]
    objective = Objective(seeded(Masked), data)
    for size in (2, 7, 100):
        for batch, _ in batches_of(objective, Execution(batch_size=size)):
            assert torch.equal(batch["mask"], mask)
            assert torch.equal(batch["scale"], scale)
    chart, coefficients = chart_of(objective), normal(3, 2, seed=6)
    values = evaluator(objective, chart, Execution("batched", 2, 4)).values(coefficients)
    exact = objective.losses(chart.thetas(coefficients))
    torch.testing.assert_close(torch.as_tensor(values["loss"]), exact, rtol=1e-12, atol=1e-13)


Named = namedtuple("Named", ["inputs", "extra"])


def test_joined_batches_keep_their_make():
    named = join_batches([(Named(inputs[:4], ["a"]), 1), (Named(inputs[4:], ["a"]), 1)])
    assert isinstance(named[0], Named)
    assert torch.equal(named[0].inputs, inputs)
    assert (named[0].extra, named[1]) == (["a"], 1)


@pytest.mark.parametrize(
    ("batches", "where"),
    [
        ([(inputs[:3], 1), (inputs[3:], 2)], r"batch\[1\]"),
        ([{"x": inputs[:3]}, {"y": inputs[3:]}], "batch differs"),
        ([[inputs[:3]], [inputs[3:], labels[3:]]], "batch differs"),
        ([(inputs[:3], normal(2, 2)), (inputs[3:], normal(2, 2, seed=1))], r"batch\[1\]"),
        ([inputs[:3], inputs[3:, :2]], "batch differs"),
    ],
)
def test_batches_of_other_shapes_are_not_joined(batches, where):
    with pytest.raises(RequestError, match=f"cannot be joined: {where}"):
        join_batches(batches)


def stateless():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False))


@pytest.mark.parametrize(
    ("net", "loss", "bn", "may"),
    [
        (model, "cross_entropy", "eval", True),
        (model, "cross_entropy", "batch", True),
        (model, mean, "eval", False),
        (model, pair, "eval", False),
        (stateless().double(), "cross_entropy", "eval", False),
    ],
)
def test_examples_are_moved_to_other_batches_only_where_they_do_not_feel_it(net, loss, bn, may):
    assert can_resize(Objective(net, cut(inputs, labels, 5), loss, bn=bn)) is may


@pytest.mark.parametrize(("bn", "may"), [("eval", True), ("batch", False), ("recalibrate", True)])
def test_batch_norm_binds_the_examples_only_in_batch_mode(bn, may):
    assert can_resize(Objective(images_model, cut(images, image_labels, 5), bn=bn)) is may


def test_memory_format_is_that_of_the_images():
    colours = normal(10, 2, 3, 3)
    objective = Objective(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()).double(), cut(colours, labels, 4)
    )
    for execution, is_last in ((Execution(channels_last=True), True), (Execution(), False)):
        (batch, _), *_ = batches_of(objective, execution)
        assert batch[0].is_contiguous(memory_format=torch.channels_last) is is_last
        assert batch[0].is_contiguous() is not is_last
        assert torch.equal(batch[0], colours[:4])


class Watching(nn.Module):
    """Notes which attention it would be given."""

    def __init__(self):
        super().__init__()
        self.head, self.seen = nn.Linear(4, 3), []

    def forward(self, inputs):
        self.seen.append(torch.backends.cuda.flash_sdp_enabled())
        return self.head(inputs)


def test_points_at_a_time_take_an_attention_that_can_be_batched():
    objective = Objective(Watching().double(), (inputs, labels))
    seen = objective.model.seen
    for execution, flash in ((Execution(), True), (Execution("batched", 2), False)):
        runs = evaluator(objective, chart_of(objective), execution)
        seen.clear()
        runs.values(normal(4, 2))
        assert set(seen) == {flash}
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_copy_of_the_data_is_kept_where_it_fits(monkeypatch):
    objective = Objective(model, cut(inputs, labels, 4))
    chart, points = chart_of(objective), normal(3, 2)
    laid_out = [Execution(), Execution(batch_size=3), Execution(channels_last=True)]
    expected = [evaluator(objective, chart, one).values(points)["loss"] for one in laid_out]
    for room, are_held in ((10**9, [True] * 3), (100, [True, False, False])):
        monkeypatch.setattr("landscape.slices.execution.available_bytes", lambda _, r=room: r)
        runners = [Runner(objective, chart, Measures(objective), one) for one in laid_out]
        for runner, is_held in zip(runners, are_held, strict=True):
            batches = [[batch for batch, _ in runner.batches()] for _ in range(2)]
            assert all(a is b for a, b in zip(*batches, strict=True)) is is_held
        found = [evaluator(objective, chart, one).values(points)["loss"] for one in laid_out]
        assert [one.tolist() for one in found] == [one.tolist() for one in expected]


def test_parts_of_data_that_are_read_anew_keep_no_batch():
    for cache_bytes, is_kept in ((None, True), (0, False)):
        objective = Objective(model, cut(inputs, labels, 4), cache_bytes=cache_bytes)
        runner = Runner(objective, chart_of(objective), Measures(objective), Execution())
        with runner.running():
            parts = runner.parts()
        assert [part.batch is not None for part in runner.released(parts)] == [is_kept] * 3
        again = [part.batch[1] for part in runner.renewed(runner.released(parts))]
        assert torch.equal(torch.cat(again), labels)


def test_single_precision_is_added_up_in_double():
    net, x, y = network(MLP, dtype=torch.float32, num=60)
    objective = Objective(net, cut(x, y, 7))
    chart = Chart(objective.theta, 0.3 * normal(2, objective.space.size).float())
    coefficients = normal(5, 2, seed=6)
    found = evaluator(objective, chart, Execution()).values(coefficients)["loss"]
    exact = [objective.per_example(theta).double().mean() for theta in chart.thetas(coefficients)]
    torch.testing.assert_close(torch.as_tensor(found), torch.stack(exact), rtol=1e-14, atol=0)


def test_an_execution_says_what_it_does():
    assert str(Execution()) == "loop"
    assert str(Execution("batched", 16, 512, channels_last=True, reuse=True)) == (
        "16 points at a time, 512 examples at a time, channels last, first layer reused"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # what the compiler imports warns of itself
@pytest.mark.parametrize("kind", [MLP, ConvNet, Transformer])
def test_a_compiled_loop_gives_the_same_losses(kind):
    net, x, y = network(kind)
    objective = Objective(net, cut(x, y, 5))
    chart, coefficients = chart_of(objective), normal(4, 2, seed=6)
    before = dict(vars(net))
    compiled = torch.compile(objective.model.forward)
    runs = evaluator(objective, chart, Execution("compiled"), compiled=compiled)
    found = torch.as_tensor(runs.values(coefficients)["loss"])
    exact = objective.losses(chart.thetas(coefficients))
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)
    assert vars(net).keys() == before.keys()
