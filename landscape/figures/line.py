"""The loss along a line, or along several: with its standard error, or with the spread of draws.

A plane: `plane`, from above, and `surface`, from the side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    GREY,
    INK,
    SIZE,
    VERMILION,
    described,
    heading,
    label,
    log_axis,
    pretty,
    sheet,
    widened,
)
from landscape.figures.captions import (
    along,
    along_each,
    caveats,
    clip_name,
    fields_over,
    number,
    spans_a_decade,
    write_caption,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.slices.sweep import Sweep

    Array = NDArray[np.float64]

__all__ = ["line"]

_COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00")  # of data sets: Okabe and Ito 2008
_FEW = 10  # directions; the band of more leaves a tenth out at either side
_MOST_MARKERS = 80  # points on a line; more are too dense for a marker each
_LETTER = 0.013  # of the width of a panel, in the name of a mark
_NAME_GAP = 0.2  # inches from one name of a line to the next
_ERROR = "±2 standard errors of the loss minus that at the center, on the same examples (0 there)"


def line(record: xr.Dataset | Sweep) -> Figure:
    """Loss above accuracy, along one direction or several, for each data set that was measured.

    One direction is drawn with the standard error of the difference to its center. Several are thin
    lines behind their median and a band. The exact second-order expansion at the center is dashed,
    where it was measured. There are gaps where a point has no finite value.

    Raises:
        RequestError: the record is no line.
    """
    data = described(record)
    if "a" not in data.dims or "b" in data.dims:
        raise RequestError(
            f"a line has the axis a; this record has {', '.join(map(str, data.dims))}. Draw a "
            "plane with `figures.plane`, or measure a line: landscape probe CKPT --probe line."
        )
    grid = tuple(map(str, data["loss"].dims))  # ("a",) or ("direction", "a")
    kinds = [fields_over(data, kind, grid) for kind in ("loss", "accuracy")]
    kinds = [names for names in kinds if names]
    figure, axes = sheet(
        len(kinds),
        1,
        height=1.6 + 2.1 * len(kinds),
        sharex=True,
        height_ratios=(5, 3)[: len(kinds)],
    )
    handles: dict[str, Artist] = {}
    for axis, names in zip(axes[:, 0], kinds, strict=True):
        for artist in _draw_panel(axis, data, names):
            handles.setdefault(str(artist.get_label()), artist)
    a = data["a"].to_numpy()
    bottom = axes[-1, 0]
    bottom.set_xlim(*widened(a.min(), a.max(), share=0.02))
    is_single = len(grid) == 1
    bottom.set_xlabel(
        along(data, 0, letters=90) if is_single else along_each(data), fontsize=SIZE, color=INK
    )
    _draw_marks(list(axes[:, 0]), data)
    figure.align_ylabels(axes[:, 0])
    write_caption(figure, caveats(data), list(handles.values()))
    lines = "a line" if is_single else number(data.sizes["direction"], "line")
    heading(figure, f"Loss along {lines} of {number(len(a), 'point')}")
    return figure


def _draw_panel(axis: Axes, data: xr.Dataset, names: list[str]) -> Iterator[Artist]:
    """One field, of one or more data sets, each in its colour and named at its end."""
    values = np.stack([data[name].to_numpy() for name in names])
    is_loss = names[0] == "loss"
    _set_scale(axis, values, is_log=is_loss and spans_a_decade(values))
    label(axis, y="loss" if is_loss else "accuracy\n(share of examples)")
    if not np.isfinite(values).any():
        axis.text(
            0.5,
            0.6,
            "no point has a finite value",
            transform=axis.transAxes,
            ha="center",
            fontsize=SIZE,
            color=INK,
        )
    for name, colour in zip(names, cycle(_COLOURS), strict=False):
        draw = _draw_line if data[name].ndim == 1 else _draw_lines
        yield from draw(axis, data, name, colour)
    if is_loss and "center_slope" in data:
        yield _draw_quadratic(axis, data)
    yield from _draw_absent(axis, data, values.reshape(-1, values.shape[-1]))
    if len(names) > 1:
        _name_ends(axis, dict(zip(names, values, strict=True)))


def _set_scale(axis: Axes, values: Array, *, is_log: bool) -> None:
    """Limits that hold the finite values, whatever is drawn beside them."""
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    if is_log:
        log_axis(axis, "y", low, high)
        axis.set_ylim(*10 ** np.asarray(widened(*np.log10([low, high]))))
    else:
        axis.set_ylim(*widened(low, high))
        axis.yaxis.set_major_formatter(lambda y, _: pretty(y, 6))


def _draw_line(axis: Axes, data: xr.Dataset, name: str, colour: str) -> Iterator[Artist]:
    """One line, a marker at each point that was measured, and two standard errors around it."""
    a, values = data["a"].to_numpy(), _with_gaps(data[name].to_numpy())
    done = data["done"].to_numpy() if "done" in data else np.ones(len(a), bool)
    errors = f"{name.removesuffix('loss')}standard_error"
    if name.endswith("loss") and errors in data:
        radius = 2 * data[errors].to_numpy()
        # A log axis has no place for what is not positive.
        least = axis.get_ylim()[0] if axis.get_yscale() == "log" else -np.inf
        low = np.maximum(values - radius, least)
        yield axis.fill_between(
            a, low, values + radius, color=colour, alpha=0.2, linewidth=0, label=_ERROR
        )
    axis.plot(a, values, color=colour, linewidth=1.4)
    if len(a) <= _MOST_MARKERS or not done.all():
        axis.plot(a[done], values[done], linestyle="none", marker="o", markersize=2.6, color=colour)


def _draw_lines(axis: Axes, data: xr.Dataset, name: str, colour: str) -> Iterator[Artist]:
    """The median over the directions; of the first data set also each of them, and a band."""
    a, values = data["a"].to_numpy(), data[name].to_numpy()
    count = len(values)
    (median,) = axis.plot(
        a,
        _with_gaps(np.median(values, axis=0)),
        color=colour,
        linewidth=1.8,
        zorder=2.5,
        label=f"median of {count} directions",
    )
    yield median
    if name not in ("loss", "accuracy"):
        return
    each = axis.plot(a, _with_gaps(values).T, color=colour, linewidth=0.5, alpha=0.6)
    each[0].set_label("each direction")
    left_out = count // 10 if count > _FEW else 0
    ordered = np.sort(values, axis=0)
    low, high = ordered[left_out].copy(), ordered[-1 - left_out]
    low[np.isnan(values).any(axis=0)] = np.nan  # who knows where those belong
    band = axis.fill_between(
        a,
        _with_gaps(low),
        np.where(np.isposinf(high), axis.get_ylim()[1], high),  # open, as far as the panel goes
        color=colour,
        alpha=0.16,
        linewidth=0,
        label="least to greatest" if not left_out else "all but a tenth on either side",
    )
    yield from (each[0], band)


def _draw_quadratic(axis: Axes, data: xr.Dataset) -> Artist:
    """The second-order expansion at the center; of several directions the median."""
    a = np.linspace(float(data["a"].min()), float(data["a"].max()), 201)
    slopes = data["center_slope"].to_numpy()[:, None]
    curvatures = np.diag(data["center_curvature"].to_numpy())[:, None]
    heights = np.median(float(data["center_loss"]) + slopes * a + curvatures * a**2 / 2, axis=0)
    if axis.get_yscale() == "log":
        heights[heights <= 0] = np.nan
    name = "exact second-order expansion at the center"
    (drawn,) = axis.plot(
        a,
        heights,
        color=INK,
        linewidth=1.1,
        linestyle=(0, (4, 2)),
        label=name if len(slopes) == 1 else f"{name}, median",
    )
    return drawn


def _draw_absent(axis: Axes, data: xr.Dataset, values: Array) -> Iterator[Artist]:
    """Where a line (k, n) has a gap: a mark at the top beyond the clip, at the bottom for NaN."""
    a, clipped = data["a"].to_numpy(), np.isposinf(values)
    kinds = (
        (clipped, clip_name(data), "^", 0.965),
        (~np.isfinite(values) & ~clipped, "NaN, or not measured", "x", 0.035),
    )
    for absent, name, marker, height in kinds:
        places = a[absent.any(axis=0)]
        if len(places):
            yield axis.plot(
                places,
                np.full(len(places), height),
                transform=axis.get_xaxis_transform(),
                linestyle="none",
                marker=marker,
                markersize=4,
                color=GREY,
                label=name,
            )[0]


def _name_ends(axis: Axes, ends: dict[str, Array]) -> None:
    """The name of each data set where its line ends, in its colour and clear of the others."""
    low, high = axis.get_ylim()
    is_log = axis.get_yscale() == "log"
    places: dict[str, float] = {}
    for name, values in ends.items():
        lines = np.atleast_2d(values)
        finite = lines[:, np.isfinite(lines).all(axis=0)]
        if finite.size:
            end = float(np.median(finite[:, -1]))
            whole = (
                (math.log(high / low), math.log(end / low)) if is_log else (high - low, end - low)
            )
            places[name] = whole[1] / whole[0]
    gap = _NAME_GAP / (axis.bbox.height / axis.figure.dpi)
    least = -math.inf
    colours = dict(zip(ends, cycle(_COLOURS), strict=False))
    for name in sorted(places, key=places.__getitem__):
        least = max(least + gap, places[name])
        axis.annotate(
            name.replace("_", " "),
            (1.0, least),
            xycoords="axes fraction",
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=SIZE - 1,
            color=colours[name],
        )


def _draw_marks(axes: Sequence[Axes], data: xr.Dataset) -> None:
    """A vertical line at the center and at each marked point, with its name above."""
    from matplotlib.ticker import NullLocator

    places = {"center": 0.0}
    if "mark_place" in data and data["mark_place"].shape[1] == 1:
        marked = zip(data["mark"].to_numpy(), data["mark_place"].to_numpy()[:, 0], strict=True)
        named = {str(name): float(place) for name, place in marked}
        places = named if 0.0 in named.values() else places | named
    low, high = axes[0].get_xlim()
    places = {
        name: at
        for name, at in sorted(places.items(), key=lambda item: item[1])
        if low <= at <= high
    }
    for axis in axes:
        for at in places.values():
            axis.axvline(at, color=GREY, linewidth=0.8, alpha=0.7, zorder=0)
    top = axes[0].secondary_xaxis("top")
    top.spines["top"].set_visible(False)
    top.xaxis.set_minor_locator(NullLocator())
    top.set_xticks(list(places.values()), list(places), fontsize=SIZE - 1, color=INK)
    top.tick_params(length=0, pad=1)
    names, gaps = list(places), np.diff(list(places.values())) / (high - low)
    needed = [_LETTER * (len(one) + len(other)) / 2 for one, other in pairwise(names)]
    if (gaps < needed).any():
        top.tick_params(rotation=30)
        for name in top.get_xticklabels():
            name.set(ha="left", rotation_mode="anchor")


def _with_gaps(values: Array) -> Array:
    """NaN, where a line breaks off, instead of what is not finite."""
    return np.where(np.isfinite(values), values, np.nan)
