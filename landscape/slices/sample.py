"""Sample: the first examples of an objective, as an objective of its own, for the trial."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from landscape.batches import batch_length, slice_batch
from landscape.objective import Objective

__all__ = ["first_batch", "first_examples"]


class _Few:
    """Some batches, in the place of an objective's."""

    is_cached = True

    def __init__(self, batches: list[object]) -> None:
        self._batches = batches
        self.num_examples = sum(batch_length(batch) for batch in batches)
        self.num_batches = len(batches)

    def __iter__(self) -> Iterator[object]:
        return iter(self._batches)

    def __len__(self) -> int:
        return self.num_batches


def first_batch(objective: Objective) -> Objective:
    """The same objective of its first batch, whole."""
    return _of(objective, [next(iter(objective.batches))])


def first_examples(objective: Objective, num: int) -> Objective:
    """The same objective of its first examples, in its own batches but for the last."""
    found: list[object] = []
    left = num
    for batch in objective.batches:
        length = batch_length(batch)
        found.append(batch if length <= left else slice_batch(batch, 0, left, length))
        left -= length
        if left <= 0:
            break
    return _of(objective, found)


def _of(objective: Objective, batches: list[object]) -> Objective:
    sample = copy.copy(objective)
    sample.batches = _Few(batches)  # type: ignore[assignment]
    return sample
