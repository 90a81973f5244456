"""Cases: a network, data and directions for a plane of the loss, the same for every contestant.

`slice_contestants` measures along them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from landscape.objective import Objective
from landscape.slices.directions import random_directions
from landscape.trainers.data import digits
from landscape.trainers.models import mlp, resnet20

__all__ = ["Case", "Point", "cnn_case", "forward_flops", "grid_points", "mlp_case"]

_SEED = 0
_FEW = 16  # examples for what needs only some: more would be seen in the peak memory
_OUR_BATCH = 128  # examples of a batch that our objective is given; it may cut them anew

Point = tuple[float, float]


@dataclass(frozen=True)
class Case:
    """A network, its data and two directions: the same for every contestant.

    Attributes:
        model: in eval mode; a contestant works on its own copy.
        loader_sizes: batch sizes that the user of a DataLoader may choose from.
        directions: two of (n,), filter-normalised.
    """

    description: str
    model: nn.Module
    inputs: Tensor
    labels: Tensor
    loader_sizes: tuple[int, ...]
    directions: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, name: str, model: nn.Module, data: tuple[Tensor, Tensor], loader_sizes: tuple[int, ...]
    ) -> Case:
        """The network on these data; `name` says which."""
        inputs, labels = data
        size = sum(parameter.numel() for parameter in model.parameters())
        description = f"{name}, {size:,} parameters, {len(labels):,} images"
        case = cls(description, model.eval(), inputs, labels, loader_sizes, ())
        few = case.part(_FEW).objective()  # directions do not depend on the data
        return replace(case, directions=random_directions(few, 2, seed=_SEED))

    def objective(self) -> Objective:
        """In the precision of the model."""
        inputs, labels = (torch.split(data, _OUR_BATCH) for data in (self.inputs, self.labels))
        batches = list(zip(inputs, labels, strict=True))
        return Objective(copy.deepcopy(self.model), batches, loss="cross_entropy")

    def part(self, num: int) -> Case:
        """The same network on the first examples."""
        return replace(self, inputs=self.inputs[:num], labels=self.labels[:num])


def cnn_case(num_images: int) -> Case:
    """ResNet-20 with initial weights and random images."""
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(num_images, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (num_images,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = resnet20()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # As after some training: loss-landscapes divides by the norm of each bias.
                nn.init.normal_(module.bias, std=0.1)
                module.momentum = None  # statistics of the pass that follows, and no others
    with torch.no_grad():
        model(images[:_FEW])
    return Case.of("ResNet-20", model, (images, labels), loader_sizes=(128, 256))


def mlp_case(dtype: torch.dtype = torch.float32) -> Case:
    """The digits MLP 64-64-64-10 with initial weights."""
    inputs, labels = digits("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = mlp(64, (64, 64), 10).to(dtype)
    data = inputs.to(dtype), labels
    return Case.of("digits MLP 64-64-64-10", model, data, loader_sizes=(32, 256))


def grid_points(num: tuple[int, int]) -> list[Point]:
    """Coordinates of a plane of radius 1, row by row."""
    first, second = (np.linspace(-1, 1, count).tolist() for count in num)
    return [(a, b) for a in first for b in second]


def forward_flops(case: Case) -> float:
    """FLOPs of the forward passes of one point, a multiplication with its addition being two."""
    few = min(len(case.labels), 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        case.model(case.inputs[:few])
    return float(counter.get_total_flops() / few * len(case.labels))
