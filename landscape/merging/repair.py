"""REPAIR: gives the network between two solutions the channel statistics of its ends.

Averaged weights make averaged pre-activations, whose variance is smaller the less the two networks
have in common: of two channels of equal variance and correlation r, Var = ((1-a)^2 + a^2 +
2 a (1-a) r) Var. Deep networks without normalisation collapse. `channel_statistics` measures,
`repaired` holds what comes of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.batch_norm import Moments
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.merging.channel_statistics import (
    ChannelLayer,
    channel_layers,
    channel_moments,
    is_dead,
    rescaled,
)
from landscape.merging.points import PointEvaluator, accuracy, checked, joined
from landscape.merging.repaired import STAGES, Repaired, RepairedLayer, Stages
from landscape.objective import Objective
from landscape.paths.examples import Examples

__all__ = ["repair"]


def repair(
    objective: Objective,
    a: Tensor,
    b: Tensor,
    alpha: float = 0.5,
    *,
    layers: str | Sequence[str] = "*",
    buffers: Sequence[Mapping[str, Tensor]] | None = None,
    also: Mapping[str, Objective] | None = None,
) -> Repaired:
    """(1 - alpha) a + alpha b with the means and standard deviations of its channels mended.

    The outputs of every linear layer and convolution, before the activation, get the mean
    (1 - alpha) mu_a + alpha mu_b and the standard deviation (1 - alpha) sigma_a + alpha sigma_b of
    each channel, over the data: W' = s W and b' = s (b - m) + mu with s = sigma / sqrt(v), from the
    mean m and the variance v that the merged network has. Layers are mended in the order in which
    they run, each from a pass of its own with all before it mended, so that the goals are met
    exactly; a pass ends at its layer. There is no epsilon beneath the root: channels that are
    constant are left alone.

    A layer right before a BatchNorm is left out, since its scale is undone there: that BatchNorm's
    statistics are reset to those of the data, which does the same for it. Left out, with a note,
    are layers that run more than once, share their weight or are no plain layer.

    Args:
        a, b: (n,) the ends; align them first.
        alpha: from 0 to 1.
        layers: which to mend: globs over names of modules; a leading "!" takes away, as in
            ["*", "!head"].
        buffers: of a and of b, by name, in networks with BatchNorm; by default those of the data
            at a and at b. With them the ends' goals are measured, and the plain merge is between.
        also: further data by name, such as {"test": ...}; they are evaluated, no more.

    Raises:
        RequestError: ends that do not fit, alpha outside [0, 1], or no layer to mend.

    Source: Jordan et al. 2023, arXiv:2211.08403.
    """
    began = time.perf_counter()
    if not 0 <= alpha <= 1:
        raise RequestError(f"alpha is {alpha}, expected a number from 0 (at a) to 1 (at b).")
    points = PointEvaluator(objective, also=also)
    ends = [checked(objective, end, index) for index, end in enumerate((a, b))]
    held = _end_buffers(points, ends, buffers)
    merged = torch.lerp(ends[0].double(), ends[1].double(), alpha).to(ends[0])
    between = {
        name: torch.lerp(held[0][name].double(), held[1][name].double(), alpha).to(held[0][name])
        for name in held[0]
    }
    found, left_out = channel_layers(points.objective, merged, layers)
    if not found:
        shown = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise RequestError(
            f"there is no layer to repair ({shown or 'none is selected'}). Give an objective of a "
            "network with linear layers or convolutions, and layers='*'."
        )
    goals = _goals(points.objective, ends, held, found, alpha)
    before = channel_moments(points.objective, merged, found, between)
    theta = _mended(points, merged, found, goals)
    statistics = points.statistics(theta)
    after = channel_moments(points.objective, theta, found, statistics)
    evaluated = (
        *(points.at(end, own) for end, own in zip(ends, held, strict=True)),
        points.at(merged, between),
        points.at(merged),
        points.at(theta, statistics),
    )
    return Repaired(
        settings={
            "alpha": float(alpha),
            "layers": [layers] if isinstance(layers, str) else list(layers),
            "buffers": buffers is not None,
            "also": {name: other.batches.fingerprint for name, other in (also or {}).items()},
        },
        provenance={
            **objective.provenance(),
            "ends": fingerprint({"a": ends[0], "b": ends[1]}).hex(),
        },
        notes=(*objective.notes, *_notes(found, left_out)),
        theta=theta,
        buffers=points.buffers(theta),
        alpha=float(alpha),
        layers=tuple(
            _summary(layer, goals[layer.name], before[layer.name], after[layer.name], theta.dtype)
            for layer in found
        ),
        left_out=left_out,
        stages={name: _stages([one[name] for one in evaluated]) for name in evaluated[0]},
        wall_time=time.perf_counter() - began,
    )


@dataclass(frozen=True, eq=False)
class _Goal:
    """(C,) float64, for the channels of a layer."""

    mean: Tensor
    std: Tensor


def _goals(
    objective: Objective,
    ends: Sequence[Tensor],
    buffers: Sequence[Mapping[str, Tensor]],
    layers: Sequence[ChannelLayer],
    alpha: float,
) -> dict[str, _Goal]:
    first, second = (
        channel_moments(objective, end, layers, own) for end, own in zip(ends, buffers, strict=True)
    )
    return {
        layer.name: _Goal(
            torch.lerp(first[layer.name].mean, second[layer.name].mean, alpha),
            torch.lerp(_std(first[layer.name]), _std(second[layer.name]), alpha),
        )
        for layer in layers
    }


def _mended(
    points: PointEvaluator,
    merged: Tensor,
    layers: Sequence[ChannelLayer],
    goals: Mapping[str, _Goal],
) -> Tensor:
    """Theta (n,) with the weights of one layer after another mended."""
    theta, objective = merged, points.objective
    for layer in layers:
        if layer.weight is None:
            continue
        moments = channel_moments(objective, theta, [layer], points.statistics(theta))[layer.name]
        goal, dead = goals[layer.name], is_dead(moments, theta.dtype)
        factors = (goal.std / _std(moments)).masked_fill(dead, 1.0)
        shifts = (goal.mean - factors * moments.mean).masked_fill(dead, 0.0)
        theta = rescaled(objective, theta, layer, factors, shifts)
    return theta


def _summary(
    layer: ChannelLayer, goal: _Goal, before: Moments, after: Moments, dtype: torch.dtype
) -> RepairedLayer:
    dead = is_dead(before, dtype) | is_dead(after, dtype)
    live = ~dead & (goal.std > 0)
    wanted = float(goal.std.square().sum())

    def ratio(moments: Moments) -> float:
        return float(_std(moments).square().sum()) / wanted if wanted > 0 else math.nan

    def largest(distance: Tensor) -> float:
        return float((distance.abs() / goal.std)[live].max()) if live.any() else 0.0

    return RepairedLayer(
        name=layer.name,
        num_channels=len(goal.std),
        dead=int(dead.sum()),
        ratio_before=ratio(before),
        ratio_after=ratio(after),
        mean_error=largest(after.mean - goal.mean),
        std_error=largest(_std(after) - goal.std),
        sets_mean=layer.weight is None or layer.bias is not None,
        is_batch_norm=layer.weight is None,
    )


def _stages(evaluated: Sequence[Examples]) -> Stages:
    """From the examples at each of `STAGES`."""
    rows = joined(evaluated)
    losses = dict(zip(STAGES, rows.loss.tolist(), strict=True))
    difference = torch.tensor([0, 0, -1.0, 0, 1], dtype=torch.float64)
    return Stages(
        losses=losses,
        accuracies=dict(zip(STAGES, accuracy(rows).tolist(), strict=True)),
        change=losses["repaired"] - losses["merged"],
        change_error=rows.standard_error("loss", difference),
    )


def _end_buffers(
    points: PointEvaluator,
    ends: Sequence[Tensor],
    given: Sequence[Mapping[str, Tensor]] | None,
) -> list[dict[str, Tensor]]:
    """What is not the objective's own at each end."""
    if given is None:
        return [points.statistics(end) for end in ends]
    wanted = {
        name: held for name, held in points.objective.buffers.items() if held.is_floating_point()
    }
    if len(given) != len(ends) or any(wanted.keys() - own.keys() for own in given):
        raise RequestError(
            "buffers needs those of a and of b by name: [dict(model.named_buffers()), ...], with "
            f"each of: {', '.join(wanted)}."
        )
    return [{name: own[name].to(held) for name, held in wanted.items()} for own in given]


def _std(moments: Moments) -> Tensor:
    return (moments.squares / moments.count).sqrt()


def _notes(layers: Sequence[ChannelLayer], left_out: Mapping[str, str]) -> list[str]:
    notes = []
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, why in left_out.items() if why == reason]
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        notes.append(f"{len(names)} layer(s) left out ({shown}), as each {reason}")
    unbiased = [layer.name for layer in layers if layer.weight is not None and layer.bias is None]
    if unbiased:
        notes.append(
            f"{', '.join(unbiased)}: no bias that may move, so only standard deviations were set"
        )
    if any(layer.weight is None for layer in layers):
        notes.append("BatchNorm's statistics were reset to those of the data")
    return notes
