"""An alignment of two networks: how its descents went, and which units have changed places.

The barriers before and after: `barrier`, with `others`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    GREY,
    SIZE,
    VERMILION,
    described,
    heading,
    label,
    pretty,
    sheet,
    unit_of,
    widened,
)
from landscape.figures.captions import number, write_caption

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landscape.alignment.aligning import Alignment

__all__ = ["alignment"]

_FEW = 5  # groups: the bars of fewer are no thicker
_MOST_NAMES = 30  # groups with a name each
_IDENTITY, _RANDOM = "from the identity", "from a random permutation"


def alignment(record: xr.Dataset | Alignment) -> Figure:
    """Similarity after each sweep of each descent, and the share of moved units by group.

    Raises:
        RequestError: the record is no alignment.
    """
    data = described(record)
    if not {"history", "group_moved"} <= set(data.data_vars):
        raise RequestError(
            "an alignment has a history and the moved units of each group; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure one: landscape path A B --align "
            "weights."
        )
    count = data.sizes["group"]
    height = 2.9 + 0.16 * min(max(count - 8, 0), _MOST_NAMES - 8)
    figure, axes = sheet(1, 2, width=7.2, height=height + 0.9, width_ratios=(1.5, 1))
    handles = _draw_descents(axes[0, 0], data)
    _draw_moved(axes[0, 1], data)
    # Of a stored record it is an attribute.
    status = str(getattr(record, "status", "converged"))
    write_caption(figure, _caption(data, status), handles)
    method = json.loads(str(data.attrs.get("settings", "{}"))).get("method", "weights")
    before, after = (pretty(float(data[f"distance_{when}"]), 4) for when in ("before", "after"))
    heading(figure, f"Alignment by {method}: distance {before} → {after}")
    return figure


def _draw_descents(axis: Axes, data: xr.Dataset) -> list[Artist]:
    """One line a descent; a ring where the one that was taken ended."""
    histories = data["history"].to_numpy()
    best = int(np.argmax(data["restart_similarity"].to_numpy()))
    handles: dict[str, Artist] = {}
    for index, history in enumerate(histories):
        reached = history[np.isfinite(history)]
        name = _RANDOM if index else _IDENTITY
        (line,) = axis.plot(
            np.arange(len(reached)),
            reached,
            color=GREY if index else BLUE,
            linewidth=1.0 if index else 1.5,
            marker="o",
            markersize=2.6,
            zorder=2.2 if index else 2.4,
            label=name,
        )
        handles.setdefault(name, line)
        if index == best:
            (handles["taken"],) = axis.plot(
                [len(reached) - 1],
                reached[-1:],
                linestyle="none",
                marker="o",
                markersize=8,
                color=VERMILION,
                markerfacecolor="none",
                markeredgewidth=1.4,
                zorder=3,
                label="taken",
            )
    finite = histories[np.isfinite(histories)]
    axis.set_ylim(*widened(finite.min(initial=np.inf), finite.max(initial=-np.inf)))
    axis.set_xlim(*widened(0.0, histories.shape[1] - 1.0))
    axis.locator_params(axis="x", integer=True, nbins=8)
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    words = str(data["restart_similarity"].attrs.get("long_name", "similarity"))
    unit = unit_of(data["history"])
    words += f"\n({unit})" if unit != "1" else ""
    label(axis, x="sweep over the groups", y=words)
    return list(handles.values())


def _draw_moved(axis: Axes, data: xr.Dataset) -> None:
    shares = data["group_moved"].to_numpy()
    names = [
        f"{name} ({size:,})"
        for name, size in zip(data["group"].to_numpy(), data["group_size"].to_numpy(), strict=True)
    ]
    places = np.arange(len(shares))
    axis.barh(places, shares, color=BLUE, height=0.65)
    if len(names) <= _MOST_NAMES:
        axis.set_yticks(places, names, fontsize=SIZE - 2)
    axis.set_ylim(max(len(names), _FEW) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.grid(False, axis="y")
    axis.grid(True, axis="x", color="#E9E9E9", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(lambda x, _: pretty(x))
    axis.locator_params(axis="x", nbins=5)
    label(axis, x="share of its units\nthat changed places", title="group (units)")


def _caption(data: xr.Dataset, status: str) -> str:
    reached = data["restart_similarity"].to_numpy()
    moved = pretty(100 * float(data["moved_share"]), 3)
    found = [
        f"{moved} % of the {int(data['group_size'].sum()):,} units in "
        f"{number(data.sizes['group'], 'group')} changed places",
        f"{number(len(reached), 'descent')} reached {pretty(reached.min(), 5)}"
        + (f" to {pretty(reached.max(), 5)}" if len(reached) > 1 else ""),
    ]
    if status != "converged":
        found.append(status)
    text = "; ".join(found)
    return f"{text[:1].upper()}{text[1:]}. The network is the same function as before."
