"""AutoNEB: elastic bands in cycles, each with further pivots where the loss asks for them.

`neb` is one cycle; `connectivity` joins the members of a family by such bands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.band import Band, highest_insertions
from landscape.paths.barrier import Profile
from landscape.paths.neb import BandCycle, Neb, Progress, band_cycle, band_profiles
from landscape.paths.neb import straight_profiles as profiles_of_line
from landscape.paths.potential import Potential, ends_fingerprint, potential_of
from landscape.paths.relaxation import BandMethod, Relaxation
from landscape.slices.execution import BatchNormMode

__all__ = ["DRAXLER_CYCLES", "BandRun", "Cycle", "autoneb", "scaled_cycles"]

_THRESHOLD = 0.1  # rise above the chord, as a share of the pivots' range, that asks for a pivot
_MOST_INSERTED = 2  # pivots in a cycle


@dataclass(frozen=True)
class Cycle:
    """Pivots put in, and steps taken.

    Attributes:
        insert: so many in each segment, evenly; "highest" puts at most two where the loss between
            pivots rises above the line between theirs by more than 10 % of the pivots' range.
    """

    insert: int | Literal["highest"]
    steps: int
    learning_rate: float

    def __post_init__(self) -> None:
        is_count = isinstance(self.insert, int) and self.insert >= 0
        if not (is_count or self.insert == "highest") or self.steps < 1:
            raise RequestError(
                f"the cycle has insert={self.insert!r}, steps={self.steps}: expected a number of "
                "pivots or 'highest', and at least 1 step."
            )


# Of Draxler et al. 2018 for CIFAR-10: 16000 steps in all.
DRAXLER_CYCLES = (
    Cycle(3, 1000, 0.1),
    *[Cycle("highest", 1000, 0.1)] * 3,
    *[Cycle("highest", 2000, 0.1)] * 2,
    *[Cycle("highest", 1000, 0.01)] * 4,
    *[Cycle("highest", 1000, 0.001)] * 4,
)


def scaled_cycles(cycles: Sequence[Cycle], factor: float) -> tuple[Cycle, ...]:
    """The same with `factor` times their steps, one at least.

    Raises:
        RequestError: no cycle, a first one that puts in no pivot, or a factor that is not above 0.
    """
    if not cycles or not isinstance(cycles[0].insert, int) or cycles[0].insert < 1:
        raise RequestError(
            "the first cycle must put in pivots: the band has only its ends by then. Begin with "
            "Cycle(3, steps, learning_rate)."
        )
    if not 0 < factor < math.inf:
        raise RequestError(f"steps is {factor}, expected a factor above 0 for the cycles' steps.")
    return tuple(
        Cycle(cycle.insert, max(1, round(cycle.steps * factor)), cycle.learning_rate)
        for cycle in cycles
    )


@dataclass(eq=False)
class BandRun:
    """How far a band has come in its cycles, and all that it goes on from.

    Attributes:
        band: as the last cycle left it.
        done: records of the cycles so far.
        highest: greatest loss at a pivot in each step so far.
    """

    band: Band
    done: list[BandCycle] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)
    forces: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    profiles: dict[str, Profile] | None = None

    def advance(
        self,
        potential: Potential,
        cycle: Cycle,
        relaxation: Relaxation,
        *,
        first: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """One more cycle.

        Args:
            first: number of the minibatch that the run's first step takes.
            progress: called with the steps that the run has taken.
        """
        before = sum(done.steps for done in self.done)
        band = self._with_pivots(potential, cycle)
        num_inserted = len(band.pivots) - len(self.band.pivots)
        relaxed = relaxation.run(
            potential,
            band,
            cycle.steps,
            first=first + before,
            progress=progress and (lambda steps: progress(before + steps)),
        )
        self.band = relaxed.band
        self.highest += relaxed.highest.tolist()
        self.forces = relaxation.forces(potential, relaxed)
        self.profiles = band_profiles(potential, self.band)
        self.done.append(
            band_cycle(
                relaxed, self.profiles, self.forces, num_inserted, cycle.steps, cycle.learning_rate
            )
        )

    def _with_pivots(self, potential: Potential, cycle: Cycle) -> Band:
        if isinstance(cycle.insert, int):
            return self.band.evenly_inserted(cycle.insert)
        profiles = self.profiles or band_profiles(potential, self.band)
        losses = torch.as_tensor(profiles["loss"].values)
        return self.band.inserted(highest_insertions(losses, _THRESHOLD, _MOST_INSERTED))


def autoneb(
    objective: Objective | Potential,
    a: Tensor,
    b: Tensor,
    *,
    cycles: Sequence[Cycle] = DRAXLER_CYCLES,
    steps: float = 1.0,
    momentum: float = 0.9,
    spring: float = math.inf,
    method: BandMethod = "neb",
    weight_decay: float = 0.0,
    bn: BatchNormMode = "recalibrate",
    batch_size: int | None = None,
    also: Mapping[str, Objective] | None = None,
    tol: float = 0.05,
    seed: int,
    progress: Progress | None = None,
) -> Neb:
    """A path of low loss between two solutions, by a band that gets pivots where it needs them.

    Args:
        objective: or a potential such as `FunctionPotential`.
        a, b: (n,) the ends, which stay.
        cycles: one after another; by default those of the paper.
        steps: factor for the steps of all cycles, such as 0.05 for a small network.
        momentum, spring, method, weight_decay, bn, batch_size, also, tol, seed: see `neb`.
        progress: called with (steps done, steps of all cycles, the cycle).

    Returns:
        The band after the last cycle. Its `cycles` say what each of them did.

    Raises:
        RequestError: ends, cycles, options or data that do not fit.

    Source: Draxler et al. 2018, arXiv:1803.00885; Kolsbjerg et al. 2016, doi:10.1063/1.4961868.
    """
    began = time.perf_counter()
    wanted = scaled_cycles(cycles, steps)
    relaxations = [
        Relaxation(cycle.learning_rate, method, spring, momentum, False, weight_decay)
        for cycle in wanted
    ]
    potential = potential_of(objective, bn=bn, batch_size=batch_size, seed=seed, also=also)
    start, end = potential.point(a), potential.point(b)
    straight = profiles_of_line(potential, start, end)
    run = BandRun(Band.straight(start, end))
    total = sum(cycle.steps for cycle in wanted)
    for number, (cycle, relaxation) in enumerate(zip(wanted, relaxations, strict=True), start=1):
        words = f"cycle {number} of {len(wanted)}"

        def tell(done: int, words: str = words) -> None:
            if progress is not None:
                progress(done, total, words)

        run.advance(potential, cycle, relaxation, progress=tell)
    assert run.profiles is not None
    return Neb(
        settings={
            "cycles": [asdict(cycle) for cycle in wanted],
            "momentum": momentum,
            "spring": str(spring) if spring == math.inf else spring,  # JSON knows no infinity
            "method": method,
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
        pivots=run.band.pivots,
        profiles=run.profiles,
        straight=straight,
        forces=run.forces,
        climbing=None,
        highest_losses=np.asarray(run.highest),
        cycles=tuple(run.done),
        tol=tol,
    )
