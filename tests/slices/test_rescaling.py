"""Rescaled neurons: found where the function stays, and felt by filters but not by elements."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from landscape.objective import Objective
from landscape.slices.directions import random_directions, regenerate
from landscape.slices.rescaling import neuron_rescalings, rescaled, rescaling_change

COEFFICIENTS = torch.tensor([[-1.0, 0.5], [0.0, 0.0], [0.7, 1.0], [1.0, -1.0]])


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Residual(nn.Module):
    """Only the neurons between its two convolutions may be rescaled: the others are added to."""

    def __init__(self):
        super().__init__()
        self.first, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.second, self.bn2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, images):
        inner = self.bn2(self.second(torch.relu(self.bn1(self.first(images)))))
        return torch.relu(images + inner)


def mlp(activation=nn.ReLU):
    return nn.Sequential(
        *(nn.Linear(4, 6), activation(), nn.Linear(6, 5, bias=False), activation()),
        nn.Linear(5, 3),
    )


NETWORKS = {
    "mlp": (mlp, (4,), [("0", "2"), ("2", "4")]),
    "leaky": (lambda: mlp(nn.LeakyReLU), (4,), [("0", "2"), ("2", "4")]),
    "slopes": (lambda: mlp(lambda: nn.PReLU(1)), (4,), [("0", "2"), ("2", "4")]),
    "tanh": (lambda: mlp(nn.Tanh), (4,), []),
    "relu6": (lambda: mlp(nn.ReLU6), (4,), []),
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Conv2d(4, 4, 2, groups=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(4 * 4, 5), nn.ReLU(), nn.Linear(5, 3)),
        ),
        (2, 7, 7),
        [("1", "3"), ("3", "7"), ("7", "9")],
    ),
    "transposed": (
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 4, 2), nn.ReLU(), nn.ConvTranspose1d(4, 6, 2, groups=2), nn.ReLU()),
            *(nn.Conv1d(6, 2, 3), nn.Flatten(), nn.Linear(2 * 4, 3)),
        ),
        (2, 6),
        [("0", "2"), ("2", "4"), ("4", "6")],
    ),
    "residual": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 3, 1), nn.ReLU(), Residual(), nn.Flatten(), nn.Linear(3 * 9, 3))
        ),
        (2, 3, 3),
        [("2.bn1", "2.second")],
    ),
    "layer_norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)),
        (4,),
        [("1", "3")],
    ),
}


def objective_of(kind, *, dtype=torch.float64, **options):
    make, shape, _ = NETWORKS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.normal_(module.bias)
            elif isinstance(module, nn.Linear | nn.Conv2d):  # values beyond 6, for ReLU6
                module.weight.data *= 5
    data = (normal(9, *shape).to(dtype), torch.arange(9) % 3)
    return Objective(model, data, batch_size=4, **options)


def found(objective):
    return [(one.producer, one.consumer) for one in neuron_rescalings(objective)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", NETWORKS)
def test_those_rescalings_are_found_that_hold(kind, dtype):
    assert found(objective_of(kind, dtype=dtype)) == NETWORKS[kind][2]


@pytest.mark.parametrize("kind", [kind for kind, (*_, pairs) in NETWORKS.items() if pairs])
def test_a_rescaled_network_is_another_point_and_the_same_function(kind):
    objective = objective_of(kind)
    rescalings = neuron_rescalings(objective)
    theta = rescaled(objective, rescalings, seed=3)
    inputs = 10 * normal(20, *NETWORKS[kind][1])  # none of the objective's own
    other = copy.deepcopy(objective.model).eval()
    nn.utils.vector_to_parameters(theta, other.parameters())
    torch.testing.assert_close(
        other(inputs), objective.model.eval()(inputs), rtol=1e-12, atol=1e-12
    )
    weights = objective.space.named(objective.theta)
    moved = objective.space.named(theta)
    for rescaling in rescalings:
        for piece in (*rescaling.larger, rescaling.smaller):
            changed = moved[piece.name] != weights[piece.name]
            assert changed.double().mean() > 0.9


def test_factors_lie_between_a_half_and_two_and_follow_the_seed():
    objective = objective_of("mlp")
    rescalings = neuron_rescalings(objective)[:1]
    one, again, other = (rescaled(objective, rescalings, seed) for seed in (0, 0, 1))
    factors = objective.space.named(one / objective.theta)["0.bias"]
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert 0.5 < factors.min() < 1 < factors.max() < 2
    assert len(factors.unique()) == 6


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
def test_rescalings_hold_under_every_batch_norm_policy(bn):
    objective = objective_of("convolutions", bn=bn)
    rescalings = neuron_rescalings(objective)
    assert len(rescalings) == 3
    moved = objective.loss(rescaled(objective, rescalings, seed=0))
    assert moved == pytest.approx(objective.value, rel=1e-12)


def test_parameters_that_are_not_selected_cannot_be_rescaled():
    assert found(objective_of("mlp", params=["0", "2"])) == [("0", "2")]
    assert found(objective_of("mlp", params="!0.bias")) == [("2", "4")]
    assert found(objective_of("mlp", params="!4.weight")) == [("0", "2")]


def test_a_penalty_on_the_weights_sees_every_rescaling():
    def penalized(model, batch):
        squares = sum(p.square().sum() for p in model.parameters())
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) + 0.01 * squares

    model = mlp().double()
    objective = Objective(model, [(normal(9, 4), torch.arange(9) % 3)], penalized)
    assert not neuron_rescalings(objective)


def test_a_layer_that_runs_twice_is_tried_like_any_other():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(torch.relu(self.inner(torch.relu(self.inner(inputs)))))

    objective = Objective(Twice().double(), (normal(9, 4), torch.arange(9) % 3))
    assert not neuron_rescalings(objective)


def change_of(objective, normalize, coefficients=COEFFICIENTS, **options):
    directions = random_directions(objective, 2, normalize)

    def again(theta):
        return torch.stack([regenerate(objective, one.recipe, theta) for one in directions])

    thetas = objective.theta + coefficients.to(objective.theta) @ torch.stack(directions)
    losses = objective.losses(thetas)
    return rescaling_change(objective, again, coefficients, losses, **options), losses


@pytest.mark.parametrize("kind", ["mlp", "convolutions", "residual"])
def test_slices_by_filters_depend_on_the_scale_of_neurons_and_those_by_elements_do_not(kind):
    objective = objective_of(kind)
    by_filter, losses = change_of(objective, "filter")
    by_element, _ = change_of(objective, "element")
    scale = losses.max().item()
    assert by_element < 1e-12 * scale
    assert by_filter > 1e-3 * scale


def test_the_change_is_the_largest_difference_to_the_rescaled_networks_own_slice():
    objective = objective_of("mlp")
    change, losses = change_of(objective, "filter", seed=5)
    theta = rescaled(objective, neuron_rescalings(objective), seed=5)
    model = copy.deepcopy(objective.model)
    nn.utils.vector_to_parameters(theta, model.parameters())
    other = Objective(model, (normal(9, 4), torch.arange(9) % 3))
    thetas = theta + COEFFICIENTS.double() @ torch.stack(random_directions(other, 2))
    expected = (other.losses(thetas) - losses).abs().max().item()
    assert change == pytest.approx(expected, rel=1e-12)


def test_at_the_center_nothing_changes():
    change, _ = change_of(objective_of("mlp"), "filter", torch.zeros(1, 2))
    assert change < 1e-12


@pytest.mark.parametrize("kind", ["tanh", "relu6"])
def test_without_neurons_to_rescale_there_is_no_change_to_report(kind):
    assert change_of(objective_of(kind), "filter")[0] is None


def test_a_function_that_only_later_batches_tell_apart_is_not_compared():
    make, _, pairs = NETWORKS["relu6"]
    torch.manual_seed(0)
    model = make().double()
    inputs = torch.cat([0.01 * normal(4, 4), 1000 * normal(4, 4)])
    objective = Objective(model, (inputs, torch.arange(8) % 3), batch_size=4)
    assert len(neuron_rescalings(objective)) == len(pairs) + 2  # the first batch stays below 6
    assert change_of(objective, "filter")[0] is None


def test_outputs_are_compared_not_only_the_loss():
    def blind(output, target):
        return 1 + 0 * output.sum()

    objective = Objective(mlp(nn.Tanh).double(), (normal(9, 4), torch.arange(9)), blind)
    assert not neuron_rescalings(objective)


def test_a_rescaled_slice_that_is_not_finite_is_an_infinite_change():
    objective = objective_of("mlp")
    change = rescaling_change(
        objective,
        lambda theta: torch.full((2, len(theta)), torch.nan),
        COEFFICIENTS,
        objective.losses(objective.theta.expand(4, -1)),
    )
    assert change == float("inf")


def test_the_model_is_left_as_it_was():
    objective = objective_of("residual")
    hooks = sum(len(module._forward_pre_hooks) for module in objective.model.modules())
    before = copy.deepcopy(objective.model.state_dict())
    theta = objective.theta.clone()
    change_of(objective, "filter")
    assert sum(len(m._forward_pre_hooks) for m in objective.model.modules()) == hooks == 0
    assert all(torch.equal(objective.model.state_dict()[name], before[name]) for name in before)
    assert torch.equal(objective.theta, theta)
