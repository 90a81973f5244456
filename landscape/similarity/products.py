"""Sums over examples of two sets of features, from products X'Y or from kernels X X'.

Products take room p q, kernels time n^2; `streaming` chooses. Both end in the sums of `hsic`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from landscape.similarity.hsic import Rows, Sums

__all__ = ["Pair", "Products", "rows_by_kernels"]

Key = TypeVar("Key")
Pair = tuple[str, str]

_BLOCK = 2**24  # entries of all kernels together that are held at a time, 128 MiB


class Products:
    """Sums of products of shifted features, from which those of centred features follow.

    Args:
        pairs: each once, in one order, and each name with itself.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs, self._count = tuple(pairs), 0
        self._crossed: dict[Pair, Tensor] = {}  # (p, q) X'Y
        self._summed: dict[str, Tensor] = {}  # (p,)
        self._weighted: dict[Pair, Tensor] = {}  # (q,) sum of |x_i|^2 y_i
        self._squares: dict[Pair, Tensor] = {}  # sum of |x_i|^2 |y_i|^2

    def add(self, shifted: Mapping[str, Tensor]) -> None:
        """Take a batch of features (n, p) by name, about any fixed point."""
        lengths = {name: x.square().sum(1) for name, x in shifted.items()}
        self._count += len(next(iter(shifted.values())))
        for name, x in shifted.items():
            _accumulate(self._summed, name, x.sum(0))
        for i, j in self._pairs:
            x, y = shifted[i], shifted[j]
            _accumulate(self._crossed, (i, j), x.T @ y)
            _accumulate(self._squares, (i, j), lengths[i] @ lengths[j])
            _accumulate(self._weighted, (i, j), lengths[i] @ y)
            if i != j:
                _accumulate(self._weighted, (j, i), lengths[j] @ x)

    def _mean(self, name: str) -> Tensor:
        return self._summed[name] / self._count

    def _centred(self, pair: Pair) -> Tensor:
        """(p, q) X'Y of centred features."""
        return self._crossed[pair] - torch.outer(self._summed[pair[0]], self._mean(pair[1]))

    def _length(self, name: str) -> float:
        """Sum of |x_i|^2 of centred features."""
        about_pivot = self._crossed[name, name].diagonal().sum()
        return float(about_pivot - self._summed[name] @ self._mean(name))

    def _centred_weighted(self, pair: Pair) -> Tensor:
        """(q,) sum of |x_i|^2 y_i of centred features."""
        first, second = pair
        mean = self._mean(first)
        crossed = (
            self._crossed[pair].T @ mean
            if pair in self._crossed
            else self._crossed[second, first] @ mean
        )
        about = self._weighted[pair] - 2 * crossed + mean @ mean * self._summed[second]
        return about - self._mean(second) * self._length(first)

    def sums(self, pair: Pair) -> Sums:
        """Of all examples so far."""
        first, second = pair
        mean, other_mean = self._mean(first), self._mean(second)
        length = self._length(first)
        # With k centred, the centred squares of y are |y|^2 - 2 y.u + |u|^2 about its mean u.
        by_squares = (
            self._squares[pair]
            - 2 * mean @ self._weighted[second, first]
            + mean @ mean * self._crossed[second, second].diagonal().sum()
        )
        by_means = (
            2 * other_mean @ self._centred_weighted(pair) + other_mean.square().sum() * length
        )
        product = float(by_squares - by_means)
        return Sums(
            num_examples=self._count,
            pairs=float(self._centred(pair).square().sum()) - product,
            first=length,
            second=self._length(second),
            product=product,
        )

    def rows(self, shifted: Mapping[str, Tensor]) -> dict[Pair, Rows]:
        """Of some examples, once all have been added: their features as they were then."""
        centred = {name: x - self._mean(name) for name, x in shifted.items()}
        lengths = {name: x.square().sum(1) for name, x in centred.items()}
        found = {}
        for i, j in self._pairs:
            own = lengths[i] * lengths[j]  # what the diagonals would add
            parts = (
                ((centred[i] @ self._centred((i, j))) * centred[j]).sum(1) - own,
                lengths[i],
                lengths[j],
                centred[i] @ self._centred_weighted((j, i)) - own,
                centred[j] @ self._centred_weighted((i, j)) - own,
            )
            found[i, j] = Rows(*(part.cpu().numpy() for part in parts))
        return found


def _accumulate(held: dict[Key, Tensor], key: Key, value: Tensor) -> None:
    if key in held:
        held[key] += value
    else:
        held[key] = value


def rows_by_kernels(
    names: Sequence[str], centred: Callable[[str], Tensor], pairs: Sequence[Pair]
) -> dict[Pair, Rows]:
    """Rows of all pairs from the kernels, a block of examples at a time.

    Args:
        centred: gives the features (n, p) of a name, in float64; those of one name are in memory
            at a time, and asked for again in each block.
    """
    lengths = {name: centred(name).square().sum(1) for name in names}
    count = len(lengths[names[0]])
    size = max(1, _BLOCK // (count * len(names)))
    found: dict[Pair, list[list[Tensor]]] = {pair: [] for pair in pairs}
    for start in range(0, count, size):
        kernels = {name: _kernel(centred(name), start, size) for name in names}
        for i, j in pairs:
            crossed = torch.linalg.vecdot(kernels[i], kernels[j])
            found[i, j].append([crossed, kernels[i] @ lengths[j], kernels[j] @ lengths[i]])
    rows_of = {}
    for (i, j), blocks in found.items():
        crossed, of_second, of_first = (torch.cat(part) for part in zip(*blocks, strict=True))
        parts = (crossed, lengths[i], lengths[j], of_second, of_first)
        rows_of[i, j] = Rows(*(part.cpu().numpy() for part in parts))
    return rows_of


def _kernel(x: Tensor, start: int, size: int) -> Tensor:
    """Rows of X X' from `start`, with zeros for its diagonal."""
    kernel = x[start : start + size] @ x.T
    kernel.diagonal(start).zero_()
    return kernel
