"""The first layer, put together from parts: right where it is reused, and not reused elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from oracles import MLP, ConvNet, cut, network
from torch import nn
from torch.nn.utils import parametrizations

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.evaluation import Evaluator
from landscape.slices.execution import Execution
from landscape.slices.first_layer import FirstLayer
from landscape.slices.measures import Measures


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().double()


def sequential(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers])


def linear(inputs=4, outputs=4, **options):
    return lambda: nn.Linear(inputs, outputs, **options)


def convolution(kind, shape, **options):
    def build():
        layers = [kind(2, 3, 2, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)]
        net = nn.Sequential(*layers)
        net(torch.zeros(1, 2, *shape))
        return net

    return build, normal(6, 2, *shape)


def objective_of(build, inputs=X, **options):
    return Objective(seeded(build), cut(inputs, Y, 4), **options)


def chart_of(objective, k=2, **options):
    return Chart(objective.theta, 0.3 * normal(k, objective.space.size, seed=5), **options)


def reused(objective, chart=None):
    found = FirstLayer.of(objective, chart or chart_of(objective))
    return None if found is None else found.name


def assert_right(objective, chart=None, bn="eval"):
    chart = chart or chart_of(objective)
    coefficients = normal(5, chart.num_axes, seed=6)
    exact = objective.losses(chart.thetas(coefficients))
    for execution in (Execution(reuse=True), Execution("batched", 3, reuse=True)):
        runs = Evaluator(objective, chart, Measures(objective), execution, bn=bn)
        found = torch.as_tensor(runs.values(coefficients)["loss"])
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)


LAYERS = {
    "linear": (sequential(linear(), nn.Tanh, linear(4, 3)), X),
    "no bias": (sequential(linear(bias=False), nn.Tanh, linear(4, 3)), X),
    "behind a fixed function": (sequential(nn.Tanh, linear(), nn.Tanh, linear(4, 3)), X),
    "conv1d": convolution(nn.Conv1d, (4,)),
    "conv2d, strided, padded": convolution(nn.Conv2d, (4, 4), stride=2, padding=1),
    "conv2d, around the corner": convolution(
        nn.Conv2d, (4, 4), padding=1, padding_mode="circular", bias=False
    ),
    "conv3d": convolution(nn.Conv3d, (3, 3, 2)),
}


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(("build", "inputs"), LAYERS.values(), ids=list(LAYERS))
def test_every_kind_of_first_layer_is_reused(build, inputs, k):
    objective = objective_of(build, inputs)
    chart = chart_of(objective, k)
    assert reused(objective, chart) in ("0", "1")
    assert_right(objective, chart)


def test_a_frozen_bias_stays_where_it_is():
    net = seeded(LAYERS["linear"][0])
    net[0].bias.requires_grad_(False)
    objective = Objective(net, cut(X, Y, 4))
    assert "0.bias" not in objective.space.names
    assert reused(objective) == "0"
    assert_right(objective)


def test_a_bias_that_two_layers_share_is_reused_with_both():
    net = seeded(LAYERS["linear"][0])
    net[0].bias = net[2].bias = nn.Parameter(normal(4, seed=8))
    net[2].weight = nn.Parameter(normal(4, 4, seed=9))
    objective = Objective(net, cut(X, Y, 4))
    assert reused(objective) == "0"
    assert_right(objective)
    bias_first = seeded(lambda: _SharedBias())
    objective = Objective(bias_first, cut(X, Y, 4))
    assert objective.space.aliases == {"first.bias": "second.bias"}
    assert reused(objective) == "first"
    assert_right(objective)


class _SharedBias(nn.Module):
    """Its first layer has the alias of a parameter that another one holds."""

    def __init__(self):
        super().__init__()
        self.second, self.first = nn.Linear(4, 4), nn.Linear(4, 4)
        self.first.bias = self.second.bias

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))


def test_batch_norm_behind_it_is_no_hindrance():
    net, images, labels = network(ConvNet)
    for bn in ("eval", "batch", "recalibrate"):
        objective = Objective(net, cut(images, labels, 5), bn=bn)
        assert reused(objective) == "conv"
        assert_right(objective, bn=bn)


# -- where it must not be reused ------------------------------------------------------------------


class Twice(nn.Module):
    """Calls its first layer twice."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(self.hidden(torch.tanh(self.hidden(inputs)))))


