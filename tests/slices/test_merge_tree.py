"""The merge tree against thresholding: every level, every pair and every path, one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from landscape.slices.merge_tree import branches, merge_tree


def structure_of(values, connectivity):
    return ndimage.generate_binary_structure(
        values.ndim, values.ndim if connectivity == "full" else 1
    )


def grid(shape, kind, seed):
    """Losses without ties ("normal"), with plateaus ("flats"), or with points cut out as well."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(shape)
    if kind != "normal":
        values = np.round(values)
    if kind == "holes":
        values[generator.random(shape) < 0.2] = np.nan
        values[generator.random(shape) < 0.1] = np.inf
    return values


GRIDS = [
    pytest.param(shape, kind, seed, connectivity, id=f"{shape}-{kind}-{seed}-{connectivity}")
    for shape, kind, seed, connectivity in itertools.product(
        [(23,), (12, 13), (1, 9), (5, 4, 5)], ["normal", "flats", "holes"], [0, 1], ["full", "axes"]
    )
]


def parts(values, level, structure):
    """Flat indices of each component of {values <= level}, the oldest point first."""
    labels, count = ndimage.label(values <= level, structure)
    found = [np.flatnonzero(labels.ravel() == label) for label in range(1, count + 1)]
    flat = values.ravel()
    return [sorted(part.tolist(), key=lambda point: (flat[point], point)) for part in found]


def levels_of(values):
    return np.unique(values[np.isfinite(values)])


def branches_by_thresholding(values, structure):
    """Minimum -> (death, parent), from the oldest point of each part at each level."""
    alive, ended = set(), {}
    for level in levels_of(values):
        found = parts(values, level, structure)
        for point in alive - {part[0] for part in found}:
            (home,) = (part for part in found if point in part)
            ended[point] = (level, home[0])
        alive = {part[0] for part in found}
    return {**dict.fromkeys(alive, (np.inf, -1)), **ended}


@pytest.mark.parametrize(("shape", "kind", "seed", "connectivity"), GRIDS)
def test_branches_are_those_of_thresholding_at_every_level(shape, kind, seed, connectivity):
    values = grid(shape, kind, seed)
    structure = structure_of(values, connectivity)
    found = branches(values, structure)
    elders = [found.minima[parent] if parent >= 0 else -1 for parent in found.parents]
    pairs = dict(zip(found.minima, zip(found.deaths, elders, strict=True), strict=True))
    assert pairs == branches_by_thresholding(values, structure)
    order = sorted(found.minima, key=lambda point: (values.ravel()[point], point))
    assert found.minima.tolist() == order
    np.testing.assert_array_equal(found.births, values.ravel()[found.minima])


@pytest.mark.parametrize(("shape", "kind", "seed", "connectivity"), GRIDS)
def test_a_saddle_lies_where_the_parts_meet(shape, kind, seed, connectivity):
    values = grid(shape, kind, seed)
    structure = structure_of(values, connectivity)
    found = branches(values, structure)
    for index, saddle in enumerate(found.saddles):
        if found.parents[index] < 0:
            assert saddle == -1
            continue
        assert values.ravel()[saddle] == found.deaths[index]
        ends = {found.minima[index], found.minima[found.parents[index]]}
        (whole,) = (
            part for part in parts(values, found.deaths[index], structure) if saddle in part
        )
        assert ends <= set(whole)
        if kind == "normal":  # no other point of that height: without this one, they are apart
            below = np.nextafter(found.deaths[index], -np.inf)
            assert not any(ends <= set(part) for part in parts(values, below, structure))


@pytest.mark.parametrize(("shape", "kind", "seed", "connectivity"), GRIDS)
def test_from_each_point_a_way_leads_down_to_its_minimum(shape, kind, seed, connectivity):
    values = grid(shape, kind, seed)
    structure = structure_of(values, connectivity)
    found = branches(values, structure)
    np.testing.assert_array_equal(found.basins >= 0, np.isfinite(values))
    for index, minimum in enumerate(found.minima):
        reached = np.zeros(values.shape, bool)
        reached.flat[minimum] = True
        for level in levels_of(values):  # upwards: each point from one that is not higher
            at = values == level
            grown = ndimage.binary_dilation(reached, structure) & at
            reached |= ndimage.binary_propagation(grown, structure, mask=at)
        assert reached[found.basins == index].all()
        assert found.basins.flat[minimum] == index


@pytest.mark.parametrize(("shape", "kind", "seed", "connectivity"), GRIDS)
def test_below_a_node_hang_the_minima_of_its_part(shape, kind, seed, connectivity):
    values = grid(shape, kind, seed)
    structure = structure_of(values, connectivity)
    found = branches(values, structure)
    tree = merge_tree(found.births, found.deaths, found.parents)
    count = len(found.minima)
    np.testing.assert_array_equal(tree.heights[:count], found.births)
    below = [{node} if node < count else set() for node in range(len(tree.heights))]
    for node in np.argsort(tree.heights, kind="stable"):  # a parent is higher than its children
        if tree.parents[node] >= 0:
            assert tree.heights[tree.parents[node]] > tree.heights[node]
            below[tree.parents[node]] |= below[node]
    wanted = set()
    for level in np.unique(found.deaths[np.isfinite(found.deaths)]):
        dying = set(found.minima[found.deaths == level])
        for part in parts(values, level, structure):
            if dying & set(part):
                held = frozenset(np.flatnonzero(np.isin(found.minima, part)))
                wanted.add((level, held))
    nodes = zip(tree.heights[count:], below[count:], strict=True)
    assert {(height, frozenset(held)) for height, held in nodes} == wanted
    assert (tree.parents < 0).sum() == np.isinf(found.deaths).sum()


def test_any_number_of_basins_meets_at_one_node():
    values = np.array([0.0, 5, 1, 5, 2, 5, 3])
    for order in (values, values[::-1]):  # whichever pass comes first
        found = branches(order, np.ones(3, bool))
        assert found.births.tolist() == [0, 1, 2, 3]
        assert found.parents.tolist() == [-1, 0, 0, 0]
        tree = merge_tree(found.births, found.deaths, found.parents)
        assert tree.heights.tolist() == [0, 1, 2, 3, 5]
        assert tree.parents.tolist() == [4, 4, 4, 4, -1]


def test_a_chain_of_basins_makes_a_chain_of_nodes():
    found = branches(np.array([0.0, 9, 1, 7, 2, 5, 3]), np.ones(3, bool))
    assert found.parents.tolist() == [-1, 0, 1, 2]
    tree = merge_tree(found.births, found.deaths, found.parents)
    assert tree.heights.tolist() == [0, 1, 2, 3, 5, 7, 9]
    assert tree.parents.tolist() == [6, 5, 4, 4, 5, 6, -1]


def test_a_flat_step_takes_no_number():
    found = branches(np.array([5.0, 1, 1, 0, 9, 2, 7, 3]), np.ones(3, bool))
    assert found.births.tolist() == [0, 2, 3]
    assert found.parents.tolist() == [-1, 0, 1]
    assert found.basins.tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
