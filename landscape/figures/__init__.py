"""One function, one figure: a result in, a matplotlib Figure out; `animation` writes a file.

The functions have the names of their modules, so they are imported at once: a module that was
loaded later would take its function's place here. They import matplotlib when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from landscape.figures.alignment import alignment
from landscape.figures.animation import animation
from landscape.figures.bands import bands
from landscape.figures.barrier import barrier
from landscape.figures.barrier_matrix import barrier_matrix
from landscape.figures.comparison import comparison
from landscape.figures.curve import curve
from landscape.figures.density import density
from landscape.figures.depth import depth
from landscape.figures.dynamics import dynamics
from landscape.figures.eigenvalues import eigenvalues
from landscape.figures.ensemble import ensemble
from landscape.figures.features import features
from landscape.figures.line import line
from landscape.figures.linear import linear
from landscape.figures.memorization import memorization
from landscape.figures.neb import neb
from landscape.figures.plane import plane
from landscape.figures.similarity import similarity
from landscape.figures.soup import soup
from landscape.figures.sparsity import sparsity
from landscape.figures.surface import surface
from landscape.figures.topology import topology
from landscape.figures.trajectory import trajectory

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from landscape.result import Result

__all__ = [
    "PROBES",
    "alignment",
    "animation",
    "bands",
    "barrier",
    "barrier_matrix",
    "comparison",
    "curve",
    "density",
    "depth",
    "dynamics",
    "eigenvalues",
    "ensemble",
    "features",
    "for_record",
    "line",
    "linear",
    "memorization",
    "neb",
    "plane",
    "similarity",
    "soup",
    "sparsity",
    "surface",
    "topology",
    "trajectory",
]

_FIGURES: Mapping[str, Mapping[str, Callable[[Any], Figure]]] = {
    "eigenvalues": {"eigenvalues": eigenvalues},
    "density": {"density": density},
    "line": {"line": line},
    "lines": {"lines": line},
    "plane": {"plane": plane, "surface": surface},
    "trajectory": {"trajectory": trajectory},
    "topology": {"topology": topology},
    "barrier": {"barrier": barrier},
    "barrier_matrix": {"barrier_matrix": barrier_matrix},
    "curve": {"curve": curve},
    "neb": {"neb": neb},
    "similarity": {"similarity": similarity},
    "alignment": {"alignment": alignment},
    "soup": {"soup": soup},
    "greedy_soup": {"greedy_soup": soup},
    "linear": {"linear": linear},
    "depth": {"depth": depth},
    "features": {"features": features},
    "bands": {"bands": bands},
    "sparsity": {"sparsity": sparsity},
    "ensemble": {"ensemble": ensemble},
    "dynamics": {"dynamics": dynamics},
    "memorization": {"memorization": memorization},
}
PROBES = tuple(_FIGURES)  # whose records are drawn


def for_record(probe: str, record: xr.Dataset | Result) -> dict[str, Figure]:
    """The figures of one record by name; none for a probe that has none, such as "trace"."""
    return {name: draw(record) for name, draw in _FIGURES.get(probe, {}).items()}
