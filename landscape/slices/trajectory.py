"""Trajectory: checkpoints of one run in a plane, with the losses that they really have.

`pca` finds the plane, `sweeping` measures the loss around the path, `recorder` keeps checkpoints
while a run goes on.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.result import Result
from landscape.slices.chart import Chart
from landscape.slices.directions import Direction, cosines
from landscape.slices.pca import (
    Points,
    PrincipalComponents,
    principal_components,
    random_walk_shares,
)
from landscape.slices.sweep import Sweep

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Trajectory", "checkpoints_fingerprint", "trajectory"]

Array = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
Limits = tuple[tuple[float, float], tuple[float, float]]

_NUM_SHARES = 10
_GAP_RTOL = 0.1  # between a checkpoint's loss and the plane's, from which on a note says so
_LEVEL_RTOL = 1e-9  # an axis along which the path is that much shorter than along the other
_PARALLEL = 1e-10  # least squared sine between the directions of a plane

_EACH = ("checkpoint",)
_RIGHT = "share of examples that are right"
# In the file: the attribute, its dimensions, unit and meaning.
_VARIABLES = {
    "checkpoint_place": (
        "coordinates",
        ("checkpoint", "direction"),
        "1",
        "coordinates of the projection into the plane",
    ),
    "checkpoint_loss": ("losses", _EACH, "loss", "loss"),
    "projected_loss": ("projected_losses", _EACH, "loss", "loss at the projection"),
    "checkpoint_accuracy": ("accuracies", _EACH, "1", _RIGHT),
    "projected_accuracy": ("projected_accuracies", _EACH, "1", f"{_RIGHT}, at the projection"),
    "checkpoint_residual": ("residuals", _EACH, "parameter", "distance from the plane"),
    "checkpoint_distance": ("distances", _EACH, "parameter", "distance from the last checkpoint"),
    "explained_share": ("explained", ("component",), "1", "share of the variance"),
    "null_share": ("null_shares", ("component",), "1", "the same of a random walk"),
}
_SCALARS = {
    "num_checkpoints": ("1", "number of checkpoints"),
    "explained_by_two": ("1", "share of the variance in two principal components"),
    "null_by_two": ("1", "the same of a random walk"),
    "in_plane_share": ("1", "share of the squared distances from the last that the plane shows"),
    "largest_loss_gap": ("loss", "largest |loss at the projection - loss at the checkpoint|"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory(Result):
    """M checkpoints beside a plane through the last one: theta = center + a d_1 + b d_2.

    Attributes:
        names: of the checkpoints, in order.
        coordinates: (M, 2) of their projections into the plane, in units of its directions; the
            last is (0, 0). A sweep of these directions around `center` has the same coordinates.
        directions: the two of the plane, of any norms and angle.
        center: (n,) the last checkpoint.
        losses: (M,) at the checkpoints themselves.
        projected_losses: (M,) at their projections: what the picture of the plane shows there.
        accuracies: (M,) at the checkpoints, as a share; None where there are no classes.
        projected_accuracies: (M,) at the projections.
        residuals: (M,) distances from the plane.
        distances: (M,) from the last checkpoint.
        explained: shares of the variance of the first principal components, at most ten; NaN
            where all checkpoints are the same.
        null_shares: the same of a random walk of M points; see `random_walk_shares`.
        plane: the loss around the path, where it was measured.
    """

    probe: ClassVar[str] = "trajectory"

    names: tuple[str, ...]
    coordinates: Array
    directions: tuple[Direction, Direction] = field(repr=False)
    center: Tensor = field(repr=False)
    losses: Array
    projected_losses: Array
    accuracies: Array | None
    projected_accuracies: Array | None
    residuals: Array
    distances: Array
    explained: Array
    null_shares: Array
    plane: Sweep | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """ "converged", unless points of the plane are missing."""
        return "converged" if self.plane is None else self.plane.status

    @property
    def in_plane_share(self) -> float:
        """Share of the squared distances from the last checkpoint that the plane shows."""
        whole = float(np.square(self.distances).sum())
        return 1 - float(np.square(self.residuals).sum()) / whole if whole else 1.0

    def limits(self, margin: float = 0.2) -> Limits:
        """(low, high) along each axis: the path, and `margin` times its extent on either side.

        Along an axis on which the path does not move, as far as along the other.
        """
        lows, highs = self.coordinates.min(0), self.coordinates.max(0)
        norms = np.array([_norm(direction) for direction in self.directions])
        lengths = (highs - lows) * norms
        level = lengths <= _LEVEL_RTOL * lengths.max()
        half = lengths.max() / (2 * norms) if lengths.max() else np.ones(2)
        lows, highs = np.where(level, -half, lows), np.where(level, half, highs)
        pads = margin * (highs - lows)
        (a, b), (c, d) = (lows - pads).tolist(), (highs + pads).tolist()
        return (a, c), (b, d)

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `checkpoint`, `component`, `direction`; those of the plane where it is there.

        With `vectors` also `parameter`: the directions.
        """
        import xarray as xr

        dataset = xr.Dataset(coords={"checkpoint": list(self.names)})
        for name, (attribute, dimensions, unit, meaning) in _VARIABLES.items():
            values = getattr(self, attribute)
            if values is not None:
                dataset[name] = (dimensions, values, {"units": unit, "long_name": meaning})
        gaps = np.abs(self.projected_losses - self.losses)
        scalars = {
            "num_checkpoints": len(self.names),
            "explained_by_two": float(self.explained[:2].sum()),
            "null_by_two": float(self.null_shares[:2].sum()),
            "in_plane_share": self.in_plane_share,
            "largest_loss_gap": float(gaps.max()),
        }
        for name, number in scalars.items():
            described = dict(zip(("units", "long_name"), _SCALARS[name], strict=True))
            dataset[name] = ((), number, described)
        dataset = dataset.merge(self._plane_dataset())
        dataset.attrs["direction_names"] = "\n".join(named.name for named in self.directions)
        if vectors:
            stacked = torch.stack([direction.detach().cpu() for direction in self.directions])
            held = stacked.float() if stacked.dtype.itemsize < 4 else stacked
            described = {"units": "parameter", "long_name": "direction"}
            dataset["direction_vector"] = (("direction", "parameter"), held.numpy(), described)
        return dataset

    def _plane_dataset(self) -> xr.Dataset:
        """What is known of the plane: its sweep, or its directions alone."""
        import xarray as xr

        if self.plane is not None:
            return self.plane.to_dataset()
        norms = np.array([_norm(direction) for direction in self.directions])
        angle = cosines(torch.stack([direction.detach() for direction in self.directions]))
        length = {"units": "parameter", "long_name": "Euclidean norm of the direction"}
        between = {"units": "1", "long_name": "cosine between two directions"}
        index = {"units": "1", "long_name": "index"}
        return xr.Dataset(
            {
                "direction_norm": (("direction",), norms, length),
                "cosine": (("direction", "other_direction"), angle, between),
            },
            coords={"direction": ("direction", np.arange(2), index)},
        )


