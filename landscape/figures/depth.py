"""Prediction depth: how many examples are settled at which layer, and what each layer can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import BLUE, GREY, VERMILION, described, heading, label, pretty, sheet
from landscape.figures.captions import number, write_caption
from landscape.figures.layers import name_layers

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

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
    shown = [*names[: len(counts)], *["…"] * (len(counts) - len(names))]
    if not settled.all():
        bars.bar([len(counts)], [np.sum(~settled)], color=VERMILION, width=0.8)
        shown.append("never")
    name_layers(bars, shown)
    label(bars, y="examples", title="settled from this layer on")
    votes = axes[0, 1]
    handles: list[Artist] = []
    for name, colour, words in (
        ("knn_agreement", BLUE, "agrees with the network"),
        ("knn_accuracy", GREY, "agrees with the label"),
    ):
        handles += votes.plot(
            np.arange(len(names)), data[name].to_numpy(), color=colour, marker="o", markersize=4,
            label=f"vote of the neighbours {words}",
        )  # fmt: skip
    votes.set_ylim(-0.03, 1.03)
    name_layers(votes, names)
    label(votes, y="share of examples", title="nearest-neighbour probes")
    mean = pretty(float(data["mean_depth"]), 3)
    lost = int(np.sum(~settled))
    words = f"Mean depth {mean} of at most {len(names) - 1}"
    if lost:
        words += f"; {number(lost, 'example')} on which not even the last probe agrees"
    write_caption(figure, f"{words}.", handles)
    heading(figure, f"Prediction depth of {number(len(values), 'example')}")
    return figure
