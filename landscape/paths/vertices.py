"""Vertices: points as weighted sums of given ones. Lines, curves and simplices are such points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.chart import Chart

__all__ = ["Vertices", "line_weights"]


@dataclass(frozen=True, eq=False)
class Vertices(Chart):
    """theta(c) = c_0 w_0 + ... + c_K-1 w_K-1 with c_0 + ... + c_K-1 = 1; exact where one c is 1.

    As a chart its center is w_0, its directions lead from there to the others, and its
    coefficients are (c_1, ..., c_K-1).

    Attributes:
        points: (K, n) the vertices.
        point_buffers: for each vertex its buffers by name; empty if there are none to mix.
        sphere: (n,) bool, coordinates that move along a great circle instead; between two vertices.
    """

    points: Tensor = None  # type: ignore[assignment]
    point_buffers: tuple[Mapping[str, Tensor], ...] = ()
    sphere: Tensor | None = None

    @classmethod
    def of(
        cls,
        objective: Objective,
        thetas: Sequence[Tensor] | Tensor,
        buffers: Sequence[Mapping[str, Tensor]] | None = None,
        *,
        sphere: Tensor | None = None,
    ) -> Vertices:
        """Of points (n,) of an objective.

        Args:
            buffers: of each, by name, where they are to move with the weights.
            sphere: (n,) bool: these coordinates are taken as one vector, whose direction moves
                along a great circle while its length changes evenly.

        Raises:
            RequestError: fewer than two points, or points that do not fit or are not finite.
        """
        if len(thetas) < 2:
            raise RequestError(f"{len(thetas)} point was given: a path needs two or more.")
        for index, theta in enumerate(thetas):
            objective.space.check(theta)
            if not theta.isfinite().all():
                raise RequestError(f"point {index + 1} is not finite. Give finite weights.")
        if buffers is not None and len(buffers) != len(thetas):
            raise RequestError(f"{len(thetas)} points and {len(buffers)} sets of buffers.")
        points = torch.stack([theta.detach().to(objective.theta) for theta in thetas])
        held = tuple(_floating(objective, own) for own in buffers or ())
        steps = tuple(
            {name: own[name].double() - held[0][name].double() for name in own} for own in held[1:]
        )
        return cls(points[0], points[1:] - points[0], steps, points, held, sphere)

    @staticmethod
    def coefficients(weights: Tensor) -> Tensor:
        """(P, K - 1) of weights (P, K) that add up to 1."""
        return weights[:, 1:].double()

    @property
    def is_affine(self) -> bool:
        """Whether the weights are an affine function of the coefficients."""
        return self.sphere is None

    def weights(self, coefficients: Tensor) -> Tensor:
        """(P, K) float64 of coefficients (P, K - 1)."""
        rest = coefficients.double()
        return torch.cat([1 - rest.sum(1, keepdim=True), rest], dim=1)

    def thetas(self, coefficients: Tensor) -> Tensor:
        """The weights (P, n) at coefficients (P, K - 1); at a vertex its own, bit for bit."""
        weights = self.weights(coefficients)
        found = self._mixed(weights, self.points)
        if self.sphere is not None:
            own = self.points[:, self.sphere]
            found[:, self.sphere] = self._on_the_sphere(weights, own).to(own) @ own
        return found

    @staticmethod
    def _mixed(weights: Tensor, points: Tensor) -> Tensor:
        """Weighted sums (P, n) of points (K, n), for weights (P, K) that add up to 1.

        Each is the first point at work and steps from there, so that between two equal points
        nothing moves, not even by rounding.
        """
        found = points.new_empty(len(weights), points.shape[1])
        bases = (weights != 0).int().argmax(1)
        for base in sorted(set(bases.tolist())):
            rows = bases == base
            scales = weights[rows].to(points)
            mixed = points[base].expand(len(scales), -1)
            for index in range(base + 1, len(points)):
                if scales[:, index].any():  # of a path between two of many, two are at work
                    step = points[index] - points[base]
                    mixed = torch.addcmul(mixed, scales[:, index, None], step)
            found[rows] = mixed
        return found

    @staticmethod
    def _on_the_sphere(weights: Tensor, points: Tensor) -> Tensor:
        """Weights (P, K) of points (K, s) with which each row's two vertices are joined by an arc.

        Raises:
            RequestError: more than two vertices at once, or two that are opposite.

        Source: Shoemake 1985, doi:10.1145/325165.325242.
        """
        exact = points.double()
        lengths = torch.linalg.vector_norm(exact, dim=1)
        found = weights.clone()
        for row, own in enumerate(weights):
            at_work = own.nonzero().flatten().tolist()
            if len(at_work) == 1:
                continue
            if len(at_work) > 2:
                raise RequestError(
                    "an arc on the sphere joins two points. Leave sphere out for curves and "
                    "simplices."
                )
            first, second = at_work
            share = float(own[second])
            units = exact[at_work] / lengths[at_work, None]
            # Of small angles the arc cosine knows only half of the digits (Kahan).
            apart = torch.linalg.vector_norm(units[0] - units[1])
            angle = 2 * torch.atan2(apart, torch.linalg.vector_norm(units[0] + units[1]))
            if not angle.sin() > 1e-12:
                if angle > 1:
                    raise RequestError(
                        "the two points are opposite on the sphere: no arc between them is the "
                        "shortest. Interpolate linearly."
                    )
                continue  # one direction, or nearly: the arc is the chord
            length = (1 - share) * lengths[first] + share * lengths[second]
            found[row, first] = ((1 - share) * angle).sin() / angle.sin() * length / lengths[first]
            found[row, second] = (share * angle).sin() / angle.sin() * length / lengths[second]
        return found

    def buffers(self, coefficients: Tensor, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Buffers (P, ...) by name, mixed like the weights; from `base` only the type is taken."""
        weights = self.weights(coefficients)
        found = {}
        for name in self.point_buffers[0] if self.point_buffers else ():
            own = torch.stack([held[name] for held in self.point_buffers]).double()
            mixed = self._mixed(weights.to(own.device), own.flatten(1))
            found[name] = mixed.view(len(weights), *own.shape[1:]).to(base[name])
        return found


def _floating(objective: Objective, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that can be mixed: not counters."""
    missing = sorted(objective.buffers.keys() - buffers.keys())
    if missing:
        raise RequestError(
            f"the buffer {missing[0]!r} is missing. Give all: dict(model.named_buffers())."
        )
    return {
        name: buffers[name].detach().to(held)
        for name, held in objective.buffers.items()
        if held.is_floating_point()
    }


def line_weights(alphas: Tensor, num_vertices: int = 2, ends: tuple[int, int] = (0, 1)) -> Tensor:
    """(P, K) float64 of the points at alphas (P,) between two of K vertices; (1 - a) and a."""
    found = torch.zeros(len(alphas), num_vertices, dtype=torch.float64)
    found[:, ends[0]] = 1 - alphas.double()
    found[:, ends[1]] = alphas.double()
    return found
