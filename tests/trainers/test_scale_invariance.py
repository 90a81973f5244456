"""Scale-invariant parameters, found by test."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.models import (
    cnn,
    convnet,
    mlp,
    resnet8,
    resnet18,
    tick_mlp,
    transformer,
    vit,
    with_frozen_head,
)
from landscape.trainers.scale_invariance import (
    scale_invariant_groups,
    scale_invariant_parameters,
    scale_symmetries,
)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():  # initial weights come from the global generator
        torch.manual_seed(0)
        yield


def names_of(model, inputs):
    return [group.names for group in scale_invariant_groups(model, inputs)]


def test_a_perceptron_without_norm_has_no_group_but_its_layers_trade_their_scales():
    found = scale_symmetries(mlp(8, (5,), 3), torch.randn(9, 8))
    assert found.groups == ()
    (rescaling,) = found.rescalings
    assert rescaling.names == ("1.weight", "1.bias", "3.weight")
    assert rescaling.exponents == (1, 1, -1)
    assert found.dimension == 1


def test_nothing_scales_where_the_activation_is_not_homogeneous():
    found = scale_symmetries(mlp(8, (5,), 3, activation="tanh"), torch.randn(9, 8))
    assert (found.groups, found.rescalings, found.inert, found.dimension) == ((), (), (), 0)


def test_each_hidden_weight_of_the_tick_perceptron_is_a_group_and_its_head_is_in_none():
    model, inputs = tick_mlp(8, 6), torch.randn(9, 8)
    assert names_of(model, inputs) == [("0.weight",), ("3.weight",)]
    assert scale_invariant_parameters(model, inputs) == ("0.weight", "3.weight")


def test_a_frozen_parameter_is_in_no_group():
    model, inputs = tick_mlp(8, 6), torch.randn(9, 8)
    model[3].weight.requires_grad_(False)
    assert names_of(model, inputs) == [("0.weight",)]


def test_a_weight_and_its_bias_before_layernorm_are_one_group():
    found = scale_symmetries(mlp(8, (5,), 3, norm="layer"), torch.randn(9, 8))
    assert [group.names for group in found.groups] == [("1.weight", "1.bias")]
    assert [r.names for r in found.rescalings] == [("2.weight", "2.bias", "4.weight")]


def test_of_overlapping_groups_the_larger_is_chosen():
    # The second layer's bias can follow the weight beside it, or the LayerNorm below.
    found = scale_symmetries(mlp(8, (5, 6), 3, norm="layer"), torch.randn(16, 8))
    assert [group.names for group in found.groups] == [
        ("1.weight", "1.bias"),
        ("4.weight", "4.bias"),
    ]
    assert {r.names: r.exponents for r in found.rescalings} == {
        ("2.weight", "2.bias", "4.weight"): (1, 1, -1),
        ("5.weight", "5.bias", "7.weight"): (1, 1, -1),
    }
    assert found.dimension == 4


def test_each_convolution_of_the_scale_invariant_convnet_is_a_group():
    model = convnet(width=2, in_channels=1, image_size=8)
    names = [(f"{index}.weight",) for index in (0, 3, 7, 11)]
    assert names_of(model, torch.randn(4, 1, 8, 8)) == names


@pytest.mark.parametrize(
    ("make", "depths", "size"),
    [
        (resnet8, [1, 1, 1], 8),
        pytest.param(resnet18, [2, 2, 2, 2], 16, marks=pytest.mark.slow),
    ],
)
def test_second_convolutions_of_a_stage_are_tied_by_the_residual_sum(make, depths, size):
    model = make(width=2, in_channels=1, scale_invariant=True)
    expected = set()
    block = 1
    for stage, depth in enumerate(depths):
        blocks = range(block, block + depth)
        block += depth
        expected |= {frozenset([f"{index}.conv1.weight"]) for index in blocks}
        entry = f"{blocks[0]}.shortcut.1.weight" if stage > 0 else "0.weight"
        expected.add(frozenset([entry, *(f"{index}.conv2.weight" for index in blocks)]))
    inputs = torch.randn(6, 1, size, size)
    groups = scale_invariant_groups(model, inputs)
    assert {frozenset(group.names) for group in groups} == expected
    assert all(group.deviation < 1e-12 for group in groups)
    assert set(scale_invariant_parameters(model, inputs)) == set().union(*expected)


def test_without_the_extra_batchnorm_a_shortcut_ties_the_stages():
    model = resnet8(width=2, in_channels=1, scale_invariant=True)
    for block in (2, 3):
        model[block].shortcut[0] = nn.Identity()
    found = scale_symmetries(model, torch.randn(6, 1, 8, 8))
    # Each conv1 alone; of the stream's five convolutions, no longer three groups.
    assert [g.names for g in found.groups if "conv1" in g.names[0]] == [
        (f"{block}.conv1.weight",) for block in (1, 2, 3)
    ]
    stream = [g.names for g in found.groups if "conv1" not in g.names[0]]
    assert len(stream) == 1
    assert "3.conv2.weight" in stream[0]


def test_of_an_affine_network_also_batchnorms_pairs_below_another_norm_are_groups():
    # relu(a (w x + b)) = a relu(w x + b), and the next BatchNorm takes a away.
    found = scale_symmetries(cnn(width=2), torch.randn(4, 1, 8, 8))
    assert [group.names for group in found.groups] == [
        ("0.weight",),
        ("1.weight", "1.bias"),
        ("3.weight",),
        ("4.weight", "4.bias"),
        ("6.weight",),
    ]
    assert [r.names for r in found.rescalings] == [("7.weight", "7.bias", "11.weight")]


def test_all_convolutions_of_a_practical_resnet_are_groups_and_its_head_is_in_none():
    model = resnet8(width=2, in_channels=1)
    groups = names_of(model, torch.randn(8, 1, 8, 8))
    convolutions = [n for n, p in model.named_parameters() if p.ndim == 4]
    assert {(name,) for name in convolutions} <= set(groups)
    names = {name for group in groups for name in group}
    # The last block's BatchNorms feed the head.
    assert not names & {"8.weight", "8.bias", "5.bn2.weight", "5.bn2.bias"}


def test_a_transformers_stream_is_one_group():
    model = transformer(vocabulary=7, context=5, dim=8, depth=1, heads=2)
    ends = [
        f"blocks.0.{end}.{kind}" for end in ("project", "contract") for kind in ("weight", "bias")
    ]
    assert names_of(model, torch.randint(7, (4, 5))) == [
        ("tokens.weight", "positions.weight", *ends)
    ]


def test_a_vits_stream_is_one_group():
    model = vit(8, 4, 1, 4, 1, 2, mlp_dim=6)
    ends = [
        f"blocks.0.{end}.{kind}" for end in ("project", "contract") for kind in ("weight", "bias")
    ]
    assert names_of(model, torch.randn(6, 1, 8, 8)) == [
        ("first", "positions", "embed.embed.weight", "embed.embed.bias", *ends)
    ]


def test_names_mean_nothing():
    model = tick_mlp(8, 6)
    words = ["bn", "norm", "bias", "conv", "x", "y", "first"]
    renamed = nn.Sequential(OrderedDict(zip(words, model, strict=True)))
    assert names_of(renamed, torch.randn(9, 8)) == [("bn.weight",), ("conv.weight",)]


def test_a_bias_before_batchnorm_is_inert_and_in_no_group():
    model = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3))
    found = scale_symmetries(model, torch.randn(9, 8))
    assert found.inert == ("0.bias",)
    assert [group.names for group in found.groups] == [("0.weight",)]


def test_a_zero_bias_is_not_taken_for_a_scale_invariant_one():
    model = mlp(8, (5,), 3)
    nn.init.zeros_(model[1].bias)
    nn.init.zeros_(model[3].bias)
    assert names_of(model, torch.randn(9, 8)) == []


def test_groups_do_not_depend_on_the_norms_eps():
    model = tick_mlp(8, 6)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.1
    assert names_of(model, torch.randn(9, 8)) == [("0.weight",), ("3.weight",)]


class HiddenEps(nn.Module):
    """A layer whose eps no attribute tells."""

    def forward(self, inputs):
        return F.layer_norm(inputs, inputs.shape[1:], eps=1e-6)


def test_where_eps_cannot_be_set_the_tolerance_decides():
    model = with_frozen_head(
        nn.Sequential(nn.Linear(8, 5, bias=False), HiddenEps(), nn.Linear(5, 3))
    )
    inputs = torch.randn(9, 8)
    assert scale_invariant_groups(model, inputs) == ()
    (group,) = scale_invariant_groups(model, inputs, tolerance=1e-3)
    assert group.names == ("0.weight",)
    assert 1e-8 < group.deviation < 1e-3
    assert scale_invariant_parameters(model, inputs, tolerance=1e-3) == ("0.weight",)


def test_a_symmetry_of_first_order_alone_is_reported_as_no_group():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.slope = nn.Linear(8, 5, bias=False), nn.Linear(8, 5, bias=False)

        def forward(self, inputs):
            values = self.step(inputs)
            size = values.norm()
            # The first term sees the direction only; the second is flat between its jumps, which
            # finite scales cross.
            return values / size + size.round() + self.slope(inputs)

    found = scale_symmetries(Steps(), torch.randn(9, 8))
    assert found.groups == ()
    assert found.dimension == 1


def test_exponents_need_not_be_one():
    class Power(nn.Module):
        def __init__(self):
            super().__init__()
            self.square, self.line = nn.Linear(8, 5, bias=False), nn.Linear(5, 3, bias=False)

        def forward(self, inputs):
            return self.line(self.square(inputs).square())

    found = scale_symmetries(Power(), torch.randn(9, 8))
    assert found.groups == ()
    (rescaling,) = found.rescalings
    assert rescaling.names == ("square.weight", "line.weight")
    assert rescaling.exponents[1] / rescaling.exponents[0] == pytest.approx(-2, rel=1e-9)


def test_tied_weights_are_one_parameter_and_outputs_and_inputs_may_be_nested():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight

        def forward(self, left, right):
            left, right = (
                F.normalize(layer(x), eps=0) for layer, x in ((self.a, left), (self.b, right))
            )
            return {"left": left, "parts": (right, torch.arange(3))}

    left, right = torch.randn(2, 4, 6)
    for inputs in ((left, right), {"left": left, "right": right}):
        assert names_of(Tied(), inputs) == [("a.weight",)]


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_and_the_random_state_are_left_bit_for_bit(mode):
    model = cnn(width=2).train(mode)
    model[0].eval()
    model[3].weight.requires_grad_(False)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(module.training, getattr(module, "eps", None)) for module in model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    inputs = torch.randn(4, 1, 8, 8)
    state = torch.get_rng_state()
    scale_symmetries(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert [(m.training, getattr(m, "eps", None)) for m in model.modules()] == flags
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_a_model_that_draws_leaves_the_random_state():
    class Draws(nn.Module):
        def forward(self, inputs):
            return inputs + 0 * torch.rand(())

    model, inputs = nn.Sequential(tick_mlp(8, 6), Draws()), torch.randn(9, 8)
    state = torch.get_rng_state()
    scale_symmetries(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_made_on_the_default_device():
    model, inputs = cnn(width=2), torch.randn(4, 1, 8, 8)
    with torch.device("meta"):
        groups = scale_invariant_groups(model, inputs)
    assert groups == scale_invariant_groups(model, inputs)


def test_it_says_the_same_each_time():
    model, inputs = cnn(width=2), torch.randn(4, 1, 8, 8)
    assert scale_symmetries(model, inputs) == scale_symmetries(model, inputs)


def test_the_groups_hold_for_the_users_own_model_up_to_its_eps():
    model = resnet8(width=2, in_channels=1, scale_invariant=True).double()
    inputs = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    names = scale_invariant_parameters(model, inputs)
    before = model(inputs)
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(2.0)
    torch.testing.assert_close(model(inputs), before, rtol=1e-2, atol=1e-3)


def test_it_works_where_gradients_are_off_and_where_no_weight_is_used():
    model, inputs = tick_mlp(8, 6), torch.randn(9, 8)
    with torch.no_grad():
        assert names_of(model, inputs) == [("0.weight",), ("3.weight",)]
    unused = nn.Identity()
    unused.weight = nn.Parameter(torch.ones(3))
    assert scale_symmetries(unused, inputs).inert == ("weight",)


def test_a_model_without_trained_parameters_has_no_symmetries():
    found = scale_symmetries(tick_mlp(8, 6).requires_grad_(False), torch.randn(9, 8))
    assert (found.groups, found.rescalings, found.inert, found.dimension) == ((), (), (), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": ()}, r"scales=\(\) must be"),
        ({"scales": (2.0, -1.0)}, r"scales=\(2.0, -1.0\)"),
        ({"scales": (math.inf,)}, "numbers above 0"),
        ({"tolerance": 0.0}, "such as 1e-8"),
        ({"inputs": torch.zeros(9, 8)}, "norm for these inputs is 0.0"),
        ({"inputs": torch.full((9, 8), math.nan)}, "is nan"),
        ({"inputs": torch.ones(1, 8)}, "4 times as large"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_to_type(arguments, message):
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
    with pytest.raises(RequestError, match=message):
        scale_symmetries(model, **{"inputs": torch.randn(9, 8), **arguments})
