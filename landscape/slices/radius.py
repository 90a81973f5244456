"""A radius that shows something: as far as the loss grows by a factor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = ["suggest_radius"]

_START = 0.05  # in units of the direction
_MAX_DOUBLINGS = 12
_BISECTIONS = 4


def suggest_radius(
    objective: Objective,
    direction: Tensor,
    *,
    center: Tensor | None = None,
    rise: float = 5.0,
) -> float:
    """The radius at which the larger loss of both sides is `rise` times that of the center.

    Doubled until it is beyond, then halved to within 1/16 of a doubling; from 4 to 30 losses. A
    loss that does not rise that far gives the farthest radius that was tried.

    Args:
        direction: (n,); the radius is in units of it.
        center: (n,) by default the checkpoint's own.
        rise: the factor; above 1.

    Raises:
        RequestError: a direction of norm 0, a rise of 1 or less, or a loss of 0 or less at the
            center, which no factor raises.
    """
    center = objective.theta if center is None else center
    objective.space.check(center)
    objective.space.check(direction)
    if not rise > 1:
        raise RequestError(f"rise={rise}: expected a factor above 1, such as 5.")
    if not direction.any():
        raise RequestError("the direction is zero everywhere. Give one of a positive norm.")
    base = objective.loss(center)
    if not base > 0:
        raise RequestError(
            f"the loss at the center is {base:.3g}: no factor raises it. Give the radius as a "
            "number, such as 1.0."
        )

    def is_beyond(radius: float) -> bool:
        steps = torch.tensor([[radius], [-radius]], dtype=center.dtype, device=center.device)
        losses = objective.losses(center + steps * direction.to(center))
        return not float(losses.max()) <= rise * base  # NaN is beyond, too

    low, high = 0.0, _START
    while not is_beyond(high):
        if high >= _START * 2**_MAX_DOUBLINGS:
            return high
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2 if low == 0 else math.sqrt(low * high)
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return high
