"""Topology: the basins of a grid of losses, and the heights of the passes between them.

The merge tree of the sublevel sets {loss <= t}: as t rises, a component is born at each minimum and
ends where it meets one that is older, that is deeper. `sweep` holds the grids that are measured.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.result import Result
from landscape.slices.merge_tree import Branches, MergeTree, branches, merge_tree
from landscape.slices.sweep import AXES, Sweep

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Topology", "topology"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

_SIGNIFICANT = 2  # standard errors
_CONNECTIVITIES = ("full", "axes")


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology(Result):
    """Minima of a grid, oldest first, and where each one's basin meets an older one.

    Older is deeper; among equally deep ones that which comes first in the grid. It is a statement
    on the points that were measured: a basin or a pass narrower than their spacing is not seen, and
    a minimum of a slice is none of the whole loss.

    Attributes:
        coordinates: one array an axis of the grid.
        losses: (grid) the values; NaN where there is none.
        basins: (grid) which minimum a walk downhill ends at; -1 where the loss is not finite.
        minima: (k, d) index in the grid. Of a plateau the first point in the grid's order.
        births: (k,) loss at the minimum.
        saddles: (k, d) index of a point where the basin meets an older one, -1 where it never does.
        deaths: (k,) loss there; infinite for the deepest minimum, and for each that no path of
            finite losses joins to a deeper one.
        parents: (k,) the oldest minimum of what the basin meets at its death; -1 if it never does.
        at_border: (k,) the minimum touches the end of an axis or a point without a value, beyond
            which the loss may go on falling.
        persistence_errors: (k,) bound on the standard error of death - birth: the sum of the
            standard errors at the saddle and at the minimum. NaN where unknown; None for a grid
            without them.
        direction_names: what the axes are; empty for a bare array.
        num_nan: points whose loss is NaN; absent, as if cut out of the grid.
        num_missing: points that were not measured; absent, too.
        num_infinite: points whose loss is infinite: no path below infinity leads through them.
    """

    probe: ClassVar[str] = "topology"

    coordinates: tuple[Array, ...]
    losses: Array = field(repr=False)
    basins: Integers = field(repr=False)
    minima: Integers
    births: Array
    saddles: Integers
    deaths: Array
    parents: Integers
    at_border: Flags
    persistence_errors: Array | None = None
    direction_names: tuple[str, ...] = ()
    num_nan: int = 0
    num_missing: int = 0
    num_infinite: int = 0

    @property
    def status(self) -> str:
        """ "converged" when every point was measured, else how many are missing."""
        missing = f"{self.num_missing} of {self.losses.size} points missing"
        return missing if self.num_missing else "converged"

    @property
    def persistence(self) -> Array:
        """(k,) death - birth: how far a walker climbs, at least, who leaves for a deeper basin."""
        return self.deaths - self.births

    @property
    def minimum_coordinates(self) -> Array:
        """(k, d) where the minima are."""
        return self._places(self.minima)

    @property
    def saddle_coordinates(self) -> Array:
        """(k, d) where the saddles are; NaN where there is none."""
        return np.where(self.saddles < 0, np.nan, self._places(self.saddles))

    @property
    def significant(self) -> Flags | None:
        """(k,) whether the persistence exceeds two standard errors; None for a grid without them.

        The errors of a sweep are those of loss - center loss. Those of two points are correlated in
        an unknown way, so the standard error of their difference is taken at its bound, their sum:
        it is reached by points on opposite sides of a linear loss. What is marked is more than
        noise; what is not marked may be real. A minimum whose death is infinite is always marked,
        one of unknown error never. Each minimum is tested by itself, at points that were chosen
        for their values: among many that are noise, some pass.
        """
        if self.persistence_errors is None:
            return None
        exceeds = self.persistence > _SIGNIFICANT * self.persistence_errors
        return np.asarray(exceeds | np.isinf(self.deaths))

    @property
    def merge_tree(self) -> MergeTree:
        """Minima and the points where they meet, as nodes; a tree for each unconnected part."""
        return merge_tree(self.births, self.deaths, self.parents)

    def num_minima(self, level: float | None = None, persistence: float = 0.0) -> int:
        """Components of {loss < level}, or all minima, that are at least so persistent.

        Raises:
            RequestError: the level is NaN, or the persistence is not 0 or more.
        """
        if not persistence >= 0 or level != level:
            raise RequestError(
                f"level={level}, persistence={persistence}: expected a loss, and a difference of "
                "losses that is 0 or more."
            )
        counted = self.persistence >= persistence
        if level is not None:
            counted &= (self.births < level) & (level <= self.deaths)
        return int(counted.sum())

    def saddle_height(self, first: int | Sequence[int], second: int | Sequence[int]) -> float:
        """The lowest level at which two points are connected: the top of the lowest path.

        Args:
            first: number of a minimum, or the index of any point in the grid.
            second: as `first`.

        Returns:
            A loss; infinite if every path leads through an infinite loss or a missing point.

        Raises:
            RequestError: no such minimum or point, or a point without a value.
        """
        (one, height), (other, other_height) = self._located(first), self._located(second)
        height = max(height, other_height)
        while one != other and height < np.inf:
            if self.deaths[one] > self.deaths[other]:
                one, other = other, one
            height = max(height, float(self.deaths[one]))
            one = int(self.parents[one])
        return height

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `minimum`, `axis`, `node` and the grid's `a`, `b`, ...; -1 stands for none."""
        import xarray as xr

        names = AXES[: self.losses.ndim]
        tree, significant = self.merge_tree, self.significant
        finite = self.persistence[np.isfinite(self.deaths)]
        largest = finite.max(initial=0.0) if len(self.births) else np.nan
        known = np.nan if significant is None else int(significant.sum())
        place, minimum, node = ("minimum", "axis"), ("minimum",), ("node",)
        loss, one = "loss", "1"
        described: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "birth": (minimum, self.births, loss, "loss at the minimum"),
            "death": (minimum, self.deaths, loss, "loss at which it meets a deeper minimum"),
            "persistence": (minimum, self.persistence, loss, "death - birth"),
            "parent": (minimum, self.parents, one, "the oldest minimum that it meets"),
            "at_border": (minimum, self.at_border, one, "whether the loss may fall on beyond"),
            "minimum_index": (place, self.minima, one, "index of the minimum in the grid"),
            "minimum_place": (place, self.minimum_coordinates, one, "coordinates of the minimum"),
            "saddle_index": (place, self.saddles, one, "index of the saddle in the grid"),
            "saddle_place": (place, self.saddle_coordinates, one, "coordinates of the saddle"),
            "node_height": (node, tree.heights, loss, "loss at a node of the merge tree"),
            "node_parent": (node, tree.parents, one, "node above; minima are the first nodes"),
            "basin": (names, self.basins, one, "minimum that a walk downhill ends at"),
            "num_minima": ((), len(self.births), one, "minima of the grid"),
            "num_significant": ((), known, one, "minima more persistent than two standard errors"),
            "largest_finite_persistence": ((), largest, loss, "of a minimum beside the deepest"),
            "num_nan": ((), self.num_nan, one, "points whose loss is NaN"),
            "num_missing": ((), self.num_missing, one, "points that were not measured"),
            "num_infinite": ((), self.num_infinite, one, "points whose loss is infinite"),
        }
        if self.persistence_errors is not None:
            meaning = "bound on the standard error of the persistence"
            described["persistence_error"] = (minimum, self.persistence_errors, loss, meaning)
            meaning = "whether the persistence exceeds two standard errors"
            described["significant"] = (minimum, significant, one, meaning)
        variables = {
            name: (dimensions, values, {"units": unit, "long_name": meaning})
            for name, (dimensions, values, unit, meaning) in described.items()
        }
        coordinates: dict[str, object] = {"axis": list(names)}
        for index, (name, values) in enumerate(zip(names, self.coordinates, strict=True)):
            attributes = {"units": "1", "long_name": f"axis {index + 1} of the grid"}
            if self.direction_names:
                along = f"along {self.direction_names[index]}"
                attributes = {"units": f"d{index + 1}", "long_name": along}
            coordinates[name] = ((name,), values, attributes)
        return xr.Dataset(variables, coords=coordinates)

    def _places(self, indices: Integers) -> Array:
        columns = zip(self.coordinates, indices.T, strict=True)
        return np.stack([axis[column] for axis, column in columns], axis=-1)

    def _located(self, point: int | Sequence[int]) -> tuple[int, float]:
        """The minimum below a point, and the point's loss."""
        if not isinstance(point, Sequence | np.ndarray):
            number = operator.index(point)
            if not 0 <= number < len(self.births):
                raise RequestError(
                    f"minimum {number} does not exist: there are {len(self.births)}, counted from "
                    "0. A point of the grid is named by one index an axis, as in (3, 4)."
                )
            return number, float(self.births[number])
        index = tuple(map(int, point))
        shape = self.losses.shape
        if len(index) != len(shape) or any(
            not 0 <= i < n for i, n in zip(index, shape, strict=True)
        ):
            raise RequestError(f"point {index} is not in the grid, whose shape is {shape}.")
        value = float(self.losses[index])
        if value != value:
            raise RequestError(
                f"point {index} has no value, so no level connects it. Name another."
            )
        return int(self.basins[index]), value


