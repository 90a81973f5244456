"""Problems: a network with batches and their loss, the same for every contestant."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.errors import unknown_choice

__all__ = ["PRODUCT_PROBLEMS", "CrossEntropy", "Problem", "product_problem", "trained_digits"]

# Not an import statement: mypy does not see the mapping of folders in setup.cfg.
trainers: Any = importlib.import_module("landscape.trainers")

PRODUCT_PROBLEMS = ("mlp", "transformer", "resnet20")


class CrossEntropy(nn.Module):
    """Mean cross-entropy of logits (..., C) and labels (...), so of tokens too."""

    reduction = "mean"  # curvlinops asks a loss for it

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, -2), target.flatten())


@dataclass(frozen=True)
class Problem:
    """What is differentiated.

    Attributes:
        name: of the problem, for `--models`.
        description: network and batches, for the report.
        model: in eval mode; a contestant works on its own copy.
        batches: (inputs, labels), all of one size.
        target: gradients that one product with kept graphs may cost at most, if promised.
    """

    name: str
    description: str
    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    target: float | None

    @property
    def size(self) -> int:
        """n, the number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def own_model(self) -> nn.Module:
        """A copy: some contestants leave gradients behind."""
        return copy.deepcopy(self.model)

    def smallest(self) -> Problem:
        """The same network on one example."""
        inputs, labels = self.batches[0]
        return replace(self, batches=[(inputs[:1], labels[:1])])


def product_problem(name: str, *, seed: int) -> Problem:
    """A network at its initial weights with random data of the right shape.

    Raises:
        RequestError: no such problem.
    """
    if name not in PRODUCT_PROBLEMS:
        raise unknown_choice("model", name, PRODUCT_PROBLEMS)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mlp":
            model = trainers.mlp(64, (256, 256), 10)
        elif name == "transformer":
            model = trainers.transformer()
        else:
            model = trainers.resnet20()
    if name == "mlp":
        inputs = torch.rand(4 * 256, 64, generator=generator)
        labels = torch.randint(10, (4 * 256,), generator=generator)
        description, num_batches, target = "MLP 64-256-256-10", 4, 2.0
    elif name == "transformer":
        tokens = torch.randint(65, (4 * 16, 65), generator=generator)
        inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        description, num_batches, target = "4-layer transformer, d = 128, T = 64", 4, 2.0
    else:
        inputs = torch.randn(128, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (128,), generator=generator)
        description, num_batches, target = "ResNet-20, 32 x 32 images", 1, 2.6
    batches = _split(inputs, labels, num_batches)
    return _described(name, description, model, batches, target)


def trained_digits(*, seed: int) -> Problem:
    """A small tanh network, trained on the bundled digits, in float64."""
    inputs, labels = trainers.digits("train", seed=seed)
    inputs = inputs.double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = trainers.mlp(64, (16,), 10, activation="tanh").double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    # Equal batches: hessian-eigenthings weighs ragged ones wrongly.
    count = len(labels) // 3 * 3
    batches = _split(inputs[:count], labels[:count], 3)
    return _described("digits", "trained digits MLP 64-16-10, tanh, float64", model, batches, None)


def _split(inputs: Tensor, labels: Tensor, num_batches: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.chunk(num_batches), labels.chunk(num_batches), strict=True))


def _described(
    name: str,
    network: str,
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    target: float | None,
) -> Problem:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    description = (
        f"{network}: {num_parameters:,} parameters, {len(batches)} x {len(batches[0][1])} examples"
    )
    return Problem(name, description, model.eval(), batches, target)
