"""Directions: flat vectors that know what they are. `normalization` says how long they are.

A direction is drawn again from its recipe, so that no file has to hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.normalization import (
    Layout,
    Normalization,
    Scheme,
    VectorPolicy,
)
from landscape.slices.normalization import (
    normalize as normalize_blocks,
)

__all__ = ["Direction", "normalized", "random_directions"]


class Direction(Tensor):
    """A vector (n,) with a name; every operation on it gives a plain tensor.

    Attributes:
        name: for the label of an axis.
        recipe: what draws it again, in values that JSON can hold; see `regenerate`.
        buffers: change of the model's buffers along a unit step, by name: empty, but for a
            direction towards another checkpoint. Buffers are no coordinates and never perturbed.
    """

    # Class attributes, since torch's tensors have a read-only `name` of their own.
    name: str = ""
    recipe: Mapping[str, object] = MappingProxyType({})
    buffers: Mapping[str, Tensor] = MappingProxyType({})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(
        cls,
        vector: Tensor,
        name: str,
        recipe: Mapping[str, object],
        buffers: Mapping[str, Tensor] | None = None,
    ) -> Direction:
        self = Tensor._make_subclass(cls, vector.detach())
        self.name = name
        self.recipe = MappingProxyType(dict(recipe))
        self.buffers = MappingProxyType(dict(buffers or {}))
        return self

    def __repr__(self) -> str:  # type: ignore[override]
        length = torch.linalg.vector_norm(self.double()).item()
        return f"Direction({self.name!r}, n={self.numel():,}, norm={length:.6g}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Direction:
        if id(self) not in memo:
            buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
            memo[id(self)] = Direction(self.clone(), self.name, self.recipe, buffers)
        copied: Direction = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: object) -> tuple[type[Direction], tuple[object, ...]]:
        return Direction, (self.detach(), self.name, dict(self.recipe), dict(self.buffers))


def random_directions(
    objective: Objective,
    num: int,
    normalize: Normalization = "filter",
    seed: int = 0,
    *,
    center: Tensor | None = None,
    biases: VectorPolicy = "zero",
    norms: VectorPolicy = "zero",
    orthogonal: bool = True,
) -> tuple[Direction, ...]:
    """Normal random directions, the same for a seed on every device and for any `params=`.

    Args:
        num: how many; direction i does not depend on it.
        normalize: see `Scheme`.
        seed: with the direction's number and the tensor's name it settles each tensor's draw.
        center: (n,) the weights whose norms count; by default the checkpoint's.
        biases, norms: see `Scheme`.
        orthogonal: see `normalization.normalize`.

    Raises:
        RequestError: no direction asked for, an unknown name, a seed below 0, a center of another
            size, or a scheme under which nothing would move.
    """
    if num < 1:
        raise RequestError(f"num is {num}, expected 1 or more directions.")
    if seed < 0:
        raise RequestError(f"seed is {seed}, expected a whole number from 0 on.")
    scheme = Scheme(normalize, biases, norms)

    def source(layout: Layout) -> Tensor:
        return torch.stack([_draw(layout, seed, index) for index in range(num)])

    center = _center(objective, center)
    vectors = normalize_blocks(objective, source, num, scheme, center=center, orthogonal=orthogonal)
    _check_moving(vectors, scheme)
    return tuple(
        Direction(
            vector,
            f"random, {_described(scheme)}, seed {seed}, #{index + 1}",
            {
                "kind": "random",
                **asdict(scheme),
                "seed": seed,
                "index": index,
                "orthogonal": orthogonal,
            },
        )
        for index, vector in enumerate(vectors)
    )


def normalized(
    objective: Objective,
    vector: Tensor,
    scheme: Normalization,
    *,
    center: Tensor | None = None,
    biases: VectorPolicy = "zero",
    norms: VectorPolicy = "zero",
) -> Tensor:
    """Any vector (n,), normalised like a random direction."""
    space = objective.space
    space.check(vector)

    def source(layout: Layout) -> Tensor:
        block = vector[space.slice_of(layout.name)].detach()
        return block.cpu().double().reshape(1, *layout.shape)

    found = normalize_blocks(
        objective,
        source,
        1,
        Scheme(scheme, biases, norms),
        center=_center(objective, center),
        orthogonal=False,
    )
    return found[0]


def _draw(layout: Layout, seed: int, index: int) -> Tensor:
    """Standard normal numbers for one tensor of one direction, float64 on the CPU."""
    # NumPy's generator: torch's keeps only 32 bits of a seed, so that among many tensors,
    # directions and seeds two would now and then have the same draw.
    digest = hashlib.blake2b(layout.name.encode(), digest_size=16).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    sequence = np.random.SeedSequence(seed, spawn_key=(index, *words))
    drawn = np.random.Generator(np.random.PCG64(sequence)).standard_normal(layout.shape)
    return torch.as_tensor(drawn)


def _center(objective: Objective, center: Tensor | None) -> Tensor:
    if center is None:
        return objective.theta
    objective.space.check(center)
    return center.detach()


def _described(scheme: Scheme) -> str:
    return "not normalised" if scheme.normalize == "none" else f"{scheme.normalize}-normalised"


def _check_moving(vectors: Tensor, scheme: Scheme) -> None:
    """A direction of zeros would give a slice that is flat for no fault of the network."""
    if not vectors.any():
        raise RequestError(
            f"the direction is zero everywhere: by {scheme.normalize!r} with biases="
            f"{scheme.biases!r} and norms={scheme.norms!r} none of the selected parameters moves. "
            "Select weights, give biases='layer' and norms='layer', or, where all weights are "
            "zero, normalize='none'."
        )
