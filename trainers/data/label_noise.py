"""Label noise: some or all labels replaced, with the record of which were.

`splits` draws whole examples; the images and texts themselves come from their own files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice

__all__ = ["NoiseKind", "NoisyLabels", "noisy_labels"]

NoiseKind = Literal["uniform", "symmetric", "permuted"]
_KINDS = ("uniform", "symmetric", "permuted")


@dataclass(frozen=True)
class NoisyLabels:
    """Labels after the noise.

    Attributes:
        labels: (n,) int64.
        selected: (n,) bool: the label was drawn anew. It may still be the true one.
        changed: (n,) bool: the label is not the true one.
    """

    labels: Tensor
    selected: Tensor
    changed: Tensor


def noisy_labels(
    targets: Tensor,
    num_classes: int,
    kind: NoiseKind = "uniform",
    rate: float = 1.0,
    *,
    seed: int,
) -> NoisyLabels:
    """Draws the labels of exactly round(rate n) examples anew; they are chosen at random.

    The three kinds are not the same noise at the same rate p, of C classes:

    - "uniform": any class, the true one too. A share p (1 - 1/C) is wrong, on average.
    - "symmetric": any class but the true one. A share p is wrong, exactly.
    - "permuted": the selected examples exchange their labels by one random permutation, so each
      class keeps its size. About p (1 - sum_c f_c^2) are wrong, f_c being the share of class c.

    Args:
        targets: (n,) integers, 0 ... num_classes - 1; left as they are.

    Raises:
        RequestError: no such kind, or targets, rate or seed out of range.

    Source: Zhang et al. 2017, arXiv:1611.03530 (random labels).
    """
    if kind not in _KINDS:
        raise unknown_choice("kind", kind, _KINDS)
    if targets.ndim != 1 or targets.is_floating_point():
        raise RequestError(
            f"targets has shape {tuple(targets.shape)} and dtype {targets.dtype}, expected (n,) "
            "class indices. Noise is for one label an example."
        )
    if num_classes < 2:
        raise RequestError(f"num_classes={num_classes} leaves no other label. Give 2 or more.")
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise RequestError(
            f"targets has labels {int(targets.min())} ... {int(targets.max())}, outside 0 ... "
            f"{num_classes - 1}. Give the right num_classes."
        )
    if not 0 <= rate <= 1:
        raise RequestError(f"rate={rate} is not in 0 ... 1. Choose a share such as 0.2.")
    if seed < 0:
        raise RequestError(f"seed={seed} is negative. Choose 0 or more.")
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    true = targets.cpu().numpy().astype(np.int64)
    chosen = generator.permutation(len(true))[: round(rate * len(true))]
    labels = true.copy()
    if kind == "uniform":
        labels[chosen] = generator.integers(0, num_classes, len(chosen))
    elif kind == "symmetric":
        shift = generator.integers(1, num_classes, len(chosen))
        labels[chosen] = (true[chosen] + shift) % num_classes
    else:
        labels[chosen] = true[generator.permutation(chosen)]
    selected = np.zeros(len(true), dtype=bool)
    selected[chosen] = True
    device = targets.device
    return NoisyLabels(
        labels=torch.from_numpy(labels).to(device),
        selected=torch.from_numpy(selected).to(device),
        changed=torch.from_numpy(labels != true).to(device),
    )
