"""Barrier: how far the loss rises between two solutions, and how sure that is.

`heights` holds the definitions, `decomposition` where a rise comes from, `barrier_matrix` the
barriers of a whole family.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.paths.decomposition import Decomposition, decompose
from landscape.paths.examples import Examples, PathEvaluator, joined
from landscape.paths.heights import DEFINITIONS, Height, check_definition, height
from landscape.paths.sphere import angle_between, scale_invariant_mask
from landscape.paths.vertices import Vertices, line_weights
from landscape.result import Result
from landscape.slices.execution import BatchNormMode, Execution
from landscape.slices.trial import ExecutionName

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["METRICS", "Barrier", "Metric", "Profile", "barrier", "chance_level", "profile"]

Array = NDArray[np.float64]
Metric = Literal["loss", "error"]
Interpolation = Literal["linear", "spherical"]
METRICS = ("loss", "error")
_ALPHA_TOLERANCE = 1e-3  # of the refined maximum
_MOST_REFINEMENTS = 20


@dataclass(frozen=True, eq=False)
class Profile:
    """One metric along a path.

    Attributes:
        alphas: (P,) from 0 to 1.
        values: (P,) of the metric.
        gap_errors: (P,) standard error of E(a) - (1 - a) E0 - a E1, by paired examples.
        heights: in each definition.
        errors: standard error of each height, at its alpha; that the alpha was chosen for its
            height is not in it.
        chance: the metric of a network that knows the frequencies of the classes alone.
    """

    alphas: Array
    values: Array
    gap_errors: Array
    heights: Mapping[str, Height]
    errors: Mapping[str, float]
    chance: float

    @property
    def gaps(self) -> Array:
        """(P,) E(a) - (1 - a) E0 - a E1."""
        first, last = self.values[0], self.values[-1]
        gaps = self.values - first - self.alphas * (last - first)
        gaps[-1] = 0.0
        return np.asarray(gaps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Barrier(Result):
    """What lies between two solutions.

    Attributes:
        metric, definition: of `value`.
        profiles: by name: "loss", "error" where there are classes, and those of further data with
            their name before them, such as "test_loss".
        interpolation: "linear", or "spherical" for the scale-invariant parameters.
        bn: the BatchNorm policy along the path.
        distance: Euclidean, between the ends.
        angle: between the ends, in radians; lengths do not matter.
        invariant_angle: the same over the scale-invariant parameters alone; NaN if unknown.
        decomposition: of the gap at the chord's maximum; None for other losses, and where there
            is no gap.
        example_shares: (N,) what each example adds to `value`; None if they are not told apart.
        classes: (N,) class of each example, or None.
    """

    probe: ClassVar[str] = "barrier"

    metric: str
    definition: str
    profiles: Mapping[str, Profile] = field(repr=False)
    interpolation: str
    bn: str
    distance: float
    angle: float
    invariant_angle: float = math.nan
    decomposition: Decomposition | None = field(default=None, repr=False)
    example_shares: Tensor | None = field(default=None, repr=False)
    classes: Tensor | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """ "converged" unless points of the path have no value."""
        lost = int(np.isnan(self._own.values).sum())
        return f"{lost} of {len(self._own.values)} points are NaN" if lost else "converged"

    @property
    def _own(self) -> Profile:
        return self.profiles[self.metric]

    @property
    def value(self) -> float:
        """The height in the metric and definition that were asked for."""
        return self._own.heights[self.definition].value

    @property
    def standard_error(self) -> float:
        """Of `value`, from paired differences of the examples."""
        return self._own.errors[self.definition]

    @property
    def alpha(self) -> float:
        """Where on the path the height is reached."""
        return self._own.heights[self.definition].alpha

    @property
    def alphas(self) -> Array:
        """(P,) where the path was evaluated."""
        return self._own.alphas

    @property
    def losses(self) -> Array:
        """(P,) the loss there."""
        return self.profiles["loss"].values

    @property
    def class_shares(self) -> Array | None:
        """(K,) what the examples of each class add to `value`; None where there is not one each."""
        if self.example_shares is None or self.classes is None:
            return None
        num = int(self.classes.max()) + 1
        kept = self.classes >= 0
        found = torch.zeros(num, dtype=torch.float64)
        return found.index_add(0, self.classes[kept], self.example_shares[kept]).numpy()

    def __repr__(self) -> str:
        return (
            f"Barrier({self.value:.6g} +- {self.standard_error:.2g} {self.metric}, "
            f"{self.definition}, at alpha={self.alpha:.3f})"
        )

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Profiles over `alpha`; heights in all definitions, angle and distance as scalars."""
        from landscape.paths.barrier_dataset import barrier_dataset

        return barrier_dataset(self)


