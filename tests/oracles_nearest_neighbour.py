"""The 1-NN rule on random subsets: all runs at once, and its memorization and influence exactly.

Distances must differ: then an example's nearest neighbour in any subset is known from ranks.
"""

from __future__ import annotations

from functools import lru_cache
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


@lru_cache
def rank_weights(total, size):
    """(total,) chance that the r-th nearest of `total` is the nearest in a subset, r = 1, ..."""
    ranks = range(1, total + 1)
    return np.array([comb(total - rank, size - 1) / comb(total, size) for rank in ranks])


def exact_out(order, labels, wanted, size, without):
    """Accuracy on a query of the 1-NN rule on subsets of `size` that lack one example."""
    rest = order[order != without]
    return ((labels[rest] == wanted) * rank_weights(len(rest), size)).sum()


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
    # Nobody nearer than the example is in: the others are the size - 1 of n - 1.
    weights = rank_weights(n - 1, size - 1)
    for query, ranks in enumerate(order):
        right = labels[ranks] == wanted[query]
        for place, example in enumerate(ranks):
            inside = (right[:place] * weights[:place]).sum()
            inside += right[place] * (1 - weights[:place].sum())
            outside = exact_out(ranks, labels, wanted[query], size, without=example)
            found[query, example] = inside - outside
    return found
