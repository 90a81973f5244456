"""Graphs of minima and the saddles between them: the spanning tree of the lowest passes.

Arrays in, arrays out; `connectivity` measures the saddles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Edge", "next_edge", "passes", "saddle_distances", "spanning_tree"]

Array = NDArray[np.float64]
Edge = tuple[int, int]


def passes(saddles: Array) -> list[Edge]:
    """The pairs (i < j) with a finite saddle, lowest first; among equals by their numbers."""
    rows, columns = np.triu_indices(len(saddles), 1)
    found = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]
    return sorted(
        (edge for edge in found if np.isfinite(saddles[edge])), key=lambda edge: saddles[edge]
    )


def spanning_tree(saddles: Array) -> list[Edge]:
    """The edges of the minimum spanning tree, lowest first; a forest where no path joins all.

    Args:
        saddles: (K, K) symmetric, of any sign; NaN or infinite where there is none.

    Source: Kruskal 1956.
    """
    part = list(range(len(saddles)))
    tree = []
    for first, second in passes(saddles):
        one, other = part[first], part[second]
        if one != other:
            tree.append((first, second))
            part = [one if of == other else of for of in part]
    return tree


def saddle_distances(minima: Array, saddles: Array) -> Array:
    """(K, K) the lowest level at which two minima are joined: the top of the lowest path.

    It is the highest edge on their way through the spanning tree. Infinite where nothing joins
    them; a minimum's own is its loss.
    """
    found: Array = np.full_like(saddles, np.inf)
    np.fill_diagonal(found, minima)
    parts = [{index} for index in range(len(saddles))]
    for first, second in spanning_tree(saddles):
        one, other = (next(p for p in parts if end in p) for end in (first, second))
        for i in one:
            for j in other:
                found[i, j] = found[j, i] = saddles[first, second]
        parts.remove(other)
        one |= other
    return found


def next_edge(minima: Array, saddles: Array) -> Edge | None:
    """The pair whose saddle is worth finding next; None if every pair has been tried.

    While there are parts that nothing joins: from the deepest minimum to the deepest one that is
    not in its part. Then the highest edge of the spanning tree is taken away, and the deepest
    untried pair of the two sides may replace it; if there is none, the next highest edge.

    Args:
        minima: (K,) their losses.
        saddles: (K, K); NaN where none has been looked for, infinite where none was found.

    Source: Draxler et al. 2018, arXiv:1803.00885, and their code.
    """
    order = np.argsort(minima, kind="stable").tolist()
    tree = spanning_tree(saddles)
    parts = _parts(tree, len(minima))
    if len(set(parts)) > 1:
        cuts = [parts[order[0]]]  # from the part of the deepest one; the others, if that fails
        cuts += sorted(set(parts) - set(cuts), key=[parts[i] for i in order].index)
        sides = [np.asarray(parts) == part for part in cuts]
    else:
        sides = []
        for edge in reversed(tree):
            rest = _parts([other for other in tree if other != edge], len(minima))
            sides.append(np.asarray(rest) == rest[edge[0]])
    for side in sides:
        for first in (i for i in order if side[i]):
            for second in (i for i in order if not side[i]):
                if np.isnan(saddles[first, second]):
                    return min(first, second), max(first, second)
    return None


def _parts(edges: list[Edge], count: int) -> list[int]:
    part = list(range(count))
    for first, second in edges:
        one, other = part[first], part[second]
        part = [one if of == other else of for of in part]
    return part
