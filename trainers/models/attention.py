"""Transformers: for characters, and for images. Networks without attention are in `residual`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.errors import RequestError

__all__ = ["transformer", "vit"]


def transformer(
    vocabulary: int = 65, context: int = 64, dim: int = 128, depth: int = 4, heads: int = 4
) -> nn.Module:
    """Causal character model, (n, T) int64 -> logits (n, T, vocabulary), with T <= context.

    Position t sees the tokens 0 ... t. LayerNorm stands before each branch; token and output
    embeddings are untied; there is no dropout, so that the loss is a function of the weights.
    818,176 parameters by default.

    Source: Radford et al. 2019 (GPT-2), also for the initial weights.
    """
    _require_equal_heads(dim, heads)
    return _Transformer(vocabulary, context, dim, depth, heads)


def vit(
    image_size: int = 32,
    patch: int = 4,
    in_channels: int = 3,
    dim: int = 128,
    depth: int = 4,
    heads: int = 4,
    mlp_dim: int | None = None,
    num_classes: int = 10,
    dropout: float = 0.0,
    shifted_patches: bool = False,
    local_attention: bool = False,
) -> nn.Module:
    """Vision transformer: patches and a class token, pre-norm blocks, logits from the class token.

    Args:
        patch: side of a patch; it divides image_size.
        mlp_dim: width within a block's perceptron; 4 * dim where it is None.
        dropout: after the embedding and at each branch's end, in train mode only. Under `vmap`
            it needs `randomness="different"`.
        shifted_patches: a patch also sees the image shifted by one pixel to each of four
            sides, and its pixels pass a LayerNorm before they are embedded.
        local_attention: the softmax's temperature is learned, one a block, and a token does
            not attend to itself.

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929; Lee et al. 2021, arXiv:2112.13492, for the
    last two, with the shifts of the vit-pytorch package instead of diagonal ones by half a patch.
    Initial weights are torch's default; positions and class token have a deviation of 0.02.
    """
    _require_equal_heads(dim, heads)
    if image_size % patch != 0:
        divisor = math.gcd(image_size, patch)
        raise RequestError(
            f"patch={patch} does not divide image_size={image_size}. Choose a divisor, such as "
            f"patch={divisor}."
        )
    if not 0 <= dropout < 1:
        raise RequestError(f"dropout={dropout} is not in [0, 1). Choose one such as 0.1.")
    embed = _PatchEmbedding(patch, in_channels, dim, shifted=shifted_patches)
    blocks = [
        _ImageBlock(dim, heads, mlp_dim or 4 * dim, dropout, local=local_attention)
        for _ in range(depth)
    ]
    return _VisionTransformer(embed, (image_size // patch) ** 2, blocks, num_classes, dropout)


def _require_equal_heads(dim: int, heads: int) -> None:
    if dim % heads != 0:
        raise RequestError(
            f"dim={dim} does not split into heads={heads} equal parts. "
            f"Choose a multiple of {heads}, such as dim={heads * max(1, dim // heads)}."
        )


def _attention(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None) -> Tensor:
    """softmax(q k') v for (..., T, d) each; `hidden` (T, T) says which keys a query skips.

    The query is scaled already. Spelt out, as torch's fused attention has no batching rule on the
    CPU, no forward mode and no second derivative.
    """
    scores = query @ key.transpose(-1, -2)  # (..., T, T)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(-1) @ value


class _Transformer(nn.Module):
    def __init__(self, vocabulary: int, context: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(context, dim)
        self.blocks = nn.Sequential(*(_TransformerBlock(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                # Each block adds two branches to the stream: shrunk so that its variance stays.
                branch_end = name.endswith(("project.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * depth) if branch_end else 1))

    def forward(self, tokens: Tensor) -> Tensor:
        length, context = tokens.shape[-1], self.positions.num_embeddings
        if length > context:
            raise RequestError(
                f"a sequence of {length} tokens is longer than context={context}. Shorten it, "
                f"or make the model with context={length}."
            )
        stream = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        logits: Tensor = self.head(self.norm(self.blocks(stream)))
        return logits  # (n, T, vocabulary)


class _TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.attend = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)

    def forward(self, stream: Tensor) -> Tensor:
        heads = self.attend(self.norm1(stream)).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.transpose(1, 3).unbind(2)  # each (n, heads, T, dim / heads)
        length = stream.shape[-2]
        later = torch.ones(length, length, dtype=torch.bool, device=stream.device).triu(1)
        mixed = _attention(query / math.sqrt(query.shape[-1]), key, value, later)
        stream = stream + self.project(mixed.transpose(1, 2).flatten(-2))
        hidden = F.gelu(self.expand(self.norm2(stream)))
        out: Tensor = stream + self.contract(hidden)
        return out


class _PatchEmbedding(nn.Module):
    def __init__(self, patch: int, in_channels: int, dim: int, *, shifted: bool) -> None:
        super().__init__()
        self.patch = patch
        self.shifted = shifted
        size = patch**2 * in_channels * (5 if shifted else 1)
        self.norm = nn.LayerNorm(size) if shifted else nn.Identity()
        self.embed = nn.Linear(size, dim)

    def forward(self, images: Tensor) -> Tensor:
        if self.shifted:
            shifts = [(1, -1, 0, 0), (-1, 1, 0, 0), (0, 0, 1, -1), (0, 0, -1, 1)]
            images = torch.cat([images, *(F.pad(images, shift) for shift in shifts)], dim=1)
        n, channels, height, width = images.shape
        side = self.patch
        grid = images.reshape(n, channels, height // side, side, width // side, side)
        patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (n, T, size)
        tokens: Tensor = self.embed(self.norm(patches))
        return tokens


class _VisionTransformer(nn.Module):
    def __init__(
        self,
        embed: _PatchEmbedding,
        num_patches: int,
        blocks: list[_ImageBlock],
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        dim = embed.embed.out_features
        self.embed = embed
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, num_patches + 1, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images)
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], dim=1)
        stream = self.blocks(self.dropout(tokens + self.positions))
        logits: Tensor = self.head(self.norm(stream[:, 0]))
        return logits  # (n, num_classes)


class _ImageBlock(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_dim: int, dropout: float, *, local: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.attend = nn.Linear(dim, 3 * dim, bias=False)
        self.project = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, mlp_dim)
        self.contract = nn.Linear(mlp_dim, dim)
        self.dropout = nn.Dropout(dropout)
        scale = torch.tensor(math.sqrt(heads / dim))
        self.log_scale = nn.Parameter(scale.log()) if local else None

    def forward(self, stream: Tensor) -> Tensor:
        heads = self.attend(self.norm1(stream)).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.transpose(1, 3).unbind(2)  # each (n, heads, T, dim / heads)
        if self.log_scale is None:
            mixed = _attention(query / math.sqrt(query.shape[-1]), key, value, None)
        else:
            itself = torch.eye(stream.shape[-2], dtype=torch.bool, device=stream.device)
            mixed = _attention(query * self.log_scale.exp(), key, value, itself)
        stream = stream + self.dropout(self.project(mixed.transpose(1, 2).flatten(-2)))
        branch = self.contract(F.gelu(self.expand(self.norm2(stream))))
        out: Tensor = stream + self.dropout(branch)
        return out
