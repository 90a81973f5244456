"""Distances between points in weight space: angles, Euclidean and relative, by layer and whole.

`predictions` says how far apart the functions are, which may be equal where the weights are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.batches import batch_length, map_tensors, slice_batch
from landscape.errors import RequestError, unknown_choice
from landscape.objective import Objective
from landscape.trainers.scale_invariance import scale_invariant_groups

__all__ = ["WeightDistances", "scale_invariant_angles", "weight_distances"]

Array = NDArray[np.float64]
By = Literal["layer", "parameter"]

WHOLE = "(all)"  # no module's name
_PROBE_EXAMPLES = 64  # enough outputs to find scale invariance, few enough to be quick


@dataclass(frozen=True, eq=False)
class WeightDistances:
    """Between T points, for G groups of parameters; each array is (T, T, G) and symmetric.

    Attributes:
        groups: their names; the first, "(all)", is the whole vector.
        angle: in radians, from 0 to pi; NaN where a point is zero there. `angle / pi` is the
            angular distance, from 0 to 1.
        cosine: of the angle.
        euclidean: |a - b|.
        relative: |a - b| / ((|a| + |b|) / 2), from 0 to 2; NaN where both are zero.
    """

    groups: tuple[str, ...]
    angle: Array
    cosine: Array
    euclidean: Array
    relative: Array


def weight_distances(
    objective: Objective, thetas: Sequence[Tensor] | Tensor, *, by: By = "layer"
) -> WeightDistances:
    """Distances between points (n,) of an objective, in float64.

    Args:
        by: "layer" joins the parameters of a module; "parameter" tells them apart.

    Raises:
        RequestError: fewer than two points, or points of another network.
    """
    if by not in ("layer", "parameter"):
        raise unknown_choice("grouping", str(by), ("layer", "parameter"))
    _check(objective, thetas)
    groups: dict[str, list[str]] = {WHOLE: list(objective.space.names)}
    for name in objective.space.names:
        group = name if by == "parameter" else name.rpartition(".")[0] or name
        groups.setdefault(group, []).append(name)
    shape = (len(thetas), len(thetas), len(groups))
    found = {key: np.zeros(shape) for key in ("angle", "cosine", "euclidean", "relative")}
    for first in range(len(thetas)):
        for second in range(first, len(thetas)):
            for index, names in enumerate(groups.values()):
                a, b = (_joined(objective, thetas[i], names) for i in (first, second))
                for key, value in _between(a, b).items():
                    found[key][first, second, index] = found[key][second, first, index] = value
    return WeightDistances(tuple(groups), **found)


def scale_invariant_angles(
    objective: Objective,
    thetas: Sequence[Tensor] | Tensor,
    *,
    groups: Sequence[Sequence[str]] | None = None,
) -> Array:
    """(T, T) angles, in radians, between the parameters whose scale the network does not see.

    Each group is brought to norm 1 and all are joined: cos = the mean of the groups' cosines. So
    the angle does not change when groups are rescaled, as training under weight decay does.

    Args:
        groups: names of parameters that can be scaled together; by default those that
            `trainers.scale_invariance` finds on the first batch, if wholly coordinates.

    Returns:
        NaN where no parameter is scale-invariant.

    Raises:
        RequestError: as `weight_distances`; batches that are not (inputs, target).
    """
    _check(objective, thetas)
    own = _found(objective) if groups is None else [tuple(names) for names in groups]
    unit = []
    for theta in thetas:
        parts = [_joined(objective, theta, names) for names in own]
        unit.append([part / torch.linalg.vector_norm(part) for part in parts])
    angles = np.full((len(thetas), len(thetas)), np.nan)
    for first in range(len(thetas) if own else 0):
        for second in range(first, len(thetas)):
            angle = _between(torch.cat(unit[first]), torch.cat(unit[second]))["angle"]
            angles[first, second] = angles[second, first] = angle
    return angles


def _check(objective: Objective, thetas: Sequence[Tensor] | Tensor) -> None:
    if len(thetas) < 2:
        raise RequestError(f"{len(thetas)} point was given: distances are between two or more.")
    for theta in thetas:
        objective.space.check(theta)


def _joined(objective: Objective, theta: Tensor, names: Sequence[str]) -> Tensor:
    """The coordinates of some parameters as one vector, in float64."""
    return torch.cat([theta.detach()[objective.space.slice_of(name)].double() for name in names])


def _between(a: Tensor, b: Tensor) -> dict[str, float]:
    norms = [float(torch.linalg.vector_norm(vector)) for vector in (a, b)]
    distance = float(torch.linalg.vector_norm(a - b))
    mean = sum(norms) / 2
    u, v = a / norms[0], b / norms[1]  # NaN where a norm is 0
    # Of small angles the arc cosine knows only half of the digits (Kahan).
    apart, along = (float(torch.linalg.vector_norm(w)) for w in (u - v, u + v))
    angle = 2 * float(np.arctan2(apart, along))
    return {
        "angle": angle,
        "cosine": float(np.cos(angle)),
        "euclidean": distance,
        "relative": distance / mean if mean > 0 else np.nan,
    }


def _found(objective: Objective) -> list[tuple[str, ...]]:
    """Groups of scale-invariant parameters that are all coordinates."""
    batch = next(iter(objective.batches))
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise RequestError(
            "scale-invariant parameters are found on batches (inputs, target). For others give "
            "groups=[(name, ...), ...], such as the weights in front of a normalisation."
        )
    few = slice_batch(batch[0], 0, _PROBE_EXAMPLES, batch_length(batch[0]))
    inputs = map_tensors(lambda tensor: tensor.to(objective.space.device), few)
    names = set(objective.space.names)
    found = scale_invariant_groups(objective.model, inputs)  # type: ignore[arg-type]
    return [group.names for group in found if names.issuperset(group.names)]
