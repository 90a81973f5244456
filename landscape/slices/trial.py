"""The trial: which execution is fastest for this network, these data and this machine.

Each candidate evaluates a few points on a few examples. Whoever differs from the plain loop there,
or cannot do it, is out: a batched convolution is a grouped one, and slow (pytorch/pytorch#73764);
some operations have no batching rule; a compiled function may be wrong.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from landscape.batches import batch_length, tensors_of
from landscape.errors import RequestError, unknown_choice
from landscape.memory import available_bytes
from landscape.objective import Objective
from landscape.slices.chart import Chart
from landscape.slices.execution import BatchNormMode, Execution, Runner, can_resize
from landscape.slices.first_layer import FirstLayer
from landscape.slices.measures import Measures
from landscape.slices.sample import first_batch, first_examples

__all__ = ["Choice", "ExecutionName", "choose"]

ExecutionName = Literal["auto", "loop", "batched", "compiled"]
_NAMES = ("auto", "loop", "batched", "compiled")

_SAMPLE_SECONDS = 0.1  # that one point takes on the examples of the trial
_SHARE = 0.05  # of the expected time, for the trial
_LEAST_SECONDS = 0.3
_SIZES = (32, 64, 128, 256, 512, 1024, 2048)  # examples at a time, for the loop
# (points, examples) at a time. Digits MLP, milliseconds a point: .58 with (16, 512), .42 with
# (64, 256) and (256, 64), 1.05 in a loop.
_CHUNKS = ((64, 256), (16, 512), (256, 64), (16, 1024), (4, 1024))
_FIRST_CHUNK = 4  # points at a time that tell whether calls or arithmetic take the time
_BYTE_SHARE = 0.125  # of the free memory, for the activations of a chunk
_GAIN = 0.97  # of the best time so far: less is within the noise of one measurement
# Where calls take the time, 4 points at a time take a half or less; on a machine that others use a
# single measurement may be off by as much as this.
_BATCHED_GAIN = 0.7
# ResNet-20, batches of 64, channels last: compiling took 23 s and brought 8 to 10 %.
_COMPILED_GAIN, _COMPILE_SECONDS = 0.08, 30.0
_RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}
_LOW_PRECISION_RTOL = 1e-2
_TIMED = 1 << 14  # evaluations of a chunk, each of a point on an example, that tell its speed
# What an operation without a batching rule raises, and what cannot be joined.
_IMPOSSIBLE = (RuntimeError, NotImplementedError, TypeError, ValueError)


@dataclass(frozen=True)
class Choice:
    """What a trial found.

    Attributes:
        compiled: the forward pass for "compiled".
        notes: what was tried and could not be used.
    """

    execution: Execution
    compiled: Any = None
    notes: tuple[str, ...] = ()


def choose(
    objective: Objective,
    chart: Chart,
    measures: Callable[[Objective], Measures],
    coefficients: Tensor,
    *,
    bn: BatchNormMode,
    execution: ExecutionName | Execution = "auto",
    largest_batch: int | None = None,
) -> Choice:
    """The execution for these points.

    Args:
        measures: makes the measures of an objective.
        coefficients: (P, k) the points of the slice.
        execution: "auto" tries; a name fixes the mode; an `Execution` is taken as it is.
        largest_batch: examples at a time, at most; where points may be left early.

    Raises:
        RequestError: an unknown name, or a mode that this network cannot be evaluated in.
    """
    if isinstance(execution, Execution):
        compiled = _compiled(objective) if execution.mode == "compiled" else None
        return Choice(execution, compiled)
    if execution not in _NAMES:
        raise unknown_choice("execution", str(execution), _NAMES)
    if execution == "loop":
        return Choice(Execution())
    trial = _Trial(objective, chart, measures, coefficients, bn, largest_batch)
    if execution == "auto":
        return trial.search()
    return trial.required_compiled() if execution == "compiled" else trial.required_batched()


class _Trial:
    """Candidates measured one after another, the best so far, and the time that is left."""

    _activations: float | None = None

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        measures: Callable[[Objective], Measures],
        coefficients: Tensor,
        bn: BatchNormMode,
        largest_batch: int | None,
    ) -> None:
        self.chart, self.bn, self.notes = chart, bn, list[str]()
        self._measures, self._coefficients = measures, coefficients
        self._whole = objective
        self._began = time.perf_counter()
        self.can_resize = can_resize(objective)
        few = first_examples(objective, _SIZES[0]) if self.can_resize else first_batch(objective)
        self._sample = few
        self._largest = largest_batch or objective.batches.num_examples
        self._reference = self._totals(Execution(), self._compared)
        self.best = Execution()
        self.best_seconds = self._seconds(self.best)  # of one point and one example

    def search(self) -> Choice:
        """The fastest of all."""
        batched = self._first_batched()
        if self._fits(batched) and self._try(batched, gain=_BATCHED_GAIN):
            return self._search_batched()
        self.try_sizes()
        self._try(replace(self.best, reuse=True))
        compiled = self._try_compiled() if self._compiling_pays() else None
        return Choice(self.best, compiled, tuple(self.notes))

    def required_batched(self) -> Choice:
        """The fastest that takes several points at a time, which must be possible."""
        batched = self._first_batched()
        try:
            found = self._totals(batched, self._compared)
        except _IMPOSSIBLE as error:
            raise _cannot("batched", _reason(error)) from error
        if not self._agrees(found):
            raise _cannot("batched", "its losses differ from those of the loop")
        return self._search_batched()

    def required_compiled(self) -> Choice:
        """A compiled loop, which must be possible, over the fastest number of examples."""
        self.try_sizes()
        candidate, compiled = replace(self.best, mode="compiled"), _compiled(self._whole)
        try:
            found = self._totals(candidate, self._compared, compiled)
        except Exception as error:  # whatever a compiler can fail with
            raise _cannot("compiled", _reason(error)) from error
        if not self._agrees(found):
            raise _cannot("compiled", "its losses differ from those of the loop")
        return Choice(candidate, compiled, tuple(self.notes))

    def _first_batched(self) -> Execution:
        return Execution("batched", min(_FIRST_CHUNK, len(self._coefficients)))

    def _search_batched(self) -> Choice:
        most = len(self._coefficients)
        self._enlarge(max(size for _, size in _CHUNKS))
        self.best = self._first_batched()
        self.best_seconds = self._seconds(self.best)
        chunks = dict.fromkeys(
            (min(points, most), min(size, self._sample_size) if self.can_resize else None)
            for points, size in _CHUNKS
        )
        for points, size in chunks:
            candidate = Execution("batched", points, size)
            if self._fits(candidate):
                self._try(candidate)
        self._try(replace(self.best, reuse=True))
        return Choice(self.best, None, tuple(self.notes))

    def try_sizes(self) -> None:
        """Examples at a time, and the memory format of images, for the loop."""
        self._enlarge(int(_SAMPLE_SECONDS / self.best_seconds))
        self.best_seconds = self._seconds(self.best)
        if any(
            tensor.ndim == 4 for tensor in tensors_of(next(iter(self._sample.batches))).values()
        ):
            self._try(replace(self.best, channels_last=True))
        best, without_gain = self.best, 0
        for size in self._sizes():
            gained = self._try(replace(best, batch_size=size))
            without_gain = 0 if gained else without_gain + 1
            if without_gain == 2:
                break

    def _enlarge(self, wanted: int) -> None:
        """More examples for the trial, where they may be taken from their batches."""
        if not self.can_resize:
            return
        most = min(_SIZES[-1], self._largest)
        self._sample = first_examples(self._whole, max(_SIZES[0], min(most, wanted)))
        self._reference = self._totals(Execution(), self._compared)

    @property
    def _sample_size(self) -> int:
        return min(self._largest, self._sample.batches.num_examples)

    def _fits(self, execution: Execution) -> bool:
        """Whether the weights and the activations of a chunk fit into memory."""
        if self._activations is None:
            self._activations = self._activation_bytes()
        examples = execution.batch_size or self._longest_batch
        of_weights = self.chart.center.nbytes * (1 + self.chart.num_axes)
        needed = execution.chunk * (examples * self._activations + of_weights)
        return needed <= _BYTE_SHARE * available_bytes(self._whole.device)

    @property
    def _longest_batch(self) -> int:
        batches = self._whole.batches
        seen = batches if batches.is_cached else self._sample.batches
        return max(batch_length(batch) for batch in seen)

    def _sizes(self) -> list[int]:
        if not self.can_resize:
            return []
        most = self._sample_size
        return [size for size in _SIZES if size <= most]

    def _points(self, count: int) -> Tensor:
        indices = torch.linspace(0, len(self._coefficients) - 1, count).round().long()
        return self._coefficients[indices]

    @property
    def _compared(self) -> Tensor:
        """Where candidates must agree with the loop: both ends may be NaN, so one more."""
        last = len(self._coefficients) - 1
        return self._coefficients[[0, last // 3, last]]

    def _try(self, execution: Execution, *, gain: float = _GAIN) -> bool:
        """Measure a candidate, unless time is up; whether it is the best now."""
        if execution == self.best or not self._has_time_for(execution):
            return False
        try:
            found = self._totals(execution, self._compared)
            if not self._agrees(found):
                self.notes.append(f"execution {execution}: differs from the loop, not used")
                return False
            seconds = self._seconds(execution)
        except _IMPOSSIBLE as error:
            self.notes.append(f"execution {execution}: not possible ({_reason(error)})")
            return False
        if not seconds < gain * self.best_seconds:
            return False
        self.best, self.best_seconds = execution, seconds
        return True

    def _has_time_for(self, execution: Execution) -> bool:
        whole = self._seconds_of(len(self._coefficients) * self._whole.batches.num_examples)
        # Of a slice that is over at once not more than half.
        budget = max(_SHARE * whole, min(_LEAST_SECONDS, whole / 2))
        examples = self._sample.batches.num_examples
        timed = 2 * execution.chunk * min(examples, self._num_timed(execution))
        needed = self._seconds_of(len(self._compared) * examples + timed)
        return time.perf_counter() - self._began + needed <= budget

    def _seconds_of(self, evaluations: int) -> float:
        """Time for so many evaluations, each of a point on an example, at the best so far."""
        return self.best_seconds * evaluations

    def _num_timed(self, execution: Execution) -> int:
        """Examples that are enough to see how long a point takes on one."""
        most = self._sample.batches.num_examples
        return most if execution.chunk == 1 else max(1, _TIMED // execution.chunk)

    def _agrees(self, found: Tensor) -> bool:
        rtol = _RTOL.get(self._whole.space.dtype, _LOW_PRECISION_RTOL)
        return torch.allclose(found, self._reference, rtol=rtol, atol=rtol, equal_nan=True)

    def _totals(self, execution: Execution, coefficients: Tensor, compiled: Any = None) -> Tensor:
        """Summed losses at some points over the examples of the trial."""
        runner = self._runner(execution, compiled)
        with runner.running():
            place, total = runner.place(coefficients), torch.zeros(len(coefficients))
            total = total.double()
            for index, part in enumerate(runner.parts()):
                total += runner.sums(place, part, index)["total"].cpu()
        return total

    def _seconds(self, execution: Execution, compiled: Any = None) -> float:
        """Of one point and one example: the least of all parts, each measured twice."""
        runner, count = self._runner(execution, compiled), execution.chunk
        placed, seconds = math.inf, math.inf
        with runner.running():
            parts = runner.parts(limit=self._num_timed(execution))
            size = max(part.size for part in parts)
            for _ in range(2):
                began = self._now()
                place = runner.place(self._points(count))
                placed = min(placed, self._now() - began)
                for index, part in enumerate(parts):
                    if part.size == size:
                        began = self._now()
                        runner.sums(place, part, index)
                        seconds = min(seconds, self._now() - began)
        return (placed / self._sample.batches.num_examples + seconds / size) / count

    def _now(self) -> float:
        if self._whole.device.type == "cuda":
            torch.cuda.synchronize(self._whole.device)
        return time.perf_counter()

    def _runner(self, execution: Execution, compiled: Any) -> Runner:
        sample = self._sample
        first = FirstLayer.of(sample, self.chart) if execution.reuse else None
        if execution.reuse and first is None:
            raise RuntimeError("no first layer that sees the same at every point")
        return Runner(
            sample,
            self.chart,
            self._measures(sample),
            execution,
            bn=self.bn,
            compiled=compiled,
            first_layer=first,
        )

    def _activation_bytes(self) -> float:
        """Bytes of all modules' outputs for one example: what a chunk takes at most, for each."""
        sizes: list[int] = []

        def record(_: object, __: object, output: object) -> None:
            sizes.extend(tensor.nbytes for tensor in tensors_of(output).values())

        model, sample = self._whole.model, self._sample
        handles = [module.register_forward_hook(record) for module in model.modules()]
        try:
            with sample.evaluation(), torch.no_grad():
                for batch in sample.batches:
                    sample.term(sample.space.split(sample.theta), batch)
        finally:
            for handle in handles:
                handle.remove()
        return sum(sizes) / sample.batches.num_examples

    def _compiling_pays(self) -> bool:
        whole = self._seconds_of(len(self._coefficients) * self._whole.batches.num_examples)
        return whole * _COMPILED_GAIN > _COMPILE_SECONDS

    def _try_compiled(self) -> Any:
        candidate = replace(self.best, mode="compiled", chunk=1, reuse=False)
        try:
            compiled = _compiled(self._whole)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self._totals(candidate, self._compared, compiled)
                seconds = self._seconds(candidate, compiled)
        except Exception as error:  # whatever a compiler can fail with: the loop is there
            self.notes.append(f"execution compiled: not possible ({type(error).__name__})")
            return None
        if not self._agrees(found):
            self.notes.append("execution compiled: differs from the loop, not used")
            return None
        if seconds >= _GAIN * self.best_seconds:
            return None
        self.best, self.best_seconds = candidate, seconds
        return compiled


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120] or type(error).__name__


def _cannot(mode: str, why: str) -> RequestError:
    return RequestError(
        f"execution={mode!r} is not possible here ({why}). Leave it at 'auto', or give 'loop'."
    )


def _compiled(objective: Objective) -> Any:
    return torch.compile(objective.model.forward)
