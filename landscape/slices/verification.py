"""Verification: points of a stored sweep, evaluated again by the plainest way there is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import BatchNormPolicy, Objective
from landscape.slices.chart import Chart
from landscape.slices.directions import regenerate

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["KINDS", "Verification", "verify"]

Array = NDArray[np.float64]

KINDS = ("line", "lines", "plane", "grid")
_RTOL = {torch.float64: 1e-9, torch.float32: 1e-3}
_LOW_PRECISION_RTOL = 5e-2
_SUBSET_ERRORS = 5.0  # that a point which saw a part of the data may be off


@dataclass(frozen=True, eq=False)
class Verification:
    """Stored and recalculated losses at some points.

    Attributes:
        points: (m, axes) their coordinates.
        stored, again: (m,) losses.
        tolerance: (m,) how far they may differ: rounding, and where a point was left early the
            error that it stated.
    """

    points: Array
    stored: Array
    again: Array
    tolerance: Array

    @property
    def differences(self) -> Array:
        """|stored - again|; 0 where both are NaN."""
        both = np.isnan(self.stored) & np.isnan(self.again)
        return np.where(both, 0.0, np.abs(self.stored - self.again))

    @property
    def is_right(self) -> bool:
        """Whether every point agrees."""
        return bool((self.differences <= self.tolerance).all())


def verify(
    objective: Objective, record: xr.Dataset, *, num: int = 5, seed: int = 0
) -> Verification:
    """Draw `num` of the evaluated points of a sweep and evaluate them again, one by one.

    Directions are drawn again from their seeds, or read from the record where it holds them.

    Args:
        objective: of the checkpoint that the sweep was made at, on the same data.
        record: of a line, lines, a plane or a grid, as `store.read` gives it.

    Raises:
        RequestError: no sweep, one of another checkpoint or other data, or directions that can be
            had neither from a seed nor from the record.
    """
    kind = record.attrs.get("probe")
    if kind not in KINDS:
        raise RequestError(f"a record of {kind!r} is no sweep: {', '.join(KINDS)} are.")
    _check_same(objective, record)
    if num < 1:
        raise RequestError(f"num is {num}, expected 1 or more points.")
    chart = Chart(objective.theta, _vectors(objective, record))
    axes = [name for name in record["loss"].dims if name != "direction"]
    loss = record["loss"].values
    evaluated = np.flatnonzero(record["done"].values & ~np.isinf(loss))
    chosen = np.random.default_rng(seed).permutation(evaluated)[:num]
    places = np.stack(np.unravel_index(chosen, loss.shape), axis=1)
    coefficients = np.zeros((len(chosen), chart.num_axes))
    for row, place in enumerate(places):
        if kind == "lines":
            coefficients[row, place[0]] = record["a"].values[place[1]]
        else:
            coefficients[row] = [
                record[name].values[index] for name, index in zip(axes, place, strict=True)
            ]
    bn = record.attrs.get("bn", objective.bn)
    if bn == "interpolate":
        raise RequestError(
            "this sweep interpolates BatchNorm statistics between checkpoints, which the record "
            "does not hold. Measure it again with --force to check it."
        )
    policy: BatchNormPolicy = bn
    again = objective.under(policy).losses(chart.thetas(torch.as_tensor(coefficients)))
    stored = loss.reshape(-1)[chosen]
    rtol = _RTOL.get(objective.space.dtype, _LOW_PRECISION_RTOL)
    tolerance = rtol * np.maximum(np.abs(stored), record["center_loss"].item())
    if "subset_error" in record:
        tolerance = tolerance + _SUBSET_ERRORS * record["subset_error"].values.reshape(-1)[chosen]
    return Verification(coefficients, stored, again.numpy(), np.nan_to_num(tolerance))


def _check_same(objective: Objective, record: xr.Dataset) -> None:
    stored: dict[str, Any] = json.loads(record.attrs.get("provenance", "{}"))
    now = objective.provenance()
    names = {
        "parameters_fingerprint": "checkpoint",
        "data_fingerprint": "data",
        "loss": "loss",
        "parameters": "selection of parameters (params=)",
    }
    for name, meaning in names.items():
        if name in stored and stored[name] != now[name]:
            raise RequestError(
                f"the sweep was made with another {meaning}: {stored[name]} then, {now[name]} now. "
                "Give what it was made with."
            )


def _vectors(objective: Objective, record: xr.Dataset) -> Tensor:
    if "direction_vector" in record:
        return torch.as_tensor(record["direction_vector"].values).to(objective.theta)
    recipes = json.loads(record.attrs.get("direction_recipes", "[]"))
    if not recipes:
        raise RequestError(
            "the record neither holds its directions nor says how to draw them again. Measure it "
            "with --vectors to keep them."
        )
    made = [regenerate(objective, recipe).as_subclass(Tensor) for recipe in recipes]
    return torch.stack(made)
