from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.models import transformer, vit
from landscape.trainers.models.attention import _ImageBlock, _PatchEmbedding, _TransformerBlock


def encoder_layer(ours, mlp_dim):
    """torch's layer with the block's weights."""
    theirs = nn.TransformerEncoderLayer(
        *(12, 3, mlp_dim, 0.0), "gelu", batch_first=True, norm_first=True, dtype=torch.float64
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
    if ours.attend.bias is not None:
        theirs.self_attn.in_proj_bias.data.copy_(ours.attend.bias)
    return theirs


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
    theirs = encoder_layer(ours, 48)
    inputs = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    torch.testing.assert_close(ours(inputs), theirs(inputs, src_mask=mask, is_causal=True))


def test_an_untrained_transformer_knows_nothing():
    tokens = torch.randint(65, (8, 64), generator=torch.Generator().manual_seed(0))
    logits = transformer()(tokens)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert abs(loss.item() - torch.tensor(65.0).log().item()) < 0.1


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"dim": 8}, (3, 3, 32, 32)),
        ({"dim": 8, "image_size": 8, "patch": 2, "in_channels": 1}, (3, 1, 8, 8)),
        ({"dim": 8, "image_size": 28, "in_channels": 1, "shifted_patches": True}, (3, 1, 28, 28)),
    ],
)
def test_vit_gives_one_logit_a_class(arguments, shape):
    assert vit(**arguments)(torch.rand(shape)).shape == (3, 10)


@pytest.mark.parametrize("local", [False, True])
def test_vit_block_is_a_prelayernorm_encoder_layer(local):
    ours = _ImageBlock(12, 3, 7, 0.0, local=local).double()
    theirs = encoder_layer(ours, 7)
    inputs = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = None
    if local:
        with torch.no_grad():  # a temperature of its own: as if queries were three times as large
            ours.log_scale.add_(torch.tensor(3.0, dtype=torch.float64).log())
            theirs.self_attn.in_proj_weight[:12] *= 3
        mask = torch.eye(5, dtype=torch.float64).log().isfinite()  # the diagonal is hidden
    torch.testing.assert_close(ours(inputs), theirs(inputs, src_mask=mask))


@pytest.mark.parametrize("shifted", [False, True])
def test_a_patch_embedding_is_a_strided_convolution(shifted):
    embedding = _PatchEmbedding(2, 3, 4, shifted=shifted).double()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    weight, bias = embedding.embed.weight, embedding.embed.bias
    patches = images
    if shifted:
        around = F.pad(images, (1, 1, 1, 1))
        right, left = around[:, :, 1:-1, :-2], around[:, :, 1:-1, 2:]
        down, up = around[:, :, :-2, 1:-1], around[:, :, 2:, 1:-1]
        patches = torch.cat([images, right, left, down, up], 1)
    columns = F.unfold(patches, 2, stride=2).transpose(1, 2)
    if shifted:
        columns = F.layer_norm(columns, columns.shape[-1:])
    torch.testing.assert_close(embedding(images), columns @ weight.T + bias)


def test_vit_reads_its_logits_off_the_class_token():
    model = vit(8, 4, 1, 8, 0, 2)
    token = F.layer_norm(model.first[0, 0] + model.positions[0, 0], (8,))
    logits = model(torch.rand(2, 1, 8, 8))
    torch.testing.assert_close(logits, model.head(token).expand(2, 10))


def test_vit_knows_where_a_patch_stands():
    model = vit(8, 2, 1, 8, 1, 2)
    images = torch.rand(1, 1, 8, 8)
    assert (model(images) - model(images.flip(-1))).abs().max() > 1e-6


def test_vit_drops_out_in_train_mode_only():
    model = vit(8, 2, 1, 8, 1, 2, dropout=0.5)
    images = torch.rand(1, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: transformer(dim=10, heads=4), "such as dim=8"),
        (lambda: transformer(context=4)(torch.zeros(1, 5, dtype=torch.int64)), "context=5"),
        (lambda: vit(dim=10, heads=4), "such as dim=8"),
        (lambda: vit(image_size=30, patch=4), "such as patch=2"),
        (lambda: vit(dropout=1.0), "such as 0.1"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_to_type(request_, message):
    with pytest.raises(RequestError, match=message):
        request_()
