"""PermutationSpec: which axes of a network's tensors move together when its units are reordered.

`symmetries` derives one from a module; it may also be written by hand. `matching` finds the
permutations that bring two networks close to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from landscape.errors import RequestError

__all__ = ["Axis", "PermutationSpec", "Permutations", "Run", "axis_order"]

Permutations = Mapping[str, Tensor]  # by group: (size,) long; entry i is taken from p[i]


@dataclass(frozen=True)
class Run:
    """Consecutive entries of an axis that follow one permutation, or stay.

    Attributes:
        size: units; the run has `size * block` entries.
        group: the permutation that reorders the units; None where they stay in place.
        block: entries of the axis for each unit: H * W behind a flattening, the width of a head.
        inner: for each unit, the group that reorders its `block` entries; empty if none does.
            They are reordered first, and then move with their unit.
    """

    size: int
    group: str | None = None
    block: int = 1
    inner: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.size * self.block

    def order(self, permutations: Permutations) -> Tensor:
        """(size * block,) where each entry is taken from, counted from the start of the run."""
        entries = torch.arange(len(self)).view(self.size, self.block)
        if self.inner:
            entries = torch.stack(
                [
                    row[permutations[group].cpu()]
                    for row, group in zip(entries, self.inner, strict=True)
                ]
            )
        if self.group is not None:
            entries = entries[permutations[self.group].cpu()]
        return entries.reshape(-1)

    @property
    def groups(self) -> tuple[str, ...]:
        """All groups that reorder something in it."""
        return (*([] if self.group is None else [self.group]), *self.inner)


Axis = tuple[Run, ...]  # an axis of a tensor, from its first entry to its last; () if all stay


@dataclass(frozen=True, eq=False)
class PermutationSpec:
    """Which axes of which tensors move with which permutation.

    Attributes:
        axes: by the name of a parameter or buffer, an `Axis` for each of its dimensions. Tensors
            that are left out stay as they are.
        notes: what was not followed where it was derived, in words.

    Raises:
        RequestError: two runs of one group that disagree on its size.

    A hand-written one of a two-layer perceptron with 64 hidden units:

        hidden = (Run(64, "hidden"),)
        PermutationSpec({"0.weight": (hidden, ()), "0.bias": (hidden,), "2.weight": ((), hidden)})
    """

    axes: Mapping[str, tuple[Axis, ...]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self.sizes

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Units of each group."""
        found: dict[str, int] = {}
        for name, axes in self.axes.items():
            for run in (run for axis in axes for run in axis):
                own = {} if run.group is None else {run.group: run.size}
                for group, size in {**own, **dict.fromkeys(run.inner, run.block)}.items():
                    if found.setdefault(group, size) != size:
                        raise RequestError(
                            f"the group {group!r} has {found[group]} units, but {size} in {name}. "
                            "Give runs of one size, or another group."
                        )
                if run.inner and len(run.inner) != run.size:
                    raise RequestError(
                        f"a run of {run.size} units in {name} has {len(run.inner)} inner groups. "
                        "Give one for each unit, or none."
                    )
        return found

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raise RequestError unless the axes fit tensors of these shapes."""
        for name, axes in self.axes.items():
            if name not in shapes:
                raise RequestError(f"the permutation names {name!r}, which the network lacks.")
            shape = tuple(shapes[name])
            lengths = tuple(sum(map(len, axis)) for axis in axes)
            fits = len(shape) == len(axes) and all(
                not axis or length == size
                for axis, length, size in zip(axes, lengths, shape, strict=True)
            )
            if not fits:
                raise RequestError(
                    f"{name} has shape {shape}, and the permutation describes axes of {lengths} "
                    "entries (0 where all stay). Give an axis for each dimension."
                )

    def identity(self) -> dict[str, Tensor]:
        """Permutations that leave everything in place."""
        return {group: torch.arange(size) for group, size in self.sizes.items()}

    def random(self, seed: int) -> dict[str, Tensor]:
        """Permutations drawn evenly."""
        generator = torch.Generator().manual_seed(seed)
        return {
            group: torch.randperm(size, generator=generator) for group, size in self.sizes.items()
        }

    def apply(self, tensors: Mapping[str, Tensor], permutations: Permutations) -> dict[str, Tensor]:
        """Tensors by name with their units reordered: entry i is the one that was at p[i].

        Tensors that the specification does not name are passed on as they are.
        """
        found = dict(tensors)
        for name, axes in self.axes.items():
            if name in found:
                for dim, axis in enumerate(axes):
                    if axis:
                        order = axis_order(axis, permutations).to(found[name].device)
                        found[name] = found[name].index_select(dim, order)
        return found

    def inverse(self, permutations: Permutations) -> dict[str, Tensor]:
        """What undoes them: `apply(apply(x, p), inverse(p))` is x."""
        found = {group: order.argsort() for group, order in permutations.items()}
        for outer, inner in self._nested:
            moved = permutations[outer].tolist()
            # What stands at v afterwards came from u, and was reordered there.
            found |= {inner[v]: permutations[inner[u]].argsort() for v, u in enumerate(moved)}
        return found

    def compose(self, first: Permutations, second: Permutations) -> dict[str, Tensor]:
        """What does the same as `first` and then `second`."""
        found = {group: first[group][order] for group, order in second.items()}
        for outer, inner in self._nested:
            moved = first[outer].tolist()
            found |= {inner[u]: first[inner[u]][second[inner[v]]] for v, u in enumerate(moved)}
        return found

    @cached_property
    def _nested(self) -> set[tuple[str, tuple[str, ...]]]:
        """Groups whose units have inner groups, with these."""
        return {
            (run.group, run.inner)
            for axes in self.axes.values()
            for axis in axes
            for run in axis
            if run.group is not None and run.inner
        }


def axis_order(axis: Axis, permutations: Permutations) -> Tensor:
    """(length,) where each entry of an axis is taken from."""
    orders, start = [], 0
    for run in axis:
        orders.append(start + run.order(permutations))
        start += len(run)
    return torch.cat(orders)
