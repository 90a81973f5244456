"""Channel statistics: moments of the whole data, and layers that do not run evenly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.batch_norm import Moments
from landscape.errors import RequestError
from landscape.merging.channel_statistics import channel_layers, channel_moments, is_dead, rescaled
from landscape.objective import Objective

NUM = 17


def problem(*layers, batch_size=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*(make() for make in layers)).double()
        inputs = torch.randn(NUM, 4, 6, dtype=torch.float64)
        width = model(inputs).shape
    return Objective(model, (inputs, torch.zeros(width)), "mse", batch_size=batch_size), inputs


@pytest.mark.parametrize("batch_size", [NUM, 5])  # whole, then ragged
@pytest.mark.parametrize(
    ("make", "dim"),
    [
        (lambda: nn.Linear(6, 3), 2),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), 1),
        (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), 1),
    ],
)
def test_moments_are_those_of_the_whole_data_and_move_with_the_weights(make, dim, batch_size):
    objective, inputs = problem(make, batch_size=batch_size)
    layers, left_out = channel_layers(objective, objective.theta)
    assert not left_out
    outputs = objective.model(inputs).detach().movedim(dim, 0).flatten(1)
    found = channel_moments(objective, objective.theta, layers, {})["0"]
    torch.testing.assert_close(found.mean, outputs.mean(1))
    torch.testing.assert_close(found.squares / found.count, outputs.var(1, correction=0))
    factors = torch.linspace(0.5, 3, len(outputs), dtype=torch.float64)
    moved = rescaled(objective, objective.theta, layers[0], factors, 1 - factors)
    after = channel_moments(objective, moved, layers, {})["0"]
    torch.testing.assert_close(after.mean, factors * found.mean + 1 - factors)
    torch.testing.assert_close(after.squares, factors.square() * found.squares)


def test_a_layer_that_does_not_run_in_every_batch_is_named():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2).double()

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else x + 0 * self.layer.weight.sum()

    inputs = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    objective = Objective(Uneven(), (inputs, inputs * 0), "mse", batch_size=1)
    layers, _ = channel_layers(objective, objective.theta)
    with pytest.raises(RequestError, match="runs once for the first batch"):
        channel_moments(objective, objective.theta, layers, {})


def test_layers_that_may_use_their_weight_in_another_way_are_left_out():
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(2 * x)

    objective, _ = problem(lambda: Doubled(6, 6), lambda: nn.Linear(6, 2))
    layers, left_out = channel_layers(objective, objective.theta)
    assert [layer.name for layer in layers] == ["1"]
    assert "is a Doubled" in left_out["0"]


def test_an_instance_norm_undoes_the_scale_of_what_it_reads():
    objective, _ = problem(lambda: nn.Conv1d(4, 3, 1), lambda: nn.InstanceNorm1d(3))
    assert "normalisation behind it" in channel_layers(objective, objective.theta)[1]["0"]


def test_a_batch_norm_without_running_statistics_has_none_to_reset():
    norm = lambda: nn.BatchNorm1d(4, track_running_stats=False)  # noqa: E731
    objective, _ = problem(norm, lambda: nn.Linear(6, 2))
    assert "no running statistics" in channel_layers(objective, objective.theta)[1]["0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_are_dead_if_they_differ_by_rounding_alone(dtype):
    eps = torch.finfo(dtype).eps
    values = torch.tensor([[1.0, 0, 1e-3, 1], [1 + eps, 0, 1e-3, 1.001]], dtype=torch.float64)
    assert is_dead(Moments.of(values), dtype).tolist() == [True, True, True, False]


def test_a_bias_that_two_layers_share_moves_neither():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).double()
    model[1].bias = model[0].bias
    inputs = torch.ones(3, 6, dtype=torch.float64)
    objective = Objective(model, (inputs, inputs), "mse")
    layers, _ = channel_layers(objective, objective.theta)
    assert [layer.weight for layer in layers] == ["0.weight", "1.weight"]
    assert [layer.bias for layer in layers] == [None, None]