def topology(
    losses: Sweep | ArrayLike,
    *,
    connectivity: Literal["full", "axes"] = "full",
    coordinates: Sequence[ArrayLike] | None = None,
) -> Topology:
    """Minima, saddles, merge tree and persistence of the losses on a grid.

    Points are joined to their neighbours, and a set of points lies as high as its highest one. The
    basins are found by steepest descent, and joined by Kruskal's algorithm over the passes between
    them. Persistence is by the elder rule: of two components that meet, the deeper one lives on.
    The deepest of all lives for ever. A plateau of equal losses is one minimum, or none.

    Args:
        losses: a line, plane or grid, or an array with one dimension an axis. NaN is absent from
            the grid; an infinite loss connects nothing below infinity.
        connectivity: "full" joins a point to all around it, the diagonal ones included (8 in a
            plane), so that a step may slip past a saddle; "axes" only to those beside it along an
            axis (4), so that a narrow diagonal valley falls apart into minima.
        coordinates: of an array, one sequence an axis; indices by default.

    Raises:
        RequestError: no points, a loss of -inf, coordinates that do not fit, lines that are no
            grid, or an unknown connectivity.

    Source: Edelsbrunner, Letscher and Zomorodian 2002; Carr, Snoeyink and Axen 2003.
    """
    began = time.perf_counter()
    if connectivity not in _CONNECTIVITIES:
        raise unknown_choice("connectivity", connectivity, _CONNECTIVITIES)
    sweep = losses if isinstance(losses, Sweep) else None
    values = np.array(losses if sweep is None else sweep.loss, np.float64, order="C")
    _check(values, sweep, coordinates)
    if sweep is not None:
        axes = sweep.coordinates
        settings = {**sweep.settings, "kind": sweep.kind, "connectivity": connectivity}
        provenance = sweep.provenance
    else:
        given = map(np.arange, values.shape) if coordinates is None else coordinates
        axes = tuple(np.array(axis, np.float64) for axis in given)
        settings = {"connectivity": connectivity}
        provenance = {"grid_fingerprint": _fingerprint(values, *axes)}
    absent = np.isnan(values)
    num_missing = 0 if sweep is None else int((absent & ~sweep.done).sum())
    reach = 1 if connectivity == "axes" else values.ndim
    structure = ndimage.generate_binary_structure(values.ndim, reach)
    found = branches(values, structure)
    return Topology(
        settings=settings,
        provenance=provenance,
        notes=_notes(values, sweep),
        coordinates=axes,
        losses=values,
        basins=found.basins,
        minima=_unraveled(found.minima, values.shape),
        births=found.births,
        saddles=_unraveled(found.saddles, values.shape),
        deaths=found.deaths,
        parents=found.parents,
        at_border=_at_border(values, found, structure),
        persistence_errors=_persistence_errors(sweep, found),
        direction_names=() if sweep is None else sweep.direction_names,
        num_nan=int(absent.sum()) - num_missing,
        num_missing=num_missing,
        num_infinite=int(np.isinf(values).sum()),
        wall_time=time.perf_counter() - began,
    )


