"""Canonical scales: each neuron's incoming and outgoing weights of one norm, the function equal.

A ReLU network is many points of parameter space, one for each scale of its neurons; of these the
one with the smallest norm is taken, so that two networks can be compared. `slices.rescaling` finds
the neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.objective import Objective
from landscape.slices.rescaling import Rescaling

__all__ = ["CanonicalScales", "canonical_scales"]

_TOLERANCE = 1e-13  # of the logarithm of a factor: rounding, in float64
_MAX_SWEEPS = 1000


@dataclass(frozen=True, eq=False)
class CanonicalScales:
    """A network in its canonical scales.

    Attributes:
        theta: (n,).
        rescalings: neurons whose scale was free.
        factors: for each of these (num_neurons,) float64, by which they were multiplied.
        converged: in the last sweep no factor differed from 1.
    """

    theta: Tensor
    rescalings: tuple[Rescaling, ...]
    factors: tuple[Tensor, ...]
    converged: bool

    def restored(self, objective: Objective, theta: Tensor) -> Tensor:
        """A network (n,) of canonical scales brought to those that this one had before."""
        found = theta.double()
        for rescaling, factors in zip(self.rescalings, self.factors, strict=True):
            found = rescaling.apply(objective, found, 1 / factors)
        return found.to(theta)


def canonical_scales(
    objective: Objective, theta: Tensor, rescalings: Sequence[Rescaling]
) -> CanonicalScales:
    """Each neuron is multiplied by sqrt(out / in), the norms of its weights, until none changes.

    The sum of squares of all weights falls with every step, to its only minimum over the scales.
    Biases count as incoming. A neuron without incoming or without outgoing weights is left alone.

    Args:
        rescalings: neurons whose scale leaves the function as it is: `neuron_rescalings`.

    Source: Stock et al. 2019, arXiv:1902.10416 (ENorm).
    """
    found = theta.double()
    totals = [found.new_ones(rescaling.num_neurons) for rescaling in rescalings]
    converged = False
    for _ in range(_MAX_SWEEPS):
        largest = 0.0
        for index, rescaling in enumerate(rescalings):
            factors = _balancing(objective, found, rescaling)
            found = rescaling.apply(objective, found, factors)
            totals[index] = totals[index] * factors
            largest = max(largest, factors.log().abs().max().item())
        if converged := largest <= _TOLERANCE:
            break
    return CanonicalScales(found.to(theta), tuple(rescalings), tuple(totals), converged)


def _balancing(objective: Objective, theta: Tensor, rescaling: Rescaling) -> Tensor:
    """(num_neurons,) factors that make incoming and outgoing weights equally long."""
    incoming, outgoing = theta.new_zeros(2, rescaling.num_neurons)
    for pieces, squares in ((rescaling.larger, incoming), ((rescaling.smaller,), outgoing)):
        for piece in pieces:
            values = theta[objective.space.slice_of(piece.name)].view(piece.view).square()
            # Neurons lie where the factors have more than one entry; their shape aligns at the end.
            factors = (1,) * (values.ndim - len(piece.factors)) + piece.factors
            others = [dim for dim, length in enumerate(factors) if length == 1]
            squares += values.sum(others).reshape(-1)
    found = (outgoing / incoming).pow(0.25)
    return torch.where((incoming > 0) & (outgoing > 0), found, 1.0)
