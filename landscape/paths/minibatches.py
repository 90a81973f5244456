"""Minibatches: examples for the steps of a training, in a random order that can be had again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from landscape.batches import join_batches, map_tensors, tensors_of
from landscape.errors import RequestError
from landscape.memory import available_bytes, tensor_bytes
from landscape.objective import Objective

__all__ = ["Minibatches"]

_CHILD = 0  # of the seed; another one draws points
_SIZE = 128  # that of Garipov et al. 2018
_DATA_SHARE = 0.25  # of the free memory, for the examples in one piece


class Minibatches:
    """An endless sequence of batches: the examples of each epoch in a random order of its own.

    Where examples cannot be put together anew, the data's own batches in their order.

    Args:
        size: examples in each; None takes 128, or the data's own batches where they are not held
            in memory, cannot be joined, or may feel each other in the loss.
        seed: of the orders.

    Raises:
        RequestError: a size that cannot be had.
    """

    def __init__(self, objective: Objective, size: int | None, seed: int) -> None:
        self._objective, self._seed = objective, seed
        count = objective.batches.num_examples
        self._whole = self._joined(size)
        self.size = min(size or _SIZE, count) if self._whole is not None else None
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        self._own: tuple[int, Iterator[object]] | None = None

    def _joined(self, size: int | None) -> object | None:
        objective = self._objective
        if size is not None and size < 1:
            raise RequestError(f"batch_size is {size}, expected at least 1.")
        if not objective.batches.is_cached:
            why = "the data are not held in memory (raise the objective's cache_bytes)"
        elif size is None and not objective.loss_function.is_pointwise:
            return None
        else:
            batches = list(objective.batches)
            if len(batches) == 1:
                return batches[0]
            held = sum(tensor_bytes(tensors_of(batch).values()) for batch in batches)
            if held <= _DATA_SHARE * available_bytes(objective.device):
                try:
                    return join_batches(batches)
                except RequestError as error:
                    why = str(error)
            else:
                why = "there is no room for the data in one piece"
        if size is not None:
            raise RequestError(
                f"batch_size is {size}, but {why}. Leave batch_size out: a step then takes the "
                "data's own batches."
            )
        return None

    @property
    def are_drawn(self) -> bool:
        """Whether they are drawn, all of one size."""
        return self._whole is not None

    def rows(self, first: int, count: int) -> Tensor:
        """(count, size) examples of the batches from number `first` on."""
        assert self.size is not None
        of_epoch = self._objective.batches.num_examples // self.size
        found = []
        for index in range(first, first + count):
            epoch, position = divmod(index, of_epoch)
            if epoch != self._epoch:
                seeds = np.random.SeedSequence(self._seed, spawn_key=(_CHILD, epoch))
                order = np.random.default_rng(seeds).permutation(
                    self._objective.batches.num_examples
                )
                self._epoch, self._order = epoch, order
            found.append(self._order[position * self.size : (position + 1) * self.size])
        return torch.as_tensor(np.stack(found)).to(self._objective.device)

    def at(self, rows: Tensor) -> object:
        """The examples of these rows (size,) as one batch."""
        count = self._objective.batches.num_examples
        return map_tensors(
            lambda tensor: tensor[rows] if tensor.ndim and len(tensor) == count else tensor,
            self._whole,
        )

    def batches(self, first: int, count: int) -> Iterator[object]:
        """The batches from number `first` on."""
        if self.are_drawn:
            yield from map(self.at, self.rows(first, count))
            return
        if self._own is None or self._own[0] != first:
            self._own = first, self._repeated(first % self._objective.batches.num_batches)
        source = self._own[1]
        self._own = first + count, source
        yield from islice(source, count)

    def _repeated(self, skipped: int) -> Iterator[object]:
        yield from islice(self._objective.batches, skipped, None)
        while True:
            yield from self._objective.batches