def _check(values: Array, sweep: Sweep | None, coordinates: Sequence[ArrayLike] | None) -> None:
    if sweep is not None and (sweep.kind == "lines" or coordinates is not None):
        raise RequestError(
            f"a sweep of kind {sweep.kind!r} with coordinates={coordinates}: expected a line, a "
            "plane or a grid, which has its own. Of lines that share no grid, take one: "
            "topology(sweep.loss[0], coordinates=[sweep.coordinates[1]])."
        )
    if not values.ndim or not values.size or values.ndim > len(AXES):
        raise RequestError(
            f"losses has shape {values.shape}, expected at least one point and from 1 to "
            f"{len(AXES)} axes."
        )
    if coordinates is not None and [np.shape(axis) for axis in coordinates] != [
        (length,) for length in values.shape
    ]:
        raise RequestError(
            f"coordinates has shapes {[np.shape(axis) for axis in coordinates]}, expected one "
            f"sequence an axis of the grid, whose shape is {values.shape}."
        )
    if len(bottomless := np.argwhere(np.isneginf(values))):
        raise RequestError(
            f"losses is -inf at {len(bottomless)} points, first at {bottomless[0].tolist()}: a "
            "basin without a bottom has no persistence. Put NaN there to leave them out."
        )


def _notes(values: Array, sweep: Sweep | None) -> tuple[str, ...]:
    notes = []
    if num_absent := int(np.isnan(values).sum()):
        notes.append(f"{num_absent} points have no value: no path leads through them")
    if sweep is not None and (num_filled := int((~sweep.done & np.isfinite(values)).sum())):
        notes.append(f"{num_filled} points were filled in between measured ones")
    return tuple(notes)


