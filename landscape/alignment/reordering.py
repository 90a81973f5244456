"""Reordering: a network with permuted units, and what must hold before and after.

`alignment` and `merging` find the permutations, `permutations` says what they do to tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.alignment.permutations import Axis, PermutationSpec
from landscape.alignment.symmetries import permutation_spec
from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = [
    "Network",
    "check_same_function",
    "checked_point",
    "distance",
    "missing_buffers_notes",
    "moved_shares",
    "resolved_buffers",
    "resolved_spec",
    "state_of",
    "tensors_at",
]

# Sums over reordered units are added up in another order.
_RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}
_LOW_PRECISION_RTOL = 3e-2


@dataclass(frozen=True, eq=False)
class Network:
    """A point of an objective, with the buffers by name that belong to it."""

    theta: Tensor
    buffers: Mapping[str, Tensor]


def tensors_at(objective: Objective, network: Network) -> dict[str, Tensor]:
    """Buffers with which a network is evaluated under the policy; inside `evaluation()`."""
    return {**network.buffers, **(objective.buffers_at(network.theta) or {})}


def checked_point(objective: Objective, theta: Tensor) -> Tensor:
    """A point of the objective, where and as its own; RequestError if it is none or not finite."""
    objective.space.check(theta)
    if not theta.isfinite().all():
        raise RequestError("a point is not finite. Give finite weights.")
    return theta.detach().to(objective.theta)


def resolved_spec(objective: Objective, spec: PermutationSpec | None) -> PermutationSpec:
    """A specification over the objective's names, derived from the model unless it is given.

    Raises:
        RequestError: it does not fit the network, or moves what is no coordinate.
    """
    if spec is None:
        spec = permutation_spec(objective)
    axes: dict[str, tuple[Axis, ...]] = {}
    for name, own in spec.axes.items():
        held = objective.space.aliases.get(name, name)
        if axes.setdefault(held, own) != own:
            raise RequestError(
                f"the permutation describes {name} in two ways: it is the same parameter as "
                f"{held}. Give one description for both."
            )
    found = PermutationSpec(axes, spec.notes)
    parameters = objective.space.named(objective.theta) | dict(objective.constants)
    everything = parameters | dict(objective.buffers)
    found.check({name: tensor.shape for name, tensor in everything.items()})
    fixed = [
        name
        for name, own in axes.items()
        if name in objective.constants and any(run.groups for axis in own for run in axis)
    ]
    if fixed:
        raise RequestError(
            f"the permutation moves {fixed[0]!r}"
            + (f" and {len(fixed) - 1} other parameters" if len(fixed) > 1 else "")
            + ", no coordinates of this objective, which stay as they are. Make it without params= "
            "and with requires_grad=True, or give a spec without their groups."
        )
    return found


def resolved_buffers(
    objective: Objective, buffers: Mapping[str, Tensor] | None
) -> Mapping[str, Tensor]:
    """Buffers by name like the objective's; RequestError if one is missing or does not fit."""
    if buffers is None:
        return objective.buffers
    for name, held in objective.buffers.items():
        if name not in buffers or buffers[name].shape != held.shape:
            came = f"has shape {tuple(buffers[name].shape)}" if name in buffers else "is missing"
            raise RequestError(
                f"the buffer {name!r} {came}, expected {tuple(held.shape)}. Give all: "
                "dict(model.named_buffers())."
            )
    return {name: buffers[name].detach().to(held) for name, held in objective.buffers.items()}


def missing_buffers_notes(objective: Objective) -> list[str]:
    """What to know where the running statistics of other networks were not given."""
    if objective.has_batch_norm and objective.bn == "eval":
        return ["the running statistics are the objective's: give those of the point as buffers="]
    return []


def moved_shares(permutations: Mapping[str, Tensor]) -> dict[str, float]:
    """By group, the share of units that change their place."""
    return {
        group: float((order.cpu() != torch.arange(len(order))).double().mean())
        for group, order in permutations.items()
    }


def distance(a: Tensor, b: Tensor) -> float:
    """||a - b||."""
    return float(torch.linalg.vector_norm(a.double() - b.double()))


def check_same_function(objective: Objective, before: Network, after: Network) -> None:
    """Raise RequestError unless both give the same outputs (or losses) on all data."""
    rtol = _RTOL.get(objective.space.dtype, _LOW_PRECISION_RTOL)
    with objective.evaluation(), torch.no_grad():
        evaluated = [(network, tensors_at(objective, network)) for network in (before, after)]
        for batch in objective.batches:
            old, new = (
                _outputs(objective, network.theta, buffers, batch) for network, buffers in evaluated
            )
            # Masked outputs are infinite in both.
            apart = torch.where(old == new, 0.0, old - new)
            gap, scale = apart.abs().max().item(), old[old.isfinite()].abs().max().item()
            if not gap <= rtol * scale:
                raise RequestError(
                    f"the reordered network is another function: outputs of size {scale:.3g} "
                    f"differ by {gap:.3g}. The specification does not fit it; correct the spec, or "
                    "leave spec= out to have it derived."
                )


def _outputs(
    objective: Objective, theta: Tensor, buffers: Mapping[str, Tensor], batch: object
) -> Tensor:
    own = {name: buffer.clone() for name, buffer in buffers.items()}
    term = objective.term(objective.space.split(theta), batch, own)
    return (term.total if term.output is None else term.output).detach().double()


def state_of(objective: Objective, network: Network) -> dict[str, Tensor]:
    """All tensors of a network under the names of the model's own `state_dict`."""
    named = objective.space.named(network.theta) | dict(objective.constants)
    named |= network.buffers
    aliases = objective.space.aliases
    return {
        name: named.get(aliases.get(name, name), tensor)
        for name, tensor in objective.model.state_dict().items()
        if isinstance(tensor, Tensor)
    }
