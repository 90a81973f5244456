"""Levels hold all values; contours lie where the field says; what has no value is covered."""

from __future__ import annotations

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.figures.canvas import described, sheet
from landscape.figures.contours import (
    Levels,
    coordinates_of,
    declutter,
    draw_absent,
    draw_bands,
    draw_marks,
    filled,
    frame,
    proportion,
    scale_note,
    shade_bar,
)

SPANS = [(0.03, 11.6), (1, 10), (1e-9, 1e3), (2.3, 23.7), (0.05, 5e4), (1e-8, 1e-3)]


@pytest.fixture
def drawn(plane_sweep):
    """Contours of a plane, on an axis of their own."""

    def draw(**options):
        data = described(plane_sweep(**options))
        values = data["loss"].to_numpy()
        figure, axes = sheet(1, 1, width=4, height=4)
        levels = Levels.of(values)
        bands = draw_bands(axes[0, 0], data, values, levels)
        return figure, axes[0, 0], data, levels, bands

    return draw


def lines_of(axis):
    """The contour lines: level -> points."""
    (found,) = [one for one in axis.collections if not one.filled]
    return dict(zip(found.levels, [path.vertices for path in found.get_paths()], strict=True))


@pytest.mark.parametrize(("low", "high"), SPANS)
def test_log_levels_are_round_and_hold_every_value(low, high):
    values = np.geomspace(low, high, 50)
    levels = Levels.of(values)
    assert levels.is_log
    assert levels.edges[0] <= low < levels.edges[1]
    assert levels.edges[-2] < high <= levels.edges[-1]
    assert 5 <= len(levels.edges) <= 17
    digits = levels.edges / 10 ** np.floor(np.log10(levels.edges) + 1e-9)
    assert set(digits.round(6)) <= {1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8}
    assert len({levels.named(edge) for edge in levels.edges}) == len(levels.edges)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 50), (-3, 4), (0.7, 0.9), (0.6931, 0.693104), (1e6, 1e6 + 3), (-1, 0)]
)
def test_linear_levels_are_even_and_hold_every_value(low, high):
    levels = Levels.of(np.linspace(low, high, 50))
    assert not levels.is_log
    np.testing.assert_allclose(np.diff(levels.edges), np.diff(levels.edges)[0], rtol=1e-6)
    step = levels.edges[1] - levels.edges[0]
    assert levels.edges[0] - 1e-9 * step <= low < high <= levels.edges[-1] + 1e-9 * step
    assert 5 <= len(levels.edges) <= 17
    names = [levels.named(edge) for edge in levels.edges]
    assert len(set(names)) == len(names)
    assert [float(name.replace("−", "-")) for name in names if "×" not in name]


def test_levels_of_an_accuracy_are_never_logarithmic():
    assert not Levels.of(np.linspace(0.05, 1, 9), "accuracy").is_log


@pytest.mark.parametrize("value", [0.0, 2.5, -1.0, 1e-30])
def test_a_constant_is_in_the_one_band(value):
    levels = Levels.of(np.full(4, value))
    assert len(levels.edges) == 2
    assert levels.edges[0] < value < levels.edges[1]
    rounded = value * (1 + np.asarray([0, 2e-16, -2e-16]))
    assert len(Levels.of(rounded).edges) == 2


def test_levels_of_nothing_are_some():
    assert (np.diff(Levels.of(np.asarray([np.nan, np.inf])).edges) > 0).all()


def test_a_needle_does_not_take_all_levels():
    levels = Levels.of(np.append(np.geomspace(0.1, 10, 99), [1e-200, 1e200]))
    assert levels.edges[0] >= 1e-7
    assert levels.edges[-1] <= 1e7


def test_a_value_has_the_colour_of_its_band():
    levels = Levels.of(np.geomspace(0.1, 100, 50))
    middles = np.sqrt(levels.edges[1:] * levels.edges[:-1])
    np.testing.assert_array_equal(levels.norm(middles), np.arange(len(middles)))
    assert len(middles) == levels.colours.N


