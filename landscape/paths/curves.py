"""Curves through weight space: points as weighted sums of vertices, and how long they are.

`curve_fit` moves the vertices between the ends; `curve` reports the loss along what came out.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import RequestError, unknown_choice

__all__ = ["CurveKind", "arc_parameters", "curve_weights", "step_lengths", "straight_vertices"]

CurveKind = Literal["bezier", "polygon"]

_PIECES = 1024  # of a curve, in which its length is added up


def curve_weights(kind: CurveKind, parameters: Tensor, num_vertices: int) -> Tensor:
    """(P, K) float64: the weight of each of K vertices in the point at each t of (P,).

    "bezier" has those of Bernstein, C(K-1, k) t^k (1 - t)^(K-1-k); "polygon" goes straight from
    vertex to vertex, each segment in an equal share of t. They add up to 1, and t = 0 and t = 1
    are the first and the last vertex exactly.

    Raises:
        RequestError: an unknown kind, fewer than two vertices, or t outside [0, 1].

    Source: Garipov et al. 2018, arXiv:1802.10026.
    """
    if kind not in get_args(CurveKind):
        raise unknown_choice("kind of curve", str(kind), get_args(CurveKind))
    if num_vertices < 2:
        raise RequestError(f"{num_vertices} vertices were given: a curve has two ends at least.")
    t = parameters.double()
    if t.ndim != 1 or not ((t >= 0) & (t <= 1)).all():
        raise RequestError(
            f"t has shape {tuple(t.shape)} and is {t.tolist()!s:.60}, expected (P,) numbers from 0 "
            "to 1."
        )
    return _bernstein(t, num_vertices) if kind == "bezier" else _hats(t, num_vertices)


def straight_vertices(start: Tensor, end: Tensor, num_bends: int) -> Tensor:
    """(num_bends + 2, n) evenly spaced on the line between the ends, which are exact."""
    shares = torch.linspace(0, 1, num_bends + 2, dtype=start.dtype, device=start.device)
    return torch.lerp(start, end, shares[:, None])


def step_lengths(vertices: Tensor, weights: Tensor) -> Tensor:
    """(P - 1,) float64 distances from one point to the next.

    Args:
        vertices: (K, n).
        weights: (P, K) of each point; each row adds up to 1.
    """
    # Of the edges, not the vertices: a short curve far from the origin would cancel.
    beyond = weights.double().flip(1).cumsum(1).flip(1)[:, 1:]  # (P, K - 1) gone of each edge
    return _norms(vertices, beyond.diff(dim=0))


def arc_parameters(kind: CurveKind, vertices: Tensor, shares: Tensor) -> Tensor:
    """(P,) float64: the t at which a curve has gone these shares (P,) of its length.

    Of a curve without length, t is the share itself.
    """
    ends = torch.linspace(0, 1, _PIECES + 1, dtype=torch.float64)
    speeds = _speeds(kind, vertices, (ends[1:] + ends[:-1]) / 2)
    gone = F.pad(speeds.cumsum(0), (1, 0))
    shares = shares.double()
    if not gone[-1] > 0:
        return shares
    gone = gone / gone[-1]
    after = torch.searchsorted(gone, shares.contiguous()).clamp(1, _PIECES)
    piece = gone[after] - gone[after - 1]
    # Where the curve rests, any t of the piece is the place.
    inside = torch.where(piece > 0, (shares - gone[after - 1]) / piece, 0.0)
    return torch.lerp(ends[after - 1], ends[after], inside.clamp(0, 1))


def _speeds(kind: CurveKind, vertices: Tensor, parameters: Tensor) -> Tensor:
    """(P,) norms of the derivative by t."""
    num_edges = len(vertices) - 1
    if kind == "bezier":
        weights = _bernstein(parameters, num_edges)
    else:
        edges = (parameters * num_edges).long().clamp(max=num_edges - 1)
        weights = F.one_hot(edges, num_edges).double()
    return _norms(vertices, num_edges * weights)


def _norms(vertices: Tensor, weights: Tensor) -> Tensor:
    """(P,) float64 norms of weighted sums (P, K - 1) of the edges, from their inner products."""
    edges = (vertices[1:] - vertices[:-1]).double()
    gram = (edges @ edges.T).to(weights)
    return ((weights @ gram) * weights).sum(1).clamp(min=0).sqrt()


def _bernstein(t: Tensor, count: int) -> Tensor:
    """(P, count) polynomials of degree count - 1."""
    powers = torch.arange(count, dtype=torch.float64, device=t.device)
    choices = [math.comb(count - 1, k) for k in range(count)]
    falling = (1 - t[:, None]) ** powers.flip(0)
    return (
        torch.tensor(choices, dtype=torch.float64, device=t.device) * t[:, None] ** powers * falling
    )


def _hats(t: Tensor, count: int) -> Tensor:
    """(P, count) hats, each as wide as the two edges at its vertex."""
    places = torch.arange(count, dtype=torch.float64, device=t.device)
    return (1 - (t[:, None] * (count - 1) - places).abs()).clamp(min=0)
