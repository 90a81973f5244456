"""The checkpoints of a run in a plane: where they lie, what they lose, and how far off it they are.

The plane by itself: `plane`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    GREY,
    INK,
    SIZE,
    VERMILION,
    described,
    heading,
    label,
    log_axis,
    pretty,
    sheet,
    widened,
)
from landscape.figures.captions import caveats, spans_a_decade, write_caption
from landscape.figures.contours import (
    Levels,
    declutter,
    draw_absent,
    draw_bands,
    frame,
    halo,
    proportion,
    scale_note,
    shade_bar,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.slices.trajectory import Trajectory

    Array = NDArray[np.float64]

__all__ = ["trajectory"]

_ENDS = {"first checkpoint": (0, "s"), "last checkpoint": (-1, "D")}
_MANY = 40  # checkpoints: the points of more are smaller
_LEVEL = 1e-9  # of the way along the other axis: that is no way
_NAMED_TICKS = 5
_WIDTH = 3.3  # inches of the picture
_LONG_NAME = 5  # letters of a checkpoint's name that are set level


def trajectory(record: xr.Dataset | Trajectory) -> Figure:
    """The path over the contours of its plane, beside true losses and distances.

    A point has the colour of its true loss on the scale of the contours: where it differs from its
    surroundings, the plane does not show what the run went through.

    Raises:
        RequestError: the record is no trajectory.
    """
    data = described(record)
    if "checkpoint_place" not in data:
        raise RequestError(
            f"a trajectory has checkpoints; this record has {', '.join(map(str, data.dims))}. "
            "Measure one: landscape probe CKPT CKPT... --probe trajectory."
        )
    figure, axes = sheet(2, 2, width=7.4, height=4.9, width_ratios=[1.7, 1])
    picture, losses, distances = axes[0, 0], axes[0, 1], axes[1, 1]
    axes[1, 0].remove()
    picture.set_subplotspec(picture.get_gridspec()[:, 0])
    handles = [
        *_draw_picture(picture, data),
        *_draw_losses(losses, data),
        *_draw_distances(distances, data),
    ]
    losses.set_xticks(distances.get_xticks(), [])
    figure.align_ylabels([losses, distances])
    write_caption(figure, f"{_explained(data)} {caveats(data)}{scale_note(picture)}", handles)
    heading(figure, f"Trajectory of {data.sizes['checkpoint']:,} checkpoints")
    declutter(figure)
    return figure


def _draw_picture(axis: Axes, data: xr.Dataset) -> Iterator[Artist]:
    """Contours, where the plane was measured, and the path."""
    places, losses = data["checkpoint_place"].to_numpy(), data["checkpoint_loss"].to_numpy()
    levels = Levels.of(losses)
    low, high = (np.asarray(ends) for ends in zip(*_ends(places), strict=True))
    if "loss" in data:
        values = data["loss"].to_numpy()
        levels = Levels.of(np.concatenate([values.ravel(), losses]))
        draw_bands(axis, data, values, levels)
        yield from draw_absent(axis, data, values)
        plane = np.stack([[data[name].min(), data[name].max()] for name in ("a", "b")], axis=1)
        if (plane[0] <= places.min(axis=0)).all() and (places.max(axis=0) <= plane[1]).all():
            low, high = plane  # the path is inside, without a margin around the contours
        else:
            low, high = np.minimum(low, plane[0]), np.maximum(high, plane[1])
    yield from _draw_path(axis, places, losses, levels)
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
    ratio = proportion(data, *np.stack([low, high], axis=1))
    shape = (ratio or 1.0) * float((high - low)[1] / (high - low)[0])
    frame(axis, data, ratio, width=_WIDTH, height=min(_WIDTH * shape, _WIDTH))
    axis.set_title("loss: the plane's, and in the points their own", loc="left", fontsize=SIZE)
    shade_bar(axis, levels)


def _ends(places: Array) -> Iterator[tuple[float, float]]:
    """Limits around the path, axis by axis; alike where it does not move along one of them."""
    reach = float(np.ptp(places, axis=0).max())
    for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True):
        moves = high - low > _LEVEL * reach
        pad = 0.08 * (high - low) if moves else reach / 2 or 1.0
        yield low - pad, high + pad


def _draw_path(axis: Axes, places: Array, losses: Array, levels: Levels) -> Iterator[Artist]:
    """The points in the colours of their true losses, joined in their order."""
    axis.plot(*places.T, color=INK, linewidth=0.9, zorder=2.7, path_effects=halo(2.2))
    finite = np.isfinite(losses)
    size = 24 if len(places) <= _MANY else 16
    for chosen, marker, area in _kinds(len(places), size):
        points = places[chosen & finite]
        axis.scatter(
            points[:, 0],
            points[:, 1],
            c=losses[chosen & finite],
            cmap=levels.colours,
            norm=levels.norm,
            s=area,
            marker=marker,
            edgecolors=INK,
            linewidths=0.6,
            zorder=3,
        )
    for name, (_, marker) in _ENDS.items():
        yield _key(name, marker)
    if not finite.all():
        axis.plot(*places[~finite].T, linestyle="none", marker="x", color=VERMILION, zorder=3.1)
        yield _key("loss not finite", "x", VERMILION)


def _kinds(count: int, area: float) -> Iterator[tuple[NDArray[np.bool_], str, float]]:
    """Which checkpoints have which marker, of which area in points²."""
    between = np.ones(count, bool)
    for index, marker in _ENDS.values():
        chosen = np.zeros(count, bool)
        chosen[index] = True
        between[index] = False
        yield chosen, marker, 46
    yield between, "o", area


def _key(name: str, marker: str, colour: str = INK) -> Artist:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="none", marker=marker, color=colour, markerfacecolor="white", label=name
    )


def _draw_losses(axis: Axes, data: xr.Dataset) -> Iterator[Artist]:
    """What each checkpoint loses, and what the plane has at its place."""
    true, shown = data["checkpoint_loss"].to_numpy(), data["projected_loss"].to_numpy()
    both = np.concatenate([true, shown])
    finite = both[np.isfinite(both)]
    low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    if spans_a_decade(both):
        log_axis(axis, "y", low, high)
        axis.set_ylim(*10 ** np.asarray(widened(*np.log10([low, high]))))
    else:
        axis.set_ylim(*widened(low, high))
        axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    true, shown = (np.where(np.isfinite(one), one, np.nan) for one in (true, shown))
    yield _draw_series(axis, true, BLUE, "-", "loss of the checkpoint")
    yield _draw_series(axis, shown, VERMILION, "--", "loss of the plane at its place")
    label(axis, y="loss")


def _draw_distances(axis: Axes, data: xr.Dataset) -> Iterator[Artist]:
    """How far each checkpoint is from the plane, beside how far it is from the last one."""
    far, off = data["checkpoint_distance"].to_numpy(), data["checkpoint_residual"].to_numpy()
    yield _draw_series(axis, far, GREY, "-", "distance from the last checkpoint")
    yield _draw_series(axis, off, INK, "--", "distance from the plane")
    axis.set_ylim(0, float(np.nanmax(far, initial=0.0)) * 1.06 or 1.0)
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    names = [str(name) for name in data["checkpoint"].to_numpy()]
    ticks = np.unique(np.rint(np.linspace(1, len(names), _NAMED_TICKS)).astype(int))
    is_long = max(map(len, names)) > _LONG_NAME
    slant: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(ticks, [names[tick - 1] for tick in ticks], **(slant if is_long else {}))
    label(axis, x="checkpoint", y="distance\n(parameter)")


def _draw_series(axis: Axes, values: Array, colour: str, style: str, name: str) -> Artist:
    order = np.arange(1, len(values) + 1)
    marker = "o" if len(order) <= _MANY else "None"
    (drawn,) = axis.plot(
        order,
        values,
        color=colour,
        linestyle=style,
        linewidth=1.3,
        marker=marker,
        markersize=2.6,
        label=name,
    )
    axis.set_xlim(*widened(1, len(order)))
    return drawn


def _explained(data: xr.Dataset) -> str:
    """How much of the path a plane can show, and how much of it a random walk would seem to."""
    shares, walk = (data[name].to_numpy()[:2] for name in ("explained_share", "null_share"))
    found = []
    if len(shares) and np.isfinite(shares).all():
        found.append(
            f"The first principal components explain {_percent(shares)} of the variance, those of "
            f"a random walk of as many points {_percent(walk)}"
        )
    found.append(
        f"this plane shows {pretty(100 * float(data['in_plane_share']), 3)} % of the squared "
        "distances from the last checkpoint"
    )
    gap = float(data["largest_loss_gap"])
    if np.isfinite(gap):
        found.append(
            f"largest difference between the plane's loss and a checkpoint's {pretty(gap, 2)}"
        )
    text = "; ".join(found)
    return f"{text[:1].upper()}{text[1:]}."


def _percent(shares: Array) -> str:
    return " and ".join(pretty(100 * share, 3) for share in shares.tolist()) + " %"
