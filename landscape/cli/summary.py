"""A record of a result file in a few words, each number with its doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["describe", "headline"]


def describe(probe: str, record: xr.Dataset) -> str:
    """What a person wants to know of a record, on one line."""
    writer = _WRITERS.get(probe)
    return writer(record) if writer is not None else ", ".join(headline(record))


def headline(record: xr.Dataset) -> dict[str, Any]:
    """The record's scalars by name."""
    return {str(name): value.item() for name, value in record.data_vars.items() if not value.ndim}


def _metrics(record: xr.Dataset) -> str:
    values = headline(record)
    words = [f"loss {values['loss']:.6g}"]
    if "accuracy" in values:
        words.append(f"accuracy {100 * values['accuracy']:.2f} %")
    words.append(f"gradient norm {values['gradient_norm']:.3g}")
    words.append(f"{int(values['num_examples']):,} examples")
    return ", ".join(words)


def _eigenvalues(record: xr.Dataset) -> str:
    values, intervals = record["eigenvalue"].values, record["interval"].values
    radius = (intervals[:, 1] - intervals[:, 0]) / 2
    top, bottom = values.argmax(), values.argmin()
    words = [f"largest {_within(values[top], radius[top])}"]
    if top != bottom:
        words.append(f"smallest {_within(values[bottom], radius[bottom])}")
    converged, complete = record["converged"].values, record["complete"].values
    words.append(f"{int(converged.sum())} of {len(values)} converged")
    if not complete.all():
        words.append(f"multiplicity open for {int((~complete).sum())}")
    return ", ".join(words)


def _trace(record: xr.Dataset) -> str:
    values: Mapping[str, float] = headline(record)
    return f"{_within(values['value'], (values['high'] - values['low']) / 2)} (95 %)"


def _density(record: xr.Dataset) -> str:
    values = headline(record)
    low, high = 100 * values["negative_mass_low"], 100 * values["negative_mass_high"]
    return (
        f"median {values['median']:.2g}, "
        f"negative {100 * values['negative_mass']:.1f} % [{low:.1f}, {high:.1f}], "
        f"{record.sizes.get('outlier', 0)} outliers exact, "
        f"W1 error <= {values['wasserstein_error']:.1g}"
    )


def _sweep(record: xr.Dataset) -> str:
    values = headline(record)
    size = " x ".join(str(length) for length in record["loss"].shape)
    words = [
        f"{size} points, loss {values['center_loss']:.4g} at the center, "
        f"{values['smallest_loss']:.4g} to {values['largest_loss']:.4g}"
    ]
    if values["nan_points"]:
        words.append(f"{values['nan_points']:.0f} NaN")
    if values.get("clipped_share"):
        words.append(f"{values['clipped_share']:.1%} clipped")
    for name, meaning in _CAVEATS.items():
        if name in values:
            words.append(f"{meaning} {values[name]:.2g}")
    return ", ".join(words)


def _trajectory(record: xr.Dataset) -> str:
    values = headline(record)
    shares = [f"{share:.3f}" for share in record["explained_share"].values[:2]]
    null = [f"{share:.3f}" for share in record["null_share"].values[:2]]
    return (
        f"{values['num_checkpoints']:.0f} checkpoints, explained {' + '.join(shares)} (a random "
        f"walk: {' + '.join(null)}), {values['in_plane_share']:.1%} of the way in the plane, its "
        f"loss off by up to {values['largest_loss_gap']:.2g}"
    )


def _topology(record: xr.Dataset) -> str:
    values = headline(record)
    return (
        f"{values['num_minima']:.0f} minima, {values['num_significant']:.0f} beyond the standard "
        f"error, largest finite persistence {values['largest_finite_persistence']:.3g}"
    )


def _barrier(record: xr.Dataset) -> str:
    values = headline(record)
    words = [
        f"{_within(values['barrier'], values['barrier_error'])} at {values['barrier_alpha']:.3f}",
        f"loss {_ends(record['loss'].values)}",
    ]
    for name in ("error", "test_loss", "test_error"):
        if name in record:
            heights = record[f"{name}_height"].sel(definition="chord")
            unit = f"{100 * heights.item():.2f} %" if "error" in name else f"{heights.item():.4g}"
            words.append(f"{name.replace('_', ' ')} rises by {unit}")
    words.append(f"angle {values['angle_share']:.3f} pi, distance {values['distance']:.4g}")
    return ", ".join(words)