def test_contours_lie_where_the_field_has_their_level(drawn):
    # Linear in a and b, so that interpolation is exact: a line is where a + 10 b = level - 20.
    _, axis, _, levels, bands = drawn()
    np.testing.assert_array_equal(bands.levels, levels.edges)
    found = lines_of(axis)
    np.testing.assert_array_equal(list(found), levels.inside(np.asarray([9.0, 31.0])))
    for level, points in found.items():
        np.testing.assert_allclose(20 + points @ [1, 10], level, rtol=1e-9)


def test_the_line_of_a_level_is_named_by_it(drawn):
    _, axis, _, levels, _ = drawn()
    names = {levels.named(level) for level in lines_of(axis)}
    assert {text.get_text() for text in axis.texts} <= names
    assert len(axis.texts) >= 3


def test_bands_are_filled_in_the_colours_of_their_levels(drawn):
    _, _, _, levels, bands = drawn()
    colours = bands.get_facecolors()[1:-1]  # without what is below and above
    np.testing.assert_allclose(colours, levels.colours(np.arange(len(levels.edges) - 1)))


def test_nothing_finite_has_no_contours(drawn):
    *_, bands = drawn(loss=np.full((7, 5), np.nan))
    assert bands is None


def test_holes_are_filled_by_their_neighbours_and_clipped_points_by_the_top():
    values = np.arange(12.0).reshape(3, 4)
    values[0, 0], values[1, 1] = np.nan, np.inf
    found = filled(values)
    assert found[0, 0] in (1.0, 4.0)
    assert found[1, 1] == 11.0
    rest = np.isfinite(values)
    np.testing.assert_array_equal(found[rest], values[rest])


def test_points_without_a_value_are_covered_and_no_others(drawn):
    loss = np.ones((7, 5)) + np.arange(5)
    loss[1, 1], loss[4:, 3:] = np.nan, np.inf
    _, axis, data, *_ = drawn(loss=loss, settings={"clip": 8})
    keys = {patch.get_label(): patch for patch in draw_absent(axis, data, loss)}
    assert list(keys) == ["NaN, or not measured", "beyond the clip of 8"]
    a, b = coordinates_of(data)
    points = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    for patch, absent in zip(axis.patches, (np.isnan(loss), np.isposinf(loss)), strict=True):
        # Those on the rim of the plane are on the rim of their cover, too.
        covered = patch.get_path().contains_points(0.99 * points)
        np.testing.assert_array_equal(covered, absent.ravel())
        assert patch.get_hatch()
    hole = axis.patches[0].get_path().get_extents()  # half-way to the neighbours of (1, 1)
    np.testing.assert_allclose(hole.min, [a[1], b[1]] - np.asarray([a[1] - a[0], b[1] - b[0]]) / 2)
    np.testing.assert_allclose(hole.max, [a[1], b[1]] + np.asarray([a[1] - a[0], b[1] - b[0]]) / 2)
    assert not len(draw_absent(axis, data, np.ones((7, 5))))


def test_three_marks_are_joined_to_a_triangle(drawn):
    marks = {"A": (0.0, 0.0), "B": (1.0, 0.0), "C": (0.25, 1.0)}
    _, axis, data, *_ = drawn(marks=marks)
    assert list(draw_marks(axis, data)) == []  # A is the center
    edges = next(one for one in axis.lines if one.get_linestyle() == "--")
    np.testing.assert_array_equal(edges.get_xydata(), [*marks.values(), marks["A"]])
    names = {text.get_text(): text.xy for text in axis.texts if text.get_text() in marks}
    assert {name: tuple(place) for name, place in names.items()} == marks


