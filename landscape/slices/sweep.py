"""Sweep: the loss and other fields on a grid through the weights. `sweeping` makes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.result import Result
from landscape.slices.quadratic import Quadratic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["AXES", "Sweep", "evident", "merge"]

Array = NDArray[np.float64]

AXES = ("a", "b", "c", "d", "e", "f")  # theta = center + a d_1 + b d_2 + ...

# Unit and meaning of the fields that have a name of their own; a user's metric has neither.
_FIELDS = {
    "loss": ("loss", "loss of the data, without any penalty"),
    "standard_error": ("loss", "standard error of loss - loss at the center, from paired examples"),
    "subset_error": ("loss", "part of the standard error that is due to examples left out"),
    "accuracy": ("1", "share of examples that are right"),
    "class_loss": ("loss", "loss of the examples of a class"),
    "class_accuracy": ("1", "share of a class that is right"),
    "penalty": ("loss", "penalty on the weights"),
    "gradient_norm": ("loss / parameter", "norm of the gradient"),
    "slope": ("loss", "derivative along each direction, per unit of its coordinate"),
    "num_examples": ("1", "examples that were seen before the point was left"),
}
_SCALARS = {
    "center_loss": ("loss", "loss at the center"),
    "center_error": ("loss", "standard error of the loss at the center, as of a fresh draw"),
    "smallest_loss": ("loss", "least finite loss of the grid"),
    "largest_loss": ("loss", "greatest finite loss of the grid"),
    "nan_points": ("1", "evaluated points whose loss is NaN"),
    "clipped_share": ("1", "share of points whose loss is infinite, or beyond the clip"),
    "max_cosine": ("1", "largest |cosine| between two directions"),
    "stale_bn_gap": (
        "loss",
        "largest |loss with frozen - recalculated BatchNorm statistics| tried",
    ),
    "rescaling_change": (
        "loss",
        "largest change tried when neurons are rescaled, the function kept",
    ),
    "interpolated_share": ("1", "share of points that were filled in between measured ones"),
}
_MAX_COSINE = 0.1  # above it, distances in the picture are visibly wrong


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sweep(Result):
    """Fields over a grid: at (a, b, ...) stands the value at center + a d_1 + b d_2 + ...

    Every array has the axes of the grid first, in the order of `coordinates`:
    `loss[i, j]` belongs to `coordinates[0][i], coordinates[1][j]`. Fields are read by name:
    `sweep["accuracy"]` or `sweep.accuracy`.

    Attributes:
        coordinates: one array an axis, in units of its direction: real radii, ends included.
        fields: `loss` and whatever else was asked for. NaN where the loss is NaN or the point was
            not measured, infinite beyond the clip.
        done: (grid) whether the point was evaluated; others were left out or filled in.
        kind: "line", "plane", "grid", or "lines": the axes "direction" and "a", a line each.
        direction_names: what each direction is.
        direction_norms: (k,) their Euclidean norms: a step of 1 in a coordinate is that long.
        cosines: (k, k) between the directions.
        caveats: how far the picture depends on what it should not depend on.
        marks: points of interest by name: their coordinates.
        quadratic: the second-order expansion at the center, exact, where it was asked for.
        center_loss: loss at the center.
        center_error: standard error of the loss at the center, as of a fresh draw of examples.
        recipes: what draws each direction again, as `directions.regenerate` reads it.
        bn: where BatchNorm's statistics came from.
        vectors: (k, n) the directions themselves.
    """

    kind: str
    coordinates: tuple[Array, ...]
    fields: Mapping[str, Array]
    done: NDArray[np.bool_]
    direction_names: tuple[str, ...]
    direction_norms: Array
    cosines: Array
    center_loss: float
    center_error: float = float("nan")
    caveats: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    quadratic: Quadratic | None = None
    recipes: tuple[Mapping[str, object], ...] = ()
    bn: str = "eval"
    vectors: Tensor | None = None

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        along = " and ".join(self.direction_names[:2]) + (", ..." if len(self.cosines) > 2 else "")
        finite = self.loss[np.isfinite(self.loss)]
        span = f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "nowhere finite"
        return f"Sweep({self.kind}, {size} points along {along}: loss {span}, {self.status})"

    @property
    def probe(self) -> str:
        """The kind of the sweep names its group in the file."""
        return self.kind

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the grid's axes."""
        if self.kind == "lines":
            return ("direction", AXES[0])
        return AXES[: len(self.coordinates)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis."""
        return tuple(len(axis) for axis in self.coordinates)

    @property
    def loss(self) -> Array:
        """The loss on the grid."""
        return self.fields["loss"]

    @property
    def standard_error(self) -> Array:
        """Of loss - center loss, as of a fresh draw of as many examples; NaN where unknown."""
        return self.fields.get("standard_error", np.full(self.shape, np.nan))

    def __getitem__(self, name: str) -> Array:
        if name not in self.fields:
            raise unknown_choice("field", name, self.fields)
        return self.fields[name]

    def __getattr__(self, name: str) -> Array:
        # Only names that are no attribute come here; dunder look-ups of copy and pickle, too.
        fields = self.__dict__.get("fields", {})
        if name in fields:
            found: Array = fields[name]
            return found
        raise AttributeError(f"this sweep has no field {name!r}; it has: {', '.join(fields)}")

    @property
    def num_nan(self) -> int:
        """Points that were evaluated and whose loss is NaN."""
        return int((np.isnan(self.loss) & self.done).sum())

    @property
    def status(self) -> str:
        """ "converged" when every point was measured or filled in, else how many are missing."""
        missing = int((~self.done & np.isnan(self.loss)).sum())
        return f"{missing} of {self.done.size} points missing" if missing else "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `a`, `b`, ..., `direction`, `class`, `mark`; with `vectors`, `parameter`."""
        import xarray as xr

        grid = self.axes
        dataset = xr.Dataset(coords=self._coordinate_variables())
        metrics = cast("Sequence[str]", self.settings.get("metrics", ()))
        for name, values in self.fields.items():
            known, meaning = _described(name, metrics)
            extra = [] if values.ndim == len(grid) else [self._extra_dimension(known)]
            dataset[name] = ((*grid, *extra), values, meaning)
        meaning = {"units": "1", "long_name": "whether the point was evaluated"}
        dataset["done"] = (grid, self.done, meaning)
        names = ("direction", "other_direction")
        norm = {"units": "parameter", "long_name": "Euclidean norm of the direction"}
        dataset["direction_norm"] = (names[:1], self.direction_norms, norm)
        cosine = {"units": "1", "long_name": "cosine between two directions"}
        dataset["cosine"] = (names, self.cosines, cosine)
        if self.quadratic is not None:
            slope = {"units": "loss", "long_name": "slope at the center, per unit of coordinate"}
            dataset["center_slope"] = (names[:1], self.quadratic.slope, slope)
            curved: dict[str, str | float] = {
                "units": "loss",
                "long_name": "Hessian at the center, in the coordinates",
                "asymmetry": self.quadratic.asymmetry,
            }
            dataset["center_curvature"] = (names, self.quadratic.curvature, curved)
        if self.marks:
            places = np.asarray(list(self.marks.values()))
            attributes = {"units": "1", "long_name": "coordinates of the marked points"}
            dataset["mark_place"] = (("mark", "direction"), places, attributes)
        for name, number in self._scalars().items():
            unit, words = _SCALARS.get(name, ("1", name.replace("_", " ")))
            dataset[name] = ((), number, {"units": unit, "long_name": words})
        dataset.attrs["direction_names"] = "\n".join(self.direction_names)
        dataset.attrs["direction_recipes"] = json.dumps([dict(one) for one in self.recipes])
        dataset.attrs["bn"] = self.bn
        if vectors and self.vectors is not None:
            held = self.vectors.float() if self.vectors.dtype.itemsize < 4 else self.vectors
            attributes = {"units": "parameter", "long_name": "direction"}
            dataset["direction_vector"] = (
                ("direction", "parameter"),
                held.cpu().numpy(),
                attributes,
            )
        return dataset

    def _coordinate_variables(self) -> dict[str, tuple[str, object, dict[str, str]]]:
        found: dict[str, tuple[str, object, dict[str, str]]] = {}
        norms = self.direction_norms
        if self.kind == "lines":
            meaning = {"units": "d", "long_name": "along each direction d"}
            found[AXES[0]] = (AXES[0], self.coordinates[1], meaning)
        else:
            for index, (name, values) in enumerate(zip(self.axes, self.coordinates, strict=True)):
                along = f"along {self.direction_names[index]} (||d|| = {norms[index]:.4g})"
                found[name] = (name, values, {"units": f"d{index + 1}", "long_name": along})
        numbers = {"units": "1", "long_name": "number of the direction, from 0"}
        found["direction"] = ("direction", np.arange(len(norms)), numbers)
        if self.marks:
            named = {"units": "1", "long_name": "name of the marked point"}
            found["mark"] = ("mark", list(self.marks), named)
        return found

    def _extra_dimension(self, field: str) -> str:
        if field != "slope":
            return "class"
        return "other_direction" if self.kind == "lines" else "direction"

    def _scalars(self) -> dict[str, float]:
        finite = self.loss[np.isfinite(self.loss)]
        found = {
            "center_loss": self.center_loss,
            "center_error": self.center_error,
            "smallest_loss": float(finite.min()) if len(finite) else float("nan"),
            "largest_loss": float(finite.max()) if len(finite) else float("nan"),
            "nan_points": float(self.num_nan),
        }
        return found | dict(self.caveats)


def evident(sweep: Sweep) -> tuple[dict[str, float], tuple[str, ...]]:
    """The caveats that a sweep shows by itself, and a sentence for each that matters."""
    found: dict[str, float] = {}
    notes = []
    k = len(sweep.cosines)
    if k > 1 and sweep.kind != "lines":
        largest = float(np.abs(sweep.cosines[~np.eye(k, dtype=bool)]).max())
        found["max_cosine"] = largest
        if largest > _MAX_COSINE:
            notes.append(
                f"the directions are not orthogonal: |cosine| up to {largest:.2f}, so that "
                "distances in the picture are not those between the weights"
            )
    filled_in = ~sweep.done & np.isfinite(sweep.loss)
    num_known = max(1, int((sweep.done | filled_in).sum()))
    num_clipped = int((np.isposinf(sweep.loss) & sweep.done).sum())
    found["clipped_share"] = num_clipped / num_known
    if num_clipped:
        clip = sweep.settings.get("clip")
        reason = "infinite" if clip is None else f"beyond the clip of {clip:g}"
        notes.append(f"the loss is {reason} at {num_clipped} of {num_known} points")
    if sweep.num_nan:
        notes.append(f"the loss is NaN at {sweep.num_nan} of {num_known} points: kept as NaN")
    if filled_in.any():
        found["interpolated_share"] = float(filled_in.mean())
        notes.append(
            f"{found['interpolated_share']:.1%} of the points were filled in between measured "
            "ones, by linear interpolation"
        )
    return found, tuple(notes)


def merge(sweeps: Sequence[Sweep]) -> Sweep:
    """One sweep from shards of it: each point from a shard that evaluated it.

    The order in which they are given does not matter: where they overlap, the one counts that
    holds the earlier points of the grid.

    Raises:
        RequestError: shards of different requests, or none.
    """
    if not sweeps:
        raise RequestError("there are no sweeps to merge. Give one or more shards.")
    ordered = sorted(sweeps, key=lambda sweep: sweep.done.tobytes(), reverse=True)
    first, *others = ordered
    fields = {name: values.copy() for name, values in first.fields.items()}
    done = first.done.copy()
    for other in others:
        same = (
            other.kind == first.kind
            and other.provenance == first.provenance
            and _without_shard(other.settings) == _without_shard(first.settings)
            and all(map(np.array_equal, other.coordinates, first.coordinates))
        )
        if not same or other.fields.keys() != fields.keys():
            raise RequestError(
                "the sweeps are shards of different requests: grid, directions, objective and "
                "settings must agree in all but `shard`."
            )
        fresh = other.done & ~done
        for name, values in other.fields.items():
            fields[name][fresh] = values[fresh]
        done |= fresh
    merged = replace(
        first,
        fields=fields,
        done=done,
        settings=_without_shard(first.settings),
        wall_time=math.fsum(sweep.wall_time for sweep in sweeps),
        num_products=sum(sweep.num_products for sweep in sweeps),
    )
    # What the shards show says little of the whole, such as a share of points.
    shown, sentences = evident(merged)
    parts = {sentence for sweep in sweeps for sentence in evident(sweep)[1]}
    measured = {name: value for sweep in ordered for name, value in sweep.caveats.items()}
    notes = [note for sweep in ordered for note in sweep.notes if note not in parts]
    return replace(merged, caveats=measured | shown, notes=(*dict.fromkeys(notes), *sentences))


def _without_shard(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name != "shard"}


def _described(name: str, metrics: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Which of our fields it is, if any, with its unit and meaning."""
    mine = [known for known in _FIELDS if name == known or name.endswith(f"_{known}")]
    theirs = any(name == metric or name.endswith(f"_{metric}") for metric in metrics)
    if theirs or not mine:
        return "", {"units": "1", "long_name": name.replace("_", " ")}
    known = max(mine, key=len)  # class_loss is no loss of the data "class"
    unit, words = _FIELDS[known]
    data = name.removesuffix(known).removesuffix("_")
    return known, {"units": unit, "long_name": f"{words} ({data})" if data else words}
