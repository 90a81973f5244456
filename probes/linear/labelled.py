"""Features and labels as they are handed over: of one layer or several, as parts of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, as_floats
from landscape.trainers.data.splits import stratified_split

__all__ = ["Features", "Labelled", "as_classes", "as_features", "as_weights", "hold_out", "layers"]

Features = ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike]


@dataclass(frozen=True, eq=False)
class Labelled:
    """One part of a split.

    Attributes:
        layers: (n, d) features by the layer's name.
        labels: (n,) int64, as they were given.
    """

    layers: Mapping[str, Tensor]
    labels: Tensor

    def __post_init__(self) -> None:
        for name, features in self.layers.items():
            if len(features) != len(self.labels):
                raise RequestError(
                    f"{len(features)} rows of features{_of(name)} and {len(self.labels)} labels: "
                    "give one label for each row."
                )
        if not len(self.labels):
            raise RequestError("features and labels are of 0 examples: give at least one of each.")

    def at(self, rows: Tensor) -> Labelled:
        """Some of the examples."""
        return Labelled({name: kept[rows] for name, kept in self.layers.items()}, self.labels[rows])


def layers(features: Features, name: str) -> dict[str, Tensor]:
    """Layers by name: those of a mapping; "0", "1", ... of a sequence or (L, n, d); else ""."""
    if isinstance(features, Mapping):
        if not features:
            raise RequestError(f"{name} is an empty mapping: give (n, d) features of a layer.")
        return {key: as_features(part, f"{name}[{key!r}]") for key, part in features.items()}
    if _is_sequence_of_layers(features):
        assert isinstance(features, Tensor | np.ndarray | Sequence)
        if not len(features):
            raise RequestError(f"{name} has 0 layers: give at least one.")
        return {
            str(index): as_features(part, f"{name}[{index}]") for index, part in enumerate(features)
        }
    return {"": as_features(features, name)}


def as_features(values: object, name: str) -> Tensor:
    """(n, d) on the CPU, float64 or, where that is what came, float32.

    Raises:
        RequestError: another shape, no numbers, or numbers that are not finite.
    """
    if isinstance(values, np.ndarray) and values.dtype in (np.float32, np.float64):
        values = torch.from_numpy(np.ascontiguousarray(values))
    if isinstance(values, Tensor) and values.is_floating_point():
        found = values.detach().cpu()
        found = found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
        if found.ndim != 2:
            raise RequestError(f"{name} has shape {tuple(found.shape)}, expected (n, d).")
    else:
        found = torch.from_numpy(as_floats(values, name, "(n, d)"))  # type: ignore[arg-type]
    if not found.isfinite().all():
        bad = (~found.isfinite()).any(1).nonzero().flatten().tolist()
        raise RequestError(
            f"{name} is not finite in {len(bad)} rows, the first of them {bad[:5]}. Leave these "
            "examples out, or find out where the network overflows."
        )
    return found


def as_classes(values: ArrayLike, name: str) -> Tensor:
    """(n,) int64: any whole numbers, of which each value is a class.

    Raises:
        RequestError: another shape, or numbers that are not whole.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1:
        raise RequestError(f"{name} has shape {array.shape}, expected (n,).")
    if array.dtype.kind not in "iub":
        raise RequestError(
            f"{name} holds {array.dtype}, expected (n,) integers, one for each class: "
            "`numpy.unique(labels, return_inverse=True)[1]` numbers any other kind."
        )
    return torch.from_numpy(array.astype(np.int64))


def as_weights(values: ArrayLike | None, count: int) -> Tensor:
    """(n,) float64 shares of the whole weight, by default equal.

    Raises:
        RequestError: another length, or weights that are negative, not finite, or all 0.
    """
    if values is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    weights = torch.from_numpy(as_floats(values, "sample_weights", "(n,)"))
    if len(weights) != count:
        raise RequestError(f"{len(weights)} sample_weights for {count} examples: give one each.")
    total = float(weights.sum())
    if not (weights >= 0).all() or not 0 < total < np.inf:
        raise RequestError(
            "sample_weights have to be finite, not negative, and of a positive sum. Give 0 to "
            "leave an example out."
        )
    return weights / total


def hold_out(examples: Labelled, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to fit on and rows for validation, with the classes' shares in both.

    Raises:
        RequestError: a fraction that leaves either of them empty.
    """
    count = len(examples.labels)
    if not 0 < fraction < 1 or not 1 <= round(fraction * count) < count:
        raise RequestError(
            f"validation={fraction} of {count} examples: expected a fraction between 0 and 1 that "
            "leaves some to fit on, or a pair (features, labels)."
        )
    size = round(fraction * count)
    kept, held = stratified_split(examples.labels, [count - size, size], seed=seed)
    return kept, held


def _is_sequence_of_layers(features: object) -> bool:
    if isinstance(features, Tensor | np.ndarray):
        return features.ndim == 3
    if not isinstance(features, Sequence) or not len(features):
        return isinstance(features, Sequence)
    first = features[0]
    return getattr(first, "ndim", None) == 2 or np.ndim(np.asarray(first, dtype=object)) == 2


def _of(name: str) -> str:
    return f" of layer {name!r}" if name else ""
