"""Curve: the loss along a curve between two solutions, beside the straight line between them.

`curve_fit` finds a curve of low loss; `curves` has the bases.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import BatchNormPolicy, Objective
from landscape.paths.barrier import Profile, profile
from landscape.paths.curves import CurveKind, curve_weights, step_lengths
from landscape.paths.examples import Examples, PathEvaluator
from landscape.paths.vertices import Vertices, line_weights
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Curve", "check_request", "curve"]

Array = NDArray[np.float64]
Profiles = Mapping[str, Profile]

_LEAST_POINTS = 3  # the ends and something between them
_ROUNDING = 1e-6  # of the ends' losses: differences that are none


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Curve(Result):
    """A curve between two solutions, and what was measured along it.

    Attributes:
        kind: "bezier" or "polygon".
        vertices: (K, n) the ends and what lies between them: control points, or corners.
        t: (P,) the points that were measured, evenly spaced, both ends included.
        profiles: "loss", "error" where there are classes, and those of further data with their
            name before them, such as "test_loss". Their alphas are shares of the curve's length.
        straight: the same along the straight line between the ends.
        bn: the BatchNorm policy of both.
        training_losses: (S,) of each step of a fit: means over its points and examples.
        stopped_because: why a fit ended before its last step; empty otherwise.
    """

    probe: ClassVar[str] = "curve"

    kind: CurveKind
    vertices: Tensor
    t: Array
    profiles: Profiles
    straight: Profiles
    bn: str
    training_losses: Array = field(default_factory=lambda: np.empty(0))
    stopped_because: str = ""

    def __repr__(self) -> str:
        line = self.straight["loss"].heights["chord"].value
        return (
            f"Curve({self.kind}, {len(self.vertices)} vertices: the loss rises by "
            f"{self.excess:.4g} +- {self.excess_error:.2g}, along the straight line by {line:.4g}; "
            f"{self.length_ratio:.3g} times as long, {self.status})"
        )

    @property
    def status(self) -> str:
        """ "converged", or what is lacking: steps, losses, or a fit that brings the loss down."""
        if self.stopped_because:
            return self.stopped_because
        if lost := int(np.isnan(self.losses).sum()):
            return f"{lost} of {len(self.t)} points are NaN"
        if len(self.training_losses) and self._rises_above_the_line:
            return (
                "not converged: the curve rises higher than the straight line. Take a smaller "
                "learning_rate, or more steps"
            )
        return "converged"

    @property
    def _rises_above_the_line(self) -> bool:
        line = self.straight["loss"].heights["chord"].value
        scale = np.abs(self.losses[[0, -1]]).max()
        error = self.excess_error if math.isfinite(self.excess_error) else 0.0
        return not self.excess <= line + 2 * error + _ROUNDING * scale

    def weights(self, t: Tensor | Array | float) -> Tensor:
        """(P, K) float64 of the vertices in the points at t."""
        parameters = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
        return curve_weights(self.kind, parameters, len(self.vertices))

    def point(self, t: float) -> Tensor:
        """(n,) the network's parameters at t from 0 to 1; at 0 and 1 exactly the ends."""
        return self.weights(t)[0].to(self.vertices) @ self.vertices

    @property
    def losses(self) -> Array:
        """(P,) of the objective's own data along the curve."""
        return self.profiles["loss"].values

    @property
    def excess(self) -> float:
        """Greatest rise of the loss along the curve above its ends' losses, mixed by length.

        Of a straight line that is its barrier.
        """
        return self.profiles["loss"].heights["chord"].value

    @property
    def excess_error(self) -> float:
        """Standard error of the excess, from paired differences of the examples."""
        return self.profiles["loss"].errors["chord"]

    @property
    def length(self) -> float:
        """Sum of the distances from each measured point to the next."""
        return float(step_lengths(self.vertices, self.weights(self.t)).sum())

    @property
    def distance(self) -> float:
        """Of the ends from each other."""
        return float(
            torch.linalg.vector_norm(self.vertices[-1].double() - self.vertices[0].double())
        )

    @property
    def length_ratio(self) -> float:
        """Length over distance: 1 for a straight line, NaN where the ends are one point."""
        return self.length / self.distance if self.distance else math.nan

    def integral(self, name: str = "loss") -> float:
        """Mean of a profile over the curve's length, by the trapezoid rule."""
        found = self.profiles[name]
        return float(np.sum(np.diff(found.alphas) * (found.values[1:] + found.values[:-1]) / 2))

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `t`, `step`; with `vectors`, `vertex` and `parameter`."""
        import xarray as xr

        t = {"units": "1", "long_name": "parameter of the curve: 0 and 1 at its ends"}
        dataset = xr.Dataset(coords={"t": ("t", self.t, t)})
        dataset.attrs |= {"kind": self.kind, "bn": self.bn}
        for name, along in self.profiles.items():
            for variable, values, words in self._rows(name, along):
                units = "1" if name.endswith("error") else "loss"
                dims = ("t",) if np.ndim(values) else ()
                dataset[variable] = (dims, values, {"units": units, "long_name": words})
        steps = step_lengths(self.vertices, self.weights(self.t)).cpu().numpy()
        gone = np.concatenate([[0.0], steps.cumsum()])
        unit = {"units": "parameter"}
        dataset["arc_length"] = ("t", gone, {**unit, "long_name": "length of the curve so far"})
        dataset["length"] = ((), self.length, {**unit, "long_name": "length of the curve"})
        dataset["distance"] = ((), self.distance, {**unit, "long_name": "distance of the ends"})
        words = "length of the curve over the distance of its ends"
        dataset["length_ratio"] = ((), self.length_ratio, {"units": "1", "long_name": words})
        if len(self.training_losses):
            meaning = {"units": "loss", "long_name": "loss of a training step, over its points"}
            dataset["training_loss"] = ("step", self.training_losses, meaning)
        if vectors:
            held = self.vertices.float() if self.vertices.dtype.itemsize < 4 else self.vertices
            meaning = {**unit, "long_name": "vertex of the curve"}
            dataset["vertex_vector"] = (("vertex", "parameter"), held.cpu().numpy(), meaning)
        return dataset

    def _rows(self, name: str, along: Profile) -> Iterator[tuple[str, Array | float, str]]:
        """Variables of one profile: names, values, meanings."""
        straight, chord = self.straight[name], along.heights["chord"]
        words = name.replace("_", " ")
        above = "standard error of the rise above the ends, from paired examples,"
        yield name, along.values, f"{words} along the curve"
        yield f"{name}_standard_error", along.gap_errors, f"{above} along the curve"
        yield f"straight_{name}", straight.values, f"{words} along the straight line"
        line_error = f"straight_{name}_standard_error"
        yield line_error, straight.gap_errors, f"{above} along the straight line"
        yield f"{name}_max", float(along.values.max()), f"greatest {words} of the curve"
        yield f"{name}_min", float(along.values.min()), f"least {words} of the curve"
        yield f"{name}_mean", float(along.values.mean()), f"mean {words} of the curve, t even"
        over = f"mean {words} over the length of the curve"
        yield f"{name}_integral", self.integral(name), over
        rise = "greatest rise above the ends, mixed by length,"
        yield f"{name}_excess", chord.value, f"{rise} along the curve"
        error = f"standard error of the {name}_excess"
        yield f"{name}_excess_standard_error", along.errors["chord"], error
        line = straight.heights["chord"].value
        yield f"straight_{name}_excess", line, f"{rise} along the straight line"


def curve(
    objective: Objective,
    vertices: Tensor,
    kind: CurveKind = "bezier",
    num: int = 61,
    *,
    bn: BatchNormPolicy = "recalibrate",
    also: Mapping[str, Objective] | None = None,
) -> Curve:
    """What lies along a given curve, and along the straight line between its ends.

    Args:
        vertices: (K, n); the first and the last are the ends.
        num: points, evenly spaced in t, both ends included.
        bn: BatchNorm statistics: "recalibrate", those of the objective's data at each point;
            "batch", each batch's own; "eval", the objective's.
        also: further data by name, in the same pass, such as {"test": ...}; BatchNorm statistics
            are those of the objective's data.

    Raises:
        RequestError: vertices, data or a policy that do not fit.

    Source: Garipov et al. 2018, arXiv:1802.10026.
    """
    began = time.perf_counter()
    check_request(objective, kind, num, bn, also)
    chart = Vertices.of(objective, vertices)
    points = chart.points
    t = torch.linspace(0, 1, num, dtype=torch.float64)
    curved = curve_weights(kind, t, len(points))
    straight = line_weights(t, len(points), (0, len(points) - 1))
    evaluator = PathEvaluator(objective, chart, chart.coefficients(curved), bn=bn, also=also)
    gone = torch.cat([torch.zeros(1), step_lengths(points, curved).cumsum(0).cpu()])
    shares = gone / gone[-1] if gone[-1] > 0 else t
    profiles = _profiles(evaluator.at(chart.coefficients(curved)), shares.numpy())
    beside = _profiles(evaluator.at(chart.coefficients(straight)), t.numpy())
    return Curve(
        settings={
            "kind": kind,
            "num_bends": len(points) - 2,
            "num": num,
            "bn": bn,
            "also": sorted(also or {}),
            "ends": fingerprint({"a": points[0], "b": points[-1]}).hex(),
        },
        provenance=objective.provenance(),
        wall_time=time.perf_counter() - began,
        notes=(*objective.notes, f"evaluated: {evaluator.execution}", *evaluator.notes),
        kind=kind,
        vertices=points,
        t=t.numpy(),
        profiles=profiles,
        straight=beside,
        bn=bn,
    )


def check_request(
    objective: Objective, kind: str, num: int, bn: str, also: Mapping[str, Objective] | None
) -> None:
    """Raise RequestError unless a curve can be measured so: before anything is fitted."""
    if kind not in get_args(CurveKind):
        raise unknown_choice("kind of curve", str(kind), get_args(CurveKind))
    if bn not in get_args(BatchNormPolicy):
        raise unknown_choice("BatchNorm policy", str(bn), get_args(BatchNormPolicy))
    if num < _LEAST_POINTS:
        raise RequestError(f"num is {num}, expected {_LEAST_POINTS} points or more, ends included.")
    for name, other in (also or {}).items():
        spaces = [(one.space.names, one.space.shapes) for one in (objective, other)]
        if spaces[0] != spaces[1]:
            raise RequestError(
                f"the data {name!r} belong to an objective with other parameters. Make it of the "
                "same network and the same params=."
            )


def _profiles(found: Mapping[str, Examples], shares: Array) -> dict[str, Profile]:
    """Loss, and error where there are classes, of each data set."""
    profiles = {}
    for data, examples in found.items():
        prefix = f"{data}_" if data else ""
        profiles[f"{prefix}loss"] = profile(shares, examples, "loss")
        if examples.error is not None:
            profiles[f"{prefix}error"] = profile(shares, examples, "error")
    return profiles
