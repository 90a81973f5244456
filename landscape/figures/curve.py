"""A curve between two solutions: the loss along it, beside the straight line, and in its plane."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
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
    with_error,
)
from landscape.figures.captions import fields_over, spans_a_decade, write_caption
from landscape.figures.contours import (
    Levels,
    coordinates_of,
    declutter,
    draw_absent,
    draw_bands,
    draw_marks,
    frame,
    halo,
    proportion,
    scale_note,
    shade_bar,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.paths.curve import Curve
    from landscape.slices.sweep import Sweep

    Array = NDArray[np.float64]

__all__ = ["curve"]

_COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00")  # of data sets: Okabe and Ito 2008
_LENGTH_RTOL = 0.02  # between a curve's stored length and that in its plane, by other points
_WIDTH, _PLANE_HEIGHT = 7.0, 3.6  # inches
_FINE = 201  # points of the curve in its plane


def curve(record: xr.Dataset | Curve, plane: xr.Dataset | Sweep | None = None) -> Figure:
    """Loss above error along a curve and, dashed, along the straight line between its ends.

    The bands are two standard errors of the rise above the ends, from the same examples at both.
    Both paths go from left to right by the share of their length.

    Args:
        plane: a plane through the ends and the bend of a curve of one bend, as
            `plane_through(objective, b, curve.vertices[1])` measures it with the objective at a:
            the curve is drawn over its contours as well.

    Raises:
        RequestError: the record is no curve, or the plane is not its own.
    """
    data = described(record)
    if "arc_length" not in data or "straight_loss" not in data:
        raise RequestError(
            f"a curve has arc_length and straight_loss; this record has "
            f"{', '.join(map(str, data.data_vars))}. Fit one: fit_curve(objective, a, b)."
        )
    below = None if plane is None else described(plane)
    path = None if below is None else _path_in(below, data)
    kinds = [_fields(data, kind) for kind in ("loss", "error")]
    kinds = [names for names in kinds if names]
    ratios = [5.0, 3.0][: len(kinds)] + ([7.0] if below is not None else [])
    height = 1.6 + 2.1 * len(kinds) + (_PLANE_HEIGHT if below is not None else 0.0)
    figure, axes = sheet(len(ratios), 1, width=_WIDTH, height=height, height_ratios=ratios)
    handles: dict[str, Artist] = {}
    for axis, names in zip(axes[:, 0], kinds, strict=False):
        for artist in _draw_panel(axis, data, names):
            handles.setdefault(str(artist.get_label()), artist)
    for axis in axes[: len(kinds) - 1, 0]:
        axis.tick_params(labelbottom=False)
    label(axes[len(kinds) - 1, 0], x="share of the path's length", y=_name(kinds[-1][0]))
    figure.align_ylabels(axes[: len(kinds), 0])
    note = ""
    if below is not None and path is not None:
        for artist in _draw_plane(axes[-1, 0], below, path):
            handles.setdefault(str(artist.get_label()), artist)
        note = scale_note(axes[-1, 0])
    write_caption(figure, _in_words(data) + note, list(handles.values()))
    kind = {"bezier": "Bézier curve", "polygon": "polygonal chain"}
    heading(figure, f"Loss along a {kind.get(str(data.attrs.get('kind')), 'curve')}")
    if below is not None:
        declutter(figure)
    return figure


def _fields(data: xr.Dataset, kind: str) -> list[str]:
    """The profiles of a kind along the curve: of the objective's data, then of others."""
    names = fields_over(data, kind, ("t",))
    lines = ("straight_", "training_")
    return [
        name for name in names if not name.startswith(lines) and not name.endswith("standard_error")
    ]


def _name(field: str) -> str:
    return "loss" if field.endswith("loss") else "error\n(share of examples)"


