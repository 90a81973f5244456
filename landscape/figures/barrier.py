"""What lies on the way between two solutions: loss and error along it, and the barrier's origin.

The barriers of a whole family: `barrier_matrix`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
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
    pretty,
    sheet,
    widened,
    with_error,
)
from landscape.figures.captions import write_caption
from landscape.figures.profiles import (
    COLOURS,
    data_names,
    draw_absent,
    draw_profile,
    field_of,
    mark_height,
    name_height,
    set_range,
    used_panels,
    with_gaps,
)
from landscape.paths.heights import height

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.paths.barrier import Barrier

    Array = NDArray[np.float64]

__all__ = ["barrier"]

_METRICS = {"loss": "loss", "error": "error\n(share of examples)"}
_UNCHANGED = "unchanged"  # the record that others are compared with
_BAND = "±2 standard errors"
_CHORD = "chord"
_MEANINGS = (
    "The gap above the chord is D − J − e: D, change of the log partition function; J, what "
    "averaged logits gain; e, deviation of the target's logit."
)
_CHOSEN = (
    "Bands: the rise above the chord, by paired differences of the examples. That a place was "
    "chosen for its height is not in the errors."
)
_BATCH_NORM = {
    "recalibrate": "recalibrated at each point",
    "interpolate": "interpolated between the ends",
    "batch": "those of each batch",
    "eval": "those of one network at all points",
}
_SPAN = (0.0, 1.0)
_DOTTED: Any = (0, (1, 1.5))
_NEAR = 0.1  # of the path, on either side of a height: so wide is its name
_ROUNDING = 1e-9  # of the loss: less is nothing to explain
_MOST_CLASSES = 20  # with a name each


def barrier(
    record: xr.Dataset | Barrier, *, others: Mapping[str, xr.Dataset | Barrier] | None = None
) -> Figure:
    """Loss above error along the path, with the chord, the greatest height, and where it is from.

    The band is two standard errors of the height above the chord, from paired differences of the
    examples. Beside it are the terms of the gap of a cross-entropy, and the shares of the classes.

    Args:
        others: of the same pair, by what was done before, such as {"aligned": ...}: then colours
            tell the barriers apart, and where they are from is left out.

    Raises:
        RequestError: a record that is no barrier.
    """
    data = _checked(record)
    if others:
        rest = {name: _checked(one) for name, one in others.items()}
        return _compared({_UNCHANGED: data, **rest})
    metrics, origins = _metrics(data), list(_origins(data))
    rows = max(len(metrics), len(origins))
    figure, axes = sheet(
        rows,
        2 if origins else 1,
        width=7.4 if origins else 7.0,
        height=1.7 + 2.1 * rows,
        height_ratios=(5, 4)[:rows],
        width_ratios=(2.4, 1) if origins else (1,),
    )
    panels = used_panels(axes[:, 0], len(metrics))
    handles = _draw_metrics(panels, {"": data}, metrics)
    if origins:
        for axis, draw in zip(used_panels(axes[:, 1], len(origins)), origins, strict=True):
            draw(axis, data)
    write_caption(figure, _caption(data, metrics), handles)
    metric, definition = _asked(data)
    value, _, text = _height(data, metric, definition)
    heading(figure, f"{metric.capitalize()} barrier: {text if np.isfinite(value) else 'unknown'}")
    return figure


def _compared(records: Mapping[str, xr.Dataset]) -> Figure:
    """Several barriers of one pair, each in its colour."""
    first = next(iter(records.values()))
    metrics = [metric for metric in _METRICS if all(metric in one for one in records.values())]
    figure, axes = sheet(
        len(metrics),
        1,
        height=1.9 + 2.1 * len(metrics),
        height_ratios=(5, 4)[: len(metrics)],
    )
    handles = _draw_metrics(list(axes[:, 0]), records, metrics)
    write_caption(figure, f"Heights by definition {_asked(first)[1]!r}. {_CHOSEN}", handles)
    heading(figure, f"Barriers of one pair, {len(records)} ways")
    return figure


def _checked(record: xr.Dataset | Barrier) -> xr.Dataset:
    data = described(record)
    if not {"alpha", "definition"} <= set(data.dims):
        raise RequestError(
            "a barrier has values along alpha and a height by definition; this record has "
            f"{', '.join(map(str, data.dims))}. Draw a matrix with `figures.barrier_matrix`, or "
            "measure a barrier: landscape path A B."
        )
    return data


def _settings(data: xr.Dataset) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(str(data.attrs.get("settings", "{}")))
    return found


def _asked(data: xr.Dataset) -> tuple[str, str]:
    """The metric and the definition of the headline."""
    settings = _settings(data)
    return str(settings.get("metric", "loss")), str(settings.get("definition", "chord"))


def _metrics(data: xr.Dataset) -> list[str]:
    return [metric for metric in _METRICS if metric in data]


def _height(data: xr.Dataset, field: str, definition: str) -> tuple[float, float, str]:
    """A height of a profile, its place on the path, and the height with its error in words."""
    value, error = (
        float(data[f"{field}_{name}"].sel(definition=definition))
        for name in ("height", "height_error")
    )
    # A share of what is left to chance is reached where the chord's height is.
    shape = "chord" if definition == "relative" else definition
    found = height(shape, data["alpha"].to_numpy(), data[field].to_numpy())
    return value, found.alpha, with_error(value, error)


def _draw_metrics(
    axes: Sequence[Axes], records: Mapping[str, xr.Dataset], metrics: Sequence[str]
) -> list[Artist]:
    """A panel for each metric, and the keys of all."""
    handles: dict[str, Artist] = {}
    for axis, metric in zip(axes, metrics, strict=True):
        axis.set_xlim(*widened(*_SPAN, share=0.02))
        axis.xaxis.set_major_formatter(lambda x, _: pretty(x))
        bands = [_band(data, name) for data in records.values() for name in _fields(data, metric)]
        set_range(axis, np.concatenate(bands), is_named=len(records) == 1)
        label(axis, y=_METRICS[metric])
        draw = _draw_alone if len(records) == 1 else _draw_beside
        for artist in draw(axis, records, metric):
            handles.setdefault(str(artist.get_label()), artist)
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    axes[-1].set_xlabel(
        "share of the way from the first end to the second", fontsize=SIZE, color=INK
    )
    axes[0].figure.align_ylabels(axes)
    return [artist for name, artist in handles.items() if not name.startswith("_")]


def _fields(data: xr.Dataset, metric: str) -> list[str]:
    return [field_of(metric, name) for name in data_names(data, metric, "alpha")]


def _band(data: xr.Dataset, field: str) -> Array:
    """(3 P,) the values and both edges of their band, where they are finite."""
    values = data[field].to_numpy()
    radius = 2 * np.nan_to_num(data[f"{field}_gap_error"].to_numpy())
    return np.concatenate([values - radius, values, values + radius])


def _draw_alone(axis: Axes, records: Mapping[str, xr.Dataset], metric: str) -> Iterator[Artist]:
    """One barrier: the colours tell data sets apart, and the height is marked."""
    (data,) = records.values()
    alphas, names = data["alpha"].to_numpy(), data_names(data, metric, "alpha")
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        field = field_of(metric, name)
        words = (name or "own") + " data" if len(names) > 1 else "_own"
        values = data[field].to_numpy()
        band, line = _profile(axis, data, field, color=colour, label=words)
        if len(names) > 1:
            yield line
        if band is not None:
            yield band
        yield from draw_absent(axis, alphas, values)
        (chord,) = axis.plot(
            _SPAN, values[[0, -1]], color=colour, linewidth=1.0, linestyle="--", label=_CHORD
        )
        if not name:
            yield chord
    yield from _draw_height(axis, data, metric)


def _profile(axis: Axes, data: xr.Dataset, field: str, **look: Any) -> tuple[Artist | None, Artist]:
    errors = data[f"{field}_gap_error"].to_numpy()
    places, values = data["alpha"].to_numpy(), data[field].to_numpy()
    *bands, line = draw_profile(axis, places, values, errors, **look)
    for band in bands:
        band.set_label(_BAND)
    return (bands[0] if bands else None), line


def _draw_height(axis: Axes, data: xr.Dataset, metric: str) -> Iterator[Artist]:
    """The height in the definition of the headline, above what that subtracts."""
    definition = _asked(data)[1]
    value, alpha, text = _height(data, metric, definition)
    if not np.isfinite(value):
        return
    values = data[metric].to_numpy()
    top = float(values[np.abs(data["alpha"].to_numpy() - alpha).argmin()])
    first, last = values[0], values[-1]
    level = {
        "mean": ("mean of the ends", (first + last) / 2),
        "mode_connectivity": ("mean of the ends", (first + last) / 2),
        "highest_end": ("higher end", max(first, last)),
    }.get(definition)
    if level is not None:
        name, bottom = level
        yield axis.plot(
            _SPAN, [bottom, bottom], color=INK, linewidth=0.9, linestyle=_DOTTED, label=name
        )[0]
    else:
        bottom = None if definition == "saddle" else first + alpha * (last - first)
    mark_height(axis, alpha, bottom, top)
    # Above whatever is drawn there.
    near = np.abs(data["alpha"].to_numpy() - alpha) < _NEAR
    edges = [_band(data, field).reshape(3, -1)[:, near] for field in _fields(data, metric)]
    name_height(axis, alpha, float(np.nanmax(with_gaps(np.stack(edges)))), text)


def _draw_beside(axis: Axes, records: Mapping[str, xr.Dataset], metric: str) -> Iterator[Artist]:
    """Barriers in their colours; further data are dotted."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    others: dict[str, None] = {}
    for (name, data), colour in zip(records.items(), cycle(COLOURS), strict=False):
        alphas, values = data["alpha"].to_numpy(), data[metric].to_numpy()
        _, line = _profile(axis, data, metric, color=colour, label=f"{name}: {_heights(data)}")
        yield line
        axis.plot(_SPAN, values[[0, -1]], color=colour, linewidth=1.0, linestyle="--")
        yield from draw_absent(axis, alphas, values)
        for other in data_names(data, metric, "alpha")[1:]:
            further = data[field_of(metric, other)].to_numpy()
            list(draw_profile(axis, alphas, further, None, color=colour, linestyle=_DOTTED))
            others[other] = None
    for other in others:
        yield Line2D([], [], color=GREY, linestyle=_DOTTED, label=f"{other} data")
    yield Line2D([], [], color=GREY, linewidth=1.0, linestyle="--", label=_CHORD)
    yield Patch(color=GREY, alpha=0.3, linewidth=0, label=_BAND)


