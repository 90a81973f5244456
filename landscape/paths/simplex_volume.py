"""Volumes of simplices in many dimensions, as logarithms, and the gradient that makes them grow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["log_volume", "volume_term"]

_OFFSET = 1e-4  # of Benton et al.: log(V + 1e-4) is finite for a flat simplex
_FLAT = 1e-12  # height over the distance to another vertex: below, its direction is rounding
_LARGEST = 700.0  # logarithm of what a float can hold


def log_volume(vertices: Tensor) -> float:
    """Natural logarithm of the volume spanned by vertices (K, n); -inf if they are dependent.

    The volume is |det R| / (K - 1)! for the edges E^T = Q R from one vertex, which is the root of
    the Cayley-Menger determinant over its constant. From R the digits are those of the edges; the
    determinant squares their condition, and both underflow in many dimensions.
    """
    edges = (vertices[1:].double() - vertices[:1].double()).T  # (n, K - 1)
    count = edges.shape[1]
    if count > len(edges):
        return -math.inf
    heights = torch.linalg.qr(edges, mode="r").R.diagonal().abs()
    return float(heights.log().sum()) - math.lgamma(count + 1)


def volume_term(
    simplices: Sequence[Tensor], generator: np.random.Generator, step: float = 0.0
) -> Tensor:
    """(n,) gradient of log(V + 1e-4) by the last vertex, which is one of all simplices.

    V is the sum of their volumes. That of a simplex is B |h| / d, with h the height of the vertex
    above the others, B their volume, and d the dimension: its gradient is B h / (d |h|). A vertex
    among the others is at the tip of that cone, and is sent off in a random direction.

    There the gradient is steep, up to B / (d 1e-4), and a step along it would leap far beyond. With
    `step`, it is that of an implicit step of this length, taken where it arrives.

    Args:
        simplices: (K, n) each.
        generator: of the random directions.
        step: factor of the gradient in the step that is taken; 0 gives the gradient itself.

    Source: Benton et al. 2021, arXiv:2102.13042, equation 5, with V where their code has V^2.
    """
    volumes = [log_volume(simplex) for simplex in simplices]
    whole = float(np.logaddexp.reduce([*volumes, math.log(_OFFSET)]))
    found = torch.zeros_like(simplices[0][-1], dtype=torch.float64)
    for vertices in simplices:
        slope = log_volume(vertices[:-1]) - math.log(len(vertices) - 1) - whole
        distance = math.exp(min(-slope, _LARGEST))  # at which 1 / distance is the slope
        implicit = 2 / (distance + math.hypot(distance, 2 * math.sqrt(step)))
        found += implicit * _away(vertices.double(), generator)
    return found.to(simplices[0])


def _away(vertices: Tensor, generator: np.random.Generator) -> Tensor:
    """(n,) unit direction from the affine hull of the others to the last vertex."""
    step = vertices[-1] - vertices[0]
    basis, _ = torch.linalg.qr((vertices[1:-1] - vertices[0]).T)
    height = _across(step, basis)
    norm = torch.linalg.vector_norm(height)
    if norm <= _FLAT * torch.linalg.vector_norm(step):
        height = _across(torch.as_tensor(generator.standard_normal(len(step))).to(step), basis)
        norm = torch.linalg.vector_norm(height)
    away: Tensor = height / norm
    return away


def _across(vector: Tensor, basis: Tensor) -> Tensor:
    # Twice, as in Gram-Schmidt: once leaves rounding of the size of the vector.
    for _ in range(2):
        vector = vector - basis @ (basis.T @ vector)
    return vector