def trajectory(
    objective: Objective,
    thetas: Points,
    *,
    directions: Sequence[Tensor] | Tensor | None = None,
    names: Sequence[object] | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """Where the checkpoints of a run lie in a plane, what they lose there, and what they really do.

    Args:
        thetas: M >= 2 points (n,), in order: a tensor (M, n), a list, or anything with a length
            that reads a point when it is asked for it. A few are in memory at a time; each is read
            M / (2 B) + 4 times (B: see `principal_components`).
        directions: two vectors (n,), of any norms and angle; by default the first two principal
            components, of unit norm, so that coordinates are distances between parameters.
        names: of the checkpoints, such as their steps; by default their numbers.
        progress: called with (checkpoints evaluated, M, message).

    Raises:
        RequestError: fewer than two checkpoints, one of another network or with NaN in it, names
            of another number, or directions that span no plane.

    The losses are the objective's, at the weights of each checkpoint: frozen BatchNorm statistics
    (`bn="eval"`) are those of the one that the objective was made from.
    """
    began = time.perf_counter()
    labels = _labels(thetas, names)
    given = None if directions is None else _checked(objective, directions)
    last = len(thetas) - 1
    objective.space.check(thetas[last])
    center = thetas[last].detach().to(objective.theta, copy=True)
    if given is None and objective.space.size < 2:
        raise RequestError("there is no plane through a single parameter. Select more of them.")
    components = principal_components(thetas, names=labels)
    identity = checkpoints_fingerprint(thetas)
    plane = _principal(components, center, identity) if given is None else given
    walk = _Walk(objective, Chart(center, torch.stack([d.detach() for d in plane])))
    for index in range(last + 1):
        walk.visit(thetas[index])
        if progress is not None:
            progress(index + 1, last + 1, "losses along the trajectory")
    num_shares = min(last, _NUM_SHARES)
    losses, projected_losses = _each(walk.metrics, "loss"), _each(walk.projected, "loss")
    has_classes = "accuracy" in walk.metrics[-1]
    residuals = np.array(walk.residuals)
    gaps = _gap_notes(labels, losses, projected_losses, residuals)
    return Trajectory(
        settings={
            "checkpoints": identity,
            "directions": "pca" if given is None else [_hash(direction) for direction in plane],
        },
        provenance=objective.provenance(),
        names=labels,
        coordinates=np.array(walk.coordinates),
        directions=plane,
        center=center,
        losses=losses,
        projected_losses=projected_losses,
        accuracies=_each(walk.metrics, "accuracy") if has_classes else None,
        projected_accuracies=_each(walk.projected, "accuracy") if has_classes else None,
        residuals=residuals,
        distances=components.distances,
        explained=components.shares[:num_shares],
        null_shares=random_walk_shares(last + 1, num_shares),
        notes=(
            *objective.notes,
            *(components.doubts() if given is None or components.rank == 0 else ()),
            *gaps,
            *_bn_notes(objective),
        ),
        wall_time=time.perf_counter() - began,
    )


def checkpoints_fingerprint(thetas: Points) -> str:
    """What tells one sequence of checkpoints from another: their contents and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for index in range(len(thetas)):
        digest.update(fingerprint({"theta": thetas[index]}))
    return digest.hexdigest()


class _Walk:
    """What is found on the way along the checkpoints, one after the other."""

    def __init__(self, objective: Objective, chart: Chart) -> None:
        self._objective, self._chart = objective, chart
        self._origin, self._basis = chart.center.cpu().double(), chart.vectors.cpu().double()
        self._gram = self._basis @ self._basis.T  # (2, 2)
        self.coordinates: list[list[float]] = []
        self.residuals: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self.projected: list[dict[str, float]] = []

    def visit(self, point: Tensor) -> None:
        theta = point.detach().to(self._chart.center)
        difference = theta.cpu().double() - self._origin
        place = torch.linalg.solve(self._gram, self._basis @ difference)
        self.coordinates.append(place.tolist())
        self.residuals.append(_norm(difference - place @ self._basis))
        self.metrics.append(self._objective.metrics(theta))
        # By the sweep's own rule, so that a sweep has the same value at these coordinates.
        projection = self._chart.thetas(place.unsqueeze(0))[0]
        self.projected.append(self._objective.metrics(projection))


def _labels(thetas: Points, names: Sequence[object] | None) -> tuple[str, ...]:
    if len(thetas) < 2:
        raise RequestError(
            f"a trajectory has two or more checkpoints, and this one has {len(thetas)}. Keep more "
            "of them while training: `TrajectoryRecorder` does."
        )
    if names is None:
        return tuple(str(number) for number in range(1, len(thetas) + 1))
    if len(names) != len(thetas):
        raise RequestError(f"there are {len(names)} names for {len(thetas)} checkpoints.")
    return tuple(str(name) for name in names)


def _checked(
    objective: Objective, directions: Sequence[Tensor] | Tensor
) -> tuple[Direction, Direction]:
    """Two directions that span a plane, as the objective computes."""
    if len(directions) != 2:
        raise RequestError(f"there are {len(directions)} directions, expected two: a plane's.")
    for vector in directions:
        objective.space.check(vector)
    first, second = (vector.detach().cpu().double() for vector in directions)
    gram = float((first @ first) * (second @ second))
    sine = 1 - float(first @ second) ** 2 / gram if 0 < gram < math.inf else 0.0
    if sine <= _PARALLEL:
        raise RequestError(
            "the two directions span no plane: one is zero or not finite, or they are parallel. "
            "Give others, or leave `directions` out for the principal components."
        )
    named = [
        vector
        if isinstance(vector, Direction)
        else Direction(vector, f"direction {index}", {"kind": "given"})
        for index, vector in enumerate(directions, start=1)
    ]
    one, two = (
        Direction(d.detach().to(objective.theta), d.name, d.recipe, d.buffers) for d in named
    )
    return one, two


def _principal(
    components: PrincipalComponents, center: Tensor, identity: str
) -> tuple[Direction, Direction]:
    shares = [*components.shares.tolist(), 0.0]
    one, two = (
        Direction(
            vector.to(center),
            f"principal component {index + 1} ({100 * shares[index]:.1f} %)"
            if index < components.rank
            else "random direction",
            {"kind": "pca", "component": index + 1, "checkpoints": identity},
        )
        for index, vector in enumerate(components.directions)
    )
    return one, two


def _each(metrics: Sequence[Mapping[str, float]], name: str) -> Array:
    return np.array([point[name] for point in metrics])


def _gap_notes(names: Sequence[str], true: Array, shown: Array, residuals: Array) -> list[str]:
    """That the picture's loss at a projection is not the loss of the checkpoint."""
    finite = np.abs(true[np.isfinite(true)])
    rounding = 1e-9 * finite.max() if len(finite) else 0.0
    differ = ~np.isclose(shown, true, rtol=_GAP_RTOL, atol=rounding, equal_nan=True)
    if not differ.any():
        return []
    gaps = np.nan_to_num(np.abs(shown - true), nan=np.inf)
    worst = int(np.argmax(np.where(differ, gaps, -1)))
    return [
        f"at {int(differ.sum())} of {len(true)} checkpoints the loss in the plane differs from "
        f"the checkpoint's own by more than {100 * _GAP_RTOL:.0f} % (worst at {names[worst]}: "
        f"{shown[worst]:.4g} in the plane, {true[worst]:.4g} at the checkpoint, which lies "
        f"{residuals[worst]:.3g} off it): contours do not give the losses along the path"
    ]


def _bn_notes(objective: Objective) -> list[str]:
    frozen = objective.bn == "eval" and any(
        isinstance(module, _BatchNorm) and module.track_running_stats
        for module in objective.model.modules()
    )
    if not frozen:
        return []
    return [
        "every checkpoint was evaluated with the BatchNorm statistics of the objective's own: "
        "bn='recalibrate' takes each one's"
    ]


def _hash(direction: Direction) -> str:
    return fingerprint({"direction": direction.detach()}).hex()


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector.detach().double()))
