"""One function, one figure: a result in, a matplotlib Figure out.

The functions have the names of their modules, so they are imported at once: a module that was
loaded later would take its function's place here. They import matplotlib when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from landscape.figures.comparison import comparison
from landscape.figures.density import density
from landscape.figures.eigenvalues import eigenvalues

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from landscape.result import Result

__all__ = ["comparison", "density", "eigenvalues", "for_record"]

_FIGURES: dict[str, Callable[[Any], Figure]] = {"density": density, "eigenvalues": eigenvalues}


def for_record(probe: str, record: xr.Dataset | Result) -> Figure | None:
    """The figure of one record; None for a probe that has none, such as "trace"."""
    draw = _FIGURES.get(probe)
    return None if draw is None else draw(record)
