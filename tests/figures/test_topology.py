"""The figure of a topology: the heights are the record's, and no branch is crossed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

import landscape as ls
from landscape import store
from landscape.figures.canvas import BLUE, GREY
from landscape.figures.topology import topology as draw
from landscape.slices.sweep import Sweep
from landscape.slices.topology import topology


def plane_of(loss, standard_error=None):
    fields = {"loss": np.asarray(loss)}
    if standard_error is not None:
        fields["standard_error"] = np.full(fields["loss"].shape, standard_error)
    return Sweep(
        settings={"seed": 0},
        kind="plane",
        coordinates=tuple(np.linspace(-1, 1, length) for length in fields["loss"].shape),
        fields=fields,
        done=np.ones(fields["loss"].shape, bool),
        direction_names=("random 0", "random 1"),
        direction_norms=np.ones(2),
        cosines=np.eye(2),
        center_loss=0.0,
    )


def noisy(seed, shape=(12, 11)):
    return np.random.default_rng(seed).standard_normal(shape)


def segments(axis):
    """All lines of an axis between two points, (m, 2, 2), with their colours."""
    held = [one for one in axis.collections if hasattr(one, "get_segments")]
    parts = [part for one in held for part in one.get_segments()]
    return np.asarray(parts), [to_hex(colour) for one in held for colour in one.get_colors()]


def markers(axis):
    """Marker, colour and whether it is open, by the point that it stands at."""
    found = {}
    for line in axis.lines:
        if line.get_linestyle() == "None":
            look = (line.get_marker(), line.get_color(), line.get_markerfacecolor() == "white")
            found |= {(x, y): look for x, y in line.get_xydata() if np.isfinite([x, y]).all()}
    return found


def numbers(axis):
    """Which minimum each place along the tree's axis belongs to."""
    names = [text.get_text().partition("\n")[0] for text in axis.get_xticklabels()]
    return dict(zip(axis.get_xticks(), map(int, names), strict=True))


def test_a_point_of_the_diagram_is_a_pair_of_birth_and_death():
    found = topology(noisy(0))
    diagram, _ = draw(found).axes
    ceiling = max(y for _, y in markers(diagram))
    wanted = dict(zip(found.births, np.minimum(found.deaths, ceiling), strict=True))
    assert dict(markers(diagram)).keys() == set(wanted.items())
    assert found.deaths[1:].max() < ceiling < diagram.get_ylim()[1]
    (line,) = (line for line in diagram.lines if line.get_linestyle() == "--")
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())


def test_a_branch_rises_from_its_birth_to_its_death_and_leads_to_its_parent():
    found = topology(noisy(0, (7, 6)))
    _, tree = draw(found).axes
    number_at = numbers(tree)
    place_of = {number: place for place, number in number_at.items()}
    assert sorted(number_at.values()) == list(range(len(found.births)))
    parts, _ = segments(tree)
    ceiling = parts[..., 1].max()
    for (x0, y0), (x1, y1) in parts:
        number = number_at[x0]
        if x0 == x1:
            assert (y0, y1) == (found.births[number], min(found.deaths[number], ceiling))
        else:
            assert x1 == place_of[found.parents[number]]
            assert y0 == y1 == found.deaths[number]
    assert len(parts) == 2 * len(found.births) - 1
    assert found.deaths[1:].max() < ceiling < tree.get_ylim()[1]


@pytest.mark.parametrize("seed", range(5))
def test_no_way_to_a_parent_crosses_a_branch(seed):
    _, tree = draw(topology(noisy(seed, (20, 20)))).axes
    parts, _ = segments(tree)
    is_upright = parts[:, 0, 0] == parts[:, 1, 0]
    for way, branch in itertools.product(parts[~is_upright], parts[is_upright]):
        (left, right), height = sorted(way[:, 0]), way[0, 1]
        if left < branch[0, 0] < right:
            assert not branch[0, 1] < height < branch[1, 1]


def test_a_large_tree_shows_the_most_persistent_branches():
    found = topology(noisy(0, (30, 30)))
    diagram, tree = draw(found).axes
    shown = sorted(numbers(tree).values())
    assert len(shown) == 24
    hidden = np.delete(found.persistence, shown)
    assert hidden.max() <= found.persistence[shown].min()
    assert tree.get_title("left") == "Merge tree of the 24 most persistent"
    assert len(markers(diagram)) == len(found.births)  # the diagram hides none


def test_what_may_be_noise_is_grey_and_what_touches_the_border_is_open():
    found = topology(plane_of(noisy(1), standard_error=0.25))
    assert 1 < found.significant.sum() < len(found.births)
    figure = draw(found)
    diagram, tree = figure.axes
    drawn = {x: look for (x, _), look in markers(diagram).items()}
    leaves = {y: look for (_, y), look in markers(tree).items() if look[0] == "o"}
    for number, birth in enumerate(found.births):
        marker = "^" if np.isinf(found.deaths[number]) else "o"
        colour = BLUE if found.significant[number] else GREY
        assert drawn[birth] == (marker, colour, found.at_border[number])
        if birth in leaves:
            assert leaves[birth] == ("o", colour, found.at_border[number])
    parts, colours = segments(tree)
    for part, colour in zip(parts, colours, strict=True):
        significant = found.significant[numbers(tree)[part[0, 0]]]
        assert colour == (BLUE if significant else GREY).lower()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "not beyond them: may be noise" in texts
    assert "at the border: may fall on beyond" in texts


