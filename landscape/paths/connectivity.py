"""Connectivity: the lowest passes between the members of a family, found band by band."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.atomic import appearing
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.autoneb import DRAXLER_CYCLES, BandRun, Cycle, scaled_cycles
from landscape.paths.band import Band
from landscape.paths.connectivity_graph import Edge, next_edge, saddle_distances, spanning_tree
from landscape.paths.neb import BandCycle, Progress
from landscape.paths.potential import Potential, ends_fingerprint, potential_of
from landscape.paths.relaxation import BandMethod, Relaxation
from landscape.result import Result
from landscape.slices.execution import BatchNormMode

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Connectivity", "connect"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Connectivity(Result):
    """Minima and the saddles between them.

    Attributes:
        minima: (K,) loss of each member.
        saddles: (K, K) greatest loss of the best band between two members; NaN where none was
            looked for, infinite where the band has no finite loss.
        lengths: (K, K) length of that band.
        bands: the pairs that were joined, in that order.
        wanted_bands: how many were asked for.
    """

    probe: ClassVar[str] = "connectivity"

    minima: Array
    saddles: Array
    lengths: Array
    bands: tuple[Edge, ...]
    wanted_bands: int

    def __repr__(self) -> str:
        distances = self.saddle_distances
        return (
            f"Connectivity({len(self.minima)} members, {len(self.bands)} bands: all are joined at "
            f"{distances.max():.6g}, the closest two at "
            f"{distances[~np.eye(len(distances), dtype=bool)].min():.6g}, {self.status})"
        )

    @property
    def tree(self) -> list[Edge]:
        """The minimum spanning tree of the saddles, lowest first."""
        return spanning_tree(self.saddles)

    @property
    def saddle_distances(self) -> Array:
        """(K, K) the lowest level at which two members are joined; a bound from above."""
        return saddle_distances(self.minima, self.saddles)

    @property
    def status(self) -> str:
        """ "converged" when all members are joined and all bands were made, else what is not."""
        apart = len(self.minima) - len(self.tree)
        if apart > 1:
            return f"not converged: the members are in {apart} parts that no band joins"
        missing = self.wanted_bands - len(self.bands)
        return f"{missing} of {self.wanted_bands} bands missing" if missing > 0 else "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `member`, `other_member`, `edge`, `end`; the highest pass as a scalar."""
        import xarray as xr

        pair = ("member", "other_member")
        tree = np.asarray(self.tree, dtype=np.int64).reshape(-1, 2)
        apart = self.saddle_distances[~np.eye(len(self.minima), dtype=bool)]
        described: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "loss": (("member",), self.minima, "loss", "loss of the member"),
            "saddle": (pair, self.saddles, "loss", "greatest loss of the band between two members"),
            "band_length": (pair, self.lengths, "parameter", "length of that band"),
            "saddle_distance": (
                pair, self.saddle_distances, "loss", "lowest level at which two members are joined"
            ),
            "tree": (("edge", "end"), tree, "1", "members joined by the spanning tree"),
            "highest_pass": ((), apart.max(), "loss", "level at which all members are joined"),
            "mean_saddle_distance": ((), apart.mean(), "loss", "mean over the pairs of members"),
            "num_bands": ((), len(self.bands), "1", "bands that were made"),
        }  # fmt: skip
        return xr.Dataset(
            {
                name: (dimensions, values, {"units": unit, "long_name": words})
                for name, (dimensions, values, unit, words) in described.items()
            }
        )


def connect(
    objective: Objective | Potential,
    thetas: Sequence[Tensor] | Tensor,
    *,
    cycles: Sequence[Cycle] = DRAXLER_CYCLES,
    steps: float = 1.0,
    num_bands: int | None = None,
    method: BandMethod = "neb",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    bn: BatchNormMode = "recalibrate",
    batch_size: int | None = None,
    state: str | Path | None = None,
    seed: int,
    progress: Progress | None = None,
) -> Connectivity:
    """The lowest passes between the members of a family, by AutoNEB on the pairs that matter.

    First each member is joined to the others; then, band by band, a way around the highest edge of
    the spanning tree is looked for.

    Args:
        objective: or a potential such as `FunctionPotential`.
        thetas: K points (n,).
        num_bands: how many to make; by default K - 1 that join all, and as many that may replace
            them. More never raise a saddle distance.
        cycles, steps, method, momentum, weight_decay, bn, batch_size, seed: see `autoneb`.
        state: a file that keeps what is done after each cycle, to go on from; it stays.
        progress: called with (steps done, steps of all bands, the pair).

    Raises:
        RequestError: fewer than two points, options that do not fit, or a file of another family.

    Source: Draxler et al. 2018, arXiv:1803.00885.
    """
    began = time.perf_counter()
    if len(thetas) < 2:
        raise RequestError(f"{len(thetas)} point was given: a family needs two or more.")
    count = len(thetas)
    most = count * (count - 1) // 2
    wanted = min(most, 2 * (count - 1) if num_bands is None else num_bands)
    if wanted < 1:
        raise RequestError(f"num_bands is {num_bands}, expected at least 1.")
    scaled = scaled_cycles(cycles, steps)
    potential = potential_of(objective, bn=bn, batch_size=batch_size, seed=seed)
    points = [potential.point(theta) for theta in thetas]
    relaxations = tuple(
        Relaxation(cycle.learning_rate, method, math.inf, momentum, False, weight_decay)
        for cycle in scaled
    )
    settings = {
        "cycles": [asdict(cycle) for cycle in scaled],
        "method": method,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "bn": bn,
        "batch_size": batch_size,
        "seed": seed,
        "ends": ends_fingerprint(*points),
    }
    exploration = _Exploration(
        potential, points, scaled, relaxations, state, {**settings, **potential.provenance()}
    )
    while len(exploration.bands) < wanted and exploration.advance(wanted, progress):
        pass
    return Connectivity(
        settings={**settings, "num_bands": wanted},
        provenance=potential.provenance(),
        notes=potential.notes,
        wall_time=time.perf_counter() - began,
        minima=exploration.minima,
        saddles=exploration.saddles,
        lengths=exploration.lengths,
        bands=tuple(exploration.bands),
        wanted_bands=wanted,
    )


