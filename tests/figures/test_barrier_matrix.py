"""The figure of a barrier matrix: the cells, their order, the tree above them and the basins."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError
from landscape.paths.barrier_matrix import BarrierMatrix

# Two basins, {a, c} and {b, d}, and e alone: not in the order of the rows.
VALUES = np.array(
    [
        [0.0, 3.0, 0.1, 4.0, 8.0],
        [3.0, 0.0, 5.0, 0.2, 7.0],
        [0.1, 5.0, 0.0, 6.0, 8.0],
        [4.0, 0.2, 6.0, 0.0, 9.0],
        [8.0, 7.0, 8.0, 9.0, 0.0],
    ]
)


def make(values=VALUES, *, definition="chord", threshold=0.5, **options):
    count = len(values)
    return BarrierMatrix(
        settings={"definition": definition},
        names=options.pop("names", tuple("abcdefghijklmnopqrstuvwxyz"[:count])),
        metric="loss",
        definition=definition,
        values=np.asarray(values, float),
        standard_errors=options.pop("errors", np.full((count, count), 0.01)),
        alphas=np.full((count, count), 0.5),
        paths=np.ones((count, count, 3)),
        ends=np.ones(count),
        angles=np.ones((count, count)),
        threshold=threshold,
        bn="eval",
    )


def cells(axis):
    """(T, T) what the colours stand for."""
    (mesh,) = [one for one in axis.collections if isinstance(one, QuadMesh)]
    return np.asarray(mesh.get_array().filled(np.nan)).reshape(axis_size(axis), -1)


def axis_size(axis):
    return int(axis.get_xlim()[1])


def rows(axis):
    return [text.get_text() for text in axis.get_yticklabels()]


def tree_of(axis):
    (found,) = [one for one in axis.child_axes if one.get_ylabel().endswith("the lowest way")]
    return found


def lines(axis):
    (found,) = [one for one in axis.collections if isinstance(one, LineCollection)]
    return [np.asarray(segment) for segment in found.get_segments()]


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def test_cells_are_the_barriers_in_the_order_of_the_tree(fits_its_sheet):
    figure = figures.barrier_matrix(make())
    axis = figure.axes[0]
    order = ["abcde".index(name) for name in rows(axis)]
    assert sorted(order) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(cells(axis), VALUES[np.ix_(order, order)])
    assert [text.get_text() for text in axis.get_xticklabels()] == rows(axis)
    together = {frozenset(rows(axis)[start : start + 2]) for start in range(4)}
    assert {frozenset("ac"), frozenset("bd")} <= together
    assert axis.get_ylim() == (5, 0)  # the first row is at the top
    assert figure.get_suptitle() == "Barriers between 5 solutions in 3 basins"
    fits_its_sheet(figure)


def test_the_tree_joins_at_the_barrier_on_the_lowest_way():
    record = make()
    axis = figures.barrier_matrix(record).axes[0]
    tree = tree_of(axis)
    joints = sorted(joint[:, 1].max() for joint in lines(tree))
    np.testing.assert_allclose(joints, [0.1, 0.2, 3.0, 7.0])
    assert tree.get_xlim() == axis.get_xlim()
    # A leaf stands above the middle of its column.
    feet = {float(x) for joint in lines(tree) for x, y in joint if y == 0}
    assert feet == {0.5, 1.5, 2.5, 3.5, 4.5}
    pair = next(joint for joint in lines(tree) if np.isclose(joint[:, 1].max(), 0.1))
    joined = {rows(axis)[int(x)] for x in (pair[0, 0], pair[-1, 0])}
    assert joined == {"a", "c"}


def test_the_shade_of_the_tree_ends_at_the_threshold():
    figure = figures.barrier_matrix(make())
    (shade,) = tree_of(figure.axes[0]).patches
    assert (shade.get_y(), shade.get_height()) == (0, 0.5)
    assert "up to 0.5 (loss) is no barrier" in caption(figure)
    each = np.full((5, 5), 0.25)
    each[0, 1] = each[1, 0] = 0.75
    figure = figures.barrier_matrix(make(threshold=each))
    assert "up to 0.25 to 0.75 (loss) is no barrier" in caption(figure)


def test_basins_are_outlined():
    axis = figures.barrier_matrix(make()).axes[0]
    drawn = {frozenset(map(tuple, segment)) for segment in lines(axis)}
    size, starts = 5, []
    names, basins = rows(axis), [{"a", "c"}, {"b", "d"}, {"e"}]
    wanted = set()
    for basin in basins:
        places = sorted(names.index(name) for name in basin)
        starts.append(places[0])
        low, high = places[0], places[-1] + 1
        for edge in range(low, high):
            for side in (low, high):
                wanted.add(frozenset([(edge, side), (edge + 1, side)]))
                wanted.add(frozenset([(side, edge), (side, edge + 1)]))
    assert size == axis_size(axis)
    assert drawn == wanted


def test_numbers_are_written_where_there_is_room_and_never_on_the_diagonal(fits_its_sheet):
    figure = figures.barrier_matrix(make())
    axis = figure.axes[0]
    assert len(axis.texts) == 20
    by_place = {text.get_position(): text.get_text() for text in axis.texts}
    a, c = rows(axis).index("a"), rows(axis).index("c")
    assert by_place[a + 0.5, c + 0.5] == "0.1"
    few = figures.barrier_matrix(make(VALUES[:3, :3]))
    assert {text.get_text() for text in few.axes[0].texts} >= {"3.00\n± 0.01", "0.10\n± 0.01"}
    many = 1 - np.eye(13)
    assert not figures.barrier_matrix(make(many)).axes[0].texts


def test_long_names_of_many_solutions_fit(fits_its_sheet):
    many = 1 - np.eye(20)
    names = tuple(f"runs/seed_{seed}/final" for seed in range(20))
    fits_its_sheet(figures.barrier_matrix(make(many, names=names)))


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_what_has_no_value_is_hatched_and_has_no_tree(lost, tmp_path, fits_its_sheet):
    values = VALUES.copy()
    values[0, 4] = values[4, 0] = lost
    figure = figures.barrier_matrix(make(values))
    figure.savefig(tmp_path / "figure.png")
    axis = figure.axes[0]
    assert rows(axis) == ["a", "c", "b", "d", "e"]  # basin after basin
    hatched = {(patch.get_y(), patch.get_x()) for patch in axis.patches if patch.get_hatch()}
    assert hatched == {(0, 4), (4, 0)}
    assert len(axis.texts) == 18
    assert "1 barrier (10 %) without a finite value; no dendrogram" in caption(figure)
    fits_its_sheet(figure)


def test_barriers_below_zero_are_the_far_end_of_the_colours():
    figure = figures.barrier_matrix(make(-VALUES, definition="mode_connectivity", threshold=0.5))
    axis = figure.axes[0]
    np.testing.assert_allclose(
        sorted(joint[:, 1].max() for joint in lines(tree_of(axis))), [0.1, 0.2, 3.0, 7.0]
    )
    (mesh,) = [one for one in axis.collections if isinstance(one, QuadMesh)]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-9, 0)
    assert np.mean(mesh.cmap(0.0)[:3]) < np.mean(mesh.cmap(1.0)[:3])  # the greatest is the darkest


def test_a_stored_matrix_gives_the_same_figure(tmp_path):
    record = make()
    (group,) = ls.save(tmp_path / "r.h5", record)
    direct = figures.barrier_matrix(record)
    stored = figures.barrier_matrix(store.read(tmp_path / "r.h5", group))
    assert caption(direct) == caption(stored)
    assert rows(direct.axes[0]) == rows(stored.axes[0])
    np.testing.assert_array_equal(cells(direct.axes[0]), cells(stored.axes[0]))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_family_without_differences_is_drawn_without_a_warning(value, tmp_path):
    figure = figures.barrier_matrix(make(value * (1 - np.eye(3))))
    figure.savefig(tmp_path / "figure.png")


def test_another_record_is_no_matrix(line_sweep):
    with pytest.raises(RequestError, match=r"figures\.barrier"):
        figures.barrier_matrix(line_sweep())
