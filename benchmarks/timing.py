"""Timing by turns, and peak memory in a process of its own; `table` prints what comes out.

On a shared machine the speed drifts by more than what is to be shown. So contestants take turns
within a round, in an order drawn anew, and only numbers of the same round are divided.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

__all__ = ["Spread", "alternate", "peak_bytes", "ratios"]

Work = Callable[[], object]

_LEAST_SECONDS = 0.05  # of one turn: what is faster is repeated within it
_WARMUPS = 2  # the first call builds what is kept, the second finds the memory in place


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds, in the unit of what was given."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


def alternate(works: Mapping[str, Work], *, rounds: int, seed: int) -> dict[str, list[float]]:
    """Seconds of one call of each work in each round, after warm-up rounds."""
    calls = {name: _calls_in_a_turn(work) for name, work in works.items()}
    shuffler = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        order = list(works)
        shuffler.shuffle(order)
        for name in order:
            gc.collect()  # what the one before has left behind is not this one's cost
            seconds[name].append(_seconds(works[name], calls[name]))
    return seconds


def ratios(seconds: Sequence[float], unit: Sequence[float]) -> list[float]:
    """One contestant's cost in units of another's, round by round."""
    return [own / other for own, other in zip(seconds, unit, strict=True)]


def _calls_in_a_turn(work: Work) -> int:
    for _ in range(_WARMUPS):
        work()
    # The faster of two: a call that was interrupted says nothing.
    return max(1, math.ceil(_LEAST_SECONDS / min(_seconds(work, 1), _seconds(work, 1))))


def _seconds(work: Work, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - began) / calls


def peak_bytes(prepare: Callable[..., Work], *arguments: object) -> int:
    """What a work adds to the peak resident memory of a fresh process.

    Args:
        prepare: a function at the top of a module: in the new process it makes ready whatever is
            not to be counted, and returns the work.
        arguments: for `prepare`; they must be picklable.
    """
    # The server has the modules loaded, and each child is forked from it. A child that is started
    # by exec instead inherits its parent's peak in ru_maxrss, which would hide its own.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([prepare.__module__])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        return executor.submit(_growth, prepare, arguments).result()


def _growth(prepare: Callable[..., Work], arguments: tuple[object, ...]) -> int:
    work = prepare(*arguments)
    gc.collect()
    before = _own_peak()
    kept = work()
    grown = _own_peak() - before
    del kept
    return grown


def _own_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