def _fingerprint(*arrays: Array) -> str:
    return fingerprint({str(i): torch.from_numpy(array) for i, array in enumerate(arrays)}).hex()


def _unraveled(points: Integers, shape: tuple[int, ...]) -> Integers:
    """(k, d) indices in the grid of k flat ones."""
    indices = np.stack(np.unravel_index(np.maximum(points, 0), shape), axis=-1)
    return np.where(points[:, None] < 0, -1, indices)


def _at_border(values: Array, found: Branches, structure: Flags) -> Flags:
    """(k,) minima with a point beside what has no value; an axis of one point has no end."""
    widths = [int(length > 1) for length in values.shape]
    absent = np.pad(np.isnan(values), [(w, w) for w in widths], constant_values=True)
    beside = ndimage.binary_dilation(absent, structure)
    inner = tuple(slice(w, w + n) for w, n in zip(widths, values.shape, strict=True))
    candidates = beside[inner] & (found.basins >= 0)
    basins = found.basins[candidates]
    lowest = basins[values[candidates] == found.births[basins]]
    return np.bincount(lowest, minlength=len(found.births)) > 0


def _persistence_errors(sweep: Sweep | None, found: Branches) -> Array | None:
    """(k,) standard errors at the saddle and at the minimum, summed."""
    errors = None if sweep is None else sweep.fields.get("standard_error")
    if errors is None or np.isnan(errors).all():
        return None
    at_saddle = np.where(found.saddles < 0, np.nan, errors.ravel()[found.saddles])
    return np.asarray(at_saddle + errors.ravel()[found.minima])
