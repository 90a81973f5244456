"""Averaging: the mean of several solutions' weights as one network, and whether it is any better.

Members come one by one, so that any number of checkpoints fits. `soup` chooses which to average;
`landscape.trainers.averaging` averages the members of one stack while they are trained.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.merging.points import PointEvaluator, accuracy, checked, joined
from landscape.objective import BatchNormPolicy, Objective
from landscape.paths.examples import Examples
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Average", "Comparison", "RunningMean", "average", "bn_notes", "distance"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The average and its members on one data set.

    Attributes:
        loss, accuracy: of the average; the accuracy is NaN where there are no classes.
        member_losses, member_accuracies: (k,) of each.
        best: the member of the lowest loss on the objective's own data.
        change_from_mean: loss of the average - mean of the members' losses, with their weights.
        change_from_best: loss of the average - loss of the best member.
        mean_error, best_error: standard errors of the two, from paired differences of the
            examples; NaN where the loss does not tell examples apart. That the best member was
            chosen for its loss is not in it.
    """

    loss: float
    accuracy: float
    member_losses: Array
    member_accuracies: Array
    best: int
    change_from_mean: float
    mean_error: float
    change_from_best: float
    best_error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Average(Result):
    """The weighted mean of several points, as one network.

    Attributes:
        theta: (n,) the mean.
        buffers: all buffers of the network by name; BatchNorm statistics are those at the mean.
        weights: (k,) of the members; they add up to 1.
        distances: (k,) Euclidean, from each member to the mean; NaN if members came only once.
        comparisons: by the name of the data: "" for the objective's own.
    """

    probe: ClassVar[str] = "soup"

    theta: Tensor = field(repr=False)
    buffers: Mapping[str, Tensor] = field(repr=False)
    weights: Array
    distances: Array
    comparisons: Mapping[str, Comparison] = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged" unless the average has no finite loss."""
        return "converged" if math.isfinite(self.loss) else f"the loss is {self.loss}"

    @property
    def loss(self) -> float:
        """Of the average, on the objective's own data."""
        return self.comparisons[""].loss

    @property
    def accuracy(self) -> float:
        """Of the average, on the objective's own data; NaN where there are no classes."""
        return self.comparisons[""].accuracy

    def __getitem__(self, name: str) -> Comparison:
        """On further data, such as average["test"]."""
        return self.comparisons[name]

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Members along `member`; scalars of further data with their name before them."""
        import xarray as xr

        member = ("member",)
        described: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "num_members": ((), len(self.weights), "1", "members of the average"),
            "weight": (member, self.weights, "1", "share in the average"),
            "distance": (member, self.distances, "parameter", "distance to the average"),
        }
        for name, found in self.comparisons.items():
            before, on = (f"{name}_", f" on {name}") if name else ("", "")
            described |= {
                f"{before}{key}": (member if key.startswith("member") else (), value, unit, what)
                for key, value, unit, what in (
                    ("loss", found.loss, "loss", f"loss of the average{on}"),
                    ("accuracy", found.accuracy, "1", f"accuracy of the average{on}"),
                    ("member_loss", found.member_losses, "loss", f"loss of a member{on}"),
                    ("member_accuracy", found.member_accuracies, "1", f"accuracy of a member{on}"),
                    *_changes(found, on),
                )
            }
        if vectors:
            theta = self.theta.cpu().double().numpy()
            described["theta"] = (("parameter",), theta, "parameter", "averaged weights")
        return xr.Dataset(
            {
                name: (dimensions, values, {"units": unit, "long_name": meaning})
                for name, (dimensions, values, unit, meaning) in described.items()
            }
        )


def _changes(found: Comparison, on: str) -> Iterator[tuple[str, float, str, str]]:
    for key, value, error, than in (
        ("mean", found.change_from_mean, found.mean_error, "the members' mean loss"),
        ("best", found.change_from_best, found.best_error, "the best member's loss"),
    ):
        words = f"loss of the average - {than}{on}"
        yield f"change_from_{key}", value, "loss", words
        yield f"change_from_{key}_error", error, "loss", f"standard error of: {words}"


def average(
    objective: Objective,
    thetas: Iterable[Tensor],
    weights: Sequence[float] | Tensor | None = None,
    *,
    bn: BatchNormPolicy = "recalibrate",
    also: Mapping[str, Objective] | None = None,
) -> Average:
    """The mean of points, with the BatchNorm statistics that belong there: a uniform soup.

    The mean is taken in float64, whatever the precision of the members. Every member is evaluated
    like the average: with the statistics of the data at its own weights.

    Args:
        thetas: (n,) each, read one by one: a list, a tensor (k, n), a generator that loads them,
            or anything that can be iterated. Only what can be iterated twice has distances.
        weights: of the members, 0 or more; they are divided by their sum. Equal by default.
        bn: BatchNorm statistics: "recalibrate", those of the objective's data; "batch"; "eval",
            the objective's own, which belong to no average.
        also: further data by name, such as {"test": ...}; statistics are those of the objective's.

    Raises:
        RequestError: no members, members that do not fit or are not finite, or other weights.

    Source: Izmailov et al. 2018, arXiv:1803.05407; Wortsman et al. 2022, arXiv:2203.05482.
    """
    began = time.perf_counter()
    shares = _Shares(weights, thetas)
    points = PointEvaluator(objective, bn=bn, also=also)
    mean, table, digest = RunningMean(objective), _Table(), hashlib.blake2b(digest_size=16)
    for index, given in enumerate(thetas):
        theta, weight = checked(objective, given, index), shares.next()
        mean.add(theta, weight)
        table.enter(points.at(theta), weight)
        digest.update(fingerprint({"theta": theta}))
    shares.check(table.num_members)
    theta, normalized = mean.theta, shares.used / shares.used.sum()
    comes_again = iter(thetas) is not thetas
    return Average(
        settings={
            "kind": "uniform" if weights is None else "weighted",
            "num_members": table.num_members,
            "weights": None if weights is None else normalized.tolist(),
            "bn": bn,
            "also": {name: other.batches.fingerprint for name, other in (also or {}).items()},
        },
        provenance=objective.provenance() | {"members_fingerprint": digest.hexdigest()},
        notes=(
            *objective.notes,
            *bn_notes(objective, bn),
            *([] if comes_again else ["members came only once: no distances were measured"]),
        ),
        theta=theta,
        buffers=points.buffers(theta),
        weights=normalized,
        distances=np.asarray(
            [distance(checked(objective, one, index), theta) for index, one in enumerate(thetas)]
            if comes_again
            else [math.nan] * table.num_members
        ),
        comparisons=table.comparisons(points.at(theta)),
        wall_time=time.perf_counter() - began,
    )


class RunningMean:
    """A weighted mean in float64, to which one point after another is added."""

    def __init__(self, objective: Objective) -> None:
        self._like = objective.theta
        self._mean = torch.zeros_like(objective.theta, dtype=torch.float64)
        self._weight = 0.0

    def add(self, theta: Tensor, weight: float = 1.0) -> None:
        """One more point (n,)."""
        if weight > 0:
            self._weight += weight
            # By its difference to the mean: equal points have a mean that is equal bit for bit.
            self._mean += (weight / self._weight) * (theta.double() - self._mean)

    def with_one_more(self, theta: Tensor) -> Tensor:
        """What the mean would be with another point of weight 1: (n,)."""
        step = (theta.double() - self._mean) / (self._weight + 1)
        return (self._mean + step).to(self._like)

    @property
    def theta(self) -> Tensor:
        """The mean (n,), in the precision of the objective."""
        return self._mean.to(self._like)


class _Shares:
    """The weights of members that come one by one."""

    def __init__(self, weights: Sequence[float] | Tensor | None, thetas: Iterable[Tensor]) -> None:
        self._given: list[float] | None = None
        self._used: list[float] = []
        if weights is not None:
            held = np.asarray([float(weight) for weight in weights])
            if not (np.isfinite(held).all() and (held >= 0).all() and held.sum() > 0):
                raise RequestError(
                    f"weights is {held.tolist()}, expected finite numbers of 0 or more, not all 0."
                )
            self._given = held.tolist()
            if isinstance(thetas, Sequence | Tensor) and len(thetas) != len(held):
                raise self._unlike(len(thetas))

    def _unlike(self, num_members: int) -> RequestError:
        given = len(self._given or ())
        return RequestError(
            f"weights has {given} entries for {num_members} members. Give one for each."
        )

    def next(self) -> float:
        """The weight of the next member."""
        index = len(self._used)
        if self._given is not None and index >= len(self._given):
            raise self._unlike(index + 1)
        self._used.append(1.0 if self._given is None else self._given[index])
        return self._used[-1]

    def check(self, num_members: int) -> None:
        """Raise RequestError unless there were members, and one for each weight."""
        if not num_members:
            raise RequestError("there are no members to average. Give one or more points.")
        if self._given is not None and num_members < len(self._given):
            raise self._unlike(num_members)

    @property
    def used(self) -> Array:
        return np.asarray(self._used)


class _Table:
    """What is kept of each member's examples: sums over all members, and those of the best."""

    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._accuracies: dict[str, list[float]] = {}
        self._sum: dict[str, Examples] = {}
        self._best_examples: dict[str, Examples] = {}
        self._weight, self._best = 0.0, 0

    @property
    def num_members(self) -> int:
        return len(self._losses.get("", []))

    def enter(self, found: Mapping[str, Examples], weight: float) -> None:
        """One member's examples by the name of the data."""
        loss = float(found[""].loss)
        lowest = float(self._best_examples[""].loss) if self._best_examples else math.nan
        if math.isnan(lowest) or loss < lowest:
            self._best, self._best_examples = self.num_members, dict(found)
        self._weight += weight
        for name, examples in found.items():
            self._losses.setdefault(name, []).append(float(examples.loss))
            self._accuracies.setdefault(name, []).append(float(accuracy(examples)))
            if weight > 0:  # not a product with 0: an infinite loss that does not count is no NaN
                old = self._sum.get(name)
                self._sum[name] = (
                    _scaled(examples, weight)
                    if old is None
                    else _sum(old, _scaled(examples, weight))
                )

    def comparisons(self, found: Mapping[str, Examples]) -> dict[str, Comparison]:
        """Of the average's examples with those of the members."""
        return {name: self._comparison(name, examples) for name, examples in found.items()}

    def _comparison(self, name: str, examples: Examples) -> Comparison:
        mean = _scaled(self._sum[name], 1 / self._weight)
        rows = joined([examples, mean, self._best_examples[name]])
        own, of_mean, of_best = rows.loss.tolist()
        one, other = torch.tensor([[1.0, -1, 0], [1, 0, -1]], dtype=torch.float64)
        return Comparison(
            loss=own,
            accuracy=float(accuracy(examples)),
            member_losses=np.asarray(self._losses[name]),
            member_accuracies=np.asarray(self._accuracies[name]),
            best=self._best,
            change_from_mean=own - of_mean,
            mean_error=rows.standard_error("loss", one),
            change_from_best=own - of_best,
            best_error=rows.standard_error("loss", other),
        )


def _scaled(examples: Examples, factor: float) -> Examples:
    """Losses alone, multiplied."""
    losses = None if examples.losses is None else factor * examples.losses
    return Examples(factor * examples.totals, examples.total_weight, losses, examples.weights)


def _sum(first: Examples, second: Examples) -> Examples:
    losses = None
    if first.losses is not None and second.losses is not None:
        losses = first.losses + second.losses
    totals = first.totals + second.totals
    return Examples(totals, first.total_weight, losses, first.weights)


def distance(theta: Tensor, other: Tensor) -> float:
    """Euclidean, in float64."""
    return float(torch.linalg.vector_norm(theta.double() - other.double()))


def bn_notes(objective: Objective, bn: BatchNormPolicy) -> Iterator[str]:
    """What the reader should know of averages under a BatchNorm policy."""
    if objective.has_batch_norm and bn == "eval":
        yield "BatchNorm's statistics are the objective's own, and belong to no average"
