"""Training on the sphere: the norm of the scale-invariant weights stays what it is.

A function that does not change when weights are scaled is one of their direction alone, and SGD
with learning rate lr on a sphere of radius rho moves that direction at the *effective* learning
rate lr / rho^2. Which weights are invariant is found in `scale_invariance`.

Source: Kodryan et al. 2022, arXiv:2209.03695; Sadrtdinov et al. 2024, arXiv:2410.22113.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.parameters import ParameterSpace
from landscape.trainers.scale_invariance import scale_invariant_groups
from landscape.trainers.stacking import Stack

__all__ = ["Sphere", "invariant_groups"]

METHODS = ("projected", "riemannian")


@dataclass(frozen=True)
class Sphere:
    """One sphere for all invariant weights (joint), or one for each invariant group.

    Attributes:
        columns: for each sphere, the coordinates of theta that lie on it, (P_g,) each.
        radius: (M, G) of each member's spheres.
        method: "projected" takes the optimizer's step and divides by the norm; "riemannian"
            moves along the great circle of the gradient's tangential part.
    """

    columns: tuple[Tensor, ...]
    radius: Tensor
    method: Literal["projected", "riemannian"] = "projected"

    @classmethod
    def around(
        cls,
        theta: Tensor,
        space: ParameterSpace,
        groups: Sequence[Sequence[str]],
        *,
        method: Literal["projected", "riemannian"] = "projected",
    ) -> Sphere:
        """The spheres on which the rows of theta (M, P) lie now, a group of names each.

        Raises:
            RequestError: no such method, or trainable weights that are in no group: they would
                move at another rate than the effective one.
        """
        if method not in METHODS:
            raise unknown_choice("sphere", method, METHODS)
        grouped = {name for group in groups for name in group}
        outside = [name for name in space.names if name not in grouped]
        if outside:
            raise RequestError(
                f"{', '.join(outside[:4])} change the output when they are scaled, so they have no "
                "place on a sphere. Take a scale-invariant model (norm layers without weights, a "
                "frozen head), or train with sphere='none'."
            )
        columns = tuple(_columns(space, group, theta.device) for group in groups)
        return cls(columns, _norms(theta, columns), method)

    def learning_rates(self, effective: Tensor, size: int) -> Tensor:
        """What the optimizer takes for effective rates (M, 1): lr = ELR rho^2.

        Returns:
            (M, 1) on one joint sphere; (M, P) where each group has its own, with P = `size`.
        """
        if len(self.columns) == 1:
            return effective * self.radius.square()
        rates = effective.new_zeros(len(effective), size)
        for group, columns in enumerate(self.columns):
            rates[:, columns] = effective * self.radius[:, group : group + 1].square()
        return rates

    def project(self, theta: Tensor) -> None:
        """Put the rows of theta (M, P) back on their spheres, in place."""
        if len(self.columns) == 1 and len(self.columns[0]) == theta.shape[1]:
            theta.mul_(self.radius / torch.linalg.vector_norm(theta, dim=1, keepdim=True))
            return
        factors = self.radius / _norms(theta, self.columns)
        for group, columns in enumerate(self.columns):
            theta[:, columns] *= factors[:, group : group + 1]

    def move(self, theta: Tensor, gradient: Tensor, learning_rate: Tensor) -> None:
        """One Riemannian step in place: along the great circle by lr |g| / rho radians.

        Args:
            learning_rate: (M, 1) or (M, P), as `learning_rates` gives it.
        """
        for group, columns in enumerate(self.columns):
            radius = self.radius[:, group : group + 1]
            at = theta[:, columns]
            slope = gradient[:, columns]
            rate = learning_rate if learning_rate.shape[1] == 1 else learning_rate[:, columns[:1]]
            tangent = slope - at * ((slope * at).sum(1, keepdim=True) / radius.square())
            length = torch.linalg.vector_norm(tangent, dim=1, keepdim=True)
            angle = rate * length / radius
            # At a critical point there is no direction to go, and none is gone.
            heading = tangent / length.clamp_min(torch.finfo(theta.dtype).tiny)
            theta[:, columns] = angle.cos() * at - angle.sin() * radius * heading


def invariant_groups(
    stack: Stack, inputs: Tensor, *, per_group: bool = False
) -> tuple[tuple[str, ...], ...]:
    """Names of the parameters on each sphere, found by test on the stack's first member.

    Args:
        inputs: (n, ...) some examples.
        per_group: a sphere for each group that can be scaled by itself; else one for them all.

    Raises:
        RequestError: nothing in the network is scale-invariant.
    """
    groups = [group.names for group in scale_invariant_groups(stack.member(0), inputs)]
    if not groups:
        raise RequestError(
            f"no weights of this {type(stack.template).__name__} can be scaled without a change "
            "of its output. Take a scale-invariant model, or train with sphere='none'."
        )
    return tuple(groups) if per_group else (tuple(name for group in groups for name in group),)


def _columns(space: ParameterSpace, names: Sequence[str], device: torch.device) -> Tensor:
    slices = sorted((space.slice_of(name) for name in names), key=lambda part: part.start)
    return torch.cat([torch.arange(part.start, part.stop, device=device) for part in slices])


def _norms(theta: Tensor, columns: Sequence[Tensor]) -> Tensor:
    parts = [torch.linalg.vector_norm(theta[:, part], dim=1) for part in columns]
    return torch.stack(parts, 1)  # (M, G)
