"""Features: how well each one alone is used, in descending order, and what a swap of it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import BLUE, GREY, VERMILION, described, heading, label, pretty, sheet
from landscape.figures.captions import number, write_caption

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landscape.probes.features.multi_view_use import FeatureUse

__all__ = ["features"]


def features(record: xr.Dataset | FeatureUse) -> Figure:
    """Accuracy on single features and flip rate of swaps, the features in order of the first.

    Raises:
        RequestError: the record is of something else.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113 (single-feature accuracy).
    """
    data = described(record)
    if not {"flip_rate", "effective_number"} <= set(data.data_vars):
        raise RequestError(
            "feature use has a flip rate for each feature; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure it: landscape probe CKPT "
            "--probe features."
        )
    accuracy = data["accuracy"].to_numpy()
    measured = bool(np.isfinite(accuracy).any())
    order = np.argsort(-(accuracy if measured else data["flip_rate"].to_numpy()), kind="stable")
    figure, axes = sheet(1, 2 if measured else 1, height=3.9, width=7.6 if measured else 5.0)
    handles: list[Artist] = []
    if measured:
        handles += _draw(axes[0, 0], data, ("accuracy", "low", "high"), order, BLUE)
        handles.append(
            axes[0, 0].axhline(float(data["chance"]), color=GREY, linestyle=":", label="chance")
        )
        label(axes[0, 0], x="feature, in this order", y="accuracy", title="on a single feature")
    flips = axes[0, -1]
    handles += _draw(flips, data, ("flip_rate", "flip_low", "flip_high"), order, VERMILION)
    label(flips, x="feature, in this order", y="share of answers", title="changed by a swap")
    write_caption(figure, _caption(data), handles)
    heading(figure, f"Use of {number(data.sizes['feature'], 'feature')}")
    return figure


def _draw(
    axis: Axes, data: xr.Dataset, names: tuple[str, str, str], order: np.ndarray, colour: str
) -> list[Artist]:
    values, low, high = (data[name].to_numpy()[order] for name in names)
    places = np.arange(len(order))
    axis.vlines(places, low, high, color=colour, linewidth=2.0, alpha=0.5)
    words = "accuracy" if names[0] == "accuracy" else "flip rate"
    drawn = axis.plot(places, values, color=colour, marker="o", markersize=4, label=words)
    step = -(-len(order) // 16)
    axis.set_xticks(places[::step], [str(one) for one in order[::step]])
    axis.set_ylim(-0.03, 1.03)
    return list(drawn)


def _caption(data: xr.Dataset) -> str:
    words = []
    if np.isfinite(float(data["effective_number"])):
        value, *ends = (
            pretty(float(data[f"effective_number{end}"]), 3) for end in ("", "_low", "_high")
        )
        words.append(f"effective number of features {value} [{', '.join(ends)}]")
    else:
        words.append("no feature is used beyond chance")
    if np.isfinite(float(data["gap"])):
        words.append(f"the best is {pretty(float(data['gap']), 3)} above the second")
    words.append(f"accuracy on all of them {pretty(float(data['full_accuracy']), 3)}")
    text = "; ".join([*words, "bars: 95 % intervals"])
    return f"{text[0].upper()}{text[1:]}."
