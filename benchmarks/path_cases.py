"""Cases: trained networks of one shape and images on disk, the same for every contestant.

`path_contestants` measures along the lines between the networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.objective import Objective
from landscape.trainers.data import digits
from landscape.trainers.models import cnn, mlp, resnet20

__all__ = ["PathCase", "cnn_family", "flat", "mlp_case", "mlp_family", "resnet_case", "trained"]

_BATCH = 128  # examples of a batch that everybody passes at a time
_MEAN, _STD = 0.45, 0.25  # of a pixel in [0, 1], about
_RESNET_STEPS, _RESNET_BATCH = 10, 64
_TRAINING_BATCH = 64  # of the networks for digits
_RATE = 3e-3


@dataclass(frozen=True)
class PathCase:
    """Solutions of one network, and its data as they lie on disk.

    Attributes:
        model: of which the solutions are copies.
        solutions: the trained networks.
        images: (N, C, H, W) uint8, `levels` being 1.0.
        labels: (N,) int64.
        centered: whether the pixels' mean and standard deviation are taken out.
    """

    name: str
    solutions: tuple[nn.Module, ...]
    images: NDArray[np.uint8]
    labels: Tensor
    levels: int
    centered: bool

    @property
    def description(self) -> str:
        size = sum(parameter.numel() for parameter in self.solutions[0].parameters())
        return f"{self.name}, {size:,} parameters, {len(self.labels):,} images"

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(module, nn.BatchNorm2d) for module in self.solutions[0].modules())

    @property
    def batch_size(self) -> int:
        return _BATCH

    def transformed(self, image: NDArray[np.uint8]) -> Tensor:
        """One image (C, H, W) or many, as the network takes it."""
        values = torch.from_numpy(image).float().div(self.levels)
        return values.sub(_MEAN).div(_STD) if self.centered else values

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """All data in memory."""
        inputs = self.transformed(self.images)
        both = (torch.split(whole, _BATCH) for whole in (inputs, self.labels))
        return list(zip(*both, strict=True))

    def objective(self) -> Objective:
        """Of a copy of the first solution."""
        return Objective(copy.deepcopy(self.solutions[0]), self.batches())

    def thetas(self) -> list[Tensor]:
        """(n,) of each solution, in the order of the model's parameters."""
        return [flat(solution) for solution in self.solutions]

    def part(self, num_images: int, num_solutions: int) -> PathCase:
        """The first images and solutions."""
        return replace(
            self,
            solutions=self.solutions[:num_solutions],
            images=self.images[:num_images],
            labels=self.labels[:num_images],
        )


def flat(model: nn.Module) -> Tensor:
    """(n,) its weights, in the order of its parameters."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def trained(
    make: Callable[[], nn.Module],
    inputs: Tensor,
    labels: Tensor,
    *,
    seed: int,
    steps: int,
    batch_size: int = _TRAINING_BATCH,
) -> nn.Module:
    """A new network, in eval mode after so many steps of Adam; the seed draws all that is random.

    The learning rate falls linearly to zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            chosen = torch.randint(len(labels), (batch_size,))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def resnet_case(num_images: int, num_solutions: int) -> PathCase:
    """ResNet-20, briefly trained from different initial weights, on images that are drawn.

    Source of the images: a random pattern for each of ten classes, in noise.
    """
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=num_images)
    patterns = generator.uniform(60, 170, size=(10, 3, 32, 32))
    noise = generator.normal(0, 50, size=(num_images, 3, 32, 32))
    images = (patterns[labels] + noise).clip(0, 255).astype(np.uint8)
    case = PathCase("ResNet-20", (), images, torch.from_numpy(labels), 255, True)
    inputs = case.transformed(images)
    solutions = (
        trained(
            resnet20, inputs, case.labels,
            seed=seed, steps=_RESNET_STEPS, batch_size=min(_RESNET_BATCH, num_images),
        )
        for seed in range(num_solutions)
    )  # fmt: skip
    return replace(case, solutions=tuple(solutions))


def mlp_case(num_solutions: int, steps: int) -> PathCase:
    """The digits MLP 64-64-64-10 from different initial weights."""
    inputs, labels = digits("train")
    images = (16 * inputs).round().to(torch.uint8).numpy()
    solutions = mlp_family((64, 64), range(num_solutions), steps)
    return PathCase("digits MLP 64-64-64-10", solutions, images, labels, 16, False)


def mlp_family(hidden: Sequence[int], seeds: Sequence[int], steps: int) -> tuple[nn.Module, ...]:
    """MLPs for digits, one for each seed; the same again within a run."""
    return tuple(_digits_mlp(tuple(hidden), seed, steps) for seed in seeds)


def cnn_family(width: int, seeds: Sequence[int], steps: int) -> tuple[nn.Module, ...]:
    """Three convolutions with BatchNorm for digits, one network for each seed."""
    return tuple(_digits_cnn(width, seed, steps) for seed in seeds)


@cache
def _digits_mlp(hidden: tuple[int, ...], seed: int, steps: int) -> nn.Module:
    return trained(lambda: mlp(64, hidden, 10), *digits("train"), seed=seed, steps=steps)


@cache
def _digits_cnn(width: int, seed: int, steps: int) -> nn.Module:
    return trained(lambda: cnn(1, width), *digits("train"), seed=seed, steps=steps)
