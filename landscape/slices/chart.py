"""Chart: from the coordinates of a slice to weights, always from the center anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Chart"]


@dataclass(frozen=True, eq=False)
class Chart:
    """theta(a) = center + a_1 d_1 + ... + a_k d_k.

    Attributes:
        center: (n,).
        vectors: (k, n) the directions.
        buffer_steps: for each direction the change of the model's buffers along a unit step; empty
            where the direction leads to no other checkpoint.
    """

    center: Tensor
    vectors: Tensor
    buffer_steps: tuple[Mapping[str, Tensor], ...] = ()

    @property
    def num_axes(self) -> int:
        """k, the number of directions."""
        return len(self.vectors)

    @property
    def is_affine(self) -> bool:
        """Whether the weights are an affine function of the coefficients."""
        return True

    def thetas(self, coefficients: Tensor) -> Tensor:
        """The weights (C, n) at coefficients (C, k), float64; a step is never added to another."""
        found = self.center.expand(len(coefficients), -1)
        scales = coefficients.to(self.center)
        for axis, vector in enumerate(self.vectors):
            if coefficients[:, axis].any():  # of many lines, one direction moves at a time
                found = torch.addcmul(found, scales[:, axis, None], vector)
        return found

    def buffers(self, coefficients: Tensor, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Buffers (C, ...) that move with the weights, from those of the center in `base`."""
        names = {name: None for steps in self.buffer_steps for name in steps}
        found = {}
        for name in names:
            wide = base[name].double().unsqueeze(0)  # (1, ...)
            for axis, steps in enumerate(self.buffer_steps):
                if name in steps:
                    scale = coefficients[:, axis].to(wide).view(-1, *[1] * base[name].ndim)
                    wide = wide + scale * steps[name].to(wide)
            found[name] = wide.expand(len(coefficients), *base[name].shape).to(base[name])
        return found
