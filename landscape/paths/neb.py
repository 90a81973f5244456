"""Elastic bands: paths of least loss between two solutions, and the saddle on the way.

`relaxation` moves a band, `autoneb` puts in pivots where they are missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.band import SUBPOINTS, Band
from landscape.paths.barrier import Profile, profile
from landscape.paths.examples import Examples
from landscape.paths.potential import Potential, ends_fingerprint, potential_of
from landscape.paths.relaxation import BandMethod, Relaxation, Relaxed
from landscape.paths.vertices import line_weights
from landscape.result import Result
from landscape.slices.execution import BatchNormMode

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BandCycle", "Neb", "band_cycle", "band_profiles", "neb", "straight_profiles"]

Array = NDArray[np.float64]
Profiles = Mapping[str, Profile]
Progress = Callable[[int, int, str], None]

_LINE_POINTS = 25  # of the straight line that the band is compared with


@dataclass(frozen=True)
class BandCycle:
    """What a cycle of steps came to.

    Attributes:
        num_inserted: pivots that were put in before it.
        num_pivots: with the ends.
        saddle: greatest loss of the band after it.
        barrier: greatest rise above the chord of the ends' losses.
        length: of the band, in the parameters' unit.
        force: greatest norm of the gradient across the band.
        stopped: why it ended early, or nothing.
    """

    num_inserted: int
    num_pivots: int
    steps: int
    learning_rate: float
    saddle: float
    barrier: float
    length: float
    force: float
    stopped: str = ""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Neb(Result):
    """A band between two solutions, and what was measured along it.

    Attributes:
        pivots: (P, n); the first and the last are the ends.
        profiles: at the pivots and at 9 points between each two: "loss", "error" where there are
            classes, and those of further data with their name before them, such as "test_loss".
            Their alphas are shares of the band's length.
        straight: the same at 25 points of the straight line between the ends.
        forces: (P,) norm of the gradient across the band at each pivot, over all the data; of a
            pivot that climbed, that of the whole gradient.
        climbing: number of the pivot that climbed, or None.
        highest_losses: (S,) greatest loss at a pivot in each step, as its minibatch saw it.
        cycles: one for each cycle of steps.
        tol: see `converged`.
    """

    probe: ClassVar[str] = "neb"

    pivots: Tensor
    profiles: Profiles
    straight: Profiles
    forces: Array
    climbing: int | None
    highest_losses: Array
    cycles: tuple[BandCycle, ...]
    tol: float

    def __repr__(self) -> str:
        line = self.straight["loss"].heights["chord"].value
        return (
            f"Neb({len(self.pivots)} pivots: saddle {self.saddle:.6g} at t={self.saddle_t:.3f}, "
            f"the loss rises by {self.barrier:.4g} +- {self.standard_error:.2g}, along the "
            f"straight line by {line:.4g}; {self.length_ratio:.3g} times as long, {self.status})"
        )

    @property
    def t(self) -> Array:
        """(M,) where the band was measured, as shares of its length."""
        return self.profiles["loss"].alphas

    @property
    def losses(self) -> Array:
        """(M,) of the objective's own data there."""
        return self.profiles["loss"].values

    @property
    def pivot_losses(self) -> Array:
        """(P,) at the pivots."""
        return self.losses[:: SUBPOINTS + 1]

    @property
    def saddle(self) -> float:
        """The greatest loss of the whole polyline."""
        return self.profiles["loss"].heights["saddle"].value

    @property
    def saddle_t(self) -> float:
        """Where it is."""
        return self.profiles["loss"].heights["saddle"].alpha

    @property
    def barrier(self) -> float:
        """Greatest rise of the loss above its ends' losses, mixed by length."""
        return self.profiles["loss"].heights["chord"].value

    @property
    def standard_error(self) -> float:
        """Of the barrier, from paired differences of the examples; NaN if unknown."""
        return self.profiles["loss"].errors["chord"]

    @property
    def barrier_above_highest_end(self) -> float:
        """Greatest rise of the loss above the higher end."""
        return self.profiles["loss"].heights["highest_end"].value

    @property
    def length(self) -> float:
        """Of the polyline."""
        return self._band.length

    @property
    def distance(self) -> float:
        """Of the ends from each other."""
        return Band.straight(self.pivots[0], self.pivots[-1]).length

    @property
    def length_ratio(self) -> float:
        """Length over distance: 1 for a straight line, NaN where the ends are one point."""
        return self.length / self.distance if self.distance else math.nan

    @property
    def residual(self) -> float:
        """What a pivot can still gain, to first order, by moving a mean segment length sideways.

        As a share of the range of the losses along the straight line.
        """
        line = self.straight["loss"].values
        rounding = float(np.finfo(np.float64).eps * np.abs(line).max())
        gain = float(self.forces.max()) * self.length / (len(self.pivots) - 1)
        return gain / max(float(np.ptp(line)), rounding) if gain else 0.0

    @property
    def converged(self) -> bool:
        """Whether the residual is at most `tol`."""
        return not self._lost and not self.cycles[-1].stopped and self.residual <= self.tol

    @property
    def status(self) -> str:
        """ "converged", or what is lacking."""
        if self.converged:
            return "converged"
        if self.cycles[-1].stopped:
            return self.cycles[-1].stopped
        if self._lost:
            return f"{self._lost} of {len(self.losses)} points are NaN"
        return f"not converged: residual {self.residual:.2g} > {self.tol:g}"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `t`, `pivot`, `line_t`, `step`, `cycle`; with `vectors`, `parameter`."""
        from landscape.paths.neb_dataset import neb_dataset

        return neb_dataset(self, vectors=vectors)

    @property
    def _band(self) -> Band:
        return Band(self.pivots, torch.ones(len(self.pivots) - 1, dtype=torch.float64))

    @property
    def _lost(self) -> int:
        return int(np.isnan(self.losses).sum())


def neb(
    objective: Objective | Potential,
    a: Tensor,
    b: Tensor,
    *,
    num_pivots: int = 9,
    steps: int = 1000,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    spring: float = math.inf,
    method: BandMethod = "neb",
    climb: bool = False,
    weight_decay: float = 0.0,
    bn: BatchNormMode = "recalibrate",
    batch_size: int | None = None,
    also: Mapping[str, Objective] | None = None,
    tol: float = 0.05,
    seed: int,
    progress: Progress | None = None,
) -> Neb:
    """A path of low loss between two solutions, by a nudged elastic band or a string.

    Args:
        objective: or a potential such as `FunctionPotential`.
        a, b: (n,) the ends, which stay.
        num_pivots: with the ends; they start evenly spaced on the straight line.
        steps, learning_rate, momentum: of gradient descent, all pivots at once, each step with one
            minibatch for all of them.
        spring: between neighbours; infinite spaces them evenly after each step.
        method: "neb", or "string", which follows the whole gradient.
        climb: whether the highest pivot climbs to the saddle in the second half of the steps.
        weight_decay: of the potential that the band lives in; not in the losses that are reported.
        bn: BatchNorm statistics where the band is measured: "recalibrate", those of the
            objective's data at each point; "batch"; "eval", the objective's. While it moves,
            BatchNorm normalises by the batch, unless bn="eval".
        batch_size: examples a step; None takes 128, or the data's own batches.
        also: further data by name, measured at the end, such as {"test": ...}.
        tol: of `Neb.residual`, where the band counts as converged.
        seed: of the minibatches.
        progress: called with (steps done, steps, "").

    Raises:
        RequestError: ends, options or data that do not fit.

    Source: Henkelman and Jonsson 2000; Draxler et al. 2018, arXiv:1803.00885.
    """
    began = time.perf_counter()
    if num_pivots < 3 or steps < 0:
        raise RequestError(
            f"num_pivots={num_pivots}, steps={steps}: expected 3 pivots or more, ends included, "
            "and steps >= 0."
        )
    potential = potential_of(objective, bn=bn, batch_size=batch_size, seed=seed, also=also)
    start, end = potential.point(a), potential.point(b)
    relaxation = Relaxation(learning_rate, method, spring, momentum, climb, weight_decay)
    straight = straight_profiles(potential, start, end)
    band = Band.straight(start, end).evenly_inserted(num_pivots - 2)
    relaxed = relaxation.run(
        potential, band, steps, progress=progress and (lambda done: progress(done, steps, ""))
    )
    profiles = band_profiles(potential, relaxed.band)
    forces = relaxation.forces(potential, relaxed)
    cycle = band_cycle(relaxed, profiles, forces, num_pivots - 2, steps, learning_rate)
    return Neb(
        settings={
            "num_pivots": num_pivots,
            "steps": steps,
            "learning_rate": learning_rate,
            "momentum": momentum,
            "spring": str(spring) if spring == math.inf else spring,  # JSON knows no infinity
            "method": method,
            "climb": climb,
            "weight_decay": weight_decay,
            "bn": bn,
            "batch_size": batch_size,
            "also": sorted(also or {}),
            "tol": tol,
            "seed": seed,
            "ends": ends_fingerprint(start, end),
        },
        provenance=potential.provenance(),
        notes=potential.notes,
        wall_time=time.perf_counter() - began,
        pivots=relaxed.band.pivots,
        profiles=profiles,
        straight=straight,
        forces=forces,
        climbing=relaxed.climbing,
        highest_losses=relaxed.highest,
        cycles=(cycle,),
        tol=tol,
    )


def straight_profiles(potential: Potential, start: Tensor, end: Tensor) -> dict[str, Profile]:
    """What lies on the straight line between two points."""
    alphas = torch.linspace(0, 1, _LINE_POINTS, dtype=torch.float64)
    found = potential.examples(torch.stack([start, end]), line_weights(alphas))
    return _profiles(found, alphas.numpy())


def band_profiles(potential: Potential, band: Band) -> dict[str, Profile]:
    """What lies at the pivots of a band and at the points between."""
    found = potential.examples(band.pivots, band.sub_weights())
    return _profiles(found, band.sub_shares().numpy())


def _profiles(found: Mapping[str, Examples], shares: Array) -> dict[str, Profile]:
    """Loss, and error where there are classes, of each data set."""
    profiles = {}
    for data, examples in found.items():
        prefix = f"{data}_" if data else ""
        profiles[f"{prefix}loss"] = profile(shares, examples, "loss")
        if examples.error is not None:
            profiles[f"{prefix}error"] = profile(shares, examples, "error")
    return profiles


def band_cycle(
    relaxed: Relaxed,
    profiles: Profiles,
    forces: Sequence[float] | Array,
    num_inserted: int,
    steps: int,
    learning_rate: float,
) -> BandCycle:
    """The record of a cycle."""
    heights = profiles["loss"].heights
    return BandCycle(
        num_inserted=num_inserted,
        num_pivots=len(relaxed.band.pivots),
        steps=steps,
        learning_rate=learning_rate,
        saddle=heights["saddle"].value,
        barrier=heights["chord"].value,
        length=relaxed.band.length,
        force=float(np.max(forces)),
        stopped=relaxed.stopped,
    )
