"""Stochastic weight averaging after the fact: the running average of a run's checkpoints.

`averaging` measures one average; here is one after each checkpoint, so that it shows how many help.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.merging.averaging import RunningMean, bn_notes, distance
from landscape.merging.points import PointEvaluator, accuracy, checked, joined
from landscape.objective import BatchNormPolicy, Objective
from landscape.paths.examples import Examples
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RunningAverage", "Trail", "swa"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trail:
    """Averages of the first 1, 2, ..., k checkpoints on one data set, and the checkpoints.

    Attributes:
        losses, accuracies: (k,) of the averages; accuracies are NaN where there are no classes.
        checkpoint_losses, checkpoint_accuracies: (k,) of the last checkpoint in each.
        errors: (k,) standard error of the difference of the two losses, from paired examples.
    """

    losses: Array
    accuracies: Array
    checkpoint_losses: Array
    checkpoint_accuracies: Array
    errors: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class RunningAverage(Result):
    """The average of a sequence of checkpoints, as it grows.

    Attributes:
        theta: (n,) the average of all.
        buffers: all buffers of the network by name; BatchNorm statistics are those at theta.
        distances: (k,) Euclidean, from each checkpoint to the average that it completes.
        trails: by the name of the data: "" for the objective's own.
    """

    probe: ClassVar[str] = "swa"

    theta: Tensor = field(repr=False)
    buffers: Mapping[str, Tensor] = field(repr=False)
    distances: Array
    trails: Mapping[str, Trail] = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged" unless averages have no finite loss."""
        lost = int((~np.isfinite(self.losses)).sum())
        return f"{lost} of {len(self.losses)} losses are not finite" if lost else "converged"

    @property
    def losses(self) -> Array:
        """(k,) of the averages, on the objective's own data."""
        return self.trails[""].losses

    @property
    def best(self) -> int:
        """How many checkpoints, from the first, have the average of the lowest loss."""
        finite = np.where(np.isnan(self.losses), math.inf, self.losses)
        return int(np.argmin(finite)) + 1

    def __getitem__(self, name: str) -> Trail:
        """On further data, such as running["test"]."""
        return self.trails[name]

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Averages along `count`, the number of checkpoints in each."""
        import xarray as xr

        count = ("count",)
        described: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "best_count": ((), self.best, "1", "checkpoints in the average of the lowest loss"),
            "distance": (count, self.distances, "parameter", "checkpoint to its average"),
        }
        for name, trail in self.trails.items():
            before, on = (f"{name}_", f" on {name}") if name else ("", "")
            averages, last = f"of the average{on}", f"of the last checkpoint{on}"
            difference = "loss of the average - loss of the last checkpoint"
            described |= {
                f"{before}final_loss": ((), trail.losses[-1], "loss", f"loss {averages} of all"),
                f"{before}final_accuracy": (
                    *((), trail.accuracies[-1]),
                    *("1", f"accuracy {averages} of all"),
                ),
                f"{before}loss": (count, trail.losses, "loss", f"loss {averages}"),
                f"{before}accuracy": (count, trail.accuracies, "1", f"accuracy {averages}"),
                f"{before}checkpoint_loss": (
                    *(count, trail.checkpoint_losses),
                    *("loss", f"loss {last}"),
                ),
                f"{before}checkpoint_accuracy": (
                    *(count, trail.checkpoint_accuracies),
                    *("1", f"accuracy {last}"),
                ),
                f"{before}difference_error": (
                    *(count, trail.errors),
                    *("loss", f"standard error of {difference}{on}"),
                ),
            }
        if vectors:
            theta = self.theta.cpu().double().numpy()
            described["theta"] = (("parameter",), theta, "parameter", "averaged weights")
        numbers = np.arange(1, len(self.distances) + 1)
        counted = {"units": "1", "long_name": "checkpoints in the average"}
        return xr.Dataset(
            {
                name: (dimensions, values, {"units": unit, "long_name": meaning})
                for name, (dimensions, values, unit, meaning) in described.items()
            },
            coords={"count": (count, numbers, counted)},
        )


def swa(
    objective: Objective,
    thetas: Iterable[Tensor],
    *,
    bn: BatchNormPolicy = "recalibrate",
    also: Mapping[str, Objective] | None = None,
) -> RunningAverage:
    """Averages of the first 1, 2, ..., k checkpoints of a run, each with its own statistics.

    Args:
        thetas: (n,) each, in the order of training, read once: a list, a tensor (k, n), or a
            generator that loads them.
        bn: BatchNorm statistics: "recalibrate", those of the objective's data at each average and
            checkpoint; "batch"; "eval", the objective's own.
        also: further data by name, such as {"test": ...}; statistics are those of the objective's.

    Raises:
        RequestError: no checkpoints, or some that do not fit or are not finite.

    Source: Izmailov et al. 2018, arXiv:1803.05407.
    """
    began = time.perf_counter()
    points = PointEvaluator(objective, bn=bn, also=also)
    mean, distances, digest = RunningMean(objective), [], hashlib.blake2b(digest_size=16)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for index, given in enumerate(thetas):
        theta = checked(objective, given, index)
        mean.add(theta)
        distances.append(distance(theta, mean.theta))
        last = points.at(theta)
        averaged = points.at(mean.theta) if index else last
        for name, found in averaged.items():
            rows.setdefault(name, []).append(_row(found, last[name]))
        digest.update(fingerprint({"theta": theta}))
    if not distances:
        raise RequestError("there are no checkpoints to average. Give one or more points.")
    return RunningAverage(
        settings={
            "num_checkpoints": len(distances),
            "bn": bn,
            "also": {name: other.batches.fingerprint for name, other in (also or {}).items()},
        },
        provenance=objective.provenance() | {"members_fingerprint": digest.hexdigest()},
        notes=(*objective.notes, *bn_notes(objective, bn)),
        theta=mean.theta,
        buffers=points.buffers(mean.theta),
        distances=np.asarray(distances),
        trails={name: Trail(*np.asarray(found).T) for name, found in rows.items()},
        wall_time=time.perf_counter() - began,
    )


def _row(averaged: Examples, last: Examples) -> tuple[float, ...]:
    """One checkpoint's entries of a `Trail`, in the order of its fields."""
    both = joined([averaged, last])
    error = both.standard_error("loss", torch.tensor([1.0, -1.0], dtype=torch.float64))
    losses, accuracies = both.loss.tolist(), accuracy(both).tolist()
    return losses[0], accuracies[0], losses[1], accuracies[1], error
