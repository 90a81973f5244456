from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.models import mlp, tick_mlp


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp(hidden=[7]), (3, 1, 8, 8)),
        (mlp(hidden=[]), (3, 64)),
        (mlp(in_features=12), (3, 3, 4)),
        (mlp(norm="layer", bias=False), (3, 64)),
        (mlp(norm="batch"), (3, 8, 8)),
    ],
)
def test_an_image_network_gives_one_logit_a_class(model, shape):
    assert model(torch.rand(shape)).shape == (3, 10)


@pytest.mark.parametrize("name", ["gelu", "relu", "silu", "tanh"])
def test_mlp_is_its_formula(name):
    model = mlp(in_features=6, hidden=(5, 4), num_classes=3, activation=name).double()
    w1, b1, w2, b2, w3, b3 = model.parameters()
    inputs = torch.randn(7, 2, 3, dtype=torch.float64)
    function = torch.tanh if name == "tanh" else getattr(nn.functional, name)
    hidden = function(function(inputs.reshape(7, 6) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(model(inputs), hidden @ w3.T + b3)


@pytest.mark.parametrize(("norm", "axis"), [("layer", 1), ("batch", 0)])
def test_the_norm_stands_between_a_layer_and_its_activation(norm, axis):
    model = mlp(in_features=6, hidden=(5,), num_classes=3, norm=norm, bias=False).double()
    weight, scale, shift, head = model.parameters()
    with torch.no_grad():
        scale.copy_(torch.rand(5))
        shift.copy_(torch.rand(5))
    inputs = torch.randn(7, 6, dtype=torch.float64)
    hidden = inputs @ weight.T
    variance, mean = torch.var_mean(hidden, axis, correction=0, keepdim=True)
    hidden = (hidden - mean) / (variance + 1e-5).sqrt() * scale + shift
    torch.testing.assert_close(model(inputs), hidden.relu() @ head.T)


def test_no_bias_stands_before_batchnorm_but_the_head_has_one():
    model = mlp(norm="batch")
    linears = [module for module in model if isinstance(module, nn.Linear)]
    assert [layer.bias is not None for layer in linears] == [False, False, True]


def test_tick_mlp_is_its_formula():
    model = tick_mlp(in_features=6, width=5).double()
    w1, w2, head = model.parameters()
    inputs = torch.randn(7, 6, dtype=torch.float64)

    def hidden(inputs, weight):
        values = inputs @ weight.T
        variance, mean = torch.var_mean(values, 1, correction=0, keepdim=True)
        return ((values - mean) / (variance + 1e-7).sqrt()).relu()

    torch.testing.assert_close(model(inputs), hidden(hidden(inputs, w1), w2) @ head.T)


def test_tick_mlp_starts_on_the_joint_unit_sphere_under_a_frozen_head_of_norm_ten():
    w1, w2, head = tick_mlp().parameters()
    assert (w1.square().sum() + w2.square().sum()).item() == pytest.approx(1, rel=1e-6)
    assert head.norm().item() == pytest.approx(10, rel=1e-6)
    assert [p.requires_grad for p in (w1, w2, head)] == [True, True, False]
    # Gaussian and of one size: half of the norm each, within 4 standard errors; kurtosis is 3.
    assert abs(w1.square().sum().item() - 0.5) < 4 * (0.5 / 1024) ** 0.5
    values = torch.cat([w1.flatten(), w2.flatten()])
    kurtosis = values.pow(4).mean() / values.square().mean() ** 2
    assert abs(kurtosis.item() - 3) < 4 * (24 / 2048) ** 0.5


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: mlp(activation="rleu"), "Did you mean 'relu'"),
        (lambda: mlp(norm="lyer"), "Did you mean 'layer'"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_to_type(request_, message):
    with pytest.raises(RequestError, match=message):
        request_()
