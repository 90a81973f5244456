"""A family's planes one after another, all on the same scale. One of them by itself: `plane`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError, unknown_choice
from landscape.figures.canvas import INK, SIZE, described, heading, pretty, sheet
from landscape.figures.captions import number, write_caption
from landscape.figures.contours import (
    Levels,
    absent,
    coordinates_of,
    declutter,
    draw_absent,
    draw_bands,
    draw_marks,
    frame,
    proportion,
    shade_bar,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.animation import AbstractMovieWriter
    from matplotlib.axes import Axes

    from landscape.slices.sweep import Sweep

__all__ = ["animation"]

_FRAMES_PER_SECOND = 2
_DPI = 150
_PANEL = 3.2  # inches


def animation(planes: Mapping[str, xr.Dataset | Sweep], path: str | Path) -> None:
    """Write the losses over planes as a GIF or MP4, a frame each.

    Levels, colours and limits are the same in all frames: what changes is the loss.

    Args:
        planes: in order, by what is written above the frame.
        path: ends in .gif or .mp4.

    Raises:
        RequestError: no planes, a record that is none, another kind of file, a place that cannot
            be written to, or MP4 without the program ffmpeg.
    """
    path = Path(path)
    writer = _writer(path)
    if not planes:
        raise RequestError(
            "there is no plane to animate. Measure some: landscape probe CKPT... --probe plane."
        )
    records = {title: described(record) for title, record in planes.items()}
    every = [coordinates_of(data) for data in records.values()]
    a, b = (np.concatenate(axes) for axes in zip(*every, strict=True))
    ratio = proportion(next(iter(records.values())), a, b)
    levels = Levels.of(
        np.concatenate([data["loss"].to_numpy().ravel() for data in records.values()])
    )
    figure, axes = sheet(1, 1, width=4.6, height=4.9)
    axis: Axes = axes[0, 0]
    shade_bar(axis, levels)
    keys = {
        str(patch.get_label()): patch
        for data in records.values()
        for _, patch in absent(data, data["loss"].to_numpy())
    }
    write_caption(figure, "The same levels and limits in all frames.", list(keys.values()))
    heading(figure, f"Loss over {number(len(records), 'plane')}")
    try:
        with writer.saving(figure, str(path), _DPI):
            for title, data in records.items():
                frame(axis, data, ratio, width=_PANEL, height=_PANEL)
                _draw_frame(axis, data, levels, title)
                axis.set(xlim=(a.min(), a.max()), ylim=(b.min(), b.max()))
                declutter(figure)
                figure.set_layout_engine("none")  # as in the first frame, so that nothing jumps
                writer.grab_frame()
    except OSError as error:
        raise RequestError(
            f"cannot write {path}: {error.strerror or error}. Name a folder that can be written."
        ) from error


def _writer(path: Path) -> AbstractMovieWriter:
    from matplotlib.animation import FFMpegWriter, PillowWriter

    if path.suffix == ".gif":
        return PillowWriter(fps=_FRAMES_PER_SECOND)
    if path.suffix != ".mp4":
        raise unknown_choice("kind of animation", path.suffix, (".gif", ".mp4"))
    if not FFMpegWriter.isAvailable():
        raise RequestError(
            f"{path} needs the program ffmpeg, which is not installed. Install it, or name the "
            f"animation {path.with_suffix('.gif')}."
        )
    return FFMpegWriter(fps=_FRAMES_PER_SECOND)


def _draw_frame(axis: Axes, data: xr.Dataset, levels: Levels, title: str) -> None:
    """One plane in the place of another."""
    for drawn in (*axis.collections, *axis.lines, *axis.patches):
        drawn.remove()
    for text in tuple(axis.texts):  # those of levels went with their lines
        text.remove()
    values = data["loss"].to_numpy()
    draw_bands(axis, data, values, levels)
    draw_absent(axis, data, values)
    list(draw_marks(axis, data))
    if "center_loss" in data:
        title += f": {pretty(float(data['center_loss']), 3)} at the center"
    axis.set_title(title, loc="left", fontsize=SIZE, color=INK)
