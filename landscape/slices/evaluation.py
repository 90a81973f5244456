"""Evaluation: data outside, points inside. Adds the measures up at many points of a chart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.memory import available_bytes
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.execution import BatchNormMode, Execution, Place, Runner
from landscape.slices.first_layer import FirstLayer
from landscape.slices.measures import GRADIENT_FIELDS, Center, Measures, Part, subset_error

__all__ = ["Evaluator", "Stop", "points_in_a_pass"]

Values = dict[str, NDArray[np.float64]]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

_STREAMED_CHUNKS = 64  # in one pass over data that have to be read anew in each
_STREAMED_SHARE = 0.125  # of the free memory, for the weights of their points
_LEAST_EXAMPLES = 30  # before a standard error is believed
# Of the loss at the center when examples are put into other batches: rounding, and no more.
_ORDER_RTOL = {torch.float64: 1e-9, torch.float32: 1e-4}
_LOW_PRECISION_RTOL = 1e-2


@dataclass(frozen=True)
class Stop:
    """When a point is left before it has seen all of the data.

    Attributes:
        error: as soon as the standard error that is due to the examples left out is below it.
        clip: as soon as the loss is certain to be above it: the losses of this name are never
            negative, so the part that was seen is a lower bound. The point's loss is infinite.
        seed: of the order in which examples are seen; only with `error`.
    """

    error: float | None = None
    clip: float | None = None
    seed: int = 0

    def order(self, num_examples: int) -> Tensor | None:
        """A random order of the examples; None where the given one will do."""
        if self.error is None:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(num_examples, generator=generator)


class Evaluator:
    """One objective along a chart, in one way of execution.

    Args:
        compiled: the forward pass to run, for the execution "compiled".
        stop: when to leave a point early.
        statistics: whose data give the BatchNorm statistics under "recalibrate"; None for its own.

    Attributes:
        center: the loss at the center.
        passes: forward passes over the whole data so far, in units of one point.
        points_at_a_time: that should be given together: those of a chunk; of data that have to be
            read anew, as many as fit into memory.
    """

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        measures: Measures,
        execution: Execution,
        *,
        bn: BatchNormMode = "eval",
        stop: Stop | None = None,
        compiled: object = None,
        statistics: Evaluator | None = None,
    ) -> None:
        self.objective, self.chart, self.measures = objective, chart, measures
        self.execution, self._stop = execution, stop or Stop()
        first = FirstLayer.of(objective, chart) if execution.reuse else None
        self._is_calibrated_elsewhere = statistics is not None and bn == "recalibrate"
        self._runner: Runner = Runner(
            objective,
            chart,
            measures,
            execution,
            bn=bn,
            compiled=compiled,
            first_layer=first,
            order=self._stop.order(objective.batches.num_examples),
            statistics=None if statistics is None else statistics._runner,
        )
        with self._runner.running():
            parts = self._runner.parts()
        totals = [float(part.constants["total"]) for part in parts]
        self.center: Center = measures.center(parts, totals)
        self._check(parts)
        self._seen = _cumulative([part.constants for part in parts])
        self._whole = {name: float(rows[-1]) for name, rows in self._seen.items() if rows.ndim == 1}
        self._parts = self._runner.released(parts)
        self.passes = 1.0
        takes_gradients = any(name in GRADIENT_FIELDS for name in measures.names)
        self.points_at_a_time = points_in_a_pass(
            objective, chart, execution, takes_gradients=takes_gradients
        )

    def values(self, coefficients: Tensor) -> Values:
        """All fields at coefficients (P, k), float64: arrays (P, ...) by name."""
        chunks = torch.split(coefficients, self.execution.chunk)
        with self._runner.running():
            places = [self._runner.place(chunk) for chunk in chunks]
            sums = self._sums(places)
        found = [self._finished(*summed) for summed in sums]
        values: Values = {
            name: np.concatenate([chunk[name] for chunk in found]) for name in found[0]
        }
        return values | self._apart_from_the_data(places)

    def _check(self, parts: Sequence[Part]) -> None:
        """Whether points may be left early as they were asked to be."""
        name = self.objective.loss_function.name
        if self._stop.clip is not None and not all(part.is_bounded for part in parts):
            raise RequestError(
                f"clip leaves a point as soon as its loss is certain to be above it, and the loss "
                f"{name!r} may be negative for some examples. Leave clip out, or name a loss that "
                "never is, such as 'cross_entropy'."
            )
        if self._stop.error is None or self._is_calibrated_elsewhere:
            return
        expected = self.objective.loss(self.chart.center)
        rtol = _ORDER_RTOL.get(self.objective.space.dtype, _LOW_PRECISION_RTOL)
        if not abs(self.center.loss - expected) <= rtol * max(abs(expected), 1.0):
            raise RequestError(
                "stop_error sees the examples in batches of its own, and the loss at the center is "
                f"then {self.center.loss:.6g} instead of {expected:.6g}: some module lets the "
                "examples of a batch feel each other. Leave stop_error out."
            )

    def _sums(self, places: Sequence[Place]) -> list[tuple[Values, Counts, Flags]]:
        """Sums over the parts that each point saw, how many those are, and whether it is clipped.

        The parts come in one order, so that their number tells which a point saw.
        """
        sums: list[Values] = [{} for _ in places]
        active = [np.arange(len(place)) for place in places]
        parts_seen = [np.zeros(len(place), dtype=np.int64) for place in places]
        clipped = [np.zeros(len(place), dtype=bool) for place in places]
        for index, part in enumerate(self._runner.renewed(self._parts)):
            for number, place in enumerate(places):
                points = active[number]
                if not len(points):
                    continue
                whole = len(points) == len(place)
                chosen = place if whole else place.select(torch.as_tensor(points))
                for name, values in self._runner.sums(chosen, part, index).items():
                    _add(sums[number], name, points, values.cpu().numpy(), len(place))
                parts_seen[number][points] += 1
                self.passes += len(points) * part.size / self.objective.batches.num_examples
                stay, beyond = self._staying(points, sums[number], index)
                clipped[number][points[beyond]] = True
                active[number] = points[stay]
            if not any(len(points) for points in active):
                break
        return list(zip(sums, parts_seen, clipped, strict=True))

    def _staying(self, points: Counts, sums: Values, index: int) -> tuple[Flags, Flags]:
        """Which points go on after the part of this index, and which are beyond the clip."""
        beyond = np.zeros(len(points), dtype=bool)
        stay = np.ones(len(points), dtype=bool)
        if self._stop.clip is not None:
            beyond = sums["total"][points] / self.objective.total_weight > self._stop.clip
            stay &= ~beyond
        if self._stop.error is not None and self._seen["told"][index] >= _LEAST_EXAMPLES:
            count = self._seen["count"][index]
            for position, point in enumerate(points):
                if stay[position]:
                    error = self._point(sums, point, index)["standard_error"]
                    left = subset_error(error, count, self._whole["count"])
                    stay[position] = not left < self._stop.error
        return stay, beyond

    def _point(self, sums: Values, point: int, index: int) -> dict[str, float]:
        """The loss and its error at a point that saw the parts up to this index."""
        numbers = ("total", "difference", "difference_squared", "difference_weighted")
        return self.measures.values(
            {name: float(sums[name][point]) for name in numbers if name in sums},
            {name: float(rows[index]) for name, rows in self._seen.items() if rows.ndim == 1},
            self._whole,
            self.center,
        )

    def _finished(self, sums: Values, parts_seen: Counts, clipped: Flags) -> Values:
        """Fields (C, ...) from what was added up."""
        last = parts_seen - 1
        points = [self._point(sums, point, index) for point, index in enumerate(last)]
        found = {name: np.asarray([point[name] for point in points]) for name in points[0]}
        found["loss"][clipped] = math.inf
        found["standard_error"][clipped] = math.nan
        seen = {name: rows[last] for name, rows in self._seen.items()}
        means = self._means(sums, seen)
        if self._stop.error is None:
            # Left at the clip in the order of the data: what was seen stands for nothing.
            for values in means.values():
                values[last < len(self._parts) - 1] = math.nan
        else:
            found["num_examples"] = seen["count"]
            share = seen["count"] / self._whole["count"]
            found["subset_error"] = found["standard_error"] * np.sqrt(1 - share)
        # The largest of outputs that are NaN is one of them, and no answer.
        for name in ("accuracy", "class_accuracy"):
            if name in means:
                means[name][np.isnan(found["loss"])] = math.nan
        return found | means

    def _means(self, sums: Values, seen: Values) -> Values:
        """Fields that are means over what was seen."""
        found: Values = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            if "accuracy" in self.measures.names:
                found["accuracy"] = sums["right"] / seen["counted"]
            if "class_loss" in self.measures.names:
                found["class_loss"] = sums["class_total"] / seen["class_weight"]
            if "class_accuracy" in self.measures.names:
                found["class_accuracy"] = sums["class_right"] / seen["class_count"]
            for name in self.measures.metrics:
                found[name] = sums[f"metric_{name}"] / seen["count"]
        return found

    def _apart_from_the_data(self, places: Sequence[Place]) -> Values:
        """Fields that are not sums over examples: the penalty, and what takes a gradient."""
        found: Values = {}
        if "penalty" in self.measures.names:
            penalty = self.measures.penalty
            assert penalty is not None
            found["penalty"] = np.asarray(
                [float(penalty(theta)) for place in places for theta in place.thetas]
            )
        if any(name in GRADIENT_FIELDS for name in self.measures.names):
            vectors = self.chart.vectors.double()
            norms, slopes = [], []
            for gradient in self._gradients(places):
                norms.append(float(gradient.norm()))
                slopes.append((vectors @ gradient).cpu().numpy())
            both = {"gradient_norm": np.asarray(norms), "slope": np.stack(slopes)}
            found |= {name: both[name] for name in both if name in self.measures.names}
        return found

    def _gradients(self, places: Sequence[Place]) -> Iterator[Tensor]:
        """The gradient (n,), float64, at each point."""
        points = [
            (theta, {name: held[index] for name, held in place.buffers.items()})
            for place in places
            for index, theta in enumerate(place.thetas)
        ]
        # Many at once hold a gradient each: only where the data would be read for each.
        at_once = 1 if self.objective.batches.is_cached else len(points)
        for start in range(0, len(points), at_once):
            yield from self._gradients_at(points[start : start + at_once])

    def _gradients_at(self, points: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> list[Tensor]:
        objective = self.objective
        with objective.evaluation(), torch.enable_grad():
            found = [torch.zeros_like(theta, dtype=torch.float64) for theta, _ in points]
            for batch in objective.batches:
                for gradient, (theta, buffers) in zip(found, points, strict=True):
                    leaves = objective.leaves(theta)
                    total = objective.term(leaves, batch, buffers).total
                    if not total.requires_grad:
                        raise RequestError(
                            f"the loss {objective.loss_function.name!r} carries no gradient "
                            "(detached, or under no_grad): leave gradient_norm and slope out."
                        )
                    blocks = torch.autograd.grad(total, leaves, materialize_grads=True)
                    gradient += objective.space.flatten(blocks)
        return [gradient / objective.total_weight for gradient in found]


def _add(sums: Values, name: str, points: Counts, values: NDArray[np.float64], count: int) -> None:
    if name not in sums:
        sums[name] = np.zeros((count, *values.shape[1:]))
    sums[name][points] += values


def points_in_a_pass(
    objective: Objective, chart: Chart, execution: Execution, *, takes_gradients: bool = False
) -> int:
    """Points that should be evaluated together: a chunk; more where data are read anew each time.

    Args:
        takes_gradients: whether each point also needs room for a gradient in float64.
    """
    if objective.batches.is_cached:
        return execution.chunk
    room = _STREAMED_SHARE * available_bytes(objective.device)
    of_point = chart.center.nbytes + 8 * len(chart.center) * takes_gradients
    fitting = int(room / (execution.chunk * of_point))
    return execution.chunk * max(1, min(_STREAMED_CHUNKS, fitting))


def _cumulative(constants: Sequence[Mapping[str, Tensor]]) -> Values:
    """The constants (parts, ...) of all parts up to each."""
    return {
        name: np.cumsum(np.stack([part[name].numpy() for part in constants]), axis=0)
        for name in constants[0]
    }
