"""Nearest neighbours: exact, in blocks, no example its own neighbour; and the probe that asks them.

`ridge` and `fitting` draw planes instead; `depth` asks the neighbours after every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Ints, as_floats, as_labels
from landscape.similarity.bootstrap import wilson

__all__ = [
    "Metric",
    "Neighbours",
    "NeighboursProbe",
    "as_matrix",
    "knn_probe",
    "nearest_neighbours",
    "vote",
]

Metric = Literal["cosine", "euclidean"]
_METRICS = ("cosine", "euclidean")

NUM_NEIGHBOURS = 20
_BLOCK = 2**22  # float64 entries that are held at a time, 32 MiB
_TIE = 1e-12  # relative: votes that are equal but for the order of their sum


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest of N examples to each of M, the nearest first; of equals the lower index.

    Attributes:
        indices: (M, k) int64 rows of the bank.
        distances: (M, k) float64: Euclidean, or 1 - cosine.
    """

    indices: Tensor
    distances: Tensor


@dataclass(frozen=True, eq=False)
class NeighboursProbe:
    """What the neighbours say of M examples.

    Attributes:
        predictions: (M,) classes.
        accuracy: share that is right, with a 95 % interval from `low` to `high` (Wilson).
        low, high: its ends.
    """

    predictions: Ints
    accuracy: float
    low: float
    high: float


def knn_probe(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    test: tuple[ArrayLike, ArrayLike] | None = None,
    k: int = NUM_NEIGHBOURS,
    metric: Metric = "cosine",
    temperature: float | None = None,
) -> NeighboursProbe:
    """The class that most of the k nearest training examples have.

    Args:
        features: (N, d) of the training examples.
        labels: (N,) their classes. No other class is ever answered.
        test: (features (M, d), labels (M,)). Without, every training example is asked of the
            others: it is not its own neighbour, an exact copy of it is.
        k: how many neighbours.
        metric: "cosine" or "euclidean".
        temperature: of the weights, see `vote`; None counts every neighbour once.

    Raises:
        RequestError: fewer than k neighbours, features that are not finite, other shapes.

    Source: Wu et al. 2018, arXiv:1805.01978, with cosine, k=200 and temperature .1.
    """
    bank = as_matrix(features, "features")
    known = as_labels(labels, "labels")
    _check_length("labels", len(known), "features", len(bank))
    asked, right = None, known
    if test is not None:
        asked, right = as_matrix(test[0], "test features"), as_labels(test[1], "test labels")
        _check_length("test labels", len(right), "test features", len(asked))
    found = nearest_neighbours(bank, asked, k=k, metric=metric)
    predictions = vote(found, known, temperature=temperature)
    hits = wilson(np.asarray(float((predictions == right).sum())), float(len(right)))
    return NeighboursProbe(predictions, float(hits.value), float(hits.low), float(hits.high))


