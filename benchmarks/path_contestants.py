"""Contestants along lines between solutions: ours, and the loop that a user writes.

`paths` lets them take turns.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset

from benchmarks.path_cases import PathCase
from benchmarks.slice_contestants import Timing, Work
from landscape.paths.barrier import barrier
from landscape.paths.barrier_matrix import barrier_matrix
from landscape.paths.examples import PathEvaluator
from landscape.paths.vertices import Vertices, line_weights
from landscape.trainers.gradients import num_threads

__all__ = ["Loop", "Ours", "StoredImages", "Whole", "fastest_loop", "pooled_losses", "write_images"]

_TRIAL_IMAGES = 256  # on which the number of threads is tried

Batches = Iterable[Sequence[Tensor]]


# -- the loop ----------------------------------------------------------------------------------


class StoredImages(Dataset[tuple[Tensor, Tensor]]):
    """Images in a file, which is read when this is made; each is transformed when it is taken."""

    def __init__(self, file: Path, case: PathCase) -> None:
        with np.load(file) as held:
            self._images, self._labels = held["images"], held["labels"]
        self._transform = case.transformed

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._transform(self._images[index]), torch.as_tensor(self._labels[index])


def write_images(case: PathCase, folder: Path) -> Path:
    """A file that `StoredImages` reads."""
    file = folder / f"{len(case.labels)}.npz"
    np.savez(file, images=case.images, labels=case.labels.numpy())
    return file


class Loop:
    """Point by point: weights written in place, BatchNorm by `update_bn`, one evaluation pass.

    Args:
        batches: makes what is passed over at each point.
        threads: that torch may use.
    """

    def __init__(
        self, name: str, case: PathCase, batches: Callable[[], Batches], threads: int
    ) -> None:
        self.name = name
        self._batches, self._threads = batches, threads
        self._model = copy.deepcopy(case.solutions[0])
        self._solutions = [list(solution.parameters()) for solution in case.solutions]

    def losses(self, alphas: Sequence[float], ends: tuple[int, int] = (0, 1)) -> list[float]:
        """Mean loss at (1 - alpha) a + alpha b, for each alpha."""
        with num_threads(self._threads):
            return [self._at(alpha, *ends) for alpha in alphas]

    def work(self, num_points: int) -> Work:
        """So many points, spread over a line."""
        alphas = np.linspace(0, 1, num_points + 2)[1:-1].tolist()

        def timing() -> Timing:
            began = time.perf_counter()
            self.losses(alphas)
            return Timing((time.perf_counter() - began) / num_points)

        return timing

    def _at(self, alpha: float, first: int, second: int) -> float:
        with torch.no_grad():
            for parameter, a, b in zip(
                self._model.parameters(),
                self._solutions[first],
                self._solutions[second],
                strict=True,
            ):
                parameter.copy_(a).mul_(1 - alpha).add_(b, alpha=alpha)
        batches = self._batches()
        update_bn(batches, self._model)  # which leaves it in eval mode, as it was
        return _mean_loss(self._model, batches)


def _mean_loss(model: nn.Module, batches: Batches) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, labels in batches:
            total += F.cross_entropy(model(inputs), labels, reduction="sum").item()
            count += len(labels)
    return total / count


def fastest_loop(case: PathCase, file: Path | None) -> Loop:
    """The loop with the number of threads that a trial on some of the images finds best.

    Args:
        file: read anew at each point, by a new Dataset and DataLoader; None: tensors in memory.
    """
    few = case.part(_TRIAL_IMAGES, 2)
    count = sorted({1, torch.get_num_threads()})
    tried = {threads: _loop(few, file, threads).work(1) for threads in count}
    seconds = {threads: min(work().unit for _ in range(2)) for threads, work in tried.items()}
    return _loop(case, file, min(seconds, key=lambda threads: seconds[threads]))


def _loop(case: PathCase, file: Path | None, threads: int) -> Loop:
    if file is None:
        held = case.batches()
        return Loop(f"loop, tensors in memory, threads: {threads}", case, lambda: held, threads)

    def reloaded() -> Batches:
        return DataLoader(StoredImages(file, case), case.batch_size, shuffle=False)

    return Loop(f"loop, data reloaded, threads: {threads}", case, reloaded, threads)


def pooled_losses(case: PathCase, alphas: Sequence[float]) -> list[float]:
    """What is true between the first two solutions: moments by sums in float64, pooled plainly."""
    model, batches = copy.deepcopy(case.solutions[0]), case.batches()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    ends = [list(solution.parameters()) for solution in case.solutions[:2]]
    found = []
    for alpha in alphas:
        sums: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

        def add(norm: nn.Module, given: tuple[Tensor, ...], sums: dict[nn.Module, list[Tensor]]
                = sums) -> None:  # fmt: skip
            values = given[0].double().movedim(1, 0).flatten(1)
            count = torch.full_like(values[:, 0], values.shape[1])
            sums[norm].append(torch.stack([count, values.sum(1), values.square().sum(1)]))

        hooks = [norm.register_forward_pre_hook(add) for norm in norms]
        with torch.no_grad():
            for parameter, a, b in zip(model.parameters(), *ends, strict=True):
                parameter.copy_((1 - alpha) * a.double() + alpha * b.double())
            model.train()
            for inputs, _ in batches:
                model(inputs)
        for hook in hooks:
            hook.remove()
        for norm in norms:
            count, total, squares = torch.stack(sums[norm]).sum(0)
            norm.running_mean = (total / count).float()
            norm.running_var = ((squares - total.square() / count) / (count - 1)).float()
        found.append(_mean_loss(model.eval(), batches))
    return found


# -- ours --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """A whole run of ours.

    Attributes:
        losses: along the line between the first two solutions.
        overhead: seconds that are no point's: the trial, what is prepared and what is concluded.
    """

    seconds: float
    overhead: float
    losses: list[float]
    notes: tuple[str, ...]


class Ours:
    """`barrier` between two solutions, or `barrier_matrix` of more, as a user asks for them.

    Args:
        num: points on each line, its ends included.
    """

    name = "landscape"

    def __init__(self, case: PathCase, num: int) -> None:
        self._case, self._num = case, num
        self._objective = case.objective()

    @property
    def num_points(self) -> int:
        """That are evaluated one by one; of a family, the ends are evaluated once, before."""
        count = len(self._case.solutions)
        return self._num if count == 2 else count * (count - 1) // 2 * (self._num - 2)

    def whole(self) -> Whole:
        """Everything, without the refinement of the maximum, which the loops do not look for."""
        stamps: list[tuple[int, float]] = []

        def stamp(done: int, _: int, __: str) -> None:
            stamps.append((done, time.perf_counter()))

        thetas, began = self._case.thetas(), time.perf_counter()
        if len(thetas) == 2:
            a, b = thetas
            line = barrier(self._objective, a, b, self._num, refine=False, progress=stamp)
            losses, notes = line.losses, line.notes
        else:
            family = barrier_matrix(self._objective, thetas, self._num, progress=stamp)
            losses, notes = family.paths[0, 1], family.notes
        seconds = time.perf_counter() - began
        (first, at_first), (last, at_last) = stamps[0], stamps[-1]
        overhead = 0.0
        if first != last:  # otherwise all at a time, and nothing to tell apart
            overhead = max(0.0, seconds - last * (at_last - at_first) / (last - first))
        return Whole(seconds, overhead, losses.tolist(), notes)

    def whole_work(self) -> Work:
        """Everything in each round, for what is over in seconds."""
        return lambda: Timing(self.whole().seconds / self.num_points)

    def work(self) -> Work:
        """The middle of the first line, in the execution that is found once, before."""
        chart = Vertices.of(self._objective, self._case.thetas()[:2])
        alphas = torch.linspace(0, 1, self._num, dtype=torch.float64)
        line = chart.coefficients(line_weights(alphas))
        evaluator = PathEvaluator(self._objective, chart, line)
        middle = line[[self._num // 2]]

        def timing() -> Timing:
            began = time.perf_counter()
            evaluator.at(middle)
            return Timing(time.perf_counter() - began)

        return timing
