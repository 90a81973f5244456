"""The figure of an alignment: every descent, the one that was taken, and what has moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import landscape as ls
from landscape import figures, store
from landscape.alignment.aligning import Alignment
from landscape.errors import RequestError

HISTORIES = ((1.0, 5.0, 6.0), (0.5, 7.0), (-1.0, 3.0, 4.0, 4.5))


def make(histories=HISTORIES, sizes=None, method="weights", converged=True):
    sizes = {"conv": 4, "fc": 6} if sizes is None else sizes
    shares = np.linspace(1, 0.25, len(sizes))
    return Alignment(
        settings={"method": method},
        theta=torch.zeros(3),
        buffers={},
        permutations={name: torch.arange(size) for name, size in sizes.items()},
        sizes=sizes,
        moved=dict(zip(sizes, shares.tolist(), strict=True)),
        similarities=tuple(history[-1] for history in histories),
        histories=histories,
        converged=converged,
        distance_before=12.5,
        distance_after=3.25,
        state={},
    )


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def test_each_descent_is_a_line_and_the_taken_one_has_a_ring(fits_its_sheet):
    figure = figures.alignment(make())
    axis, _ = figure.axes
    lines = [one for one in axis.lines if one.get_linestyle() == "-"]
    assert [one.get_ydata().tolist() for one in lines] == [list(one) for one in HISTORIES]
    assert [one.get_xdata().tolist() for one in lines][1] == [0, 1]
    assert len({one.get_color() for one in lines}) == 2
    (ring,) = [one for one in axis.lines if one.get_label() == "taken"]
    np.testing.assert_array_equal(ring.get_xydata(), [[1, 7.0]])
    assert "parameter²" in axis.get_ylabel()
    assert figure.get_suptitle() == "Alignment by weights: distance 12.5 → 3.25"
    fits_its_sheet(figure)


def test_the_moved_shares_are_bars_with_the_sizes_of_their_groups():
    _, axis = figures.alignment(make()).axes
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], [1.0, 0.25])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["conv (4)", "fc (6)"]
    text = caption(figures.alignment(make()))
    assert "55 % of the 10 units in 2 groups changed places; 3 descents reached 4.5 to 7" in text


def test_correlations_have_no_unit_and_one_descent_has_no_range(fits_its_sheet):
    figure = figures.alignment(make(((1.0, 2.0),), method="activations"))
    assert figure.axes[0].get_ylabel() == "sum of correlations"
    assert "1 descent reached 2." in caption(figure)
    fits_its_sheet(figure)


@pytest.mark.parametrize("count", [1, 25, 100])
def test_any_number_of_groups_fits(count, fits_its_sheet, tmp_path):
    sizes = {f"blocks.{index}.attention.heads": 8 for index in range(count)}
    figure = figures.alignment(make(sizes=sizes))
    figure.savefig(tmp_path / "figure.png")
    fits_its_sheet(figure)


def test_no_groups_are_drawn_without_a_warning(tmp_path):
    figures.alignment(make(((0.0,),), sizes={})).savefig(tmp_path / "figure.png")


def test_a_stored_alignment_gives_the_same_figure(tmp_path):
    record = make(converged=False)
    (group,) = ls.save(tmp_path / "r.h5", record)
    direct = figures.alignment(record)
    stored = figures.alignment(store.read(tmp_path / "r.h5", group))
    assert caption(direct) == caption(stored)
    assert "not converged: still better after 1 sweeps" in caption(direct)
    assert direct.get_suptitle() == stored.get_suptitle()


def test_a_line_is_no_alignment(line_sweep):
    with pytest.raises(RequestError, match="--align"):
        figures.alignment(line_sweep())
