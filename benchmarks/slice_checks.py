"""What a ratio does not show: that a plane is exact, and that its memory does not grow with it.

`slices` prints these beside the seconds.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.slice_cases import Case, cnn_case, mlp_case
from benchmarks.slice_contestants import Ours, our_executions
from benchmarks.timing import Work, peak_bytes
from landscape.objective import Objective
from landscape.slices.directions import random_directions
from landscape.slices.execution import Execution
from landscape.slices.options import SweepOptions
from landscape.slices.sweep import Sweep, merge
from landscape.slices.sweeping import plane

__all__ = ["Check", "Growth", "Step", "exactness", "memory"]

_SEED = 0
_EXACT = 1e-12  # relative
_CNN_SIDES = (2, 4)  # of planes whose memory is measured
_WARM = 16  # examples
_PROCESSES = 3  # that run the same: the least peak counts
_MEMORY_NOISE = 4 * 2**20  # by which two runs of the same differ

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """A property that a plane has, and how far it is from it."""

    claim: str
    measured: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.measured <= self.bound


@dataclass(frozen=True)
class Step:
    """Bytes that one plane takes more than a smaller one, the arrays that come back aside."""

    claim: str
    growth: int

    @property
    def holds(self) -> bool:
        return self.growth <= _MEMORY_NOISE


@dataclass(frozen=True)
class Growth:
    """Peak memory of planes of one network that differ in their number of points only.

    Attributes:
        peaks: bytes that a plane adds to a fresh process, its objective and all.
        results: bytes of the arrays that come back.
        weights: bytes of the weights of all points, for whom holds them all.
    """

    network: str
    execution: str
    points: list[int]
    peaks: list[int]
    results: list[int]
    weights: list[int]

    @property
    def steps(self) -> list[Step]:
        """From each plane to the largest one, the next smaller one first."""
        sizes = zip(self.points, self.peaks, self.results, strict=True)
        *smaller, (most, peak, result) = sizes
        return [
            Step(
                f"{self.network}: {most:,} points take the memory of {few:,}, results aside",
                (peak - result) - (its_peak - its_result),
            )
            for few, its_peak, its_result in reversed(smaller)
        ]


# -- exactness ---------------------------------------------------------------------------------


def exactness() -> list[Check]:
    """All checks, on small networks in float64."""
    found = [_quadratic(num) for num in ((5, 5), (4, 4), (6, 3), (3, 6))]
    return [*found, _labels(), _batched(), _rescaled(), _sharded(), _resumed()]


def _quadratic(num: tuple[int, int]) -> Check:
    """Least squares: the loss is the same parabola of the coordinates, and is known without us."""
    generator = torch.Generator().manual_seed(_SEED)
    inputs, targets, vectors = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((40, 7), (40, 1), (2, 7))
    )
    vectors[1] *= 3  # axes that were swapped would be seen on a square grid, too
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = nn.Linear(7, 1, bias=False, dtype=torch.float64)
    sweep = plane(Objective(model, (inputs, targets), "mse"), list(vectors), num, radius=0.7)
    own = model.weight.detach().squeeze(0)
    true = np.empty(num)
    for i, a in enumerate(np.linspace(-0.7, 0.7, num[0])):
        for j, b in enumerate(np.linspace(-0.7, 0.7, num[1])):
            theta = own + a * vectors[0] + b * vectors[1]
            true[i, j] = (inputs @ theta - targets.squeeze(1)).square().mean().item()
    name = f"quadratic on {num[0]} x {num[1]} points, relative difference"
    return Check(name, _relative(sweep.loss, true), _EXACT)


def _labels() -> Check:
    sweep = _small_plane(SweepOptions(execution="loop"), num=(4, 7), radius=0.3)
    off = [
        float(np.abs(axis - np.linspace(-0.3, 0.3, count)).max())
        for axis, count in zip(sweep.coordinates, (4, 7), strict=True)
    ]
    return Check("labels are the radii that were asked for, difference", max(off), 1e-16)


def _batched() -> Check:
    alone = _small_plane(SweepOptions(execution="loop"))
    together = _small_plane(SweepOptions(execution=Execution(mode="batched", chunk=8)))
    difference = _relative(together.loss, alone.loss)
    return Check("points in batches and one by one, relative difference", difference, _EXACT)


def _rescaled() -> Check:
    """Filter-normalised directions follow the weights: 8 W_1, 8 b_1, W_2 / 8 is the same plane."""
    case = mlp_case()
    scaled = copy.deepcopy(case.model)
    first, second = [module for module in scaled.modules() if isinstance(module, nn.Linear)][:2]
    with torch.no_grad():
        first.weight.mul_(8)
        first.bias.mul_(8)
        second.weight.div_(8)
    losses = []
    for model in (case.model, scaled):
        objective = Objective(model, (case.inputs, case.labels), "cross_entropy")
        directions = random_directions(objective, 2, normalize="filter", seed=_SEED)
        options = SweepOptions(execution="loop")
        losses.append(plane(objective, directions, (5, 5), options=options).loss)
    claim = "one layer times 8, the next divided by 8, difference"
    return Check(claim, _absolute(*losses), 0.0)


def _sharded() -> Check:
    whole = _small_plane(SweepOptions(execution="loop"))
    shards = [_small_plane(SweepOptions(execution="loop", shard=(i, 3))) for i in range(3)]
    return Check(
        "three shards and one run, difference", _absolute(merge(shards).loss, whole.loss), 0
    )


class _Killed(Exception):  # noqa: N818  no error, but what a kill does
    pass


def _resumed() -> Check:
    seen: list[int] = []

    def killed_at_nine(done: int, _: int, __: str) -> None:
        seen.append(done)
        if done == 9:
            raise _Killed

    whole = _small_plane(SweepOptions(execution="loop"))
    with tempfile.TemporaryDirectory() as folder:
        options = SweepOptions(
            execution="loop", state=Path(folder, "state.npz"), progress=killed_at_nine
        )
        with suppress(_Killed):
            _small_plane(options)
        resumed = _small_plane(options)
    # Each point once: what was there was not measured again.
    once = seen == list(range(1, whole.loss.size + 1))
    difference = _absolute(resumed.loss, whole.loss) if once else math.inf
    return Check("killed at the 9th point and resumed, difference", difference, 0)


def _small_plane(
    options: SweepOptions, *, num: tuple[int, int] = (5, 4), radius: float = 1.0
) -> Sweep:
    """Of the digits MLP in float64."""
    case = mlp_case(torch.float64)
    return plane(case.objective(), case.directions, num, radius, options=options)


def _relative(found: Array, true: Array) -> float:
    return float(np.abs(found / true - 1).max())


def _absolute(found: Array, true: Array) -> float:
    return float(np.abs(found - true).max())


# -- memory ------------------------------------------------------------------------------------


def memory(side: int, num_images: int) -> list[Growth]:
    """Planes of the MLP from `side` / 5 to 2 `side` points along an axis; of ResNet-20, small."""
    sides = (side // 5 + 1, side, 2 * side - 1)
    return [
        _growth("mlp", "digits MLP", sides, 0),
        _growth("cnn", "ResNet-20", _CNN_SIDES, num_images),
    ]


def _growth(kind: str, network: str, sides: Sequence[int], num_images: int) -> Growth:
    case = _case(kind, num_images)
    # The same for all: a trial that has more points before it may choose more of them at a time.
    ours = our_executions(case, (sides[-1], sides[-1]), compiled=False)[-1]
    sample = Ours("", case.part(_WARM), Execution()).plane((2, 2))
    arrays = [*sample.fields.values(), sample.done]
    result = sum(array.nbytes for array in arrays) / sample.done.size
    points = [side**2 for side in sides]
    weights = sum(p.numel() * p.element_size() for p in case.model.parameters())
    return Growth(
        network,
        str(ours.execution),
        points,
        [
            min(
                peak_bytes(_work, kind, num_images, side, ours.execution) for _ in range(_PROCESSES)
            )
            for side in sides
        ],
        [round(result * count) for count in points],
        [weights * count for count in points],
    )


def _case(kind: str, num_images: int) -> Case:
    return mlp_case() if kind == "mlp" else cnn_case(num_images)


def _work(kind: str, num_images: int, side: int, execution: Execution) -> Work:
    """In a fresh process: a plane from its objective on."""
    case = _case(kind, num_images)
    # On few examples first: pages of program code are resident once they have been used.
    Ours("", case.part(_WARM), execution).plane((2, 2))
    return lambda: Ours("", case, execution).plane((side, side))
