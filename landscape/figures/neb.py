"""A band between two solutions: the loss along it, beside the straight line, and how it got there.

The straight line by itself: `barrier`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    GREY,
    INK,
    SIZE,
    described,
    heading,
    label,
    log_axis,
    pretty,
    sheet,
    widened,
    with_error,
)
from landscape.figures.captions import number, spans_a_decade, write_caption
from landscape.figures.profiles import (
    COLOURS,
    data_names,
    draw_absent,
    draw_profile,
    field_of,
    mark_height,
    name_height,
    set_range,
    used_panels,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.paths.neb import Neb

    Array = NDArray[np.float64]

__all__ = ["neb"]

_METRICS = {"loss": "loss", "error": "error\n(share of examples)"}
_NEAR = 0.2  # of the way, on either side of the saddle: so wide is its name
_THIN: Any = {"linewidth": 1.1, "linestyle": "--", "marker": "None"}


def neb(record: xr.Dataset | Neb) -> Figure:
    """Loss above error along a band with its pivots and its saddle, and along the straight line.

    Both ways are measured by the share of their own length. The band of doubt is two standard
    errors of the rise above the ends. Beside them is the greatest loss at a pivot, step by step,
    and the gradient that is left across the band.

    Raises:
        RequestError: the record is no band.
    """
    data = described(record)
    if not {"t", "pivot"} <= set(data.dims):
        raise RequestError(
            "a band has points along t and pivots; this record has "
            f"{', '.join(map(str, data.dims))}. Measure one: landscape path A B --probe neb."
        )
    metrics = [metric for metric in _METRICS if metric in data]
    draws = [draw for name, draw in _WORK.items() if np.isfinite(data[name]).any()]
    rows = max(len(metrics), len(draws))
    figure, axes = sheet(
        rows,
        2 if draws else 1,
        width=7.4 if draws else 7.0,
        height=1.6 + 2.1 * rows,
        height_ratios=(5, 4)[:rows],
        width_ratios=(2.4, 1) if draws else (1,),
    )
    panels = used_panels(axes[:, 0], len(metrics))
    handles: dict[str, Artist] = {}
    for axis, metric in zip(panels, metrics, strict=True):
        for artist in _draw_metric(axis, data, metric):
            handles.setdefault(str(artist.get_label()), artist)
    for axis in panels[:-1]:
        axis.tick_params(labelbottom=False)
    panels[-1].set_xlabel("share of the length of the way", fontsize=SIZE, color=INK)
    figure.align_ylabels(panels)
    if draws:
        for axis, draw in zip(used_panels(axes[:, 1], len(draws)), draws, strict=True):
            draw(axis, data)
    keys = [artist for name, artist in handles.items() if not name.startswith("_")]
    write_caption(figure, _caption(data), keys)
    saddle = pretty(float(data["loss_saddle"]), 3)
    heading(figure, f"Band of {data.sizes['pivot']} pivots over a saddle of {saddle}")
    return figure


def _draw_metric(axis: Axes, data: xr.Dataset, metric: str) -> Iterator[Artist]:
    names = data_names(data, metric, "t")
    fields = [field_of(metric, name) for name in names]
    shown = np.concatenate([_shown(data, field) for field in fields])
    is_log = metric == "loss" and spans_a_decade(shown)
    axis.set_xlim(*widened(0.0, 1.0, share=0.02))
    axis.xaxis.set_major_formatter(lambda x, _: pretty(x))
    set_range(axis, shown, is_log=is_log, is_named=metric == "loss")
    label(axis, y=_METRICS[metric])
    for name, field, colour in zip(names, fields, cycle(COLOURS), strict=False):
        words = f"band, {name or 'own'} data" if len(names) > 1 else "band"
        values = data[field].to_numpy()
        yield from _draw_band(axis, data, field, color=colour, label=words)
        yield from draw_absent(axis, data["t"].to_numpy(), values)
        straight = data[f"straight_{field}"].to_numpy()
        (line,) = draw_profile(
            axis, data["line_t"].to_numpy(), straight, None, color=colour, **_THIN
        )
        if not name:
            line.set_label("straight line")
            yield line
    if metric == "loss" and np.isfinite(float(data["loss_saddle"])):
        _mark_saddle(axis, data, fields)


def _mark_saddle(axis: Axes, data: xr.Dataset, fields: Sequence[str]) -> None:
    """A ring, and its loss above whatever is drawn there."""
    place, top = float(data["saddle_t"]), float(data["loss_saddle"])
    mark_height(axis, place, None, top)
    places = np.concatenate([data["t"].to_numpy(), data["line_t"].to_numpy()])
    near = np.abs(places - place) < _NEAR
    above = np.concatenate([[top], *(_shown(data, field)[near] for field in fields)])
    highest = float(above[np.isfinite(above)].max())
    name_height(axis, place, highest, f"saddle {pretty(top, 3)}")


def _shown(data: xr.Dataset, field: str) -> Array:
    """All that has to be seen of a field."""
    return np.concatenate([data[field].to_numpy(), data[f"straight_{field}"].to_numpy()])


def _draw_band(axis: Axes, data: xr.Dataset, field: str, **look: Any) -> Iterator[Artist]:
    """The line, its doubt, and its pivots."""
    places, values = data["t"].to_numpy(), data[field].to_numpy()
    errors = data[f"{field}_gap_error"].to_numpy()
    *doubts, line = draw_profile(axis, places, values, errors, marker="None", **look)
    yield line
    for doubt in doubts:
        doubt.set_label("±2 standard errors")
        yield doubt
    pivots = data["is_pivot"].to_numpy().astype(bool)
    yield axis.plot(
        places[pivots],
        np.where(np.isfinite(values), values, np.nan)[pivots],
        linestyle="none",
        marker="o",
        markersize=4,
        color=look["color"],
        label="pivot" if look["color"] == BLUE else "_pivot",
    )[0]


def _draw_steps(axis: Axes, data: xr.Dataset) -> None:
    """How the greatest loss went down; a line where a cycle of steps ends."""
    values = data["highest_loss"].to_numpy()
    finite = values[np.isfinite(values)]
    steps = np.arange(1, len(values) + 1)
    if spans_a_decade(values):
        log_axis(axis, "y", finite.min(), finite.max())
    else:
        axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    axis.plot(steps, np.where(np.isfinite(values), values, np.nan), color=GREY, linewidth=0.9)
    for end in np.cumsum(data["cycle_steps"].to_numpy())[:-1]:
        axis.axvline(end + 0.5, color=BLUE, linewidth=0.7, alpha=0.6)
    axis.locator_params(axis="x", nbins=4)
    label(axis, x="step", title="greatest loss at a pivot")


def _draw_forces(axis: Axes, data: xr.Dataset) -> None:
    """The gradient that is left at each pivot but the ends, which stay."""
    forces = data["force"].to_numpy()[1:-1]
    pivots = np.arange(2, len(forces) + 2)
    axis.plot(pivots, forces, color=GREY, linewidth=0.9, marker="o", markersize=3)
    axis.set_ylim(0, float(np.nanmax(forces, initial=0.0)) * 1.08 or 1.0)
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    axis.locator_params(axis="x", nbins=5, integer=True)
    label(axis, x="pivot", title="gradient across the band")


_WORK = {"highest_loss": _draw_steps, "force": _draw_forces}


def _caption(data: xr.Dataset) -> str:
    """The rise along both ways, how long the band is, and whether it has come to rest."""
    rise = with_error(float(data["loss_chord"]), float(data["loss_chord_error"]))
    found = [
        f"the loss rises above the ends by {rise} along the band, and by "
        f"{pretty(float(data['straight_loss_chord']), 3)} along the straight line",
        f"the band is {pretty(float(data['length_ratio']), 3)} times as long",
    ]
    if data.sizes["cycle"] > 1:
        found.append(f"{number(data.sizes['cycle'], 'cycle')} of steps, parted by lines")
    residual = float(data["residual"])
    tol = json.loads(str(data.attrs.get("settings", "{}"))).get("tol")
    if tol is not None and np.isfinite(residual):
        state, side = ("converged", "at most") if residual <= tol else ("not converged", "above")
        found.append(f"{state}: residual {pretty(residual, 2)}, {side} {pretty(float(tol), 2)}")
    text = "; ".join(found)
    bands = "Bands of doubt: the rise above the ends, by paired differences of the examples."
    return f"{text[:1].upper()}{text[1:]}. {bands}"
