"""A record of a result file in a few words, each number with its doubt."""

from __future__ import annotations

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


def _within(value: float, radius: float) -> str:
    """`3.0369 +- 2e-06`, with as many digits as the radius leaves, six at most."""
    return f"{value:.6g} +- {radius:.1g}"


_CAVEATS = {
    "max_cosine": "|cosine| at most",
    "stale_bn_gap": "frozen BatchNorm statistics off by",
    "rescaling_change": "changed by rescaled neurons by",
}

_WRITERS = {
    "density": _density,
    "eigenvalues": _eigenvalues,
    "grid": _sweep,
    "line": _sweep,
    "lines": _sweep,
    "metrics": _metrics,
    "plane": _sweep,
    "topology": _topology,
    "trace": _trace,
    "trajectory": _trajectory,
}