def _heights(data: xr.Dataset) -> str:
    """Of the own data, in the definition of the headline."""
    definition = _asked(data)[1]
    return ", ".join(f"{name} {_height(data, name, definition)[2]}" for name in _metrics(data))


def _origins(data: xr.Dataset) -> Iterator[Callable[[Axes, xr.Dataset], None]]:
    """What draws where the barrier is from."""
    nothing = _ROUNDING * float(np.abs(data[_asked(data)[0]]).max())
    if "gap_partition" in data and abs(_gap(data)) > nothing:
        yield _draw_terms
    if "class_share" in data and float(np.abs(data["class_share"]).max()) > nothing:
        yield _draw_classes


def _gap(data: xr.Dataset) -> float:
    return float(data["gap_partition"] - data["gap_convexity"] - data["gap_target"])


def _draw_terms(axis: Axes, data: xr.Dataset) -> None:
    """What the gap above the chord is the sum of, as signed bars."""
    terms = {
        "D": float(data["gap_partition"]),
        "−J": -float(data["gap_convexity"]),
        "−e": -float(data["gap_target"]),
    }
    at = float(data["gap_alpha"])
    error = float(data["loss_gap_error"].sel(alpha=at, method="nearest"))
    gap = _gap(data)
    rows = {**terms, "gap": gap}
    colours = [VERMILION if value > 0 else BLUE for value in terms.values()] + [GREY]
    axis.barh(range(len(rows)), list(rows.values()), color=colours, height=0.6)
    if np.isfinite(error):
        axis.plot([gap - 2 * error, gap + 2 * error], [3, 3], color=INK, linewidth=1.6)
    names = [f"{name} = {pretty(value, 3)}" for name, value in rows.items()]
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    _frame_bars(axis)
    label(axis, x="loss", title=f"terms of the gap at {pretty(at, 3)}")


