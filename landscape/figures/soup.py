"""An average of solutions beside its members: what it loses, and what it gains over them.

How the members of a greedy soup were chosen is beneath.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from landscape.figures.profiles import COLOURS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.merging.averaging import Average
    from landscape.merging.soup import Soup

    Array = NDArray[np.float64]

__all__ = ["soup"]

_METRICS = {"loss": "loss", "accuracy": "accuracy\n(share of examples)"}
_CHANGES = {"mean": "members' mean", "best": "best member"}
_MOST_TICKS = 24  # with a number each
_SIZE = 4.5  # of a marker, in points


def soup(record: xr.Dataset | Average | Soup) -> Figure:
    """Loss and accuracy of the average beside those of its members, and the difference in loss.

    A dashed line is the mean of the members with their weights. The differences have two standard
    errors, from the same examples of both. A greedy soup has a panel of its candidates, too.

    Raises:
        RequestError: the record is no average.
    """
    data = described(record)
    if not {"member_loss", "change_from_mean"} <= set(data.data_vars):
        raise RequestError(
            "an average has members and a change from their mean; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure one: landscape path A B --probe soup."
        )
    names, is_greedy = _data_names(data), "candidate_score" in data
    has_classes = bool(np.isfinite(data["accuracy"]))
    rows = 2 if has_classes or is_greedy else 1
    figure, axes = sheet(rows, 2, width=7.4, height=1.5 + 2.2 * rows, width_ratios=(1.5, 1))
    _draw_members(axes[0, 0], data, names, "loss")
    _draw_changes(axes[0, 1], data, names)
    if has_classes:
        _draw_members(axes[1, 0], data, names, "accuracy")
    elif is_greedy:
        axes[1, 0].remove()
    handles = list(_keys(names))
    if is_greedy:
        handles += _draw_candidates(axes[1, 1], data)
    elif has_classes:
        axes[1, 1].remove()
        axes[0, 1].set_subplotspec(axes[0, 1].get_gridspec()[:, 1])
    figure.align_ylabels([axis for axis in axes[:, 0] if axis.figure is not None])
    write_caption(figure, _caption(data, names), handles)
    of = number(data.sizes["member"], "solution")
    if is_greedy:
        of += f" out of {data.sizes['candidate']}"
    heading(figure, f"Average of {of}")
    return figure


def _data_names(data: xr.Dataset) -> list[str]:
    """The data that the average was measured on: "" for the objective's own."""
    ends = "member_loss"
    return [
        str(name).removesuffix(ends).removesuffix("_") for name in data if str(name).endswith(ends)
    ]


def _field(name: str, quantity: str) -> str:
    return f"{name}_{quantity}" if name else quantity


def _draw_members(axis: Axes, data: xr.Dataset, names: list[str], metric: str) -> None:
    """Members from left to right, then their average."""
    count = data.sizes["member"]
    places = np.arange(1, count + 1)
    shown = []
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        members = data[_field(name, f"member_{metric}")].to_numpy()
        average = float(data[_field(name, metric)])
        axis.plot(places, members, linestyle="none", marker="o", markersize=_SIZE, color=colour)
        axis.plot([count + 1], [average], **_average_look(colour))
        shown += [*members.tolist(), average]
        if metric == "loss":
            mean = average - float(data[_field(name, "change_from_mean")])
            axis.plot(
                [1, count + 1], [mean, mean], color=colour, linewidth=1.0, linestyle="--", zorder=1
            )
            shown.append(mean)
    values = np.asarray(shown)
    finite = values[np.isfinite(values)]
    if metric == "loss" and spans_a_decade(values):
        log_axis(axis, "y", finite.min(), finite.max())
        axis.set_ylim(*10 ** np.asarray(widened(*np.log10([finite.min(), finite.max()]))))
    else:
        axis.set_ylim(*widened(finite.min(initial=np.inf), finite.max(initial=-np.inf)))
        axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    step = -(-count // _MOST_TICKS)
    ticks = places[::step]
    axis.set_xticks([*ticks, count + 1], [*map(str, ticks), "average"])
    axis.set_xlim(0.5, count + 1.7)
    greedy = ", as it was taken" if "candidate_score" in data else ""
    label(axis, x=f"member{greedy}", y=_METRICS[metric])


def _average_look(colour: str) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": "D",
        "markersize": _SIZE + 2,
        "color": colour,
        "markeredgecolor": INK,
        "zorder": 3,
    }


