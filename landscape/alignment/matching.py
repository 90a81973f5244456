"""Matching: the permutations under which the units of two networks are most alike.

Coordinate descent over groups, a linear assignment at each step. How alike the entries of an axis
are, `weight_matching` and `activation_matching` say.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from landscape.alignment.permutations import Axis, Permutations, Run

__all__ = ["AxisSimilarity", "Matching", "match"]

Array = NDArray[np.float64]

_RTOL = 1e-12  # a gain below this share of what has moved is rounding, of sums in float64
_PATIENCE = 3  # sweeps that bring no such share of the whole: tiny units may still find their place
_MAX_SWEEPS = 100


class AxisSimilarity(Protocol):
    """An axis that two networks have, and how alike its entries are, as inner products."""

    @property
    def axis(self) -> Axis: ...
    @property
    def others(self) -> frozenset[str]: ...  # groups on which the inner products depend
    def entries(self, rows: slice, columns: slice, permutations: Permutations) -> Tensor: ...
    def units(self, start: int, run: Run, permutations: Permutations) -> Tensor: ...


# `entries`: (rows, columns) float64, an entry of the first network with one of the second, whose
# other axes are reordered. `units`: (size, size), the same summed over the block of each unit, the
# blocks of the second reordered by the run's inner groups.


@dataclass(frozen=True)
class Matching:
    """Permutations of the second network, and how they were found.

    Attributes:
        history: the similarity that is maximised, at the start and after each sweep over groups.
        converged: no group has a better permutation while the others stay.
    """

    permutations: dict[str, Tensor]
    history: tuple[float, ...]
    converged: bool

    @property
    def similarity(self) -> float:
        """The one reached."""
        return self.history[-1]


@dataclass(frozen=True)
class _Site:
    """A run of an axis, `start` entries from the beginning of the axis."""

    similarity: AxisSimilarity
    start: int
    run: Run

    def holds(self, outer: str, family: tuple[str, ...]) -> bool:
        """Whether it has the units of `outer` with this family inside of them."""
        return (self.run.group, self.run.inner) == (outer, family)

    def dependences(self, group: str) -> tuple[str, ...]:
        """Groups on which the matrix of a group depends here."""
        own = self.run.inner if self.run.group == group else (self.run.group,)
        return tuple(sorted(self.similarity.others.union(name for name in own if name)))

    def matrix(self, group: str, permutations: Permutations) -> Tensor:
        """(m, m) similarity of the group's units, all other groups as they stand."""
        run = self.run
        if run.group == group:
            return self.similarity.units(self.start, run, permutations)
        places: Sequence[int] = range(run.size)
        if run.group is not None:
            places = permutations[run.group].argsort().tolist()
        found = torch.zeros((), dtype=torch.float64)
        for unit, name in enumerate(run.inner):
            if name == group:
                rows, columns = self._block(places[unit]), self._block(unit)
                found = found + self.similarity.entries(rows, columns, permutations)
        return found

    def nested(self, permutations: Permutations) -> Tensor:
        """(size, size, block, block): entries of each unit with those of each other one."""
        whole = slice(self.start, self.start + len(self.run))
        entries = self.similarity.entries(whole, whole, permutations)
        size, block = self.run.size, self.run.block
        return entries.view(size, block, size, block).transpose(1, 2)

    def _block(self, unit: int) -> slice:
        start = self.start + unit * self.run.block
        return slice(start, start + self.run.block)


@dataclass(frozen=True)
class _Cluster:
    """Groups that are found together: one, or heads with what is inside of each.

    Attributes:
        families: groups of what is inside of the units, one for each; empty for a single group.
    """

    outer: str
    families: tuple[tuple[str, ...], ...] = ()

    @property
    def groups(self) -> frozenset[str]:
        return frozenset((self.outer, *(name for family in self.families for name in family)))


@dataclass(frozen=True)
class _Proposal:
    """New permutations, and the similarity of single units with the new and with the old ones."""

    permutations: dict[str, Tensor]
    new: Array
    old: Array

    @property
    def gains(self) -> bool:
        """Whether what moves becomes more alike, by more than rounding."""
        # Against what moves alone: the gain of a tiny unit is lost beside the whole.
        moved = self.new != self.old
        scale = np.abs(self.new[moved]).sum() + np.abs(self.old[moved]).sum()
        return bool((self.new - self.old)[moved].sum() > _RTOL * scale)