def test_the_center_is_marked_where_nothing_else_is(drawn):
    _, axis, data, *_ = drawn(marks={"B": (0.5, 0.5)})
    (center,) = draw_marks(axis, data)
    assert center.get_label() == "center"
    np.testing.assert_array_equal(center.get_xydata(), [[0, 0]])
    assert not any(one.get_linestyle() == "--" for one in axis.lines)
    assert (axis.get_xlim(), axis.get_ylim()) == ((-1, 1), (-1, 1))


def test_names_of_levels_keep_clear_of_marks_and_of_each_other(drawn):
    spiral = np.random.default_rng(0).normal(size=(7, 5)).cumsum(axis=0)
    figure, axis, data, *_ = drawn(loss=spiral, marks={"a long name": (0.1, 0.1)})
    list(draw_marks(axis, data))
    before = len([text for text in axis.texts if text.get_visible()])
    declutter(figure)
    shown = [text for text in axis.texts if text.get_visible()]
    assert 3 < len(shown) < before
    boxes = [text.get_window_extent() for text in shown]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
    area = axis.get_window_extent()
    for box in boxes:
        assert area.x0 <= box.x0 <= box.x1 <= area.x1


def test_a_name_beside_a_mark_makes_room_for_it(drawn):
    figure, axis, data, *_ = drawn()
    declutter(figure)
    shown = [text for text in axis.texts if text.get_visible()]
    name = max(shown, key=lambda text: abs(text.get_position()[1]))  # far from the center's mark
    box = name.get_window_extent()
    # On the side that the name of the mark turns away from.
    x = box.x1 + 4 if name.get_position()[0] <= 0 else box.x0 - 4
    beside = axis.transData.inverted().transform([(x, (box.y0 + box.y1) / 2)])
    data = data.assign({"mark_place": (("mark", "direction"), beside)}).assign_coords(mark=[""])
    list(draw_marks(axis, data))
    declutter(figure)
    assert not name.get_visible()
    assert any(text.get_visible() for text in axis.texts)


@pytest.mark.parametrize(("norms", "b", "ratio"), [
    ([2.0, 3.0], [-1, 1], 1.5),
    ([2.0, 0.0], [-1, 1], None),
    ([np.nan, 1.0], [-1, 1], None),
    ([1.0, 1.0], [-0.1, 0.1], None),
    ([1.0, 10.0], [-0.1, 0.1], 10.0),
])  # fmt: skip
def test_lengths_are_true_where_that_leaves_a_picture(plane_sweep, norms, b, ratio):
    data = described(plane_sweep(norms=norms))
    found = proportion(data, data["a"].to_numpy(), np.asarray(b))
    assert found == pytest.approx(ratio) if ratio else found is None
    _, axes = sheet(1, 1, height=3)
    frame(axes[0, 0], data, found, width=3, height=3)
    assert axes[0, 0].get_aspect() == (ratio or "auto")
    assert bool(scale_note(axes[0, 0])) is (ratio is None)


def test_the_bar_is_as_high_as_its_axis_and_names_the_ends_of_bands(drawn):
    figure, axis, _, levels, _ = drawn(loss=np.geomspace(0.02, 300, 35).reshape(7, 5))
    axis.set_aspect(0.5)
    shade_bar(axis, levels)
    figure.draw_without_rendering()
    (bar,) = axis.child_axes
    ticks = bar.get_yticks()
    assert len(ticks) < len(levels.edges)  # not each: they would touch
    assert set(ticks) <= set(levels.edges)
    assert [text.get_text() for text in bar.get_yticklabels()] == list(map(levels.named, ticks))
    assert bar.get_window_extent().height == pytest.approx(axis.get_window_extent().height)


@pytest.mark.parametrize("shape", [(1, 5), (7, 1)])
def test_a_row_of_points_is_no_plane(plane_sweep, shape):
    a, b = (np.arange(float(length)) for length in shape)
    with pytest.raises(RequestError, match="no area"):
        coordinates_of(described(plane_sweep(loss=np.ones(shape), a=a, b=b)))
