"""Coordinates in which a softmax regression is well scaled, at each penalty its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.probes.linear.logistic import DataTerm, SoftmaxRegression, row_blocks

__all__ = ["Coordinates", "centred_gram", "coordinates", "weighted_mean"]

_INTERCEPT_VARIANCE = 1.0  # of the feature that is 1 for all


@dataclass(frozen=True, eq=False)
class Coordinates:
    """theta (P, C, r + 1): the intercept at the mean, and W along the principal axes.

    The softmax Hessian is at most (I - 11'/C) / 2 (x) Gram matrix (Böhning 1992), so in units of
    1 / sqrt(variance / 2 + penalty) no curvature exceeds 1. Centring belongs to the free intercept
    and turning to the norm, so both leave the problem what it is.

    Attributes:
        mean: (d,) of the features.
        axes: (d, r) orthonormal, those along which the features vary at all.
        scales: (P, r + 1) square roots of the bound, the intercept's first.
        penalties: (P,) finite.
    """

    mean: Tensor
    axes: Tensor
    scales: Tensor
    penalties: Tensor

    def at(self, cells: Tensor) -> Coordinates:
        """Of some of the penalties."""
        return Coordinates(self.mean, self.axes, self.scales[cells], self.penalties[cells])

    def probes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (P, C, d) and intercept (P, C)."""
        scaled = theta / self.scales[:, None]
        weights = scaled[:, :, 1:] @ self.axes.T
        return weights, scaled[:, :, 0] - weights @ self.mean

    def penalty_part(self) -> Tensor:
        """(P, r + 1): the penalty's share of the bound; none of the intercept's."""
        return (
            torch.where(torch.arange(self.scales.shape[1]) > 0, self.penalties[:, None], 0.0)
            / self.scales.square()
        )

    def gradient(self, term: DataTerm, theta: Tensor) -> Tensor:
        """Of the whole objective by theta, (P, C, r + 1)."""
        centred = term.weight_gradient - term.intercept_gradient[:, :, None] * self.mean
        turned = torch.cat([term.intercept_gradient[:, :, None], centred @ self.axes], 2)
        return turned / self.scales[:, None] + self.penalty_part()[:, None] * theta

    def squared_norms(self, theta: Tensor) -> Tensor:
        """(P,) ||W||^2."""
        return (theta / self.scales[:, None])[:, :, 1:].square().sum((1, 2))


def coordinates(problem: SoftmaxRegression, penalties: Tensor) -> Coordinates:
    """From one pass over the features and one eigendecomposition, of the smaller Gram matrix."""
    num_examples, width = problem.features.shape
    mean = weighted_mean(problem)
    if width <= num_examples:
        variances, axes = _positive(centred_gram(problem, mean))
    else:
        rooted = (problem.features.double() - mean) * problem.shares.sqrt()[:, None]
        variances, left = _positive(rooted @ rooted.T)
        axes = rooted.T @ (left / variances.sqrt())
    bound = torch.cat([torch.tensor([_INTERCEPT_VARIANCE], dtype=torch.float64), variances]) / 2
    scales = bound.expand(len(penalties), -1).clone()
    scales[:, 1:] += penalties[:, None]
    return Coordinates(mean, axes, scales.sqrt_(), penalties)


def weighted_mean(problem: SoftmaxRegression) -> Tensor:
    """(d,) float64, weighted as the examples are."""
    mean = problem.shares.new_zeros(problem.features.shape[1])
    for rows in row_blocks(len(problem.labels), len(mean)):
        mean += problem.shares[rows] @ problem.features[rows].double()
    return mean


def centred_gram(problem: SoftmaxRegression, mean: Tensor) -> Tensor:
    """(d, d) covariance of the features, weighted as the examples are."""
    width = len(mean)
    gram = problem.shares.new_zeros(width, width)
    for rows in row_blocks(len(problem.labels), width):
        centred = problem.features[rows].double() - mean
        gram.addmm_(centred.T * problem.shares[rows], centred)
    return gram


def _positive(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above rounding, and their eigenvectors."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp_min(0)
    return values[kept], vectors[:, kept]
