"""Each example: something of its loss as a function of the weights, for many examples at once.

By vmap, in chunks that fit into the memory, and where a network does not allow it one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from landscape.batches import batch_length, map_tensors, slice_batch
from landscape.memory import available_bytes
from landscape.objective import Objective
from landscape.probes.sensitivity.single_examples import Point, losses_of

__all__ = ["EachExample", "Function", "OneLoss"]

OneLoss = Callable[[list[Tensor]], tuple[Tensor, Tensor]]  # blocks -> loss and weight, scalars
Function = Callable[[OneLoss, list[Tensor]], tuple[Tensor, Tensor]]  # -> values (k,), weight

_MEMORY_SHARE = 0.25  # of what is free, for what a chunk holds at a time
_GRAPHS = 2  # of an example alone, held for one in a chunk


class EachExample:
    """A function of each example's loss, at one point.

    Args:
        vectorized: the function by `torch.func`, without changing anything.
        alone: the same by autograd, for blocks that are leaves.
        gradients: how many gradients of an example it holds at a time.
        chunk: examples at a time; None takes a quarter of the free memory.

    Attributes:
        method: "vmap", or "loop" once the network has refused.
    """

    def __init__(
        self,
        objective: Objective,
        point: Point,
        vectorized: Function,
        alone: Function,
        *,
        gradients: int,
        chunk: int | None = None,
    ) -> None:
        self._objective, self._point = objective, point
        self._vectorized, self._function = vectorized, alone
        self._gradients, self._chunk = gradients, chunk
        self.method = "vmap"

    def __call__(self, batch: object) -> tuple[Tensor, Tensor]:
        """(b, k) values, NaN for an example that is left out, and (b,) weights."""
        length = batch_length(batch)
        if self._chunk is None:
            self._chunk = self._affordable(slice_batch(batch, 0, 1, length))
        if self.method == "vmap":
            try:
                return _masked(*self._together(batch, length, self._chunk))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # Writing to buffers, or asking for a value: what vmap refuses, a loop can do.
                self.method = "loop"
        found = [self._alone(slice_batch(batch, i, i + 1, length)) for i in range(length)]
        return _masked(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def _together(self, batch: object, length: int, chunk: int) -> tuple[Tensor, Tensor]:
        rows = _rows(batch, length)

        def of_one(blocks: list[Tensor], own: list[Tensor]) -> tuple[Tensor, Tensor]:
            left = iter(own)
            example = _mapped(batch, length, lambda _: next(left).unsqueeze(0))
            return self._vectorized(self._loss(example), blocks)

        mapped = vmap(of_one, in_dims=(None, 0))
        parts = [
            mapped(self._point.blocks, [tensor[start : start + chunk] for tensor in rows])
            for start in range(0, length, chunk)
        ]
        values, weights = (torch.cat(part) for part in zip(*parts, strict=True))
        return values.detach(), weights.detach()

    def _alone(self, example: object) -> tuple[Tensor, Tensor]:
        leaves = [block.detach().clone().requires_grad_() for block in self._point.blocks]
        values, weight = self._function(self._loss(example), leaves)
        return values.detach(), weight.detach()

    def _loss(self, example: object) -> OneLoss:
        def loss(blocks: list[Tensor]) -> tuple[Tensor, Tensor]:
            losses, weights = losses_of(self._objective.term(blocks, example, self._point.buffers))
            return losses.sum(), weights.sum()

        return loss

    def _affordable(self, example: object) -> int:
        """How many examples fit, by the graph of one."""
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # itself, it would hold the node that saves it

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self._alone(example)
        weights = sum(block.numel() * block.element_size() for block in self._point.blocks)
        graph = max(0, sum(held.values()) - weights)  # the weights are not held once an example
        budget = _MEMORY_SHARE * available_bytes(self._objective.device)
        return max(1, int(budget // (self._gradients * weights + _GRAPHS * graph)))


def _masked(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return values.masked_fill(weights[:, None] == 0, torch.nan), weights


def _mapped(batch: object, length: int, function: Callable[[Tensor], Tensor]) -> object:
    """The batch with `function` applied to what there is one row an example of."""
    return map_tensors(
        lambda tensor: function(tensor) if tensor.ndim and len(tensor) == length else tensor, batch
    )


def _rows(batch: object, length: int) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(batch, length, keep)
    return found
