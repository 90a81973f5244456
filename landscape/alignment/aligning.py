"""Alignment: one network brought close to another by reordering its units, the function equal.

`weight_matching` and `activation_matching` find the permutations; `merging` aligns several at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from landscape.alignment.activation_matching import match_activations, observed_groups
from landscape.alignment.matching import Matching
from landscape.alignment.permutations import PermutationSpec
from landscape.alignment.reordering import (
    Network,
    check_same_function,
    checked_point,
    distance,
    missing_buffers_notes,
    moved_shares,
    resolved_buffers,
    resolved_spec,
    state_of,
)
from landscape.alignment.scale_canonical import CanonicalScales, canonical_scales
from landscape.alignment.weight_matching import match_weights
from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.result import Result
from landscape.slices.rescaling import neuron_rescalings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Alignment", "Method", "align"]

Method = Literal["weights", "activations"]
_METHODS = ("weights", "activations")


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment(Result):
    """A network whose units were reordered, so that it lies close to another one.

    Attributes:
        theta: (n,) the aligned network b.
        buffers: its buffers by name, reordered, too: BatchNorm's running statistics.
        permutations: by group (size,), unit i of the aligned network is the unit p[i] of b.
        sizes: units of each group.
        moved: by group, the share of units that changed their place.
        similarities: (1 + num_restarts,) what each descent reached: the inner product of the
            weights, or the sum of correlations; that from the identity first.
        histories: of each descent, the similarity at its start and after each sweep over groups.
        converged: in the best descent no group alone has a better permutation.
        distance_before, distance_after: ||a - b|| of the weights.
    """

    probe: ClassVar[str] = "alignment"

    theta: Tensor = field(repr=False)
    buffers: Mapping[str, Tensor] = field(repr=False)
    permutations: Mapping[str, Tensor] = field(repr=False)
    sizes: Mapping[str, int]
    moved: Mapping[str, float] = field(repr=False)
    similarities: tuple[float, ...]
    histories: tuple[tuple[float, ...], ...] = field(repr=False)
    converged: bool
    distance_before: float
    distance_after: float
    state: Mapping[str, Tensor] = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged", or after how many sweeps the descent was ended."""
        if self.converged:
            return "converged"
        return f"not converged: still better after {len(self.histories[self.best]) - 1} sweeps"

    @property
    def best(self) -> int:
        """The descent whose permutations were taken."""
        return int(np.argmax(self.similarities))

    @property
    def similarity(self) -> float:
        """The largest that was reached."""
        return self.similarities[self.best]

    @property
    def moved_share(self) -> float:
        """Units that changed their place, as a share of all."""
        units = sum(self.sizes.values())
        return sum(self.moved[group] * size for group, size in self.sizes.items()) / max(1, units)

    def tensors(self) -> dict[str, Tensor]:
        """The aligned network as `load_state_dict` takes it and safetensors can write it."""
        return {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.state.items()
        }

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `group`, `unit`, `restart`, `sweep`; with `vectors` also `parameter`.

        `permutation` holds those of all groups one after the other, `group_size` entries each.
        """
        import xarray as xr

        weights = self.settings["method"] == "weights"
        unit = "parameter^2" if weights else "1"
        meaning = "inner product of the weights" if weights else "sum of correlations"
        longest = max(map(len, self.histories))
        history = np.full((len(self.histories), longest), np.nan)
        for row, reached in zip(history, self.histories, strict=True):
            row[: len(reached)] = reached
        orders = [np.zeros(0, np.int64), *(self.permutations[g].cpu().numpy() for g in self.sizes)]
        variables: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "similarity": ((), self.similarity, unit, f"{meaning}, the largest"),
            "distance_before": ((), self.distance_before, "parameter", "distance before"),
            "distance_after": ((), self.distance_after, "parameter", "distance after alignment"),
            "moved_share": ((), self.moved_share, "1", "share of units that changed their place"),
            "num_groups": ((), len(self.sizes), "1", "groups of units"),
            "num_sweeps": (
                (),
                len(self.histories[self.best]) - 1,
                "1",
                "sweeps over groups in the best descent",
            ),
            "restart_similarity": (("restart",), np.array(self.similarities), unit, meaning),
            "history": (("restart", "sweep"), history, unit, f"{meaning} after each sweep"),
            "group_size": (("group",), np.array(list(self.sizes.values()), np.int64), "1", "units"),
            "group_moved": (
                ("group",),
                np.array([self.moved[group] for group in self.sizes], np.float64),
                "1",
                "share of the group's units that changed their place",
            ),
            "permutation": (
                ("unit",),
                np.concatenate(orders),
                "1",
                "which unit of its group stands here, group after group",
            ),
        }
        if vectors:
            held = self.theta.float() if self.theta.dtype.itemsize < 4 else self.theta
            values = held.detach().cpu().numpy()
            variables["theta"] = (("parameter",), values, "parameter", "the aligned network")
        described = {
            name: (dimensions, values, {"units": units, "long_name": words})
            for name, (dimensions, values, units, words) in variables.items()
        }
        return xr.Dataset(described, coords={"group": list(self.sizes)})


def align(
    objective: Objective,
    a: Tensor,
    b: Tensor,
    method: Method = "weights",
    *,
    spec: PermutationSpec | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    num_restarts: int = 2,
    rescale: bool = False,
) -> Alignment:
    """b with its units reordered so that it lies close to a; its outputs stay the same.

    Args:
        a: (n,) stays as it is; its buffers are the objective's.
        b: (n,).
        method: "weights" needs no data beyond the check at the end; "activations" compares what the
            units do on the objective's data, and finds by weights what no module's output shows.
        spec: what moves together; by default derived from the model.
        buffers: of b, by name; by default the objective's.
        seed: of the order of the groups and of the random starts.
        num_restarts: descents from random permutations beside that from the identity; the best one
            is taken. Without effect on activations, whose groups do not depend on each other.
        rescale: also use that the scale of neurons before a ReLU is free: both networks are
            compared in their canonical scales, and b ends in those of a.

    Raises:
        RequestError: a specification that does not fit or that changes the function, parameters of
            it that are no coordinates of the objective, points of another network or not finite.

    Running statistics are reordered, but do not enter the similarity of weights.
    """
    began = time.perf_counter()
    if method not in _METHODS:
        raise unknown_choice("method", method, _METHODS)
    if num_restarts < 0:
        raise RequestError(f"num_restarts={num_restarts}: expected 0 or more.")
    a, b = (checked_point(objective, point) for point in (a, b))
    spec = resolved_spec(objective, spec)
    given = Network(b, resolved_buffers(objective, buffers))
    notes = [*spec.notes, *([] if buffers is not None else missing_buffers_notes(objective))]
    scales = _canonical(objective, a, b) if rescale else None
    first, second = (a, b) if scales is None else (scale.theta for scale in scales)
    if method == "weights":
        found = match_weights(
            spec,
            objective.space.named(first),
            objective.space.named(second),
            seed=seed,
            num_restarts=num_restarts,
        )
    else:
        own = Network(first, objective.buffers)
        other = Network(second, given.buffers)
        found, words = _by_activations(objective, spec, own, other, seed)
        notes += words
    best = max(found, key=lambda matching: matching.similarity)
    moved = spec.apply(objective.space.named(second), best.permutations)
    theta = objective.space.flatten(moved)
    if scales is not None:
        theta = scales[0].restored(objective, theta)
        notes += _scale_notes(scales)
    aligned = Network(theta, spec.apply(given.buffers, best.permutations))
    check_same_function(objective, given, aligned)
    return Alignment(
        settings={
            "method": method,
            "seed": seed,
            "num_restarts": num_restarts if method == "weights" else 0,
            "rescale": rescale,
        },
        provenance={
            **objective.provenance(),
            "a_fingerprint": fingerprint({"theta": a}).hex(),
            "b_fingerprint": fingerprint({"theta": b}).hex(),
        },
        notes=tuple(notes),
        theta=theta,
        buffers=aligned.buffers,
        permutations=best.permutations,
        sizes=spec.sizes,
        moved=moved_shares(best.permutations),
        similarities=tuple(matching.similarity for matching in found),
        histories=tuple(matching.history for matching in found),
        converged=best.converged,
        distance_before=distance(a, b),
        distance_after=distance(a, theta),
        state=state_of(objective, aligned),
        wall_time=time.perf_counter() - began,
    )


def _by_activations(
    objective: Objective, spec: PermutationSpec, a: Network, b: Network, seed: int
) -> tuple[list[Matching], list[str]]:
    """By activations, and by weights those groups that no module's output shows."""
    found = match_activations(objective, spec, a, b, seed=seed)
    hidden = frozenset(spec.sizes) - observed_groups(objective, spec)
    if not hidden:
        return [found], []
    [rest] = match_weights(
        spec,
        objective.space.named(a.theta),
        objective.space.named(b.theta),
        seed=seed,
        start=found.permutations,
        free=hidden,
    )
    together = Matching(rest.permutations, found.history, found.converged and rest.converged)
    return [together], [f"found by weights, as no module outputs them: {', '.join(sorted(hidden))}"]


def _canonical(
    objective: Objective, a: Tensor, b: Tensor
) -> tuple[CanonicalScales, CanonicalScales]:
    """Both networks in their canonical scales."""
    rescalings = neuron_rescalings(objective)
    if not rescalings:
        raise RequestError(
            "rescale=True, but no neuron's scale is free in this network. Leave it out."
        )
    return canonical_scales(objective, a, rescalings), canonical_scales(objective, b, rescalings)


def _scale_notes(scales: Sequence[CanonicalScales]) -> list[str]:
    """What to know of canonical scales that were not reached."""
    reached = all(scale.converged for scale in scales)
    return [] if reached else ["the canonical scales have not converged"]
