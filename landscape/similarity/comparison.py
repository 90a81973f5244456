"""Similarity: what comes back when networks are compared. `comparing` measures it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from landscape.errors import unknown_choice
from landscape.result import Result
from landscape.similarity.bootstrap import Intervals
from landscape.similarity.distances import WeightDistances
from landscape.similarity.predictions import MEASURES, OF_ONE

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Similarity"]

Array = NDArray[np.float64]

_PAIR = ("network", "other_network")
_DISTANCES = {
    "angle": ("rad", "angle between the weights"),
    "cosine": ("1", "cosine of the angle between the weights"),
    "euclidean": ("parameter", "distance between the weights"),
    "relative": ("1", "distance between the weights / mean of both norms"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity(Result):
    """How alike T networks are, two by two, on the data of one objective.

    Attributes:
        networks: (T,) their names.
        layers: (L,) names of the layers whose features were compared.
        cka: (T, T, L) of the same layer in two networks, with jackknife intervals; NaN where a
            layer puts out the same for all examples.
        cross_layer_cka: (L, L) of each layer of the first network, in rows, with each of the
            second; None unless there are two.
        weights: distances between the weights, (T, T, G).
        scale_invariant_angle: (T, T) in radians, between the weights whose scale the network does
            not see, see `scale_invariant_angles`; NaN without any, None where it was not sought.
        predictions: by name, (T,) or (T, T); the names are those of `predictions.MEASURES`. Empty
            where the loss does not show the outputs, without classes only their correlation.
    """

    probe: ClassVar[str] = "similarity"

    networks: tuple[str, ...]
    layers: tuple[str, ...]
    cka: Intervals = field(repr=False)
    cross_layer_cka: Array | None = field(repr=False)
    weights: WeightDistances = field(repr=False)
    scale_invariant_angle: Array | None = field(repr=False)
    predictions: Mapping[str, Intervals] = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged": every number is exact for these examples."""
        return "converged"

    def value(self, name: str) -> float:
        """A measure of two networks as one number; of more, its mean over all pairs.

        Args:
            name: of a prediction's measure of two networks, such as "disagreement"; "cka", the mean
                over the layers that have one; "angle", "cosine", "euclidean" or "relative" between
                all weights; "scale_invariant_angle".

        Raises:
            RequestError: an unknown name.
        """
        return _over_pairs(self._matrix(name))

    def interval(self, name: str) -> tuple[float, float]:
        """(low, high) of a prediction's measure; of more than two networks its mean over pairs.

        Raises:
            RequestError: an unknown name, or one without intervals.
        """
        pairwise = self._pairwise()
        if name not in pairwise:
            raise unknown_choice("measure with an interval", name, pairwise)
        return _over_pairs(pairwise[name].low), _over_pairs(pairwise[name].high)

    def _pairwise(self) -> dict[str, Intervals]:
        return {name: held for name, held in self.predictions.items() if name not in OF_ONE}

    def _matrix(self, name: str) -> Array:
        pairwise = self._pairwise()
        if name in pairwise:
            return pairwise[name].value
        if name == "cka":
            return _mean_over_layers(self.cka.value)
        if name in _DISTANCES:
            whole: Array = getattr(self.weights, name)[..., 0]
            return whole
        if name == "scale_invariant_angle" and self.scale_invariant_angle is not None:
            return self.scale_invariant_angle
        known = [*pairwise, "cka", *_DISTANCES]
        raise unknown_choice("measure", name, [*known, "scale_invariant_angle"])

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Scalars as of `value` and, of two networks, `interval`; the matrices are `pair_...`.

        Dimensions `network`, `other_network`, `layer`, `other_layer`, `group` (of parameters).
        """
        import xarray as xr

        dataset = xr.Dataset(
            coords={
                "network": list(self.networks),
                "other_network": list(self.networks),
                "layer": list(self.layers),
                "group": list(self.weights.groups),
            }
        )

        def put(name: str, dimensions: tuple[str, ...], values: object, unit: str, of: str) -> None:
            dataset[name] = (dimensions, values, {"units": unit, "long_name": of})

        def put_intervals(
            name: str, dimensions: tuple[str, ...], held: Intervals, unit: str, of: str
        ) -> None:
            put(name, dimensions, held.value, unit, of)
            put(f"{name}_low", dimensions, held.low, unit, f"lower end, {of}")
            put(f"{name}_high", dimensions, held.high, unit, f"upper end, {of}")

        put_intervals("pair_cka", (*_PAIR, "layer"), self.cka, "1", "CKA of a layer's features")
        put("cka", (), self.value("cka"), "1", "CKA, mean over the layers")
        if self.cross_layer_cka is not None:
            dataset.coords["other_layer"] = list(self.layers)
            between = "CKA of a layer of the first network with one of the second"
            put("layer_cka", ("layer", "other_layer"), self.cross_layer_cka, "1", between)
        for name, (unit, meaning) in _DISTANCES.items():
            put(f"pair_{name}", (*_PAIR, "group"), getattr(self.weights, name), unit, meaning)
            put(name, (), self.value(name), unit, meaning)
        if self.scale_invariant_angle is not None:
            name, meaning = "scale_invariant_angle", "angle between scale-invariant weights"
            put(f"pair_{name}", _PAIR, self.scale_invariant_angle, "rad", meaning)
            put(name, (), self.value(name), "rad", meaning)
        for name, held in self.predictions.items():
            unit, meaning = MEASURES[name]
            if name in OF_ONE:
                put_intervals(f"network_{name}", ("network",), held, unit, meaning)
                continue
            put_intervals(f"pair_{name}", _PAIR, held, unit, meaning)
            put(name, (), self.value(name), unit, meaning)
            if len(self.networks) == 2:
                low, high = self.interval(name)
                put(f"{name}_low", (), low, unit, f"lower end, {meaning}")
                put(f"{name}_high", (), high, unit, f"upper end, {meaning}")
        return dataset


def _over_pairs(matrix: Array) -> float:
    """Mean over the entries above the diagonal."""
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())


def _mean_over_layers(values: Array) -> Array:
    """(T, T) means of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(-1) / known.sum(-1))
