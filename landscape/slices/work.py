"""Work: measures the points of a slice into a ledger, chunk by chunk. `sweeping` says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices import refinement
from landscape.slices.chart import Chart
from landscape.slices.evaluation import Evaluator, Stop
from landscape.slices.execution import BatchNormMode, Execution, can_resize
from landscape.slices.ledger import Ledger
from landscape.slices.measures import FIELDS, Center, Measures
from landscape.slices.options import SweepOptions
from landscape.slices.trial import Choice, choose

__all__ = ["Work"]

_SMALLEST_BATCHES = 16  # that a data set is cut into where points may be left early
_LEAST_BATCH = 32  # of examples, however small the data set


class Work:
    """The evaluation of a slice's points, for every objective, in the chosen execution.

    Args:
        objectives: by the prefix of their fields; the slice's own has none.
        coefficients: (P, k) float64, the points.
        ledger: what is there already is not measured again.

    Raises:
        RequestError: fields, an execution or a way to leave points early that do not fit.

    Attributes:
        notes: how points are evaluated, and what the trial found impossible.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        chart: Chart,
        coefficients: Tensor,
        fields: Sequence[str],
        bn: BatchNormMode,
        options: SweepOptions,
        ledger: Ledger,
    ) -> None:
        self._chart, self._coefficients = chart, coefficients
        self._fields, self._bn = fields, bn
        self._options, self._ledger = options, ledger
        self._check_names(objectives)
        choice = self._choose(objectives[""])
        ledger.execution = dict(vars(choice.execution))
        self.notes = (f"evaluated: {choice.execution}", *choice.notes)
        main = self._evaluator(objectives[""], choice, None)
        self._evaluators = {"": main} | {
            prefix: self._evaluator(objective, choice, main)
            for prefix, objective in objectives.items()
            if prefix
        }

    def _check_names(self, objectives: Mapping[str, Objective]) -> None:
        taken = {*FIELDS, "standard_error", "subset_error", "num_examples", *self._options.metrics}
        for prefix in objectives:
            twice = sorted(taken & {f"{prefix}{name}" for name in taken}) if prefix else []
            if twice:
                raise RequestError(
                    f"the data {prefix.removesuffix('_')!r} would give another field "
                    f"{twice[0]!r}. Give them another name, such as 'test'."
                )

    def _choose(self, objective: Objective) -> Choice:
        options, execution = self._options, self._options.execution
        if self._ledger.execution is not None:
            execution = Execution(**self._ledger.execution)  # type: ignore[arg-type]
        leaves_early = options.stop_error is not None or options.clip is not None
        largest = max(_LEAST_BATCH, objective.batches.num_examples // _SMALLEST_BATCHES)
        choice = choose(
            objective,
            self._chart,
            self._measures,
            self._coefficients,
            bn=self._bn,
            execution=execution,
            largest_batch=largest if leaves_early else None,
        )
        # A point can be left only between two batches.
        free = not isinstance(execution, Execution) and choice.execution.batch_size is None
        if leaves_early and free and can_resize(objective):
            choice = replace(choice, execution=replace(choice.execution, batch_size=largest))
        return choice

    def _measures(self, objective: Objective) -> Measures:
        options = self._options
        return Measures(objective, self._fields, metrics=options.metrics, penalty=options.penalty)

    def _evaluator(self, objective: Objective, choice: Choice, main: Evaluator | None) -> Evaluator:
        execution, compiled = choice.execution, choice.compiled
        if not can_resize(objective):
            execution = replace(execution, batch_size=None)
        is_other = main is not None and objective.model is not main.objective.model
        if compiled is not None and is_other:
            execution, compiled = replace(execution, mode="loop"), None
        return Evaluator(
            objective,
            self._chart,
            self._measures(objective),
            execution,
            bn=self._bn,
            stop=Stop(self._options.stop_error, self._options.clip, self._options.seed),
            compiled=compiled,
            statistics=main,
        )

    @property
    def center(self) -> Center:
        """Of the slice's own objective."""
        return self._evaluators[""].center

    def measure(self, shape: tuple[int, ...], apart: int) -> NDArray[np.bool_]:
        """All points, or those that a refinement asks for; which were measured.

        Args:
            shape: of the grid.
            apart: leading axes of it along which nothing is interpolated.
        """
        tolerance = self._options.tolerance
        try:
            if tolerance is not None:
                self._warn_of_a_full_grid(shape[apart:])
                total = len(self._coefficients)
                return refinement.refine(
                    shape,
                    lambda points: self._evaluate(points, total),
                    lambda: self._ledger.rows["loss"].reshape(shape).copy(),
                    tolerance,
                    apart=apart,
                )
            points = np.arange(len(self._coefficients))
            if self._options.shard is not None:
                index, count = self._options.shard
                points = np.array_split(points, count)[index]
            self._evaluate(points, len(points))
        finally:
            self._ledger.write()
        return self._ledger.done.reshape(shape)

    def _warn_of_a_full_grid(self, shape: tuple[int, ...]) -> None:
        if refinement.coarsest_stride(shape) == 1:
            num = ", ".join(map(str, shape))
            self.notes += (
                f"tolerance left nothing out: of num={num} each less 1 would have to be even and "
                "16 or more, as 33 is",
            )

    def _evaluate(self, points: NDArray[np.int64], total: int) -> None:
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
                self._options.progress(int(self._ledger.done.sum()), total, "")
