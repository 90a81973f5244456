"""A family of checkpoints side by side: what was measured, against what they differ in.

One checkpoint by itself: `eigenvalues` and `density`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import RequestError, unknown_choice
from landscape.figures.canvas import (
    LEGEND,
    VERMILION,
    heading,
    label,
    log_axis,
    pretty,
    sheet,
    widened,
)
from landscape.figures.profiles import COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["comparison"]

_CURVATURE = "loss / parameter²"
_LARGEST, _LEARNING_RATE = "eigenvalues.largest", "recipe.learning_rate"
_DECADE = 9.99  # what spans as much, but for rounding, is drawn on a log axis
_ROOM = 24  # letters beneath a panel; more are set aslant
_LEGEND_ROW = 0.15  # of the panel
_NORMAL = 1.96  # standard errors to the end of a 95 % interval
_BAND = "_band"  # ends the names of the accuracies on single bands of frequencies


@dataclass(frozen=True)
class _Panel:
    """A column of the table with its unit, and its doubt: a radius, both ends or an error."""

    column: str
    title: str
    unit: str
    radius: str = ""
    ends: tuple[str, str] | None = None
    standard_error: str = ""


_PANELS = (
    _Panel(_LARGEST, "Largest eigenvalue", _CURVATURE, radius="eigenvalues.largest_residual"),
    _Panel("trace.value", "Trace", _CURVATURE, ends=("trace.low", "trace.high")),
    _Panel("eigenvalues.smallest", "Smallest eigenvalue", _CURVATURE),
    _Panel("metrics.loss", "Loss", "loss"),
    _Panel("metrics.accuracy", "Accuracy", "share of examples"),
    _Panel(
        "density.negative_mass",
        "Negative eigenvalues",
        "share of eigenvalues",
        ends=("density.negative_mass_low", "density.negative_mass_high"),
    ),
    _Panel(
        "linear.accuracy",
        "Linear probe",
        "test accuracy",
        ends=("linear.accuracy_low", "linear.accuracy_high"),
    ),
    _Panel(
        "features.effective_number",
        "Features used",
        "effective number",
        ends=("features.effective_number_low", "features.effective_number_high"),
    ),
    _Panel("sparsity.mean_effective_rank", "Effective rank", "mean over layers"),
    _Panel(
        "depth.mean_depth",
        "Prediction depth",
        "mean over examples",
        standard_error="depth.mean_depth_error",
    ),
    _Panel("memorization.mean_memorization", "Memorization", "mean over examples"),
    _Panel(
        "ensemble.ensemble_accuracy",
        "Ensemble",
        "accuracy",
        ends=("ensemble.ensemble_accuracy_low", "ensemble.ensemble_accuracy_high"),
    ),
)


def comparison(table: pd.DataFrame, by: str) -> Figure:
    """Small multiples against one column of `Results.table()`, with error bars where it has them.

    A line joins the means of the files that share a number in `by`. Against the learning rate the
    largest eigenvalue is drawn with the edge of stability of gradient descent, 2 / rate.

    Raises:
        RequestError: no column `by`, or no row that has both a value of it and a measurement.

    Source: Cohen et al. 2021, arXiv:2103.00065, for the edge of stability.
    """
    columns = [str(name) for name in table.columns]
    if by not in columns:
        raise unknown_choice("column", by, columns)
    table = table[table[by].notna()]
    places, names = _places(table[by])
    table, places = table[np.isfinite(places)], places[np.isfinite(places)]
    panels = [
        found
        for group in (*((panel,) for panel in _PANELS), _bands(columns))
        if (found := [one for one in group if np.isfinite(_numbers(table, one.column)).any()])
    ]
    if not panels:
        raise RequestError(
            f"nothing to draw against {by!r}: {len(table)} rows have a value of it, and none of "
            f"them {', '.join(panel.column for panel in _PANELS)}. Type: landscape probe CKPT..."
        )
    num_columns = len(panels) if len(panels) < 4 else math.ceil(len(panels) / 2)
    num_rows = math.ceil(len(panels) / num_columns)
    figure, axes = sheet(
        num_rows,
        num_columns,
        width=2.5 * num_columns + 0.6 * (num_columns == 1),
        height=2.2 * num_rows + 0.8,
    )
    for axis, curves in zip(axes.flat, panels, strict=False):
        _draw_curves(axis, table, curves, places, is_ordered=not names)
        first = curves[0]
        if by == _LEARNING_RATE and first.column == _LARGEST:
            _draw_stability(axis, places)
        _set_x(axis, places, names)
        title = first.title if len(curves) == 1 else "Accuracy by band"
        label(axis, x=by.rpartition(".")[2].replace("_", " "), y=first.unit, title=title)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    count = f"{len(table)} checkpoint{'s' if len(table) != 1 else ''}"
    heading(figure, f"{count} by {by.rpartition('.')[2].replace('_', ' ')}")
    return figure


def _bands(columns: Sequence[str]) -> tuple[_Panel, ...]:
    """Curves of one panel: the accuracy on images that keep a single band of frequencies."""
    return tuple(
        _Panel(
            name,
            name.removeprefix("bands.").removesuffix(_BAND),
            "accuracy",
            ends=(f"{name}_low", f"{name}_high"),
        )
        for name in columns
        if name.startswith("bands.") and name.endswith(_BAND)
    )


def _numbers(table: pd.DataFrame, column: str) -> Array:
    """A column as float64; NaN where it has no number, and everywhere if there is no such one."""
    import pandas as pd

    if column not in table.columns:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)


def _places(values: pd.Series[Any]) -> tuple[Array, list[str]]:
    """Where each row stands on the x axis, and the names of the places if they are no numbers."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    values = values.infer_objects()
    if is_numeric_dtype(values.dtype) and not is_bool_dtype(values.dtype):
        return values.to_numpy(np.float64), []
    names = sorted({str(value) for value in values})
    return np.asarray([names.index(str(value)) for value in values], float), names


