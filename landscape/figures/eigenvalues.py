"""Eigenvalues at the ends of the spectrum with what certifies them; the whole of it: `density`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from landscape.figures.canvas import (
    BLUE,
    GREY,
    INK,
    LEGEND,
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
    with_error,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.curvature.eigenpairs import Eigenpairs

__all__ = ["eigenvalues"]

# (converged, complete) -> label, marker, colour
_STATES = {
    (True, True): ("converged", "o", BLUE),
    (True, False): ("converged, but another may belong before it", "o", BLUE),
    (False, True): ("not converged", "X", VERMILION),
    (False, False): ("not converged, and another may belong before it", "X", VERMILION),
}
_SEEN = 0.05  # of the axis: a shorter interval is hidden by its marker


def eigenvalues(record: xr.Dataset | Eigenpairs) -> Figure:
    """Both ends of a spectrum, each on its own scale, above the error bounds on a log axis.

    The certified intervals are mostly far thinner than a line, so the lower row shows their
    half-widths, and the residual norms they come from. An open marker stands for a pair before
    which another may have been missed, a cross for one that did not converge.
    """
    data = described(record)
    ends = _ends(data)
    figure, axes = sheet(
        2,
        len(ends),
        height=5.0,
        width=7.0 if len(ends) > 1 else 4.6,
        sharex="col",
        height_ratios=[3, 2],
    )
    handles: dict[str, Artist] = {}
    for column, (end, pairs) in enumerate(ends.items()):
        _draw_values(axes[0, column], data.isel(pair=pairs), end, handles)
        _draw_errors(axes[1, column], data.isel(pair=pairs), end, handles)
    unit = unit_of(data["eigenvalue"])
    axes[0, 0].set_ylabel(f"eigenvalue\n({unit})", fontsize=SIZE, color=INK)
    axes[1, 0].set_ylabel(f"residual norm\n({unit})", fontsize=SIZE, color=INK)
    figure.align_ylabels(axes[:, 0])
    count = data.sizes["pair"]
    title = f"{count} extreme eigenvalue{'s' if count > 1 else ''}"
    heading(figure, title, data.attrs.get("num_products"))
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=len(ends), **LEGEND
    )
    return figure


def _ends(data: xr.Dataset) -> dict[str, NDArray[np.intp]]:
    """The pairs of the top and of the bottom end, the outermost first."""
    values = data["eigenvalue"].to_numpy()
    which = json.loads(str(data.attrs.get("settings", "{}"))).get("which")
    is_top = {
        "LA": np.ones(len(values), dtype=bool),
        "SA": np.zeros(len(values), dtype=bool),
        "BE": np.arange(len(values)) < (len(values) + 1) // 2,
    }.get(which, ~(values < 0))
    order = np.argsort(-values, kind="stable")
    ends = {"top": order[is_top[order]], "bottom": order[~is_top[order]][::-1]}
    return {end: pairs for end, pairs in ends.items() if len(pairs)}


def _draw_values(axis: Axes, data: xr.Dataset, end: str, handles: dict[str, Artist]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    values, intervals = data["eigenvalue"].to_numpy(), data["interval"].to_numpy()
    ranks = np.arange(1, len(values) + 1)
    axis.vlines(ranks, intervals[:, 0], intervals[:, 1], color=GREY, linewidth=1.4, zorder=2)
    _mark(axis, data, values, handles)
    shown = np.concatenate([values, intervals.ravel()])
    shown = shown[np.isfinite(shown)]
    axis.set_ylim(*widened(shown.min(initial=np.inf), shown.max(initial=-np.inf), share=0.1))
    bottom, top = axis.get_ylim()
    if (np.diff(intervals) > _SEEN * (top - bottom)).any():
        handles["interval"] = Line2D([], [], color=GREY, linewidth=1.4, label="certified interval")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: pretty(y)))
    is_top = end == "top"
    first = with_error(values[0], (intervals[0, 1] - intervals[0, 0]) / 2)
    bound = float(data["bounds"].to_numpy()[1 if is_top else 0])
    text = f"{'Largest' if is_top else 'Smallest'}: {first}"
    if np.isfinite(bound):
        text += f"\nnone {'above' if is_top else 'below'} {pretty(bound, 6)} (99 % sure)"
    label(axis, title=text)


def _draw_errors(axis: Axes, data: xr.Dataset, end: str, handles: dict[str, Artist]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator, NullFormatter

    residuals = data["residual_norm"].to_numpy()
    halves = np.diff(data["interval"].to_numpy())[:, 0] / 2
    ranks = np.arange(1, len(residuals) + 1)
    axis.plot(ranks, halves, linestyle="none", marker="_", markersize=13, color=GREY, zorder=2)
    _mark(axis, data, residuals, handles)
    shown = np.concatenate([residuals, halves])
    positive = shown[np.isfinite(shown) & (shown > 0)]
    if len(positive):
        least, most = positive.min(), positive.max()
        if (shown == 0).any():  # exact: an axis that has a place for it
            axis.set_yscale("symlog", linthresh=least, linscale=0.3)
            axis.set_ylim(-0.3 * least, 3 * most)
        else:
            axis.set_yscale("log")
            axis.set_ylim(least / 4, 4 * most)
            axis.yaxis.set_minor_formatter(NullFormatter())
    floor = float(data["noise_floor"])
    bottom, top = axis.get_ylim()
    if max(bottom, 0) < floor:
        axis.axhspan(min(bottom, 0), min(floor, top), color=NOISE, linewidth=0, zorder=0)
        axis.set_ylim(bottom, top)
        handles["noise"] = Patch(color=NOISE, label=f"rounding noise, {pretty(floor, 2)}")
    axis.set_xlim(0.4, len(ranks) + 0.6)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    label(axis, x=f"rank from the {end}")
    handles["half"] = Line2D(
        [],
        [],
        linestyle="none",
        marker="_",
        markersize=13,
        color=GREY,
        label="half-width of the certified interval",
    )


def _mark(
    axis: Axes, data: xr.Dataset, heights: NDArray[np.float64], handles: dict[str, Artist]
) -> None:
    ranks = np.arange(1, len(heights) + 1)
    converged, complete = data["converged"].to_numpy(), data["complete"].to_numpy()
    for (is_converged, is_complete), (text, marker, colour) in _STATES.items():
        chosen = (converged == is_converged) & (complete == is_complete)
        if chosen.any():
            (handles[text],) = axis.plot(
                ranks[chosen],
                heights[chosen],
                linestyle="none",
                marker=marker,
                markersize=7 if marker == "X" else 5.5,
                color=colour,
                markerfacecolor=colour if is_complete else "white",
                label=text,
                zorder=3,
            )
