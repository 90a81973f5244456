"""Examples: losses and errors of every example at the points of a path.

Differences along a path are differences of the same examples: their spread, not that of the
losses, is what a barrier is uncertain by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landscape.accuracy import correctness
from landscape.errors import RequestError, unknown_choice
from landscape.losses import Term
from landscape.objective import BatchNormPolicy, Objective
from landscape.slices.chart import Chart
from landscape.slices.evaluation import points_in_a_pass
from landscape.slices.execution import BatchNormMode, Execution, Place, Runner, can_resize
from landscape.slices.first_layer import FirstLayer
from landscape.slices.measures import Measures, Part, Sums
from landscape.slices.trial import ExecutionName, choose

__all__ = ["Examples", "PathEvaluator", "joined"]

_BN_MODES = ("eval", "batch", "recalibrate", "interpolate")


@dataclass(frozen=True, eq=False)
class Examples:
    """What the examples of one data set contribute at P points.

    Attributes:
        totals: (P,) float64 sums of the losses.
        total_weight: what they are divided by.
        losses: (P, N) float64 weighted loss of each example; None where the loss does not tell
            them apart.
        weights: (N,) float64 of each.
        right: (P, N) float64 elements of each that are right; None where there are no classes.
        counted: (N,) float64 elements that count.
        classes: (N,) class of each; None where there is not one for each example.
    """

    totals: Tensor
    total_weight: float
    losses: Tensor | None = None
    weights: Tensor | None = None
    right: Tensor | None = None
    counted: Tensor | None = None
    classes: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """(P,) float64."""
        return self.totals / self.total_weight

    @property
    def error(self) -> Tensor | None:
        """(P,) share of elements that are wrong; NaN where the loss is."""
        if self.right is None or self.counted is None:
            return None
        wrong = 1 - self.right.sum(1) / self.counted.sum()
        # The largest of outputs that are NaN is one of them, and no answer.
        return wrong.masked_fill(self.loss.isnan(), math.nan)

    def values(self, metric: str) -> Tensor:
        """(P,) of the metric "loss" or "error".

        Raises:
            RequestError: another metric, or no classes that an error could be of.
        """
        if metric == "loss":
            return self.loss
        if metric != "error":
            raise unknown_choice("metric", metric, ("loss", "error"))
        if self.error is None:
            raise RequestError(
                "the objective has no classes, and so no error rate. Leave metric at 'loss'."
            )
        return self.error

    def standard_error(self, metric: str, combination: Tensor) -> float:
        """Of sum_p c_p E(p) for c (P,), as of a fresh draw of the examples; NaN if unknown.

        The combination is taken example by example: what is common to the points cancels. It is
        the linearised ratio estimator (Cochran 1977, section 6.4).
        """
        rows, weights, total = self._rows(metric)
        if rows is None or weights is None:
            return math.nan
        summed = _combined(combination, rows)
        count = int((weights != 0).sum())
        if count < 2:
            return math.nan
        mean = summed.sum() / weights.sum()
        spread = (summed - weights * mean).square().sum()
        return float((spread * count / (count - 1)).sqrt() / total)

    def contributions(self, metric: str, combination: Tensor) -> Tensor | None:
        """(N,) what each example adds to sum_p c_p E(p); None where they are not told apart."""
        rows, _, total = self._rows(metric)
        return None if rows is None else _combined(combination, rows) / total

    def select(self, indices: Tensor) -> Examples:
        """The same examples at some of the points."""
        return replace(
            self,
            totals=self.totals[indices],
            losses=None if self.losses is None else self.losses[indices],
            right=None if self.right is None else self.right[indices],
        )

    def _rows(self, metric: str) -> tuple[Tensor | None, Tensor | None, float]:
        if metric == "loss":
            return self.losses, self.weights, self.total_weight
        if self.right is None or self.counted is None:
            return None, None, math.nan
        return self.counted - self.right, self.counted, float(self.counted.sum())


def _combined(combination: Tensor, rows: Tensor) -> Tensor:
    # Not a product with zeros: an infinite loss at a point that is not in it would be NaN.
    used = combination.nonzero().flatten()
    return combination[used].to(rows) @ rows[used]


def joined(pieces: Sequence[Examples], at: int | None = None) -> Examples:
    """The points of several as one.

    Args:
        at: where the points of the second of two are put among those of the first.
    """
    num = [len(piece.totals) for piece in pieces]
    order = torch.arange(sum(num))
    if at is not None:
        order = torch.cat([order[:at], order[num[0] :], order[at : num[0]]])

    def rows(name: str) -> Tensor | None:
        held = [getattr(piece, name) for piece in pieces]
        return None if held[0] is None else torch.cat(held)[order]

    totals = rows("totals")
    assert totals is not None
    return replace(pieces[0], totals=totals, losses=rows("losses"), right=rows("right"))


class _ExampleMeasures(Measures):
    """Example by example what `Measures` adds up."""

    def sums(self, term: Term, part: Part) -> Sums:
        found = {"total": term.total.double()}
        if part.weights is not None:
            assert term.losses is not None
            found["losses"] = term.losses.double().reshape(len(term.losses), -1).sum(1)
        told = correctness(self.objective.loss_function, term)
        if told is not None:
            found["right"] = told.right.double().reshape(len(told.right), -1).sum(1)
        return found

    def part(self, batch: object, size: int, term: Term) -> Part:
        found = super().part(batch, size, term)
        told = correctness(self.objective.loss_function, term)
        if told is not None:
            constants = dict(found.constants)
            counted = told.counted.double()
            constants["counted"] = counted.reshape(len(counted), -1).sum(1)
            classes = _one_each(term, counted)
            return replace(found, constants=constants, classes=classes)
        return found


def _one_each(term: Term, counted: Tensor) -> Tensor | None:
    """(b,) the class of each example; None where an example has several, or none for certain."""
    target = term.target
    assert target is not None
    if counted.numel() != len(counted):
        return None
    classes = target.reshape(-1).long()
    return classes if torch.equal(classes.to(target), target.reshape(-1)) else None


class PathEvaluator:
    """Objectives along a chart, example by example, in the execution that a trial finds fastest.

    Args:
        chart: such as `Vertices`.
        coefficients: (P, k) float64, where it will be evaluated; the trial takes its points there.
        bn: BatchNorm statistics: "recalibrate", those of the objective's data at each point;
            "interpolate", mixed like the weights; "batch"; "eval", the objective's own.
        also: further data by name. Statistics are those of the objective's own data there, too.
        execution: "auto", a mode, or an `Execution` that was found before.

    Raises:
        RequestError: an unknown policy or execution, or data of another network.

    Attributes:
        execution: the way that was chosen.
        points_at_a_time: that should be given together.
        notes: what was tried and could not be used.
    """

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        coefficients: Tensor,
        *,
        bn: BatchNormMode = "recalibrate",
        also: Mapping[str, Objective] | None = None,
        execution: ExecutionName | Execution = "auto",
    ) -> None:
        if bn not in _BN_MODES:
            raise unknown_choice("BatchNorm policy", str(bn), _BN_MODES)
        policy: BatchNormPolicy = "eval" if bn == "interpolate" else bn
        main = objective.under(policy)
        choice = choose(main, chart, _ExampleMeasures, coefficients, bn=bn, execution=execution)
        self.execution, self.notes = choice.execution, choice.notes
        self.chart, self._compiled, self._bn = chart, choice.compiled, bn
        self._main = self._runner(main, main)
        self.points_at_a_time = points_in_a_pass(main, chart, self.execution)
        self._runners = {"": self._main}
        for name, other in (also or {}).items():
            if other.space.names != main.space.names or other.space.shapes != main.space.shapes:
                raise RequestError(
                    f"the data {name!r} belong to an objective with other parameters. Make it of "
                    "the same network and the same params=."
                )
            # At a place the statistics are there already: those of the objective's own data.
            own = other.under("eval" if policy == "recalibrate" else policy)
            self._runners[name] = self._runner(own, main)
        self._statistics: dict[tuple[float, ...], dict[str, Tensor]] = {}
        self._parts = {name: _parts(runner) for name, runner in self._runners.items()}

    def _runner(self, objective: Objective, main: Objective) -> Runner:
        execution, compiled = self.execution, self._compiled
        if not can_resize(objective):
            execution = replace(execution, batch_size=None)
        if compiled is not None and objective.model is not main.model:
            execution, compiled = replace(execution, mode="loop"), None
        return Runner(
            objective,
            self.chart,
            _ExampleMeasures(objective),
            execution,
            bn=self._bn,
            compiled=compiled,
            first_layer=FirstLayer.of(objective, self.chart) if execution.reuse else None,
        )

    def at(self, coefficients: Tensor) -> dict[str, Examples]:
        """All examples at coefficients (P, k): "" for the objective's own, others by name."""
        pieces: dict[str, list[list[Sums]]] = {name: [] for name in self._runners}
        for several in torch.split(coefficients.double(), self.points_at_a_time):
            with self._main.running():
                places = [
                    self._main.place(chunk) for chunk in torch.split(several, self.execution.chunk)
                ]
            for place in places:
                self._remember(place)
            for name in self._runners:
                pieces[name] += self._sums(name, places)
        return {name: self._examples(name, found) for name, found in pieces.items()}

    def buffers(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Buffers by name that belonged to a point (k,) which was evaluated; empty for the own."""
        return self._statistics[tuple(coefficients.tolist())]

    def _remember(self, place: Place) -> None:
        for index, coefficients in enumerate(place.coefficients.tolist()):
            held = {name: buffer[index] for name, buffer in place.buffers.items()}
            self._statistics[tuple(coefficients)] = held

    def _sums(self, name: str, places: Sequence[Place]) -> list[list[Sums]]:
        """What each part adds at each place: of each place, a list over the parts."""
        runner, found = self._runners[name], [list[Sums]() for _ in places]
        with runner.running():
            for index, part in enumerate(runner.renewed(self._parts[name])):
                for position, place in enumerate(places):
                    sums = runner.sums(place, part, index)
                    found[position].append({key: one.cpu() for key, one in sums.items()})
        return found

    def _examples(self, name: str, places: Sequence[Sequence[Sums]]) -> Examples:
        parts, objective = self._parts[name], self._runners[name].objective

        def joined(key: str) -> Tensor | None:
            if key not in places[0][0]:
                return None
            return torch.cat([torch.cat([sums[key] for sums in place], 1) for place in places])

        def constant(values: Iterator[Tensor | None]) -> Tensor | None:
            held = list(values)
            return None if any(one is None for one in held) else torch.cat(held).cpu()  # type: ignore[arg-type]

        totals = [torch.stack([sums["total"] for sums in place]).sum(0) for place in places]
        right = joined("right")
        return Examples(
            totals=torch.cat(totals),
            total_weight=objective.total_weight,
            losses=joined("losses"),
            weights=constant(part.weights for part in parts),
            right=right,
            counted=None
            if right is None
            else constant(part.constants["counted"] for part in parts),
            classes=None if right is None else constant(part.classes for part in parts),
        )


def _parts(runner: Runner) -> list[Part]:
    with runner.running():
        return runner.released(runner.parts(recalibrated=False))
