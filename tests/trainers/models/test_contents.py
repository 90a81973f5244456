"""What every network of the package must do."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from landscape.trainers import models

# A small version of each: name of the factory, its arguments, the inputs' shape.
SMALL = [
    ("mlp", {"in_features": 6, "hidden": [5, 4], "num_classes": 3}, (4, 6)),
    ("mlp", {"in_features": 6, "hidden": [5], "norm": "layer"}, (4, 6)),
    ("mlp", {"in_features": 6, "hidden": [5, 4], "norm": "batch", "activation": "tanh"}, (4, 6)),
    ("tick_mlp", {"in_features": 6, "width": 5}, (4, 6)),
    ("cnn", {"width": 2}, (4, 1, 8, 8)),
    ("convnet", {"width": 2, "in_channels": 1, "image_size": 8}, (4, 1, 8, 8)),
    ("convnet", {"width": 2, "image_size": 16, "scale_invariant": False}, (4, 3, 16, 16)),
    ("resnet8", {"width": 2}, (4, 3, 8, 8)),
    ("resnet8", {"width": 2, "scale_invariant": True}, (4, 3, 8, 8)),
    ("resnet18", {"width": 2}, (4, 3, 8, 8)),
    ("resnet18", {"width": 2, "scale_invariant": True}, (4, 3, 16, 16)),
    ("resnet20", {"width": 2}, (4, 3, 8, 8)),
    ("transformer", {"vocabulary": 7, "context": 5, "dim": 4, "depth": 2, "heads": 2}, (4, 5)),
    ("vit", {"image_size": 8, "patch": 4, "dim": 4, "depth": 2, "heads": 2}, (4, 3, 8, 8)),
    (
        "vit",
        {
            **{"image_size": 8, "patch": 4, "dim": 4, "depth": 2, "heads": 2, "in_channels": 1},
            **{"mlp_dim": 3, "shifted_patches": True, "local_attention": True},
        },
        (4, 1, 8, 8),
    ),
]
small = pytest.mark.parametrize(("name", "arguments", "shape"), SMALL)


def inputs_of(name, shape):
    if name == "transformer":
        return torch.randint(7, shape)
    return torch.randn(shape, dtype=torch.float64)


def stacked(name, arguments, mode):
    networks = [getattr(models, name)(**arguments).double().train(mode) for _ in range(3)]
    parameters, buffers = stack_module_state(networks)

    def outputs(parameters, buffers, inputs):
        def output(parameters, buffers):
            return functional_call(networks[0], (parameters, buffers), (inputs,))

        return vmap(output)(parameters, buffers)

    # Copies, as BatchNorm writes into them.
    buffers = {key: value.clone() for key, value in buffers.items()}
    return networks, parameters, buffers, outputs


@small
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_stacked_networks_give_what_each_gives_alone(name, arguments, shape, mode):
    networks, parameters, buffers, outputs = stacked(name, arguments, mode)
    inputs = inputs_of(name, shape)
    together = outputs(parameters, buffers, inputs)
    alone = torch.stack([network(inputs) for network in networks])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    for key, value in buffers.items():
        after = torch.stack([network.get_buffer(key) for network in networks])
        torch.testing.assert_close(value, after, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [case for case in SMALL if case[0] not in {"resnet18", "resnet20"}],
)
def test_a_traced_stack_of_networks_trains_as_the_stack(name, arguments, shape):
    _, parameters, buffers, outputs = stacked(name, arguments, True)
    inputs = inputs_of(name, shape)

    def forward(parameters, buffers, inputs):
        buffers = {key: value.clone() for key, value in buffers.items()}
        return outputs(parameters, buffers, inputs), buffers

    graph = make_fx(forward)(parameters, buffers, inputs)
    other = inputs.flip(0) + 1 if inputs.is_floating_point() else inputs.flip(0)
    traced, expected = (function(parameters, buffers, other) for function in (graph, forward))
    torch.testing.assert_close(traced, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@small
def test_a_traced_stack_of_networks_gives_the_same_gradients(name, arguments, shape):
    _, parameters, buffers, outputs = stacked(name, arguments, True)
    inputs = inputs_of(name, shape)

    def loss(parameters, buffers, inputs):
        buffers = {key: value.clone() for key, value in buffers.items()}
        return outputs(parameters, buffers, inputs).square().sum(), buffers

    gradients = torch.func.grad(loss, has_aux=True)

    graph = make_fx(gradients)(parameters, buffers, inputs)
    other = inputs.flip(0) + 1 if inputs.is_floating_point() else inputs.flip(0)
    traced, expected = (function(parameters, buffers, other) for function in (graph, gradients))
    torch.testing.assert_close(traced, expected, rtol=1e-10, atol=1e-10)


@small
def test_every_trained_parameter_matters_and_json_holds_the_arguments(name, arguments, shape):
    model = getattr(models, name)(**json.loads(json.dumps(arguments))).double()
    weights = {key: p for key, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(torch.randn_like(weight), alpha=0.1)  # away from zeros
    outputs = model(inputs_of(name, shape))
    gradients = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), weights.values())
    for key, gradient in zip(weights, gradients, strict=True):
        assert gradient.abs().max() > 1e-8, key


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mlp", {}, 65 * 64 + 65 * 64 + 65 * 10),
        ("mlp", {"norm": "batch"}, 64 * 64 * 2 + 4 * 64 + 65 * 10),
        ("tick_mlp", {}, 2_048 + 32),
        ("cnn", {}, 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 65 * 10),
        ("convnet", {}, 9 * 32**2 * (3 / 32 + 2 + 8 + 32) + 257 * 10),
        ("resnet8", {}, 78_042),
        ("resnet18", {}, 11_173_962),
        ("resnet20", {}, 272_474),
        ("transformer", {}, 818_176),
    ],
)
def test_number_of_parameters_is_the_documented_one(name, arguments, expected):
    with torch.device("meta") if name == "resnet18" else torch.device("cpu"):
        model = getattr(models, name)(**arguments)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


# Sums of the absolute initial weights with seed 0, from when the networks were first released:
# the seed of a recipe must go on meaning the same network.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", 558.0973695516586),
        ("cnn", 909.9352523684502),
        ("resnet20", 15448.950389385223),
        ("transformer", 10710.758590698242),
    ],
)
def test_initial_weights_are_the_stored_ones(name, expected):
    model = getattr(models, name)()
    total = sum(parameter.abs().sum().item() for parameter in model.parameters())
    assert total == pytest.approx(expected, rel=1e-6)


def test_the_contents_are_networks_and_their_frozen_head():
    assert {name for name in vars(models) if callable(getattr(models, name))} == set(models.__all__)
    assert isinstance(models.with_frozen_head(nn.Linear(2, 2)), nn.Linear)