class Tied(nn.Module):
    """Reads its first weight a second time, under another name."""

    def __init__(self):
        super().__init__()
        self.hidden, self.back = nn.Linear(4, 4), nn.Linear(4, 4)
        self.back.weight = self.hidden.weight

    def forward(self, inputs):
        return self.back(torch.tanh(self.hidden(inputs)))


class Shifted(nn.Module):
    """What its layer sees depends on a parameter: not first, though the only one."""

    def __init__(self, shift):
        super().__init__()
        self.shift, self.head = nn.Parameter(torch.as_tensor(shift)), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(inputs * self.shift.square().sum())


class Quiet(nn.Linear):
    """A linear layer that does something else."""

    def forward(self, inputs):
        return super().forward(inputs).tanh()


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(input=inputs)


NOT_REUSED = {
    "called twice": Twice,
    "tied": Tied,
    "moved inputs": lambda: Shifted([1.0, 2.0]),
    "a subclass": sequential(lambda: Quiet(4, 3)),
    "called by keyword": ByKeyword,
    "a parametrized weight": sequential(lambda: parametrizations.weight_norm(nn.Linear(4, 3))),
    "embedded": sequential(lambda: nn.PReLU(4), linear(4, 3)),
}


@pytest.mark.parametrize("build", NOT_REUSED.values(), ids=list(NOT_REUSED))
def test_what_sees_other_things_or_does_other_things_is_not_reused(build):
    objective = objective_of(build)
    assert reused(objective) is None
    assert_right(objective)


def test_a_layer_behind_a_reused_one_is_never_taken_for_the_first():
    objective = objective_of(LAYERS["linear"][0], params="2")
    assert reused(objective) == "2"  # all that is before it stands still
    assert_right(objective)
    objective = objective_of(LAYERS["linear"][0], params=["0.bias", "2"])
    assert reused(objective) is None  # the first layer moves, and not by its weight
    assert_right(objective)


def test_directions_that_cancel_do_not_hide_what_moves():
    objective = objective_of(lambda: Shifted([1.0, 2.0]))
    vector = normal(objective.space.size, seed=5)
    opposite = Chart(objective.theta, torch.stack([vector, -vector]))
    assert reused(objective, opposite) is None


def test_a_step_to_the_mirror_image_does_not_hide_what_moves():
    objective = objective_of(lambda: Shifted([-0.5, -0.5]))
    vector = normal(objective.space.size, seed=5)
    vector[objective.space.slice_of("shift")] = 1.0  # (-0.5 + 1) ^ 2 = (-0.5) ^ 2
    assert reused(objective, Chart(objective.theta, vector[None])) is None


def test_a_product_of_two_coordinates_is_seen():
    class Product(Shifted):
        def forward(self, inputs):
            return self.head(inputs * (1 + self.shift.prod()))

    objective = objective_of(lambda: Product([0.0, 0.0]))
    vectors = 0 * normal(2, objective.space.size)
    vectors[:, objective.space.slice_of("shift")] = torch.eye(2).double()
    assert reused(objective, Chart(objective.theta, vectors)) is None


@pytest.mark.parametrize("bn", ["recalibrate", "interpolate"])
def test_statistics_that_move_before_a_layer_forbid_its_reuse(bn):
    build = sequential(lambda: nn.BatchNorm1d(4), linear(4, 3))
    steps = [{"0.running_mean": torch.ones(4).double()}, {}] if bn == "interpolate" else ()
    policy = "eval" if bn == "interpolate" else bn
    objective = objective_of(build, params="1", bn=policy)
    assert reused(objective, chart_of(objective, buffer_steps=tuple(steps))) is None
    still = objective_of(build, params="1")
    assert reused(still) == "1"


def test_a_forward_pass_that_somebody_replaced_is_left_alone():
    net = seeded(LAYERS["linear"][0])
    plain = copy.deepcopy(net[0])
    net[0].forward = lambda inputs: 2 * plain(inputs) + net[0].weight.sum()
    objective = Objective(net, cut(X, Y, 4))
    before = net[0].forward
    assert reused(objective) is None
    assert_right(objective)
    assert net[0].forward is before


def test_hooks_of_the_layer_run_all_the_same():
    net = seeded(LAYERS["linear"][0])
    net[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].square(),))
    net[0].register_forward_hook(lambda _, __, output: output + 1)
    objective = Objective(net, cut(X, Y, 4))
    assert reused(objective) == "0"
    assert_right(objective)


