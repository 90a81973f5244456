"""The figure of an average: its members, what it gains over them, and how they were chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError
from landscape.merging.averaging import Average, Comparison
from landscape.merging.soup import Soup

LOSSES = np.array([0.5, 0.7, 0.9])
OWN = Comparison(
    loss=0.4,
    accuracy=0.9,
    member_losses=LOSSES,
    member_accuracies=np.array([0.8, 0.85, 0.7]),
    best=0,
    change_from_mean=-0.3,
    mean_error=0.05,
    change_from_best=-0.1,
    best_error=0.02,
)
TEST = replace(OWN, loss=0.6, member_losses=LOSSES + 0.2, change_from_best=-0.05)


def make(**comparisons):
    return Average(
        settings={},
        theta=torch.zeros(2),
        buffers={},
        weights=np.full(3, 1 / 3),
        distances=np.array([1.0, 1.5, 2.0]),
        comparisons={"": OWN} | comparisons,
    )


def greedy(**comparisons):
    return Soup(
        settings={"criterion": "accuracy"},
        average=make(**comparisons),
        order=np.array([2, 0, 3, 1]),
        kept=np.array([True, False, True, True]),
        scores=np.array([0.8, 0.5, 0.9, 0.7]),
        trials=np.array([0.91, 0.6, 0.9, 0.92]),
        criterion="accuracy",
    )


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def panel(figure, start):
    """The panel whose title or label of the y axis begins so."""
    (found,) = [
        one
        for one in figure.axes
        if one.get_title("left").startswith(start) or one.get_ylabel().startswith(start)
    ]
    return found


def points(axis, marker):
    drawn = [one.get_xydata() for one in axis.lines if one.get_marker() == marker]
    return [np.asarray(one) for one in drawn]


@pytest.mark.parametrize(("metric", "members", "own"), [
    ("loss", LOSSES, 0.4), ("accuracy", OWN.member_accuracies, 0.9),
])  # fmt: skip
def test_members_stand_beside_their_average(metric, members, own):
    (axis,) = [one for one in figures.soup(make()).axes if one.get_ylabel().startswith(metric)]
    (dots,), (diamond,) = points(axis, "o"), points(axis, "D")
    np.testing.assert_array_equal(dots, np.c_[[1, 2, 3], members])
    np.testing.assert_array_equal(diamond, [[4, own]])
    low, high = axis.get_ylim()
    assert low < min(*members, own) < max(*members, own) < high
    assert axis.get_xticklabels()[-1].get_text() == "average"


def test_the_mean_of_the_members_is_dashed():
    axis = figures.soup(make()).axes[0]
    (mean,) = [one for one in axis.lines if one.get_linestyle() == "--"]
    np.testing.assert_allclose(mean.get_ydata(), 0.7)


def test_differences_have_two_standard_errors(fits_its_sheet):
    figure = figures.soup(make(test=TEST))
    axis = panel(figure, "loss of the average minus")
    at = [one[0].tolist() for one in points(axis, "D")]
    np.testing.assert_allclose(at, [[-0.3, 0], [-0.1, 1], [-0.3, 2], [-0.05, 3]])
    bars = [one.get_xdata() for one in axis.lines if one.get_linewidth() == 1.6]
    wanted = [[-0.4, -0.2], [-0.14, -0.06], [-0.4, -0.2], [-0.09, -0.01]]
    np.testing.assert_allclose(bars, wanted)
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names[:2] == ["members' mean\n−0.30 ± 0.05", "best member\n−0.10 ± 0.02"]
    colours = [one.get_color() for one in axis.lines if one.get_marker() == "D"]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert {"own data", "test data", "average", "mean of the members"} == set(legend(figure))
    assert "own data: loss 0.4, accuracy 90 %; test data: loss 0.6" in caption(figure)
    assert "members 1 to 2 from the average" in caption(figure)
    fits_its_sheet(figure)


def test_candidates_are_in_their_order_and_the_kept_ones_filled(fits_its_sheet):
    figure = figures.soup(greedy(validation=TEST))
    axis = panel(figure, "validation accuracy")
    (alone,) = points(axis, "o")
    np.testing.assert_array_equal(alone, np.c_[[1, 2, 3, 4], [0.9, 0.8, 0.7, 0.5]])
    kept, left = points(axis, "s")
    np.testing.assert_array_equal(kept, [[1, 0.9], [2, 0.91], [3, 0.92]])
    np.testing.assert_array_equal(left, [[4, 0.6]])
    assert [text.get_text() for text in axis.get_xticklabels()] == ["3", "1", "4", "2"]
    assert figure.get_suptitle() == "Average of 3 solutions out of 4"
    assert {"candidate alone", "soup with it, kept", "soup with it, left out"} <= set(
        legend(figure)
    )
    fits_its_sheet(figure)


@pytest.mark.parametrize("record", [make, greedy])
def test_without_classes_there_is_no_accuracy(record, fits_its_sheet, tmp_path):
    lost = np.full(3, np.nan)
    figure = figures.soup(record(**{"": replace(OWN, accuracy=np.nan, member_accuracies=lost)}))
    figure.savefig(tmp_path / "figure.png")
    assert not any(one.get_ylabel().startswith("accuracy") for one in figure.axes)
    assert "accuracy" not in caption(figure)
    fits_its_sheet(figure)


def test_what_has_no_error_has_no_bar(tmp_path):
    figure = figures.soup(make(**{"": replace(OWN, mean_error=np.nan, change_from_best=np.nan)}))
    figure.savefig(tmp_path / "figure.png")
    axis = panel(figure, "loss of the average minus")
    assert [text.get_text().split("\n")[1] for text in axis.get_yticklabels()] == ["−0.3", "nan"]


@pytest.mark.parametrize("loss", [np.nan, np.inf, 0.0])
def test_odd_losses_are_drawn_without_a_warning(loss, tmp_path):
    odd = replace(OWN, loss=loss, member_losses=np.full(3, loss))
    figures.soup(make(**{"": odd})).savefig(tmp_path / "figure.png")


def test_losses_over_a_decade_have_a_log_axis():
    figure = figures.soup(make(**{"": replace(OWN, member_losses=np.array([0.5, 5.0, 50.0]))}))
    assert figure.axes[0].get_yscale() == "log"


def test_many_members_fit(fits_its_sheet):
    many = replace(OWN, member_losses=np.linspace(1, 2, 100), member_accuracies=np.ones(100))
    record = replace(make(**{"": many}), weights=np.ones(100), distances=np.ones(100))
    figure = figures.soup(record)
    fits_its_sheet(figure)
    assert "members 1 from the average" in caption(figure)


@pytest.mark.parametrize("record", [make, greedy])
def test_a_stored_average_gives_the_same_figure(record, tmp_path):
    (group,) = ls.save(tmp_path / "r.h5", record(test=TEST))
    direct, stored = (
        figures.soup(record(test=TEST)), figures.soup(store.read(tmp_path / "r.h5", group))
    )  # fmt: skip
    assert (legend(direct), caption(direct)) == (legend(stored), caption(stored))


def test_a_line_is_no_average(line_sweep):
    with pytest.raises(RequestError, match="--probe soup"):
        figures.soup(line_sweep())
