"""Data sets that need no network, as the `(inputs, targets)` tensors that an objective takes.

The networks for them are in `models`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from landscape.errors import RequestError, unknown_choice

__all__ = ["digits"]


def digits(
    split: Literal["train", "test"] = "train", seed: int = 0, test_fraction: float = 0.2
) -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that come with scikit-learn.

    Args:
        seed: draws the split, stratified by class; both splits must be given the same one.
        test_fraction: share of the examples that are kept for the test split.

    Returns:
        inputs: (n, 1, 8, 8) float32 in [0, 1]: the grey levels 0 ... 16 divided by 16.
        targets: (n,) int64, 0 ... 9, in random order.

    Raises:
        RequestError: no such split, a seed outside 32 bits, or a split with fewer than one
            example for each class.

    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", test part.
    """
    if split not in ("train", "test"):
        raise unknown_choice("split", split, ("train", "test"))
    if not 0 <= seed < 2**32:
        raise RequestError(f"seed={seed} is not in 0 ... 2**32 - 1. Choose one that is.")
    bunch = load_digits()
    total, num_classes = len(bunch.target), len(bunch.target_names)
    lowest = num_classes / total
    if not lowest <= test_fraction <= 1 - lowest:
        raise RequestError(
            f"test_fraction={test_fraction} leaves fewer than {num_classes} of the {total} digits "
            "on one side. Choose a share such as 0.2."
        )
    train, test = train_test_split(
        np.arange(total),
        test_size=round(test_fraction * total),
        random_state=seed,
        stratify=bunch.target,
    )
    chosen = train if split == "train" else test
    inputs = torch.tensor(bunch.images[chosen] / 16, dtype=torch.float32)
    targets = torch.tensor(bunch.target[chosen], dtype=torch.int64)
    return inputs[:, None], targets  # (n, 1, 8, 8), (n,)
