"""Sparsity measures: how far a vector is from having all entries alike.

`rank_measures` has those of a spectrum, `layer_sparsity` both of a network's layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike
from landscape.probes.features.tensors import as_float64

__all__ = ["gini", "hoyer", "l0"]


def hoyer(x: ArrayLike, dim: int = -1) -> Tensor:
    """(sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1): 0 where all |x| are equal, 1 at one-hot.

    The Treves-Rolls sparseness, |x|_1^2 / (n |x|_2^2), orders vectors of n entries the other way
    round. Hoyer's changes when each entry is repeated, which `gini` does not see.

    Args:
        x: (..., n, ...) of any sign.
        dim: where the n entries are: over units, each example has its population sparsity; over
            examples, each unit has its lifetime sparsity.

    Returns:
        Without that dimension, float64; NaN for n = 1 and for a vector of zeros.

    Raises:
        RequestError: no such dimension, nothing along it, or a number that is not finite.

    Source: Hoyer 2004; Hurley and Rickard 2009, arXiv:0811.4706.
    """
    size = _magnitudes(x, dim)
    root = size.shape[dim] ** 0.5
    ratio = size.sum(dim) / size.square().sum(dim).sqrt()
    # Of one entry 0 / 0, which is NaN: it is all alike and one-hot at once.
    return torch.div(root - ratio, root - 1)


def gini(x: ArrayLike, dim: int = -1) -> Tensor:
    """1 - 2 sum_k |x|_(k) / |x|_1 (n - k + 1/2) / n over ascending |x|: 0 to 1 - 1 / n at one-hot.

    It keeps its value when each entry is repeated as often.

    Args:
        x: (..., n, ...) of any sign.
        dim: where the n entries are, see `hoyer`.

    Returns:
        Without that dimension, float64; NaN for a vector of zeros.

    Raises:
        RequestError: no such dimension, nothing along it, or a number that is not finite.

    Source: Hurley and Rickard 2009, arXiv:0811.4706.
    """
    ascending = _magnitudes(x, dim).movedim(dim, -1).sort(-1).values
    count = ascending.shape[-1]
    rank = torch.arange(1, count + 1, dtype=torch.float64, device=ascending.device)
    # The weights of the formula, 1 - 2 (n - k + 1/2) / n, add up to 0.
    return ascending @ ((2 * rank - count - 1) / count) / ascending.sum(-1)


def l0(x: ArrayLike, *, eps: float = 0.0, dim: int = -1) -> Tensor:
    """How many of the entries along `dim` have |x| > eps; float64.

    Raises:
        RequestError: a negative eps, no such dimension, or a number that is not finite.
    """
    if not eps >= 0:
        raise RequestError(f"eps={eps}, expected 0 or more.")
    return (_entries(x, dim).abs() > eps).sum(dim).double()


def _magnitudes(x: ArrayLike, dim: int) -> Tensor:
    """|x| divided by its largest, so that no square overflows; NaN where all are 0."""
    size = _entries(x, dim).abs()
    return size / size.amax(dim, keepdim=True)


def _entries(x: ArrayLike, dim: int) -> Tensor:
    values = as_float64(x, "x")
    if not -values.ndim <= dim < values.ndim or not values.shape[dim]:
        raise RequestError(
            f"x has shape {tuple(values.shape)}, expected entries along dimension {dim}."
        )
    return values
