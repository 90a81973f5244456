"""Path probes: what a `PathPlan` asks for between a checkpoint and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from landscape.alignment.aligning import Alignment, align
from landscape.atomic import appearing
from landscape.company import Company, Point
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.merging.averaging import average
from landscape.merging.repair import repair
from landscape.merging.soup import greedy_soup
from landscape.objective import BatchNormPolicy, Objective
from landscape.path_plan import PathPlan
from landscape.paths.autoneb import autoneb
from landscape.paths.barrier import barrier
from landscape.paths.barrier_matrix import barrier_matrix
from landscape.paths.curve_fit import CurveOptions, fit_curve
from landscape.paths.neb import neb
from landscape.result import Result
from landscape.similarity.comparing import compare_family
from landscape.slices.options import SweepOptions
from landscape.slices.sweeping import plane_through

__all__ = ["PathProbes", "PathRequest"]

Ticks = Callable[[int, int, str], None]

_AUTONEB_STEPS = 1000  # of its first cycle in the paper: what `neb_steps` counts by
_OF_TWO = ("curve", "neb", "alignment", "repair")


@dataclass(frozen=True)
class PathRequest:
    """One measurement between checkpoints.

    Attributes:
        probe: a name from `PATH_PROBES`.
        group: where a result file keeps it.
        is_aligned: whether the units of the others are permuted first.
    """

    probe: str
    group: str
    is_aligned: bool = False


class PathProbes:
    """What lies between one checkpoint and others.

    Args:
        company: the checkpoint's objective, with what else it is measured with.
        seed: of whatever is drawn.

    Raises:
        RequestError: a probe that needs an option which was not given.
    """

    def __init__(self, company: Company, plan: PathPlan, *, seed: int) -> None:
        self._company, self._plan, self._seed = company, plan, seed
        self._objective = company.objective

    def requests(self, probe: str) -> tuple[PathRequest, ...]:
        """What is measured: a barrier before and after an alignment, where one is asked for."""
        plan, others = self._plan, len(self._plan.towards)
        if probe in _OF_TWO and others != 1:
            raise RequestError(
                f"{probe} is between two checkpoints, and {others + 1} were named. Name two."
            )
        aligns = plan.align != "none"
        if probe == "alignment":
            return (PathRequest(probe, probe, is_aligned=True),)
        if probe == "barrier":
            group = "barrier" if others == 1 else "barrier_matrix"
            plain = PathRequest(probe, group)
            return (plain, PathRequest(probe, group, is_aligned=True)) if aligns else (plain,)
        if probe == "soup" and plan.soup == "greedy":
            return (PathRequest(probe, "greedy_soup", is_aligned=aligns),)
        return (PathRequest(probe, probe, is_aligned=aligns),)

    def settings(self, request: PathRequest) -> dict[str, object]:
        """What identifies a record of this request."""
        plan = self._plan
        thetas = {str(index): theta for index, (theta, _) in enumerate(self._points)}
        found = {
            **plan.settings(request.probe),
            "seed": self._seed,
            "towards": [path.name for path in plan.towards],
            "towards_fingerprint": fingerprint(thetas).hex(),
        }
        if request.is_aligned:
            name = "method" if request.probe == "alignment" else "align"
            found |= {name: self._method, "num_restarts": plan.num_restarts}
        return found

    def measure(self, request: PathRequest, *, state: Path | None, progress: Ticks) -> list[Result]:
        """The result of a request; after a curve that of its plane, where it is asked for.

        Args:
            state: file from which an interrupted matrix or curve goes on.
            progress: called with (done, all, "").

        Raises:
            RequestError: a request that does not fit the checkpoints.
        """
        if request.probe == "alignment":
            return [self._alignments[0]]
        points = self._aligned if request.is_aligned else self._points
        if request.probe == "barrier":
            return [self._barrier(points, state, progress)]
        if request.probe == "curve":
            return self._curve(points, state, progress)
        if request.probe == "neb":
            return [self._neb(points, progress)]
        if request.probe == "similarity":
            return [self._similarity(points, progress)]
        if request.probe == "soup":
            return [self._soup(points)]
        return [
            repair(
                self._objective,
                self._objective.theta,
                points[0][0],
                buffers=self._buffers(points) if self._plan.path_bn == "interpolate" else None,
                also=self._also,
            )
        ]

    def save_aligned(self, path: Path) -> None:
        """Write the other checkpoint with its units permuted, as safetensors."""
        (alignment,) = self._alignments
        tensors = {
            name: held.detach().cpu().contiguous() for name, held in alignment.tensors().items()
        }
        try:
            with appearing(path) as temporary:
                save_file(tensors, temporary, {"format": "pt"})
        except (OSError, SafetensorError) as error:
            raise RequestError(f"cannot write {path}: {error}.") from error

    # -- the other checkpoints ----------------------------------------------------------------

    @property
    def _points(self) -> list[Point]:
        return self._company.points(self._plan.towards)

    @property
    def _method(self) -> Literal["weights", "activations"]:
        return "weights" if self._plan.align == "none" else self._plan.align

    @cached_property
    def _alignments(self) -> list[Alignment]:
        return [
            align(
                self._objective,
                self._objective.theta,
                theta,
                self._method,
                buffers=buffers,
                seed=self._seed,
                num_restarts=self._plan.num_restarts,
            )
            for theta, buffers in self._points
        ]

    @property
    def _aligned(self) -> list[Point]:
        return [(one.theta, dict(one.buffers)) for one in self._alignments]

    @property
    def _names(self) -> list[str]:
        """Of all checkpoints: their stems, numbered where two have the same."""
        stems = [path.stem for path in (self._company.checkpoint, *self._plan.towards)]
        if len(set(stems)) == len(stems):
            return stems
        return [f"{index}: {stem}" for index, stem in enumerate(stems, 1)]

    def _thetas(self, points: Sequence[Point]) -> list[Tensor]:
        return [self._objective.theta, *(theta for theta, _ in points)]

    def _buffers(self, points: Sequence[Point]) -> list[Mapping[str, Tensor]]:
        return [self._objective.buffers, *(buffers for _, buffers in points)]

    @cached_property
    def _also(self) -> dict[str, Objective]:
        return self._company.test(self._plan.test_data, self._plan.test_arguments)

    # -- probes -------------------------------------------------------------------------------

    def _barrier(self, points: Sequence[Point], state: Path | None, progress: Ticks) -> Result:
        plan, objective = self._plan, self._objective
        if len(points) == 1:
            return barrier(
                objective, objective.theta, points[0][0], num=plan.num, definition=plan.definition,
                bn=plan.path_bn, metric=plan.metric, interpolation=plan.interpolation,
                buffers=self._buffers(points), also=self._also, execution=plan.execution,
                progress=progress,
            )  # fmt: skip
        if plan.interpolation == "spherical":
            raise RequestError("a matrix is of straight lines: leave --interpolation out.")
        return barrier_matrix(
            objective, self._thetas(points), num=plan.num, definition=plan.definition,
            bn=plan.path_bn, metric=plan.metric, names=self._names,
            buffers=self._buffers(points), threshold=plan.threshold, execution=plan.execution,
            state=state, progress=progress,
        )  # fmt: skip

    def _curve(self, points: Sequence[Point], state: Path | None, progress: Ticks) -> list[Result]:
        plan, (start, end) = self._plan, self._thetas(points)
        if plan.curve_plane and plan.num_bends != 1:
            raise RequestError(
                f"a curve of {plan.num_bends} bends lies in no plane: leave --curve-plane out, or "
                "take one bend."
            )
        options = CurveOptions(
            steps=plan.curve_steps, seed=self._seed, state=state, progress=progress
        )
        curve = fit_curve(
            self._objective, start, end, kind=plan.curve, num_bends=plan.num_bends,
            bn=self._policy, also=self._also, options=options,
        )  # fmt: skip
        if not plan.curve_plane:
            return [curve]
        first, second = self._names
        plane = plane_through(
            self._objective, end, curve.vertices[1], names=(first, second, "bend"),
            bn=self._policy, options=SweepOptions(execution=plan.execution),
        )  # fmt: skip
        return [curve, plane]

    def _neb(self, points: Sequence[Point], progress: Ticks) -> Result:
        plan, (start, end) = self._plan, self._thetas(points)
        if plan.neb == "autoneb":
            return autoneb(
                self._objective, start, end, steps=plan.neb_steps / _AUTONEB_STEPS, bn=self._policy,
                also=self._also, seed=self._seed, progress=progress,
            )  # fmt: skip
        return neb(
            self._objective, start, end, num_pivots=plan.num_pivots, steps=plan.neb_steps,
            method=plan.neb, bn=self._policy, also=self._also, seed=self._seed,
            progress=progress,
        )  # fmt: skip

    def _similarity(self, points: Sequence[Point], progress: Ticks) -> Result:
        policy = self._policy
        return compare_family(
            self._objective,
            dict(zip(self._names, self._thetas(points), strict=True)),
            buffers=self._buffers(points) if policy == "eval" else None,
            pool=self._plan.pool,
            bn=policy,
            seed=self._seed,
            progress=progress,
        )

    def _soup(self, points: Sequence[Point]) -> Result:
        thetas, also = self._thetas(points), self._also
        if self._plan.soup == "uniform":
            return average(self._objective, thetas, bn=self._policy, also=also)
        if not also:
            raise RequestError(
                "a greedy soup chooses its members on data of their own: --test-args "
                '\'{"split": "validation"}\', or --test-data.'
            )
        return greedy_soup(self._objective, thetas, also["test"], bn=self._policy)

    @property
    def _policy(self) -> BatchNormPolicy:
        """Of the statistics at points that lie on no line."""
        if self._plan.path_bn == "interpolate":
            raise RequestError(
                "statistics are interpolated on lines alone: leave --path-bn at recalibrate here."
            )
        return self._plan.path_bn
