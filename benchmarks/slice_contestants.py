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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.directions import random_directions
from landscape.slices.execution import Execution
from landscape.slices.measures import Measures
from landscape.slices.options import SweepOptions
from landscape.slices.sweep import Sweep
from landscape.slices.sweeping import plane
from landscape.slices.trial import ExecutionName, choose
from landscape.trainers.data import digits
from landscape.trainers.gradients import num_threads
from landscape.trainers.models import mlp, resnet20

__all__ = [
    "Case",
    "Loop",
    "Ours",
    "Work",
    "cnn_case",
    "fastest_loop",
    "forward_flops",
    "fresh_compiler_cache",
    "gemm",
    "grid_points",
    "in_turns",
    "mlp_case",
    "our_executions",
    "peer_row_offset",
    "peer_walk",
    "timed",
]

_SEED = 0
_FEW = 16  # examples for what needs only some: more would be seen in the peak memory
_OUR_BATCH = 128  # examples of a batch that our objective is given; it may cut them anew
_GEMM_SIZES = (1024, 2048, 4096)
_GEMM_SECONDS = 0.5  # of one turn

Point = tuple[float, float]
Work = Callable[[], float]  # gives seconds, by its own clock


@dataclass(frozen=True)
class Case:
    """A network, its data and two directions: the same for every contestant.

    Attributes:
        model: in eval mode; a contestant works on its own copy.
        loader_sizes: batch sizes that the user of a DataLoader may choose from.
        directions: two of (n,), filter-normalised.
    """

    description: str
    model: nn.Module
    inputs: Tensor
    labels: Tensor
    loader_sizes: tuple[int, ...]
    directions: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, name: str, model: nn.Module, data: tuple[Tensor, Tensor], loader_sizes: tuple[int, ...]
    ) -> Case:
        """The network on these data; `name` says which."""
        inputs, labels = data
        size = sum(parameter.numel() for parameter in model.parameters())
        description = f"{name}, {size:,} parameters, {len(labels):,} images"
        case = cls(description, model.eval(), inputs, labels, loader_sizes, ())
        few = case.part(_FEW).objective()  # directions do not depend on the data
        return replace(case, directions=random_directions(few, 2, seed=_SEED))

    def objective(self) -> Objective:
        """In the precision of the model."""
        inputs, labels = (torch.split(data, _OUR_BATCH) for data in (self.inputs, self.labels))
        batches = list(zip(inputs, labels, strict=True))
        return Objective(copy.deepcopy(self.model), batches, loss="cross_entropy")

    def part(self, num: int) -> Case:
        """The same network on the first examples."""
        return replace(self, inputs=self.inputs[:num], labels=self.labels[:num])


def cnn_case(num_images: int) -> Case:
    """ResNet-20 with initial weights and random images."""
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(num_images, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (num_images,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = resnet20()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # As after some training: loss-landscapes divides by the norm of each bias.
                nn.init.normal_(module.bias, std=0.1)
                module.momentum = None  # statistics of the pass that follows, and no others
    with torch.no_grad():
        model(images[:_FEW])
    return Case.of("ResNet-20", model, (images, labels), loader_sizes=(128, 256))


def mlp_case(dtype: torch.dtype = torch.float32) -> Case:
    """The digits MLP 64-64-64-10 with initial weights."""
    inputs, labels = digits("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = mlp(64, (64, 64), 10).to(dtype)
    data = inputs.to(dtype), labels
    return Case.of("digits MLP 64-64-64-10", model, data, loader_sizes=(32, 256))


def grid_points(num: tuple[int, int]) -> list[Point]:
    """Coordinates of a plane of radius 1, row by row."""
    first, second = (np.linspace(-1, 1, count).tolist() for count in num)
    return [(a, b) for a in first for b in second]


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

    def plane(self, num: tuple[int, int]) -> Sweep:
        """As a user asks for it, of radius 1."""
        options = SweepOptions(execution=self.execution)
        return plane(self._objective, self._directions, num, options=options)


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
    work = timed(lambda: loop.losses([(0.5, -0.5)]))
    work()  # the first call finds no memory in place
    return min(work(), work())


# -- loss-landscapes ---------------------------------------------------------------------------


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


def timed(work: Callable[[], object]) -> Work:
    """The same, giving its seconds."""

    def seconds() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return seconds


@cache
def gemm() -> Work:
    """Seconds of a FLOP in square float32 products, of the size at which they are fastest."""

    def product(size: int) -> Work:
        generator = torch.Generator().manual_seed(_SEED)
        left, right, out = (torch.randn(size, size, generator=generator) for _ in range(3))

        def seconds_of_a_flop() -> float:
            began, calls = time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < _GEMM_SECONDS:
                torch.mm(left, right, out=out)
                calls += 1
            return passed / (calls * 2 * size**3)

        return seconds_of_a_flop

    return min(map(product, _GEMM_SIZES), key=lambda work: work())


def forward_flops(case: Case) -> float:
    """FLOPs of the forward passes of one point, a multiplication with its addition being two."""
    few = min(len(case.labels), 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        case.model(case.inputs[:few])
    return float(counter.get_total_flops() / few * len(case.labels))


def in_turns(
    works: Mapping[str, Work], rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of a first call of each, then of one in each round, in an order drawn anew.

    `timing.alternate` would call each five times before it counts; a plane takes too long.
    """
    first = {name: work() for name, work in works.items()}
    shuffler = random.Random(_SEED)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        order = list(works)
        shuffler.shuffle(order)
        for name in order:
            gc.collect()  # what the one before has left behind is not this one's cost
            seconds[name].append(works[name]())
    return first, seconds
