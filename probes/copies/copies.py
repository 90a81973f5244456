"""Copies: the answers of N independently trained copies on fixed views of K objects, over time.

`heterogeneity` asks whether all objects are equally hard, `variance` what makes the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_bools, as_floats, as_labels

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Copies", "Diverged"]

Diverged = Literal["drop", "wrong"]

_DIMS = ("time", "member", "object", "augmentation")
_GROUP = "learnability/training"


@dataclass(frozen=True, eq=False, init=False)
class Copies:
    """Whether copy i is correct on augmentation j of object k at time t.

    Attributes:
        correct: (T, N, K, M) bool; views and objects are the same for all copies at all times.
        labels: (K,) class of each object, or None.
        chance: accuracy of guessing; NaN where it is not known.
        times: (T,) increasing, such as epochs; 0 ... T - 1 if not given.
        objects: (K,) index of each object among the examples; 0 ... K - 1 if not given. Each once.
        num_dropped: copies that diverged and are not in `correct`.

    Source: Sadrtdinov et al. 2021, arXiv:2107.10143.
    """

    correct: Bools = field(repr=False)
    labels: Ints | None = field(repr=False)
    chance: float
    times: Floats = field(repr=False)
    objects: Ints = field(repr=False)
    num_dropped: int

    def __init__(
        self,
        correct: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        chance: float = math.nan,
        times: ArrayLike | None = None,
        objects: ArrayLike | None = None,
        num_dropped: int = 0,
    ) -> None:
        """Look at what was given.

        Args:
            correct: (T, N, K, M), or (T, N, K) where each object has one view.

        Raises:
            RequestError: empty or of another shape; values other than 0 and 1; labels, times or
                objects that do not fit; an object twice; a chance that is no probability.
        """
        given = correct if isinstance(correct, Tensor) else np.asarray(correct)
        has_views = given.ndim != 3
        answers = as_bools(given, "correct", "(T, N, K, M)" if has_views else "(T, N, K)")
        if not has_views:
            answers = answers[..., None]
        if not answers.size:
            raise RequestError(
                f"correct has shape {answers.shape}, expected (T, N, K, M): at least one time, "
                "copy, object and augmentation."
            )
        num_times, _, num_objects, _ = answers.shape
        if times is None:
            moments = np.arange(num_times, dtype=np.float64)
        else:
            moments = as_floats(times, "times", "(T,)")
            if len(moments) != num_times or not (np.diff(moments) > 0).all():
                raise RequestError(
                    f"times is {moments.tolist()[:8]}, expected {num_times} increasing numbers, "
                    "one for each of the first dimension of correct."
                )
        numbers = np.arange(num_objects) if objects is None else as_labels(objects, "objects")
        if len(numbers) != num_objects or len(np.unique(numbers)) != num_objects:
            raise RequestError(
                f"objects has {len(np.unique(numbers))} different indices, expected {num_objects}, "
                "one for each object in correct. Draw objects without replacement."
            )
        classes = None if labels is None else as_labels(labels, "labels")
        if classes is not None and len(classes) != num_objects:
            raise RequestError(
                f"labels has {len(classes)} entries, expected {num_objects}, one for each object."
            )
        if not (math.isnan(chance) or 0 <= chance <= 1):
            raise RequestError(f"chance={chance}, expected a probability such as 0.1.")
        for name, value in {
            "correct": answers,
            "labels": classes,
            "chance": float(chance),
            "times": moments,
            "objects": numbers,
            "num_dropped": num_dropped,
        }.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, dataset: xr.Dataset, *, diverged: Diverged = "drop") -> Copies:
        """What a recipe recorded: the dataset that `trainers.learnability` makes.

        Args:
            diverged: copies whose weights are not finite at the end. "drop" leaves them out at all
                times; "wrong" counts their answers as they were recorded, which makes the copies
                differ in accuracy, and r_t less than one even of what all others know.

        Raises:
            RequestError: another dataset, an unknown choice, or no copy that did not diverge.
        """
        if diverged not in ("drop", "wrong"):
            raise unknown_choice("diverged", diverged, ("drop", "wrong"))
        dims = dataset["correct"].dims if "correct" in dataset else ()
        if set(dims) not in (set(_DIMS), set(_DIMS[:3])):
            raise RequestError(
                f"the dataset has correct{dims}, expected correct{_DIMS}. Give the group "
                f"{_GROUP!r} of a family of simclr, supervised or random-labels."
            )
        answers = dataset["correct"].transpose(*[name for name in _DIMS if name in dims]).values
        gone = np.zeros(answers.shape[1], dtype=bool)
        if diverged == "drop" and "diverged" in dataset:
            gone = dataset["diverged"].values.astype(bool)
        if gone.all():
            raise RequestError(
                f"all {len(gone)} copies diverged. Train with a smaller learning rate, or give "
                'diverged="wrong".'
            )
        return cls(
            answers[:, ~gone],
            labels=dataset["label"].values.astype(np.int64) if "label" in dataset else None,
            chance=float(dataset.attrs.get("chance", math.nan)),
            times=dataset["epoch"].values if "epoch" in dataset else None,
            objects=dataset["object"].values if "object" in dataset.coords else None,
            num_dropped=int(gone.sum()),
        )

    @classmethod
    def from_family(cls, folder: str | Path, *, diverged: Diverged = "drop") -> Copies:
        """What `landscape train simclr | supervised | random-labels` recorded in a folder.

        Raises:
            RequestError: no family there, one of another recipe, or as `of`.
        """
        from landscape.trainers.family import load_family

        return cls.of(load_family(folder).group(_GROUP), diverged=diverged)

    @property
    def num_times(self) -> int:
        """T."""
        return int(self.correct.shape[0])

    @property
    def num_copies(self) -> int:
        """N, without those that were dropped."""
        return int(self.correct.shape[1])

    @property
    def num_objects(self) -> int:
        """K."""
        return int(self.correct.shape[2])

    @property
    def num_augmentations(self) -> int:
        """M."""
        return int(self.correct.shape[3])

    @cached_property
    def learnability(self) -> Floats:
        """(T, K) r_t: share of copies and augmentations that are correct on an object."""
        return np.asarray(self.correct.mean((1, 3)))

    @cached_property
    def view_learnability(self) -> Floats:
        """(T, K, M) share of copies that are correct on one view."""
        return np.asarray(self.correct.mean(1))

    @cached_property
    def copy_learnability(self) -> Floats:
        """(T, N, K) share of an object's views on which one copy is correct."""
        return np.asarray(self.correct.mean(3))

    @cached_property
    def mean_learnability(self) -> Floats:
        """(T,) mean of r_t over the objects: the area under its sorted curve."""
        return np.asarray(self.correct.mean((1, 2, 3)))

    @property
    def standard_error(self) -> Floats:
        """(T,) of `mean_learnability`, from the spread of the copies; NaN for one copy.

        It says what other copies would give for the same objects and views.
        """
        if self.num_copies == 1:
            return np.full(self.num_times, np.nan)
        accuracies = self.correct.mean((2, 3))  # (T, N)
        return np.asarray(accuracies.std(1, ddof=1) / math.sqrt(self.num_copies))

    def view(self, augmentation: int) -> Copies:
        """The same copies on one fixed augmentation of each object.

        Raises:
            RequestError: no such augmentation.
        """
        if not 0 <= augmentation < self.num_augmentations:
            raise RequestError(
                f"augmentation={augmentation} is not in 0 ... {self.num_augmentations - 1}."
            )
        return Copies(
            self.correct[..., augmentation],
            labels=self.labels,
            chance=self.chance,
            times=self.times,
            objects=self.objects,
            num_dropped=self.num_dropped,
        )
