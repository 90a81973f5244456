"""Small networks, each made by one function whose arguments JSON can hold.

A checkpoint names its factory and arguments, so that anyone can build the network again. Initial
weights come from torch's global generator, as in any `nn.Module`. The data are in `data`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.errors import RequestError, unknown_choice

__all__ = ["cnn", "mlp", "resnet20", "transformer"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def mlp(
    in_features: int = 64,
    hidden: Sequence[int] = (64, 64),
    num_classes: int = 10,
    activation: str = "relu",
) -> nn.Module:
    """Fully connected network; an input of any shape (n, ...) is flattened to (n, in_features).

    Args:
        hidden: widths of the hidden layers; none of them makes a linear classifier.
        activation: "relu", "tanh", "gelu" or "silu". ReLU has no second derivative at its
            kinks; the others are smooth, which a curvature far from flat ground may want.
    """
    if activation not in _ACTIVATIONS:
        raise unknown_choice("activation", activation, _ACTIVATIONS)
    layers: list[nn.Module] = [nn.Flatten()]
    width = in_features
    for next_width in hidden:
        layers += [nn.Linear(width, next_width), _ACTIVATIONS[activation]()]
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def cnn(in_channels: int = 1, width: int = 16, num_classes: int = 10) -> nn.Module:
    """Three 3x3 convolutions with BatchNorm, then the mean over positions and a linear layer.

    For images (n, in_channels, H, W) of 8x8 and larger; each of the last two convolutions halves
    the image and doubles the channels.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )


def resnet20(num_classes: int = 10, width: int = 16, in_channels: int = 3) -> nn.Module:
    """The 20-layer ResNet for CIFAR: three stages of three blocks, `width`, 2x and 4x channels.

    Where a stage halves the image, the shortcut is a projection: a 1x1 convolution of stride 2 with
    BatchNorm (the paper's option B; its CIFAR networks have option A, 2,752 parameters fewer).
    272,474 parameters by default.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2; He et al. 2015 for the initial weights.
    """
    blocks: list[nn.Module] = []
    channels = width
    for stage in range(3):
        for block in range(3):
            out_channels = width * 2**stage
            stride = 2 if stage > 0 and block == 0 else 1
            blocks.append(_ResidualBlock(channels, out_channels, stride))
            channels = out_channels
    model = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def transformer(
    vocabulary: int = 65, context: int = 64, dim: int = 128, depth: int = 4, heads: int = 4
) -> nn.Module:
    """Causal character model, (n, T) int64 -> logits (n, T, vocabulary), with T <= context.

    Position t sees the tokens 0 ... t. LayerNorm stands before each branch; token and output
    embeddings are untied; there is no dropout, so that the loss is a function of the weights.
    818,176 parameters by default.

    Source: Radford et al. 2019 (GPT-2), also for the initial weights.
    """
    if dim % heads != 0:
        raise RequestError(
            f"dim={dim} does not split into heads={heads} equal parts. "
            f"Choose a multiple of {heads}, such as dim={heads * max(1, dim // heads)}."
        )
    return _Transformer(vocabulary, context, dim, depth, heads)


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs)))))
        return F.relu(self.shortcut(inputs) + residual)


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
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.project(mixed.transpose(1, 2).flatten(-2))
        hidden = F.gelu(self.expand(self.norm2(stream)))
        out: Tensor = stream + self.contract(hidden)
        return out
