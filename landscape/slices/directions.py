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
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from landscape.curvature.eigenpairs import Eigenpairs
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.slices.normalization import (
    Layout,
    Normalization,
    Scheme,
    VectorPolicy,
    normalized_vectors,
)
from landscape.slices.optimizer_moments import optimizer_moments

__all__ = [
    "Direction",
    "cosines",
    "direction_towards",
    "eigenvector_directions",
    "gradient_direction",
    "moment_directions",
    "normalized",
    "random_directions",
    "regenerate",
]


_CHUNK = 1 << 22  # columns that are cast to float64 at a time


class Direction(Tensor):
    """A vector (n,) with a name; whatever is computed from it is a plain tensor.

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
        return Direction, (self.clone(), self.name, dict(self.recipe), dict(self.buffers))


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
        orthogonal: see `normalization.normalized_vectors`.

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
    vectors = normalized_vectors(
        objective, source, num, scheme, center=center, orthogonal=orthogonal
    )
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
                **_elsewhere(objective, center),
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

    found = normalized_vectors(
        objective,
        source,
        1,
        Scheme(scheme, biases, norms),
        center=_center(objective, center),
        orthogonal=False,
    )
    return found[0]


def gradient_direction(
    objective: Objective,
    normalize: Normalization | None = None,
    *,
    sign: bool = False,
    center: Tensor | None = None,
    biases: VectorPolicy = "zero",
    norms: VectorPolicy = "zero",
) -> Direction:
    """Uphill: the gradient of L at the center.

    Args:
        normalize: by default all of the gradient, divided by its norm; else see `Scheme`.
        sign: of each entry +1, -1 or 0 counts, the steepest way at a given largest entry.
        center: (n,) where; by default at the checkpoint's point.
        biases, norms: where `normalize` is given, see `Scheme`.

    Raises:
        RequestError: the gradient is zero or not finite, or nothing of it would move.
    """
    center = _center(objective, center)
    vector = objective.gradient(center)
    length = torch.linalg.vector_norm(vector.double())
    if not length.isfinite() or length == 0:
        raise RequestError(
            f"the gradient has norm {length.item():g} at the center: it points nowhere. Choose "
            "another direction or center."
        )
    if sign:
        vector = vector.sign()
    recipe: dict[str, object] = {"kind": "gradient", "normalize": normalize, "sign": sign}
    recipe |= _elsewhere(objective, center)
    name = "sign of the gradient" if sign else "gradient"
    if normalize is None:
        wide = vector.double()
        vector = (wide / torch.linalg.vector_norm(wide)).to(vector.dtype)
        return Direction(vector, f"{name}, unit norm", recipe)
    scheme = Scheme(normalize, biases, norms)
    vector = normalized(objective, vector, normalize, center=center, biases=biases, norms=norms)
    _check_moving(vector, scheme)
    return Direction(vector, f"{name}, {_described(scheme)}", recipe | asdict(scheme))


def eigenvector_directions(pairs: Eigenpairs, num: int) -> tuple[Direction, ...]:
    """The first `num` eigenvectors, of norm 1; which of v and -v is nobody's choice.

    Raises:
        RequestError: fewer pairs than that.
    """
    if not 1 <= num <= len(pairs.values):
        raise RequestError(
            f"num is {num}, but {len(pairs.values)} eigenpairs are given. Ask eigsh for k >= num."
        )
    return tuple(
        Direction(
            pairs.vectors[:, index].contiguous(),
            f"eigenvector #{index + 1}, eigenvalue {pairs.values[index]:.4g}",
            {
                "kind": "eigenvector",
                "index": index,
                "eigenvalue": float(pairs.values[index]),
                "residual_norm": float(pairs.residual_norms[index]),
            },
        )
        for index in range(num)
    )


def direction_towards(
    objective: Objective,
    other: Tensor,
    *,
    name: str = "towards another checkpoint",
    buffers: Mapping[str, Tensor] | None = None,
) -> Direction:
    """From the checkpoint's point to another: a unit step arrives there.

    Args:
        other: (n,) the other point.
        buffers: of the other checkpoint, by name. Floating-point ones that differ, such as running
            statistics, change linearly along the direction; beyond its ends a variance may become
            negative.

    Raises:
        RequestError: the other point is of another size, not finite or the same, or buffers are
            missing or do not fit.
    """
    objective.space.check(other)
    wide = other.detach().to(objective.device, torch.float64) - objective.theta.double()
    if not wide.isfinite().all():
        raise RequestError(
            "the other checkpoint holds values that are not finite. Give one that did not diverge."
        )
    if not wide.any():
        raise RequestError(
            "the other checkpoint is at the same point: there is no direction towards it. Give "
            "two different ones."
        )
    changes = {} if buffers is None else _buffer_changes(objective, buffers)
    return Direction(wide.to(objective.space.dtype), name, {"kind": "towards"}, changes)


def moment_directions(
    objective: Objective, optimizer: Optimizer | Mapping[str, Any]
) -> tuple[Direction, ...]:
    """What the optimizer would follow, as it is: of Adam first moment and update, of SGD momentum.

    See `optimizer_moments.optimizer_moments` for formulas and errors.
    """
    return tuple(
        Direction(vector, f"{name} of the optimizer", {"kind": "moment", "moment": name})
        for name, vector in optimizer_moments(objective, optimizer).items()
    )


def regenerate(
    objective: Objective, recipe: Mapping[str, Any], center: Tensor | None = None
) -> Direction:
    """The direction of a recipe, bit for bit, where the objective and the center are the same.

    Raises:
        RequestError: the recipe is not of a random direction or a gradient, or lacks something; or
            it was made at a center other than the checkpoint's point, and this one is another.
    """
    kind = recipe.get("kind")
    if kind not in ("random", "gradient"):
        raise RequestError(
            f"a direction of kind {kind!r} does not follow from its recipe, only 'random' and "
            "'gradient' do. Keep the vectors in the file (--vectors) and read them from there."
        )
    if "center" in recipe and _elsewhere(objective, _center(objective, center)) != {
        "center": recipe["center"]
    }:
        raise RequestError(
            "the direction was made at another center than this one. Give that center, or keep "
            "the vectors in the file (--vectors)."
        )
    options = {name: recipe[name] for name in ("biases", "norms") if name in recipe}
    try:
        if kind == "gradient":
            return gradient_direction(
                objective, recipe["normalize"], sign=recipe["sign"], center=center, **options
            )
        return random_directions(
            objective,
            recipe["index"] + 1,
            recipe["normalize"],
            recipe["seed"],
            center=center,
            orthogonal=recipe["orthogonal"],
            **options,
        )[-1]
    except KeyError as error:
        raise RequestError(
            f"the recipe of a {kind} direction lacks {error}; it holds: {', '.join(recipe)}."
        ) from error


def cosines(vectors: Tensor) -> NDArray[np.float64]:
    """Between the rows of (k, n): (k, k). Zero with a vector of zeros."""
    gram = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=vectors.device)
    for part in torch.split(vectors, _CHUNK, dim=1):
        wide = part.double()
        gram += wide @ wide.T
    norms = gram.diagonal().sqrt()
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    found: NDArray[np.float64] = (gram * scale * scale.unsqueeze(1)).clamp(-1, 1).cpu().numpy()
    return found


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


def _elsewhere(objective: Objective, center: Tensor) -> dict[str, str]:
    """What a recipe says of a center that is not the checkpoint's point."""
    center = center.to(objective.theta)
    if torch.equal(center, objective.theta):
        return {}
    return {"center": fingerprint({"center": center}).hex()}


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


def _buffer_changes(objective: Objective, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Other minus own, of all floating-point buffers that differ."""
    changes = {}
    for name, own in objective.buffers.items():
        if not own.is_floating_point():
            continue
        other = others.get(name)
        if other is None or other.shape != own.shape:
            came = "missing" if other is None else f"of shape {tuple(other.shape)}"
            raise RequestError(
                f"the other checkpoint's buffer {name} is {came}, expected {tuple(own.shape)}. "
                "Give all of them: dict(model.named_buffers())."
            )
        other = other.detach().to(own.device)
        if not torch.equal(other.to(own.dtype), own):
            changes[name] = (other.double() - own.double()).to(own.dtype)
    return changes
