"""Evaluation: data outside, points inside. Adds the measures up at many points of a chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.execution import BatchNormMode, Execution, Place, Runner
from landscape.slices.first_layer import FirstLayer
from landscape.slices.measures import GRADIENT_FIELDS, Center, Measures, subset_error

__all__ = ["Evaluator", "Stop"]

Values = dict[str, NDArray[np.float64]]

_STREAMED_CHUNKS = 64  # in one pass over data that have to be read anew in each
_LEAST_EXAMPLES = 30  # before a standard error is believed


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

    Attributes:
        center: the loss at the center.
        passes: forward passes over the whole data so far, in units of one point.
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
    ) -> None:
        self.objective, self.chart, self.measures = objective, chart, measures
        self.execution, self._stop = execution, stop or Stop()
        first = FirstLayer.of(objective, chart) if execution.reuse else None
        self._runner = Runner(
            objective,
            chart,
            measures,
            execution,
            bn=bn,
            compiled=compiled,
            first_layer=first,
            order=self._stop.order(objective.batches.num_examples),
        )
        with self._runner.running():
            parts = self._runner.parts()
        totals = [float(part.constants["total"]) for part in parts]
        self.center: Center = measures.center(parts, totals)
        self._whole = _added([part.constants for part in parts])
        self._parts = self._runner.released(parts)
        self.passes = 1.0

    @property
    def points_at_a_time(self) -> int:
        """Points that should be given together: those of a chunk, or of a pass over the data."""
        streamed = not self.objective.batches.is_cached
        return self.execution.chunk * (_STREAMED_CHUNKS if streamed else 1)

    def values(self, coefficients: Tensor) -> Values:
        """All fields at coefficients (P, k), float64: arrays (P, ...) by name."""
        chunks = coefficients.split(self.execution.chunk)
        with self._runner.running():
            places = [self._runner.place(chunk) for chunk in chunks]
            sums = self._sums(places)
        found = [self._finished(*summed) for summed in sums]
        values: Values = {
            name: np.concatenate([chunk[name] for chunk in found]) for name in found[0]
        }
        return values | self._apart_from_the_data(places)

    def _sums(self, places: Sequence[Place]) -> list[tuple[Values, Values, NDArray[np.bool_]]]:
        """Sums over the parts that each point saw, the constants of those parts, and clipped."""
        sums: list[Values] = [{} for _ in places]
        seen: list[Values] = [{} for _ in places]
        active = [torch.arange(len(place)) for place in places]
        clipped = [np.zeros(len(place), dtype=bool) for place in places]
        for index, part in enumerate(self._runner.renewed(self._parts)):
            for number, place in enumerate(places):
                if not len(active[number]):
                    continue
                whole = len(active[number]) == len(place)
                chosen = place if whole else place.select(active[number])
                added = self._runner.sums(chosen, part, index)
                points = active[number].numpy()
                for name, values in added.items():
                    _add(sums[number], name, points, values.cpu().numpy(), len(place))
                for name, constant in part.constants.items():
                    repeated = constant.numpy()[None].repeat(len(points), axis=0)
                    _add(seen[number], name, points, repeated, len(place))
                self.passes += len(points) * part.size / self.objective.batches.num_examples
                stay, beyond = self._staying(points, sums[number], seen[number])
                clipped[number][points[beyond]] = True
                active[number] = torch.as_tensor(points[stay])
            if not any(len(points) for points in active):
                break
        return list(zip(sums, seen, clipped, strict=True))

    def _staying(
        self, points: NDArray[np.int64], sums: Values, seen: Values
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which points go on, and which are beyond the clip."""
        beyond = np.zeros(len(points), dtype=bool)
        stay = np.ones(len(points), dtype=bool)
        if self._stop.clip is not None:
            beyond = sums["total"][points] / self.objective.total_weight > self._stop.clip
            stay &= ~beyond
        if self._stop.error is not None and self.measures.is_paired:
            for position, point in enumerate(points):
                count = seen["count"][point]
                if stay[position] and count >= _LEAST_EXAMPLES:
                    error = self._point(sums, seen, int(point))["standard_error"]
                    left = subset_error(error, float(count), self._whole["count"])
                    stay[position] = not left < self._stop.error
        return stay, beyond

    def _point(self, sums: Values, seen: Values, point: int) -> dict[str, float]:
        numbers = ("total", "difference", "difference_squared", "difference_weighted")
        return self.measures.values(
            {name: float(sums[name][point]) for name in numbers if name in sums},
            {name: float(seen[name][point]) for name in seen if seen[name].ndim == 1},
            self._whole,
            self.center,
        )

    def _finished(self, sums: Values, seen: Values, clipped: NDArray[np.bool_]) -> Values:
        """Fields (C, ...) from what was added up."""
        points = [self._point(sums, seen, point) for point in range(len(clipped))]
        found = {name: np.asarray([point[name] for point in points]) for name in points[0]}
        found["loss"][clipped] = math.inf
        found["standard_error"][clipped] = math.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            if "accuracy" in self.measures.names:
                found["accuracy"] = sums["right"] / seen["counted"]
            if "class_loss" in self.measures.names:
                found["class_loss"] = sums["class_total"] / seen["class_weight"]
            if "class_accuracy" in self.measures.names:
                found["class_accuracy"] = sums["class_right"] / seen["class_count"]
            for name in self.measures.metrics:
                found[name] = sums[f"metric_{name}"] / seen["count"]
        if self._stop.error is not None:
            found["num_examples"] = seen["count"]
            found["subset_error"] = np.asarray(
                [
                    subset_error(error, count, self._whole["count"])
                    for error, count in zip(found["standard_error"], seen["count"], strict=True)
                ]
            )
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
            gradients = list(self._gradients(places))
            if "gradient_norm" in self.measures.names:
                found["gradient_norm"] = np.asarray([float(g.norm()) for g in gradients])
            if "slope" in self.measures.names:
                vectors = self.chart.vectors.double()
                found["slope"] = np.stack([(vectors @ g).cpu().numpy() for g in gradients])
        return found

    def _gradients(self, places: Sequence[Place]) -> Iterator[Tensor]:
        """The gradient (n,), float64, at each point."""
        objective = self.objective
        with objective.evaluation(), torch.enable_grad():
            for place in places:
                for point, theta in enumerate(place.thetas):
                    buffers = {name: held[point] for name, held in place.buffers.items()}
                    gradient = torch.zeros_like(theta, dtype=torch.float64)
                    for batch in objective.batches:
                        leaves = objective.leaves(theta)
                        total = objective.term(leaves, batch, buffers).total
                        blocks = torch.autograd.grad(total, leaves, materialize_grads=True)
                        gradient += objective.space.flatten(blocks)
                    yield gradient / objective.total_weight


Progress = Callable[[int, int, str], None]


def _add(
    sums: Values,
    name: str,
    points: NDArray[np.int64],
    values: NDArray[np.float64],
    count: int,
) -> None:
    if name not in sums:
        sums[name] = np.zeros((count, *values.shape[1:]))
    sums[name][points] += values


def _added(constants: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The constants of one number each, over all parts."""
    names = [name for name, value in constants[0].items() if value.ndim == 0]
    return {name: math.fsum(float(part[name]) for part in constants) for name in names}
