"""Orders: which examples each member sees at each step, from its seed alone.

Every epoch's order follows from (seed, epoch), so a run that goes on needs no generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError

__all__ = ["Orders", "child_seed"]

_ORDER = 0  # the purpose of a child seed; `training` has the others


def child_seed(seed: int, *path: int) -> int:
    """A 64-bit seed for one purpose of a run: independent of those of other paths and seeds."""
    sequence = np.random.SeedSequence(seed, spawn_key=path)
    return int(sequence.generate_state(1, np.uint64)[0])


@dataclass
class Orders:
    """Batches of M runs over n examples: a new order each epoch, a shorter last batch.

    Attributes:
        seeds: one a member; members with equal seeds see equal batches.
        num_examples: n, of which each member sees all, or as many as its subset holds.
        batch_size: n or more takes all examples in their own order: full-batch training.
        subsets: (M, m) indices of the examples that each member may see; None for all.
        num_uniforms: uniform numbers that an augmentation needs for each example.
    """

    seeds: Sequence[int]
    num_examples: int
    batch_size: int
    subsets: Tensor | None = None
    num_uniforms: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _epoch: int = -1
    _order: Tensor = field(default_factory=lambda: torch.empty(0))
    _uniforms: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise RequestError(f"batch_size={self.batch_size} takes no example. Choose 1 or more.")
        self.batch_size = min(self.batch_size, self.length)

    @property
    def length(self) -> int:
        """Examples that a member sees in an epoch."""
        return self.num_examples if self.subsets is None else self.subsets.shape[1]

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.length // self.batch_size)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The examples of a step, counted from 0, and uniform numbers for each.

        Returns:
            indices: (M, b).
            uniforms: (M, b, num_uniforms) in [0, 1).
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch != epoch:
            self._draw(epoch)
        part = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return self._order[:, part], self._uniforms[:, part]

    def _draw(self, epoch: int) -> None:
        drawn = {seed: self._drawn(seed, epoch) for seed in dict.fromkeys(self.seeds)}
        order = torch.stack([drawn[seed][0] for seed in self.seeds]).to(self.device)
        self._order = order if self.subsets is None else self.subsets.gather(1, order)
        self._uniforms = torch.stack([drawn[seed][1] for seed in self.seeds]).to(self.device)
        self._epoch = epoch

    def _drawn(self, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator("cpu").manual_seed(child_seed(seed, _ORDER, epoch))
        if self.batch_size < self.length:
            order = torch.randperm(self.length, generator=generator, device="cpu")
        else:
            order = torch.arange(self.length, device="cpu")
        shape = (self.length, self.num_uniforms)
        return order, torch.rand(shape, generator=generator, device="cpu")
