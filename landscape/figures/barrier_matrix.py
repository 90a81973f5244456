"""The barriers between all pairs of a family, and the basins that they leave; one pair: `barrier`.

Solutions are in the order of their dendrogram: those that low barriers join are neighbours.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    INK,
    NOISE,
    SIZE,
    VERMILION,
    described,
    heading,
    label,
    pretty,
    sheet,
    unit_of,
    widened,
)
from landscape.figures.captions import number, write_caption
from landscape.figures.heat_map import Shades, draw_cells, name_sides, outline, write_cells

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.paths.barrier_matrix import BarrierMatrix

    Array = NDArray[np.float64]

__all__ = ["barrier_matrix"]

_TREE = 0.27  # height of the dendrogram, in sides of the matrix
_SPACING = 10.0  # of scipy's leaves


def barrier_matrix(record: xr.Dataset | BarrierMatrix) -> Figure:
    """The barriers as a heat map, beneath the dendrogram of their single linkage.

    Two solutions are joined in it at the highest barrier on the lowest way between them, step by
    step over the others. Basins are outlined: lines without a barrier join their members.

    Raises:
        RequestError: the record is no matrix of barriers.
    """
    data = described(record)
    if not {"barrier", "basin"} <= set(data.data_vars):
        raise RequestError(
            "a matrix of barriers has a barrier for each pair and a basin for each solution; this "
            f"record has {', '.join(map(str, data.data_vars))}. Draw the barrier of one pair with "
            "`figures.barrier`, or measure a matrix: landscape path A B C."
        )
    settings = json.loads(str(data.attrs.get("settings", "{}")))
    definition = str(settings.get("definition", "chord"))
    is_below = definition == "mode_connectivity"  # whose barriers are negative
    tree = _dendrogram(data, is_below=is_below)
    basins = data["basin"].to_numpy()
    order = np.asarray(tree["leaves"] if tree else np.argsort(basins, kind="stable"))
    data = data.isel(solution=order, other=order)
    figure, axes = sheet(1, 1, width=6.6, height=6.9 if tree else 6.0)
    handles = _draw_matrix(axes[0, 0], data, is_below=is_below)
    if tree:
        handles += _draw_tree(axes[0, 0], data, tree)
    write_caption(figure, _caption(data, definition, has_tree=bool(tree)), handles)
    found = number(int(data["num_basins"]), "basin")
    heading(figure, f"Barriers between {data.sizes['solution']} solutions in {found}")
    return figure


def _dendrogram(data: xr.Dataset, *, is_below: bool) -> dict[str, Any]:
    """As scipy describes it; empty where a barrier is not finite, or negative, or there is none."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    heights = (-1.0 if is_below else 1.0) * data["barrier"].to_numpy()
    np.fill_diagonal(heights, 0.0)
    if len(heights) < 2 or not (np.isfinite(heights).all() and (heights >= 0).all()):
        return {}
    merges = linkage(squareform(heights, checks=False), "single")
    return dict(dendrogram(merges, no_plot=True))


def _draw_matrix(axis: Axes, data: xr.Dataset, *, is_below: bool) -> list[Artist]:
    from matplotlib.lines import Line2D

    values = data["barrier"].to_numpy().copy()
    shades = Shades.from_zero(values, "YlGnBu_r" if is_below else "YlGnBu")
    text = f"barrier ({unit_of(data['barrier'])})"
    handles = list(draw_cells(axis, values, shades, text=text))
    np.fill_diagonal(values, np.nan)  # 0 by definition: nothing to read
    write_cells(axis, values, shades, data["barrier_error"].to_numpy())
    names = [str(name) for name in data["solution"].to_numpy()]
    name_sides(axis, names, names)
    outline(axis, data["basin"].to_numpy(), VERMILION)
    key = Line2D([], [], color=VERMILION, linewidth=1.6, label="basin: joined without a barrier")
    return [*handles, key]


def _draw_tree(axis: Axes, data: xr.Dataset, tree: dict[str, Any]) -> list[Artist]:
    """The dendrogram above the columns that are its leaves, with what counts as no barrier."""
    from matplotlib.collections import LineCollection

    count = data.sizes["solution"]
    above = axis.inset_axes((0.0, 1.03, 1.0, _TREE))
    joints = np.stack([np.asarray(tree["icoord"]) / _SPACING, np.asarray(tree["dcoord"])], axis=2)
    above.add_collection(LineCollection(list(joints), colors=INK, linewidths=1.2, clip_on=False))
    above.set_xlim(0, count)
    above.set_ylim(0, widened(0.0, float(joints[..., 1].max()))[1])
    above.set_xticks([])
    above.spines[["top", "right", "bottom"]].set_visible(False)
    above.tick_params(labelsize=SIZE - 1.5, colors=INK)
    above.locator_params(axis="y", nbins=4)
    above.yaxis.set_major_formatter(lambda y, _: pretty(y))
    label(above, y="barrier on\nthe lowest way")
    shade = above.axhspan(
        0.0, _thresholds(data)[1], color=NOISE, linewidth=0, zorder=0, label="no barrier"
    )
    return [shade]


def _thresholds(data: xr.Dataset) -> tuple[float, float]:
    """Least and greatest over the pairs."""
    pairs = ~np.eye(data.sizes["solution"], dtype=bool)
    held = data["threshold"].to_numpy()[pairs]
    return float(held.min(initial=np.inf)), float(held.max(initial=-np.inf))


def _caption(data: xr.Dataset, definition: str, *, has_tree: bool) -> str:
    """The threshold, how sure the barriers are, what is missing."""
    pairs = np.triu_indices(data.sizes["solution"], 1)
    errors = data["barrier_error"].to_numpy()[pairs]
    unknown = int((~np.isfinite(data["barrier"].to_numpy()[pairs])).sum())
    limits = " to ".join(dict.fromkeys(pretty(limit, 2) for limit in _thresholds(data)))
    found = [
        f"heights by definition {definition!r}",
        f"up to {limits} ({unit_of(data['barrier'])}) is no barrier",
    ]
    if np.isfinite(errors).any():
        found.append(f"standard error of a barrier at most {pretty(float(np.nanmax(errors)), 2)}")
    if unknown:
        share = pretty(100 * unknown / len(errors), 3)
        found.append(f"{number(unknown, 'barrier')} ({share} %) without a finite value")
    if not has_tree:
        found.append("no dendrogram: its barriers would have to be finite, and none negative")
    text = "; ".join(found)
    return f"{text[:1].upper()}{text[1:]}. Maxima between the points of a line are not looked for."
