"""Sparsity and rank of the activations, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import LEGEND, described, heading, label, log_axis, pretty, sheet
from landscape.figures.captions import number, spans_a_decade, write_caption
from landscape.figures.layers import name_layers
from landscape.figures.profiles import COLOURS

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landscape.probes.features.layer_sparsity import LayerSparsity

__all__ = ["sparsity"]

_SHARES = {
    "gini_population": "Gini, over units",
    "gini_lifetime": "Gini, over examples",
    "hoyer_population": "Hoyer, over units",
    "hoyer_lifetime": "Hoyer, over examples",
}
_UNITS = {"dead_share": "dead", "dormant_share": "dormant"}
_RANKS = {
    "num_units": "units",
    "effective_rank": "effective rank",
    "rankme": "RankMe",
    "participation_ratio": "participation ratio",
}


def sparsity(record: xr.Dataset | LayerSparsity) -> Figure:
    """Gini and Hoyer, dead and dormant units, and ranks beside the number of units, by layer.

    Raises:
        RequestError: the record is of something else.

    Source: Hurley and Rickard 2009, arXiv:0811.4706 (Gini, Hoyer); Roy and Vetterli 2007
    (effective rank); Garrido et al. 2023, arXiv:2210.02885 (RankMe); Sokar et al. 2023,
    arXiv:2302.12902 (dormant units).
    """
    data = described(record)
    if not {"gini_population", "effective_rank", "dead_share"} <= set(data.data_vars):
        raise RequestError(
            "sparsity has a Gini index and a rank for each layer; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure it: landscape probe CKPT "
            "--probe sparsity."
        )
    names = [str(name) for name in data["layer"].to_numpy()]
    figure, axes = sheet(2, 3, height=4.5, width=9.6, height_ratios=(4, 1))
    for (axis, beneath), curves, title, unit in (
        (axes[:, 0], _SHARES, "sparsity", "index"),
        (axes[:, 1], _UNITS, "units at rest", "share of units"),
        (axes[:, 2], _RANKS, "rank", "number"),
    ):
        _draw(axis, data, curves)
        name_layers(axis, names)
        label(axis, y=unit, title=title)
        beneath.set_axis_off()
        beneath.legend(handles=axis.lines, loc="upper left", borderaxespad=0, **LEGEND)
    for axis in axes[0, :2]:
        axis.set_ylim(-0.03, 1.03)
    mean_dead = pretty(100 * float(np.nanmean(data["dead_share"].to_numpy())), 2)
    write_caption(figure, f"On average over the layers {mean_dead} % of the units are dead.", [])
    heading(figure, f"Activations of {number(len(names), 'layer')}")
    return figure


def _draw(axis: Axes, data: xr.Dataset, curves: dict[str, str]) -> None:
    places = np.arange(data.sizes["layer"])
    drawn = []
    for (name, words), colour in zip(curves.items(), COLOURS, strict=False):
        if np.isfinite(data[name]).any():
            values = data[name].to_numpy()
            axis.plot(places, values, color=colour, marker="o", markersize=4, label=words)
            drawn.append(values)
    if curves is _RANKS and spans_a_decade(np.concatenate(drawn)):
        low, high = np.nanmin(np.concatenate(drawn)), np.nanmax(np.concatenate(drawn))
        log_axis(axis, "y", float(low), float(high))
        axis.set_ylim(0.8 * float(low), 1.6 * float(high))
