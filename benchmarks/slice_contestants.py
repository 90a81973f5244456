"""Contestants in a plane of the loss: ours, a careful user's loop, loss-landscapes, and plain GEMM.

`slices` lets them take turns; `slice_checks` looks at what a ratio does not show.
"""

from __future__ import annotations

import copy
import gc
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import peers
from benchmarks.slice_cases import Case, Point, grid_points
from landscape.slices.chart import Chart
from landscape.slices.execution import Execution
from landscape.slices.measures import Measures
from landscape.slices.options import SweepOptions
from landscape.slices.sweep import Sweep
from landscape.slices.sweeping import plane
from landscape.slices.trial import ExecutionName, choose
from landscape.trainers.gradients import num_threads

__all__ = [
    "Loop",
    "Ours",
    "Timing",
    "Work",
    "fastest_loop",
    "fresh_compiler_cache",
    "gemm",
    "in_turns",
    "our_executions",
    "peer_row_offset",
    "peer_walk",
    "peer_work",
]

_SEED = 0
_GEMM_SIZES = (1024, 2048, 4096)
_GEMM_SECONDS = 0.5  # of one turn

Progress = Callable[[int, int, str], None]  # as `SweepOptions` has it


@dataclass(frozen=True)
class Timing:
    """Seconds of one point (or of one FLOP), and those that are no point's: what prepares them."""

    unit: float
    overhead: float = 0.0


Work = Callable[[], Timing]


# -- ours --------------------------------------------------------------------------------------


class Ours:
    """Our plane with one execution.

    Args:
        trial_seconds: that the choice of the execution took.
    """

    def __init__(
        self,
        name: str,
        case: Case,
        execution: Execution | ExecutionName,
        trial_seconds: float = 0.0,
    ) -> None:
        self.name, self.trial_seconds = name, trial_seconds
        self.execution = execution
        self._objective, self._directions = case.objective(), case.directions

    @property
    def mode(self) -> str:
        """Of its execution."""
        return self.execution if isinstance(self.execution, str) else self.execution.mode

    def plane(self, num: tuple[int, int], progress: Progress | None = None) -> Sweep:
        """As a user asks for it, of radius 1."""
        options = SweepOptions(execution=self.execution, progress=progress)
        return plane(self._objective, self._directions, num, options=options)

    def work(self, num: tuple[int, int]) -> Work:
        """A plane, its points timed from one report of its progress to another."""

        def timing() -> Timing:
            stamps: list[tuple[int, float]] = []
            began = time.perf_counter()
            self.plane(num, lambda done, _, __: stamps.append((done, time.perf_counter())))
            total = time.perf_counter() - began
            (first, at_first), (last, at_last) = stamps[0], stamps[-1]
            if first == last:  # all points at a time: nothing to tell apart
                return Timing(total / last)
            point = (at_last - at_first) / (last - first)
            return Timing(point, total - last * point)

        return timing


