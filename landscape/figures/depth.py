"""Prediction depth: how many examples are settled at which layer, and what each layer can tell."""

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
    sheet,
    with_error,
)
from landscape.figures.captions import number, write_caption
from landscape.figures.layers import name_layers

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.probes.linear.depth import PredictionDepth

__all__ = ["depth"]


def depth(record: xr.Dataset | PredictionDepth) -> Figure:
    """Histogram of the depth, and accuracy and agreement of the neighbours' vote by layer.

    Raises:
        RequestError: the record is of something else.

    Source: Baldock et al. 2021, arXiv:2106.09647.
    """
    data = described(record)
    if not {"depth", "knn_accuracy", "knn_agreement"} <= set(data.variables):
        raise RequestError(
            "a prediction depth has a number for each example and a vote at each layer; this "
            f"record has {', '.join(map(str, data.data_vars))}. Measure it: landscape probe CKPT "
            "--probe depth."
        )
    names = [str(name) for name in data["layer"].to_numpy()]
    values = data["depth"].to_numpy().astype(float)
    settled = np.isfinite(values)
    figure, axes = sheet(1, 2, height=4.0, width=7.6)
    counts = np.bincount(values[settled].astype(int), minlength=len(names))
    bars = axes[0, 0]
    bars.bar(np.arange(len(counts)), counts, color=BLUE, width=0.8)
    shown = list(names)
    if not settled.all():
        bars.bar([len(counts)], [np.sum(~settled)], color=VERMILION, width=0.8)
        shown.append("never")
    name_layers(bars, shown)
    label(bars, y="examples", title="settled from this layer on")
    votes = axes[0, 1]
    handles: list[Artist] = []
    places = np.arange(len(names))
    for name, colour, style, words in (
        ("knn_agreement", BLUE, "-", "agrees with the network"),
        ("knn_accuracy", GREY, "--", "agrees with the label"),
    ):
        low, high = (data[f"{name}_{end}"].to_numpy() for end in ("low", "high"))
        votes.vlines(places, low, high, color=colour, linewidth=2.0, alpha=0.5)
        handles += votes.plot(
            places, data[name].to_numpy(), color=colour, linestyle=style, marker="o", markersize=4,
            label=f"vote of the neighbours {words}",
        )  # fmt: skip
    votes.set_ylim(-0.03, 1.03)
    name_layers(votes, names)
    label(votes, y="share of examples", title="nearest-neighbour probes")
    write_caption(figure, _caption(data, settled), handles)
    heading(figure, f"Prediction depth of {number(len(values), 'example')}")
    return figure


def _caption(data: xr.Dataset, settled: NDArray[np.bool_]) -> str:
    words = ["No example is settled"]
    if settled.any():
        mean = with_error(float(data["mean_depth"]), float(data["mean_depth_error"]))
        words = [f"Mean depth {mean} of at most {data.sizes['layer'] - 1}"]
    if not settled.all():
        lost = number(int(np.sum(~settled)), "example")
        words.append(f"{lost} on which not even the last probe agrees")
    return "; ".join([*words, "bars: 95 % intervals over examples"]) + "."
