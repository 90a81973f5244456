"""SlicePlan: which slice is asked for from the command line. `slice_probes` carries it out.

Importing this page loads no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from landscape.errors import RequestError
from landscape.trainers.options import option

__all__ = ["SLICE_PROBES", "SlicePlan"]

SLICE_PROBES = ("line", "plane", "trajectory")

_POINTS = {"line": (51,), "plane": (21, 21), "trajectory": (21, 21)}


@dataclass(frozen=True)
class SlicePlan:
    """A line, a plane, or the plane of a trajectory.

    Attributes:
        towards: other checkpoints: one gives the line to it, two the plane through all three.
        members: the checkpoints of a trajectory, in order; the last is its center.
        test_arguments: changes of the data factory's arguments that give the test data.
        See the help of each for the others.
    """

    num: tuple[int, ...] = option((), "points along each axis; by default 51, or 21,21", low=1)
    radius: str = option("1", "in units of the direction; auto, or for each axis, or low:high")
    direction: Literal["random", "gradient", "eigenvectors"] = option("random", "where to go")
    normalize: Literal["filter", "layer", "element", "model", "none"] = option(
        "filter", "to what random directions are normalised"
    )
    biases: Literal["zero", "layer", "element"] = option("zero", "of random directions")
    norms: Literal["zero", "layer", "element"] = option("zero", "normalisation's own parameters")
    num_seeds: int = option(1, "lines of so many seeds, as a band", low=1)
    fields: tuple[str, ...] = option(
        ("loss", "accuracy"),
        "also class_loss, class_accuracy, gradient_norm, slope, penalty",
    )
    weight_decay: float = option(0.0, "of the field penalty: weight_decay / 2 ||theta||^2", low=0)
    interpolate_bn: bool = option(False, "BatchNorm statistics between checkpoints")
    execution: Literal["auto", "loop", "batched", "compiled"] = option(
        "auto", "how points are evaluated"
    )
    tolerance: float | None = option(
        None, "measure finer only where interpolation errs by more", above=0
    )
    stop_error: float | None = option(
        None, "leave a point once its standard error is below", above=0
    )
    clip: float | None = option(None, "leave a point whose loss is surely above", above=0)
    quadratic: bool = option(False, "also the exact quadratic at the center")
    topology: bool = option(False, "also the basins of the grid, as a record of their own")
    shard: str = option("", "i/m: only the i-th of m parts, from 1")
    test_data: str | None = option(None, "further data in the same pass, as for --data")
    # What the command line asks for in its own way.
    test_arguments: Mapping[str, Any] = field(default_factory=dict)
    towards: tuple[Path, ...] = ()
    members: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if len(self.towards) > 2:
            raise RequestError(
                f"{len(self.towards)} other checkpoints were given with towards: one gives a line, "
                "two a plane."
            )
        self.shard_of()
        self.radii()

    def points(self, probe: str) -> tuple[int, ...]:
        """Points along each axis.

        Raises:
            RequestError: another number of axes than the probe has.
        """
        wanted = _POINTS[probe]
        found = self.num or wanted
        if len(found) == 1:
            found = found * len(wanted)
        if len(found) != len(wanted):
            axes = "one axis" if len(wanted) == 1 else f"{len(wanted)} axes"
            raise RequestError(
                f"num is {','.join(map(str, found))}: a {probe} has {axes}. "
                f"Write --num {','.join(map(str, wanted))}."
            )
        return found

    def radii(self) -> float | str | list[float | tuple[float, float]]:
        """The radius as a sweep takes it."""
        if self.radius == "auto":
            return self.radius
        try:
            parts: list[float | tuple[float, float]] = []
            for part in self.radius.split(","):
                low, colon, high = part.partition(":")
                parts.append((float(low), float(high)) if colon else float(part))
        except ValueError:
            raise RequestError(
                f"radius is {self.radius!r}. Write a number (1.5), one for each axis (1,2), ends "
                "(-1:2,0:3), or auto."
            ) from None
        first = parts[0]
        return first if len(parts) == 1 and isinstance(first, float) else parts

    def shard_of(self) -> tuple[int, int] | None:
        """(i, m) with i from 0; None for all points."""
        if not self.shard:
            return None
        index, slash, count = self.shard.partition("/")
        if not (slash and index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise RequestError(f"shard is {self.shard!r}. Write i/m, such as 1/4.")
        return int(index) - 1, int(count)

    def settings(self, probe: str) -> dict[str, object]:
        """What identifies a record: all that was asked for other than by default."""
        asked: dict[str, object] = {"num": list(self.points(probe))}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            default = {} if one.name == "test_arguments" else one.default
            if value != default and one.name not in ("num", "execution", "topology"):
                asked[one.name] = _plain(value)
        return asked


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [entry.name if isinstance(entry, Path) else entry for entry in value]
    return dict(value) if isinstance(value, Mapping) else value
