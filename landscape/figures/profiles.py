"""Values along a path in a panel: the line, its doubt, and where there is no value.

Slices have their own: `line`. What lies between two solutions: `barrier`, `neb`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.figures.canvas import GREY, INK, SIZE, log_axis, pretty, widened
from landscape.figures.contours import halo

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["COLOURS", "data_names", "draw_absent", "draw_profile", "field_of", "mark_height"]
__all__ += ["name_height", "set_range", "used_panels", "with_gaps"]

# Of data sets or of paths: Okabe and Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_MOST_MARKERS = 80  # points on a line; more are too dense for a marker each
_SIDE = 0.15  # of the panel: a name there is set inwards
_NAME_ROOM = 0.16  # of the panel, above the highest point, for the name of a height


def data_names(data: xr.Dataset, metric: str, dimension: str) -> list[str]:
    """The data that a metric was measured on along a dimension: "" for the objective's own."""
    losses = [
        str(name)
        for name, variable in data.data_vars.items()
        if variable.dims == (dimension,) and (name == "loss" or str(name).endswith("_loss"))
    ]
    names = [name.removesuffix("loss").removesuffix("_") for name in losses]
    # The own data first, the others as they come.
    return [name for name in sorted(names, key=bool) if field_of(metric, name) in data]


def field_of(metric: str, name: str) -> str:
    """What a metric of some data is called in a record."""
    return f"{name}_{metric}" if name else metric


def with_gaps(values: Array) -> Array:
    """NaN, where a line breaks off, instead of what is not finite."""
    return np.where(np.isfinite(values), values, np.nan)


def used_panels(column: NDArray[Any], count: int) -> list[Axes]:
    """The panels of a column of a sheet that are used; a single one takes all of it."""
    if count < len(column):
        place = column[0].get_subplotspec()
        column[0].set_subplotspec(column[0].get_gridspec()[:, place.colspan.start])
        for axis in column[count:]:
            axis.remove()
    return list(column[:count])


def set_range(axis: Axes, values: Array, *, is_log: bool = False, is_named: bool = False) -> None:
    """Limits that hold the finite values.

    Args:
        is_named: whether a name will stand above the highest.
    """
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    if is_log:
        log_axis(axis, "y", low, high)
        bottom, top = widened(*np.log10([low, high]))
        axis.set_ylim(10**bottom, 10 ** (top + _NAME_ROOM * (top - bottom) * is_named))
        return
    bottom, top = widened(low, high)
    axis.set_ylim(bottom, top + _NAME_ROOM * (top - bottom) * is_named)
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y, 6))


def draw_profile(
    axis: Axes, places: Array, values: Array, errors: Array | None, **look: Any
) -> Iterator[Artist]:
    """The line with a marker at each point, and the band of two standard errors around it.

    Args:
        look: of the line, as matplotlib takes it.
    """
    colour = look["color"]
    if errors is not None and np.isfinite(errors).any():
        # A log axis has no place for what is not positive.
        least = axis.get_ylim()[0] if axis.get_yscale() == "log" else -np.inf
        low, high = with_gaps(values) + 2 * np.outer([-1, 1], errors)
        yield axis.fill_between(
            places, np.maximum(low, least), high, color=colour, alpha=0.2, linewidth=0
        )
    if len(places) <= _MOST_MARKERS and look.get("linestyle", "-") == "-":
        look = {"marker": "o", "markersize": 2.6} | look
    yield axis.plot(places, with_gaps(values), **({"linewidth": 1.4} | look))[0]


def draw_absent(axis: Axes, places: Array, values: Array) -> Iterator[Artist]:
    """Where a line has a gap: a mark at the top for what is infinite, at the bottom for NaN."""
    kinds = ((np.isinf(values), "infinite", "^", 0.965), (np.isnan(values), "NaN", "x", 0.035))
    for absent, name, marker, height in kinds:
        if absent.any():
            yield axis.plot(
                places[absent],
                np.full(int(absent.sum()), height),
                transform=axis.get_xaxis_transform(),
                linestyle="none",
                marker=marker,
                markersize=4,
                color=GREY,
                label=name,
            )[0]
    if not np.isfinite(values).any():
        axis.text(
            0.5,
            0.5,
            "no point has a finite value",
            transform=axis.transAxes,
            ha="center",
            fontsize=SIZE,
            color=INK,
        )


def mark_height(axis: Axes, place: float, bottom: float | None, top: float) -> None:
    """A ring around the highest point, and its height above `bottom` as a stem."""
    if bottom is not None:
        axis.vlines(place, bottom, top, color=INK, linewidth=1.0, zorder=2.6)
    axis.plot(
        [place],
        [top],
        linestyle="none",
        marker="o",
        markersize=6,
        color=INK,
        markerfacecolor="none",
        zorder=3,
    )


def name_height(axis: Axes, place: float, top: float, text: str) -> None:
    """A text above a point, inside of the panel."""
    low, high = axis.get_xlim()
    share = (place - low) / (high - low)
    axis.annotate(
        text,
        (place, top),
        xytext=(0, 6),
        textcoords="offset points",
        ha="left" if share < _SIDE else "right" if share > 1 - _SIDE else "center",
        fontsize=SIZE - 1,
        color=INK,
        zorder=3.2,
        path_effects=halo(2.0),
    )
