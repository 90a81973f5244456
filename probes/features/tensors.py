"""Tensors: what users hand over to be measured (tensors, arrays, lists), in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike

__all__ = ["as_float64"]


def as_float64(values: ArrayLike, name: str) -> Tensor:
    """Detached, on the device where they are.

    Raises:
        RequestError: no numbers, or some that are NaN or infinite.
    """
    if isinstance(values, Tensor):
        tensor = values.detach()
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise RequestError(f"{name} holds {array.dtype}, expected numbers.")
        tensor = torch.from_numpy(np.array(array, np.float64))
    if tensor.is_complex():
        raise RequestError(f"{name} is complex, expected real numbers: give its absolute value.")
    tensor = tensor.double()
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise RequestError(f"{name} has {bad} values that are NaN or infinite. Leave them out.")
    return tensor
