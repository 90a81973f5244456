"""The figure of training dynamics: what was never learned stands apart from what was forgotten."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError


def test_the_map_has_each_example_once_the_never_learned_as_crosses(fits_its_sheet):
    record = learned_records.dynamics(60, never=5)
    figure = figures.dynamics(record)
    axis = figure.axes[0]
    learned, never = (np.asarray(found.get_offsets()) for found in axis.collections)
    wanted = np.c_[record["variability"], record["confidence"]]
    np.testing.assert_allclose(never, wanted[:5])
    np.testing.assert_allclose(learned, wanted[5:])
    np.testing.assert_allclose(axis.collections[0].get_array(), record["correctness"][5:] / 6)
    fits_its_sheet(figure)


def test_learning_is_the_accuracy_and_the_share_learned_so_far():
    record = learned_records.dynamics(60, times=6, never=6)
    record["iteration_learned"][:] = np.where(record["first_learned"] < 50, 50, np.nan)
    right, once, always = figures.dynamics(record).axes[1].lines
    np.testing.assert_array_equal(right.get_xydata(), np.c_[record["time"], record["accuracy"]])
    # Nine of the 54 others at each of six times.
    np.testing.assert_allclose(once.get_ydata(), np.arange(1, 7) * 9 / 60)
    np.testing.assert_allclose(always.get_ydata(), [*[0] * 5, 45 / 60])


def test_never_learned_is_no_forgetting():
    axis = figures.dynamics(learned_records.dynamics(60, never=5)).axes[2]
    heights = [bar.get_height() for bar in axis.patches]
    names = [text.get_text() for text in axis.get_xticklabels()]
    assert dict(zip(names, heights, strict=True)) == {"0": 54, "1": 0, "2": 1, "never\nright": 5}


def test_many_events_share_the_last_bar():
    record = learned_records.dynamics(60, never=0)
    record["forgetting"][-1] = 500
    axis = figures.dynamics(record).axes[2]
    assert [text.get_text() for text in axis.get_xticklabels()][-1] == "12+"
    assert [bar.get_height() for bar in axis.patches] == [59, *[0] * 11, 1]


def test_the_caption_counts_what_was_never_right_and_never_forgotten():
    words = figures.dynamics(learned_records.dynamics(60, never=5)).legends[0].get_title()
    text = words.get_text().replace("\n", " ")
    assert text.startswith("5 examples never right; 54 learned and never forgotten; 20 with")
    assert "without a margin" not in text


def test_all_learned_or_none_are_drawn(tmp_path):
    figure = figures.dynamics(learned_records.dynamics(30, never=0))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["right", "right at least once so far", "right from here on"]
    assert len(figure.axes[2].patches) == 3
    figure = figures.dynamics(learned_records.dynamics(30, never=30))
    figure.savefig(tmp_path / "figure.png")
    assert [bar.get_height() for bar in figure.axes[2].patches] == [0, 30]
    assert "never right" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_margin_of_a_single_example_is_seen():
    markers = [
        figures.dynamics(learned_records.dynamics(num, never=0)).axes[3].lines[0].get_marker()
        for num in (1, 2)
    ]
    assert markers == ["o", ""]


def test_margins_are_sorted_and_counted():
    record = learned_records.dynamics(60, never=5)
    record["aum"][:] = record["aum"].to_numpy()[::-1]
    figure = figures.dynamics(record)
    curve, crosses = figure.axes[3].lines[:2]
    np.testing.assert_allclose(curve.get_ydata(), np.sort(record["aum"]))
    assert len(crosses.get_xdata()) == 5
    assert "20 with a negative area" in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_examples_without_a_margin_are_left_out_and_counted(tmp_path):
    record = learned_records.dynamics()
    record["aum"][:4] = np.nan
    figure = figures.dynamics(record)
    figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes[3].lines[0].get_xdata()) == 56
    assert "4 without a margin" in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe dynamics"):
        figures.dynamics(learned_records.features())
