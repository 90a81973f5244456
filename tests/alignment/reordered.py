"""Small networks with what may be reordered in each, written by hand, and copies with units moved.

Biases, norm affines and running statistics are random: nothing may be left behind unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.alignment.permutations import Axis, PermutationSpec, Run
from landscape.objective import Objective

MLP_SHAPES = [
    (4, 8, 3),
    (10, 16, 16, 3),
    (6, 12, 24, 12, 2),
    (5, 20, 20, 20, 20, 2),
    (8, 32, 32, 32, 32, 32, 4),
    (8, 12, 12, 12, 12, 12, 12, 3),
]


@dataclass(frozen=True)
class Problem:
    """A network with data, a loss, and what may be reordered."""

    objective: Objective
    spec: PermutationSpec

    def copy(self, seed: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """A randomly reordered copy: theta, buffers, and what was done to it."""
        drawn = self.spec.random(seed)
        named = self.spec.apply(self.objective.space.named(self.objective.theta), drawn)
        buffers = self.spec.apply(self.objective.buffers, drawn)
        return self.objective.space.flatten(named), buffers, drawn


def objective_of(model: nn.Module, shape: Sequence[int], classes: int, seed: int) -> Objective:
    """On random data, in two ragged batches."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(11, *shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, classes, (11,), generator=generator)
    dtype = next(model.parameters()).dtype
    return Objective(model, (inputs.to(dtype), targets), batch_size=7)


def shaken(model: nn.Module, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """With random biases, norm affines and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 4
            tensor.copy_(drawn / fan_in**0.5 + ("norm" in name and name.endswith("weight")))
        for name, tensor in model.named_buffers():
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(drawn + (0.5 if name.endswith("var") else 0))
    return model


def mlp(widths: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> Problem:
    """Linear layers with ReLUs between them."""
    axes: dict[str, tuple[Axis, ...]] = {}
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for index in range(last + 1):
        inputs: Axis = (Run(widths[index], f"h{index}"),) if index else ()
        outputs: Axis = (Run(widths[index + 1], f"h{index + 1}"),) if index < last else ()
        axes |= {f"{2 * index}.weight": (outputs, inputs), f"{2 * index}.bias": (outputs,)}
        layers += [nn.Linear(widths[index], widths[index + 1]), nn.ReLU()]
    model = shaken(nn.Sequential(*layers[:-1]), seed, dtype)
    return Problem(objective_of(model, widths[:1], widths[-1], seed), PermutationSpec(axes))


def vgg(seed: int = 0) -> Problem:
    """Two convolutions, flattened for two linear layers."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(6 * 4, 9), nn.ReLU(), nn.Linear(9, 3)),
    )
    one, two, three = (Run(5, "one"),), (Run(6, "two"),), (Run(9, "three"),)
    spec = PermutationSpec(
        {
            **{"0.weight": (one, (), (), ()), "0.bias": (one,)},
            **{"3.weight": (two, one, (), ()), "3.bias": (two,)},
            **{"7.weight": (three, (Run(6, "two", block=4),)), "7.bias": (three,)},
            "9.weight": ((), three),
        }
    )
    return Problem(objective_of(shaken(model, seed), (2, 8, 8), 3, seed), spec)


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(ResidualBlock(6, 6), ResidualBlock(6, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


def _norm(name: str, axis: Axis, buffers: bool = True) -> dict[str, tuple[Axis, ...]]:
    parts = ("weight", "bias", *(("running_mean", "running_var") if buffers else ()))
    return {f"{name}.{part}": (axis,) for part in parts}


def resnet(seed: int = 0) -> Problem:
    """Two residual blocks with BatchNorm, the second with a projection."""
    one, two = (Run(6, "stream1"),), (Run(8, "stream2"),)
    first, second = (Run(6, "block0"),), (Run(8, "block1"),)
    spec = PermutationSpec(
        {
            **{"stem.weight": (one, (), (), ()), **_norm("norm", one)},
            **{"blocks.0.conv1.weight": (first, one, (), ()), **_norm("blocks.0.norm1", first)},
            **{"blocks.0.conv2.weight": (one, first, (), ()), **_norm("blocks.0.norm2", one)},
            **{"blocks.1.conv1.weight": (second, one, (), ()), **_norm("blocks.1.norm1", second)},
            **{"blocks.1.conv2.weight": (two, second, (), ()), **_norm("blocks.1.norm2", two)},
            **{"blocks.1.shortcut.weight": (two, one, (), ()), "blocks.1.shortcut.bias": (two,)},
            "head.weight": ((), two),
        }
    )
    return Problem(objective_of(shaken(ResNet(), seed), (2, 5, 5), 3, seed), spec)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        return self.out(
            F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        )


class FusedAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Transformer(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 12)
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.attention = (FusedAttention if fused else Attention)(12, 3)
        self.up, self.down = nn.Linear(12, 10), nn.Linear(10, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def transformer(seed: int = 0, *, fused: bool = False) -> Problem:
    """A block with three heads; with its own projections, or `nn.MultiheadAttention`."""
    stream, hidden = (Run(12, "stream"),), (Run(10, "hidden"),)
    query = Run(3, "heads", block=4, inner=("qk0", "qk1", "qk2"))
    value = Run(3, "heads", block=4, inner=("vo0", "vo1", "vo2"))
    axes: dict[str, tuple[Axis, ...]] = {
        **{"embed.weight": (stream, ()), "embed.bias": (stream,)},
        **_norm("norm1", stream, buffers=False),
        **_norm("norm2", stream, buffers=False),
        **{"up.weight": (hidden, stream), "up.bias": (hidden,)},
        **{"down.weight": (stream, hidden), "down.bias": (stream,)},
        "head.weight": ((), stream),
    }
    if fused:
        name = "attention.inner"
        rows = (query, query, value)
        axes |= {f"{name}.in_proj_weight": (rows, stream), f"{name}.in_proj_bias": (rows,)}
        out = f"{name}.out_proj"
    else:
        for part, run in {"query": query, "key": query, "value": value}.items():
            axes[f"attention.{part}.weight"] = ((run,), stream)
            axes[f"attention.{part}.bias"] = ((run,),)
        out = "attention.out"
    axes |= {f"{out}.weight": (stream, (value,)), f"{out}.bias": (stream,)}
    model = shaken(Transformer(fused), seed)
    return Problem(objective_of(model, (5, 4), 3, seed), PermutationSpec(axes))


NETWORKS = {
    "vgg": vgg,
    "resnet": resnet,
    "transformer": transformer,
    "fused": lambda seed=0: transformer(seed, fused=True),
}


def same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Bit for bit, under the same names."""
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
