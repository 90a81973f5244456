"""Soup: which solutions to average, chosen one by one on validation data. `averaging` averages."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.merging.averaging import Average, RunningMean, average
from landscape.merging.points import PointEvaluator, accuracy, checked
from landscape.objective import BatchNormPolicy, Objective
from landscape.result import Result
from landscape.slices.trajectory import checkpoints_fingerprint

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Criterion", "Soup", "greedy_soup"]

Array = NDArray[np.float64]
Criterion = Literal["accuracy", "loss"]
_VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True, eq=False)
class Soup(Result):
    """The average of those members that do not make it worse on validation data.

    Attributes:
        average: of the ingredients, in the order in which they were taken, with comparisons on
            the training data, on "validation", and on further data by name.
        order: (k,) members from the best to the worst on validation data.
        kept: (k,) whether a member is an ingredient.
        scores: (k,) of each member alone, on validation data: its accuracy or its loss.
        trials: (k,) of the soup with the member in it, when it was tried.
        criterion: what the scores are.
    """

    probe: ClassVar[str] = "greedy_soup"

    average: Average = field(repr=False)
    order: NDArray[np.int64]
    kept: NDArray[np.bool_]
    scores: Array
    trials: Array
    criterion: str

    @property
    def status(self) -> str:
        """ "converged" unless the average has no finite loss."""
        return self.average.status

    @property
    def theta(self) -> Tensor:
        """(n,) the soup."""
        return self.average.theta

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """All buffers of the network by name, as they are at theta."""
        return self.average.buffers

    @property
    def ingredients(self) -> list[int]:
        """Members in the soup, in the order in which they were taken."""
        return [int(index) for index in self.order if self.kept[index]]

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """The average of the ingredients along `member`; all that were tried along `candidate`."""
        dataset = self.average.to_dataset(vectors=vectors)
        unit = "1" if self.criterion == "accuracy" else "loss"
        rank = np.argsort(self.order)
        for name, values, units, meaning in (
            ("kept", self.kept, "1", "whether the candidate is in the soup"),
            ("rank", rank, "1", "place on validation data, from 0, the best"),
            ("candidate_score", self.scores, unit, f"validation {self.criterion} alone"),
            ("trial_score", self.trials, unit, f"validation {self.criterion} of the soup with it"),
        ):
            attributes = {"units": units, "long_name": meaning}
            dataset[name] = (("candidate",), values, attributes)
        tried = {"units": "1", "long_name": "candidates for the soup"}
        dataset["num_candidates"] = ((), len(self.kept), tried)
        return dataset


def greedy_soup(
    objective: Objective,
    thetas: Sequence[Tensor] | Tensor,
    validation: Objective,
    *,
    criterion: Criterion = "accuracy",
    bn: BatchNormPolicy = "recalibrate",
    also: Mapping[str, Objective] | None = None,
) -> Soup:
    """Average the members that keep the validation score from falling, the best one first.

    Members are tried from the best to the worst; one is kept if the score of the average with it
    is as good as without, or better. Equal scores are ordered by the other criterion, then as
    given. A member whose score is NaN comes last and is never kept.

    Args:
        objective: the training data: BatchNorm statistics are taken from these, never from the
            validation data.
        thetas: k points (n,), read one at a time and again: a list, a tensor (k, n), or a
            sequence that loads its items.
        validation: held-out data, for the same network.
        criterion: "accuracy", or "loss", the lower the better.
        bn: as in `average`.
        also: further data by name, such as {"test": ...}, which the choice does not see.

    Raises:
        RequestError: no members, members or data that do not fit, no classes for an accuracy, or
            an unknown criterion.

    Source: Wortsman et al. 2022, arXiv:2203.05482, algorithm 1.
    """
    began = time.perf_counter()
    if criterion not in get_args(Criterion):
        raise unknown_choice("criterion", str(criterion), get_args(Criterion))
    if not len(thetas):
        raise RequestError("there are no members to choose from. Give one or more points.")
    if _VALIDATION in (also or {}):
        raise RequestError(
            f"the data {_VALIDATION!r} are measured anyway. Take them out of also, or rename them."
        )
    judge = _Judge(objective, validation, criterion, bn)
    alone = [judge(checked(objective, theta, index)) for index, theta in enumerate(thetas)]
    order = sorted(range(len(thetas)), key=lambda index: alone[index], reverse=True)
    mean, kept = RunningMean(objective), list[int]()
    trials = np.full(len(thetas), math.nan)
    current = -math.inf
    for index in order:
        theta = checked(objective, thetas[index], index)
        score = judge(mean.with_one_more(theta)) if kept else alone[index]
        trials[index] = score.shown
        # The best one is kept in any case: a soup has an ingredient.
        if not kept or score.first >= current > -math.inf:
            mean.add(theta)
            kept.append(index)
            current = score.first
    chosen = average(
        objective,
        _Chosen(thetas, kept),
        bn=bn,
        also={_VALIDATION: validation, **(also or {})},
    )
    return Soup(
        settings={
            **chosen.settings,
            "kind": "greedy",
            "criterion": criterion,
            "num_members": len(thetas),
        },
        provenance={
            **chosen.provenance,
            "members_fingerprint": checkpoints_fingerprint(thetas),
        },
        notes=(*chosen.notes, *_notes(objective, validation)),
        average=chosen,
        order=np.asarray(order),
        kept=np.isin(np.arange(len(thetas)), kept),
        scores=np.asarray([score.shown for score in alone]),
        trials=trials,
        criterion=criterion,
        wall_time=time.perf_counter() - began,
    )


@dataclass(frozen=True, order=True)
class _Score:
    """Of one point: the larger the better, -inf for NaN; `second` decides between equal ones."""

    first: float
    second: float
    shown: float = field(compare=False)


class _Judge:
    """Scores points on validation data, with the statistics of the training data."""

    def __init__(
        self, objective: Objective, validation: Objective, criterion: Criterion, bn: BatchNormPolicy
    ) -> None:
        self._points = PointEvaluator(objective, bn=bn, also={_VALIDATION: validation})
        self._criterion = criterion

    def __call__(self, theta: Tensor) -> _Score:
        found = self._points.on(_VALIDATION, theta, self._points.statistics(theta))
        loss, share = float(found.loss), float(accuracy(found))
        if found.right is None and self._criterion == "accuracy":
            raise RequestError(
                "the validation data have no classes, and so no accuracy. Give criterion='loss'."
            )
        shown = share if self._criterion == "accuracy" else loss
        if math.isnan(loss):
            return _Score(-math.inf, -math.inf, shown)
        # Counted, not divided: equal shares must not differ by rounding.
        right = -math.inf if found.right is None else float(found.right.sum())
        keys = (right, -loss) if self._criterion == "accuracy" else (-loss, right)
        return _Score(*keys, shown)


@dataclass(frozen=True)
class _Chosen:
    """Some of the members, in an order of their own; nothing is read before it is asked for."""

    thetas: Sequence[Tensor] | Tensor
    indices: Sequence[int]

    def __iter__(self) -> Iterator[Tensor]:
        for index in self.indices:
            yield self.thetas[index]


def _notes(objective: Objective, validation: Objective) -> list[str]:
    if validation.batches.fingerprint != objective.batches.fingerprint:
        return []
    return [
        "the validation data are the training data: the choice rewards members that fit them, and "
        "the validation scores are no estimate of new data"
    ]
