"""Moments of what enters a BatchNorm layer, pooled over batches; `objective` puts them in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance, channel by channel, of some values.

    Attributes:
        count: values in each channel.
        mean: (C,) float64.
        squares: (C,) sums of squared deviations from the mean.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> Moments:
        """Of the inputs (n, C, ...) of a layer."""
        values = inputs.detach().double().movedim(1, 0).flatten(1)  # (C, values)
        count = values.shape[1]
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        return cls(count, mean, variance * count)

    def __add__(self, other: Moments) -> Moments:
        """Of both together."""
        # Chan et al. 1979: sums of squared deviations add without cancellation.
        whole = self.count + other.count
        delta = other.mean - self.mean
        between = delta.square() * (self.count * other.count / whole)
        return Moments(
            whole,
            self.mean + delta * (other.count / whole),
            self.squares + other.squares + between,
        )

    @property
    def variance(self) -> Tensor:
        """(C,) unbiased."""
        return self.squares / max(1, self.count - 1)
