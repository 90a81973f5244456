"""Dynamics: what became of every example while one network trained, as a result to keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.answers import answers
from landscape.probes.arrays import ArrayLike, Floats, Ints
from landscape.probes.dynamics.example_scores import ExampleScores, example_scores
from landscape.probes.dynamics.histories import (
    History,
    Mode,
    Outcomes,
    Row,
    as_times,
    row,
    stacked,
)
from landscape.probes.dynamics.measurements import measurements
from landscape.probes.dynamics.recorder import Recorder
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Dynamics", "checkpoint_dynamics", "training_dynamics"]

_EXAMPLE = {
    "learned": ("1", "whether it was right at its last presentation"),
    "ever_learned": ("1", "whether it was ever right"),
    "forgetting": ("1", "times that it was forgotten; NaN: never learned"),
    "first_learned": ("time", "when it was right first; NaN: never"),
    "iteration_learned": ("time", "since when it was always right; NaN: not at the end"),
    "presentations_needed": ("1", "presentations until it was right for good; NaN: never"),
    "aum": ("logit", "mean margin of the logits"),
    "aum_probability": ("1", "mean margin of the probabilities"),
    "el2n": ("1", "norm of probabilities less one-hot label, mean over the times"),
    "confidence": ("1", "mean probability of the label"),
    "variability": ("1", "standard deviation of the label's probability"),
    "aleatoric": ("1", "mean of p (1 - p) of the label's probability p"),
    "correctness": ("1", "times that it was right"),
    "cumulative_loss": ("nat", "sum of its losses"),
    "times_presented": ("1", "times that it was presented"),
    "num_undefined": ("1", "times that its logits were no numbers"),
}
_MOMENTS = ("first_learned", "iteration_learned")  # indices of times


@dataclass(frozen=True, kw_only=True, eq=False)
class Dynamics(Result):
    """Scores of n examples over T times of one run; of M > 1 views each, every view is an example.

    Attributes:
        times: (T,) when.
        labels: (n M,) class of each example.
        mode: "presentation" or "eval", see `History`.
        scores: (n M,) each, and curves (T,); see `ExampleScores`.
        correct: (T, n M) 1 right, 0 wrong, -1 not presented; None where no history was kept.
        num_augmentations: M; example i M + m is view m of object i.
    """

    probe: ClassVar[str] = "dynamics"

    times: Floats
    labels: Ints = field(repr=False)
    mode: Mode
    scores: ExampleScores = field(repr=False)
    correct: Outcomes | None = field(repr=False)
    num_augmentations: int = 1

    @property
    def num_never_learned(self) -> int:
        """Examples that were never right."""
        return int((~self.scores.ever_learned).sum())

    @property
    def num_unforgettable(self) -> int:
        """Examples that were learned, and never forgotten."""
        return int((self.scores.forgetting == 0).sum())

    @property
    def mean_forgetting(self) -> float:
        """Over the examples that were ever learned; NaN without any."""
        counts = self.scores.forgetting[self.scores.ever_learned]
        return float(counts.mean()) if len(counts) else float("nan")

    @property
    def status(self) -> str:
        """ "converged", or how many answers were no numbers."""
        undefined = int(self.scores.num_undefined.sum())
        return f"{undefined} answers were no numbers: wrong" if undefined else "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Scores along `example`, curves along `time`, `correct` (time, example), and counts.

        `first_learned` and `iteration_learned` are values of the coordinate `time`.
        """
        import xarray as xr

        dataset = xr.Dataset(
            coords={"time": ("time", self.times, {"long_name": "time, as it was given"})}
        )

        def put(name: str, dims: tuple[str, ...], values: object, unit: str, of: str) -> None:
            dataset[name] = (dims, values, {"units": unit, "long_name": of})

        for name, (unit, meaning) in _EXAMPLE.items():
            values = getattr(self.scores, name)
            if name in _MOMENTS:
                values = _at(self.times, values)
            put(name, ("example",), values, unit, meaning)
        put("label", ("example",), self.labels, "1", "class")
        if self.num_augmentations > 1:
            views = np.arange(len(self.labels))
            put("object", ("example",), views // self.num_augmentations, "1", "of which object")
            put("augmentation", ("example",), views % self.num_augmentations, "1", "which view")
        put("accuracy", ("time",), self.scores.accuracy, "1", "share of right answers")
        put("mean_loss", ("time",), self.scores.mean_loss, "nat", "mean loss")
        if self.correct is not None:
            meaning = "1 right, 0 wrong, -1 not presented"
            put("correct", ("time", "example"), self.correct, "1", meaning)
        never, kept = self.num_never_learned, self.num_unforgettable
        put("num_never_learned", (), never, "1", "examples that were never right")
        put("num_unforgettable", (), kept, "1", "examples learned and never forgotten")
        of = "mean number of times that a learned example was forgotten"
        put("mean_forgetting", (), self.mean_forgetting, "1", of)
        return dataset


def training_dynamics(source: Recorder | History) -> Dynamics:
    """All scores of what was recorded.

    Raises:
        RequestError: there is no time yet.
    """
    began = time.perf_counter()
    history = source if isinstance(source, History) else None
    if isinstance(source, Recorder) and source.keeps_history:
        history = source.history
    found = source.scores() if isinstance(source, Recorder) else example_scores(source)
    views = source.num_augmentations
    return Dynamics(
        settings={"mode": source.mode, "num_augmentations": views},
        provenance={"label_hash": source.label_hash, "example_hash": source.example_hash},
        wall_time=time.perf_counter() - began,
        times=source.times,
        labels=np.repeat(source.labels, views),
        mode=source.mode,
        scores=_by_view(found),
        correct=None if history is None else history.correct.reshape(len(history.times), -1),
        num_augmentations=views,
    )


def checkpoint_dynamics(
    objective: Objective,
    thetas: Tensor | Iterable[Tensor],
    buffers: Sequence[Mapping[str, Tensor] | None] | None = None,
    times: ArrayLike | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Dynamics:
    """What became of the objective's data along checkpoints of one network, in evaluation mode.

    Args:
        thetas: (T, n) points in the order of training; an iterable is read one by one.
        buffers: of each checkpoint, by name. A network with BatchNorm needs them under the policy
            "eval"; the other policies find the statistics at each point.
        times: (T,) increasing, such as steps; by default 0 ... T - 1.
        progress: called with (checkpoints, T, message); T is 0 where it is not known before.

    Raises:
        RequestError: no checkpoint, buffers or times that are not as many, a network with running
            statistics of which none were given, or a loss that does not show classes.
    """
    began = time.perf_counter()
    if buffers is None and objective.has_batch_norm and objective.bn == "eval":
        raise RequestError(
            "the network has BatchNorm, whose running statistics differ from checkpoint to "
            "checkpoint, and those of one would be used for all. Give buffers=, one mapping a "
            "checkpoint, or an objective with bn='recalibrate'."
        )
    total = len(thetas) if isinstance(thetas, (Tensor, Sequence)) else 0
    rows: list[Row] = []
    labels: Ints | None = None
    num_classes = 0
    for index, theta in enumerate(thetas):
        if buffers is not None and index >= len(buffers):
            raise _as_many("buffers", len(buffers))
        own = None if buffers is None else buffers[index]
        found = answers(objective, theta, buffers=own)
        rows.append(row(measurements(found.logits, found.labels)))
        labels = found.labels.cpu().numpy()
        num_classes = found.logits.shape[1]
        if progress is not None:
            progress(index + 1, total, "checkpoint")
    if labels is None:
        raise RequestError("thetas is empty. Give the checkpoints of a run, in order.")
    if buffers is not None and len(buffers) != len(rows):
        raise _as_many("buffers", len(buffers))
    when = np.arange(len(rows), dtype=np.float64) if times is None else as_times(times, len(rows))
    history = stacked(rows, when, labels, num_classes, "eval", objective.batches.fingerprint)
    return Dynamics(
        settings={"times": when.tolist()},
        provenance=objective.provenance(),
        wall_time=time.perf_counter() - began,
        notes=objective.notes,
        times=when,
        labels=labels,
        mode="eval",
        scores=example_scores(history),
        correct=history.correct,
    )


def _as_many(name: str, count: int) -> RequestError:
    return RequestError(f"{name} holds {count}, expected one for each point of thetas.")


def _by_view(scores: ExampleScores) -> ExampleScores:
    """(n M,) from (n, M)."""
    return ExampleScores(**{name: values.reshape(-1) for name, values in vars(scores).items()})


def _at(times: Floats, indices: Floats) -> Floats:
    """Times at indices, NaN where the index is."""
    known = np.isfinite(indices)
    found = np.full(indices.shape, np.nan)
    found[known] = times[indices[known].astype(np.int64)]
    return found
