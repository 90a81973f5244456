"""The topology of a grid of losses: how long each basin lasts, and which one it joins.

The numbers are those of `slices.topology`; both panels have the same axis of losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.figures.canvas import (
    BLUE,
    GREY,
    INK,
    LEGEND,
    SIZE,
    described,
    heading,
    label,
    log_axis,
    pretty,
    sheet,
    widened,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.slices.topology import Topology

    Array = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["topology"]

_MOST_BRANCHES = 24  # that a panel has room for
_MOST_PLACED = 8  # branches with room for their coordinates beneath
_MOST_NAMED = 12  # points of the diagram that have their number beside them
_LETTERS = (0.09, 0.045)  # of the diagram's width and height, that a number takes
_MOST_LETTERS = 40  # beneath the tree; more are set upright
_FAR = 30  # times the least loss: the greatest is drawn on a log axis
_ROOM = 0.12  # of the axis, above the highest saddle: there go those that never end
_DIAGONAL: Mapping[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": "--"}
_BAR: Mapping[str, Any] = {"color": GREY, "linewidth": 1.0, "alpha": 0.6}
_TOP = 0.95  # of the axis: where they end on paper


def topology(record: xr.Dataset | Topology) -> Figure:
    """Persistence diagram, with the noise where it is known, beside the merge tree.

    A point far above the diagonal is a basin with high walls. A bar hangs two standard errors down:
    where it reaches the diagonal, the basin may be noise. A branch of the tree rises from its
    minimum to the saddle at which it joins a deeper one; the numbers are those of the record,
    deepest first.
    """
    data = described(record)
    figure, axes = sheet(1, 2, height=4.6, sharey=True, width_ratios=[1, 1.2])
    diagram, tree = axes[0]
    _set_scale(diagram, data)
    order = np.argsort(-data["persistence"].to_numpy(), kind="stable")
    _draw_diagram(diagram, data, order)
    _draw_tree(tree, data, order[:_MOST_BRANCHES])
    shape = " × ".join(f"{length:,}" for length in data["basin"].shape)
    heading(figure, f"Topology of {shape} losses")
    figure.legend(handles=_legend(data), loc="outside lower center", ncols=3, **LEGEND)
    return figure


def _facts(data: xr.Dataset) -> str:
    """What there is to read, in numbers."""
    count = int(data["num_minima"])
    text = f"{count:,} {'minimum' if count == 1 else 'minima'}"
    if "significant" in data:
        text += f", {int(data['num_significant']):,} beyond two standard errors"
    if np.isfinite(data["death"]).any():
        text += f"\nlargest finite persistence: {pretty(float(data['largest_finite_persistence']))}"
    absent = {"NaN": "num_nan", "missing": "num_missing", "infinite": "num_infinite"}
    counts = [f"{int(data[name]):,} {kind}" for kind, name in absent.items() if data[name] > 0]
    return text + (f"\npoints left out: {', '.join(counts)}" if counts else "")


def _set_scale(diagram: Axes, data: xr.Dataset) -> None:
    """Limits that hold all losses, with room above for those that never end; log if they go far."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    births, deaths = data["birth"].to_numpy(), data["death"].to_numpy()
    least, last = births.min(initial=np.inf), births.max(initial=-np.inf)
    most = max(last, deaths[np.isfinite(deaths)].max(initial=-np.inf))
    low, high = widened(least, most, share=_ROOM)
    left, right = widened(least, last)
    if most > _FAR * least > 0:
        margin = (most / least) ** _ROOM
        low, high, left, right = least / margin, most * margin, least / margin, last * margin
        log_axis(diagram, "x", left, right)
        log_axis(diagram, "y", low, high)
    else:
        diagram.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        for axis in (diagram.xaxis, diagram.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda loss, _: pretty(loss)))
    diagram.set_xlim(left, right)
    diagram.set_ylim(low, high)


def _draw_diagram(axis: Axes, data: xr.Dataset, by_persistence: Integers) -> None:
    births, deaths = data["birth"].to_numpy(), data["death"].to_numpy()
    low, high = axis.get_ylim()
    axis.plot([low, high], [low, high], zorder=1, **_DIAGONAL)
    if "persistence_error" in data:
        ends = deaths - 2 * data["persistence_error"].to_numpy()
        known = np.isfinite(ends)
        axis.vlines(births[known], ends[known], deaths[known], zorder=2, **_BAR)
    heights = np.minimum(deaths, _ceiling(axis))
    _mark(axis, data, births, heights, np.isinf(deaths))
    _number(axis, np.stack([births, heights], axis=-1), by_persistence)
    label(axis, x="loss at the minimum", y="loss at the saddle", title=_facts(data))


def _number(axis: Axes, points: Array, by_persistence: Integers) -> None:
    """The numbers of the most persistent points, where they do not hide one another."""
    to_axes = axis.transData + axis.transAxes.inverted()
    taken = np.empty((0, 2))
    for number in by_persistence[:_MOST_NAMED]:
        place = to_axes.transform(points[number])
        if (np.abs(taken - place) > _LETTERS).any(axis=1).all():
            taken = np.vstack([taken, place])
            axis.annotate(
                str(number),
                points[number],
                xytext=(5, 3),
                textcoords="offset points",
                fontsize=SIZE - 2,
                color=INK,
            )


