"""Units: how active each is over the examples, and which are dead or dormant.

A unit of an image layer is a channel, and each position counts; `layer_sparsity` streams over data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike
from landscape.probes.features.tensors import as_float64

__all__ = ["TAU", "UnitActivity", "dead_units", "dormant_units", "unit_activity"]

TAU = 0.025


@dataclass(frozen=True, eq=False)
class UnitActivity:
    """What is to be known of K units; those of two parts of the data are added.

    Attributes:
        highest: (K,) the largest activation, over examples and positions.
        magnitude: (K,) sum of |activation|.
        count: how many activations of each unit were seen.
        num_active: (N,) units with |activation| > eps in each example, the mean over positions.
    """

    highest: Tensor
    magnitude: Tensor
    count: int
    num_active: Tensor

    def __add__(self, other: UnitActivity) -> UnitActivity:
        return UnitActivity(
            torch.maximum(self.highest, other.highest),
            self.magnitude + other.magnitude,
            self.count + other.count,
            torch.cat([self.num_active, other.num_active]),
        )

    @property
    def dead(self) -> Tensor:
        """(K,) bool: never above 0."""
        return self.highest <= 0

    def dormant(self, tau: float = TAU) -> Tensor:
        """(K,) bool: E|h_i| <= tau mean_k E|h_k|; all of them in a layer that is 0 throughout.

        Raises:
            RequestError: a negative tau.
        """
        if not tau >= 0:
            raise RequestError(f"tau={tau}, expected 0 or more.")
        return self.magnitude <= tau * self.magnitude.mean()


def unit_activity(activations: ArrayLike, *, eps: float = 0.0) -> UnitActivity:
    """The record of some examples.

    Args:
        activations: (N, K), or (N, K, ...) with positions behind the units, as images have them.
        eps: what counts as active, see `UnitActivity.num_active`.

    Raises:
        RequestError: another shape, a negative eps, or a number that is not finite.
    """
    values = as_float64(activations, "activations")
    if values.ndim < 2 or not values.numel():
        raise RequestError(
            f"activations have shape {tuple(values.shape)}, expected (N, units) or (N, units, ...)."
        )
    if not eps >= 0:
        raise RequestError(f"eps={eps}, expected 0 or more.")
    values = values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)  # (N, K, positions)
    size = values.abs()
    return UnitActivity(
        values.amax((0, 2)),
        size.sum((0, 2)),
        len(values) * values.shape[2],
        (size > eps).sum(1).double().mean(1),
    )


def dead_units(activations: ArrayLike) -> Tensor:
    """(K,) bool: units whose activation is <= 0 for all examples and at all positions.

    Before a ReLU or after it, this is the same. Of units that may be negative and still be heard,
    such as those of GELU or tanh, it says little.

    Args:
        activations: (N, K) or (N, K, ...).

    Raises:
        RequestError: another shape, or a number that is not finite.
    """
    return unit_activity(activations).dead


def dormant_units(activations: ArrayLike, *, tau: float = TAU) -> Tensor:
    """(K,) bool: units with E|h_i| <= tau mean_k E|h_k|; dead ones of a ReLU are among them.

    Args:
        activations: (N, K) or (N, K, ...).
        tau: 0 finds those that are 0 throughout.

    Raises:
        RequestError: another shape, a negative tau, or a number that is not finite.

    Source: Sokar et al. 2023, arXiv:2302.12902.
    """
    return unit_activity(activations).dormant(tau)
