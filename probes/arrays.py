"""Arrays: what users hand over (tensors, arrays, lists) as NumPy arrays that were looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.errors import RequestError

__all__ = ["ArrayLike", "Bools", "Floats", "Ints", "as_bools", "as_floats", "as_labels"]

ArrayLike = npt.ArrayLike | Tensor | Sequence[object]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def as_floats(values: ArrayLike, name: str, dims: str) -> Floats:
    """A float64 copy.

    Args:
        dims: its dimensions, such as "(T, n)", of which the number is checked.

    Raises:
        RequestError: other dimensions, or no numbers.
    """
    array = _as_array(values, name, dims)
    if array.dtype.kind not in "fiub":
        raise RequestError(f"{name} holds {array.dtype}, expected numbers {dims}.")
    return array.astype(np.float64)


def as_bools(values: ArrayLike, name: str, dims: str) -> Bools:
    """A copy of 0 and 1, or of booleans.

    Raises:
        RequestError: other dimensions, or other values.
    """
    array = _as_array(values, name, dims)
    if not np.isin(array, (0, 1)).all():
        raise RequestError(
            f"{name} holds other values than 0 and 1, or True and False. Give {dims} of these."
        )
    return array.astype(bool)


def as_labels(values: ArrayLike, name: str, num_classes: int | None = None) -> Ints:
    """(n,) class indices from 0 on.

    Raises:
        RequestError: another shape, numbers that are not whole, or out of range.
    """
    array = _as_array(values, name, "(n,)")
    if array.dtype.kind not in "iu":
        raise RequestError(f"{name} holds {array.dtype}, expected (n,) integers: class indices.")
    labels = array.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise RequestError(f"{name} has {labels.min()}, expected class indices from 0 on.")
    if num_classes is not None and len(labels) and labels.max() >= num_classes:
        raise RequestError(
            f"{name} has class {labels.max()}, and there are {num_classes} classes: expected 0 ... "
            f"{num_classes - 1}."
        )
    return labels


def _as_array(values: ArrayLike, name: str, dims: str) -> npt.NDArray[np.generic]:
    if isinstance(values, Tensor):
        held = values.detach().cpu()
        array = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    else:
        array = np.asarray(values)
    if array.ndim != dims.count(",") + 1 - dims.count(",)"):
        raise RequestError(f"{name} has shape {array.shape}, expected {dims}.")
    return array
