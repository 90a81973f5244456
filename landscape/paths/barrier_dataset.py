"""A barrier as a labelled data set: what `Barrier.to_dataset` writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import xarray as xr

from landscape.paths.heights import DEFINITIONS

if TYPE_CHECKING:
    from landscape.paths.barrier import Barrier

__all__ = ["barrier_dataset"]

_UNITS = {"loss": "loss", "error": "1"}
_TERMS = {
    "partition": "change of the log partition function, D",
    "convexity": "gain of averaged logits, J",
    "target": "deviation of the target's logit",
}


def barrier_dataset(barrier: Barrier) -> xr.Dataset:
    """Profiles over `alpha`; heights in all definitions, angle and distance as scalars."""
    unit = _UNITS[barrier.metric]
    words = f"barrier, definition {barrier.definition!r}"
    found: dict[str, tuple[tuple[str, ...], object, dict[str, str]]] = {
        "barrier": _scalar(barrier.value, _unit(barrier.definition, unit), words),
        "barrier_error": _scalar(
            barrier.standard_error, _unit(barrier.definition, unit), "standard error of the barrier"
        ),
        "barrier_alpha": _scalar(barrier.alpha, "1", "where on the path it is reached"),
        "distance": _scalar(barrier.distance, "parameter", "distance of the ends"),
        "angle": _scalar(barrier.angle, "rad", "angle between the ends"),
        "angle_share": _scalar(barrier.angle / math.pi, "1", "angle between the ends / pi"),
    }
    if not math.isnan(barrier.invariant_angle):
        found["invariant_angle"] = _scalar(
            barrier.invariant_angle, "rad", "angle over the scale-invariant parameters"
        )
    for name, profile in barrier.profiles.items():
        unit = _UNITS[name.rpartition("_")[2]]
        text = name.replace("_", " ")
        found[name] = (("alpha",), profile.values, {"units": unit, "long_name": text})
        words = f"standard error of {text} above the chord"
        found[f"{name}_gap_error"] = (
            ("alpha",), profile.gap_errors, {"units": unit, "long_name": words},
        )  # fmt: skip
        heights = [profile.heights[definition].value for definition in DEFINITIONS]
        errors = [profile.errors[definition] for definition in DEFINITIONS]
        unit = f"{unit}; of 'relative' 1"
        found[f"{name}_height"] = (
            ("definition",), heights, {"units": unit, "long_name": f"barrier of the {text}"},
        )  # fmt: skip
        words = f"standard error of the barrier of the {text}"
        found[f"{name}_height_error"] = (
            ("definition",), errors, {"units": unit, "long_name": words},
        )  # fmt: skip
    if barrier.decomposition is not None:
        for name, words in _TERMS.items():
            values = getattr(barrier.decomposition, name)
            found[f"gap_{name}"] = _scalar(float(values.sum()), "loss", words)
            found[f"example_{name}"] = (
                ("example",), values.numpy(), {"units": "loss", "long_name": f"share of {words}"},
            )  # fmt: skip
        words = "where the gap is decomposed"
        found["gap_alpha"] = _scalar(barrier.decomposition.alpha, "1", words)
    if barrier.example_shares is not None:
        found["example_share"] = (
            ("example",),
            barrier.example_shares.numpy(),
            {"units": _UNITS[barrier.metric], "long_name": "what each example adds to the barrier"},
        )
    if barrier.class_shares is not None:
        found["class_share"] = (
            ("class",),
            barrier.class_shares,
            {"units": _UNITS[barrier.metric], "long_name": "what a class adds to the barrier"},
        )
    alphas = {"units": "1", "long_name": "share of the way from the first end to the second"}
    coords = {
        "alpha": ("alpha", barrier.alphas, alphas),
        "definition": ("definition", list(DEFINITIONS), {"long_name": "definition of a barrier"}),
    }
    return xr.Dataset(found, coords=coords)


def _scalar(value: float, units: str, words: str) -> tuple[tuple[str, ...], object, dict[str, str]]:
    return (), value, {"units": units, "long_name": words}


def _unit(definition: str, unit: str) -> str:
    return "1" if definition == "relative" else unit
