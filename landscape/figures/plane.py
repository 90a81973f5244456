"""A plane seen from above: filled contours of the loss, and of what was measured beside it.

From the side: `surface`. A line: `line`. A family's planes: `animation`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from landscape.figures.canvas import INK, SIZE, described, heading, sheet
from landscape.figures.captions import caveats, fields_over, write_caption
from landscape.figures.contours import (
    Levels,
    coordinates_of,
    declutter,
    draw_absent,
    draw_bands,
    draw_marks,
    frame,
    proportion,
    scale_note,
    shade_bar,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    from landscape.slices.sweep import Sweep

__all__ = ["plane"]

_GRID = ("a", "b")


def plane(record: xr.Dataset | Sweep) -> Figure:
    """Loss and accuracy, of each data set that was measured, as filled contours.

    Levels are logarithmic where the loss spans a decade, and the same for all data sets. A step
    has its true length on both axes where the plane is not far longer than wide. Points beyond the
    clip, and points without a value, are hatched: each half-way to its neighbours.

    Raises:
        RequestError: the record is no plane of at least 2 x 2 points.
    """
    data = described(record)
    a, b = coordinates_of(data)
    losses, accuracies = (fields_over(data, kind, _GRID) for kind in ("loss", "accuracy"))
    levels = {
        **dict.fromkeys(losses, Levels.of(np.stack([data[name] for name in losses]))),
        **{name: Levels.of(data[name].to_numpy(), "accuracy") for name in accuracies},
    }
    rows, columns = _arrangement(len(losses), len(accuracies))
    ratio = proportion(data, a, b)
    shape = 1.0 if ratio is None else ratio * float(np.ptp(b) / np.ptp(a))
    width = 7.4 if columns > 1 else 4.6
    panel = width / columns - 1.1
    figure, axes = sheet(rows, columns, width=width, height=rows * (panel * shape + 0.45) + 1.5)
    handles: dict[str, Artist] = {}
    for index, (axis, name) in enumerate(zip(axes.flat, levels, strict=False)):
        values = data[name].to_numpy()
        if draw_bands(axis, data, values, levels[name]) is not None:
            shade_bar(axis, levels[name])
        for handle in (*draw_marks(axis, data), *draw_absent(axis, data, values)):
            handles[str(handle.get_label())] = handle
        frame(axis, data, ratio, width=panel, height=panel * shape)
        axis.set_title(name.replace("_", " "), loc="left", fontsize=SIZE, color=INK)
        if index + columns < len(levels):  # the panel beneath says it
            axis.set_xlabel("")
            axis.tick_params(labelbottom=False)
        if index % columns:
            axis.set_ylabel("")
            axis.tick_params(labelleft=False)
    for axis in axes.flat[len(levels) :]:
        axis.remove()
    note = scale_note(axes[0, 0])
    write_caption(figure, caveats(data) + note, list(handles.values()))
    heading(figure, f"Loss over a plane of {len(a)} × {len(b)} points")
    declutter(figure)
    return figure


def _arrangement(num_losses: int, num_accuracies: int) -> tuple[int, int]:
    """Rows and columns; losses above the accuracies where there are two of each."""
    count = num_losses + num_accuracies
    columns = min(count, 2)
    return math.ceil(count / columns), columns
