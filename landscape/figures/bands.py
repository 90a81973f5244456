"""Bands of frequencies: what a network makes of images that keep, or lack, one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    described,
    heading,
    label,
    pretty,
    sheet,
)
from landscape.figures.captions import number, write_caption
from landscape.figures.memorization import draw_images

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.probes.features.band_use import BandUse

__all__ = ["bands"]

_MOST_IMAGES = 3


def bands(record: xr.Dataset | BandUse) -> Figure:
    """Accuracy by band with 95 % intervals, the bands' power, and what some images look like.

    Raises:
        RequestError: the record is of something else.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113.
    """
    data = described(record)
    if not {"accuracy", "power_share", "removed_accuracy"} <= set(data.data_vars):
        raise RequestError(
            "the use of bands has an accuracy for each of them; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure it: landscape probe CKPT "
            "--probe bands."
        )
    names = [str(name) for name in data["band"].to_numpy()]
    images = _images(data)
    rows, columns = images.shape[:2]
    figure, axes = sheet(
        1 + rows, columns, height=3.7 + 1.5 * rows, height_ratios=[3.0] + [1.4] * rows
    )
    grid = axes[0, 0].get_gridspec()
    for axis in axes[0, 1:]:
        axis.remove()
    top = axes[0, 0]
    top.set_subplotspec(grid[0, :])
    handles = _draw_accuracies(top, data, names)
    for row, shown in enumerate(images, start=1):
        titles = data["band_image"].to_numpy().tolist() if row == 1 else [""] * columns
        draw_images(axes[row], shown, titles)
    write_caption(figure, _caption(data), handles)
    heading(figure, f"Use of {number(len(names), 'band')} of frequencies")
    return figure


def _draw_accuracies(axis: Axes, data: xr.Dataset, names: list[str]) -> list[Artist]:
    places = np.arange(len(names))
    handles: list[Artist] = []
    for shift, (name, low, high), colour, words in (
        (-0.12, ("accuracy", "low", "high"), BLUE, "images that keep this band alone"),
        (
            0.12,
            ("removed_accuracy", "removed_low", "removed_high"),
            VERMILION,
            "images that lack it",
        ),
    ):
        axis.vlines(
            places + shift, data[low].to_numpy(), data[high].to_numpy(), color=colour, alpha=0.5,
            linewidth=2.5,
        )  # fmt: skip
        handles += axis.plot(
            places + shift, data[name].to_numpy(), color=colour, linestyle="none", marker="o",
            markersize=5, label=words,
        )  # fmt: skip
    for name, words, colour, line in (
        ("full_accuracy", "all bands", INK, "-"),
        ("chance", "chance", GREY, ":"),
    ):
        height = float(data[name])
        handles.append(
            axis.axhline(height, color=colour, linewidth=0.9, linestyle=line, label=words)
        )
    power = data["power_share"].to_numpy()
    axis.set_xticks(
        places,
        [f"{name}\n{pretty(100 * share, 2)} %"
         for name, share in zip(names, power, strict=True)],
    )  # fmt: skip
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(-0.03, 1.03)
    label(axis, x="band, and its share of the power", y="accuracy")
    return handles


def _images(data: xr.Dataset) -> NDArray[np.float64]:
    """(shown, 1 + bands, height, width) or (..., 3)."""
    images = data["shown_image"].to_numpy()[:_MOST_IMAGES].astype(np.float64)
    images = np.moveaxis(images, 2, -1)
    if images.shape[-1] == 3:
        return images
    return np.asarray(images.mean(-1))


def _caption(data: xr.Dataset) -> str:
    words = ["bars: 95 % intervals", "each image in its own range of values"]
    if not data.sizes["shown"]:
        words = words[:1]
    text = "; ".join(words)
    return f"{text[0].upper()}{text[1:]}."
