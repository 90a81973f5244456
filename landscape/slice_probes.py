"""Slice probes: the line, plane or trajectory that a `SlicePlan` asks for, of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from landscape.company import Company, Point
from landscape.curvature.eigen import eigsh
from landscape.curvature.hessian import HessianOperator
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.request import Source, load_point
from landscape.result import Result
from landscape.slice_plan import SlicePlan
from landscape.slices.directions import (
    Direction,
    direction_towards,
    eigenvector_directions,
    gradient_direction,
    random_directions,
)
from landscape.slices.execution import BatchNormMode
from landscape.slices.measures import Metric
from landscape.slices.options import SweepOptions
from landscape.slices.sweep import Sweep
from landscape.slices.sweeping import Radius, line, lines, plane, plane_through
from landscape.slices.topology import topology
from landscape.slices.trajectory import checkpoints_fingerprint, trajectory

__all__ = ["SliceProbes"]

Ticks = Callable[[int, int, str], None]

_BEYOND = 0.5  # of the way to another checkpoint, on both sides
_EIGENVECTOR_TOL = 1e-3
_PLAIN_RADIUS = "1"


@dataclass(frozen=True)
class _Members(Sequence[Tensor]):
    """The points of checkpoints, each read when it is asked for."""

    paths: tuple[Path, ...]
    source: Source
    objective: Objective

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return load_point(self.paths[index], self.source, self.objective)[0]


class SliceProbes:
    """The slices of one checkpoint.

    Args:
        company: the checkpoint's objective, with what else it is measured with.
        seed: of random directions.
    """

    def __init__(self, company: Company, plan: SlicePlan, *, seed: int) -> None:
        self._company, self._plan, self._seed = company, plan, seed
        self._objective, self._checkpoint = company.objective, company.checkpoint

    def settings(self, probe: str) -> dict[str, object]:
        """What identifies a record of this probe."""
        found = {**self._plan.settings(probe), "seed": self._seed}
        if self._plan.towards:
            thetas = {str(index): theta for index, (theta, _) in enumerate(self._others())}
            found["towards_fingerprint"] = fingerprint(thetas).hex()
        if probe == "trajectory":
            found["checkpoints_fingerprint"] = checkpoints_fingerprint(self._members())
        return found

    def _others(self) -> list[Point]:
        return self._company.points(self._plan.towards)

    def measure(self, probe: str, *, state: Path | None, progress: Ticks) -> list[Result]:
        """The slice, and the topology of its grid where that is asked for.

        Args:
            state: file from which an interrupted slice goes on.
            progress: called with (points done, all points, "").

        Raises:
            RequestError: a request that does not fit the checkpoint or its others.
        """
        options = self._options(state, progress)
        if probe == "trajectory":
            return self._trajectory(options, progress)
        sweep = self._line(options) if probe == "line" else self._plane(options)
        if self._plan.topology and sweep.kind != "lines":
            return [sweep, topology(sweep)]
        return [sweep]

    def _options(self, state: Path | None, progress: Ticks) -> SweepOptions:
        plan, decay = self._plan, self._plan.weight_decay
        metrics: dict[str, Metric] = {}
        return SweepOptions(
            execution=plan.execution,
            stop_error=plan.stop_error,
            clip=plan.clip,
            tolerance=plan.tolerance,
            quadratic=plan.quadratic,
            metrics=metrics,
            penalty=(lambda theta: decay / 2 * theta.double().square().sum()) if decay else None,
            state=state,
            shard=plan.shard_of(),
            seed=self._seed,
            progress=progress,
        )

    def _also(self) -> dict[str, Objective]:
        return self._company.test(self._plan.test_data, self._plan.test_arguments)

    @property
    def _bn(self) -> BatchNormMode | None:
        return "interpolate" if self._plan.interpolate_bn else None

    def _fields(self) -> tuple[str, ...]:
        penalty = ("penalty",) if self._plan.weight_decay else ()
        return tuple(dict.fromkeys((*self._plan.fields, *penalty)))

    def _line(self, options: SweepOptions) -> Sweep:
        plan, objective = self._plan, self._objective
        if len(plan.towards) == 2:
            raise RequestError("two other checkpoints give a plane: type --probe plane.")
        (num,) = plan.points("line")
        radius: Radius = plan.radii()  # type: ignore[assignment]
        along = self._directions(1 if plan.num_seeds == 1 else plan.num_seeds)
        if plan.towards and plan.radius == _PLAIN_RADIUS:
            radius = [(-_BEYOND, 1 + _BEYOND)]
        if len(along) > 1:
            return lines(
                objective, along, num, radius, fields=self._fields(), also=self._also(),
                bn=self._bn, options=options,
            )  # fmt: skip
        sweep = line(
            objective, along[0], num, radius, fields=self._fields(), also=self._also(),
            bn=self._bn, options=options,
        )  # fmt: skip
        if not plan.towards:
            return sweep
        return replace(sweep, marks={self._checkpoint.stem: (0.0,), plan.towards[0].stem: (1.0,)})

    def _plane(self, options: SweepOptions) -> Sweep:
        plan, objective = self._plan, self._objective
        num = plan.points("plane")
        if len(plan.towards) == 1:
            raise RequestError(
                "one other checkpoint gives a line (--probe line), two a plane. Add --towards."
            )
        if plan.towards:
            (second, own), (third, other) = self._others()
            first, *rest = (path.stem for path in (self._checkpoint, *plan.towards))
            return plane_through(
                objective, second, third, num, names=(first, rest[0], rest[1]),
                buffers=(own, other), fields=self._fields(), also=self._also(), bn=self._bn,
                options=options,
            )  # fmt: skip
        radius: Radius = plan.radii()  # type: ignore[assignment]
        return plane(
            objective, self._directions(2), num, radius, fields=self._fields(),
            also=self._also(), bn=self._bn, options=options,
        )  # fmt: skip

    def _directions(self, num: int) -> tuple[Direction, ...]:
        plan, objective = self._plan, self._objective
        if plan.towards:
            ((theta, buffers),) = self._others()
            name = f"towards {plan.towards[0].name}"
            return (direction_towards(objective, theta, name=name, buffers=buffers),)
        if plan.direction == "gradient":
            if num > 1:
                raise RequestError("the gradient is one direction: --probe line, one seed.")
            return (gradient_direction(objective),)
        if plan.direction == "eigenvectors":
            with HessianOperator(objective) as hessian:
                pairs = eigsh(hessian, num, which="LA", tol=_EIGENVECTOR_TOL, seed=self._seed)
            return eigenvector_directions(pairs, num)
        return random_directions(
            objective,
            num,
            plan.normalize,
            self._seed,
            biases=plan.biases,
            norms=plan.norms,
            # A band is of independent draws.
            orthogonal=plan.num_seeds == 1,
        )

    def _members(self) -> _Members:
        return _Members(self._plan.members, self._company.source, self._objective)

    def _trajectory(self, options: SweepOptions, progress: Ticks) -> list[Result]:
        plan, objective = self._plan, self._objective
        path = trajectory(
            objective, self._members(), names=[one.stem for one in plan.members], progress=progress
        )
        radius: Radius = plan.radii()  # type: ignore[assignment]
        if plan.radius == _PLAIN_RADIUS:
            radius = path.limits()
        sweep = plane(
            objective, path.directions, plan.points("trajectory"), radius,
            center=None if _same(path.center, objective.theta) else path.center,
            fields=self._fields(), also=self._also(), bn=self._bn, options=options,
        )  # fmt: skip
        found: list[Result] = [replace(path, plane=sweep, notes=(*path.notes, *sweep.notes))]
        return [*found, topology(sweep)] if plan.topology else found


def _same(first: Tensor, second: Tensor) -> bool:
    return bool(np.array_equal(first.cpu().double().numpy(), second.cpu().double().numpy()))
