"""Relaxation: moves the pivots of a band downhill, across it, until it follows a valley."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.paths.band import Band, band_gradient, redistributed, tangents
from landscape.paths.potential import Potential

__all__ = ["BandMethod", "Relaxation", "Relaxed"]

BandMethod = Literal["neb", "string"]


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A band after some steps.

    Attributes:
        highest: (S,) the greatest value at a pivot, as each step's minibatch saw it.
        climbing: number of the pivot that climbed in the end, or None.
        stopped: why it ended before its last step, and then the band is the one at the start;
            empty otherwise.
    """

    band: Band
    highest: NDArray[np.float64]
    climbing: int | None = None
    stopped: str = ""


@dataclass(frozen=True)
class Relaxation:
    """Gradient descent with momentum on all inner pivots at once.

    Attributes:
        method: "neb" moves pivots across the band only (Henkelman and Jonsson 2000); "string" moves
            them all the way downhill, and spaces them anew by length (E, Ren and Vanden-Eijnden
            2007, doi:10.1063/1.2720838).
        spring: k between neighbours; infinite spaces the pivots anew after each step.
        momentum: of the descent; 0 is plain gradient descent.
        climb: in the second half of the steps the highest pivot goes up along the band, to the
            saddle itself.
        weight_decay: d; the band lives in L + d |theta|^2 / 2, so that what the decay pulls at
            along the band is left out, too.

    Raises:
        RequestError: an unknown method, or numbers that are out of range.
    """

    learning_rate: float
    method: BandMethod = "neb"
    spring: float = math.inf
    momentum: float = 0.9
    climb: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in get_args(BandMethod):
            raise unknown_choice("method", str(self.method), get_args(BandMethod))
        if not (self.learning_rate > 0 and 0 <= self.momentum < 1 and self.weight_decay >= 0):
            raise RequestError(
                f"learning_rate={self.learning_rate}, momentum={self.momentum}, "
                f"weight_decay={self.weight_decay}: expected learning_rate > 0, 0 <= momentum < 1 "
                "and weight_decay >= 0."
            )
        if not self.spring > 0:
            raise RequestError(f"spring is {self.spring}, expected a number above 0, or inf.")
        if self.method == "string" and self.spring != math.inf:
            raise RequestError("a string has no springs: leave spring out, or take method='neb'.")

    def run(
        self,
        potential: Potential,
        band: Band,
        steps: int,
        *,
        first: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Relaxed:
        """Take steps.

        Args:
            first: number of the first minibatch.
            progress: called with the steps done.
        """
        start, highest, climbing = band, list[float](), None
        velocity = torch.zeros_like(band.pivots[1:-1])
        if not band.length > 0:  # one point, from which no direction leads
            steps = 0
        for step in range(steps):
            if self.climb and step == steps // 2:
                climbing = self._highest(potential, band)
            values, gradients = self._regularized(potential, band, first + step)
            velocity = self._velocity(velocity, band, values, gradients, climbing)
            pivots = band.pivots.clone()
            pivots[1:-1] -= self.learning_rate * velocity
            if not (values.isfinite().all() and pivots.isfinite().all()):
                words = f"diverged at step {step + 1} of {steps}: take a smaller learning_rate"
                return Relaxed(start, np.asarray(highest), stopped=words)
            band = band.moved(pivots)
            if self.spring == math.inf:
                band = redistributed(band, climbing)
            highest.append(float(values.max()))
            if progress is not None:
                progress(step + 1)
        return Relaxed(band, np.asarray(highest), climbing)

    def forces(self, potential: Potential, relaxed: Relaxed) -> NDArray[np.float64]:
        """(P,) norms of the gradient across the band, over all the data; 0 at the ends.

        Of a pivot that climbs it is the whole gradient.
        """
        band, climbing = relaxed.band, relaxed.climbing
        values, gradients = self._regularized(potential, band, None)
        across = band_gradient(band, values, gradients, spring=math.inf, climbing=climbing)
        found = np.zeros(len(band.pivots))
        found[1:-1] = torch.linalg.vector_norm(across, dim=1, dtype=torch.float64).cpu().numpy()
        return found

    def _velocity(
        self,
        velocity: Tensor,
        band: Band,
        values: Tensor,
        gradients: Tensor,
        climbing: int | None,
    ) -> Tensor:
        """(P - 2, n) what the inner pivots go down along, from what they went along before."""
        across = band_gradient(band, values, gradients, spring=self.spring, climbing=climbing)
        if self.method == "neb":
            return self.momentum * velocity + across
        downhill = gradients[1:-1].clone()
        # Spacing the pivots anew undoes their way along the string: it must not gather speed.
        along = tangents(band.pivots, values)
        kept = velocity - (velocity * along).sum(1, keepdim=True) * along
        if climbing is not None:
            downhill[climbing - 1], kept[climbing - 1] = (
                across[climbing - 1],
                velocity[climbing - 1],
            )
        return self.momentum * kept + downhill

    def _regularized(
        self, potential: Potential, band: Band, step: int | None
    ) -> tuple[Tensor, Tensor]:
        values, gradients = potential.gradients(band.pivots, step)
        if self.weight_decay:
            squares = torch.linalg.vector_norm(band.pivots, dim=1, dtype=torch.float64).square()
            values = values + self.weight_decay / 2 * squares.to(values)
            gradients = gradients + self.weight_decay * band.pivots
        return values, gradients

    def _highest(self, potential: Potential, band: Band) -> int | None:
        """The highest pivot over all the data; None if it is an end."""
        index = int(self._regularized(potential, band, None)[0].argmax())
        return index if 0 < index < len(band.pivots) - 1 else None
