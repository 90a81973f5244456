"""Fitting a curve of low loss between two solutions. `curve` is what comes back.

`curve_training` takes the steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import BatchNormPolicy, Objective
from landscape.paths.curve import Curve, check_request, curve
from landscape.paths.curve_state import BendState
from landscape.paths.curve_training import CurveTraining, Optimizer, TrainingExecution
from landscape.paths.curves import CurveKind, straight_vertices
from landscape.paths.minibatches import Minibatches
from landscape.preflight import batches_of_one_explained

__all__ = ["CurveOptions", "fit_curve"]

# Of the root mean square of b - a over the coordinates: Adam moves each by about its rate a step,
# so that a bend can cross the distance of the ends in ten. For digits MLPs of 32 to 512 units and
# CNNs, 0.03 to 0.3 leave at most 1.3 % of the straight line's barrier, 0.1 at most 0.05 %.
_RELATIVE_RATE = 0.1
_OWN_BATCHES = "each point of a training step took one of the data's own batches, in their order"


@dataclass(frozen=True)
class CurveOptions:
    """How a curve is fitted.

    Attributes:
        steps: of the optimizer. 100 left at most 1.1 % of the barrier between digits MLPs, 300
            at most 0.05 %.
        optimizer: "adam", or "sgd" with momentum, that of Garipov et al.
        learning_rate: of the first half of the steps; then it falls linearly to a hundredth at
            nine tenths. None, for Adam only, is a tenth of the root mean square of b - a: Adam's
            steps are as long as its rate, whatever the loss's scale.
        momentum: of SGD; of Adam, the decay of the first moment.
        weight_decay: adds weight_decay / 2 |phi(t)|^2 to the loss at each point.
        batch_size: examples for each point of a step; None takes 128, or the data's own batches
            where they cannot be put together anew.
        strata: points of a step, one in each of so many equal parts of the curve.
        uniform_in: what the parts are equal in: "t", or "length" along the curve.
        execution: "loop" over the points of a step, "batched" by `vmap`, or "auto".
        seed: of the examples and points of each step.
        state: a file that keeps how far it is; the same fit goes on from it after a kill, to the
            same curve. It is deleted when the curve is complete.
        progress: called with (steps done, steps, "").

    Raises:
        RequestError: a value out of range.
    """

    steps: int = 500
    optimizer: Optimizer = "adam"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int | None = None
    strata: int = 4
    uniform_in: Literal["t", "length"] = "t"
    execution: TrainingExecution = "auto"
    seed: int = 0
    state: str | Path | None = None
    progress: Callable[[int, int, str], None] | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("strata", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} is {getattr(self, name)}, expected {least} or more.")
        for name, value, choices in (
            ("optimizer", self.optimizer, get_args(Optimizer)),
            ("uniform_in", self.uniform_in, ("t", "length")),
            ("execution", self.execution, get_args(TrainingExecution)),
        ):
            if value not in choices:
                raise unknown_choice(name, str(value), choices)
        rate = self.learning_rate
        if rate is None and self.optimizer == "sgd":
            raise RequestError(
                "the learning rate of SGD depends on the loss: give learning_rate, such as 0.05, "
                "or take optimizer='adam', which needs none."
            )
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise RequestError(f"learning_rate is {rate}, expected a finite number above 0.")
        if not 0 <= self.momentum < 1 or not (
            math.isfinite(self.weight_decay) and self.weight_decay >= 0
        ):
            raise RequestError(
                f"momentum is {self.momentum} and weight_decay {self.weight_decay}; expected "
                "0 <= momentum < 1 and a finite weight_decay of 0 or more."
            )

    def settings(self) -> dict[str, object]:
        """What of it identifies a record: all that the numbers depend on."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("state", "progress", "execution")
        }


