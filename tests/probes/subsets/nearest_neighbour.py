"""The 1-NN rule on random subsets: all runs at once, and its memorization and influence exactly.

Distances must differ: then an example's nearest neighbour in any subset is known from ranks.
"""

from __future__ import annotations

from math import comb

import numpy as np


def ranking(points, others=None):
    """(q, n) indices of `points` from the nearest to each of `others` on; of themselves first."""
    queries = points if others is None else others
    distances = np.square(queries[:, None] - points[None]).sum(-1)
    if others is None:
        np.fill_diagonal(distances, -1.0)
    return np.argsort(distances, axis=1, kind="stable")


def correct_of(order, labels, wanted, masks):
    """(T, q): whether the nearest of each mask's members has the wanted label (q,)."""
    right = np.empty((len(masks), len(order)), dtype=bool)
    for query, (ranks, label) in enumerate(zip(order, wanted, strict=True)):
        nearest = ranks[masks[:, ranks].argmax(1)]
        right[:, query] = labels[nearest] == label
    return right


def uniform_masks(generator, num_models, num_examples, size):
    draws = generator.random((num_models, num_examples))
    masks = np.zeros((num_models, num_examples), dtype=bool)
    np.put_along_axis(masks, np.argpartition(draws, size - 1, axis=1)[:, :size], True, axis=1)
    return masks


def exact_out(order, labels, wanted, size, without):
    """Accuracy on a query of the 1-NN rule on subsets of `size` that lack one example."""
    n = len(labels)
    rest = [other for other in order if other != without]
    return sum(
        (labels[other] == wanted) * comb(n - 1 - rank, size - 1)
        for rank, other in enumerate(rest, start=1)
    ) / comb(n - 1, size)


def exact_memorization(points, labels, size):
    order = ranking(points)
    return np.array(
        [
            1 - exact_out(order[i, 1:], labels, labels[i], size, without=i)
            for i in range(len(labels))
        ]
    )


def exact_influence(order, labels, wanted, size):
    """(q, n) of each example on each query, whose ranking is `order` (q, n)."""
    n = len(labels)
    found = np.empty((len(order), n))
    for query, ranks in enumerate(order):
        for example in range(n):
            place = int(np.flatnonzero(ranks == example)[0]) + 1
            inside = sum(
                (labels[ranks[r - 1]] == wanted[query]) * comb(n - 1 - r, size - 2)
                for r in range(1, place)
            )
            inside += (labels[example] == wanted[query]) * comb(n - place, size - 1)
            outside = exact_out(ranks, labels, wanted[query], size, without=example)
            found[query, example] = inside / comb(n - 1, size - 1) - outside
    return found
