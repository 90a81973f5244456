"""Histories: the measurements of every example at every time; `recorder` collects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_floats, as_labels
from landscape.probes.dynamics.measurements import MEASUREMENTS, measurements

__all__ = [
    "History",
    "Mode",
    "Outcomes",
    "Row",
    "as_outcomes",
    "as_series",
    "as_times",
    "history",
    "label_hash",
    "row",
    "stacked",
]

Mode = Literal["presentation", "eval"]
Outcomes = npt.NDArray[np.int8]  # 1 right, 0 wrong, -1 not presented
Row = dict[str, npt.NDArray[Any]]  # one time's measurements by name

NOT_PRESENTED = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """What T times made of n examples, under M fixed augmentations each.

    All measurements are (T, n), or (T, n, M) with M > 1; see `measurements` for what they are.
    Those of an example that was not presented at a time are NaN, and -1 where they are integers.

    Attributes:
        times: (T,) when: epochs or steps, as they were given.
        labels: (n,) class of each example, 0 ... num_classes - 1.
        mode: "presentation": in training mode, before the step, with the augmentation of the day;
            "eval": in evaluation mode.
        correct: int8, 1 right, 0 wrong, -1 not presented; what is no number is wrong.
        prediction: int64, -1 where it is no number, too.
        label_hash: of the labels.
        example_hash: of the set of examples, "" where it is not known.
    """

    times: Floats
    labels: Ints
    num_classes: int
    mode: Mode
    margin: Floats = field(repr=False)
    probability_margin: Floats = field(repr=False)
    log_odds: Floats = field(repr=False)
    probability: Floats = field(repr=False)
    el2n: Floats = field(repr=False)
    loss: Floats = field(repr=False)
    correct: Outcomes = field(repr=False)
    prediction: Ints = field(repr=False)
    label_hash: str = ""
    example_hash: str = ""

    @property
    def presented(self) -> Bools:
        """Whether an example was presented at a time, in the shape of the measurements."""
        return np.asarray(self.correct != NOT_PRESENTED)

    @property
    def num_augmentations(self) -> int:
        """M."""
        return self.correct.shape[2] if self.correct.ndim == 3 else 1


def history(
    logits: ArrayLike, labels: ArrayLike, *, times: ArrayLike | None = None, mode: Mode = "eval"
) -> History:
    """The history of logits that are there already.

    Args:
        logits: (T, n, C), every example at every time.
        labels: (n,) class indices.
        times: (T,) when; by default 0 ... T - 1.
        mode: in which the network was.

    Raises:
        RequestError: shapes that do not fit, labels out of range.
    """
    numbers = as_floats(logits, "logits", "(T, n, C)")
    num_times, num_examples, num_classes = numbers.shape
    known = as_labels(labels, "labels", num_classes)
    if len(known) != num_examples or num_classes < 2 or not num_times:
        raise RequestError(
            f"logits has shape {numbers.shape} and labels {known.shape}, expected (T, n, C) and "
            "(n,), with one time and two classes at the least."
        )
    targets = torch.from_numpy(known)
    rows = [row(measurements(torch.from_numpy(part), targets)) for part in numbers]
    when = np.arange(num_times, dtype=np.float64) if times is None else as_times(times, num_times)
    return stacked(rows, when, known, num_classes, mode)


def row(block: Tensor) -> Row:
    """Measurements (..., 8) of one time by name; all NaN where nothing was presented."""
    columns = block.cpu().numpy()
    found: Row = {name: columns[..., place].copy() for place, name in enumerate(MEASUREMENTS)}
    for name, dtype in (("correct", np.int8), ("prediction", np.int64)):
        found[name] = np.nan_to_num(found[name], nan=NOT_PRESENTED).astype(dtype)
    return found


def stacked(
    rows: Sequence[Row],
    times: Floats,
    labels: Ints,
    num_classes: int,
    mode: Mode,
    example_hash: str = "",
) -> History:
    """The history of T >= 1 rows."""
    fields: Mapping[str, Any] = {
        name: np.stack([part[name] for part in rows]) for name in MEASUREMENTS
    }
    return History(
        times=times,
        labels=labels,
        num_classes=num_classes,
        mode=mode,
        label_hash=label_hash(labels),
        example_hash=example_hash,
        **fields,
    )


def label_hash(labels: Ints) -> str:
    """Hash of labels, in their order."""
    return fingerprint({"labels": torch.from_numpy(labels)}).hex()


def as_times(times: ArrayLike, count: int) -> Floats:
    """(T,) increasing numbers.

    Raises:
        RequestError: another number of them, or not increasing.
    """
    when = as_floats(times, "times", "(T,)")
    if len(when) != count or not (np.diff(when) > 0).all():
        raise RequestError(
            f"times is {when.tolist()}, expected {count} increasing numbers: one a time."
        )
    return when


def as_series(values: ArrayLike, name: str) -> Floats:
    """(T, n), or with more dimensions behind, of T >= 1 times.

    Raises:
        RequestError: fewer dimensions, no numbers, or no time.
    """
    given: object = values if isinstance(values, (Tensor, np.ndarray)) else np.asarray(values)
    dimensions = getattr(given, "ndim", 0)
    series = as_floats(values, name, "(T, n" + ", M" * (dimensions - 2) + ")")
    if not len(series):
        raise RequestError(f"{name} has shape {series.shape}: no time. Give one at the least.")
    return series


def as_outcomes(correct: ArrayLike, name: str = "correct") -> Outcomes:
    """Right (1), wrong (0) or not presented (-1, given as such or as NaN): (T, n) or longer.

    Raises:
        RequestError: other dimensions, or other values.
    """
    series = np.nan_to_num(as_series(correct, name), nan=NOT_PRESENTED)
    if not np.isin(series, (0, 1, NOT_PRESENTED)).all():
        raise RequestError(
            f"{name} holds other values than 0 and 1, or True and False; and -1 or NaN where an "
            "example was not presented. Give (T, n) of these."
        )
    return series.astype(np.int8)
