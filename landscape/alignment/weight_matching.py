"""Weight matching: the permutations under which the weights of two networks are closest.

Nothing but the weights is needed. `activation_matching` looks at what the units do on data, and
`alignment` applies what is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from landscape.alignment.matching import Matching, match
from landscape.alignment.permutations import Axis, Permutations, PermutationSpec, Run, axis_order

__all__ = ["match_weights"]


def match_weights(
    spec: PermutationSpec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    seed: int,
    num_restarts: int = 0,
    start: Permutations | None = None,
    free: frozenset[str] | None = None,
) -> list[Matching]:
    """max_P sum_t <A_t, P(B)_t> over all tensors t of the specification, which min ||A - P(B)||.

    Args:
        a, b: tensors by name, of any dtype; products are summed in float64. What counts is what is
            in both: leave out running statistics, which have the scale of activations squared.
        seed: of the order of the groups and of the random starts.
        num_restarts: descents from random permutations, beside that from `start`.
        start: permutations to begin with; the identity by default.
        free: groups that are found while the others stay as at the start; all by default.

    Returns:
        One for each start, that from `start` first.

    Source: Ainsworth et al. 2022, arXiv:2209.04836, section 3.2.
    """
    tensors = [
        _Tensor(a[name], b[name], axes)
        for name, axes in spec.axes.items()
        if name in a and name in b and any(axes)
    ]
    similarities = [
        _WeightAxis(tensor, dim)
        for tensor in tensors
        for dim, axis in enumerate(tensor.axes)
        if axis
    ]
    first = spec.identity() | dict(start or {})
    unbound = frozenset(spec.sizes) if free is None else free

    def total(permutations: Permutations) -> float:
        return sum(tensor.product(permutations) for tensor in tensors)

    found = []
    for index, child in enumerate(np.random.SeedSequence(seed).spawn(1 + num_restarts)):
        begin = first
        if index:
            drawn = spec.random(int(child.generate_state(1, np.uint64)[0]) >> 1)
            begin = first | {name: drawn[name] for name in unbound}
        found.append(match(similarities, total, begin, seed=child, free=unbound))
    return found


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor of both networks."""

    a: Tensor
    b: Tensor
    axes: Sequence[Axis]

    def product(self, permutations: Permutations) -> float:
        """<A, P(B)>."""
        moved = self.b
        for dim, axis in enumerate(self.axes):
            if axis:
                moved = moved.index_select(dim, axis_order(axis, permutations).to(moved.device))
        return float((self.a.double() * moved.double()).sum())


@dataclass(frozen=True, eq=False)
class _WeightAxis:
    """Inner products over all other axes of a tensor; conforms to `AxisSimilarity`."""

    tensor: _Tensor
    dim: int

    @property
    def axis(self) -> Axis:
        return self.tensor.axes[self.dim]

    @cached_property
    def others(self) -> frozenset[str]:
        return frozenset(
            group
            for dim, axis in enumerate(self.tensor.axes)
            for run in axis
            for group in run.groups
            if dim != self.dim
        )

    def entries(self, rows: slice, columns: slice, permutations: Permutations) -> Tensor:
        first = self._unfolded(self.tensor.a, rows)
        return first @ self._unfolded(self._reordered(columns, permutations)).T

    def units(self, start: int, run: Run, permutations: Permutations) -> Tensor:
        whole = slice(start, start + len(run))
        second = self._unfolded(self._reordered(whole, permutations))
        if run.inner:
            inside = Run(run.size, None, run.block, run.inner).order(permutations)
            second = second[inside.to(second.device)]
        # A unit's block counts as features: a product of units, not of all their entries.
        first = self._unfolded(self.tensor.a, whole).reshape(run.size, -1)
        return first @ second.reshape(run.size, -1).T

    def _reordered(self, part: slice, permutations: Permutations) -> Tensor:
        """A part of the axis of B, all other axes reordered."""
        found = self.tensor.b.narrow(self.dim, part.start, part.stop - part.start)
        for dim, axis in enumerate(self.tensor.axes):
            if axis and dim != self.dim:
                found = found.index_select(dim, axis_order(axis, permutations).to(found.device))
        return found

    def _unfolded(self, tensor: Tensor, part: slice | None = None) -> Tensor:
        """(entries, all else) in float64."""
        if part is not None:
            tensor = tensor.narrow(self.dim, part.start, part.stop - part.start)
        moved = tensor.movedim(self.dim, 0)
        return moved.reshape(len(moved), -1).double()
