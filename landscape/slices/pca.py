"""PCA: the directions that hold most of a trajectory, from the Gram matrix of its points.

`trajectory` measures the loss along them. Points are read one by one, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError

__all__ = ["Points", "PrincipalComponents", "principal_components", "random_walk_shares"]

Array = NDArray[np.float64]

_BLOCK_BYTES = 2**30  # of float64 vectors that are held at once,
_LEAST_HELD = 4  # but never fewer than this many
# Products of n numbers carry a relative error of about sqrt(n) eps: 7e-13 for ten million.
_RANK_RTOL = 1e-12
_NULL_SLACK = 1.05  # a walk in a thousand dimensions scatters by 2 % around the shares of many
_SEED = 0  # of the directions that stand in where the points span too few


class Points(Protocol):
    """Vectors (n,) that are read when they are asked for: a list, a tensor (M, n), files."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Where M points lie around their mean.

    Attributes:
        directions: (k, n) orthonormal, float64 on the CPU. Each points from the first point to
            the last; where they lie level, to the point that lies farthest out. From `rank` on
            they are random directions at right angles to the others.
        shares: (M - 1,) of the variance, descending; NaN where all points are the same.
        rank: components that are more than rounding.
        distances: (M,) from the last point.
    """

    directions: Tensor = field(repr=False)
    shares: Array
    rank: int
    distances: Array

    def doubts(self) -> tuple[str, ...]:
        """What keeps the shape of a path in the first two components from being evidence."""
        num = len(self.distances)
        if self.rank == 0:
            return ("all checkpoints are the same point: there is no trajectory",)
        if self.rank == 1:
            return ("the checkpoints lie on one line: a second direction is a random one",)
        null = random_walk_shares(num, 2)
        if (self.shares[:2].cumsum() > _NULL_SLACK * null.cumsum()).any():
            return ()
        observed, expected, limit = (
            f"{first:.3f}/{second:.3f}"
            for first, second in (self.shares[:2], null, random_walk_shares(np.inf, 2))
        )
        return (
            f"the shares {observed} are no more than what a random walk of {num} points gives "
            f"({expected}; a long one {limit}): the picture's shape is no evidence of structure",
        )


def principal_components(
    points: Points, k: int = 2, *, names: Sequence[str] | None = None
) -> PrincipalComponents:
    """The k directions in which the points vary most, around their mean.

    Sums are in float64 and over differences to the last point, so that nothing is lost of a short
    path far from zero. This is also the PCA of the differences to the last checkpoint (Li et al.
    2018): taking the mean away undoes any common shift.

    Args:
        points: M >= 2 vectors (n,). They are read M / (2 B) times over, B being how many of them
            are held at once: as many as 1 GiB has room for in float64, and at least four.
        k: how many, at most n.
        names: of the points, for messages.

    Raises:
        RequestError: fewer than two points, sizes that differ, NaN or infinite values, k > n.
    """
    if len(points) < 2:
        raise RequestError(f"there are {len(points)} points, expected two or more.")
    reader = _Reader(points, names)
    if not 1 <= k <= len(reader.origin):
        raise RequestError(
            f"k={k} directions of {len(reader.origin)} coordinates: k must be between 1 and "
            f"{len(reader.origin)}."
        )
    gram = reader.gram()
    around_mean = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    ascending, columns = torch.linalg.eigh(around_mean)
    values = ascending.flip(0)[:-1].clamp(min=0)  # M points span M - 1 dimensions
    scores = columns.flip(1)[:, :-1]
    rank = int((values > _RANK_RTOL * values[0]).sum())
    found = min(k, rank)
    scores = scores[:, :found] * _signs(scores[:, :found])
    return PrincipalComponents(
        directions=_orthonormal(reader.combinations(scores.T), k),
        shares=(values / values.sum()).numpy(),
        rank=rank,
        distances=gram.diagonal().sqrt().numpy(),
    )


def random_walk_shares(num_points: float, k: int) -> Array:
    """(k,) shares of the variance in the PCA of a random walk, in many more dimensions than steps.

    Of M points they are 3 / (2 (M^2 - 1) sin^2(pi i / 2M)), i = 1..k: the Gram matrix around the
    mean is then the pseudo-inverse of the Laplacian of the path with M nodes. For `math.inf` points
    6 / (pi i)^2: .608, .152, .068. A walk in few dimensions has more in its first components.

    Raises:
        RequestError: more components than M - 1.

    Source: Antognini and Sohl-Dickstein 2018, arXiv:1806.08805.
    """
    if not 1 <= k < num_points:
        raise RequestError(
            f"k={k} components of {num_points} points: k must be between 1 and {num_points - 1}."
        )
    order = np.arange(1, k + 1, dtype=np.float64)
    if np.isinf(num_points):
        return 6 / (np.pi * order) ** 2
    sines = np.sin(np.pi * order / (2 * num_points))
    return np.asarray(1.5 / ((num_points**2 - 1) * sines**2))


class _Reader:
    """Points as differences to the last one, float64 on the CPU, each checked as it is read."""

    def __init__(self, points: Points, names: Sequence[str] | None) -> None:
        self._points, self._names, self._num = points, names, len(points)
        self.origin = self._read(self._num - 1).to(torch.float64)
        self._check_finite(self._num - 1, self.origin)

    def _named(self, index: int) -> str:
        number = f"number {index + 1} of {self._num}"
        return number if self._names is None else f"{self._names[index]!r} ({number})"

    def _read(self, index: int) -> Tensor:
        point = self._points[index].detach().cpu()
        if point.ndim != 1:
            raise RequestError(
                f"point {self._named(index)} has shape {tuple(point.shape)}, expected (n,)."
            )
        return point

    def _check_finite(self, index: int, vector: Tensor) -> None:
        # The sum sees every NaN and infinity, in a twentieth of the time of a mask.
        if not vector.sum().isfinite():
            raise RequestError(
                f"point {self._named(index)} holds NaN or infinite values: the run had diverged, "
                "or the file is damaged. Leave it out."
            )

    def difference(self, index: int, out: Tensor) -> Tensor:
        """Point `index` less the last one, written to `out`: new memory costs more than this."""
        point = self._read(index)
        if point.shape != self.origin.shape:
            raise RequestError(
                f"point {self._named(index)} has {len(point):,} coordinates, the last one "
                f"{len(self.origin):,}. Give checkpoints of one network."
            )
        out.copy_(point).sub_(self.origin)
        self._check_finite(index, out)
        return out

    def gram(self) -> Tensor:
        """(M, M) products of the differences."""
        num = self._num - 1  # the last one is zero
        held = min(num, max(_LEAST_HELD, _BLOCK_BYTES // self.origin.nbytes))
        room, other = self.origin.new_empty(held, len(self.origin)), torch.empty_like(self.origin)
        gram = torch.zeros(self._num, self._num, dtype=torch.float64)
        for start in range(0, num, held):
            stop = min(start + held, num)
            block = room[: stop - start]
            for index, row in zip(range(start, stop), block, strict=True):
                self.difference(index, row)
            gram[start:stop, start:stop] = block @ block.T
            for index in range(stop, num):
                products = block @ self.difference(index, other)
                gram[start:stop, index] = gram[index, start:stop] = products
        return gram

    def combinations(self, weights: Tensor) -> Tensor:
        """Weighted sums of the differences: (k, M) -> (k, n)."""
        sums, room = (self.origin.new_zeros(num, len(self.origin)) for num in (len(weights), 1))
        for index in range(self._num - 1 if len(weights) else 0):
            difference = self.difference(index, room[0])
            for total, weight in zip(sums, weights[:, index].tolist(), strict=True):
                total.add_(difference, alpha=weight)
        return sums


def _signs(scores: Tensor) -> Tensor:
    """(k,) +-1 for scores (M, k) of unit columns, so that no rounding can turn a direction."""
    gain = scores[-1] - scores[0]
    size = scores.abs()
    farthest = (size > size.amax(0) - 1e-6).long().argmax(0)  # of several, the first
    deciding = torch.where(gain.abs() > 1e-6, gain, scores.gather(0, farthest[None])[0])
    return torch.where(deciding < 0, -1.0, 1.0)


def _orthonormal(vectors: Tensor, k: int) -> Tensor:
    """(k, n) orthonormal, from fewer vectors that are nearly orthogonal: the rest is random."""
    size = vectors.shape[1]
    generator = torch.Generator().manual_seed(_SEED)
    basis = vectors.new_empty(k, size)
    for index in range(k):
        if index < len(vectors):
            basis[index] = vectors[index]
        else:
            torch.randn(size, generator=generator, out=basis[index])
        for _ in range(2):  # twice is enough (Giraud et al. 2005)
            basis[index] -= (basis[:index] @ basis[index]) @ basis[:index]
        basis[index] /= basis[index].norm()
    return basis
