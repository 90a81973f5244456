"""The topology of grids with known answers, of a sweep with its doubts, and what stays the same."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from scipy import ndimage, sparse

import landscape as ls
from landscape import store
from landscape.errors import RequestError
from landscape.slices.sweep import Sweep
from landscape.slices.topology import topology


def sweep_of(loss, **changes):
    values = np.asarray(loss, float)
    k = values.ndim
    given = {
        "settings": {"seed": 3, "radius": 1.0},
        "provenance": {"loss": "mse"},
        "kind": {1: "line", 2: "plane"}.get(k, "grid"),
        "coordinates": tuple(np.linspace(-1, 1, length) for length in values.shape),
        "fields": {"loss": values},
        "done": np.ones(values.shape, bool),
        "direction_names": tuple(f"random {index}" for index in range(k)),
        "direction_norms": np.ones(k),
        "cosines": np.eye(k),
        "center_loss": 0.0,
    }
    return Sweep(**(given | changes))


def egg_carton(num, periods):
    waves = np.cos(2 * np.pi * np.linspace(0, periods, num))
    return np.add.outer(waves, waves)


def pairs(found):
    return sorted(zip(found.births.tolist(), found.deaths.tolist(), strict=True))


# -- closed forms -------------------------------------------------------------------------------


def test_a_double_well_has_two_minima_and_the_pass_between_them():
    line = np.linspace(-2, 2, 81)
    found = topology((line**2 - 1) ** 2, coordinates=[line])
    assert sorted(found.minimum_coordinates.ravel()) == pytest.approx([-1, 1])
    assert found.births == pytest.approx([0, 0])
    assert found.deaths.tolist() == [np.inf, 1]
    assert found.saddle_coordinates[1] == pytest.approx([0], abs=1e-12)
    assert found.saddle_height(0, 1) == 1
    assert not found.at_border.any()


def test_a_w_has_the_persistence_of_its_higher_end():
    found = topology([4.0, 0, 3, 1, 5])
    assert found.minima.tolist() == [[1], [3]]
    assert found.births.tolist() == [0, 1]
    assert found.saddles.tolist() == [[-1], [2]]
    np.testing.assert_array_equal(found.saddle_coordinates, [[np.nan], [2]])
    assert found.deaths.tolist() == [np.inf, 3]
    assert found.persistence.tolist() == [np.inf, 2]
    assert found.parents.tolist() == [-1, 0]
    assert found.basins.tolist() == [0, 0, 0, 1, 1]
    assert found.merge_tree.heights.tolist() == [0, 1, 3]
    assert found.merge_tree.parents.tolist() == [2, 2, -1]


@pytest.mark.parametrize("connectivity", ["full", "axes"])
def test_an_egg_carton_has_a_minimum_a_cell_and_passes_at_zero(connectivity):
    found = topology(egg_carton(33, 4), connectivity=connectivity)
    assert len(found.births) == 16
    np.testing.assert_array_equal(found.births, -2)
    np.testing.assert_allclose(found.deaths[1:], 0, atol=1e-14)
    assert (found.parents[1:] == 0).all()
    cells = {(4 + 8 * i, 4 + 8 * j) for i in range(4) for j in range(4)}
    assert {tuple(index) for index in found.minima} == cells


def test_the_minima_of_curvy_valley_meet_at_the_saddle_of_height_one():
    half = 5 * np.pi / 2
    x, y = np.linspace(-1.2 * half, 1.2 * half, 121), np.linspace(-2, 2, 81)
    u, v = np.meshgrid(x, y, indexing="ij")
    found = topology(
        (v - np.sin(u)) ** 2 + (u / half) ** 4 - 2 * (u / half) ** 2 + 1, coordinates=(x, y)
    )
    assert found.num_minima(persistence=0.1) == 2
    deep = np.flatnonzero(found.persistence >= 0.1)
    np.testing.assert_allclose(found.births[deep], 0, atol=1e-12)
    ends = np.abs(found.minimum_coordinates[deep])
    np.testing.assert_allclose(ends, [[half, 1], [half, 1]], rtol=1e-12)
    # Diagonal steps of the grid pass the saddle a little beside the valley's floor.
    assert found.saddle_height(*deep) == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(found.saddle_coordinates[deep[1]], 0, atol=0.06)


def test_the_minima_and_saddles_of_mueller_brown_are_the_published_ones():
    x, y = np.linspace(-1.5, 1.2, 109), np.linspace(-0.4, 2, 97)
    u, v = np.meshgrid(x, y, indexing="ij")
    found = topology(mueller_brown(u, v), coordinates=(x, y))
    assert found.births == pytest.approx([-146.699517, -108.166724, -80.767818], abs=0.1)
    assert found.deaths == pytest.approx([np.inf, -40.664844, -72.248940], abs=0.1)
    assert found.parents.tolist() == [-1, 0, 1]
    exact = [[-0.558224, 1.441726], [0.623499, 0.028038], [-0.050011, 0.466694]]
    np.testing.assert_allclose(found.minimum_coordinates, exact, atol=0.0126)
    exact = [[-0.822002, 0.624313], [0.212487, 0.292988]]
    np.testing.assert_allclose(found.saddle_coordinates[1:], exact, atol=0.026)


def mueller_brown(x, y):
    terms = [
        (-200, -1, 0, -10, 1, 0),
        (-100, -1, 0, -10, 0, 0.5),
        (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    ]
    return sum(
        height * np.exp(a * (x - x0) ** 2 + b * (x - x0) * (y - y0) + c * (y - y0) ** 2)
        for height, a, b, c, x0, y0 in terms
    )


def test_a_ramp_has_one_minimum():
    found = topology(np.add.outer(np.arange(5.0), 2 * np.arange(4.0)))
    assert found.minima.tolist() == [[0, 0]]
    assert found.deaths.tolist() == [np.inf]
    assert found.at_border.tolist() == [True]
    assert not found.basins.any()


def test_a_plateau_is_one_minimum_and_a_flat_step_is_none():
    pan = np.pad(np.zeros((3, 3)), 2, constant_values=4.0)
    pan[2:5, 2:5] = [[1, 2, 1], [1, 2, 1], [1, 1, 1]]  # a U whose arms meet only below
    assert topology(pan).minima.tolist() == [[2, 2]]
    assert topology([0.0, 1, 1, 1, 2, 2, 3]).num_minima() == 1
    assert topology([3.0, 3, 1, 2, 2, 1, 1]).minima.tolist() == [[2], [5]]


def test_a_flat_grid_is_one_minimum_for_ever():
    found = topology(np.full((4, 5), 2.0))
    assert pairs(found) == [(2, np.inf)]
    assert found.num_minima(level=2.0) == 0
    assert found.num_minima(level=2.1) == 1


def test_only_diagonal_neighbours_join_the_fields_of_a_checkerboard():
    board = np.indices((6, 5)).sum(0) % 2 * 1.0
    assert topology(board, connectivity="full").num_minima() == 1
    found = topology(board, connectivity="axes")
    assert found.num_minima() == 15
    assert found.deaths[1:].tolist() == [1] * 14
    assert found.num_minima(level=1.0) == 15
    assert found.num_minima(level=1.5) == 1


@pytest.mark.parametrize(("wall", "height"), [(np.nan, np.inf), (np.inf, np.inf), (7.0, 7.0)])
def test_a_wall_of_nan_or_infinity_separates_two_basins_for_ever(wall, height):
    basins = np.abs(np.arange(-4.0, 5))[None] % 4 + np.arange(3.0)[:, None]
    basins[:, 4] = wall
    found = topology(basins)
    sides = found.num_minima(persistence=3.0)
    assert sides == 2
    assert found.saddle_height((0, 1), (0, 7)) == height
    assert found.saddle_height((0, 1), (2, 2)) == 4
    assert found.num_nan == (3 if np.isnan(wall) else 0)
    assert found.num_infinite == (3 if wall == np.inf else 0)
    assert (found.basins[:, 4] >= 0).all() == np.isfinite(wall)


def test_a_grid_without_a_finite_loss_has_no_minima():
    found = topology([np.nan, np.inf])
    assert (found.num_minima(), found.num_nan, found.num_infinite) == (0, 1, 1)
    assert found.minima.shape == found.minimum_coordinates.shape == (0, 1)
    assert np.isnan(found.to_dataset()["largest_finite_persistence"])


def test_a_minimum_is_at_the_border_if_any_of_its_plateau_is():
    assert topology([2.0, 1, 1, 2]).at_border.tolist() == [False]
    assert topology([2.0, 1, 1, 1]).at_border.tolist() == [True]
    assert topology([3.0, 1, 2, np.nan]).at_border.tolist() == [False]
    assert topology([3.0, 2, 1, 1, np.nan, 0, 1]).at_border.tolist() == [True, True]
    assert topology([3.0, 2, 1, 1, np.inf, 2, 3]).at_border.tolist() == [False, False]
    line = np.array([[2.0, 1, 2]])
    assert topology(line).at_border.tolist() == [False]  # nothing lies beside a single row
    assert topology(np.vstack([line, line])).at_border.tolist() == [True]
    cross = np.array([[np.nan, 5, 5, 5], [5, 1, 5, 5], [5, 5, 5, 5], [5, 5, 5, 5]])
    assert topology(cross).at_border.tolist() == [True]
    assert topology(cross, connectivity="axes").at_border.tolist() == [False]


# -- against counting and paths -----------------------------------------------------------------


def rugged(shape, seed, *, holes=True):
    generator = np.random.default_rng(seed)
    values = np.round(2 * generator.standard_normal(shape))
    if holes:
        values[generator.random(shape) < 0.15] = np.nan
        values[generator.random(shape) < 0.1] = np.inf
    return values


SHAPES = [(30,), (7, 6), (4, 3, 4)]
GRIDS = list(itertools.product(SHAPES, [0, 1], ["full", "axes"]))


def structure_of(shape, connectivity):
    return ndimage.generate_binary_structure(
        len(shape), len(shape) if connectivity == "full" else 1
    )


@pytest.mark.parametrize(("shape", "seed", "connectivity"), GRIDS)
def test_as_many_minima_as_components_at_every_level(shape, seed, connectivity):
    values = rugged(shape, seed)
    found = topology(values, connectivity=connectivity)
    exact = np.unique(values[~np.isnan(values)])
    for level in [*exact, *(exact + 0.5), -100.0]:
        _, count = ndimage.label(values < level, structure_of(shape, connectivity))
        assert found.num_minima(level) == count, level


@pytest.mark.parametrize(("shape", "seed", "connectivity"), GRIDS)
def test_saddle_heights_are_those_of_the_minimum_spanning_tree(shape, seed, connectivity):
    values = rugged(shape, seed)
    found = topology(values, connectivity=connectivity)
    points = [tuple(point) for point in np.argwhere(~np.isnan(values)).tolist()]
    reach = len(shape) if connectivity == "full" else 1
    apart = np.abs(np.subtract.outer(points, points)[..., range(len(shape)), :, range(len(shape))])
    beside = (apart.max(0) == 1) & (apart.sum(0) <= reach)
    flat = np.array([values[point] for point in points])
    weights = np.where(beside, np.maximum.outer(flat, flat), np.inf)
    heights = np.minimum(highest_edges(weights), np.inf)
    np.fill_diagonal(heights, flat)
    for (i, one), (j, other) in itertools.product(enumerate(points), repeat=2):
        assert found.saddle_height(one, other) == heights[i, j]


def highest_edges(weights):
    """Highest edge of the way between any two points in the minimum spanning tree."""
    finite = np.isfinite(weights)
    shifted = np.where(finite, weights - weights[finite].min() + 1, 0)  # 0 stands for no edge
    tree = sparse.csgraph.minimum_spanning_tree(sparse.csr_array(shifted)).toarray()
    tree = np.where(tree > 0, tree, np.inf)
    heights = np.minimum(tree, tree.T)
    for middle in range(len(heights)):
        way = np.maximum(heights[:, middle, None], heights[None, middle])
        heights = np.minimum(heights, way)
    return np.where(np.isfinite(heights), heights + weights[finite].min() - 1, np.inf)


def test_saddle_heights_take_minima_by_number_or_by_place():
    found = topology(rugged((7, 6), 0))
    for i, j in itertools.combinations(range(len(found.births)), 2):
        by_place = found.saddle_height(tuple(found.minima[i]), found.minima[j])
        assert found.saddle_height(i, j) == found.saddle_height(np.int64(j), i) == by_place
    assert found.saddle_height(1, 1) == found.births[1]


def test_less_persistent_minima_are_not_counted():
    found = topology([0.0, 9, 1, 7, 2, 5, 3])  # persistence: for ever, 8, 5, 2
    assert [found.num_minima(persistence=p) for p in (0, 2, 2.1, 5.1, 8.1)] == [4, 4, 3, 2, 1]
    assert [found.num_minima(level=6.0, persistence=p) for p in (0, 3, 6)] == [3, 3, 2]


# -- what stays the same ------------------------------------------------------------------------


def test_a_monotone_transformation_keeps_the_tree():
    values = rugged((9, 8), 0)
    one, other = topology(values), topology(np.exp(values / 3))
    for name in ("minima", "saddles", "parents", "basins", "at_border"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(np.exp(one.deaths / 3), other.deaths)
    np.testing.assert_array_equal(one.merge_tree.parents, other.merge_tree.parents)


def test_a_constant_shifts_births_and_deaths_and_keeps_the_persistence():
    values = rugged((9, 8), 1)
    one, other = topology(values), topology(values + 16)
    np.testing.assert_array_equal(one.deaths + 16, other.deaths)
    np.testing.assert_array_equal(one.persistence, other.persistence)


@pytest.mark.parametrize("connectivity", ["full", "axes"])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_turned_and_mirrored_grids_have_turned_and_mirrored_minima(axes, connectivity):
    values = np.random.default_rng(0).standard_normal((6, 5, 4))
    values[values > 1.5] = np.nan
    one = topology(values, connectivity=connectivity)
    turned = np.flip(values.transpose(axes), axis=1)
    other = topology(turned, connectivity=connectivity)
    for name in ("births", "deaths", "parents", "at_border"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("minima", "saddles"):
        moved = getattr(one, name)[:, axes]
        moved[:, 1] = np.where(moved[:, 1] < 0, -1, turned.shape[1] - 1 - moved[:, 1])
        np.testing.assert_array_equal(moved, getattr(other, name))
    basins = np.flip(one.basins.transpose(axes), axis=1)
    np.testing.assert_array_equal(basins, other.basins)


@pytest.mark.parametrize("seed", range(4))
def test_ties_do_not_make_the_pairs_depend_on_how_the_grid_lies(seed):
    values = rugged((6, 7), seed, holes=False)
    one = topology(values)
    for other in map(topology, (values.T, values[::-1], values[:, ::-1])):
        assert pairs(one) == pairs(other)
        parents = [sorted(f.births[f.parents[1:]].tolist()) for f in (one, other)]
        assert parents[0] == parents[1]


# -- a sweep and its doubts ---------------------------------------------------------------------


def test_a_sweep_lends_its_coordinates_request_and_provenance():
    sweep = sweep_of([[4.0, 0, 3, 1, 5], [4, 4, 4, 4, 4]])
    found = topology(sweep, connectivity="axes")
    assert found.coordinates is sweep.coordinates
    assert found.settings == {
        "seed": 3,
        "radius": 1.0,
        "kind": "plane",
        "connectivity": "axes",
    }
    assert found.provenance == sweep.provenance
    np.testing.assert_array_equal(found.minimum_coordinates, [[-1, -0.5], [-1, 0.5]])
    data = found.to_dataset()
    assert (data["b"].attrs["units"], data["b"].attrs["long_name"]) == ("d2", "along random 1")
    assert (found.status, found.notes, found.probe) == ("converged", (), "topology")


def test_missing_points_are_told_from_nan_and_from_those_filled_in():
    done = np.array([True, True, False, False, True])
    found = topology(sweep_of([0.0, np.nan, np.nan, 2, 1], done=done))
    assert (found.num_nan, found.num_missing) == (1, 1)
    assert found.status == "1 of 5 points missing"
    assert found.notes == (
        "2 points have no value: no path leads through them",
        "1 points were filled in between measured ones",
    )


def test_a_minimum_is_significant_beyond_two_standard_errors_at_both_ends():
    loss = [4.0, 0, 3, 1, 3.5, 2, 6]
    errors = [9.0, 0.1, 0.4, 0.5, 0.5, 0.5, 9]
    fields = {"loss": np.array(loss), "standard_error": np.array(errors)}
    found = topology(sweep_of(loss, fields=fields))
    np.testing.assert_allclose(found.persistence_errors, [np.nan, 0.9, 1.0])
    assert found.significant.tolist() == [True, True, False]  # 2 > 1.8; 1.5 < 2
    assert int(found.to_dataset()["num_significant"]) == 2


def test_without_standard_errors_nothing_is_said_on_significance():
    unknown = {"loss": np.array([0.0, 2, 1]), "standard_error": np.full(3, np.nan)}
    for given in ([0.0, 2, 1], sweep_of([0.0, 2, 1]), sweep_of([0.0, 2, 1], fields=unknown)):
        found = topology(given)
        assert found.significant is None
        data = found.to_dataset()
        assert np.isnan(data["num_significant"])
        assert not {"significant", "persistence_error"} & set(data)


def test_a_minimum_of_unknown_error_is_not_significant():
    fields = {"loss": np.array([0.0, 2, 1]), "standard_error": np.array([0.1, np.nan, 0.1])}
    assert topology(sweep_of(fields["loss"], fields=fields)).significant.tolist() == [True, False]


@pytest.mark.parametrize("is_linear", [True, False])
def test_the_error_bounds_that_of_the_paired_difference_and_reaches_it(is_linear):
    generator = np.random.default_rng(0)
    places = np.arange(-1.0, 4)
    slopes = generator.standard_normal(200)
    examples = slopes[:, None] * places  # the center is at 0, between saddle and minimum
    if not is_linear:
        examples = examples + generator.standard_normal((200, 1)) * places**2
    examples += [-3, 0, 3, -9, 3]
    losses = examples.mean(0)
    errors = (examples - examples[:, [1]]).std(0, ddof=1) / np.sqrt(200)
    found = topology(sweep_of(losses, fields={"loss": losses, "standard_error": errors}))
    assert found.saddles[1] == [2]
    difference = examples[:, 2] - examples[:, 0]
    exact = difference.std(ddof=1) / np.sqrt(200)
    if is_linear:
        assert found.persistence_errors[1] == pytest.approx(exact)
    else:
        assert found.persistence_errors[1] > exact


# -- the record ---------------------------------------------------------------------------------


def test_the_record_holds_the_tree_under_named_dimensions(tmp_path):
    fields = {"loss": egg_carton(17, 2), "standard_error": np.full((17, 17), 0.1)}
    found = topology(sweep_of(fields["loss"], fields=fields))
    (group,) = ls.save(tmp_path / "r.h5", found)
    data = store.read(tmp_path / "r.h5", group)
    assert data.sizes == {"minimum": 4, "axis": 2, "node": 5, "a": 17, "b": 17}
    assert all({"units", "long_name"} <= set(data[name].attrs) for name in data.data_vars)
    assert data["axis"].to_numpy().tolist() == ["a", "b"]
    for name, values in {
        "birth": found.births,
        "death": found.deaths,
        "persistence": found.persistence,
        "parent": found.parents,
        "minimum_place": found.minimum_coordinates,
        "saddle_place": found.saddle_coordinates,
        "minimum_index": found.minima,
        "saddle_index": found.saddles,
        "node_height": found.merge_tree.heights,
        "node_parent": found.merge_tree.parents,
        "basin": found.basins,
        "significant": found.significant,
        "persistence_error": found.persistence_errors,
        "at_border": found.at_border,
        "a": found.coordinates[0],
    }.items():
        np.testing.assert_array_equal(data[name].to_numpy(), values, err_msg=name)
    row = ls.open_results(tmp_path / "r.h5").table().iloc[0]
    assert row["topology.num_minima"] == row["topology.num_significant"] == 4
    assert row["topology.largest_finite_persistence"] == pytest.approx(2)


def test_the_largest_finite_persistence_of_a_single_basin_is_zero():
    assert topology([2.0, 1, 2]).to_dataset()["largest_finite_persistence"] == 0


def test_two_arrays_are_two_records_and_the_same_one_is_one(tmp_path):
    given = [[0.0, 1, 0], [0.0, 2, 0], [[0.0, 1, 0]], [0.0, 1, 0]]
    groups = [ls.save(tmp_path / "r.h5", topology(values))[0] for values in given]
    groups += ls.save(tmp_path / "r.h5", topology(given[0], coordinates=[[1, 2, 3]]))
    groups += ls.save(tmp_path / "r.h5", topology(given[0], connectivity="axes"))
    assert groups[0] == groups[3]
    assert len(set(groups)) == 5


def test_the_array_of_the_caller_is_copied_not_kept():
    values = np.array([[0.0, 1], [2, 3]])
    values.flags.writeable = False
    found = topology(values[::-1])
    assert not np.shares_memory(found.losses, values)
    np.testing.assert_array_equal(found.losses, values[::-1])


# -- wrong requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "options", "message"),
    [
        ([0.0, 1], {"connectivity": "axis"}, "Did you mean 'axes'"),
        (3.0, {}, "shape ()"),
        (np.empty((2, 0)), {}, "shape (2, 0)"),
        (np.zeros((1,) * 7), {}, "from 1 to 6 axes"),
        ([0.0, -np.inf, -np.inf], {}, "-inf at 2 points, first at [1]"),
        ([0.0, 1], {"coordinates": [[0, 1, 2]]}, "coordinates has shapes [(3,)]"),
        ([0.0, 1], {"coordinates": [[0, 1], [0, 1]]}, "whose shape is (2,)"),
        (sweep_of([0.0, 1]), {"coordinates": [[0, 1]]}, "which has its own"),
        (sweep_of([[0.0, 1]], kind="lines"), {}, "take one: topology(sweep.loss[0], coord"),
    ],
)
def test_a_wrong_request_says_what_to_type(losses, options, message):
    with pytest.raises(RequestError, match=re.escape(message)):
        topology(losses, **options)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda found: found.num_minima(np.nan), "level=nan"),
        (lambda found: found.num_minima(persistence=-1), "persistence=-1"),
        (lambda found: found.num_minima(persistence=np.nan), "persistence=nan"),
        (lambda found: found.saddle_height(2, 0), "there are 2, counted from 0"),
        (lambda found: found.saddle_height(0, -1), "minimum -1 does not exist"),
        (lambda found: found.saddle_height((0,), (4,)), "whose shape is (4,)"),
        (lambda found: found.saddle_height((0, 0), 0), "point (0, 0) is not in the grid"),
        (lambda found: found.saddle_height((-1,), 0), "point (-1,) is not in the grid"),
        (lambda found: found.saddle_height((3,), 0), "point (3,) has no value"),
    ],
)
def test_a_question_without_an_answer_says_why(ask, message):
    found = topology([0.0, 2, 1, np.nan])
    with pytest.raises(RequestError, match=re.escape(message)):
        ask(found)
