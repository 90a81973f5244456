"""Execution: how a part of the data is evaluated at a chunk of points. `trial` chooses one.

Whatever is chosen, the numbers are those of `Objective.term` at each point but for rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batch_norm import Moments
from landscape.batches import batch_length, join_batches, map_tensors, slice_batch, tensors_of
from landscape.errors import RequestError
from landscape.memory import available_bytes, tensor_bytes
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.first_layer import FirstLayer
from landscape.slices.measures import Measures, Part, Sums

__all__ = ["BatchNormMode", "Execution", "Place", "Runner", "can_resize"]

BatchNormMode = Literal["eval", "batch", "recalibrate", "interpolate"]

_DATA_SHARE = 0.25  # of the free memory, for the data in the layout of the execution


@dataclass(frozen=True)
class Execution:
    """How points are evaluated.

    Attributes:
        mode: "loop": one point after another; "batched": a chunk of points in one call, by `vmap`;
            "compiled": a loop over a forward pass that `torch.compile` made.
        chunk: points at a time.
        batch_size: examples at a time; None leaves the batches as they are.
        channels_last: memory format of images.
        reuse: whether the first layer is put together from its parts, which are computed once:
            (W + a V) x = W x + a V x.
    """

    mode: Literal["loop", "batched", "compiled"] = "loop"
    chunk: int = 1
    batch_size: int | None = None
    channels_last: bool = False
    reuse: bool = False

    def __str__(self) -> str:
        words = [f"{self.chunk} points at a time" if self.mode == "batched" else self.mode]
        if self.batch_size is not None:
            words.append(f"{self.batch_size} examples at a time")
        if self.channels_last:
            words.append("channels last")
        if self.reuse:
            words.append("first layer reused")
        return ", ".join(words)


@dataclass(frozen=True, eq=False)
class Place:
    """A chunk of points, ready to be evaluated.

    Attributes:
        coefficients: (C, k) float64.
        thetas: (C, n).
        buffers: (C, ...) by name, where they differ from point to point.
    """

    coefficients: Tensor
    thetas: Tensor
    buffers: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.thetas)

    def select(self, indices: Tensor) -> Place:
        """Some of its points."""
        return Place(
            self.coefficients[indices.cpu()],
            self.thetas[indices],
            {name: buffer[indices] for name, buffer in self.buffers.items()},
        )


def can_resize(objective: Objective) -> bool:
    """Whether examples may be put into batches of any size: none feels its neighbours.

    Recalibrated statistics are those of the objective's own batches, whatever the size here.
    """
    own_statistics = any(
        isinstance(module, _BatchNorm) and (objective.bn == "batch" or module.running_mean is None)
        for module in objective.model.modules()
    )
    return objective.loss_function.is_pointwise and not own_statistics


class Runner:
    """Evaluates parts of an objective's data at points of a chart, in one way of execution.

    To be used inside `running()`.

    Args:
        statistics: whose data give the BatchNorm statistics under "recalibrate"; by default its
            own. Test data are seen by a network that the training data have calibrated.

    Raises:
        RequestError: batches that cannot be joined to the size of the execution.
    """

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        measures: Measures,
        execution: Execution,
        *,
        bn: BatchNormMode = "eval",
        compiled: Any = None,
        first_layer: FirstLayer | None = None,
        order: Tensor | None = None,
        statistics: Runner | None = None,
    ) -> None:
        self.objective, self.chart, self.measures = objective, chart, measures
        self._statistics = statistics
        self._found: tuple[Tensor, dict[str, Tensor]] | None = None  # of the last points
        self.execution, self.bn = execution, bn
        self._compiled, self._order = compiled, order
        self._first = first_layer if execution.reuse else None
        self._held: list[tuple[object, int]] | None = None
        self._own: list[object] | None = None  # those of the objective, channels last
        if self._fits():
            self._held = list(self._laid_out())
        if order is not None and not can_resize(objective):
            raise RequestError(
                "stop_error sees the examples in random order, in batches of its own, and for that "
                "each must have a loss that does not depend on its neighbours. Name the loss "
                "('cross_entropy', 'mse', 'bce' or a torch loss) and do not take bn='batch', or "
                "leave stop_error out."
            )
        if order is not None and self._held is None:
            raise RequestError(
                "stop_error sees the examples in random order, and for that they must be in "
                "memory. Raise the objective's cache_bytes, or leave stop_error out."
            )

    def _fits(self) -> bool:
        """Whether the data in the layout of the execution may be kept in memory."""
        batches, execution = self.objective.batches, self.execution
        is_own = execution.batch_size is None and not execution.channels_last
        if not batches.is_cached or (is_own and self._order is None):
            return batches.is_cached  # as they are already
        size = sum(tensor_bytes(tensors_of(batch).values()) for batch in batches)
        return size <= _DATA_SHARE * available_bytes(self.objective.device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The model as the execution wants it inside, as it was outside."""
        with self.objective.evaluation(), torch.no_grad(), ExitStack() as stack:
            if self.execution.mode == "batched":
                stack.enter_context(_batching_rules(self.objective.device))
            self._take_over()
            yield

    def _take_over(self) -> None:
        if self.execution.mode == "compiled":
            self.objective.model.forward = self._compiled
        if self._first is not None:
            self._first.take_over()

    def _stand_back(self) -> None:
        if self.execution.mode == "compiled":
            del self.objective.model.forward
        if self._first is not None:
            self._first.stand_back()

    def batches(self) -> Iterator[tuple[object, int]]:
        """Batches and their numbers of examples, in the layout of the execution."""
        return iter(self._held) if self._held is not None else self._laid_out()

    def _laid_out(self) -> Iterator[tuple[object, int]]:
        if self._order is None:
            batches = _resized(self.objective.batches, self.execution.batch_size)
        else:
            whole = join_batches(list(self.objective.batches))
            length, order = batch_length(whole), self._order
            shuffled = map_tensors(
                lambda tensor: tensor[order] if tensor.ndim and len(tensor) == length else tensor,
                whole,
            )
            batches = _resized([shuffled], self.execution.batch_size or _first_size(self.objective))
        for batch in batches:
            laid = map_tensors(_channels_last, batch) if self.execution.channels_last else batch
            yield laid, batch_length(laid)

    def place(self, coefficients: Tensor) -> Place:
        """Points at coefficients (C, k), float64, with the buffers that belong to them."""
        thetas = self.chart.thetas(coefficients)
        buffers: dict[str, Tensor] = {}
        if self.bn == "interpolate":
            buffers = self.chart.buffers(coefficients, self.objective.buffers)
        elif self.bn == "recalibrate" and self.objective.has_batch_norm:
            if self._statistics is None:
                buffers = self._recalibrated(thetas)
                self._found = coefficients, buffers
            else:
                buffers = self._statistics.found(coefficients)
        return Place(coefficients, thetas, buffers)

    def found(self, coefficients: Tensor) -> dict[str, Tensor]:
        """BatchNorm statistics at points; those of the last ones are still known."""
        if self._found is None or not torch.equal(self._found[0], coefficients):
            with self.running():
                self.place(coefficients)
        assert self._found is not None
        return self._found[1]

    def sums(self, place: Place, part: Part, index: int) -> Sums:
        """What a part of the data adds at each point: each (C, ...) float64.

        Args:
            index: of the part, under which what the first layer makes of it is kept.
        """
        if self._first is not None:
            self._first.prepare(part.batch, index)
        if self.execution.mode != "batched":
            found = [self._at(place, point, part) for point in range(len(place))]
            return {name: torch.stack([one[name] for one in found]) for name in found[0]}

        def at(theta: Tensor, scales: Tensor, buffers: dict[str, Tensor]) -> Sums:
            return self._sums(theta, scales, buffers, part)

        scales = place.coefficients.to(self.chart.center)
        mapped: Sums = vmap(at)(place.thetas, scales, self._own_buffers(place))
        return mapped

    def _at(self, place: Place, point: int, part: Part) -> Sums:
        buffers = {name: buffer[point] for name, buffer in place.buffers.items()}
        return self._sums(place.thetas[point], place.coefficients[point], buffers, part)

    def _sums(self, theta: Tensor, scales: Tensor, buffers: dict[str, Tensor], part: Part) -> Sums:
        if self._first is not None:
            self._first.move(scales.to(self.chart.center))
        blocks = self.objective.space.split(theta)
        return self.measures.sums(self.objective.term(blocks, part.batch, buffers), part)

    def _own_buffers(self, place: Place) -> dict[str, Tensor]:
        """Statistics that BatchNorm in training mode can write to: a copy for each point."""
        return place.buffers if self.bn != "batch" else self._copies(len(place))

    def _copies(self, count: int) -> dict[str, Tensor]:
        norms = {
            name for name, module in self.objective.model.named_modules()
            if isinstance(module, _BatchNorm)
        }  # fmt: skip
        return {
            name: buffer.expand(count, *buffer.shape).clone()
            for name, buffer in self.objective.buffers.items()
            # Not the number of batches, which a cumulative average reads back.
            if name.rpartition(".")[0] in norms and buffer.is_floating_point()
        }

    def _recalibrated(self, thetas: Tensor) -> dict[str, Tensor]:
        """BatchNorm statistics over the whole data at each point, by name: (C, ...)."""
        objective = self.objective
        # Of the objective's own batches, by the plain forward pass: what the first layer keeps is
        # of other batches, and a compiled function does not see the hooks that take the moments.
        self._stand_back()
        try:
            if self.execution.mode == "batched":
                return self._recalibrated_at_once(thetas)
            batches = self._own_batches()
            found = [objective.buffers_at(theta, batches) or {} for theta in thetas]
            return {name: torch.stack([one[name] for one in found]) for name in found[0]}
        finally:
            self._take_over()

    def _own_batches(self) -> Iterable[object] | None:
        """The objective's own batches in the memory format of the execution."""
        if self.execution.channels_last and self._own is None and self._fits():
            self._own = [map_tensors(_channels_last, one) for one in self.objective.batches]
        return self._own

    def _recalibrated_at_once(self, thetas: Tensor) -> dict[str, Tensor]:
        objective = self.objective
        pooled: dict[str, Moments] = {}
        for batch in objective.batches:
            counts: dict[str, int] = {}

            def moments(
                theta: Tensor, buffers: dict[str, Tensor], batch: object = batch,
                counts: dict[str, int] = counts,
            ) -> dict[str, tuple[Tensor, Tensor]]:  # fmt: skip
                of_layers = objective.moments(objective.space.split(theta), batch, buffers)
                counts.update({name: one.count for name, one in of_layers.items()})
                return {name: (one.mean, one.squares) for name, one in of_layers.items()}

            mapped = vmap(moments)(thetas, self._copies(len(thetas)))
            for name, (mean, squares) in mapped.items():
                own = Moments(counts[name], mean, squares)
                pooled[name] = pooled[name] + own if name in pooled else own
        return objective.statistics(pooled)

    def parts(self, limit: int | None = None, *, recalibrated: bool = True) -> list[Part]:
        """The parts with what is known of them at the center: one pass over the data.

        Args:
            limit: examples that are enough; the parts that hold them.
            recalibrated: whether the losses there count, and not the targets and weights alone.
        """
        origin = torch.zeros(1, self.chart.num_axes, dtype=torch.float64)
        place = self.place(origin) if recalibrated else Place(origin, self.chart.thetas(origin), {})
        found, seen = [], 0
        plain = {name: buffer[0] for name, buffer in place.buffers.items()}
        blocks = self.objective.space.split(place.thetas[0])
        for index, (batch, size) in enumerate(self.batches()):
            if self._first is not None:
                self._first.prepare(batch, index)
                self._first.move(place.coefficients[0].to(self.chart.center))
            term = self.objective.term(blocks, batch, plain)
            found.append(self.measures.part(batch, size, term))
            seen += size
            if limit is not None and seen >= limit:
                break
        return found

    def renewed(self, parts: Sequence[Part]) -> Iterator[Part]:
        """The parts once more, their batches read again where they are not held in memory."""
        if self._held is not None:
            yield from parts
            return
        for part, (batch, _) in zip(parts, self.batches(), strict=False):
            yield replace(part, batch=batch)

    def released(self, parts: Sequence[Part]) -> list[Part]:
        """Parts that keep no batch in memory beyond what this runner holds itself."""
        if self._held is not None:
            return list(parts)
        return [replace(part, batch=None) for part in parts]


