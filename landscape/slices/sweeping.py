"""Sweeping: lines, planes and grids through the weights. `sweep` is what comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.slices import caveats, refinement
from landscape.slices.chart import Chart
from landscape.slices.directions import Direction, cosines
from landscape.slices.evaluation import Evaluator, Stop
from landscape.slices.execution import BatchNormMode, Execution, can_resize
from landscape.slices.ledger import Ledger
from landscape.slices.measures import Center, Measures
from landscape.slices.options import SweepOptions
from landscape.slices.quadratic import expand
from landscape.slices.radius import suggest_radius
from landscape.slices.sweep import AXES, Sweep
from landscape.slices.trial import choose

__all__ = ["Radius", "grid", "line", "lines", "plane", "plane_through"]

Array = NDArray[np.float64]
# One number for all axes, or for each axis a number or (low, high); "auto" looks for one.
Radius = float | Literal["auto"] | Sequence[float | tuple[float, float]]

_BN_MODES = ("eval", "batch", "recalibrate", "interpolate")
_NEVER_NEGATIVE = ("cross_entropy", "mse", "bce")
_MARGIN = 0.25  # around three checkpoints, in units of the longest axis of their triangle
_NOT_FILLED = ("standard_error", "subset_error", "num_examples")  # in between measured points
_SMALLEST_BATCHES = 16  # that a data set is cut into where points may be left early


def line(
    objective: Objective,
    direction: Tensor,
    num: int = 51,
    radius: Radius = 1.0,
    *,
    center: Tensor | None = None,
    fields: Sequence[str] = ("loss", "accuracy"),
    also: Mapping[str, Objective] | None = None,
    bn: BatchNormMode | None = None,
    options: SweepOptions | None = None,
) -> Sweep:
    """The loss along a line: center + a d, for `num` evenly spaced a, both ends included.

    Args:
        direction: (n,), such as one of `random_directions`.
        radius: -radius <= a <= radius, in units of the direction; `[(low, high)]` for other ends;
            "auto" goes as far as the loss grows fivefold.
        center: (n,); by default the checkpoint's own point.
        fields: any of loss, accuracy, class_loss, class_accuracy, penalty, gradient_norm, slope.
        also: further data by name, in the same pass: fields such as `test_loss`.
        bn: BatchNorm statistics: "eval" those of the checkpoint, "batch" each batch's own,
            "recalibrate" those of the whole data at each point, "interpolate" between checkpoints;
            by default the objective's policy.
        options: everything else; see `SweepOptions`.

    Raises:
        RequestError: directions, points or fields that do not fit the objective.
    """
    request = _Request("line", [direction], (num,), radius, center, tuple(fields), also, bn)
    return _carried_out(objective, request, options or SweepOptions())


def lines(
    objective: Objective,
    directions: Sequence[Tensor],
    num: int = 51,
    radius: Radius = 1.0,
    *,
    center: Tensor | None = None,
    fields: Sequence[str] = ("loss", "accuracy"),
    also: Mapping[str, Objective] | None = None,
    bn: BatchNormMode | None = None,
    options: SweepOptions | None = None,
) -> Sweep:
    """A line along each of several directions, such as draws of other seeds: a band, not a curve.

    Every field has the axes (direction, a). One radius for all. Arguments as for `line`.
    """
    request = _Request("lines", directions, (num,), radius, center, tuple(fields), also, bn)
    return _carried_out(objective, request, options or SweepOptions())


def plane(
    objective: Objective,
    directions: Sequence[Tensor],
    num: int | Sequence[int] = (21, 21),
    radius: Radius = 1.0,
    *,
    center: Tensor | None = None,
    fields: Sequence[str] = ("loss", "accuracy"),
    also: Mapping[str, Objective] | None = None,
    bn: BatchNormMode | None = None,
    options: SweepOptions | None = None,
) -> Sweep:
    """The loss in a plane: center + a d_1 + b d_2; `loss[i, j]` is at a_i and b_j.

    Args:
        directions: two of (n,), or a matrix (2, n).
        num: points along each axis.
        radius: a number for both axes, one for each, or (low, high) for each.

    Other arguments as for `line`.
    """
    if len(directions) != 2:
        raise RequestError(
            f"a plane has two directions, {len(directions)} were given. `line` takes one, `grid` "
            "any number."
        )
    request = _Request("plane", directions, num, radius, center, tuple(fields), also, bn)
    return _carried_out(objective, request, options or SweepOptions())


def grid(
    objective: Objective,
    directions: Sequence[Tensor],
    num: int | Sequence[int] = 11,
    radius: Radius = 1.0,
    *,
    center: Tensor | None = None,
    fields: Sequence[str] = ("loss", "accuracy"),
    also: Mapping[str, Objective] | None = None,
    bn: BatchNormMode | None = None,
    options: SweepOptions | None = None,
) -> Sweep:
    """The loss on a grid of up to six directions. Arguments as for `plane`."""
    request = _Request("grid", directions, num, radius, center, tuple(fields), also, bn)
    return _carried_out(objective, request, options or SweepOptions())


def plane_through(
    objective: Objective,
    second: Tensor,
    third: Tensor,
    num: int | Sequence[int] = (21, 21),
    *,
    names: tuple[str, str, str] = ("A", "B", "C"),
    buffers: Sequence[Mapping[str, Tensor]] | None = None,
    fields: Sequence[str] = ("loss", "accuracy"),
    also: Mapping[str, Objective] | None = None,
    bn: BatchNormMode | None = None,
    options: SweepOptions | None = None,
) -> Sweep:
    """The plane through three checkpoints: the objective's own point A, and two others B and C.

    d_1 leads from A to B; d_2 is orthogonal to it and as long, towards C. The three are marked.

    Args:
        second, third: (n,) the points B and C.
        names: for the marks.
        buffers: named buffers of B and C, for bn="interpolate".

    Raises:
        RequestError: three points on a line, or fields that do not fit.

    Source: Garipov et al. 2018, arXiv:1802.10026, appendix A.
    """
    for point in (second, third):
        objective.space.check(point)
    first = objective.theta.double()
    across = second.to(first) - first
    up = third.to(first) - first
    length = torch.linalg.vector_norm(across)
    if not length > 0:
        raise RequestError(f"{names[0]} and {names[1]} are the same point. Give two others.")
    share = (up @ across) / length**2
    rest = up - share * across
    height = torch.linalg.vector_norm(rest)
    if not height > 1e-6 * torch.linalg.vector_norm(up):
        raise RequestError(
            f"{', '.join(names)} lie on a line, which spans no plane. Use `line` with "
            "direction_towards(objective, B)."
        )
    tall = float(height / length)
    steps: list[Mapping[str, Tensor]] = [{}, {}]
    if buffers is not None:
        own = objective.buffers
        to_b, to_c = (
            {name: held[name].to(own[name]) - own[name] for name in held if _moves(own[name])}
            for held in buffers
        )
        steps = [to_b, {name: (to_c[name] - share * to_b[name]) / tall for name in to_c}]
    kind = {"kind": "through", "names": list(names), "points": _digest(second, third)}
    directions = [
        Direction(vector.to(objective.theta), name, kind | {"index": index}, step)
        for index, (vector, name, step) in enumerate(
            zip(
                (across, rest / tall),
                (f"{names[0]} to {names[1]}", f"orthogonal, towards {names[2]}"),
                steps,
                strict=True,
            )
        )
    ]
    marks = {names[0]: (0.0, 0.0), names[1]: (1.0, 0.0), names[2]: (float(share), tall)}
    places = np.asarray(list(marks.values()))
    low, high = places.min(axis=0), places.max(axis=0)
    margin = _MARGIN * float((high - low).max())
    ends = [(float(a) - margin, float(b) + margin) for a, b in zip(low, high, strict=True)]
    request = _Request("plane", directions, num, ends, None, tuple(fields), also, bn, marks)
    return _carried_out(objective, request, options or SweepOptions())


@dataclass(frozen=True, eq=False)
class _Request:
    """Where to measure, and what."""

    kind: str
    directions: Sequence[Tensor]
    num: int | Sequence[int]
    radius: Radius
    center: Tensor | None
    fields: tuple[str, ...]
    also: Mapping[str, Objective] | None
    bn: BatchNormMode | None
    marks: Mapping[str, tuple[float, ...]] | None = None


def _carried_out(objective: Objective, request: _Request, options: SweepOptions) -> Sweep:
    began = time.perf_counter()
    mode = request.bn or objective.bn
    if mode not in _BN_MODES:
        raise unknown_choice("BatchNorm policy", str(mode), _BN_MODES)
    policy = "eval" if mode == "interpolate" else mode
    objectives = {"": objective.under(policy)}
    for name, other in (request.also or {}).items():
        if (
            other.space.names != objective.space.names
            or other.space.shapes != objective.space.shapes
        ):
            raise RequestError(
                f"the data {name!r} belong to an objective with other parameters. Make it of the "
                "same network and the same params=."
            )
        objectives[f"{name}_"] = other.under(policy)
    chart = _chart(objective, request, mode)
    coordinates = _coordinates(objective, chart, request)
    coefficients = _coefficients(chart, coordinates, request.kind)
    settings = _settings(objective, request, mode, coordinates, options)
    clip = _clip(objectives, options)
    ledger = Ledger(
        len(coefficients), {"provenance": objective.provenance(), **settings}, options.state
    )
    work = _Work(objectives, chart, coefficients, request.fields, mode, options, clip, ledger)
    shape = tuple(len(axis) for axis in coordinates)
    apart = int(request.kind == "lines")  # nothing lies between two directions
    measured = work.measure(shape, apart)
    fields = {
        name: values.reshape(*shape, *values.shape[1:]) for name, values in ledger.rows.items()
    }
    if options.tolerance is not None:
        kept = {name: field for name, field in fields.items() if name.endswith(_NOT_FILLED)}
        fields = refinement.filled(fields, measured, shape, apart=apart) | kept
    quadratic = expand(objectives[""], chart.vectors, chart.center) if options.quadratic else None
    sweep = Sweep(
        settings=settings,
        provenance=objective.provenance(),
        num_products=0 if quadratic is None else chart.num_axes,
        notes=(*objective.notes, *work.notes),
        kind=request.kind,
        coordinates=coordinates,
        fields=fields,
        done=ledger.done.reshape(shape),
        direction_names=tuple(_name(direction) for direction in request.directions),
        direction_norms=chart.vectors.double().norm(dim=1).cpu().numpy(),
        cosines=cosines(chart.vectors),
        center_loss=work.center.loss,
        center_error=work.center.standard_error,
        marks=dict(request.marks or {}),
        quadratic=quadratic,
        recipes=tuple(_recipe(direction) for direction in request.directions),
        bn=mode,
        vectors=chart.vectors,
    )
    sweep = caveats.added(
        sweep, objectives[""], chart, coefficients, request.directions, measure=options.caveats
    )
    ledger.remove()
    return replace(sweep, wall_time=time.perf_counter() - began)


class _Work:
    """Measures points into a ledger, chunk by chunk."""

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        chart: Chart,
        coefficients: Tensor,
        fields: Sequence[str],
        bn: BatchNormMode,
        options: SweepOptions,
        clip: float | None,
        ledger: Ledger,
    ) -> None:
        self._chart, self._coefficients = chart, coefficients
        self._options, self._ledger = options, ledger
        main = objectives[""]

        def measures(objective: Objective) -> Measures:
            return Measures(objective, fields, metrics=options.metrics, penalty=options.penalty)

        execution = options.execution
        if ledger.execution is not None:
            execution = Execution(**ledger.execution)  # type: ignore[arg-type]
        largest = main.batches.num_examples // _SMALLEST_BATCHES
        choice = choose(
            main,
            chart,
            measures,
            coefficients,
            bn=bn,
            execution=execution,
            largest_batch=max(1, largest) if options.stop_error is not None else None,
        )
        ledger.execution = dict(vars(choice.execution))
        self.notes = (f"evaluated: {choice.execution}", *choice.notes)
        self._evaluators = {
            name: Evaluator(
                objective,
                chart,
                measures(objective),
                choice.execution
                if can_resize(objective)
                else replace(choice.execution, batch_size=None),
                bn=bn,
                stop=Stop(options.stop_error, clip, options.seed),
                compiled=choice.compiled if objective is main else None,
            )
            for name, objective in objectives.items()
        }

    @property
    def center(self) -> Center:
        """Of the objective itself."""
        return self._evaluators[""].center

    def measure(self, shape: tuple[int, ...], apart: int) -> NDArray[np.bool_]:
        """All points, or those that a refinement asks for; which were measured."""
        try:
            if self._options.tolerance is not None:
                if refinement.coarsest_stride(shape[apart:]) == 1:
                    num = ", ".join(map(str, shape[apart:]))
                    self.notes += (
                        f"tolerance left nothing out: of num={num} each less 1 would have to be "
                        "even and 16 or more, as 33 is",
                    )
                return refinement.refine(
                    shape,
                    self._evaluate,
                    lambda: self._loss(shape),
                    self._options.tolerance,
                    apart=apart,
                )
            points = np.arange(len(self._coefficients))
            if self._options.shard is not None:
                index, count = self._options.shard
                points = np.array_split(points, count)[index]
            self._evaluate(points)
        finally:
            self._ledger.write()
        return self._ledger.done.reshape(shape)

    def _loss(self, shape: tuple[int, ...]) -> Array:
        return self._ledger.rows["loss"].reshape(shape).copy()

    def _evaluate(self, points: NDArray[np.int64]) -> None:
        size = self._evaluators[""].points_at_a_time
        # Chunks are cut before what is done is taken out: a chunk that goes on after a kill holds
        # the same points, and so has the same bits.
        for start in range(0, len(points), size):
            chunk = points[start : start + size]
            if self._ledger.done[chunk].all():
                continue
            coefficients = self._coefficients[torch.as_tensor(chunk)]
            found = {
                f"{prefix}{name}": values
                for prefix, evaluator in self._evaluators.items()
                for name, values in evaluator.values(coefficients).items()
            }
            self._ledger.enter(chunk, found)
            if self._options.progress is not None:
                done = int(self._ledger.done.sum())
                self._options.progress(done, len(self._coefficients), "")


def _chart(objective: Objective, request: _Request, mode: BatchNormMode) -> Chart:
    directions = list(request.directions)
    if not directions:
        raise RequestError("no direction was given. random_directions(objective, 2) makes some.")
    if request.kind != "lines" and len(directions) > len(AXES):
        raise RequestError(f"{len(directions)} directions, and a grid has {len(AXES)} at most.")
    for index, vector in enumerate(directions):
        objective.space.check(vector)
        if not vector.isfinite().all():
            raise RequestError(f"direction {index + 1} is not finite. Give finite numbers.")
    center = objective.theta if request.center is None else request.center
    objective.space.check(center)
    steps = tuple(getattr(direction, "buffers", {}) for direction in directions)
    if mode == "interpolate" and not any(steps):
        raise RequestError(
            "bn='interpolate' needs directions that lead to other checkpoints and know their "
            "buffers: direction_towards(objective, other, buffers=dict(model.named_buffers()))."
        )
    vectors = torch.stack([vector.detach().to(objective.theta) for vector in directions])
    return Chart(center.detach().to(objective.theta), vectors, steps)


def _coordinates(objective: Objective, chart: Chart, request: _Request) -> tuple[Array, ...]:
    k = 1 if request.kind == "lines" else chart.num_axes
    num = request.num
    counts = [num] * k if isinstance(num, int) else [int(count) for count in num]
    if len(counts) != k or any(count < 1 for count in counts):
        raise RequestError(f"num is {num!r}, expected {k} number(s) of points, each 1 or more.")
    radius = request.radius
    if isinstance(radius, str):
        if radius != "auto":
            raise unknown_choice("radius", radius, ["auto"])
        found = [suggest_radius(objective, vector, center=chart.center) for vector in chart.vectors]
        radius = [min(found)] if request.kind == "lines" else found
    ends = [radius] * k if isinstance(radius, (int, float)) else list(radius)
    if len(ends) != k:
        raise RequestError(f"radius is {radius!r}, expected one number, or {k} of them.")
    axes = tuple(_axis(end, count) for end, count in zip(ends, counts, strict=True))
    if request.kind == "lines":
        return (np.arange(chart.num_axes, dtype=np.float64), *axes)
    return axes


def _axis(end: float | tuple[float, float], count: int) -> Array:
    low, high = (-end, end) if isinstance(end, (int, float)) else (float(end[0]), float(end[1]))
    if not (np.isfinite([low, high]).all() and low < high):
        raise RequestError(
            f"an axis from {low} to {high}: expected a radius above 0, or finite (low, high)."
        )
    if count == 1:
        return np.asarray([(low + high) / 2])
    axis = np.linspace(low, high, count)
    # An odd axis around the center goes through it exactly, and both halves are equal.
    return (axis - axis[::-1]) / 2 if low == -high else axis


def _coefficients(chart: Chart, coordinates: tuple[Array, ...], kind: str) -> Tensor:
    """(P, k) float64: the points in the order of the flattened grid."""
    if kind == "lines":
        (_, axis) = coordinates
        each = torch.zeros(chart.num_axes, len(axis), chart.num_axes, dtype=torch.float64)
        for index in range(chart.num_axes):
            each[index, :, index] = torch.as_tensor(axis)
        return each.flatten(0, 1)
    grids = np.meshgrid(*coordinates, indexing="ij")
    return torch.as_tensor(np.stack([one.ravel() for one in grids], axis=1))


def _settings(
    objective: Objective,
    request: _Request,
    mode: str,
    coordinates: tuple[Array, ...],
    options: SweepOptions,
) -> dict[str, object]:
    axes = coordinates[1:] if request.kind == "lines" else coordinates
    found: dict[str, object] = {
        "num": [len(axis) for axis in axes],
        "ends": [[float(axis[0]), float(axis[-1])] for axis in axes],
        "directions": [_recipe(direction) for direction in request.directions],
        "fields": list(request.fields),
        "bn": mode,
        "objective_bn": objective.bn,
        **options.settings(),
    }
    if request.center is not None:
        found["center"] = _digest(request.center)
    if request.also:
        found["also"] = {name: one.batches.fingerprint for name, one in request.also.items()}
    if request.marks:
        found["marks"] = {name: list(place) for name, place in request.marks.items()}
    return found


def _recipe(direction: Tensor) -> dict[str, object]:
    recipe = dict(getattr(direction, "recipe", None) or {"kind": "given"})
    if recipe["kind"] not in ("random", "gradient"):
        recipe["fingerprint"] = _digest(direction)
    return recipe


def _name(direction: Tensor) -> str:
    return (direction.name if isinstance(direction, Direction) else None) or "given direction"


def _digest(*vectors: Tensor) -> str:
    plain = {
        str(index): vector.detach().as_subclass(Tensor) for index, vector in enumerate(vectors)
    }
    return fingerprint(plain).hex()


def _moves(buffer: Tensor) -> bool:
    return buffer.is_floating_point()


def _clip(objectives: Mapping[str, Objective], options: SweepOptions) -> float | None:
    """The clip, where leaving a point at it is safe."""
    if options.clip is None:
        return None
    for objective in objectives.values():
        name = objective.loss_function.name
        if name not in _NEVER_NEGATIVE and not objective.loss_function.is_pointwise:
            raise RequestError(
                f"clip leaves a point as soon as its loss is certain to be above it, and the loss "
                f"{name!r} may be negative for some examples. Leave clip out."
            )
    return options.clip
