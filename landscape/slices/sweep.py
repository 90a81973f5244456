"""Sweep: the loss and other fields on a grid through the weights. `sweeping` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.result import Result
from landscape.slices.quadratic import Quadratic

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["AXES", "Sweep", "merge"]

Array = NDArray[np.float64]

AXES = ("a", "b", "c", "d", "e", "f")  # theta = center + a d_1 + b d_2 + ...

# Unit and meaning of the fields that have a name of their own; a user's metric has neither.
_FIELDS = {
    "loss": ("loss", "loss of the data, without any penalty"),
    "standard_error": ("loss", "standard error of loss - loss at the center, from paired examples"),
    "accuracy": ("1", "share of examples that are right"),
    "class_loss": ("loss", "loss of the examples of a class"),
    "class_accuracy": ("1", "share of a class that is right"),
    "penalty": ("loss", "penalty on the weights"),
    "gradient_norm": ("loss / parameter", "norm of the gradient"),
    "slope": ("loss", "derivative along each direction, per unit of its coordinate"),
    "num_examples": ("1", "examples that were seen before the point was left"),
}
_CAVEATS = {
    "clipped_share": "share of points beyond the clip",
    "max_cosine": "largest |cosine| between two directions",
    "stale_bn_gap": "largest |loss with frozen - with recalculated BatchNorm statistics| tried",
    "rescaling_change": "largest change of the loss when neurons are rescaled, the function equal",
    "interpolated_share": "share of points that were filled in between measured ones",
}


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
        return self.fields["standard_error"]

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
        """ "converged" when every point was measured, else how many are missing."""
        missing = int((~self.done & np.isnan(self.loss)).sum())
        return f"{missing} of {self.done.size} points missing" if missing else "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `a`, `b`, ..., `direction`, `class`, `mark`; with `vectors`, `parameter`."""
        import xarray as xr

        grid = self.axes
        dataset = xr.Dataset(coords=self._coordinate_variables())
        for name, values in self.fields.items():
            unit, words = _described(name)
            extra = [_extra_dimension(name)] if values.ndim > len(grid) else []
            dataset[name] = ((*grid, *extra), values, {"units": unit, "long_name": words})
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
            curved = {"units": "loss", "long_name": "Hessian at the center, in the coordinates"}
            dataset["center_curvature"] = (names, self.quadratic.curvature, curved)
        if self.marks:
            places = np.asarray(list(self.marks.values()))
            attributes = {"units": "1", "long_name": "coordinates of the marked points"}
            dataset["mark_place"] = (("mark", "direction"), places, attributes)
            dataset = dataset.assign_coords(mark=list(self.marks))
        for name, number in self._scalars().items():
            unit = "loss" if "loss" in name or name.endswith(("_gap", "_change")) else "1"
            meaning = {"units": unit, "long_name": _CAVEATS.get(name, name.replace("_", " "))}
            dataset[name] = ((), number, meaning)
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

    def _coordinate_variables(self) -> dict[str, tuple[tuple[str], object, dict[str, str]]]:
        found: dict[str, tuple[tuple[str], object, dict[str, str]]] = {}
        for index, (name, values) in enumerate(zip(self.axes, self.coordinates, strict=True)):
            if name == "direction":
                continue
            along = self.direction_names[index] if self.kind != "lines" else "each direction"
            norms = self.direction_norms
            length = f" (||d|| = {norms[index]:.4g})" if self.kind != "lines" else ""
            meaning = {"units": f"d{index + 1}", "long_name": f"along {along}{length}"}
            found[name] = ((name,), values, meaning)
        k = len(self.direction_norms)
        found["direction"] = (("direction",), np.arange(k), {"units": "1", "long_name": "index"})
        return found

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


def merge(sweeps: Sequence[Sweep]) -> Sweep:
    """One sweep from shards of it: each point from the shard that evaluated it.

    Raises:
        RequestError: shards of different requests, or none.
    """
    if not sweeps:
        raise RequestError("there are no sweeps to merge. Give one or more shards.")
    first = sweeps[0]
    fields = {name: values.copy() for name, values in first.fields.items()}
    done = first.done.copy()
    for other in sweeps[1:]:
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
        for name, values in other.fields.items():
            fields[name][other.done] = values[other.done]
        done |= other.done
    return replace(
        first,
        fields=fields,
        done=done,
        settings=_without_shard(first.settings),
        caveats={**first.caveats, "clipped_share": float(np.isposinf(fields["loss"]).mean())},
        wall_time=sum(sweep.wall_time for sweep in sweeps),
        num_products=sum(sweep.num_products for sweep in sweeps),
        notes=tuple(dict.fromkeys(note for sweep in sweeps for note in sweep.notes)),
    )


def _without_shard(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name != "shard"}


def _described(name: str) -> tuple[str, str]:
    for known, described in _FIELDS.items():
        if name == known:
            return described
        if name.endswith(f"_{known}"):  # of another data set: test_loss
            data = name.removesuffix(f"_{known}")
            return described[0], f"{described[1]} ({data})"
    return "1", name.replace("_", " ")


def _extra_dimension(name: str) -> str:
    return "direction" if name.endswith("slope") else "class"