def match(
    axes: Sequence[AxisSimilarity],
    total: Callable[[Permutations], float],
    start: Permutations,
    *,
    seed: np.random.SeedSequence,
    free: frozenset[str],
) -> Matching:
    """Group after group, the best permutation while all others stay, until none is better.

    Args:
        total: what is maximised. It is linear in each group alone, except where a group reorders
            several axes of one tensor: there the linear assignment is a proposal, which is taken
            if the total grows.
        seed: of the order of the groups, another one in each sweep.
        free: groups that are found; the others stay as at the start.

    Heads and what is inside of each are found together: an assignment inside for each two heads,
    whose value is how alike they are.

    Source: Ainsworth et al. 2022, arXiv:2209.04836, algorithm 1.
    """
    ascent = _Ascent(axes, total, start, free)
    generator = np.random.default_rng(seed)
    history, idle, moved = [total(start)], 0, True
    while moved and idle < _PATIENCE and len(history) <= _MAX_SWEEPS:
        order = generator.permutation(len(ascent.clusters))
        moves = [ascent.improve(ascent.clusters[index]) for index in order]
        moved = any(moves)
        history.append(total(ascent.permutations))
        idle = 0 if history[-1] - history[-2] > _RTOL * abs(history[-1]) else idle + 1
    return Matching(ascent.permutations, tuple(history), not moved or idle >= _PATIENCE)


class _Ascent:
    """The permutations as they stand, and matrices that hold until a group moves."""

    def __init__(
        self,
        axes: Sequence[AxisSimilarity],
        total: Callable[[Permutations], float],
        start: Permutations,
        free: frozenset[str],
    ) -> None:
        self.permutations = dict(start)
        self._total = total
        self._sites = [
            _Site(similarity, position, run)
            for similarity in axes
            for position, run in _positions(similarity.axis)
            if free.intersection(run.groups)
        ]
        self.clusters = _clusters(self._sites, free)
        self._moves = dict.fromkeys(start, 0)
        self._held: dict[Hashable, tuple[tuple[int, ...], Tensor]] = {}
        self._solved: dict[_Cluster, tuple[int, ...]] = {}
        self._dependences = {one: self._dependences_of(one) for one in self.clusters}

    def improve(self, cluster: _Cluster) -> bool:
        """Move to the best permutations of a cluster; whether anything has moved."""
        state = tuple(self._moves[name] for name in self._dependences[cluster])
        if self._solved.get(cluster) == state:
            return False
        self._solved[cluster] = state
        proposal = self._nested(cluster) if cluster.families else self._single(cluster.outer)
        wanted = self.permutations | proposal.permutations
        if cluster.groups.intersection(self._dependences[cluster]):
            before = self._total(self.permutations)
            gains = self._total(wanted) - before > _RTOL * abs(before)
        else:
            gains = proposal.gains
        if gains:
            for name in cluster.groups:
                self._moves[name] += not torch.equal(wanted[name], self.permutations[name])
            self.permutations = wanted
        return gains

    def _single(self, group: str) -> _Proposal:
        matrix = self._matrix(group, [site for site in self._sites if group in site.run.groups])
        order = _assignment(matrix)
        return _Proposal(
            {group: torch.from_numpy(order)},
            _along(matrix, order),
            _along(matrix, self.permutations[group].numpy()),
        )

    def _nested(self, cluster: _Cluster) -> _Proposal:
        outer = cluster.outer
        size = len(self.permutations[outer])
        plain = [site for site in self._sites if site.run.group == outer and not site.run.inner]
        values = np.zeros((size, size)) + self._matrix(outer, plain)
        base = values.copy()
        inside, orders = [], []
        for family in cluster.families:
            pairs = self._pairs(outer, family)  # (size, size, block, block)
            best = np.array([[_assignment(pair) for pair in row] for row in pairs])
            values += np.take_along_axis(pairs, best[..., None], 3).sum((2, 3))
            inside.append(pairs)
            orders.append(best)
        new_outer, old_outer = _assignment(values), self.permutations[outer].numpy()
        wanted = {outer: torch.from_numpy(new_outer)}
        new, old = [_along(base, new_outer)], [_along(base, old_outer)]
        for family, pairs, best in zip(cluster.families, inside, orders, strict=True):
            for place in range(size):
                unit, before = new_outer[place], old_outer[place]
                wanted[family[unit]] = torch.from_numpy(best[place, unit])
                new.append(_along(pairs[place, unit], best[place, unit]))
                held = self.permutations[family[before]].numpy()
                old.append(_along(pairs[place, before], held))
        return _Proposal(wanted, np.concatenate(new), np.concatenate(old))

    def _pairs(self, outer: str, family: tuple[str, ...]) -> Array:
        """(size, size, block, block): what is inside of a unit with what is inside of another."""
        nested = self._sum(
            (outer, family),
            [site for site in self._sites if site.holds(outer, family)],
            lambda site: tuple(sorted(site.similarity.others)),
            _Site.nested,
        )
        inside = nested.shape[2:]
        alone = [
            np.broadcast_to(self._matrix(name, self._elsewhere(outer, family, name)), inside)
            for name in family
        ]
        return np.asarray(nested + np.stack(alone))

    def _elsewhere(self, outer: str, family: tuple[str, ...], name: str) -> list[_Site]:
        """Sites of a group of the family other than inside of the outer one's units."""
        return [
            site
            for site in self._sites
            if name in site.run.groups and not site.holds(outer, family)
        ]

    def _matrix(self, group: str, sites: Sequence[_Site]) -> Array:
        """(m, m) of a group, summed over sites; (), zero, if there are none."""
        return self._sum(
            group,
            sites,
            lambda site: site.dependences(group),
            lambda site, permutations: site.matrix(group, permutations),
        )

    def _sum(
        self,
        slot: Hashable,
        sites: Sequence[_Site],
        dependences: Callable[[_Site], tuple[str, ...]],
        matrix: Callable[[_Site, Permutations], Tensor],
    ) -> Array:
        """A sum over sites, of which only what depends on moved groups is formed anew."""
        together: dict[tuple[str, ...], list[_Site]] = {}
        for site in sites:
            together.setdefault(dependences(site), []).append(site)
        found = torch.zeros((), dtype=torch.float64)
        for names, members in together.items():
            state = tuple(self._moves[name] for name in names)
            held = self._held.get((slot, names))
            if held is None or held[0] != state:
                part = matrix(members[0], self.permutations)
                for site in members[1:]:
                    part = part + matrix(site, self.permutations)
                held = self._held[slot, names] = (state, part)
            found = found + held[1]
        return np.asarray(found.cpu().numpy())

    def _dependences_of(self, cluster: _Cluster) -> tuple[str, ...]:
        found: set[str] = set()
        for site in self._sites:
            if any(site.holds(cluster.outer, family) for family in cluster.families):
                found |= site.similarity.others
            else:
                for name in cluster.groups.intersection(site.run.groups):
                    found.update(site.dependences(name))
        return tuple(sorted(found))