def _draw_changes(axis: Axes, data: xr.Dataset, names: list[str]) -> None:
    """Differences with two standard errors; left of zero the average is better."""
    rows: list[str] = []
    ends = [0.0]
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        for than, words in _CHANGES.items():
            change = float(data[_field(name, f"change_from_{than}")])
            error = float(data[_field(name, f"change_from_{than}_error")])
            radius = 2 * error if np.isfinite(error) else 0.0
            axis.plot(
                [change - radius, change + radius], [len(rows)] * 2, color=colour, linewidth=1.6
            )
            axis.plot([change], [len(rows)], marker="D", markersize=_SIZE, color=colour)
            ends += [change - radius, change + radius]
            rows.append(f"{words}\n{with_error(change, error)}")
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_yticks(range(len(rows)), rows, fontsize=SIZE - 1.5)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    finite = np.asarray(ends)[np.isfinite(ends)]
    axis.set_xlim(*widened(float(finite.min()), float(finite.max()), share=0.1))
    axis.xaxis.set_major_formatter(lambda x, _: pretty(x))
    axis.locator_params(axis="x", nbins=4)
    axis.grid(False, axis="y")
    axis.grid(True, axis="x", color="#E9E9E9", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    label(axis, x="loss", title="loss of the average minus ...")


def _draw_candidates(axis: Axes, data: xr.Dataset) -> list[Artist]:
    """The candidates from the best on: alone, and in the soup when it was their turn."""
    order = np.argsort(data["rank"].to_numpy())
    places = np.arange(1, len(order) + 1)
    alone, trials = (data[name].to_numpy()[order] for name in ("candidate_score", "trial_score"))
    kept = data["kept"].to_numpy().astype(bool)[order]
    dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": _SIZE}
    (one,) = axis.plot(places, alone, color=GREY, label="candidate alone", **dots)
    green = COLOURS[2]
    taken, left = (
        axis.plot(
            places[chosen],
            trials[chosen],
            **{**dots, "marker": "s"},
            color=green,
            markerfacecolor=colour,
            label=f"soup with it, {words}",
        )[0]
        for chosen, colour, words in ((kept, green, "kept"), (~kept, "white", "left out"))
    )
    finite = np.concatenate([alone, trials])
    finite = finite[np.isfinite(finite)]
    axis.set_ylim(*widened(finite.min(initial=np.inf), finite.max(initial=-np.inf)))
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    step = -(-len(order) // (_MOST_TICKS // 2))
    axis.set_xticks(places[::step], [str(number + 1) for number in order[::step]])
    axis.set_xlim(0.5, len(order) + 0.5)
    settings = json.loads(str(data.attrs.get("settings", "{}")))
    criterion = str(settings.get("criterion", "accuracy"))
    label(axis, x="candidate, the best first", title=f"validation {criterion}")
    return [one, *([taken] if kept.any() else []), *([left] if not kept.all() else [])]


def _keys(names: list[str]) -> Iterator[Artist]:
    from matplotlib.lines import Line2D

    dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": _SIZE}
    if len(names) > 1:
        for name, colour in zip(names, cycle(COLOURS), strict=False):
            yield Line2D([], [], color=colour, label=f"{name or 'own'} data", **dots)
    shade = BLUE if len(names) == 1 else GREY
    yield Line2D([], [], color=shade, linestyle="--", linewidth=1.0, label="mean of the members")
    yield Line2D([], [], label="average", **_average_look(shade))


def _caption(data: xr.Dataset, names: list[str]) -> str:
    """What the average loses, by data, and how far the members are from it."""
    found = [
        f"{name or 'own'} data: loss {pretty(float(data[_field(name, 'loss')]), 3)}"
        + (
            f", accuracy {pretty(100 * float(data[_field(name, 'accuracy')]), 3)} %"
            if np.isfinite(data[_field(name, "accuracy")])
            else ""
        )
        for name in names
    ]
    distances = data["distance"].to_numpy()
    if np.isfinite(distances).any():
        low, high = (
            pretty(float(edge), 3) for edge in (np.nanmin(distances), np.nanmax(distances))
        )
        found.append(f"members {low if low == high else f'{low} to {high}'} from the average")
    text = "; ".join(found)
    return (
        f"Average on {text}. Bars: two standard errors of the difference, by the same examples; "
        "that the best member was chosen for its loss is not in them."
    )