def our_executions(case: Case, num: tuple[int, int], *, compiled: bool) -> list[Ours]:
    """What is chosen for a plane; and what would be without compiling, or else with it."""
    auto = _chosen("landscape", case, num, "auto")
    if auto.mode == "compiled":
        # For fewer points compiling does not pay, and is not tried.
        fewer = (num[0] // 2 + 1, num[1] // 2 + 1)
        eager = _chosen("landscape, not compiled", case, fewer, "auto")
        if isinstance(eager.execution, Execution) and eager.mode == "compiled":
            eager.execution = replace(eager.execution, mode="loop")
        return [auto, eager]
    return [auto, _chosen("landscape, compiled", case, num, "compiled")] if compiled else [auto]


def _chosen(name: str, case: Case, num: tuple[int, int], execution: ExecutionName) -> Ours:
    """Our plane in the execution that a trial finds for that many points."""
    objective = case.objective()
    chart = Chart(objective.theta, torch.stack([*case.directions]))
    coefficients = torch.as_tensor(grid_points(num), dtype=torch.float64)
    began = time.perf_counter()
    choice = choose(objective, chart, Measures, coefficients, bn="eval", execution=execution)
    return Ours(name, case, choice.execution, time.perf_counter() - began)


@contextmanager
def fresh_compiler_cache() -> Iterator[None]:
    """Inside, compiling takes the time that it takes for the first time."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


# -- the loop that a careful user writes -------------------------------------------------------


class Loop:
    """Point by point: write the weights in place, add up the losses of the batches.

    Args:
        batches: a DataLoader, or tensors in memory.
        threads: that torch may use.
    """

    def __init__(
        self, name: str, case: Case, batches: Iterable[Sequence[Tensor]], threads: int
    ) -> None:
        self.name = name
        self._batches, self._threads = batches, threads
        self._model = copy.deepcopy(case.model)
        self._parameters = list(self._model.parameters())
        self._center = [parameter.detach().clone() for parameter in self._parameters]
        self._first, self._second = (self._blocks(vector) for vector in case.directions)

    def losses(self, points: Sequence[Point]) -> list[float]:
        """Mean loss at center + a d_1 + b d_2, for each (a, b)."""
        with num_threads(self._threads), torch.no_grad():
            return [self._at(a, b) for a, b in points]

    def work(self, num_points: int) -> Work:
        """That many points."""
        points = [(0.5, -0.5)] * num_points
        return lambda: Timing(_seconds(lambda: self.losses(points)) / num_points)

    def loss_at(self, theta: Tensor) -> float:
        """Mean loss at the weights (n,), in the order of the model's parameters."""
        with num_threads(self._threads), torch.no_grad():
            for parameter, block in zip(self._parameters, self._blocks(theta), strict=True):
                parameter.copy_(block)
            return self._mean_loss()

    def _at(self, a: float, b: float) -> float:
        blocks = zip(self._parameters, self._center, self._first, self._second, strict=True)
        for parameter, center, one, two in blocks:
            parameter.copy_(center).add_(one, alpha=a).add_(two, alpha=b)
        return self._mean_loss()

    def _mean_loss(self) -> float:
        total, count = 0.0, 0
        for inputs, labels in self._batches:
            total += F.cross_entropy(self._model(inputs), labels, reduction="sum").item()
            count += len(labels)
        return total / count

    def _blocks(self, vector: Tensor) -> list[Tensor]:
        pieces = torch.split(vector, [parameter.numel() for parameter in self._parameters])
        blocks = zip(pieces, self._parameters, strict=True)
        return [piece.view_as(parameter) for piece, parameter in blocks]


def fastest_loop(case: Case, *, in_memory: bool) -> Loop:
    """The loop with the batch size and the threads that a trial finds best.

    Args:
        in_memory: over the tensors themselves, all examples in one batch; else a DataLoader.
    """
    candidates = []
    for threads in sorted({1, torch.get_num_threads()}):
        if in_memory:
            name = f"loop, tensors in memory, threads: {threads}"
            candidates.append(Loop(name, case, [(case.inputs, case.labels)], threads))
            continue
        for size in case.loader_sizes:
            loader = DataLoader(TensorDataset(case.inputs, case.labels), size, shuffle=False)
            name = f"loop, DataLoader of {size}, threads: {threads}"
            candidates.append(Loop(name, case, loader, threads))
    return min(candidates, key=_trial_seconds)


def _trial_seconds(loop: Loop) -> float:
    work = loop.work(1)
    work()  # the first call finds no memory in place
    return min(work().unit, work().unit)


# -- loss-landscapes ---------------------------------------------------------------------------


def peer_work(case: Case, steps: int) -> Work:
    """Its plane of `steps` x `steps` points."""
    metric = peers.loss_landscapes_loss(case.inputs, case.labels)

    def timing() -> Timing:
        # All that it does before the first point: a copy, directions, their norms.
        overhead = _seconds(lambda: peers.loss_landscapes(case.model, 1, lambda _: 0.0))
        total = _seconds(lambda: peers.loss_landscapes(case.model, steps, metric))
        return Timing((total - overhead) / steps**2, overhead)

    return timing


def peer_walk(case: Case, steps: int) -> tuple[list[float], list[Tensor]]:
    """What loss-landscapes says, and the weights (n,) where it says so, in its array's order."""
    metric = peers.loss_landscapes_loss(case.inputs, case.labels)
    visited: list[tuple[float, Tensor]] = []

    def recorded(wrapper: Any) -> int:
        blocks = wrapper.get_module_parameters().parameters
        theta = torch.cat([block.detach().reshape(-1) for block in blocks])
        visited.append((metric(wrapper), theta))
        return len(visited) - 1

    order = peers.loss_landscapes(case.model, steps, recorded).reshape(-1)
    walked = [visited[int(index)] for index in order]
    return [loss for loss, _ in walked], [theta for _, theta in walked]


def peer_row_offset(case: Case) -> float:
    """Steps by which the odd rows of loss-landscapes' array stand beside the even ones."""
    _, thetas = peer_walk(case, steps=3)
    row, next_row, third_row = thetas[0], thetas[3], thetas[6]
    step = thetas[1] - thetas[0]
    beside = next_row - (row + third_row) / 2
    return float(beside @ step / (step @ step))


# -- turns -------------------------------------------------------------------------------------


@cache
def gemm() -> Work:
    """Seconds of a FLOP in square float32 products, of the size at which they are fastest."""

    def product(size: int) -> Work:
        generator = torch.Generator().manual_seed(_SEED)
        left, right, out = (torch.randn(size, size, generator=generator) for _ in range(3))

        def seconds_of_a_flop() -> Timing:
            began, calls = time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < _GEMM_SECONDS:
                torch.mm(left, right, out=out)
                calls += 1
            return Timing(passed / (calls * 2 * size**3))

        return seconds_of_a_flop

    return min(map(product, _GEMM_SIZES), key=lambda work: work().unit)


def in_turns(
    works: Mapping[str, Work], rounds: int
) -> tuple[dict[str, Timing], dict[str, list[Timing]]]:
    """A first call of each, then one in each round, in an order drawn anew.

    `timing.alternate` would call each five times before it counts; a plane takes too long.
    """
    first = {name: work() for name, work in works.items()}
    shuffler = random.Random(_SEED)
    timings: dict[str, list[Timing]] = {name: [] for name in works}
    for _ in range(rounds):
        order = list(works)
        shuffler.shuffle(order)
        for name in order:
            gc.collect()  # what the one before has left behind is not this one's cost
            timings[name].append(works[name]())
    return first, timings


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
