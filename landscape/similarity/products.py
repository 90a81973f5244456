"""Sums over examples of two sets of features, from products X'Y or from kernels X X'.

Products take room p q, kernels time n^2; `streaming` chooses. Both end in the sums of `hsic`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from landscape.similarity.hsic import Rows, Sums

__all__ = ["Pair", "Products", "rows_by_kernels"]

Key = TypeVar("Key")
Pair = tuple[str, str]

_BLOCK = 2**24  # entries of all kernels together that are held at a time, 128 MiB


class Products:
    """Sums of products of shifted features, from which those of centred features follow."""

    def __init__(self, names: tuple[str, ...], pairs: tuple[Pair, ...]) -> None:
        self._names, self._pairs = names, pairs
        self._count = 0
        self._crossed: dict[Pair, Tensor] = {}  # (p, q) X'Y
        self._summed: dict[str, Tensor] = {}  # (p,)
        self._weighted: dict[Pair, Tensor] = {}  # (q,) sum of |x_i|^2 y_i
        self._squares: dict[Pair, Tensor] = {}  # sum of |x_i|^2 |y_i|^2

    def add(self, shifted: Mapping[str, Tensor]) -> None:
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

    def sums(self, pair: Pair, count: int) -> Sums:
        first, second = pair
        mean, other_mean = self._mean(first), self._mean(second)
        # sum of k l with l = |y|^2 - 2 y.u + |u|^2, k centred and y not.
        by_square = (
            self._squares[pair]
            - 2 * mean @ self._weighted[second, first]
            + mean @ mean * self._crossed[second, second].diagonal().sum()
        )
        by_other = self._centred_weighted(
            pair
        ) @ other_mean + other_mean @ other_mean * self._length(first)
        product = float(by_square - 2 * by_other + other_mean @ other_mean * self._length(first))
        whole = float(self._centred(pair).square().sum())
        return Sums(
            num_examples=count,
            pairs=whole - product,
            first=self._length(first),
            second=self._length(second),
            product=product,
        )

    def rows(self, shifted: Mapping[str, Tensor]) -> dict[Pair, Rows]:
        centred = {name: x - self._mean(name) for name, x in shifted.items()}
        lengths = {name: x.square().sum(1) for name, x in centred.items()}
        found = {}
        for i, j in self._pairs:
            x, y, k, squares = centred[i], centred[j], lengths[i], lengths[j]
            of_second = x @ self._centred_weighted((j, i)) - k * squares
            of_first = y @ self._centred_weighted((i, j)) - k * squares
            pairs = ((x @ self._centred((i, j))) * y).sum(1) - k * squares
            found[i, j] = Rows(*(v.cpu().numpy() for v in (pairs, k, squares, of_second, of_first)))
        return found


def _accumulate(held: dict[Key, Tensor], key: Key, value: Tensor) -> None:
    if key in held:
        held[key] += value
    else:
        held[key] = value


def rows_by_kernels(centred: Mapping[str, Tensor], pairs: tuple[Pair, ...]) -> dict[Pair, Rows]:
    """Rows of all pairs from the kernels, a block of examples at a time."""
    lengths = {name: x.square().sum(1) for name, x in centred.items()}
    count = len(next(iter(centred.values())))
    size = max(1, _BLOCK // (count * len(centred)))
    found: dict[Pair, list[list[Tensor]]] = {pair: [] for pair in pairs}
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        kernels = {name: x[rows] @ x.T for name, x in centred.items()}
        for kernel in kernels.values():
            kernel.diagonal(start).zero_()
        for i, j in pairs:
            found[i, j].append(
                [
                    torch.linalg.vecdot(kernels[i], kernels[j]),
                    kernels[i] @ lengths[j],
                    kernels[j] @ lengths[i],
                ]
            )
    rows_of = {}
    for (i, j), blocks in found.items():
        crossed, of_second, of_first = (torch.cat(part) for part in zip(*blocks, strict=True))
        parts = (crossed, lengths[i], lengths[j], of_second, of_first)
        rows_of[i, j] = Rows(*(part.cpu().numpy() for part in parts))
    return rows_of