def _ends(path: Any) -> str:
    return f"{path[0]:.4g} to {path[-1]:.4g}"


def _barrier_matrix(record: xr.Dataset) -> str:
    values = headline(record)
    return (
        f"{record.sizes['solution']} solutions in {values['num_basins']:.0f} basins, barriers "
        f"{values['mean_barrier']:.4g} on average, {values['greatest_barrier']:.4g} at most"
    )


def _curve(record: xr.Dataset) -> str:
    values = headline(record)
    return (
        f"loss above the chord {_within(values['loss_excess'], _error(values, 'loss_excess'))} "
        f"(the line: {values['straight_loss_excess']:.4g}), at most {values['loss_max']:.4g}, "
        f"{values['length_ratio']:.2f} times as long as the line"
    )


def _error(values: Mapping[str, float], name: str) -> float:
    return values[f"{name}_standard_error"]


def _neb(record: xr.Dataset) -> str:
    values = headline(record)
    return (
        f"saddle {_within(values['loss_saddle'], values['loss_saddle_error'])} at "
        f"{values['saddle_t']:.3f} (the line: {values['straight_loss_saddle']:.4g}), "
        f"{values['length_ratio']:.2f} times as long as the line, residual "
        f"{values['residual']:.2g}"
    )


def _similarity(record: xr.Dataset) -> str:
    values = headline(record)
    words = [f"CKA {values['cka']:.4f} on average over the layers"]
    words.append(f"angle {values['angle'] / math.pi:.3f} pi")
    for name in ("disagreement", "error_overlap", "js_divergence"):
        if name in values:
            text = f"{name.replace('_', ' ').replace('js', 'JS')} {values[name]:.4g}"
            if f"{name}_low" in values:  # of two networks
                text += f" [{values[f'{name}_low']:.3g}, {values[f'{name}_high']:.3g}]"
            words.append(text)
    if record.sizes["network"] > 2:
        words.append(f"on average over the pairs of {record.sizes['network']} networks")
    return ", ".join(words)


def _soup(record: xr.Dataset) -> str:
    values = headline(record)
    words = [f"loss {values['loss']:.4g}"]
    if "accuracy" in values:
        words.append(f"accuracy {100 * values['accuracy']:.2f} %")
    change = _within(values["change_from_best"], values["change_from_best_error"])
    return ", ".join([*words, f"loss minus the best member's {change}"])


def _alignment(record: xr.Dataset) -> str:
    values = headline(record)
    return (
        f"{100 * values['moved_share']:.1f} % of the units moved, distance "
        f"{values['distance_before']:.4g} -> {values['distance_after']:.4g}"
    )


def _repair(record: xr.Dataset) -> str:
    values = headline(record)
    words = [f"loss {values['merged_loss']:.4g} -> {values['repaired_loss']:.4g}"]
    if "merged_accuracy" in values:
        before, after = values["merged_accuracy"], values["repaired_accuracy"]
        words.append(f"accuracy {100 * before:.2f} -> {100 * after:.2f} %")
    ratios = values["ratio_before"], values["ratio_after"]
    return ", ".join([*words, f"variance ratio {ratios[0]:.3f} -> {ratios[1]:.3f}"])


def _within(value: float, radius: float) -> str:
    """`3.0369 +- 2e-06`, with as many digits as the radius leaves, six at most."""
    return f"{value:.6g} +- {radius:.1g}"


_CAVEATS = {
    "max_cosine": "|cosine| at most",
    "stale_bn_gap": "frozen BatchNorm statistics off by",
    "rescaling_change": "changed by rescaled neurons by",
}

_WRITERS = {
    "alignment": _alignment,
    "barrier": _barrier,
    "barrier_matrix": _barrier_matrix,
    "curve": _curve,
    "density": _density,
    "eigenvalues": _eigenvalues,
    "grid": _sweep,
    "line": _sweep,
    "lines": _sweep,
    "metrics": _metrics,
    "neb": _neb,
    "plane": _sweep,
    "repair": _repair,
    "similarity": _similarity,
    "soup": _soup,
    "topology": _topology,
    "trace": _trace,
    "trajectory": _trajectory,
}
