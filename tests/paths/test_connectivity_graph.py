"""Spanning trees and the lowest ways through a graph, against every path of small graphs."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from landscape.paths.connectivity_graph import next_edge, saddle_distances, spanning_tree

NAN = np.nan


def graph(seed=0, num=5, missing=0.0):
    random = np.random.default_rng(seed)
    saddles = np.triu(random.uniform(-1, 1, (num, num)), 1)
    saddles[np.triu(random.random((num, num)) < missing, 1)] = NAN
    saddles = saddles + saddles.T
    np.fill_diagonal(saddles, NAN)
    return saddles


@pytest.mark.parametrize("seed", range(4))
def test_the_tree_weighs_what_scipys_does(seed):
    saddles = graph(seed, 7)
    weights = saddles + 2  # scipy takes 0 for no edge
    expected = minimum_spanning_tree(np.nan_to_num(np.triu(weights, 1))).sum()
    tree = spanning_tree(saddles)
    assert sum(weights[edge] for edge in tree) == pytest.approx(expected)
    assert len(tree) == 6
    assert [saddles[edge] for edge in tree] == sorted(saddles[edge] for edge in tree)


@pytest.mark.parametrize("seed", range(6))
def test_a_saddle_distance_is_the_top_of_the_lowest_of_all_paths(seed):
    saddles = graph(seed, missing=0.4)
    found = saddle_distances(np.full(5, -2.0), saddles)
    for first, second in permutations(range(5), 2):
        others = [i for i in range(5) if i not in (first, second)]
        ways = [(first, *middle, second) for k in range(4) for middle in permutations(others, k)]
        heights = [[saddles[edge] for edge in pairwise(way)] for way in ways]
        tops = [max(of_way) for of_way in heights if not np.isnan(of_way).any()]
        assert found[first, second] == min(tops, default=np.inf)
    assert np.diag(found).tolist() == [-2.0] * 5


def test_what_nothing_joins_is_infinitely_far():
    saddles = np.full((3, 3), NAN)
    saddles[0, 1] = saddles[1, 0] = 5
    saddles[0, 2] = saddles[2, 0] = np.inf
    found = saddle_distances(np.zeros(3), saddles)
    assert found[0, 1] == 5
    assert found[0, 2] == found[1, 2] == np.inf
    assert spanning_tree(saddles) == [(0, 1)]


def explored(minima, heights):
    """Pairs in the order in which they are asked for."""
    saddles, pairs = np.full((len(minima),) * 2, NAN), []
    while (edge := next_edge(np.asarray(minima), saddles)) is not None:
        saddles[edge] = saddles[edge[::-1]] = heights[edge]
        pairs.append(edge)
    return pairs


def test_the_deepest_minimum_is_joined_to_all_before_ways_around_are_looked_for():
    heights = {(0, 1): 3, (0, 2): 1, (1, 2): 9, (0, 3): 2, (1, 3): 9, (2, 3): 9}
    # 2 is the deepest, then 0, 3, 1.
    pairs = explored([1.0, 3.0, 0.0, 2.0], heights)
    assert pairs[:3] == [(0, 2), (2, 3), (1, 2)]
    # The highest edges are 2-3 and 1-2: 3 and then 1 are led around, deepest pairs first.
    assert set(pairs) == set(heights)
    assert len(pairs) == 6


def test_the_highest_edge_of_the_tree_is_replaced_first():
    saddles = np.full((3, 3), NAN)
    for edge, height in {(0, 1): 1.0, (0, 2): 5.0}.items():
        saddles[edge] = saddles[edge[::-1]] = height
    assert next_edge(np.zeros(3), saddles) == (1, 2)
    saddles[1, 2] = saddles[2, 1] = 2.0
    assert next_edge(np.zeros(3), saddles) is None
    assert spanning_tree(saddles) == [(0, 1), (1, 2)]


def test_of_several_edges_the_highest_goes():
    saddles = np.full((4, 4), NAN)
    for edge, height in {(0, 1): 1.0, (0, 2): 5.0, (0, 3): 3.0}.items():
        saddles[edge] = saddles[edge[::-1]] = height
    # Of 2, to the deepest of the others that has not been tried; not 1 to 3.
    assert next_edge(np.array([0.0, 3.0, 1.0, 2.0]), saddles) == (2, 3)
    assert next_edge(np.array([0.0, 2.0, 1.0, 3.0]), saddles) == (1, 2)


def test_of_an_unlucky_pair_another_way_is_tried():
    saddles = np.full((3, 3), NAN)
    saddles[0, 1] = saddles[1, 0] = np.inf
    saddles[0, 2] = saddles[2, 0] = 1.0
    assert next_edge(np.zeros(3), saddles) == (1, 2)
