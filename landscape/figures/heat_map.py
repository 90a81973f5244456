"""A table of numbers in colours: pairs of solutions, layers against layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.figures.canvas import GREY, INK, SIZE, pretty, with_error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Shades", "draw_cells", "name_sides", "outline", "write_cells"]

_MOST_NUMBERS, _MOST_ERRORS = 12, 4  # rows of a table whose cells have room for them
_MOST_NAMES = 40  # along a side
_LEVEL_LETTERS = 50  # along the lower side: names that take more are set upright
_ABSENT = "#E9E9E9"


@dataclass(frozen=True)
class Shades:
    """From values to colours.

    Attributes:
        low, high: what the ends of the colours stand for.
        name: of matplotlib's colours.
    """

    low: float
    high: float
    name: str = "YlGnBu"

    @classmethod
    def from_zero(cls, values: Array, name: str = "YlGnBu") -> Shades:
        """From 0 to what is farthest from it; on both sides if there are values."""
        finite = values[np.isfinite(values)]
        low, high = min(0.0, finite.min(initial=0.0)), max(0.0, finite.max(initial=0.0))
        return cls(low, high if high > low else low + 1.0, name)


def draw_cells(
    axis: Axes, values: Array, shades: Shades, *, text: str, below: bool = False
) -> Iterator[Artist]:
    """The cells with their colours explained beside them; those without a value are hatched.

    Args:
        values: (rows, columns).
        text: beside the colours.
        below: the colours' bar is under the axes.
    """
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.ticker import FuncFormatter

    mesh = axis.pcolormesh(
        np.where(np.isfinite(values), values, np.nan),
        cmap=shades.name,
        vmin=shades.low,
        vmax=shades.high,
        edgecolors="white",
        linewidth=0.6,
    )
    axis.set(xlim=(0, values.shape[1]), ylim=(values.shape[0], 0))
    axis.set_aspect("equal")
    axis.grid(False)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    place = (0.0, -0.12, 1.0, 0.05) if below else (1.04, 0.0, 0.045, 1.0)
    bar = axis.figure.colorbar(
        mesh, cax=axis.inset_axes(place), orientation="horizontal" if below else "vertical"
    )
    bar.ax.tick_params(which="both", labelsize=SIZE - 1.5, colors=INK, length=2)
    bar.formatter = FuncFormatter(lambda value, _: pretty(value))
    bar.set_label(text, fontsize=SIZE - 0.5, color=INK)
    bar.outline.set_linewidth(0.6)
    absent = ~np.isfinite(values)
    look: dict[str, Any] = {
        "facecolor": _ABSENT,
        "edgecolor": GREY,
        "hatch": "////",
        "linewidth": 0.0,
    }
    for row, column in np.argwhere(absent).tolist():
        axis.add_patch(Rectangle((column, row), 1, 1, **look))
    if absent.any():
        yield Patch(label="no finite value", **look)


def write_cells(axis: Axes, values: Array, shades: Shades, errors: Array | None = None) -> None:
    """The numbers in the cells, where those are large enough; the diagonal's, too."""
    if max(values.shape) > _MOST_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        text = pretty(value, 2)
        if errors is not None and max(values.shape) <= _MOST_ERRORS:
            text = with_error(value, float(errors[row, column])).replace(" ± ", "\n± ")
        is_dark = (value - shades.low) / (shades.high - shades.low) > 0.55
        axis.text(
            column + 0.5,
            row + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=SIZE - 1.5 - 1.5 * (len(values) > _MOST_NUMBERS / 2),
            color="white" if is_dark else INK,
        )


def outline(axis: Axes, groups: NDArray[np.int64], colour: str = INK) -> None:
    """A line around the cells whose row and column are in one group."""
    from matplotlib.collections import LineCollection

    same = np.pad(groups[:, None] == groups, 1)
    edges = []
    for row, column in np.argwhere(same[1:] != same[:-1]).tolist():
        edges.append([(column - 1, row), (column, row)])
    for row, column in np.argwhere(same[:, 1:] != same[:, :-1]).tolist():
        edges.append([(column, row - 1), (column, row)])
    drawn = LineCollection(edges, colors=colour, linewidths=1.6, capstyle="projecting", zorder=3)
    drawn.set_clip_on(False)
    axis.add_collection(drawn, autolim=False)


def name_sides(axis: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names at the left and beneath; of many every second, third, ... one."""
    for names, ticks in ((rows, axis.set_yticks), (columns, axis.set_xticks)):
        step = math.ceil(len(names) / _MOST_NAMES)
        size = SIZE - 1.5 - 1.5 * (len(names) > _MOST_NAMES / 2)
        ticks(np.arange(0, len(names), step) + 0.5, list(names[::step]), fontsize=size)
    if columns and max(map(len, columns)) * min(len(columns), _MOST_NAMES) > _LEVEL_LETTERS:
        axis.tick_params(axis="x", rotation=90)
