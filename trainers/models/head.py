"""The frozen last layer of the scale-invariant networks, which the other files here make."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

from landscape.errors import RequestError

__all__ = ["with_frozen_head"]

Network = TypeVar("Network", bound=nn.Module)


def with_frozen_head(model: Network, norm: float = 10.0) -> Network:
    """The same model, changed in place: its last linear layer has norm `norm` and is not trained.

    What stands before the head then decides only directions: a free head would trade its own
    norm against the scale of the logits. A bias keeps its random initial values.

    Args:
        norm: of the weight, Frobenius.

    Source: Kodryan et al. 2022, arXiv:2209.03695.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise RequestError(
            f"{type(model).__name__} has no nn.Linear, so it has no head to freeze. Pass a model "
            "that ends in one."
        )
    if not (math.isfinite(norm) and norm > 0):
        raise RequestError(f"norm={norm} is no finite number above 0. Choose one such as 10.")
    head = layers[-1]
    with torch.no_grad():
        head.weight.mul_(norm / head.weight.norm())
    head.requires_grad_(False)
    return model