def vote(neighbours: Neighbours, labels: ArrayLike, *, temperature: float | None = None) -> Ints:
    """(M,) the class with the most votes; of equals that of the nearest neighbour among them.

    Args:
        labels: (N,) classes of the bank.
        temperature: T of the weights exp(-distance / T), which are, of cosines, those of
            exp(cosine / T) up to a factor; None counts every neighbour once.

    Raises:
        RequestError: a temperature that is not positive.
    """
    if temperature is not None and not 0 < temperature < np.inf:
        raise RequestError(f"temperature={temperature}, expected a positive number, or None.")
    classes = as_labels(labels, "labels")
    distances = neighbours.distances
    weights = torch.ones_like(distances)
    if temperature is not None:
        # From the nearest on: exp(1 / T) overflows below T = .0014.
        weights = torch.exp((distances[:, :1] - distances) / temperature)
    voters = torch.as_tensor(classes, device=distances.device)
    num_classes = int(classes.max()) + 1
    parts = []
    for rows in torch.split(torch.arange(len(weights)), max(1, _BLOCK // num_classes)):
        chosen = voters[neighbours.indices[rows]]
        votes = torch.zeros(len(rows), num_classes, dtype=weights.dtype, device=weights.device)
        votes.scatter_add_(1, chosen, weights[rows])
        leads = votes >= votes.amax(1, keepdim=True) * (1 - _TIE)
        # The first neighbour, from the nearest on, whose class leads.
        nearest = leads.gather(1, chosen).byte().argmax(1, keepdim=True)
        parts.append(chosen.gather(1, nearest).squeeze(1))
    return np.asarray(torch.cat(parts).cpu().numpy())


def nearest_neighbours(
    bank: ArrayLike, queries: ArrayLike | None = None, *, k: int, metric: Metric = "cosine"
) -> Neighbours:
    """The k nearest rows of `bank` to each query, exactly.

    Matrix products find the candidates, with a bound on their rounding; differences, pair by pair,
    put them in order. So copies of an example are at one distance, whatever the blocks, and what is
    equally near is ordered by index.

    Args:
        bank: (N, d).
        queries: (M, d); by default the bank's own rows, each without itself (by index).
        k: how many, at most N, or N - 1 of the bank's own rows.
        metric: "cosine" (that of a row of zeros with any other row is 0) or "euclidean".

    Raises:
        RequestError: k out of range, another metric, numbers that are not finite.
    """
    if metric not in _METRICS:
        raise unknown_choice("metric", metric, _METRICS)
    held = as_matrix(bank, "the bank")
    asked = held if queries is None else as_matrix(queries, "queries").to(held.device)
    if asked.shape[1] != held.shape[1]:
        raise RequestError(
            f"queries have {asked.shape[1]} features and the bank {held.shape[1]}: give the "
            "features of one layer."
        )
    most = len(held) - (queries is None)
    if not 1 <= k <= most:
        raise RequestError(
            f"k={k}, and there are {most} neighbours to choose from. Type k={min(max(most, 1), 5)},"
            " or give more examples."
        )
    blank = asked.new_zeros(len(asked), dtype=torch.bool)
    if metric == "cosine":
        blank = (asked == 0).all(1)
        held, asked = _directions(held, 1.0), _directions(asked, 0.0)
    squares = held.square().sum(1)
    kept = _without_surplus(held, squares, k)
    places = torch.full((len(held),), -1, device=held.device)
    places[kept] = torch.arange(len(kept), device=held.device)
    held, squares = held[kept], squares[kept]
    found = []
    everyone = torch.arange(len(asked), device=held.device)
    for rows in torch.split(everyone, max(1, _BLOCK // len(held))):
        own = places[rows] if queries is None else None
        found.append(_nearest(held, squares, asked[rows], own, k))
    indices, distances = (torch.cat(parts) for parts in zip(*found, strict=True))
    indices = kept[indices]
    if metric == "cosine":
        distances = distances.square() / 2  # of unit vectors: |a - b|^2 = 2 - 2 a.b
    if blank.any():  # equally far from all, and not only up to rounding
        first = torch.arange(k, device=held.device).expand(len(asked), k)
        own = torch.arange(len(asked), device=held.device)[:, None]
        first = first + (first >= own) if queries is None else first
        indices[blank], distances[blank] = first[blank], 1.0
    return Neighbours(indices, distances)


def _without_surplus(bank: Tensor, squares: Tensor, k: int) -> Tensor:
    """Rows without the copies of a row from the (k + 2)-nd on, which are nobody's k nearest.

    Where a layer is dead, all pairs would be candidates.
    """
    lengths, group, counts = torch.unique(squares, return_inverse=True, return_counts=True)
    surplus = torch.zeros_like(squares, dtype=torch.bool)
    for of in torch.arange(len(lengths), device=bank.device)[counts > k + 1]:
        rows = (group == of).nonzero().squeeze(1)
        copies = rows[(bank[rows] == bank[rows[0]]).all(1)]
        surplus[copies[k + 1 :]] = True
    return (~surplus).nonzero().squeeze(1)


def _nearest(
    bank: Tensor, squares: Tensor, queries: Tensor, own: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """Indices and Euclidean distances (m, k) of a block of queries; `own` their rows, or -1."""
    lengths = queries.square().sum(1, keepdim=True)
    rough = torch.addmm(squares, queries, bank.T, alpha=-2).add_(lengths)  # (m, N)
    if own is not None:
        inside = (own >= 0).nonzero().squeeze(1)
        rough[inside, own[inside]] = torch.inf
    # Of the sums behind |q|^2 - 2 q.b + |b|^2, d terms each, Higham 2002, section 3.1.
    rounding = (bank.shape[1] + 3) * torch.finfo(rough.dtype).eps
    slack = 4 * rounding * (lengths + squares.max())
    reach = rough.kthvalue(k, 1, keepdim=True).values + 2 * slack
    counts = (rough <= reach).sum(1)
    width = min(int(counts.max()), bank.shape[0] - (own is not None))
    candidates = rough.topk(width, 1, largest=False).indices.sort(1).values
    parts = []
    everyone = torch.arange(len(queries), device=bank.device)
    for rows in torch.split(everyone, max(1, _BLOCK // (width * bank.shape[1]))):
        near = candidates[rows]
        exact = torch.cdist(
            queries[rows, None], bank[near], compute_mode="donot_use_mm_for_euclid_dist"
        ).squeeze(1)
        # Stable, over ascending indices: of equals the lower index.
        order = exact.sort(dim=1, stable=True)
        parts.append((near.gather(1, order.indices[:, :k]), order.values[:, :k]))
    indices, distances = (torch.cat(found) for found in zip(*parts, strict=True))
    return indices, distances


def _directions(features: Tensor, beside: float) -> Tensor:
    """Unit vectors with another column, which is 0, or `beside` where there is no direction."""
    lengths = features.norm(dim=1, keepdim=True)
    blank = lengths == 0
    return torch.cat([features / lengths.masked_fill(blank, 1), beside * blank], 1)


def as_matrix(values: ArrayLike, name: str) -> Tensor:
    """(N, d) float64, where the values are; not a copy unless it has to be.

    Raises:
        RequestError: other dimensions, no rows, no columns, or numbers that are not finite.
    """
    if isinstance(values, Tensor) and values.ndim == 2 and not values.is_complex():
        matrix = values.detach().double()
    else:
        matrix = torch.from_numpy(as_floats(values, name, "(N, d)"))
    if not matrix.numel():
        raise RequestError(f"{name} has shape {tuple(matrix.shape)}, expected (N, d) with some.")
    if not matrix.isfinite().all():
        row = int((~matrix.isfinite()).any(1).nonzero()[0])
        raise RequestError(
            f"{name} is not finite, first in row {row}: the network has overflowed there. Use "
            "dtype=torch.float64, or leave the layer out."
        )
    return matrix


def _check_length(name: str, length: int, other: str, expected: int) -> None:
    if length != expected:
        raise RequestError(f"{name} holds {length} examples, {other} {expected}: give one each.")