def test_the_bar_of_a_significant_minimum_ends_above_the_diagonal():
    found = topology(plane_of(noisy(1), standard_error=0.25))
    diagram, _ = draw(found).axes
    bars, _ = segments(diagram)
    finite = np.isfinite(found.deaths)
    drawn = {bar[0, 0]: sorted(bar[:, 1]) for bar in bars}
    assert len(drawn) == finite.sum()
    for birth, death, significant in zip(
        found.births[finite], found.deaths[finite], found.significant[finite], strict=True
    ):
        assert drawn[birth] == pytest.approx([death - 2 * 0.5, death])
        assert (drawn[birth][0] > birth) == significant


def test_the_facts_are_those_of_the_record():
    loss = noisy(1)
    loss[0, :3] = np.nan
    loss[1, :2] = np.inf
    found = topology(plane_of(loss, standard_error=0.25))
    figure = draw(found)
    text = figure.axes[0].get_title("left")
    assert f"{found.num_minima()} minima, {found.significant.sum()} beyond two" in text
    finite = found.persistence[np.isfinite(found.deaths)]
    assert f"largest finite persistence: {finite.max():.4g}" in text
    assert "points left out: 3 NaN, 2 infinite" in text
    assert figure.get_suptitle() == "Topology of 12 × 11 losses"


def test_few_minima_stand_above_their_coordinates():
    line = np.linspace(-2, 2, 81)
    _, tree = draw(topology((line**2 - 1) ** 2 + 0.1 * line, coordinates=[line])).axes
    names = {text.get_text() for text in tree.get_xticklabels()}
    assert names == {"0\n−1", "1\n1"}
    assert tree.get_xlabel() == "minimum, with its coordinates (a)"
    shifted = topology([[2.0, 1, 2]], coordinates=[[1e-17], [-1, 0.12345, 1]])
    assert [text.get_text() for text in draw(shifted).axes[1].get_xticklabels()] == [
        "0\n1×10⁻¹⁷\n0.123"
    ]


def test_losses_that_go_far_are_drawn_on_a_log_axis():
    far, near = topology([0.01, 3, 0.02]), topology([1.0, 3, 2])
    negative = topology([-0.01, 3, 0.02])
    scales = [
        (diagram.get_xscale(), diagram.get_yscale(), tree.get_yscale())
        for diagram, tree in (draw(found).axes for found in (far, near, negative))
    ]
    assert scales == [("log",) * 3, ("linear",) * 3, ("linear",) * 3]


def test_numbers_do_not_lie_on_one_another():
    figure = draw(topology(noisy(0, (40, 40))))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_stored_record_gives_the_same_artists(tmp_path):
    found = topology(plane_of(noisy(1), standard_error=0.25))
    (group,) = ls.save(tmp_path / "r.h5", found)
    direct, stored = draw(found), draw(store.read(tmp_path / "r.h5", group))
    assert direct.get_suptitle() == stored.get_suptitle()
    for axis, other in zip(direct.axes, stored.axes, strict=True):
        assert axis.get_title("left") == other.get_title("left")
        assert markers(axis) == markers(other)
        np.testing.assert_array_equal(segments(axis)[0], segments(other)[0])


ODD = {
    "one": [1.0],
    "flat": np.zeros((4, 4)),
    "nothing": np.full((3, 3), np.nan),
    "zero and far": [0.0, 1e6, 1e-6],
    "apart": np.where(np.arange(60) % 2, np.nan, np.arange(60.0)),
    "tiny": [1e-300, 3e-300, 2e-300],
    "solid": noisy(0, (4, 4, 4)),
    "egg carton": np.add.outer(np.cos(np.arange(20.0)), np.cos(np.arange(20.0))),
    "noise": noisy(0, (40, 40)),
    "rough slope": noisy(0, (40, 40)) + np.add.outer(np.arange(40.0), np.arange(40.0)) / 20,
    "far and noisy": plane_of(np.exp(3 * noisy(0)), standard_error=0.5),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_grids_are_drawn_without_a_warning_and_no_text_leaves_the_sheet(name, tmp_path):
    figure = draw(topology(ODD[name]))
    figure.savefig(tmp_path / "figure.png")
    sheet = figure.bbox.padded(1)
    texts = [*figure.legends[0].get_texts(), *figure.texts]
    for axis in figure.axes:
        texts += [axis.xaxis.label, axis.yaxis.label, *axis.get_children()]
        assert not axis.xaxis.get_offset_text().get_text() + axis.yaxis.get_offset_text().get_text()
    leaves = figure.axes[1].get_xticklabels()
    boxes = [leaf.get_window_extent() for leaf in leaves]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
    for text in [*texts, *leaves]:
        if isinstance(text, Text) and text.get_text():
            box = text.get_window_extent()
            assert sheet.x0 <= box.x0 <= box.x1 <= sheet.x1, text.get_text()
            assert sheet.y0 <= box.y0 <= box.y1 <= sheet.y1, text.get_text()
