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


def _linear(record: xr.Dataset) -> str:
    values = headline(record)
    best = values["chosen_layer"]
    layer = str(record["layer"].values[best])
    low, high = (100 * values[f"accuracy_{end}"] for end in ("low", "high"))
    words = [
        f"{100 * values['accuracy']:.2f} % [{low:.1f}, {high:.1f}] at {layer!r}, which validation "
        f"chose of {record.sizes['layer']} layers"
    ]
    for name, meaning in (
        ("knn_accuracy", "neighbours"),
        ("untrained_accuracy", "untrained network"),
        ("control_accuracy", "random labels"),
    ):
        if math.isfinite(record[name].values[best]):
            words.append(f"{meaning} {100 * record[name].values[best]:.1f} %")
    return ", ".join(words)


def _depth(record: xr.Dataset) -> str:
    values = headline(record)
    mean = f"{values['mean_depth']:.3f} +- {1.96 * values['mean_depth_error']:.1g}"
    words = f"{mean} (95 %) on average of at most {record.sizes['layer'] - 1}"
    never = int(values["num_undefined"])
    return words + (f", never settled for {never:,} examples" if never else "")


def _features(record: xr.Dataset) -> str:
    values = headline(record)
    words = [
        f"effective number {values['effective_number']:.3g} "
        f"[{values['effective_number_low']:.3g}, {values['effective_number_high']:.3g}] "
        f"of {record.sizes['feature']}"
        if math.isfinite(values["effective_number"])
        else f"none of {record.sizes['feature']} features used beyond chance"
    ]
    for name, meaning in (("accuracy", "alone"), ("flip_rate", "swapped, changes the answers to")):
        found = record[name].values
        if math.isfinite(found[0]):  # all are, or none
            best = int(found.argmax())
            words.append(f"feature {best} {meaning} {100 * found[best]:.1f} %")
    return ", ".join(words)


def _bands(record: xr.Dataset) -> str:
    values = headline(record)
    shares = zip(record["band"].values, record["accuracy"].values, strict=True)
    kept = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares)
    return f"accuracy on one band alone: {kept}; on all {100 * values['full_accuracy']:.2f} %"


def _sparsity(record: xr.Dataset) -> str:
    names = ("gini_population", "effective_rank", "dead_share")
    gini, rank, dead = (float(record[name].mean("layer")) for name in names)
    return (
        f"{record.sizes['layer']} layers, on average Gini {gini:.3f}, effective rank {rank:.3g}, "
        f"{100 * dead:.1f} % of the units dead"
    )


def _ensemble(record: xr.Dataset) -> str:
    values = headline(record)
    low, high = (100 * values[f"ensemble_accuracy_{end}"] for end in ("low", "high"))
    mean = 100 * float(record["accuracy"].mean())
    words = [
        f"{record.sizes['member']} networks, accuracy {100 * values['ensemble_accuracy']:.2f} % "
        f"[{low:.1f}, {high:.1f}] (members {mean:.2f} %)",
        f"NLL {values['ensemble_nll']:.4g}, calibrated {values['calibrated_nll']:.4g}",
        f"calibration error {values['ensemble_ece_debiased']:.2g}",
    ]
    if math.isfinite(values["disagreement"]):
        words.append(f"disagreement {values['disagreement']:.4g}")
    return ", ".join(words)


def _dynamics(record: xr.Dataset) -> str:
    values = headline(record)
    return (
        f"{record.sizes['example']:,} examples at {record.sizes['time']} times, "
        f"{values['num_never_learned']:.0f} never right, {values['num_unforgettable']:.0f} never "
        f"forgotten, {values['mean_forgetting']:.3g} forgetting events on average"
    )


def _memorization(record: xr.Dataset) -> str:
    values = headline(record)
    words = [
        f"{values['mean_memorization']:.4f} on average over {record.sizes['example']:,} examples "
        f"and {values['num_models']:.0f} networks",
        f"{values['num_memorized']:.0f} with 0.25 or more",
    ]
    if values["num_undefined"]:
        words.append(f"{values['num_undefined']:.0f} undefined")
    if math.isfinite(values["split_half"]):
        words.append(f"reliability of halves {values['split_half']:.3f}")
    return ", ".join(words)


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
    "bands": _bands,
    "barrier": _barrier,
    "barrier_matrix": _barrier_matrix,
    "curve": _curve,
    "density": _density,
    "depth": _depth,
    "dynamics": _dynamics,
    "eigenvalues": _eigenvalues,
    "ensemble": _ensemble,
    "features": _features,
    "grid": _sweep,
    "line": _sweep,
    "linear": _linear,
    "lines": _sweep,
    "memorization": _memorization,
    "metrics": _metrics,
    "neb": _neb,
    "plane": _sweep,
    "repair": _repair,
    "similarity": _similarity,
    "soup": _soup,
    "sparsity": _sparsity,
    "topology": _topology,
    "trace": _trace,
    "trajectory": _trajectory,
}
