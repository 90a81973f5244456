"""Barrier matrix: the barriers between all pairs of a family, and the basins that they leave."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.paths.barrier import METRICS, Metric, chance_level, profile
from landscape.paths.connectivity_graph import spanning_tree
from landscape.paths.examples import Examples, PathEvaluator, joined
from landscape.paths.heights import check_definition
from landscape.paths.vertices import Vertices, line_weights
from landscape.result import Result
from landscape.slices.execution import BatchNormMode, Execution
from landscape.slices.ledger import Ledger
from landscape.slices.trial import ExecutionName
from landscape.trainers.averaging import angles

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BarrierMatrix", "barrier_matrix"]

Array = NDArray[np.float64]
_SHARE = 0.02  # of what a network gains over chance: a barrier below it is none


@dataclass(frozen=True, kw_only=True, eq=False)
class BarrierMatrix(Result):
    """Barriers between T solutions.

    Attributes:
        names: (T,) of the solutions.
        metric, definition: of the barriers.
        values: (T, T) symmetric; 0 on the diagonal.
        standard_errors, alphas: (T, T) of each barrier; alpha counts from the row to the column.
        paths: (T, T, P) the metric along each line, from the row to the column.
        ends: (T,) the metric at each solution.
        angles: (T, T) in radians.
        threshold: barriers up to it are none; for each pair, or one number.
        bn: the BatchNorm policy along the lines.
    """

    probe: ClassVar[str] = "barrier_matrix"

    names: tuple[str, ...]
    metric: str
    definition: str
    values: Array
    standard_errors: Array = field(repr=False)
    alphas: Array = field(repr=False)
    paths: Array = field(repr=False)
    ends: Array = field(repr=False)
    angles: Array = field(repr=False)
    threshold: Array | float
    bn: str

    @property
    def status(self) -> str:
        """ "converged" unless some barrier is unknown."""
        lost = int(np.isnan(self.values).sum() // 2)
        return f"{lost} barriers are NaN" if lost else "converged"

    @property
    def _separation(self) -> Array:
        """(T, T) a greater one separates more; infinite where it is unknown."""
        below = self.definition == "mode_connectivity"
        return np.nan_to_num(-self.values if below else self.values, nan=math.inf, posinf=math.inf)

    @property
    def basins(self) -> NDArray[np.int64]:
        """(T,) number of each solution's basin: joined by lines without a barrier, step by step."""
        joined_by_line = self._separation <= self.threshold
        _, labels = connected_components(joined_by_line, directed=False)
        # Numbered by their first member.
        _, first = np.unique(labels, return_index=True)
        order = np.argsort(np.argsort(first))
        return np.asarray(order[labels], dtype=np.int64)

    @property
    def linkage(self) -> Array | None:
        """(T - 1, 4) merges from the lowest barrier up, as scipy's `dendrogram` takes them.

        None where a barrier is not finite, or negative.
        """
        heights = self._separation.copy()
        np.fill_diagonal(heights, 0.0)
        if not (np.isfinite(heights).all() and (heights >= 0).all()):
            return None
        return np.asarray(linkage(squareform(heights, checks=False), "single"))

    @property
    def spanning_tree(self) -> list[tuple[int, int]]:
        """Pairs of the minimum spanning tree; a forest where barriers are unknown or infinite."""
        return sorted(spanning_tree(self._separation))

    @property
    def bottlenecks(self) -> Array | None:
        """(T, T) the highest barrier on the way between two along the spanning tree; or None."""
        merges = self.linkage
        return None if merges is None else np.asarray(squareform(cophenet(merges)))

    def __repr__(self) -> str:
        return (
            f"BarrierMatrix({len(self.names)} solutions in {self.basins.max() + 1} basins, "
            f"greatest barrier {self.values.max():.6g} {self.metric})"
        )

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Matrices over (solution, other); the number of basins and the extremes as scalars."""
        import xarray as xr

        unit = "1" if "relative" in self.definition or self.metric == "error" else "loss"
        pairs = ("solution", "other")
        off = self.values[~np.eye(len(self.values), dtype=bool)]
        threshold = np.broadcast_to(self.threshold, self.values.shape)
        found: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "num_basins": ((), int(self.basins.max()) + 1, "1", "number of basins"),
            "greatest_barrier": ((), off.max(), unit, "greatest barrier"),
            "mean_barrier": ((), off.mean(), unit, "mean barrier"),
            "barrier": (pairs, self.values, unit, f"barrier, definition {self.definition!r}"),
            "barrier_error": (pairs, self.standard_errors, unit, "standard error of the barrier"),
            "barrier_alpha": (pairs, self.alphas, "1", "where on the way it is reached"),
            "threshold": (pairs, threshold, unit, "barrier up to which there is none"),
            "angle": (pairs, self.angles, "rad", "angle between the solutions"),
            "path": ((*pairs, "alpha"), self.paths, unit, f"{self.metric} along the line"),
            "end": (("solution",), self.ends, unit, f"{self.metric} at the solution"),
            "basin": (("solution",), self.basins, "1", "basin of the solution"),
        }
        bottlenecks = self.bottlenecks
        if bottlenecks is not None:
            words = "highest barrier on the way along the spanning tree"
            found["bottleneck"] = (pairs, bottlenecks, unit, words)
        names = list(self.names)
        ways = {"units": "1", "long_name": "share of the way"}
        alphas = np.linspace(0, 1, self.paths.shape[-1])
        return xr.Dataset(
            {
                name: (dims, values, {"units": units, "long_name": words})
                for name, (dims, values, units, words) in found.items()
            },
            coords={"solution": names, "other": names, "alpha": ("alpha", alphas, ways)},
        )


def barrier_matrix(
    objective: Objective,
    thetas: Sequence[Tensor] | Tensor,
    num: int = 25,
    definition: str = "chord",
    bn: BatchNormMode = "recalibrate",
    *,
    metric: Metric = "loss",
    names: Sequence[str] | None = None,
    buffers: Sequence[Mapping[str, Tensor]] | None = None,
    threshold: float | None = None,
    execution: ExecutionName | Execution = "auto",
    state: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> BarrierMatrix:
    """The barriers on the lines between all pairs of a family.

    Args:
        thetas: (T, n) the solutions.
        num: points on each line, both ends included. A maximum between them is not looked for:
            `barrier` does.
        names: of the solutions.
        threshold: a barrier up to it is none; by default 2 % of what the ends gain over chance,
            and 0.02 for metric="error" (Frankle et al. 2020).
        state: a file from which an interrupted matrix goes on; it goes when all is done.
        progress: called with (lines done, lines, "").

    Other arguments as for `barrier`.

    Raises:
        RequestError: what does not fit.
    """
    began = time.perf_counter()
    check_definition(definition)
    if metric not in METRICS:
        raise unknown_choice("metric", metric, METRICS)
    if num < 3:
        raise RequestError(f"num is {num}: a barrier needs 3 points or more, ends included.")
    names = tuple(names or (str(index + 1) for index in range(len(thetas))))
    if len(names) != len(thetas) or len(set(names)) != len(names):
        raise RequestError(f"{len(thetas)} solutions need as many different names: {names}.")
    if bn == "interpolate" and buffers is None:
        raise RequestError("bn='interpolate' needs the buffers of each solution: buffers=[...].")
    chart = Vertices.of(objective, thetas, buffers if bn == "interpolate" else None)
    settings: dict[str, object] = {
        "num": num,
        "definition": definition,
        "metric": metric,
        "bn": bn,
        "names": list(names),
        "threshold": threshold,
        "solutions": fingerprint({"points": chart.points.cpu()}).hex(),
    }
    pairs = list(combinations(range(len(names)), 2))
    request = {"provenance": objective.provenance(), **settings}
    ledger = Ledger(len(pairs), request, state)
    lines = _Lines(objective, chart, pairs, num, bn, execution, ledger)
    try:
        lines.measure(definition, metric, progress)
    finally:
        ledger.write()
    ledger.remove()
    ends = lines.ends.values(metric).numpy()
    matrix = _Matrix(len(names), pairs, ledger.rows)
    values = matrix.symmetric("value")
    return BarrierMatrix(
        settings=settings,
        provenance=objective.provenance(),
        notes=(*objective.notes, f"evaluated: {lines.evaluator.execution}"),
        names=names,
        metric=metric,
        definition=definition,
        values=values,
        standard_errors=matrix.symmetric("standard_error"),
        alphas=matrix.alphas(),
        paths=matrix.paths(ends),
        ends=ends,
        angles=_angles(chart.points),
        threshold=_threshold(lines.ends, metric, definition) if threshold is None else threshold,
        bn=bn,
        wall_time=time.perf_counter() - began,
    )


class _Lines:
    """Evaluates the lines of a family; the ends once, the rest pair by pair."""

    def __init__(
        self,
        objective: Objective,
        chart: Vertices,
        pairs: Sequence[tuple[int, int]],
        num: int,
        bn: BatchNormMode,
        execution: ExecutionName | Execution,
        ledger: Ledger,
    ) -> None:
        self._chart, self._pairs, self._ledger = chart, pairs, ledger
        self._alphas = np.linspace(0, 1, num)
        if ledger.execution is not None:
            execution = Execution(**ledger.execution)  # type: ignore[arg-type]
        # The trial sees them all: how much there is decides how long it may search.
        every = self._coefficients(pairs)
        self.evaluator = PathEvaluator(objective, chart, every, bn=bn, execution=execution)
        ledger.execution = dict(vars(self.evaluator.execution))
        vertices = torch.eye(len(chart.points), dtype=torch.float64)
        self.ends = self.evaluator.at(chart.coefficients(vertices))[""]

    def _coefficients(self, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Of the points between the ends of each pair."""
        inner, count = torch.as_tensor(self._alphas[1:-1]), len(self._chart.points)
        weights = [line_weights(inner, count, pair) for pair in pairs]
        return self._chart.coefficients(torch.cat(weights))

    def measure(
        self,
        definition: str,
        metric: str,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        pairs = self._pairs
        inner = len(self._alphas) - 2
        at_once = max(1, self.evaluator.points_at_a_time // inner)
        for start in range(0, len(pairs), at_once):
            numbers = range(start, min(len(pairs), start + at_once))
            if self._ledger.done[start : numbers.stop].all():
                continue
            several = [pairs[number] for number in numbers]
            found = self.evaluator.at(self._coefficients(several))[""]
            for index, number in enumerate(numbers):
                between = found.select(torch.arange(index * inner, (index + 1) * inner))
                first, last = (self.ends.select(torch.tensor([end])) for end in pairs[number])
                line = joined([first, between, last])
                self._enter(number, line, definition, metric)
            if progress is not None:
                progress(int(self._ledger.done.sum()), len(pairs), "")

    def _enter(self, number: int, line: Examples, definition: str, metric: str) -> None:
        own = profile(self._alphas, line, metric)
        row = {
            "value": own.heights[definition].value,
            "standard_error": own.errors[definition],
            "alpha": own.heights[definition].alpha,
        }
        values = {name: np.asarray([value]) for name, value in row.items()}
        self._ledger.enter(np.asarray([number]), values | {"path": own.values[None]})


@dataclass(frozen=True, eq=False)
class _Matrix:
    """Rows of pairs as matrices."""

    count: int
    pairs: Sequence[tuple[int, int]]
    rows: Mapping[str, Array]

    def symmetric(self, name: str) -> Array:
        found = np.zeros((self.count, self.count))
        for (first, second), value in zip(self.pairs, self.rows[name], strict=True):
            found[first, second] = found[second, first] = value
        return found

    def alphas(self) -> Array:
        found = self.symmetric("alpha")
        lower = np.tril_indices(self.count, -1)
        found[lower] = 1 - found[lower]
        return found

    def paths(self, ends: Array) -> Array:
        num = self.rows["path"].shape[1]
        found = np.repeat(ends[:, None, None], num, axis=2).repeat(self.count, axis=1)
        for (first, second), path in zip(self.pairs, self.rows["path"], strict=True):
            found[first, second], found[second, first] = path, path[::-1]
        return np.asarray(found)


def _threshold(ends: Examples, metric: str, definition: str) -> Array | float:
    if metric == "error" or definition == "relative":
        return _SHARE
    losses = ends.loss.numpy()
    means = (losses[:, None] + losses) / 2
    chance = chance_level(ends, metric)
    room = np.abs(means) if math.isnan(chance) else chance - means
    return np.asarray(_SHARE * np.maximum(room, 0.0))


def _angles(points: Tensor) -> Array:
    return torch.stack([angles(points, point) for point in points]).cpu().numpy()
