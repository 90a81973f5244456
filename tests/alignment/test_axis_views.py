"""Groups counted by hand: heads, streams, and other views of axes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.alignment.permutations import Run
from landscape.trainers.models import transformer, vit
from tests.alignment.followed import IMAGES, SEQUENCES, TOKENS, Written, check


def test_our_transformer_has_a_stream_heads_and_units_within_heads():
    model = transformer(vocabulary=11, context=8, dim=12, depth=2, heads=3)
    spec = check(model, TOKENS, [12, *([3] + [4] * 6 + [48]) * 2])
    assert spec.axes["positions.weight"] == spec.axes["tokens.weight"] == ((), (Run(12, "tokens"),))
    query, key, value = spec.axes["blocks.0.attend.weight"][0]
    assert query == key  # their product is summed over the units of a head
    assert (query.size, query.block, value.group) == (3, 4, query.group)
    assert not set(query.inner) & set(value.inner)
    assert spec.axes["blocks.0.project.weight"][1] == (value,)


@pytest.mark.parametrize("variant", [{}, {"shifted_patches": True, "local_attention": True}])
def test_our_vision_transformer(variant):
    model = vit(image_size=8, patch=4, dim=8, depth=1, heads=2, num_classes=3, **variant)
    check(model, IMAGES, [8, 2, 4, 4, 4, 4, 32])


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_layer_of_torch(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 2))
    spec = check(model, SEQUENCES, [8, 2, 4, 4, 4, 4, 16])
    assert len(spec.axes["1.self_attn.in_proj_bias"][0]) == 3


def test_attention_from_one_sequence_to_another_with_masks():
    def forward(m, x):
        y = m.embed(x)
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
        return m.out(m.attend(y, m.other(x), m.other(x), attn_mask=mask, need_weights=True)[0])

    attend = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
    model = Written(
        forward, embed=nn.Linear(5, 8), other=nn.Linear(5, 4), attend=attend, out=nn.Linear(8, 2)
    )
    check(model, SEQUENCES, [8, 4, 2, 4, 4, 4, 4, 8])


def attention(rotary=False):
    """Four query heads that share two heads of keys and values, in float64."""
    angles = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def turned(heads):
        half = torch.cat([-heads[..., 2:], heads[..., :2]], -1)
        return heads * angles.cos() + half * angles.sin()

    def forward(m, x):
        x = m.embed(x)
        y = m.norm(x)
        query, key, value = (
            part(y).unflatten(-1, (-1, 4)).transpose(1, 2) for part in (m.q, m.k, m.v)
        )
        if rotary:
            query, key = turned(query), turned(key)
        key, value = (heads.repeat_interleave(2, 1) for heads in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return m.head(x + m.o(mixed.transpose(1, 2).flatten(2)))

    return Written(
        forward, embed=nn.Linear(5, 16), norm=nn.RMSNorm(16), q=nn.Linear(16, 16),
        k=nn.Linear(16, 8), v=nn.Linear(16, 8), o=nn.Linear(16, 16), head=nn.Linear(16, 3),
    )  # fmt: skip


def test_grouped_queries_share_the_units_of_their_keys():
    spec = check(attention(), SEQUENCES, [16, 2, 4, 4, 4, 4])
    assert [run.group for run in spec.axes["k.weight"][0]] == ["q#2[0]", "q#2[1]"]
    queries = spec.axes["q.weight"][0]
    assert queries == (
        Run(2, "q", block=4, inner=("q#2[0]",) * 2),
        Run(2, "q", block=4, inner=("q#2[1]",) * 2),
    )


def test_rotary_positions_keep_the_units_of_queries_and_keys_in_place():
    spec = check(attention(rotary=True), SEQUENCES, [16, 2, 4, 4])
    heads = spec.axes["q.weight"][0]
    assert heads == (Run(2, "q", block=4), Run(2, "q", block=4))
    assert spec.axes["k.weight"][0] == ()


def test_queries_keys_and_values_interleaved_by_head():
    def forward(m, x):
        heads = m.all(m.embed(x)).unflatten(-1, (4, 12)).transpose(1, 2)
        query, key, value = heads.chunk(3, -1)
        mixed = (query @ key.mT).softmax(-1) @ value
        return m.out(mixed.transpose(1, 2).flatten(2))

    model = Written(forward, embed=nn.Linear(5, 8), all=nn.Linear(8, 48), out=nn.Linear(16, 3))
    # No run moves three blocks of a head with three orders in them: the heads stay.
    check(model, SEQUENCES, [8] + [4] * 8)


def test_a_tied_head_follows_the_embedding():
    def forward(m, tokens):
        stream = m.tokens(tokens) + m.positions[:, : tokens.shape[1]]
        return m.head(stream + m.contract(F.gelu(m.expand(stream))))

    tokens = nn.Embedding(11, 8)
    head = nn.Linear(8, 11, bias=False)
    head.weight = tokens.weight
    model = Written(
        forward, tokens=tokens, positions=nn.Parameter(torch.randn(1, 7, 8)),
        expand=nn.Linear(8, 16), contract=nn.Linear(16, 8), head=head,
    )  # fmt: skip
    spec = check(model, TOKENS, [8, 16])
    assert "head.weight" not in spec.axes
    # Positions that this input is too short for stay where they are.
    assert spec.axes["positions"][1] == ()


def test_rows_that_are_looked_up_stay_also_where_they_are_units():
    def forward(m, tokens):
        stream = m.tokens(tokens)
        weights = (stream @ m.tokens.weight.T + m.bias).softmax(-1)
        return m.head(stream + weights @ m.tokens.weight)

    model = Written(
        forward, tokens=nn.Embedding(11, 8), bias=nn.Parameter(torch.zeros(11)),
        head=nn.Linear(8, 2),
    )  # fmt: skip
    check(model, TOKENS, [8])


def test_tokens_and_channels_are_mixed():
    def forward(m, x):
        x = m.embed(x).flatten(2).mT
        x = x + m.back(F.gelu(m.over(m.norm(x).mT))).mT
        return m.head(x.mean(1))

    model = Written(
        forward, embed=nn.Conv2d(3, 8, 4, 4), norm=nn.LayerNorm(8), over=nn.Linear(4, 12),
        back=nn.Linear(12, 4), head=nn.Linear(8, 2),
    )  # fmt: skip
    check(model, IMAGES, [8, 12])