@contextmanager
def _batching_rules(device: torch.device) -> Iterator[None]:
    """Operations that have a batching rule, where there is a choice; no word where there is none.

    Without one each point is evaluated by itself, with a warning: the trial sees how long it takes.
    """
    with warnings.catch_warnings():
        for words in ("There is a performance drop", "An output with one or more elements was res"):
            warnings.filterwarnings("ignore", words)
        # The CPU's flash attention has no rule, in torch 2.13; on CUDA there is one.
        with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
            yield


def _first_size(objective: Objective) -> int:
    return batch_length(next(iter(objective.batches)))


def _resized(batches: Any, size: int | None) -> Iterator[object]:
    if size is None:
        yield from batches
        return
    waiting: list[object] = []
    held = 0
    for batch in batches:
        length = batch_length(batch)
        start = 0
        while start < length:
            stop = min(length, start + size - held)
            whole = start == 0 and stop == length
            waiting.append(batch if whole else slice_batch(batch, start, stop, length))
            held += stop - start
            start = stop
            if held == size:
                yield from _as_one(waiting)
                waiting, held = [], 0
    yield from _as_one(waiting)


def _as_one(batches: list[object]) -> list[object]:
    """Batches joined, or as they are where they cannot be: texts padded to different lengths."""
    if len(batches) < 2:
        return batches
    try:
        return [join_batches(batches)]
    except RequestError:
        return batches


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