def barrier(
    objective: Objective,
    a: Tensor,
    b: Tensor,
    num: int = 25,
    definition: str = "chord",
    bn: BatchNormMode = "recalibrate",
    *,
    metric: Metric = "loss",
    interpolation: Interpolation = "linear",
    buffers: Sequence[Mapping[str, Tensor]] | None = None,
    also: Mapping[str, Objective] | None = None,
    refine: bool = True,
    execution: ExecutionName | Execution = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> Barrier:
    """The barrier between two points.

    Args:
        a, b: (n,) the ends.
        num: evenly spaced points, both ends included.
        definition: of the headline; all of `landscape.paths.heights.DEFINITIONS` are measured:
            chord, midpoint, mean, highest_end, saddle, mode_connectivity, relative.
        bn: BatchNorm statistics: "recalibrate" those of the objective's data at each point,
            "interpolate" between those of the ends (give `buffers`), "batch", or "eval", the
            objective's own at every point.
        metric: "loss", or "error", the share of wrong predictions; both are measured.
        interpolation: "spherical" moves the scale-invariant parameters, taken as one vector,
            along a great circle, its length changing evenly, and the others along the line.
        buffers: named buffers of a and of b, for bn="interpolate".
        also: further data by name, in the same pass, such as {"test": ...}; BatchNorm statistics
            are those of the objective's data.
        refine: where the height is reached between the ends, look for a greater one between the
            neighbouring points, to 0.001 of the path; each step costs a point.
        progress: called with (points done, about how many, "").

    Raises:
        RequestError: points, a definition, a metric or a policy that do not fit.
    """
    began = time.perf_counter()
    check_definition(definition)
    if metric not in METRICS:
        raise unknown_choice("metric", metric, METRICS)
    if interpolation not in ("linear", "spherical"):
        raise unknown_choice("interpolation", interpolation, ("linear", "spherical"))
    if num < 3:
        raise RequestError(f"num is {num}: a barrier needs 3 points or more, ends included.")
    if bn == "interpolate" and buffers is None:
        raise RequestError(
            "bn='interpolate' mixes the buffers of the ends: give buffers=(of a, of b), each "
            "dict(model.named_buffers())."
        )
    mask = scale_invariant_mask(objective) if interpolation == "spherical" else None
    if mask is not None and not mask.any():
        raise RequestError(
            "no parameter of this network is scale-invariant: give interpolation='linear'."
        )
    chart = Vertices.of(objective, [a, b], buffers if bn == "interpolate" else None, sphere=mask)
    line = _Line(objective, chart, num, bn, also, execution, progress)
    if metric == "error":
        line.examples[""].values("error")  # refused before it costs anything more
    if refine:
        line.refine(definition, metric)
    profiles = line.profiles()
    own = profiles[metric].heights[definition]
    shares = None
    if math.isfinite(own.value):
        shares = line.examples[""].contributions(metric, torch.as_tensor(own.gradient))
    return Barrier(
        settings={
            "num": num,
            "definition": definition,
            "metric": metric,
            "interpolation": interpolation,
            "bn": bn,
            "refine": refine,
            "also": sorted(also or {}),
            "ends": fingerprint({"a": a.detach().cpu(), "b": b.detach().cpu()}).hex(),
        },
        provenance=objective.provenance(),
        notes=(*objective.notes, f"evaluated: {line.evaluator.execution}", *line.evaluator.notes),
        wall_time=time.perf_counter() - began,
        metric=metric,
        definition=definition,
        profiles=profiles,
        interpolation=interpolation,
        bn=bn,
        distance=float(torch.linalg.vector_norm(a.double() - b.double())),
        angle=angle_between(a, b),
        invariant_angle=math.nan if mask is None else angle_between(a[mask], b[mask]),
        decomposition=line.decomposition(profiles["loss"].heights["chord"]),
        example_shares=shares,
        classes=line.examples[""].classes,
    )


class _Line:
    """The points of a path, sorted, with their examples; more can be put between them."""

    def __init__(
        self,
        objective: Objective,
        chart: Vertices,
        num: int,
        bn: BatchNormMode,
        also: Mapping[str, Objective] | None,
        execution: ExecutionName | Execution,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self._objective, self._chart, self._bn = objective, chart, bn
        self._progress = progress
        self.alphas = np.linspace(0, 1, num)
        self.evaluator = PathEvaluator(
            objective, chart, self._coefficients(self.alphas), bn=bn, also=also,
            execution=execution,
        )  # fmt: skip
        self.examples = self._at(self.alphas)

    def _coefficients(self, alphas: Array) -> Tensor:
        return self._chart.coefficients(line_weights(torch.as_tensor(alphas)))

    def _at(self, alphas: Array) -> dict[str, Examples]:
        pieces = []
        for several in torch.split(self._coefficients(alphas), self.evaluator.points_at_a_time):
            pieces.append(self.evaluator.at(several))
            if self._progress is not None:
                done = sum(len(piece[""].totals) for piece in pieces)
                self._progress(done, len(alphas), "")
        return {name: joined([piece[name] for piece in pieces]) for name in pieces[0]}

    def refine(self, definition: str, metric: str) -> None:
        """More points around the greatest height, by Brent's method, unless an end is highest."""
        values = self.examples[""].values(metric).numpy()
        if definition == "midpoint" or not np.isfinite(values).all():
            return
        found = height(definition, self.alphas, values, chance=math.inf)
        index = int(np.abs(self.alphas - found.alpha).argmin())
        if index in (0, len(values) - 1):
            return
        is_valley = definition == "mode_connectivity" and found.value > 0
        above_chord = definition in ("chord", "relative")

        def depth(alpha: float) -> float:
            value = self._added(alpha, metric)
            if above_chord:
                value -= (1 - alpha) * values[0] + alpha * values[-1]
            return value if is_valley else -value

        optimize.minimize_scalar(
            depth,
            bounds=(self.alphas[index - 1], self.alphas[index + 1]),
            method="bounded",
            options={"xatol": _ALPHA_TOLERANCE, "maxiter": _MOST_REFINEMENTS},
        )

    def _added(self, alpha: float, metric: str) -> float:
        """The metric at a further point, which is kept among the others."""
        further = self.evaluator.at(self._coefficients(np.asarray([alpha])))
        position = int(np.searchsorted(self.alphas, alpha))
        self.alphas = np.insert(self.alphas, position, alpha)
        for name, examples in self.examples.items():
            self.examples[name] = joined([examples, further[name]], at=position)
        return float(further[""].values(metric)[0])

    def profiles(self) -> dict[str, Profile]:
        found = {}
        for name, examples in self.examples.items():
            prefix = f"{name}_" if name else ""
            for metric in METRICS:
                if metric == "loss" or examples.error is not None:
                    found[f"{prefix}{metric}"] = profile(self.alphas, examples, metric)
        return found

    def decomposition(self, highest: Height) -> Decomposition | None:
        if not math.isfinite(highest.value):
            return None
        policy = self._objective.under("eval" if self._bn == "interpolate" else self._bn)
        coefficients = self._coefficients(np.asarray([0, highest.alpha, 1.0]))
        thetas = self._chart.thetas(coefficients)
        held = [self.evaluator.buffers(point) for point in coefficients]
        return decompose(policy, list(thetas), highest.alpha, held)


def profile(alphas: Array, examples: Examples, metric: str) -> Profile:
    """One metric along a path, from the examples at its points."""
    values = examples.values(metric).numpy()
    chance = chance_level(examples, metric)
    heights = {name: height(name, alphas, values, chance) for name in DEFINITIONS}
    gap_errors = []
    for index, alpha in enumerate(alphas):
        combination = torch.zeros(len(alphas), dtype=torch.float64)
        combination[index] += 1
        combination[0] -= 1 - alpha
        combination[-1] -= alpha
        gap_errors.append(examples.standard_error(metric, combination))
    errors = {
        name: examples.standard_error(metric, torch.as_tensor(one.gradient))
        for name, one in heights.items()
    }
    return Profile(alphas, values, np.asarray(gap_errors), heights, errors, chance)


def chance_level(examples: Examples, metric: str) -> float:
    """The metric of a network that knows the frequencies of the classes alone; NaN if unknown."""
    if examples.classes is None or examples.counted is None:
        return math.nan
    weights = examples.weights if metric == "loss" else examples.counted
    if weights is None:
        return math.nan
    kept = examples.classes >= 0
    counts = torch.zeros(int(examples.classes.max()) + 1, dtype=torch.float64)
    shares = counts.index_add(0, examples.classes[kept], weights[kept]) / weights[kept].sum()
    if metric == "error":
        return float(1 - shares.max())
    return float(-torch.special.xlogy(shares, shares).sum())