def _draw_classes(axis: Axes, data: xr.Dataset) -> None:
    """What the examples of each class add to the barrier."""
    from matplotlib.ticker import MaxNLocator

    shares = data["class_share"].to_numpy()
    classes = np.arange(len(shares))
    colours = np.where(shares > 0, VERMILION, BLUE)
    axis.barh(classes, shares, color=colours.tolist(), height=0.7)
    if len(classes) <= _MOST_CLASSES:
        axis.set_yticks(classes, [str(number) for number in classes], fontsize=SIZE - 2)
    else:
        axis.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_ylim(len(classes) - 0.4, -0.6)
    _frame_bars(axis)
    metric, definition = _asked(data)
    unit = "share of what is left to chance" if definition == "relative" else metric
    label(axis, x=unit, y="class", title="shares of the barrier")


def _frame_bars(axis: Axes) -> None:
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.grid(False, axis="y")
    axis.grid(True, axis="x", color="#E9E9E9", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=4)
    axis.xaxis.set_major_formatter(lambda x, _: pretty(x))


def _caption(data: xr.Dataset, metrics: Sequence[str]) -> str:
    """All heights with their errors, how far apart the ends are, what to beware of."""
    definition, settings = _asked(data)[1], _settings(data)
    found = []
    for metric in metrics:
        for name in data_names(data, metric, "alpha"):
            field = field_of(metric, name)
            value, alpha, text = _height(data, field, definition)
            words = f"{field.replace('_', ' ')} {text}"
            found.append(f"{words} at {pretty(alpha, 3)}" if np.isfinite(value) else words)
    way = "a great circle" if settings.get("interpolation") == "spherical" else "a straight line"
    apart = (
        f"Ends {pretty(float(data['distance']), 3)} apart, at an angle of "
        f"{pretty(float(data['angle_share']), 3)} π, along {way}"
    )
    policy = _BATCH_NORM.get(str(settings.get("bn")))
    if policy is not None:
        apart += f"; BatchNorm statistics, if any, {policy}"
    parts = [f"Heights by definition {definition!r}: {', '.join(found)}. {_CHOSEN}", f"{apart}."]
    if _draw_terms in _origins(data):
        parts.append(_MEANINGS)
    return " ".join(parts)
