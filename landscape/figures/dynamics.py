"""Training dynamics: the data map, when examples were learned, what was forgotten, and margins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    GREY,
    VERMILION,
    described,
    heading,
    label,
    pretty,
    sheet,
    widened,
)
from landscape.figures.captions import number, write_caption

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.probes.dynamics.dynamics import Dynamics

    Array = NDArray[np.float64]

__all__ = ["dynamics"]

_MOST_BARS = 12  # of forgetting events; the last stands for more, too
_NEEDED = ("confidence", "variability", "forgetting", "aum")


def dynamics(record: xr.Dataset | Dynamics) -> Figure:
    """Data map, share learned over time, forgetting events, and sorted area under the margin.

    Examples that were never right are drawn apart: they were not forgotten, since they were never
    learned.

    Raises:
        RequestError: the record is of something else.

    Source: Swayamdipta et al. 2020, arXiv:2009.10795 (data maps); Toneva et al. 2019,
    arXiv:1812.05159 (forgetting); Pleiss et al. 2020, arXiv:2001.10528 (area under the margin).
    """
    data = described(record)
    if not set(_NEEDED) <= set(data.data_vars):
        raise RequestError(
            "training dynamics have a confidence and a margin for each example; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure them: landscape probe CKPT... "
            "--probe dynamics."
        )
    ever = data["ever_learned"].to_numpy().astype(bool)
    figure, axes = sheet(2, 2, height=6.4)
    handles = _draw_map(axes[0, 0], data, ever)
    handles += _draw_learning(axes[0, 1], data)
    _draw_forgetting(axes[1, 0], data, ever)
    _draw_margins(axes[1, 1], data, ever)
    write_caption(figure, _caption(data, ever), handles)
    times = data.sizes["time"]
    heading(figure, f"Training dynamics of {number(len(ever), 'example')} at {times} times")
    return figure


def _draw_map(axis: Axes, data: xr.Dataset, ever: NDArray[np.bool_]) -> list[Artist]:
    confidence, variability = (data[name].to_numpy() for name in ("confidence", "variability"))
    share = data["correctness"].to_numpy() / data.sizes["time"]
    size = float(np.clip(2000 / len(ever), 3, 18))
    drawn = axis.scatter(
        variability[ever], confidence[ever], c=share[ever], s=size, vmin=0, vmax=1, cmap="viridis",
        linewidths=0, alpha=0.8, zorder=2,
    )  # fmt: skip
    never = axis.scatter(
        variability[~ever], confidence[~ever], color=VERMILION, marker="x", s=2 * size,
        linewidths=0.9, label="never right", zorder=3,
    )  # fmt: skip
    bar = axis.figure.colorbar(drawn, ax=axis, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of times right", fontsize=8)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xlim(*widened(0.0, float(np.nanmax(variability, initial=0.1))))
    label(
        axis,
        x="variability of the true class's probability",
        y="its mean (confidence)",
        title="data map",
    )
    return [] if ever.all() else [never]


def _draw_learning(axis: Axes, data: xr.Dataset) -> list[Artist]:
    times = data["time"].to_numpy().astype(float)
    count = data.sizes["example"]
    handles: list[Artist] = []
    (line,) = axis.plot(
        times, data["accuracy"].to_numpy(), color=BLUE, marker="o", markersize=3, label="right"
    )
    handles.append(line)
    for name, style, words in (
        ("first_learned", "--", "right at least once so far"),
        ("iteration_learned", ":", "right from here on"),
    ):
        when = data[name].to_numpy()
        reached = [float(np.sum(when <= time)) / count for time in times]
        (line,) = axis.plot(times, reached, color=GREY, linestyle=style, label=words)
        handles.append(line)
    axis.set_ylim(-0.03, 1.03)
    axis.xaxis.set_major_formatter(lambda x, _: pretty(x))
    label(axis, x="time", y="share of examples", title="learning")
    return handles


def _draw_forgetting(axis: Axes, data: xr.Dataset, ever: NDArray[np.bool_]) -> None:
    events = data["forgetting"].to_numpy()[ever]
    events = np.minimum(events, _MOST_BARS).astype(int)
    counts = np.bincount(events, minlength=1)
    places = np.arange(len(counts))
    axis.bar(places, counts, color=BLUE, width=0.8)
    names = [str(place) for place in places]
    if len(counts) > _MOST_BARS:
        names[-1] = f"{_MOST_BARS}+"
    if not ever.all():
        axis.bar([len(counts) + 0.5], [np.sum(~ever)], color=VERMILION, width=0.8)
        places, names = np.append(places, len(counts) + 0.5), [*names, "never\nright"]
    axis.set_xticks(places, names)
    axis.set_ylim(0, 1.06 * max(float(counts.max()), float(np.sum(~ever)), 1.0))
    label(axis, x="times that an example was forgotten", y="examples", title="forgetting")


def _draw_margins(axis: Axes, data: xr.Dataset, ever: NDArray[np.bool_]) -> None:
    margins = data["aum"].to_numpy()
    finite = np.isfinite(margins)
    order = np.argsort(margins[finite], kind="stable")
    values, learned = margins[finite][order], ever[finite][order]
    places = np.arange(1, len(values) + 1)
    marker = "o" if len(values) == 1 else ""  # a line of one point is not seen
    axis.plot(places, values, color=BLUE, linewidth=1.4, marker=marker)
    axis.plot(
        places[~learned], values[~learned], color=VERMILION, linestyle="none", marker="x",
        markersize=4,
    )  # fmt: skip
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    label(axis, x="example, in this order", y="area under the margin (logits)", title="margins")


def _caption(data: xr.Dataset, ever: NDArray[np.bool_]) -> str:
    events = data["forgetting"].to_numpy()[ever]
    margins = data["aum"].to_numpy()
    words = [
        f"{number(int(np.sum(~ever)), 'example')} never right",
        f"{int(np.sum(events == 0)):,} learned and never forgotten",
        f"{int(np.sum(margins < 0)):,} with a negative area under the margin",
    ]
    lost = int(np.sum(~np.isfinite(margins)))
    if lost:
        words.append(f"{lost:,} without a margin")
    return "; ".join(words) + "."
