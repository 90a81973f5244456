"""Merging: several networks aligned with each other at once; `alignment` is for two."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from landscape.alignment.permutations import PermutationSpec
from landscape.alignment.reordering import (
    Network,
    check_same_function,
    checked_point,
    missing_buffers_notes,
    resolved_buffers,
    resolved_spec,
    state_of,
)
from landscape.alignment.weight_matching import match_weights
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["JointAlignment", "align_many"]

_RTOL = 1e-12  # of the similarity: less is rounding
_MAX_ROUNDS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class JointAlignment(Result):
    """Networks whose units were reordered, so that they lie close to each other.

    Attributes:
        thetas: (K, n) the aligned networks; the first as it was.
        buffers: of each, by name, reordered, too.
        permutations: of each, by group (size,); the identity for the first.
        sizes: units of each group.
        history: sum over all pairs of the inner products of their weights, at first, with each one
            aligned to the first, and after each round.
        converged: in the last round no network could be brought closer to the others.
        distances_before, distances_after: (K, K) between all pairs.
    """

    probe: ClassVar[str] = "joint_alignment"

    thetas: Tensor = field(repr=False)
    buffers: tuple[Mapping[str, Tensor], ...] = field(repr=False)
    permutations: tuple[Mapping[str, Tensor], ...] = field(repr=False)
    sizes: Mapping[str, int]
    history: tuple[float, ...]
    converged: bool
    distances_before: Tensor
    distances_after: Tensor
    spec: PermutationSpec = field(repr=False)
    states: tuple[Mapping[str, Tensor], ...] = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged", or after how many rounds the alignment was ended."""
        return (
            "converged"
            if self.converged
            else f"not converged: still better after {len(self.history) - 2} rounds"
        )

    def between(self, first: int, second: int) -> dict[str, Tensor]:
        """Permutations that bring network `first`, as it was given, to `second`, as it was given.

        They are consistent around each cycle: from 0 to 1 and on to 2 is from 0 to 2.
        """
        back = self.spec.inverse(self.permutations[second])
        return self.spec.compose(self.permutations[first], back)

    def tensors(self, index: int) -> dict[str, Tensor]:
        """An aligned network as `load_state_dict` takes it and safetensors can write it."""
        return {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.states[index].items()
        }

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `network`, `other_network`, `round`; with `vectors` also `parameter`."""
        import xarray as xr

        pairs = ("network", "other_network")
        product = {"units": "parameter^2", "long_name": "sum of inner products of all pairs"}
        before = {"units": "parameter", "long_name": "distance before alignment"}
        after = {"units": "parameter", "long_name": "distance after alignment"}
        dataset = xr.Dataset(
            {
                "similarity": ((), self.history[-1], product),
                "mean_distance_before": ((), _over_pairs(self.distances_before), before),
                "mean_distance_after": ((), _over_pairs(self.distances_after), after),
                "history": (("round",), np.array(self.history), product),
                "distance_before": (pairs, self.distances_before.numpy(), before),
                "distance_after": (pairs, self.distances_after.numpy(), after),
            }
        )
        if vectors:
            held = self.thetas.float() if self.thetas.dtype.itemsize < 4 else self.thetas
            meaning = {"units": "parameter", "long_name": "the aligned networks"}
            dataset["theta"] = (("network", "parameter"), held.cpu().numpy(), meaning)
        return dataset


def align_many(
    objective: Objective,
    thetas: Sequence[Tensor],
    *,
    spec: PermutationSpec | None = None,
    buffers: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
    num_restarts: int = 2,
) -> JointAlignment:
    """Reorder the units of networks 1, 2, ... so that all K lie close to each other.

    Each one is first aligned to network 0; then, in random order, each to the mean of the others,
    until none changes. The sum of the inner products of all pairs never falls.

    Args:
        thetas: K >= 2 points (n,).
        spec: what moves together; by default derived from the model.
        buffers: of each, by name; by default the objective's.
        seed: of the orders and of the random starts.
        num_restarts: descents from random permutations in the alignments to network 0.

    Raises:
        RequestError: fewer than two points, one of another network or not finite; a specification
            that does not fit or that changes the function.

    Source: Ainsworth et al. 2022, arXiv:2209.04836, algorithm 3 (MergeMany).
    """
    began = time.perf_counter()
    if len(thetas) < 2 or (buffers is not None and len(buffers) != len(thetas)):
        sets = "" if buffers is None else f" and {len(buffers)} sets of buffers"
        raise RequestError(
            f"{len(thetas)} points{sets} were given: expected at least 2, and buffers of each."
        )
    spec = resolved_spec(objective, spec)
    points = [checked_point(objective, theta) for theta in thetas]
    given = [
        Network(point, resolved_buffers(objective, buffers[index] if buffers else None))
        for index, point in enumerate(points)
    ]
    order_seed, *pair_seeds = np.random.SeedSequence(seed).spawn(len(points))
    found = [spec.identity()]
    for point, own in zip(points[1:], pair_seeds, strict=True):
        descents = match_weights(
            spec,
            objective.space.named(points[0]),
            objective.space.named(point),
            seed=_number(own),
            num_restarts=num_restarts,
        )
        found.append(max(descents, key=lambda matching: matching.similarity).permutations)
    found, history, converged = _rounds(objective, spec, points, found, order_seed)
    back = spec.inverse(found[0])
    found = [spec.identity(), *(spec.compose(own, back) for own in found[1:])]
    aligned = [
        Network(_moved(objective, spec, network.theta, own), spec.apply(network.buffers, own))
        for network, own in zip(given, found, strict=True)
    ]
    for before, after in zip(given[1:], aligned[1:], strict=True):
        check_same_function(objective, before, after)
    stacked = torch.stack([network.theta for network in aligned])
    return JointAlignment(
        settings={"seed": seed, "num_restarts": num_restarts},
        provenance={
            **objective.provenance(),
            "points_fingerprint": fingerprint({"thetas": torch.stack(points)}).hex(),
        },
        notes=(*spec.notes, *(() if buffers is not None else missing_buffers_notes(objective))),
        thetas=stacked,
        buffers=tuple(network.buffers for network in aligned),
        permutations=tuple(found),
        sizes=spec.sizes,
        history=(_similarity(torch.stack(points)), *history),
        converged=converged,
        distances_before=_distances(torch.stack(points)),
        distances_after=_distances(stacked),
        spec=spec,
        states=tuple(state_of(objective, network) for network in aligned),
        wall_time=time.perf_counter() - began,
    )


def _rounds(
    objective: Objective,
    spec: PermutationSpec,
    points: Sequence[Tensor],
    permutations: Sequence[dict[str, Tensor]],
    seed: np.random.SeedSequence,
) -> tuple[list[dict[str, Tensor]], list[float], bool]:
    """Each network to the mean of the others: permutations, similarity by round, converged."""
    found = list(permutations)
    generator = np.random.default_rng(seed)
    moved = [_moved(objective, spec, *pair) for pair in zip(points, found, strict=True)]
    history = [_similarity(torch.stack(moved))]
    converged = False
    while not converged and len(history) <= _MAX_ROUNDS:
        for index in generator.permutation(len(points)):
            rest = moved[:index] + moved[index + 1 :]
            [step] = match_weights(
                spec,
                _mean_of(objective, rest),
                objective.space.named(points[index]),
                seed=int(generator.integers(2**63)),
                start=found[index],
            )
            found[index] = step.permutations
            moved[index] = _moved(objective, spec, points[index], step.permutations)
        history.append(_similarity(torch.stack(moved)))
        converged = not history[-1] - history[-2] > _RTOL * abs(history[-1])
    return found, history, converged


def _moved(
    objective: Objective, spec: PermutationSpec, theta: Tensor, permutations: Mapping[str, Tensor]
) -> Tensor:
    return objective.space.flatten(spec.apply(objective.space.named(theta), permutations))


def _mean_of(objective: Objective, points: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean of points (n,), by name, in float64 whatever their type."""
    named = [objective.space.named(point) for point in points]
    return {name: torch.stack([own[name].double() for own in named]).mean(0) for name in named[0]}


def _similarity(points: Tensor) -> float:
    """Sum over all pairs of points (K, n) of their inner products."""
    exact = points.double()
    gram = exact @ exact.T
    return float(gram.sum() - gram.trace()) / 2


def _distances(points: Tensor) -> Tensor:
    """(K, K) float64."""
    # Differences, not the Gram matrix: copies are exactly 0 apart.
    exact = points.double().cpu()
    return torch.stack([torch.linalg.vector_norm(exact - point, dim=1) for point in exact])


def _over_pairs(distances: Tensor) -> float:
    """The mean over all pairs."""
    return float(distances.sum()) / (len(distances) * (len(distances) - 1))


def _number(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1, np.uint64)[0]) >> 1
