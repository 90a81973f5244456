"""How alike networks are: features layer by layer, weights group by group, and their answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import (
    BLUE,
    INK,
    SIZE,
    VERMILION,
    described,
    heading,
    label,
    pretty,
    sheet,
    widened,
)
from landscape.figures.captions import write_caption
from landscape.figures.heat_map import Shades, draw_cells, name_sides, write_cells

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.similarity.comparison import Similarity

    Array = NDArray[np.float64]

__all__ = ["similarity"]

_ANSWERS = {
    "accuracy": "accuracy",
    "disagreement": "disagreement",
    "normalized_disagreement": "disagreement / mean error",
    "error_overlap": "overlap of errors",
    "error_kappa": "kappa of errors",
    "output_correlation": "correlation of outputs",
    "calibration_error": "calibration error",
}
_DIVERGENCES = {"js_divergence": "Jensen-Shannon", "kl_divergence": "Kullback-Leibler"}
_OF_ONE = ("accuracy", "calibration_error")
_MOST_NAMES = 24  # down the side of a panel; of more every second, third, ... one
_ROW = 0.2  # inches
_WHOLE = "(all)"


@dataclass(frozen=True)
class _Row:
    """A measure of every pair of networks, or of every network.

    Attributes:
        values, low, high: (pairs,); both ends are NaN where there is no interval.
    """

    name: str
    values: Array
    low: Array
    high: Array


def similarity(record: xr.Dataset | Similarity) -> Figure:
    """CKA in a heat map and by layer, the answers, and the weights, with intervals of 95 %.

    Of two networks the heat map is over all layers of both; of more it is over pairs of networks,
    the mean over the layers, and the other panels have a dot for each pair.

    Raises:
        RequestError: the record compares no networks.
    """
    data = described(record)
    if not {"pair_cka", "pair_angle"} <= set(data.data_vars):
        raise RequestError(
            "a comparison of networks has their CKA and the angles between their weights; this "
            f"record has {', '.join(map(str, data.data_vars))}. Measure one: landscape path A B "
            "--probe similarity."
        )
    layers, answers = _layers(data), _answers(data, _ANSWERS)
    divergences, groups = _answers(data, _DIVERGENCES), data.sizes["group"]
    lower = max(len(answers) + 2 * bool(divergences) + 3, min(groups, _MOST_NAMES)) * _ROW + 0.5
    upper = max(3.0, 0.6 + _ROW * min(len(layers), _MOST_NAMES))
    few = (0.6 * lower, 0.4 * lower) if divergences else (lower,)
    ratios = (upper, *few) if answers else (upper, lower)
    figure, axes = sheet(len(ratios), 2, width=7.4, height=sum(ratios) + 1.9, height_ratios=ratios)
    handles = _draw_heat_map(axes[0, 0], data)
    _draw_rows(axes[0, 1], layers, BLUE)
    axes[0, 1].set_xlim(*_unit_range(layers))
    label(axes[0, 1], x="CKA", title="same layer of both")
    _draw_weights(_weights_panel(axes, is_alone=not answers), data)
    if answers:
        _draw_rows(axes[1, 0], answers, BLUE)
        axes[1, 0].set_xlim(*_unit_range(answers))
        label(axes[1, 0], title="answers")
    if answers and divergences:
        _draw_rows(axes[2, 0], divergences, BLUE)
        axes[2, 0].set_xlim(left=min(0.0, axes[2, 0].get_xlim()[0]))
        label(axes[2, 0], x="nat", title="divergence of the probabilities")
    write_caption(figure, _caption(data), [*handles, *_keys(data)])
    names = [str(name) for name in data["network"].to_numpy()]
    of = f"{names[0]} and {names[1]}" if len(names) == 2 else f"{len(names)} networks"
    heading(figure, f"Similarity of {of}")
    return figure


def _pairs(data: xr.Dataset, name: str) -> Array:
    """(pairs, ...) the entries above the diagonal."""
    values = data[name].to_numpy()
    return np.asarray(values[np.triu_indices(data.sizes["network"], 1)])


def _layers(data: xr.Dataset) -> list[_Row]:
    parts = [_pairs(data, f"pair_cka{end}") for end in ("", "_low", "_high")]
    columns = zip(*(part.T for part in parts), strict=True)
    names = map(str, data["layer"].to_numpy())
    return [_Row(name, *column) for name, column in zip(names, columns, strict=True)]


def _answers(data: xr.Dataset, names: dict[str, str]) -> list[_Row]:
    """Measures of the predictions that are there, those of one network with its name."""
    networks = [str(name) for name in data["network"].to_numpy()]
    found = []
    for name, words in names.items():
        field = f"network_{name}" if name in _OF_ONE else f"pair_{name}"
        if field not in data:
            continue
        ends = [f"{field}{end}" for end in ("", "_low", "_high")]
        if name not in _OF_ONE:
            found.append(_Row(words, *(_pairs(data, end) for end in ends)))
        elif len(networks) > 2:
            found.append(_Row(words, *(data[end].to_numpy() for end in ends)))
        else:
            for index, network in enumerate(networks):
                values = (data[end].to_numpy()[[index]] for end in ends)
                found.append(_Row(f"{words} of {network}", *values))
    return [row for row in found if np.isfinite(row.values).any()]


def _draw_heat_map(axis: Axes, data: xr.Dataset) -> list[Artist]:
    if "layer_cka" in data:
        values = data["layer_cka"].to_numpy()
        rows, columns = (
            [str(name) for name in data[side].to_numpy()] for side in ("layer", "other_layer")
        )
        first, second = (str(name) for name in data["network"].to_numpy())
        label(axis, x=f"layer of {second}", y=f"layer of {first}", title="CKA between layers")
    else:
        held = data["pair_cka"].to_numpy()
        known = np.isfinite(held)
        count = np.where(known.any(-1), known.sum(-1), np.nan)
        values = np.where(known, held, 0.0).sum(-1) / count
        rows = columns = [str(name) for name in data["network"].to_numpy()]
        label(axis, title="CKA, mean over the layers")
    finite = values[np.isfinite(values)]
    shades = Shades(min(0.0, finite.min(initial=0.0)), 1.0)
    handles = list(draw_cells(axis, values, shades, text="CKA"))
    write_cells(axis, values, shades)
    name_sides(axis, rows, columns)
    return handles


def _draw_rows(axis: Axes, rows: Sequence[_Row], colour: str, **look: Any) -> None:
    """Dots with intervals; of several pairs small dots, and a bar at their mean."""
    for place, row in enumerate(rows):
        is_one = len(row.values) == 1
        if is_one:
            axis.hlines([place], row.low, row.high, color=colour, linewidth=1.6, alpha=0.6)
        elif np.isfinite(row.values).any():
            mean = row.values[np.isfinite(row.values)].mean()
            bar: dict[str, Any] = {"marker": "|", "markersize": 11, "markeredgewidth": 1.6}
            axis.plot([mean], [place], linestyle="none", color=INK, **bar)
        dot: dict[str, Any] = {"marker": "o", "markersize": 4.5 if is_one else 3.5} | look
        places = np.full(len(row.values), place)
        axis.plot(
            row.values, places, linestyle="none", color=colour, alpha=0.6 + 0.4 * is_one, **dot
        )
    _name_rows(axis, [row.name for row in rows])


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    step = math.ceil(len(names) / _MOST_NAMES)
    places = np.arange(0, len(names), step)
    axis.set_yticks(places, list(names[::step]), fontsize=SIZE - 1.5)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.grid(True, axis="x", color="#E9E9E9", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=6)
    axis.xaxis.set_major_formatter(lambda x, _: pretty(x))


def _unit_range(rows: Sequence[_Row]) -> tuple[float, float]:
    """From 0 to 1, and farther where something is drawn."""
    drawn = [row.values for row in rows]
    drawn += [end for row in rows if len(row.values) == 1 for end in (row.low, row.high)]
    ends = np.concatenate(drawn)
    ends = ends[np.isfinite(ends)]
    return widened(min(0.0, ends.min(initial=0.0)), max(1.0, ends.max(initial=1.0)), share=0.03)


def _weights_panel(axes: NDArray[Any], *, is_alone: bool) -> Axes:
    """Beside the answers, or in their place."""
    panel: Axes = axes[1, 1]
    grid = panel.get_gridspec()
    assert grid is not None  # all panels of a sheet stand in one
    for axis in [*axes[2:, 1], *([axes[1, 0]] if is_alone else [])]:
        axis.remove()
    panel.set_subplotspec(grid[1:, :] if is_alone else grid[1:, 1])
    return panel


def _draw_weights(axis: Axes, data: xr.Dataset) -> None:
    """Angles as shares of pi, and distances as shares of the norms."""
    names = [str(name).replace(_WHOLE, "all weights") for name in data["group"].to_numpy()]
    kinds = (("pair_angle", math.pi, BLUE, "o"), ("pair_relative", 1.0, VERMILION, "D"))
    shown = [0.0, 1.0]
    for field, unit, colour, marker in kinds:
        columns = (_pairs(data, field) / unit).T
        lost = np.full(columns.shape[1], np.nan)
        rows = [_Row(name, held, lost, lost) for name, held in zip(names, columns, strict=True)]
        _draw_rows(axis, rows, colour, marker=marker, markersize=4)
        shown += columns[np.isfinite(columns)].tolist()
    axis.set_xlim(*widened(min(shown), max(shown), share=0.03))
    label(axis, title="weights")


def _keys(data: xr.Dataset) -> list[Artist]:
    from matplotlib.lines import Line2D

    dots: dict[str, Any] = {"linestyle": "none", "markersize": 4.5}
    found: list[Artist] = [
        Line2D([], [], color=BLUE, marker="o", label="angle / π", **dots),
        Line2D([], [], color=VERMILION, marker="D", label="distance / mean norm", **dots),
    ]
    if data.sizes["network"] > 2:
        mean: dict[str, Any] = {**dots, "markersize": 10, "markeredgewidth": 1.6}
        found.append(Line2D([], [], color=INK, marker="|", label="mean over the pairs", **mean))
    else:
        found.append(Line2D([], [], color=BLUE, alpha=0.6, linewidth=1.6, label="95 % interval"))
    return found


def _caption(data: xr.Dataset) -> str:
    """The headline numbers."""
    found = [f"CKA, debiased, mean over the layers {pretty(float(data['cka']), 3)}"]
    if "disagreement" in data:
        found.append(f"disagreement {pretty(float(data['disagreement']), 3)}")
    found.append(f"angle between all weights {pretty(float(data['angle']) / math.pi, 3)} π")
    found.append(f"distance {pretty(float(data['euclidean']), 3)}")
    if "scale_invariant_angle" in data and np.isfinite(data["scale_invariant_angle"]):
        angle = pretty(float(data["scale_invariant_angle"]) / math.pi, 3)
        found.append(f"angle between scale-invariant weights {angle} π")
    of_two = "Intervals are for a fresh draw of the examples."
    of_more = "Means over the pairs; a dot for each pair, or network."
    return f"{'; '.join(found)}. {of_two if data.sizes['network'] == 2 else of_more}"
