"""Prototypes: a pattern for each class, shown weakly or strongly, under noise.

Its difficulty is built in: strength zero tells nothing. `multi_view` has several patterns a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice

__all__ = ["PrototypeExamples", "prototype_examples", "prototypes"]

_SIZES = {"train": 512, "validation": 2000, "test": 2000}


@dataclass(frozen=True)
class PrototypeExamples:
    """x_i = strength_i prototype[y_i] + noise z_i, with z_i ~ N(0, 1).

    Attributes:
        inputs: (n, D) float32.
        targets: (n,) int64.
        strength: (n,) float32, uniform between 0 and the greatest: the weak are the hard ones.
        prototypes: (C, D) float32, N(0, 1), the same in all splits.
    """

    inputs: Tensor
    targets: Tensor
    strength: Tensor
    prototypes: Tensor


def prototype_examples(
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
    num_examples: int | None = None,
    num_features: int = 64,
    num_classes: int = 10,
    noise: float = 1.0,
    max_strength: float = 1.0,
) -> PrototypeExamples:
    """Examples of `num_classes` classes, as many of each as can be.

    Args:
        seed: of the prototypes and, through a child for each split, of the examples.
        num_examples: 512 for train and 2,000 for the others if not given.
        noise: its standard deviation.
        max_strength: greatest strength. Two prototypes are about sqrt(2 D) apart, so at strength s
            the better of two guesses errs about Phi(-s sqrt(D / 2) / noise).

    Raises:
        RequestError: no such split, or a number out of range.
    """
    if split not in _SIZES:
        raise unknown_choice("split", split, _SIZES)
    size = _SIZES[split] if num_examples is None else num_examples
    for name, number in (
        ("num_examples", size),
        ("num_features", num_features),
        ("num_classes", num_classes),
    ):
        if number < 1:
            raise RequestError(f"{name}={number} draws nothing. Choose 1 or more.")
    if seed < 0:
        raise RequestError(f"seed={seed} is negative. Choose 0 or more.")
    for name, level in (("noise", noise), ("max_strength", max_strength)):
        if not (np.isfinite(level) and level >= 0):
            raise RequestError(f"{name}={level} is no finite number from 0 on. Choose 1, say.")
    of_prototypes, *of_splits = np.random.SeedSequence(seed).spawn(1 + len(_SIZES))
    centres = np.random.default_rng(of_prototypes).standard_normal((num_classes, num_features))
    generator = np.random.default_rng(of_splits[list(_SIZES).index(split)])
    targets = generator.permutation(np.arange(size) % num_classes)
    strength = generator.uniform(0, max_strength, size)
    drawn = generator.standard_normal((size, num_features))
    inputs = strength[:, None] * centres[targets] + noise * drawn
    return PrototypeExamples(
        inputs=torch.from_numpy(inputs.astype(np.float32)),
        targets=torch.from_numpy(targets.astype(np.int64)),
        strength=torch.from_numpy(strength.astype(np.float32)),
        prototypes=torch.from_numpy(centres.astype(np.float32)),
    )


def prototypes(
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
    num_examples: int | None = None,
    num_features: int = 64,
    num_classes: int = 10,
    noise: float = 1.0,
    max_strength: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of `prototype_examples`, which says what they are."""
    drawn = prototype_examples(
        split, seed, num_examples, num_features, num_classes, noise, max_strength
    )
    return drawn.inputs, drawn.targets
