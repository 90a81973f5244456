"""Memorization: a histogram, the sorted values with intervals, and the examples themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    GREY,
    INK,
    NOISE,
    SIZE,
    described,
    heading,
    label,
    log_axis,
    pretty,
    sheet,
)
from landscape.figures.captions import number, write_caption

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.probes.subsets.memorization import Memorization

    Array = NDArray[np.float64]

__all__ = ["draw_images", "memorization"]

_BINS = np.linspace(-1, 1, 41)
_MEMORIZED = 0.25  # as in Feldman and Zhang 2020
_COLUMNS = 8  # images in a row
_MOST_IMAGES = 24


def memorization(record: xr.Dataset | Memorization) -> Figure:
    """Histogram of the values, all of them in order with 95 % intervals, the most memorized images.

    Images are drawn where the record keeps some: inputs (channels, height, width) of one or three
    channels, each in its own range of values.

    Raises:
        RequestError: the record is of something else.

    Source: Feldman and Zhang 2020, arXiv:2008.03703.
    """
    data = described(record)
    if not {"value", "lower", "upper", "num_out"} <= set(data.data_vars):
        raise RequestError(
            "memorization has a value with an interval for each example; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure it: landscape train subsets --out "
            "runs, then landscape probe runs --probe memorization."
        )
    images = _images(data)
    rows = -(-len(images) // _COLUMNS)
    figure, axes = sheet(
        1 + rows, _COLUMNS, height=4.0 + 1.15 * rows, height_ratios=[3.0] + [1.0] * rows
    )
    grid = axes[0, 0].get_gridspec()
    for axis in axes[0]:
        axis.set_visible(False)
    left, right = axes[0, 0], axes[0, _COLUMNS // 2]
    left.set_subplotspec(grid[0, : _COLUMNS // 2])
    right.set_subplotspec(grid[0, _COLUMNS // 2 :])
    for axis in (left, right):
        axis.set_visible(True)
    _draw_histogram(left, data["value"].to_numpy())
    handles = _draw_sorted(right, data)
    draw_images(axes[1:].flat, images, _names(data, len(images)))
    write_caption(figure, _caption(data), handles)
    heading(figure, f"Memorization of {number(data.sizes['example'], 'example')}")
    return figure


def _draw_histogram(axis: Axes, values: Array) -> None:
    values = values[np.isfinite(values)]
    counts, _, _ = axis.hist(np.clip(values, -1, 1), bins=_BINS.tolist(), color=BLUE)
    if len(values):
        highest = float(np.max(counts))
        log_axis(axis, "y", 1, highest)
        axis.set_ylim(0.7, 1.4 * highest)
    axis.axvline(_MEMORIZED, color=INK, linewidth=0.9, linestyle="--")
    axis.set_xlim(min(-0.05, float(values.min(initial=0.0))) - 0.03, 1.03)
    label(axis, x="memorization", y="examples", title="histogram")


def _draw_sorted(axis: Axes, data: xr.Dataset) -> list[Artist]:
    values, low, high = (data[name].to_numpy() for name in ("value", "lower", "upper"))
    held = np.isfinite(values)
    order = np.argsort(-values[held], kind="stable")
    places = np.arange(1, int(held.sum()) + 1)
    handles: list[Artist] = [
        axis.fill_between(
            places, low[held][order], high[held][order], color=NOISE, label="95 % interval",
            step="mid",
        ),
        *axis.plot(
            places, values[held][order], color=BLUE, linewidth=1.4, label="memorization",
            marker="o" if len(places) == 1 else "",  # a line of one point is not seen
        ),
        axis.axhline(
            _MEMORIZED, color=INK, linewidth=0.9, linestyle="--",
            label=f"memorized from {_MEMORIZED} on",
        ),
    ]  # fmt: skip
    if np.isfinite(float(data["null_high"])):
        handles.append(
            axis.axhline(
                float(data["null_high"]), color=GREY, linewidth=0.9, linestyle=":",
                label="largest by chance (97.5 %)",
            )
        )  # fmt: skip
    axis.set_ylim(min(-0.1, float(low[held].min(initial=0.0))), 1.05)
    axis.set_xlim(0.5, max(1.5, len(places) + 0.5))
    label(axis, x="example, in this order", title="sorted")
    return handles


def _images(data: xr.Dataset) -> Array:
    """(shown, height, width) or (shown, height, width, 3); none where inputs are no images."""
    if "shown_input" not in data:
        return np.empty((0, 1, 1))
    inputs = data["shown_input"].to_numpy()[:_MOST_IMAGES].astype(np.float64)
    if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
        inputs = np.moveaxis(inputs, 1, -1)
        return inputs[..., 0] if inputs.shape[-1] == 1 else inputs
    return inputs if inputs.ndim == 3 else np.empty((0, 1, 1))


def _names(data: xr.Dataset, count: int) -> list[str]:
    """Number of each example, its label and its value."""
    found = []
    for place in range(count):
        example = int(data["shown_example"].to_numpy()[place])
        value = float(data["value"].to_numpy()[example])
        words = f"{example}"
        if "label" in data:
            words += f": class {int(data['label'].to_numpy()[example])}"
        found.append(f"{words}\n{pretty(value, 2)}")
    return found


def draw_images(panels: Any, images: Array, names: list[str]) -> None:
    """Images, each in its own range and with a name above; other panels stay empty."""
    for index, axis in enumerate(panels):
        axis.set_axis_off()
        if index >= len(images):
            continue
        image = images[index]
        low, high = float(image.min()), float(image.max())
        scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
        axis.imshow(scaled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(names[index], fontsize=SIZE - 2.5, color=INK, pad=2)


def _caption(data: xr.Dataset) -> str:
    values = data["value"].to_numpy()
    held = np.isfinite(values)
    words = [number(int(data["num_models"]), "network")]
    words.append(f"{int(np.sum(values >= _MEMORIZED)):,} memorized ({_MEMORIZED} or more)")
    certain = int(np.sum(data["lower"].to_numpy()[held] > 0))
    words.append(f"{certain:,} whose interval lies above 0")
    if not held.all():
        words.append(f"{int(np.sum(~held)):,} undefined: seen by all networks or by none")
    if np.isfinite(float(data["split_half"])):
        words.append(f"reliability of halves {pretty(float(data['split_half']), 3)}")
    return "; ".join(words) + "."