def _draw_tree(axis: Axes, data: xr.Dataset, shown: Integers) -> None:
    births, deaths = data["birth"].to_numpy(), data["death"].to_numpy()
    parents, colours = data["parent"].to_numpy(), np.asarray(_colours(data))
    ends = np.minimum(deaths, _ceiling(axis))
    order = _side_by_side(shown, parents, deaths)
    places = np.full(len(births), np.nan)
    places[order] = np.arange(len(order))
    axis.vlines(
        places[order], births[order], ends[order], colors=colours[order].tolist(), linewidth=1.4
    )
    joined = order[parents[order] >= 0]
    ways = (deaths[joined], places[joined], places[parents[joined]])
    axis.hlines(*ways, colors=colours[joined].tolist(), linewidth=0.9)
    _mark(axis, data, places, births, np.zeros(len(births), bool))
    _mark(axis, data, np.where(np.isinf(deaths), places, np.nan), ends, np.isinf(deaths))
    names = [str(number) for number in order]
    title = "Merge tree"
    if len(order) < len(births):
        title += f" of the {len(order)} most persistent"
    label(axis, x="minimum", title=title)
    if 0 < len(order) <= _MOST_PLACED:
        names = [
            f"{name}\n{_placed(data, number)}" for name, number in zip(names, order, strict=True)
        ]
        coordinates = ", ".join(data["axis"].to_numpy())
        axis.set_xlabel(f"minimum, with its coordinates ({coordinates})")
    is_long = len("".join(names)) > _MOST_LETTERS and len(order) > _MOST_PLACED
    axis.set_xticks(np.arange(len(order)), names, fontsize=SIZE - 2, rotation=90 * is_long)
    axis.set_xlim(-0.6, max(len(order), 1) - 0.4)
    axis.tick_params(axis="x", length=0)


def _placed(data: xr.Dataset, number: int) -> str:
    """The coordinates of a minimum, one a line, to a thousandth of what the axis spans."""
    rows = []
    for axis, value in zip(
        data["axis"].to_numpy(), data["minimum_place"][number].to_numpy(), strict=True
    ):
        span = float(np.abs(data[axis]).max()) or 1.0
        rows.append(pretty(round(float(value), 3 - math.floor(math.log10(span)))))
    return "\n".join(rows)


def _side_by_side(shown: Integers, parents: Integers, deaths: Array) -> Integers:
    """Branches from left to right, so that none is crossed by the way of another to its parent.

    What joins a branch first stands next to it: it has ended where the others pass above.
    """
    children: dict[int, list[int]] = {}
    for number in sorted(shown.tolist(), key=lambda number: float(deaths[number])):
        children.setdefault(int(parents[number]), []).append(number)

    def around(number: int) -> list[int]:
        row = [number]
        for index, child in enumerate(children.get(number, [])):
            row = row + around(child) if index % 2 == 0 else around(child) + row
        return row

    row = [number for root in children.get(-1, []) for number in around(root)]
    return np.asarray(row, np.int64)


def _ceiling(axis: Axes) -> float:
    """The height at which those end on paper that never end."""
    to_data = axis.transData.inverted()
    _, y = to_data.transform(axis.transAxes.transform((0.0, _TOP)))
    return float(y)


def _colours(data: xr.Dataset) -> list[str]:
    if "significant" not in data:
        return [BLUE] * data.sizes["minimum"]
    return [BLUE if marked else GREY for marked in data["significant"].to_numpy()]


def _mark(axis: Axes, data: xr.Dataset, x: Array, y: Array, is_endless: NDArray[np.bool_]) -> None:
    """A marker for each minimum: its form, its colour and whether it is open have a meaning."""
    is_open, colours = data["at_border"].to_numpy(), np.asarray(_colours(data))
    for colour in (GREY, BLUE):
        for opened in (False, True):
            for endless in (False, True):
                chosen = (colours == colour) & (is_open == opened) & (is_endless == endless)
                axis.plot(x[chosen], y[chosen], zorder=3, **_look(colour, opened, endless))


def _look(colour: str, is_open: bool, is_endless: bool) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": "^" if is_endless else "o",
        "markersize": 6 if is_endless else 4.5,
        "color": colour,
        "markerfacecolor": "white" if is_open else colour,
    }


def _legend(data: xr.Dataset) -> list[Artist]:
    from matplotlib.lines import Line2D

    looks: dict[str, Mapping[str, Any]] = {}
    if "significant" in data:
        colours = _colours(data)
        kinds = {BLUE: "beyond two standard errors", GREY: "not beyond them: may be noise"}
        for colour, text in kinds.items():
            if colour in colours:
                looks[text] = _look(colour, False, False)
        looks["two standard errors, at most"] = _BAR
    else:
        looks["minimum"] = _look(BLUE, False, False)
    if data["at_border"].any():
        looks["at the border: may fall on beyond"] = _look(BLUE, True, False)
    if np.isinf(data["death"]).any():
        looks["never joins a deeper one"] = _look(BLUE, False, True)
    looks["diagonal: no persistence"] = _DIAGONAL
    return [Line2D([], [], label=text, **look) for text, look in looks.items()]
