"""Ensembles: members and their ensemble, what each further member brings, and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    widened,
)
from landscape.figures.captions import number, write_caption

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from landscape.probes.ensembles.report import EnsembleReport

__all__ = ["ensemble"]

_METRICS = {"accuracy": "accuracy", "nll": "negative log likelihood (nat)"}


def ensemble(record: xr.Dataset | EnsembleReport) -> Figure:
    """Accuracy and likelihood against the number of members, and a reliability diagram.

    Raises:
        RequestError: the record is of something else.

    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474; Guo et al. 2017, arXiv:1706.04599
    (reliability diagrams).
    """
    data = described(record)
    if not {"ensemble_accuracy", "gain_nll", "bin_accuracy"} <= set(data.data_vars):
        raise RequestError(
            "an ensemble has an accuracy and bins of confidence; this record has "
            f"{', '.join(map(str, data.data_vars))}. Measure it: landscape probe A B C "
            "--probe ensemble."
        )
    figure, axes = sheet(1, 3, height=4.2, width=9.6)
    handles = _draw_gains(axes[0, 0], data, "accuracy")
    _draw_gains(axes[0, 1], data, "nll")
    _draw_reliability(axes[0, 2], data)
    write_caption(figure, _caption(data), handles)
    heading(figure, f"Ensemble of {number(data.sizes['member'], 'network')}")
    return figure


def _draw_gains(axis: Axes, data: xr.Dataset, metric: str) -> list[Artist]:
    sizes = data["size"].to_numpy()
    members = data[metric].to_numpy()
    gains = data[f"gain_{metric}"].to_numpy()
    (dots,) = axis.plot(
        np.ones(len(members)), members, color=GREY, marker="o", markersize=4, linestyle="none",
        alpha=0.6, label="member",
    )  # fmt: skip
    (curve,) = axis.plot(
        sizes, gains, color=BLUE, marker="o", markersize=3.5, label="ensemble of so many"
    )
    low, high = (float(data[f"ensemble_{metric}_{end}"]) for end in ("low", "high"))
    axis.vlines([sizes[-1]], low, high, color=BLUE, linewidth=2.5, alpha=0.5)
    shown = np.asarray([*members, *gains, low, high])
    finite = shown[np.isfinite(shown)]
    axis.set_ylim(*widened(finite.min(initial=np.inf), finite.max(initial=-np.inf)))
    axis.yaxis.set_major_formatter(lambda y, _: pretty(y))
    step = -(-len(sizes) // 12)
    axis.set_xticks(sizes[::step])
    axis.set_xlim(0.4, sizes[-1] + 0.6)
    label(axis, x="networks", y=_METRICS[metric], title=_METRICS[metric].split(" (")[0])
    return [dots, curve]


def _draw_reliability(axis: Axes, data: xr.Dataset) -> None:
    counts = data["bin_count"].to_numpy().astype(float)
    held = counts > 0
    confidence, accuracy = (
        data[name].to_numpy()[held] for name in ("bin_confidence", "bin_accuracy")
    )
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    low, high = (data[f"bin_accuracy_{end}"].to_numpy()[held] for end in ("low", "high"))
    axis.vlines(confidence, low, high, color=VERMILION, linewidth=2.0, alpha=0.5)
    size = 12 + 90 * counts[held] / counts.max()
    axis.scatter(confidence, accuracy, s=size, color=VERMILION, linewidths=0, zorder=3)
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.03, 1.03)
    label(axis, x="confidence", y="accuracy", title="reliability, area by examples")


def _caption(data: xr.Dataset) -> str:
    words = []
    for name, text in (
        ("ensemble_accuracy", "accuracy"),
        ("ensemble_nll", "negative log likelihood"),
        ("calibrated_nll", "calibrated"),
        ("ensemble_ece_debiased", "calibration error (debiased)"),
        ("disagreement", "disagreement"),
        ("normalized_disagreement", "over the error"),
        ("mutual_information", "mutual information"),
    ):
        if np.isfinite(float(data[name])):
            words.append(f"{text} {pretty(float(data[name]), 3)}")
    text = "; ".join(words)
    return f"{text[0].upper()}{text[1:]}. Bars: 95 % intervals over examples."
