"""Subset runs: which examples each of T models was trained on, and what became of every example.

`training` makes them, `landscape train subsets` too; all estimators of this room read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from landscape.atomic import appearing
from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import (
    ArrayLike,
    Bools,
    Floats,
    Ints,
    as_bools,
    as_floats,
    as_labels,
)
from landscape.trainers.family import Family, load_family

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SoftValue", "SubsetRuns"]

SoftValue = Literal["margin", "probability", "loss"]
_SOFT = ("margin", "probability", "loss")
_ARRAYS = ("masks", "correct", "values", "correct_test", "values_test", "labels", "labels_test")


@dataclass(frozen=True, eq=False, init=False, repr=False)
class SubsetRuns:
    """T models, each trained on its own subset of n examples and asked about all of them.

    Attributes:
        masks: (T, n) bool, whether a model was trained on an example.
        correct: (T, n) bool, whether it is right on it.
        values: (T, n) something softer, such as the margin or the log odds of the true class; None
            where it was not kept.
        correct_test: (T, m) bool, whether it is right on examples that no model was trained on.
        values_test: (T, m).
        labels: (n,) classes as they were trained on; `labels_test` (m,).
        provenance: how the subsets were drawn, hashes of the examples and of their labels.
    """

    masks: Bools
    correct: Bools
    values: Floats | None
    correct_test: Bools | None
    values_test: Floats | None
    labels: Ints | None
    labels_test: Ints | None
    provenance: Mapping[str, Any]

    def __init__(
        self,
        masks: ArrayLike,
        correct: ArrayLike,
        *,
        values: ArrayLike | None = None,
        correct_test: ArrayLike | None = None,
        values_test: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        labels_test: ArrayLike | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Arrays, tensors or lists, which are copied.

        Raises:
            RequestError: shapes that do not go together, other entries than 0 and 1 where there
                should be none, soft values that are NaN, or no model at all.
        """
        held: dict[str, Any] = {
            "masks": as_bools(masks, "masks", "(T, n)"),
            "correct": as_bools(correct, "correct", "(T, n)"),
            "values": None if values is None else _soft(values, "values", "(T, n)"),
            "correct_test": _given(correct_test, lambda v: as_bools(v, "correct_test", "(T, m)")),
            "values_test": _given(values_test, lambda v: _soft(v, "values_test", "(T, m)")),
            "labels": _given(labels, lambda v: as_labels(v, "labels")),
            "labels_test": _given(labels_test, lambda v: as_labels(v, "labels_test")),
            "provenance": dict(provenance or {}),
        }
        for name, value in held.items():
            object.__setattr__(self, name, value)
        self._require_shapes()

    def __repr__(self) -> str:
        tests = 0 if self.correct_test is None else self.correct_test.shape[1]
        return (
            f"SubsetRuns({self.num_models} models, {self.num_examples} examples, {tests} tests, "
            f"ratio {self.masks.mean():.3g})"
        )

    @property
    def num_models(self) -> int:
        """T."""
        return len(self.masks)

    @property
    def num_examples(self) -> int:
        """n."""
        return int(self.masks.shape[1])

    @property
    def num_in(self) -> Ints:
        """(n,) models that were trained on an example."""
        return np.asarray(self.masks.sum(0, dtype=np.int64))

    @property
    def num_out(self) -> Ints:
        """(n,) models that were not."""
        return self.num_models - self.num_in

    @property
    def sizes(self) -> Ints:
        """(T,) examples that a model was trained on."""
        return np.asarray(self.masks.sum(1, dtype=np.int64))

    def select(
        self,
        *,
        models: Sequence[int] | Ints | Bools | None = None,
        examples: Sequence[int] | Ints | Bools | None = None,
    ) -> SubsetRuns:
        """Some of the models or of the training examples, by index or by a bool for each.

        The tests stay as they are.
        """
        rows = np.arange(self.num_models)[slice(None) if models is None else np.asarray(models)]
        columns = np.arange(self.num_examples)
        columns = columns[slice(None) if examples is None else np.asarray(examples)]
        table = np.ix_(rows, columns)
        return SubsetRuns(
            self.masks[table],
            self.correct[table],
            values=None if self.values is None else self.values[table],
            correct_test=None if self.correct_test is None else self.correct_test[rows],
            values_test=None if self.values_test is None else self.values_test[rows],
            labels=None if self.labels is None else self.labels[columns],
            labels_test=self.labels_test,
            provenance=self.provenance,
        )

    def save(self, path: str | Path) -> None:
        """Write all of it to one file (.npz), which appears whole or not at all."""
        held: dict[str, Any] = {
            name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None
        }
        held["provenance"] = np.asarray(json.dumps(self.provenance))
        with appearing(Path(path).expanduser()) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **held)

    @staticmethod
    def load(path: str | Path) -> SubsetRuns:
        """What `save` wrote.

        Raises:
            RequestError: no such file, or one of something else.
        """
        path = Path(path).expanduser()
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                arrays: dict[str, Any] = {name: held[name] for name in _ARRAYS if name in held}
                provenance = json.loads(str(held["provenance"]))
            return SubsetRuns(**arrays, provenance=provenance)
        except Exception as error:  # a damaged archive fails in whatever it is read by
            raise RequestError(
                f"{path} cannot be read as subset runs: {error}. Name a file that "
                "SubsetRuns.save wrote."
            ) from None

    @staticmethod
    def from_family(
        source: str | Path | Family | xr.Dataset, *, values: SoftValue = "margin"
    ) -> SubsetRuns:
        """The runs of `landscape train subsets`.

        Args:
            source: its folder, the family, or the group "subsets/train" alone: then without tests.
            values: what was recorded beside being right.

        Raises:
            RequestError: a family of another recipe, or an unknown kind of value.
        """
        if values not in _SOFT:
            raise unknown_choice("values", values, _SOFT)
        test: xr.Dataset | None = None
        if isinstance(source, (str, Path, Family)):
            family = source if isinstance(source, Family) else load_family(source)
            if family.recipe != "subsets":
                raise RequestError(
                    f"{family.folder} was made by the recipe {family.recipe!r}, whose networks all "
                    "saw the same examples. Name a folder of `landscape train subsets`."
                )
            train, test = family.group("subsets/train"), family.group("subsets/test")
        else:
            train = source
        return SubsetRuns(
            train["mask"].values,
            train["correct"].values,
            values=train[values].values,
            correct_test=None if test is None else test["correct"].values,
            values_test=None if test is None else test[values].values,
            labels=train["label"].values,
            labels_test=None if test is None else test["label"].values,
            provenance={name: _plain(value) for name, value in train.attrs.items()},
        )

    def _require_shapes(self) -> None:
        models, examples = self.masks.shape
        if models < 1 or examples < 1:
            raise RequestError(
                f"masks has shape {self.masks.shape}, expected (T, n) with one model and one "
                "example at least."
            )
        tests = next(
            (held.shape[1] for held in (self.correct_test, self.values_test) if held is not None),
            None,
        )
        wanted: dict[str, tuple[int | None, ...]] = {
            "correct": (models, examples),
            "values": (models, examples),
            "correct_test": (models, tests),
            "values_test": (models, tests),
            "labels": (examples,),
            "labels_test": (tests,),
        }
        for name, shape in wanted.items():
            held = getattr(self, name)
            if held is not None and held.shape != shape:
                raise RequestError(
                    f"{name} has shape {held.shape}, expected {shape}: masks has {models} models "
                    f"and {examples} examples, and there are {tests or 0} tests."
                )


def _soft(values: ArrayLike, name: str, dims: str) -> Floats:
    array = as_floats(values, name, dims)
    if np.isnan(array).any():
        rows = np.flatnonzero(np.isnan(array).any(1)).tolist()
        raise RequestError(
            f"{name} is NaN for models {rows[:10]}. Leave these models out of all arrays."
        )
    return array


def _given(values: ArrayLike | None, convert: Any) -> Any:
    return None if values is None else convert(values)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