def _positions(axis: Axis) -> list[tuple[int, Run]]:
    """The runs of an axis with the entries before each."""
    starts = np.cumsum([0, *map(len, axis)]).tolist()
    return list(zip(starts, axis, strict=False))


def _clusters(sites: Sequence[_Site], free: frozenset[str]) -> list[_Cluster]:
    """All free groups: those inside of a unit with the unit's own, the others alone."""
    families: dict[str, dict[tuple[str, ...], None]] = {}
    for site in sites:
        if site.run.group is not None and site.run.inner:
            families.setdefault(site.run.group, {})[site.run.inner] = None
    found: list[_Cluster] = []
    taken: set[str] = set()
    for outer, own in families.items():
        names = [name for family in own for name in family]
        # Units that share a group inside cannot be assigned one by one.
        apart = len({outer, *names}) == 1 + len(names) and not taken.intersection((outer, *names))
        if apart and free.issuperset((outer, *names)) and not families.keys() & set(names):
            found.append(_Cluster(outer, tuple(own)))
            taken.update((outer, *names))
    acting = dict.fromkeys(name for site in sites for name in site.run.groups)
    return found + [_Cluster(name) for name in acting if name in free and name not in taken]


def _assignment(matrix: Array) -> NDArray[np.int64]:
    """(m,) the column of each row, so that the sum of their entries is largest."""
    return np.asarray(linear_sum_assignment(matrix, maximize=True)[1], np.int64)


def _along(matrix: Array, order: NDArray[np.int64]) -> Array:
    """(m,) the entry of each row in its column."""
    return np.asarray(matrix[np.arange(len(order)), order])
