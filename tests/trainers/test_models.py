import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.models import _TransformerBlock, cnn, mlp, resnet20, transformer


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)  # initial weights come from the global generator


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (mlp(), 65 * 64 + 65 * 64 + 65 * 10),
        (cnn(), 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 65 * 10),
        (resnet20(), 272_474),
        (transformer(), 818_176),
    ],
)
def test_number_of_parameters_is_the_documented_one(model, expected):
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp(hidden=[7]), (3, 1, 8, 8)),
        (mlp(hidden=[]), (3, 64)),
        (mlp(in_features=12), (3, 3, 4)),
        (cnn(), (3, 1, 8, 8)),
        (cnn(in_channels=3, width=4), (3, 3, 11, 13)),
        (resnet20(width=4, in_channels=1), (3, 1, 8, 8)),
        (resnet20(width=4), (3, 3, 32, 32)),
    ],
)
def test_an_image_network_gives_one_logit_a_class(model, shape):
    assert model(torch.zeros(shape)).shape == (3, 10)


@pytest.mark.parametrize("name", ["gelu", "relu", "silu", "tanh"])
def test_mlp_is_its_formula(name):
    model = mlp(in_features=6, hidden=(5, 4), num_classes=3, activation=name).double()
    w1, b1, w2, b2, w3, b3 = model.parameters()
    inputs = torch.randn(7, 2, 3, dtype=torch.float64)
    function = torch.tanh if name == "tanh" else getattr(nn.functional, name)
    hidden = function(function(inputs.reshape(7, 6) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(model(inputs), hidden @ w3.T + b3)


def test_resnet20_halves_the_image_twice_and_has_twenty_layers_with_weights():
    model = resnet20(width=4).eval()
    stages = [model[:6], model[:9], model[:12]]
    shapes = [tuple(stage(torch.zeros(1, 3, 32, 32)).shape[1:]) for stage in stages]
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == 20


def test_resnet20_passes_its_input_through_where_the_residual_is_zero():
    block = resnet20(width=4)[4].eval()
    nn.init.zeros_(block.conv2.weight)
    inputs = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(inputs), inputs)


def test_transformer_sees_no_later_token_and_every_earlier_one():
    model = transformer(vocabulary=11, context=9, dim=16, depth=2, heads=2)
    tokens = torch.arange(9)[None]
    logits = model(tokens)
    assert logits.shape == (1, 9, 11)
    for position in range(9):
        changed = tokens.clone()
        changed[0, position] = 10
        differs = (model(changed) != logits).any(-1)[0]
        assert differs.tolist() == [False] * position + [True] * (9 - position)


def test_transformer_knows_the_order_of_tokens():
    model = transformer(vocabulary=11, context=4, dim=16, depth=1, heads=2)
    last = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))[:, -1]
    assert (last[0] - last[1]).abs().max() > 1e-6


def test_transformer_block_is_a_prelayernorm_encoder_layer_with_a_causal_mask():
    ours = _TransformerBlock(12, 3).double()
    theirs = nn.TransformerEncoderLayer(
        *(12, 3, 48, 0.0), "gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    for module, source in [
        (theirs.norm1, ours.norm1),
        (theirs.norm2, ours.norm2),
        (theirs.self_attn.out_proj, ours.project),
        (theirs.linear1, ours.expand),
        (theirs.linear2, ours.contract),
    ]:
        module.load_state_dict(source.state_dict())
    theirs.self_attn.in_proj_weight.data.copy_(ours.attend.weight)
    theirs.self_attn.in_proj_bias.data.copy_(ours.attend.bias)
    inputs = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    torch.testing.assert_close(ours(inputs), theirs(inputs, src_mask=mask, is_causal=True))


def test_an_untrained_transformer_knows_nothing():
    tokens = torch.randint(65, (8, 64), generator=torch.Generator().manual_seed(0))
    logits = transformer()(tokens)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert abs(loss.item() - torch.tensor(65.0).log().item()) < 0.1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: mlp(activation="rleu"), "Did you mean 'relu'"),
        (lambda: transformer(dim=10, heads=4), "such as dim=8"),
        (lambda: transformer(context=4)(torch.zeros(1, 5, dtype=torch.int64)), "context=5"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_to_type(request_, message):
    with pytest.raises(RequestError, match=message):
        request_()
