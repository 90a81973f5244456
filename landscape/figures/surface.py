"""A plane seen from the side: the loss as a surface, with its contours beneath.

From above, where heights can be read off: `plane`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np

from landscape.figures.canvas import INK, SIZE, described, heading, sheet
from landscape.figures.captions import along, caveats, clip_name, write_caption
from landscape.figures.contours import Levels, coordinates_of, filled, proportion

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D  # type: ignore[import-untyped]
    from numpy.typing import NDArray

    from landscape.slices.sweep import Sweep

    Array = NDArray[np.float64]

__all__ = ["surface"]

_ELEVATION = 33.0  # degrees above the plane
_TURN = 13.0  # degrees aside from looking straight at a corner
_HEIGHT = 0.62  # of the box, to the longer side of the plane
_FLOOR = 0.3  # of the height of the surface, from the contours beneath up to its lowest point
_FACETS = 140  # along an axis, about: they are smaller than the bands of colour
_LABELS = 0.1  # of the sheet, for the labels of slanted axes, which the layout does not see
_NAMED_TICKS = 6
_TOP = "#DEDED6"  # what is cut off


def surface(record: xr.Dataset | Sweep) -> Figure:
    """The loss over a plane in three dimensions, its lowest corner in front.

    The height is logarithmic where the loss spans a decade. What lies beyond the clip is a flat top
    without colour, and a point without a value is a hole: each half-way to its neighbours.

    Raises:
        RequestError: the record is no plane of at least 2 x 2 points.
    """
    from matplotlib.patches import Patch

    data = described(record)
    a, b = coordinates_of(data)
    values = data["loss"].to_numpy()
    levels = Levels.of(values)
    figure, axes = sheet(1, 1, width=5.6, height=5.2, subplot_kw={"projection": "3d"})
    axis = cast("Axes3D", axes[0, 0])
    axis.computed_zorder = False  # it would draw the contours beneath over the surface
    if np.isfinite(values).any():
        floor = _draw_facets(axis, data, levels)
        _draw_floor(axis, data, levels, floor)
    else:
        nothing = {"ha": "center", "fontsize": SIZE, "color": INK}
        axis.text2D(0.5, 0.5, "no point has a finite loss", transform=axis.transAxes, **nothing)
    _frame(axis, data, levels)
    axis.view_init(_ELEVATION, _azimuth(values))
    top = [Patch(color=_TOP, label=clip_name(data))] if np.isposinf(values).any() else []
    caption = write_caption(figure, caveats(data), top)
    bottom = caption.get_window_extent().height / figure.bbox.height + _LABELS
    axis.set_position((0.0, bottom, 0.94, 0.95 - bottom))
    heading(figure, f"Loss over a plane of {len(a)} × {len(b)} points")
    return figure


def _heights(values: Array, levels: Levels) -> Array:
    """Along the z axis, which is linear: the logarithm where the levels are logarithmic."""
    kept = np.clip(values, levels.edges[0], levels.edges[-1])
    return np.asarray(np.log10(kept) if levels.is_log else kept)


def _draw_facets(axis: Axes3D, data: xr.Dataset, levels: Levels) -> float:
    """The surface, each facet in the colour of its band; the height of the floor below it."""
    from scipy.interpolate import RegularGridInterpolator

    values = data["loss"].to_numpy()
    grid = tuple(np.arange(float(count)) for count in values.shape)
    fine = [_finer(len(ranks)) for ranks in grid]
    corners = np.meshgrid(*fine, indexing="ij")
    middles = np.meshgrid(*[(one[1:] + one[:-1]) / 2 for one in fine], indexing="ij")
    heights = RegularGridInterpolator(grid, _heights(filled(values), levels))
    shown = heights(tuple(middles))
    colours = levels.colours(levels.norm(10**shown if levels.is_log else shown))
    nearest = values[tuple(np.rint(place).astype(int) for place in middles)]
    colours[np.isposinf(nearest)] = _rgba(_TOP)
    colours[~np.isfinite(nearest) & ~np.isposinf(nearest)] = 0.0  # see-through
    a, b = coordinates_of(data)
    axis.plot_surface(
        np.interp(corners[0], grid[0], a),
        np.interp(corners[1], grid[1], b),
        heights(tuple(corners)),
        rstride=1,
        cstride=1,
        facecolors=colours,
        shade=False,
        rasterized=True,  # as vectors they would be some megabytes
        linewidth=0.3,  # in the same colours: without, there are gaps between the facets
        zorder=2,
    )
    low, high = shown.min(), shown.max()
    rise = (high - low) or float(np.ptp(_heights(levels.edges, levels)))
    axis.set_zlim(low - _FLOOR * rise, high + 0.02 * rise)
    return float(low - _FLOOR * rise)


def _finer(count: int) -> Array:
    """Ranks from the first to the last of `count`, each of them, and half-way between them."""
    parts = 2 * math.ceil(_FACETS / 2 / (count - 1))  # even: no facet is on both sides of a half
    return np.linspace(0, count - 1, (count - 1) * parts + 1)


def _rgba(colour: str) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def _draw_floor(axis: Axes3D, data: xr.Dataset, levels: Levels, floor: float) -> None:
    """The filled contours beneath, without what has no value."""
    a, b = coordinates_of(data)
    values = data["loss"].to_numpy()
    finite = np.isfinite(values)
    heights = np.ma.masked_array(_heights(np.where(finite, values, 1.0), levels), ~finite)
    axis.contourf(
        a,
        b,
        heights.T,
        _heights(levels.edges, levels),
        zdir="z",
        offset=floor,
        cmap=levels.colours,
        extend="both",
        alpha=0.85,
        zorder=1,
    )


def _frame(axis: Axes3D, data: xr.Dataset, levels: Levels) -> None:
    """Labels, true lengths, and heights named as losses."""
    from matplotlib.ticker import MaxNLocator

    a, b = coordinates_of(data)
    ratio = proportion(data, a, b)
    width, depth = (1.0, 1.0) if ratio is None else (np.ptp(a), ratio * np.ptp(b))
    longer = max(width, depth)
    low, high = axis.get_zlim()
    ticks = levels.edges[:: math.ceil(len(levels.edges) / _NAMED_TICKS)]
    ticks = ticks[(low <= _heights(ticks, levels)) & (_heights(ticks, levels) <= high)]
    names = [levels.named(tick) for tick in ticks]
    axis.set_zticks(_heights(ticks, levels), names)
    axis.set_zlim(low, high)
    axis.set_xlim(a.min(), a.max())
    axis.set_ylim(b.min(), b.max())
    for one in (axis.xaxis, axis.yaxis, axis.zaxis):
        one.set_tick_params(pad=0)
    axis.xaxis.set_major_locator(MaxNLocator(6, prune="both"))  # the ends meet at the corner
    axis.yaxis.set_major_locator(MaxNLocator(6, prune="both"))
    style = {"fontsize": SIZE, "color": INK}
    axis.set_xlabel(along(data, 0, letters=44), labelpad=8, **style)
    axis.set_ylabel(along(data, 1, letters=44), labelpad=8, **style)
    more = max(map(len, names), default=0) - 4  # letters than the sheet has room for
    axis.zaxis.set_tick_params(pad=2 * max(more, 0))
    axis.set_zlabel("loss", labelpad=3 + 3 * more, **style)
    shape = (width / longer, depth / longer, _HEIGHT)
    axis.set_box_aspect(shape, zoom=1 - 0.02 * max(more, 0))


def _azimuth(values: Array) -> float:
    """Degrees: the corner with the lowest losses around it is nearest to the eye."""
    finite = np.isfinite(values)
    highest = values[finite].max() if finite.any() else 0.0
    heights = np.where(finite, values, highest)
    rows, columns = (math.ceil(count / 2) for count in values.shape)
    corners = {
        45.0: heights[-rows:, -columns:],
        135.0: heights[:rows, -columns:],
        225.0: heights[:rows, :columns],
        315.0: heights[-rows:, :columns],
    }
    return min(corners, key=lambda angle: float(corners[angle].mean())) + _TURN
