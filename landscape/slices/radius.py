"""A radius that shows something: as far as the loss grows by a factor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = ["suggest_radius"]

_START = 0.05  # in units of the direction
_MAX_DOUBLINGS = 12  # or halvings
_BISECTIONS = 4


def suggest_radius(
    objective: Objective,
    direction: Tensor,
    *,
    center: Tensor | None = None,
    rise: float = 5.0,
) -> float:
    """The radius at which the larger loss of both sides is `rise` times that of the center.

    From 0.05 on doubled until it is beyond, or halved until it is not, then halved between the two
    to within 1/16 of a doubling, 4.4 %: from 13 to 35 losses. What comes back is not beyond, so the
    losses there are finite. A loss that does not rise that far within 204.8 gives that radius.

    Args:
        direction: (n,); the radius is in units of it.
        center: (n,) by default the checkpoint's own.
        rise: the factor; above 1.

    Raises:
        RequestError: a direction of norm 0, a rise of 1 or less, a loss at the center that is not
            finite or not above 0, which no factor raises, or a direction so long that 0.0000122 of
            it is beyond.
    """
    center = objective.theta if center is None else center
    objective.space.check(center)
    objective.space.check(direction)
    if not 1 < rise < math.inf:
        raise RequestError(f"rise={rise}: expected a factor above 1, such as 5.")
    if not direction.any():
        raise RequestError("the direction is zero everywhere. Give one of a positive norm.")
    base = objective.loss(center)
    if not 0 < base < math.inf:
        raise RequestError(
            f"the loss at the center is {base:.3g}: no factor raises it. Give the radius as a "
            "number, such as 1.0."
        )

    def is_beyond(radius: float) -> bool:
        steps = torch.tensor([[radius], [-radius]], dtype=center.dtype, device=center.device)
        losses = objective.losses(center + steps * direction.to(center))
        return not float(losses.max()) <= rise * base  # NaN is beyond, too

    radius = _START
    began_beyond = is_beyond(radius)
    for _ in range(_MAX_DOUBLINGS):
        radius = radius / 2 if began_beyond else radius * 2
        if is_beyond(radius) != began_beyond:
            break
    else:
        if not began_beyond:
            return radius
        raise RequestError(
            f"a step of {radius:.3g} along the direction already makes the loss more than {rise:g} "
            "times that at the center, or NaN. Divide the direction by its norm."
        )
    low = radius if began_beyond else radius / 2
    high = 2 * low
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return low
