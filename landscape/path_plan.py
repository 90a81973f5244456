"""PathPlan: what is asked between checkpoints from the command line. `path_probes` carries it out.

Importing this page loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from landscape.trainers.options import option

__all__ = ["PATH_PROBES", "PathPlan"]

PATH_PROBES = ("barrier", "curve", "neb", "similarity", "soup", "alignment", "repair")

_OF_ALL = ("path_bn", "test_data", "test_arguments")
# The options that a probe depends on: another value of another option is not measured again.
_OPTIONS = {
    "barrier": ("num", "definition", "metric", "interpolation", "threshold", *_OF_ALL),
    "curve": ("curve", "num_bends", "curve_steps", "curve_plane", *_OF_ALL),
    "neb": ("neb", "num_pivots", "neb_steps", *_OF_ALL),
    "similarity": ("pool", "path_bn"),
    "soup": ("soup", *_OF_ALL),
    "alignment": (),
    "repair": _OF_ALL,
}


@dataclass(frozen=True)
class PathPlan:
    """What lies between a checkpoint and others.

    Attributes:
        towards: the other checkpoints: one for a path, several for a matrix or a soup.
        test_arguments: changes of the data factory's arguments that give the test data.
        See the help of each for the others.
    """

    num: int = option(25, "points on each line, ends included", low=3)
    definition: Literal[
        "chord", "midpoint", "mean", "highest_end", "saddle", "mode_connectivity", "relative"
    ] = option("chord", "what a barrier is")
    metric: Literal["loss", "error"] = option("loss", "of the barrier")
    interpolation: Literal["linear", "spherical"] = option(
        "linear", "spherical: scale-invariant weights along a great circle"
    )
    path_bn: Literal["recalibrate", "interpolate", "batch", "eval"] = option(
        "recalibrate", "BatchNorm statistics along paths"
    )
    align: Literal["none", "weights", "activations"] = option(
        "none", "permute the units of the other checkpoint first; the barrier is measured both ways"
    )
    num_restarts: int = option(2, "random starts of the alignment by weights", low=0)
    threshold: float | None = option(
        None, "of a matrix: a barrier up to it is none; by default 2 % of the gain over chance"
    )
    curve: Literal["bezier", "polygon"] = option("bezier", "kind of curve")
    num_bends: int = option(1, "free points of a curve", low=1)
    curve_steps: int = option(500, "of the fit of a curve", low=0)
    curve_plane: bool = option(
        False, "also the plane of a curve of one bend, which is drawn over it"
    )
    neb: Literal["neb", "string", "autoneb"] = option("neb", "kind of band")
    num_pivots: int = option(9, "of a band, ends included", low=3)
    neb_steps: int = option(1000, "of a band; of autoneb those of its first cycle", low=0)
    soup: Literal["uniform", "greedy"] = option(
        "uniform", "of weights; greedy chooses on the test data"
    )
    pool: Literal["none", "spatial", "tokens"] = option(
        "none", "of features of similarity: spatial takes far less memory for images"
    )
    execution: Literal["auto", "loop", "batched", "compiled"] = option(
        "auto", "how points are evaluated"
    )
    test_data: str | None = option(None, "further data in the same pass, as for --data")
    # What the command line asks for in its own way.
    test_arguments: Mapping[str, Any] = field(default_factory=dict)
    towards: tuple[Path, ...] = ()

    def settings(self, probe: str) -> dict[str, object]:
        """What identifies a record: the options that the probe depends on, as they are."""
        asked = {name: getattr(self, name) for name in _OPTIONS[probe]}
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in asked.items()
            if value not in (None, {})
        }
