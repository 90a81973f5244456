"""Caveats: what a picture depends on and should not, measured, with a sentence for the reader.

What a sweep shows by itself, such as the share of clipped points, is in `sweep.evident`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.directions import Direction, regenerate
from landscape.slices.rescaling import rescaling_change
from landscape.slices.sweep import Sweep, evident

__all__ = ["added"]

_SHARE = 0.1  # of the rise of the loss: more is worth a sentence

Found = tuple[dict[str, float], tuple[str, ...]]  # scalars by name, and sentences


def added(
    sweep: Sweep,
    objective: Objective,
    chart: Chart,
    coefficients: Tensor,
    directions: Sequence[Tensor],
    *,
    measure: bool,
) -> Sweep:
    """The sweep with its caveats, and a note for each that matters.

    Args:
        objective: of the sweep, with its BatchNorm policy.
        coefficients: (P, k) the points of the whole grid.
        measure: also those that take evaluations, at the first and the last point: up to 8 losses,
            3 recalibrations of BatchNorm, and a few passes over the first batch.
    """
    found, notes = evident(sweep)
    if sweep.quadratic is not None and sweep.bn in ("recalibrate", "interpolate"):
        notes += (
            f"the quadratic keeps BatchNorm's statistics as they are at the center, while "
            f"bn={sweep.bn!r} moves them: it is not the expansion of this slice",
        )
    remade = _remaking(objective, chart, directions)
    is_frozen = sweep.bn == "eval" and objective.has_batch_norm
    if measure and (is_frozen or remade is not None):
        # Not the sweep's own losses, which a clip or a shard leaves out, and which an early stop
        # or another execution rounds.
        ends = coefficients[:: max(1, len(coefficients) - 1)]
        losses = objective.losses(chart.thetas(ends))
        rise = float((losses - sweep.center_loss).abs().max())
        for scalars, sentences in (
            _stale_statistics(objective, chart, ends, losses, rise) if is_frozen else ({}, ()),
            _rescaling(objective, remade, ends, losses, rise) if remade is not None else ({}, ()),
        ):
            found |= scalars
            notes += sentences
    return replace(sweep, caveats=found, notes=(*sweep.notes, *notes))


def _stale_statistics(
    objective: Objective, chart: Chart, ends: Tensor, losses: Tensor, rise: float
) -> Found:
    """How far frozen BatchNorm statistics are from those that the moved weights would have."""
    recalibrated = objective.under("recalibrate")
    fresh = recalibrated.losses(chart.thetas(ends))
    gap = float((fresh - losses).abs().max())
    if gap <= _SHARE * rise < float("inf"):
        return {"stale_bn_gap": gap}, ()
    pairs = ", ".join(
        f"{frozen:.3g} instead of {fresh:.3g}"
        for frozen, fresh in zip(losses.tolist(), fresh.tolist(), strict=True)
    )
    note = (
        f"BatchNorm's frozen statistics mislead: at the ends the loss is {pairs} with statistics "
        "of the moved weights. bn='recalibrate' shows those"
    )
    return {"stale_bn_gap": gap}, (note,)


def _remaking(
    objective: Objective, chart: Chart, directions: Sequence[Tensor]
) -> Callable[[Tensor], Tensor] | None:
    """Draws the directions again at other weights; None where they do not follow from a seed."""
    recipes: list[Any] = [getattr(direction, "recipe", {}) for direction in directions]
    if not all(recipe.get("kind") == "random" and "center" not in recipe for recipe in recipes):
        return None
    if not torch.equal(chart.center, objective.theta):
        return None

    def remade(theta: Tensor) -> Tensor:
        made: list[Direction] = [regenerate(objective, recipe, theta) for recipe in recipes]
        return torch.stack([vector.as_subclass(Tensor) for vector in made])

    return remade


def _rescaling(
    objective: Objective,
    remade: Callable[[Tensor], Tensor],
    ends: Tensor,
    losses: Tensor,
    rise: float,
) -> Found:
    """How far the loss changes when neurons are rescaled, the function staying as it is."""
    if not losses.isfinite().all():
        return {}, ()
    change = rescaling_change(objective, remade, ends, losses)
    if change is None:
        return {}, ()
    if change <= _SHARE * rise:
        return {"rescaling_change": change}, ()
    note = (
        "the picture depends on the scale of single neurons: with each rescaled by a factor of "
        f"1/2 to 2, the function the same, the loss at the ends changes by up to {change:.2g}. "
        "normalize='element' does not depend on it"
    )
    return {"rescaling_change": change}, (note,)