class Sometimes(nn.Module):
    """Calls its first layer once more where the data ask for it."""

    def __init__(self, when):
        super().__init__()
        self.hidden, self.head, self.when = nn.Linear(4, 4), nn.Linear(4, 3), when

    def forward(self, inputs):
        hidden = torch.tanh(self.hidden(inputs))
        return self.head(self.hidden(hidden) if self.when(inputs, hidden) else hidden)


@pytest.mark.parametrize(
    "when",
    [
        lambda inputs, _: bool(inputs.max() > 100),  # in one batch of the data
        lambda _, hidden: bool(hidden.abs().mean() > 0.95),  # at some points of the slice
    ],
    ids=["data", "points"],
)
def test_a_layer_that_is_called_again_later_is_an_error_and_never_a_wrong_number(when):
    inputs = X.clone()
    inputs[5] = 101.0
    objective = Objective(seeded(lambda: Sometimes(when)), cut(inputs, Y, 4))
    chart = chart_of(objective)
    far = torch.tensor([[0.0, 0.0], [60.0, 0.0]], dtype=torch.float64)
    with pytest.raises(RequestError, match=r"'hidden' is called 2 times.*execution='loop'"):
        Evaluator(objective, chart, Measures(objective), Execution(reuse=True)).values(far)


def test_a_layer_that_is_called_twice_at_the_center_alone_is_not_reused():
    net = seeded(lambda: Sometimes(None))
    start = net.hidden.weight.detach().clone()
    net.when = lambda *_: torch.equal(net.hidden.weight, start)
    assert reused(Objective(net, cut(X, Y, 4))) is None


class Skipping(nn.Module):
    """Goes around its first layer where the data ask for it."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(inputs if inputs.max() > 100 else torch.tanh(self.hidden(inputs)))


def test_a_layer_that_some_batch_does_not_see_is_an_error():
    inputs = X.clone()
    inputs[5] = 101.0
    objective = Objective(seeded(Skipping), cut(inputs, Y, 4))
    with pytest.raises(RequestError, match="'hidden' is called 0 times for some batch"):
        Evaluator(objective, chart_of(objective), Measures(objective), Execution(reuse=True))


def test_the_layer_runs_once_a_batch_however_many_points_there_are():
    objective = objective_of(LAYERS["linear"][0])
    calls = []
    weight_shape = objective.model[0].weight.shape
    plain = torch.nn.functional.linear

    def counted(inputs, weight, bias=None):
        calls.append(weight.shape == weight_shape)
        return plain(inputs, weight, bias)

    chart = chart_of(objective)
    runs = Evaluator(objective, chart, Measures(objective), Execution(reuse=True))
    torch.nn.functional.linear = counted
    try:
        runs.values(normal(9, 2))
    finally:
        torch.nn.functional.linear = plain
    assert sum(calls) == 0  # all that it makes of the data was kept
    assert len(calls) == 9 * 2
    assert "forward" not in vars(objective.model[0])


def test_outputs_that_do_not_fit_into_memory_are_not_kept(monkeypatch):
    objective = objective_of(LAYERS["linear"][0])
    monkeypatch.setattr("landscape.slices.first_layer.available_bytes", lambda _: 1000)
    assert reused(objective) is None  # 6 examples of 3 x 4 doubles, and an eighth of that
    monkeypatch.setattr("landscape.slices.first_layer.available_bytes", lambda _: 8 * 6 * 96)
    assert reused(objective) == "0"


def test_mixed_precision_is_cast_as_in_the_model():
    net = seeded(LAYERS["linear"][0])
    net[0].float()

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, inputs):
            return self.net[2](self.net[1](self.net[0](inputs.float()).double()))

    objective = Objective(Cast(), cut(X, Y, 4))
    chart, coefficients = chart_of(objective), normal(5, 2, seed=6)
    exact = objective.losses(chart.thetas(coefficients))
    runs = Evaluator(objective, chart, Measures(objective), Execution(reuse=True))
    found = torch.as_tensor(runs.values(coefficients)["loss"])
    assert reused(objective) == "net.0"
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-7)


def test_mlp_of_the_oracles_reuses_its_hidden_layer():
    net, inputs, labels = network(MLP)
    assert reused(Objective(net, (inputs, labels))) == "hidden"