def _draw_curves(
    axis: Axes,
    table: pd.DataFrame,
    curves: Sequence[_Panel],
    places: Array,
    *,
    is_ordered: bool,
) -> None:
    from matplotlib import colormaps

    shades = colormaps["viridis"]
    ends = []
    for index, panel in enumerate(curves):
        colour = COLOURS[index] if len(curves) <= len(COLOURS) else shades(index / len(curves))
        ends.append(_draw(axis, table, panel, places, colour, is_ordered=is_ordered))
    low, high = (np.concatenate(side) for side in zip(*ends, strict=True))
    values = np.concatenate([_numbers(table, panel.column) for panel in curves])
    values = values[np.isfinite(values)]
    if len(curves) > 1:
        dots = [one for one in axis.lines if one.get_marker() == "o"]
        axis.legend(handles=dots, loc="upper left", ncols=2, **LEGEND)
    if _spans_a_decade(values) and "accuracy" not in curves[0].unit:
        log_axis(axis, "y", values.min(), values.max())
    else:
        least, most = widened(low.min(), high.max(), share=0.08)
        rows = math.ceil(len(curves) / 2) if len(curves) > 1 else 0
        axis.set_ylim(least, most + _LEGEND_ROW * rows * (most - least))
        axis.yaxis.set_major_formatter(lambda y, _: pretty(y) if y <= most else "")


def _draw(
    axis: Axes,
    table: pd.DataFrame,
    panel: _Panel,
    places: Array,
    colour: str | tuple[float, ...],
    *,
    is_ordered: bool,
) -> tuple[Array, Array]:
    """One curve; the ends of its bars."""
    values = _numbers(table, panel.column)
    if panel.ends:
        low, high = (_numbers(table, column) for column in panel.ends)
    else:
        radius = _numbers(table, panel.radius)
        if panel.standard_error:
            radius = _NORMAL * _numbers(table, panel.standard_error)
        low, high = values - radius, values + radius
    held = np.isfinite(values)
    # Without an end there is no bar: the value stands alone.
    low, high = np.where(np.isfinite(low), low, values), np.where(np.isfinite(high), high, values)
    axis.vlines(
        places[held], low[held], high[held], color=colour, linewidth=1.6, alpha=0.6, zorder=2
    )
    if is_ordered:
        joined = np.unique(places[held])
        means = [values[held & (places == place)].mean() for place in joined]
        axis.plot(joined, means, color=colour, linewidth=0.9, alpha=0.5, zorder=1, label="mean")
    axis.plot(
        places[held],
        values[held],
        linestyle="none",
        marker="o",
        markersize=4.5,
        color=colour,
        zorder=3,
        label=panel.title,
    )
    return low[held], high[held]


def _draw_stability(axis: Axes, rates: Array) -> None:
    positive = rates[rates > 0]
    if not len(positive):
        return
    grid = np.geomspace(positive.min() / 1.15, positive.max() * 1.15, 100)
    (line,) = axis.plot(
        grid, 2 / grid, color=VERMILION, linewidth=1.2, linestyle="--", label="2 / learning rate"
    )
    heights = np.concatenate([np.asarray(drawn.get_ydata()) for drawn in axis.lines])
    if _spans_a_decade(heights):
        log_axis(axis, "y", heights.min(), heights.max())
    axis.relim()
    axis.autoscale(axis="y")
    axis.legend(handles=[line], loc="best", **LEGEND)


def _set_x(axis: Axes, places: Array, names: list[str]) -> None:
    if names:
        axis.set_xticks(range(len(names)), names)
        if max(map(len, names)) * len(names) > _ROOM:
            for text in axis.get_xticklabels():
                text.set(rotation=30, ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.5, len(names) - 0.5)
    elif _spans_a_decade(places):
        log_axis(axis, "x", places.min(), places.max())
        axis.set_xlim(*10 ** np.asarray(widened(*np.log10([places.min(), places.max()]))))
    else:
        axis.set_xlim(*widened(places.min(), places.max()))
        axis.xaxis.set_major_formatter(lambda x, _: pretty(x))


def _spans_a_decade(values: Array) -> bool:
    return bool(values.min() > 0 and values.max() >= _DECADE * values.min())