def _draw_panel(axis: Axes, data: xr.Dataset, names: list[str]) -> Iterator[Artist]:
    """One metric, of one or more data sets, each in its colour."""
    ways = [(name, lead) for name in names for lead in ("", "straight_")]
    values = np.stack([data[f"{lead}{name}"].to_numpy() for name, lead in ways])
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    if names[0] == "loss" and spans_a_decade(values):
        log_axis(axis, "y", low, high)
        axis.set_ylim(*10 ** np.asarray(widened(*np.log10([low, high]))))
    else:
        axis.set_ylim(*widened(low, high))
        axis.yaxis.set_major_formatter(lambda y, _: pretty(y, 6))
    axis.set_xlim(0, 1)
    label(axis, y=_name(names[0]))
    colours = dict(zip(names, cycle(_COLOURS), strict=False))
    length = float(data["arc_length"][-1])
    t = data["t"].to_numpy()
    gone = data["arc_length"].to_numpy() / length if length > 0 else t
    for name, lead in ways:
        whose = name.rpartition("_")[0].replace("_", " ")
        words = ("straight line" if lead else "curve") + (f", {whose}" if whose else "")
        heights = data[f"{lead}{name}"].to_numpy()
        (drawn,) = axis.plot(
            t if lead else gone,
            np.where(np.isfinite(heights), heights, np.nan),
            color=colours[name],
            linewidth=1.0 if lead else 1.6,
            linestyle=(0, (4, 2)) if lead else "-",
            label=words,
        )
        yield drawn
        radius = 2 * data[f"{lead}{name}_standard_error"].to_numpy()
        # A log axis has no place for what is not positive.
        least = axis.get_ylim()[0] if axis.get_yscale() == "log" else -np.inf
        band = axis.fill_between(
            t if lead else gone,
            np.maximum(heights - radius, least),
            heights + radius,
            color=colours[name],
            alpha=0.12 if lead else 0.25,
            linewidth=0,
            label="±2 standard errors of the rise above the ends",
        )
        if np.isfinite(radius).any():
            yield band


def _in_words(data: xr.Dataset) -> str:
    """How far the curve and the line rise, and how long the curve is."""
    rise = with_error(float(data["loss_excess"]), float(data["loss_excess_standard_error"]))
    line = pretty(float(data["straight_loss_excess"]))
    ratio = float(data["length_ratio"])
    far = f"; {pretty(ratio, 3)} times as long" if math.isfinite(ratio) else ""
    return f"The loss rises by {rise} above its ends, along the straight line by {line}{far}."


# -- in its plane ---------------------------------------------------------------------------------


def _path_in(plane: xr.Dataset, data: xr.Dataset) -> Array:
    """(P, 2) the curve in the coordinates of a plane through its three vertices.

    Raises:
        RequestError: a plane of something else.
    """
    coordinates_of(plane)
    bends = json.loads(str(data.attrs.get("settings", "{}"))).get("num_bends")
    if bends != 1 or "mark_place" not in plane or plane["mark_place"].shape != (3, 2):
        raise RequestError(
            f"a curve of {bends} bends is drawn over a plane through its ends and its bend, and "
            "only a curve of one bend has such a plane. Measure it by "
            "plane_through(objective, b, curve.vertices[1])."
        )
    import torch

    from landscape.paths.curves import curve_weights

    first, last, bend = plane["mark_place"].to_numpy()
    t = torch.linspace(0, 1, _FINE, dtype=torch.float64)
    weights = curve_weights(str(data.attrs["kind"]), t, 3).numpy()  # type: ignore[arg-type]
    path: Array = weights @ np.stack([first, bend, last])
    steps = np.diff(path, axis=0) * plane["direction_norm"].to_numpy()
    length, own = float(np.linalg.norm(steps, axis=1).sum()), float(data["length"])
    if not math.isclose(length, own, rel_tol=_LENGTH_RTOL):
        raise RequestError(
            f"the plane is not that of the curve: between its marks the curve would be "
            f"{length:.4g} long, and it is {own:.4g}. Measure it by "
            "plane_through(objective, b, curve.vertices[1]), the objective at a."
        )
    return path


def _draw_plane(axis: Axes, plane: xr.Dataset, path: Array) -> Iterator[Artist]:
    """Contours of the loss, with the curve and the straight line over them."""
    values = plane["loss"].to_numpy()
    a, b = coordinates_of(plane)
    levels = Levels.of(values)
    if draw_bands(axis, plane, values, levels) is not None:
        shade_bar(axis, levels)
    yield from draw_absent(axis, plane, values)
    axis.plot(*path.T, color=VERMILION, linewidth=2.0, zorder=2.8, path_effects=halo(3.2))
    yield from draw_marks(axis, plane)
    frame(axis, plane, proportion(plane, a, b), width=_WIDTH - 2, height=_PLANE_HEIGHT)
    axis.set_title("loss in the plane of the curve", loc="left", fontsize=SIZE, color=INK)
