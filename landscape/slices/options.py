"""SweepOptions: how a sweep is measured, beside where. `sweeping` carries it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from landscape.errors import RequestError
from landscape.slices.execution import Execution
from landscape.slices.measures import Metric
from landscape.slices.trial import ExecutionName

__all__ = ["SweepOptions"]


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is measured.

    Attributes:
        execution: "auto" chooses by a short trial; "loop", "batched", "compiled", or an
            `Execution`. The numbers are the same but for rounding.
        stop_error: leave a point as soon as the standard error that is due to the examples not
            seen yet is below this, in the loss's unit. Examples are then seen in random order.
        clip: leave a point whose loss is certain to be above this, for losses that are never
            negative. Its loss is infinite; other means over the data are NaN, unless all was seen
            or the order is random.
        tolerance: measure on a coarse grid first, and finer only where linear interpolation would
            miss by more than this, in the loss's unit; the other points are filled in.
        quadratic: also the exact second-order expansion at the center, at a product a direction.
        metrics: further fields: `metric(output, target)` gives a value an example, or their mean.
        penalty: a function of theta, such as weight decay, for the field "penalty".
        state: a file that keeps what is measured; the same sweep goes on from it after a kill. It
            is deleted when the sweep is complete.
        shard: (i, m): only the i-th of m parts of the points, counted from 0; see `merge`.
        seed: of the random order of examples.
        caveats: whether to measure, at a few points, how far the picture depends on frozen
            BatchNorm statistics and on the scale of single neurons.
        progress: called with (points done, points to be done, "").
    """

    execution: ExecutionName | Execution = "auto"
    stop_error: float | None = None
    clip: float | None = None
    tolerance: float | None = None
    quadratic: bool = False
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    penalty: Callable[[Tensor], Tensor] | None = None
    state: str | Path | None = None
    shard: tuple[int, int] | None = None
    seed: int = 0
    caveats: bool = True
    progress: Callable[[int, int, str], None] | None = None

    def __post_init__(self) -> None:
        for name in ("stop_error", "clip", "tolerance"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise RequestError(f"{name} is {value}, expected a finite number above 0.")
        if self.shard is not None:
            index, count = self.shard
            if not 0 <= index < count:
                raise RequestError(f"shard is {self.shard}, expected (i, m) with 0 <= i < m.")
            if self.tolerance is not None:
                raise RequestError(
                    "a shard does not know what the others find, so it cannot refine. Leave "
                    "tolerance or shard out."
                )

    def settings(self) -> dict[str, object]:
        """What of it identifies a record: all that the numbers depend on."""
        found: dict[str, object] = {
            "stop_error": self.stop_error,
            "clip": self.clip,
            "tolerance": self.tolerance,
            "quadratic": self.quadratic,
            "metrics": sorted(self.metrics),
            "shard": None if self.shard is None else list(self.shard),
        }
        if self.stop_error is not None:
            found["seed"] = self.seed
        return {name: value for name, value in found.items() if value not in (None, [], False)}
