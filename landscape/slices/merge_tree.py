"""Merge tree: how the parts of {value <= t} on a grid are born and meet as t rises.

Arrays in, arrays out; `topology` asks for it, and says what it means for a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Branches", "MergeTree", "branches", "merge_tree"]

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]
Slices = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Branches:
    """Minima, oldest first: by value, then by place. -1 stands for none.

    Attributes:
        minima: (k,) flat index in the grid.
        births: (k,) value there.
        saddles: (k,) flat index of a point where the branch meets an older one.
        deaths: (k,) value there, above that at birth; infinite without a saddle.
        parents: (k,) the oldest branch that it meets there.
        basins: (grid) the minimum that a walk downhill ends at.
    """

    minima: Integers
    births: Array
    saddles: Integers
    deaths: Array
    parents: Integers
    basins: Integers


def branches(values: Array, structure: Flags) -> Branches:
    """The minima of a grid, each with the saddle at which it meets an older one.

    Args:
        values: (grid) NaN and infinity are no points of it.
        structure: (3, ..., 3) which of the points around one are its neighbours.
    """
    # In ranks there are no ties: a plateau has a first point. Infinity and NaN come last.
    order = np.argsort(values, axis=None, kind="stable")
    num_finite = int(np.isfinite(values).sum())
    ranks = np.empty(values.shape, np.int64)
    ranks.flat[order] = np.arange(values.size)
    pairs = list(_neighbours(structure))
    lowest = ranks.copy()
    for here, there in pairs:
        np.minimum(lowest[here], ranks[there], out=lowest[here])
        np.minimum(lowest[there], ranks[here], out=lowest[there])
    # From each rank to that of the lowest neighbour, then to where the way down from there ends.
    below = lowest.ravel()[order[:num_finite]]
    bottoms = np.flatnonzero(below == np.arange(num_finite))
    labels = np.searchsorted(bottoms, _ends(below))
    parents, doors, saddles = _joined(len(bottoms), *_passes(ranks, labels, pairs))
    heights = values.ravel()[order]
    births, deaths = heights[bottoms], np.where(saddles < 0, np.inf, heights[saddles])
    # Where several meet at one height, all of them meet the oldest, whichever pass came first.
    for branch, elder in enumerate(parents):
        if elder >= 0 and deaths[elder] == deaths[branch]:
            parents[branch] = parents[elder]
    # What dies at the height of its birth is a part of a plateau, or of a slope with a flat step.
    lives = deaths > births
    numbers = np.append(np.cumsum(lives) - 1, -1)  # the last one is that of parent -1
    homes = _ends(np.where(lives, np.arange(len(lives)), doors))
    basins = np.full(values.shape, -1)
    basins.flat[order[:num_finite]] = numbers[homes[labels]]
    return Branches(
        minima=order[bottoms[lives]],
        births=births[lives],
        saddles=np.where(saddles < 0, -1, order[saddles])[lives],
        deaths=deaths[lives],
        parents=numbers[parents[lives]],
        basins=basins,
    )


def _ends(pointers: Integers) -> Integers:
    """Where each chain of pointers leads: to what points to itself."""
    while not np.array_equal(pointers, further := pointers[pointers]):
        pointers = further
    return pointers


def _neighbours(structure: Flags) -> Iterator[tuple[Slices, Slices]]:
    """Two views of a grid that lay points on their neighbours; each pair of points comes once."""
    parts = {
        0: (slice(None), slice(None)),
        1: (slice(None, -1), slice(1, None)),
        -1: (slice(1, None), slice(None, -1)),
    }
    offsets = np.argwhere(structure) - 1
    for offset in offsets[len(offsets) // 2 + 1 :].tolist():  # the others are their negatives
        here, there = zip(*(parts[step] for step in offset), strict=True)
        yield here, there


def _passes(
    ranks: Integers, labels: Integers, pairs: list[tuple[Slices, Slices]]
) -> tuple[Integers, Integers]:
    """(m, 2) basins that touch, and (m,) the rank of the lowest pass between them, ascending."""
    touching, saddles = [], []
    for here, there in pairs:
        ends = np.stack([ranks[here].ravel(), ranks[there].ravel()])
        ends = ends[:, ends.max(0) < len(labels)]
        names = np.sort(labels[ends], axis=0)
        differ = names[0] != names[1]
        touching.append(names[:, differ])
        saddles.append(ends.max(0)[differ])
    names, heights = np.concatenate(touching, axis=1), np.concatenate(saddles)
    ascending = np.argsort(heights, kind="stable")
    names, heights = names[:, ascending], heights[ascending]
    _, first = np.unique(names[0] * len(labels) + names[1], return_index=True)
    first.sort()
    return names[:, first].T, heights[first]


def _joined(
    num_basins: int, touching: Integers, heights: Integers
) -> tuple[Integers, Integers, Integers]:
    """What becomes of each basin when it first meets an older one; -1 where it never does.

    Returns:
        parents: (k,) the oldest of what it meets.
        doors: (k,) the basin on the other side of the pass.
        saddles: (k,) rank of the pass.

    Source: Kruskal 1956.
    """
    elders = list(range(num_basins))
    parents, doors, saddles = np.full((3, num_basins), -1)

    def oldest(basin: int) -> int:
        while elders[basin] != basin:
            elders[basin] = elders[elders[basin]]
            basin = elders[basin]
        return basin

    for (one, other), height in zip(touching.tolist(), heights.tolist(), strict=True):
        elder, younger = oldest(one), oldest(other)
        if elder != younger:
            door = one
            if younger < elder:
                elder, younger, door = younger, elder, other
            elders[younger] = parents[younger] = elder
            doors[younger], saddles[younger] = door, height
    return parents, doors, saddles


@dataclass(frozen=True, eq=False)
class MergeTree:
    """The tree for drawing: an edge leads from each node up to its parent.

    Attributes:
        heights: (m,) loss at which components meet; the first nodes are the minima in their order.
        parents: (m,) index of the node above, -1 at the top. Any number may meet at one node.
    """

    heights: Array
    parents: Integers


def merge_tree(births: Array, deaths: Array, parents: Integers) -> MergeTree:
    """The tree of these branches; parents come before their children, and die later."""
    heights, above = births.tolist(), [-1] * len(births)
    tops = list(range(len(heights)))  # the highest node so far of each branch
    meetings: dict[tuple[int, float], int] = {}
    for branch in np.argsort(deaths, kind="stable")[: np.isfinite(deaths).sum()]:
        elder, height = int(parents[branch]), float(deaths[branch])
        node = meetings.setdefault((elder, height), len(heights))
        if node == len(heights):
            heights.append(height)
            above.append(-1)
            above[tops[elder]] = node
            tops[elder] = node
        above[tops[branch]] = node
    return MergeTree(heights=np.asarray(heights, float), parents=np.asarray(above, np.int64))
