"""Sweeping: lines, planes and grids through the weights. `sweep` is what comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.slices import caveats, refinement
from landscape.slices.axes import Radius, evenly_spaced, points_of_grid, points_of_lines
from landscape.slices.chart import Chart
from landscape.slices.directions import Direction, cosines, direction_towards
from landscape.slices.execution import BatchNormMode
from landscape.slices.ledger import Ledger
from landscape.slices.measures import GRADIENT_FIELDS
from landscape.slices.options import SweepOptions
from landscape.slices.quadratic import expand
from landscape.slices.radius import suggest_radius
from landscape.slices.sweep import AXES, Sweep
from landscape.slices.work import Work

__all__ = ["Radius", "grid", "line", "lines", "plane", "plane_through"]

Array = NDArray[np.float64]
_BN_MODES = ("eval", "batch", "recalibrate", "interpolate")
_MARGIN = 0.25  # around three checkpoints, in units of the longest axis of their triangle
_NOT_FILLED = ("standard_error", "subset_error", "num_examples")  # in between measured points


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
        also: further data by name, in the same pass: fields such as `test_loss`. Statistics that
            are recalibrated are those of the objective's own data there, too.
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
        to_b, to_c = (
            direction_towards(objective, point, buffers=held).buffers
            for point, held in zip((second, third), buffers, strict=True)
        )
        moving = {name: torch.zeros_like(step) for name, step in {**to_b, **to_c}.items()}
        to_b, to_c = {**moving, **to_b}, {**moving, **to_c}
        steps = [to_b, {name: (to_c[name] - share * to_b[name]) / tall for name in moving}]
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
    coordinates = _coordinates(objectives[""], chart, request)
    if request.kind == "lines":
        coefficients = points_of_lines(coordinates[1], chart.num_axes)
    else:
        coefficients = points_of_grid(coordinates)
    if options.shard is not None and options.shard[1] > len(coefficients):
        raise RequestError(
            f"shard is {options.shard}, but there are {len(coefficients)} points: give as many "
            "parts at most."
        )
    settings = _settings(objective, request, mode, coordinates, options)
    ledger = Ledger(
        len(coefficients), {"provenance": objective.provenance(), **settings}, options.state
    )
    work = Work(objectives, chart, coefficients, request.fields, mode, options, ledger)
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
        notes=(*objective.notes, *work.notes, *_of_derivatives(request, options, mode)),
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


def _of_derivatives(request: _Request, options: SweepOptions, mode: str) -> tuple[str, ...]:
    asked = options.quadratic or any(name in GRADIENT_FIELDS for name in request.fields)
    if not asked or mode not in ("recalibrate", "interpolate"):
        return ()
    return (
        f"derivatives are those at fixed BatchNorm statistics, which bn={mode!r} moves with the "
        "weights",
    )


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
    if not center.isfinite().all():
        raise RequestError("the center is not finite. Give a point of finite weights.")
    steps = tuple(getattr(direction, "buffers", {}) for direction in directions)
    if mode == "interpolate" and not any(steps):
        raise RequestError(
            "bn='interpolate' needs directions that lead to other checkpoints and know their "
            "buffers: direction_towards(objective, other, buffers=dict(model.named_buffers()))."
        )
    vectors = torch.stack([vector.detach().to(objective.theta) for vector in directions])
    return Chart(center.detach().to(objective.theta), vectors, steps)


def _coordinates(objective: Objective, chart: Chart, request: _Request) -> tuple[Array, ...]:
    is_lines = request.kind == "lines"
    radius = request.radius
    if isinstance(radius, str):
        if radius != "auto":
            raise unknown_choice("radius", radius, ["auto"])
        found = [suggest_radius(objective, vector, center=chart.center) for vector in chart.vectors]
        radius = [min(found)] if is_lines else found
    axes = evenly_spaced(1 if is_lines else chart.num_axes, request.num, radius)
    return (np.arange(chart.num_axes, dtype=np.float64), *axes) if is_lines else axes


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
