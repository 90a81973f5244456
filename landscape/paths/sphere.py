"""Sphere: angles between solutions, and the parameters whose length does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from landscape.losses import TARGET_KEYS
from landscape.objective import Objective
from landscape.trainers.averaging import angles
from landscape.trainers.scale_invariance import scale_invariant_parameters

__all__ = ["angle_between", "scale_invariant_mask"]


def angle_between(a: Tensor, b: Tensor) -> float:
    """Angle between two vectors in radians, whatever their lengths; NaN for a zero vector.

    pi / 2 is what two independent ones have in a high dimension.
    """
    return angles(a.unsqueeze(0), b).item()


def scale_invariant_mask(objective: Objective) -> Tensor:
    """(n,) bool: coordinates of the parameters that can be scaled jointly without effect.

    Raises:
        RequestError: a network for which this cannot be found out; see `scale_symmetries`.
    """
    batch = next(iter(objective.batches))
    if isinstance(batch, Mapping):
        inputs: Any = {name: held for name, held in batch.items() if name not in TARGET_KEYS}
    else:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    names = set(scale_invariant_parameters(objective.model, inputs))
    mask = torch.zeros(objective.space.size, dtype=torch.bool, device=objective.device)
    for name in objective.space.names:
        if name in names:
            mask[objective.space.slice_of(name)] = True
    return mask