def fit_curve(
    objective: Objective,
    a: Tensor,
    b: Tensor,
    kind: CurveKind = "bezier",
    num: int = 61,
    *,
    num_bends: int = 1,
    bn: BatchNormPolicy = "recalibrate",
    also: Mapping[str, Objective] | None = None,
    init: Tensor | None = None,
    options: CurveOptions | None = None,
) -> Curve:
    """A curve from a to b along which the mean loss is low.

    Minimises E_t L(phi(t)), t even in [0, 1], over the bends of a Bezier curve or a polygonal
    chain. It starts straight; the ends stay. While it is fitted, BatchNorm normalises by each
    batch, whatever the policies say; when it is measured, as `bn` says.

    Args:
        a, b: (n,) the ends.
        num: points at which the curve is measured; see `curve`.
        num_bends: vertices between the ends: 1 makes a quadratic Bezier curve, or two segments.
        bn: BatchNorm statistics of the measurement; see `curve`.
        also: further data by name for the measurement, such as {"test": ...}.
        init: (num_bends, n) where the bends start; by default evenly on the straight line.
        options: everything else; see `CurveOptions`.

    Returns:
        The curve. If a step's loss is not finite, its `status` says so, and the bends are the best
        before it.

    Raises:
        RequestError: ends, bends, data or options that do not fit.

    Source: Garipov et al. 2018, arXiv:1802.10026.
    """
    began = time.perf_counter()
    options = options or CurveOptions()
    check_request(objective, kind, num, bn, also)
    vertices = _start(objective, a, b, num_bends, init)
    rate = options.learning_rate
    if rate is None:
        rate = _RELATIVE_RATE * float((vertices[-1] - vertices[0]).double().square().mean().sqrt())
    training = CurveTraining(
        objective=objective.under("batch") if objective.has_batch_norm else objective,
        kind=kind,
        vertices=vertices,
        steps=options.steps,
        learning_rate=rate,
        optimizer=options.optimizer,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        strata=options.strata,
        by_length=options.uniform_in == "length",
        minibatches=Minibatches(objective, options.batch_size, options.seed),
        seed=options.seed,
        execution=options.execution,
    )
    settings = {
        "kind": kind,
        **options.settings(),
        "learning_rate": rate,
        "init": None if init is None else fingerprint({"init": init}).hex(),
    }
    state = BendState.start(vertices[1:-1])
    path = None if options.state is None else Path(options.state)
    request = {
        "provenance": objective.provenance(),
        "vertices": fingerprint({"vertices": vertices}).hex(),
        "execution": options.execution,
        **settings,
    }
    if path is not None and path.exists():
        state = BendState.read(path, request, vertices.device)

    def keep() -> None:
        if path is not None:
            state.write(path, request)

    keep()
    with batches_of_one_explained("batch"):
        stopped = training.run(state, keep, options.progress)
    if not stopped:  # what is kept then goes on to the same stop
        keep()
    bent = torch.cat([vertices[:1], state.bends, vertices[-1:]])
    found = curve(objective, bent, kind, num, bn=bn, also=also)
    if path is not None:
        path.unlink(missing_ok=True)
    return replace(
        found,
        settings={**found.settings, **settings, "execution": training.execution},
        notes=(*found.notes, *([] if training.minibatches.are_drawn else [_OWN_BATCHES])),
        wall_time=time.perf_counter() - began,
        training_losses=torch.tensor(state.losses, dtype=torch.float64).numpy(),
        stopped_because=stopped,
    )


def _start(
    objective: Objective, a: Tensor, b: Tensor, num_bends: int, init: Tensor | None
) -> Tensor:
    """(num_bends + 2, n)."""
    for name, end in (("a", a), ("b", b)):
        objective.space.check(end)
        if not end.isfinite().all():
            raise RequestError(f"the end {name} is not finite. Give finite weights.")
    if num_bends < 1:
        raise RequestError(
            f"num_bends is {num_bends}: a curve needs 1 bend or more. For the straight line there "
            "is barrier(objective, a, b)."
        )
    start, end = (point.detach().to(objective.theta) for point in (a, b))
    vertices = straight_vertices(start, end, num_bends)
    if init is not None:
        if init.shape != (num_bends, objective.space.size) or not init.isfinite().all():
            raise RequestError(
                f"init has shape {tuple(init.shape)}, expected finite numbers "
                f"({num_bends}, {objective.space.size}): a row for each bend."
            )
        vertices[1:-1] = init.detach().to(vertices)
    return vertices
