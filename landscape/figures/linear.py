"""Linear probes: what can be read off each layer, beside its controls, and how it was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from landscape.figures.layers import name_layers
from landscape.figures.profiles import COLOURS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landscape.probes.linear.layer_probes import LayerProbes

__all__ = ["linear"]

_CONTROLS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn_accuracy": ("nearest neighbours", {"color": COLOURS[2], "marker": "s", "linestyle": "-"}),
    "untrained_accuracy": (
        "untrained network",
        {"color": GREY, "marker": "v", "linestyle": "--"},
    ),
    "control_accuracy": (
        "random labels",
        {"color": VERMILION, "marker": "x", "linestyle": "--"},
    ),
}


def linear(record: xr.Dataset | LayerProbes) -> Figure:
    """Accuracy by layer with 95 % intervals and controls; and against the penalty, by layer.

    Raises:
        RequestError: the record is of something else.

    Source: Alain and Bengio 2016, arXiv:1610.01644; Hewitt and Liang 2019, arXiv:1909.03368
    (control tasks).
    """
    data = described(record)
    if not {"test_accuracy", "chosen_penalty", "validation_accuracy"} <= set(data.data_vars):
        raise RequestError(
            "linear probes have an accuracy for each layer and penalty; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure them: landscape probe CKPT "
            "--probe linear."
        )
    figure, axes = sheet(1, 2, height=4.4, width=8.0, width_ratios=(3, 2))
    handles = _draw_layers(axes[0, 0], data)
    _draw_penalties(axes[0, 1], data)
    write_caption(figure, _caption(data), handles)
    heading(figure, f"Linear probes of {number(data.sizes['layer'], 'layer')}")
    return figure


def _draw_layers(axis: Axes, data: xr.Dataset) -> list[Artist]:
    places = np.arange(data.sizes["layer"])
    values, low, high = (data[f"test_{end}"].to_numpy() for end in ("accuracy", "low", "high"))
    axis.vlines(places, low, high, color=BLUE, linewidth=2.0, alpha=0.5)
    handles: list[Artist] = axis.plot(
        places, values, color=BLUE, marker="o", markersize=4.5, label="linear probe"
    )  # type: ignore[assignment]
    for name, (words, style) in _CONTROLS.items():
        if np.isfinite(data[name]).any():
            handles += axis.plot(
                places, data[name].to_numpy(), markersize=4, linewidth=0.9, label=words, **style
            )
    for name, words, colour, line in (
        ("network_accuracy", "the network", INK, "-"),
        ("chance", "chance", GREY, ":"),
    ):
        height = float(data[name])
        handles.append(
            axis.axhline(height, color=colour, linewidth=0.9, linestyle=line, label=words, zorder=1)
        )
    name_layers(axis, [str(name) for name in data["layer"].to_numpy()])
    axis.set_ylim(-0.03, 1.03)
    label(axis, y="test accuracy", title="by layer")
    return handles


def _draw_penalties(axis: Axes, data: xr.Dataset) -> None:
    """Validation accuracy along the penalties, later layers darker; a ring where it was chosen."""
    from matplotlib import colormaps

    penalties = data["penalty"].to_numpy().astype(float)
    positive = penalties > 0
    if positive.sum() > 1:
        axis.set_xscale("log")
    accuracy, chosen = data["validation_accuracy"].to_numpy(), data["chosen_penalty"].to_numpy()
    count = len(accuracy)
    for index, row in enumerate(accuracy):
        colour = colormaps["viridis_r"]((index + 1) / (count + 1))
        axis.plot(penalties[positive], row[positive], color=colour, linewidth=1.2)
        (place,) = np.nonzero(penalties == chosen[index])
        held = place[positive[place]]
        axis.plot(
            penalties[held], row[held], color=colour, marker="o", markersize=5,
            markerfacecolor="white", linestyle="none",
        )  # fmt: skip
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    label(axis, x="penalty λ", y="validation accuracy", title="by penalty, later layers darker")


def _caption(data: xr.Dataset) -> str:
    gradient = data["gradient_norm"].to_numpy()
    words = [
        f"test accuracy {pretty(100 * float(data['accuracy']), 3)} % at the layer and penalty that "
        "validation chose (ring)"
    ]
    if np.isfinite(gradient).any():
        words.append(f"largest gradient norm left {pretty(float(np.nanmax(gradient)), 2)}")
    words.append("bars: 95 % intervals over test examples")
    text = "; ".join(words)
    return f"{text[0].upper()}{text[1:]}."
