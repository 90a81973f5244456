"""A band as a labelled data set: what `Neb.to_dataset` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from landscape.paths.band import SUBPOINTS

if TYPE_CHECKING:
    from landscape.paths.neb import Neb

__all__ = ["neb_dataset"]

_HEIGHTS = {
    "saddle": "greatest {} of the band",
    "chord": "greatest rise of the {} above the ends, mixed by length",
    "highest_end": "greatest rise of the {} above the higher end",
}
_SCALARS = {
    "saddle_t": ("1", "where on the band its greatest loss is"),
    "length": ("parameter", "length of the band"),
    "distance": ("parameter", "distance of the ends"),
    "length_ratio": ("1", "length of the band over the distance of its ends"),
    "residual": ("1", "gain of a sideways step, as a share of the losses' range on the line"),
}
_CYCLE = {
    "num_inserted": ("1", "pivots put in before the cycle"),
    "num_pivots": ("1", "pivots, ends included"),
    "steps": ("1", "steps of the cycle"),
    "learning_rate": ("1", "learning rate of the cycle"),
    "saddle": ("loss", "greatest loss of the band after the cycle"),
    "barrier": ("loss", "greatest rise above the ends after the cycle"),
    "length": ("parameter", "length of the band after the cycle"),
    "force": ("loss / parameter", "greatest gradient across the band after the cycle"),
}


def neb_dataset(band: Neb, *, vectors: bool) -> xr.Dataset:
    """Profiles over `t`, forces over `pivot`, cycles over `cycle`; heights as scalars."""
    share = {"units": "1", "long_name": "share of the length"}
    found: dict[str, tuple[tuple[str, ...], object, dict[str, str]]] = {
        "is_pivot": (
            ("t",),
            np.arange(len(band.t)) % (SUBPOINTS + 1) == 0,
            {"units": "1", "long_name": "whether the point is a pivot"},
        ),
        "force": (
            ("pivot",),
            band.forces,
            {"units": "loss / parameter", "long_name": "norm of the gradient across the band"},
        ),
        "highest_loss": (
            ("step",),
            band.highest_losses,
            {"units": "loss", "long_name": "greatest loss at a pivot, by the step's minibatch"},
        ),
    }
    for name, along in band.profiles.items():
        unit, words = _unit(name), name.replace("_", " ")
        error = f"standard error of the rise of the {words} above the ends"
        straight = band.straight[name]
        line = f"{words} along the straight line"
        found[name] = (("t",), along.values, {"units": unit, "long_name": words})
        found[f"{name}_gap_error"] = (
            ("t",), along.gap_errors, {"units": unit, "long_name": error},
        )  # fmt: skip
        found[f"straight_{name}"] = (
            ("line_t",), straight.values, {"units": unit, "long_name": line},
        )  # fmt: skip
        for definition, sentence in _HEIGHTS.items():
            meaning = sentence.format(words)
            scalars = {
                f"{name}_{definition}": (along.heights[definition].value, meaning),
                f"{name}_{definition}_error": (
                    along.errors[definition], f"standard error of the {meaning}",
                ),
                f"straight_{name}_{definition}": (
                    straight.heights[definition].value,
                    meaning.replace("band", "straight line"),
                ),
            }  # fmt: skip
            for variable, (value, text) in scalars.items():
                found[variable] = ((), value, {"units": unit, "long_name": text})
    for name, (unit, words) in _SCALARS.items():
        found[name] = ((), getattr(band, name), {"units": unit, "long_name": words})
    for name, (unit, words) in _CYCLE.items():
        values = [getattr(cycle, name) for cycle in band.cycles]
        found[f"cycle_{name}"] = (("cycle",), values, {"units": unit, "long_name": words})
    if vectors:
        held = band.pivots.float() if band.pivots.dtype.itemsize < 4 else band.pivots
        attributes = {"units": "parameter", "long_name": "pivot of the band"}
        found["pivot_vector"] = (("pivot", "parameter"), held.cpu().numpy(), attributes)
    line_t = band.straight["loss"].alphas
    coordinates = {"t": ("t", band.t, share), "line_t": ("line_t", line_t, share)}
    return xr.Dataset(found, coords=coordinates)


def _unit(name: str) -> str:
    return "loss" if name.endswith("loss") else "1"
