"""Caveats: what a picture depends on and should not, measured, with a sentence for the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.directions import Direction, regenerate
from landscape.slices.rescaling import rescaling_change
from landscape.slices.sweep import Sweep

__all__ = ["added"]

_MAX_COSINE = 0.1  # above it, distances in the plane are visibly wrong
_SHARE = 0.1  # of the rise of the loss: more is worth a sentence


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
        measure: also those that take evaluations of the loss, at the first and the last point.
    """
    found: dict[str, float] = {}
    notes: list[str] = []
    k = len(sweep.cosines)
    if k > 1 and sweep.kind != "lines":
        largest = float(np.abs(sweep.cosines[~np.eye(k, dtype=bool)]).max())
        found["max_cosine"] = largest
        if largest > _MAX_COSINE:
            notes.append(
                f"the directions are not orthogonal: |cosine| up to {largest:.2f}, so that "
                "distances in the picture are not those between the weights"
            )
    clipped = np.isposinf(sweep.loss) & sweep.done
    found["clipped_share"] = float(clipped.mean())
    if clipped.any():
        notes.append(f"{clipped.mean():.1%} of the points are beyond the clip, or overflow")
    if sweep.num_nan:
        notes.append(f"the loss is NaN at {sweep.num_nan} of {sweep.done.size} points: kept as NaN")
    filled_in = ~sweep.done & np.isfinite(sweep.loss)
    if filled_in.any():
        found["interpolated_share"] = float(filled_in.mean())
    if measure:
        ends = sorted({0, len(coefficients) - 1})
        losses = torch.as_tensor(sweep.loss.reshape(-1)[ends])
        some = coefficients[ends]
        rise = float((losses - sweep.center_loss).abs().max())
        found |= _stale_statistics(sweep, objective, chart, some, losses, rise, notes)
        found |= _rescaling(objective, chart, some, losses, directions, rise, notes)
    return replace(sweep, caveats=found, notes=(*sweep.notes, *notes))


def _stale_statistics(
    sweep: Sweep,
    objective: Objective,
    chart: Chart,
    coefficients: Tensor,
    losses: Tensor,
    rise: float,
    notes: list[str],
) -> dict[str, float]:
    """How far frozen BatchNorm statistics are from those that the moved weights would have."""
    if sweep.settings["bn"] != "eval" or not objective.has_batch_norm:
        return {}
    if not losses.isfinite().all():  # clipped, or the shard of another
        losses = objective.losses(chart.thetas(coefficients))
        rise = float((losses - sweep.center_loss).abs().max())
    fresh = objective.under("recalibrate").losses(chart.thetas(coefficients))
    gap = float((fresh - losses).abs().max())
    if not gap <= _SHARE * rise:
        pairs = ", ".join(
            f"{frozen:.3g} instead of {recalculated:.3g}"
            for frozen, recalculated in zip(losses.tolist(), fresh.tolist(), strict=True)
        )
        notes.append(
            f"BatchNorm's frozen statistics mislead: at the ends the loss is {pairs} with "
            "statistics of the moved weights. bn='recalibrate' shows those"
        )
    return {"stale_bn_gap": gap}


def _rescaling(
    objective: Objective,
    chart: Chart,
    coefficients: Tensor,
    losses: Tensor,
    directions: Sequence[Tensor],
    rise: float,
    notes: list[str],
) -> dict[str, float]:
    """How far the loss changes when neurons are rescaled, the function staying as it is."""
    recipes: list[Any] = [getattr(direction, "recipe", {}) for direction in directions]
    if not all(recipe.get("kind") == "random" for recipe in recipes) or not losses.isfinite().all():
        return {}

    def again(theta: Tensor) -> Tensor:
        made: list[Direction] = [regenerate(objective, recipe, theta) for recipe in recipes]
        return torch.stack([vector.as_subclass(Tensor) for vector in made])

    if not torch.equal(chart.center, objective.theta):
        return {}
    change = rescaling_change(objective, again, coefficients, losses)
    if change is None:
        return {}
    if change > _SHARE * rise:
        notes.append(
            f"the picture depends on the scale of single neurons: with each rescaled by a factor "
            f"of 1/2 to 2, the function the same, the loss at the ends changes by up to "
            f"{change:.2g}. normalize='element' does not depend on it"
        )
    return {"rescaling_change": change}
