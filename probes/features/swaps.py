"""Swaps: blocks of inputs that are exchanged between examples, and what a network answers then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.features.network import Network, classes_of

__all__ = ["answered", "crossed_gains", "flips", "same_class", "some_other_class"]

_ROWS = 4096  # inputs that a network is asked about at a time


def answered(network: Network, inputs: Tensor) -> Tensor:
    """(N,) the classes that a network answers, on the processor."""
    return torch.cat([classes_of(network(part)).cpu() for part in torch.split(inputs, _ROWS)])


def flips(network: Network, inputs: Tensor, block: Sequence[int], donors: Tensor) -> Tensor:
    """(N,) whether the answer changes when a block comes from another example; 0 and 1, float64.

    Args:
        inputs: (N, ...).
        block: entries of an input, flattened.
        donors: (N,) the example that each has the block from.
    """
    before = answered(network, inputs)
    return (_swapped(network, inputs, block, donors) != before).double()


def crossed_gains(
    network: Network,
    inputs: Tensor,
    labels: Tensor,
    block: Sequence[int],
    generator: np.random.Generator,
) -> Tensor:
    """(N,) share of right answers - 1 / C, over C versions of each example.

    Version c has the block of an example of class c, and that class as its label; the others are as
    they were. An answer that does not see the block is right in exactly one of them.

    Raises:
        RequestError: a single class.
    """
    classes = _classes(labels)
    hits = torch.zeros(len(labels), dtype=torch.float64)
    for label in classes.tolist():
        members = np.flatnonzero(labels.numpy() == label)
        donors = members[generator.integers(len(members), size=len(labels))]
        donors[members] = members  # its own class is its own block
        found = _swapped(network, inputs, block, torch.from_numpy(donors))
        hits += found == label
    return hits / len(classes) - 1 / len(classes)


def some_other_class(labels: Tensor, generator: np.random.Generator) -> Tensor:
    """(N,) for each example, a random one of another class.

    Raises:
        RequestError: a single class.
    """
    donors = torch.empty(len(labels), dtype=torch.int64)
    for label in _classes(labels):
        others = np.flatnonzero((labels != label).numpy())
        mine = labels == label
        drawn = others[generator.integers(len(others), size=int(mine.sum()))]
        donors[mine] = torch.from_numpy(drawn)
    return donors


def same_class(labels: Tensor, generator: np.random.Generator) -> Tensor:
    """(N,) for each example, another random one of its class; itself where it is alone."""
    donors = torch.arange(len(labels))
    for label in torch.unique(labels):
        members = np.flatnonzero((labels == label).numpy())
        if len(members) > 1:
            ahead = generator.integers(1, len(members), size=len(members))
            drawn = members[(np.arange(len(members)) + ahead) % len(members)]
            donors[torch.from_numpy(members)] = torch.from_numpy(drawn)
    return donors


def _classes(labels: Tensor) -> Tensor:
    classes: Tensor = torch.unique(labels)
    if len(classes) < 2:
        raise RequestError(
            f"all {len(labels)} labels are class {classes.tolist()}: there is no other class to "
            "swap with. Give examples of two classes or more."
        )
    return classes


def _swapped(network: Network, inputs: Tensor, block: Sequence[int], donors: Tensor) -> Tensor:
    """(N,) answers; inputs are changed some at a time."""
    entries = torch.as_tensor(list(block), device=inputs.device)
    flat = inputs.reshape(len(inputs), -1)
    found = []
    for start in range(0, len(inputs), _ROWS):
        changed = flat[start : start + _ROWS].clone()
        donated = flat[donors[start : start + _ROWS].to(inputs.device)]
        changed[:, entries] = donated[:, entries]
        found.append(answered(network, changed.reshape(len(changed), *inputs.shape[1:])))
    return torch.cat(found)