class _Exploration:
    """The bands so far, the one that is being made, and the file that keeps them."""

    def __init__(
        self,
        potential: Potential,
        points: Sequence[Tensor],
        cycles: Sequence[Cycle],
        relaxations: Sequence[Relaxation],
        path: str | Path | None,
        request: Mapping[str, object],
    ) -> None:
        self._potential, self._points = potential, points
        self._cycles, self._relaxations = cycles, relaxations
        self._path = None if path is None else Path(path)
        self._request = json.dumps(request, sort_keys=True, default=str)
        self.bands: list[Edge] = []
        self._pair: Edge | None = None
        self._run: BandRun | None = None
        count = len(points)
        self.saddles = np.full((count, count), np.nan)
        self.lengths = np.full((count, count), np.nan)
        if self._path is not None and self._path.exists():
            self._read(self._path)
        else:
            weights = torch.eye(count, dtype=torch.float64)
            found = potential.examples(torch.stack(list(points)), weights)[""]
            self.minima = found.loss.numpy()
            self._write()

    def advance(self, wanted: int, progress: Progress | None) -> bool:
        """One more cycle of a band, or a new band; whether there was one to make."""
        if self._pair is None or self._run is None:
            self._pair = next_edge(self.minima, self.saddles)
            if self._pair is None:
                return False
            first, second = self._pair
            self._run = BandRun(Band.straight(self._points[first], self._points[second]))
        number = len(self._run.done)
        steps = sum(cycle.steps for cycle in self._cycles)
        words = f"members {self._pair[0] + 1} and {self._pair[1] + 1}"

        def tell(done: int) -> None:
            if progress is not None:
                progress(len(self.bands) * steps + done, wanted * steps, words)

        self._run.advance(
            self._potential,
            self._cycles[number],
            self._relaxations[number],
            # Each pair has minibatches of its own, whenever it is its turn.
            first=(self._pair[0] * len(self._points) + self._pair[1]) * steps,
            progress=tell,
        )
        if len(self._run.done) == len(self._cycles):
            self._finish(self._pair, self._run)
        self._write()
        return True

    def _finish(self, pair: Edge, run: BandRun) -> None:
        # A cycle may raise what an earlier one has found: the way stays known.
        best = min(run.done, key=lambda one: (math.isnan(one.saddle), one.saddle))
        saddle = best.saddle if math.isfinite(best.saddle) else math.inf
        self.saddles[pair] = self.saddles[pair[::-1]] = saddle
        self.lengths[pair] = self.lengths[pair[::-1]] = best.length
        self.bands.append(pair)
        self._pair = self._run = None

    def _write(self) -> None:
        if self._path is None:
            return
        held: dict[str, Any] = {
            "request": self._request,
            "minima": torch.as_tensor(self.minima),
            "saddles": torch.as_tensor(self.saddles),
            "lengths": torch.as_tensor(self.lengths),
            "bands": self.bands,
            "pair": self._pair,
        }
        if self._run is not None:
            held["pivots"] = self._run.band.pivots
            held["targets"] = self._run.band.targets
            held["done"] = [asdict(cycle) for cycle in self._run.done]
        whole = io.BytesIO()
        torch.save(held, whole)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with appearing(self._path) as temporary:
                temporary.write_bytes(whole.getbuffer())
        except OSError as error:
            raise RequestError(
                f"cannot keep the state of the family in {self._path}: {error}. Name a file in a "
                "folder that can be written and has room."
            ) from error

    def _read(self, path: Path) -> None:
        try:
            device = self._points[0].device
            held: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            request = held["request"]
            self.minima, self.saddles, self.lengths = (
                held[name].cpu().numpy() for name in ("minima", "saddles", "lengths")
            )
            self.bands = [(first, second) for first, second in held["bands"]]
            if held["pair"] is not None:
                self._pair = (held["pair"][0], held["pair"][1])
                band = Band(held["pivots"], held["targets"].cpu())
                self._run = BandRun(band, [BandCycle(**one) for one in held["done"]])
        except Exception as error:  # a damaged archive fails in whatever it is read by
            raise RequestError(
                f"{path} cannot be read as the state of a family: {error}. Name another file, or "
                "delete it to start anew."
            ) from error
        if request != self._request:
            raise RequestError(
                f"{path} belongs to another family: other members, data or options. Name another "
                "file, or delete it to start anew."
            )
