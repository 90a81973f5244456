"""Forecast: what a phase of training will take, from a few of its steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from landscape.memory import format_bytes, tensor_bytes
from landscape.trainers.examples import Examples
from landscape.trainers.stacking import Stack
from landscape.trainers.training import Plan, Trained, fit

__all__ = ["Forecast", "Phase"]

_STEPS = 12  # that are timed
_COPIES = 4  # of the weights: gradient, momentum, a saved state, a temporary
_OUTCOME_BYTES = 13  # three float32 and a bool
_FILE_BYTES = 3500  # of a checkpoint beside its tensors: the container, the description


@dataclass(frozen=True)
class Phase:
    """One phase: seconds, greatest memory in bytes, and how its members are run."""

    name: str
    members: int
    parameters: int
    steps: int
    seconds: float
    memory: int
    chunk: int


@dataclass
class Forecast:
    """What a recipe will take, phase by phase; disk is counted as the recipe would write.

    Training and evaluation are forecast, not what a recipe computes besides.
    """

    phases: list[Phase] = field(default_factory=list)
    disk: int = 0

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def memory(self) -> int:
        return max((phase.memory for phase in self.phases), default=0)

    def lines(self) -> list[str]:
        """For people: a line a phase, then the sum."""
        drawn = [
            f"{phase.name}: {phase.members} x {phase.parameters:,} parameters, {phase.steps:,} "
            f"steps, {phase.chunk} in one graph: {_duration(phase.seconds)}, "
            f"{format_bytes(phase.memory)} of memory"
            for phase in self.phases
        ]
        total = f"in all about {_duration(self.seconds)}, {format_bytes(self.memory)} of memory, "
        return [*drawn, f"{total}{format_bytes(self.disk)} on disk"]

    def fit(
        self,
        name: str,
        stack: Stack,
        plan: Plan,
        examples: Examples,
        evaluations: Mapping[str, Examples],
    ) -> Trained:
        """Times a few steps and one evaluation; the stack comes back as if it had been trained."""
        stamps: list[float] = []

        def stamped(step: int) -> float:
            stamps.append(time.perf_counter())
            return plan.schedule(step)

        began = time.perf_counter()
        short = replace(plan, steps=_STEPS, evaluate_at=(), snapshots=(), schedule=stamped)
        looked = fit(stack, short, examples, evaluations)
        ended = time.perf_counter()
        # The first step holds the trial and the recording of the graph, which are paid once.
        step = float(np.median(np.diff(stamps[1:])))
        first, look = stamps[0] - began, max(0.0, ended - stamps[-1] - step)
        times = sorted({*plan.evaluate_at, plan.steps})
        weights = tensor_bytes([stack.theta, *stack.rest.values()])
        memory = (
            looked.graph_bytes
            + weights * (_COPIES + len(plan.snapshots))
            + tensor_bytes([examples.inputs, examples.targets])
        )
        outcomes = sum(len(evaluations[one]) for one in plan.record) * len(stack) * len(times)
        self.disk += outcomes * _OUTCOME_BYTES
        self.phases.append(
            Phase(
                name=name,
                members=len(stack),
                parameters=stack.space.size,
                steps=plan.steps,
                seconds=first + step * plan.steps + look * len(times),
                memory=memory + outcomes * _OUTCOME_BYTES,
                chunk=looked.chunk,
            )
        )
        return replace(
            looked,
            stack=stack.clone(),
            steps=np.array(times),
            curves={k: np.repeat(v[-1:], len(times), 0) for k, v in looked.curves.items()},
            outcomes={
                name: {k: np.repeat(v[-1:], len(times), 0) for k, v in fields.items()}
                for name, fields in looked.outcomes.items()
            },
            snapshots={step: _copy(stack) for step in plan.snapshots},
        )

    def keep(self, stack: Stack) -> None:
        """Count the checkpoints of a stack's members."""
        size = tensor_bytes([stack.theta, *stack.rest.values()])
        self.disk += size + len(stack) * (_FILE_BYTES + 128 * len(stack.space.names))


def _copy(stack: Stack) -> tuple[Tensor, dict[str, Tensor]]:
    copy = stack.clone()
    return copy.theta, copy.buffers


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
