"""The figure of the prediction depth: what is never settled has a bar of its own."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError


def test_bars_count_the_examples_settled_at_each_layer(fits_its_sheet):
    record = learned_records.depth(num=50, never=2)
    figure = figures.depth(record)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [12, 12, 12, 12, 2]
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names == ["input", "0", "2", "softmax", "never"]
    fits_its_sheet(figure)


def test_without_an_open_example_there_is_no_such_bar():
    figure = figures.depth(learned_records.depth(num=8, never=0))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 2, 2, 2]
    assert "not even" not in figure.legends[0].get_title().get_text()


def test_the_mean_comes_with_its_error_unless_nothing_is_settled():
    words = figures.depth(learned_records.depth()).legends[0].get_title().get_text()
    assert words.startswith("Mean depth 1.5 ± 0.1 of at most 3; 2 examples on which not even")
    record = learned_records.depth(num=3, never=3)
    figure = figures.depth(record)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0, 0, 0, 0, 3]
    assert "No example is settled; 3 examples" in figure.legends[0].get_title().get_text()


def test_names_that_would_meet_are_aslant(fits_its_sheet):
    figure = figures.depth(learned_records.depth(("input", *map(str, range(11)), "softmax")))
    for axis in figure.axes:
        assert {text.get_rotation() for text in axis.get_xticklabels()} == {40}
    fits_its_sheet(figure)


def test_votes_are_drawn_by_layer():
    record = learned_records.depth()
    agreement, accuracy = figures.depth(record).axes[1].lines
    np.testing.assert_array_equal(agreement.get_ydata(), record["knn_agreement"])
    np.testing.assert_array_equal(accuracy.get_ydata(), record["knn_accuracy"])
    axis = figures.depth(record).axes[1]
    for bars, name in zip(axis.collections, ("knn_agreement", "knn_accuracy"), strict=True):
        ends = np.asarray([found[:, 1] for found in bars.get_segments()])
        np.testing.assert_allclose(ends, np.c_[record[f"{name}_low"], record[f"{name}_high"]])
    assert agreement.get_label() == "vote of the neighbours agrees with the network"
    assert accuracy.get_label() == "vote of the neighbours agrees with the label"
    assert agreement.get_linestyle() != accuracy.get_linestyle()


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe depth"):
        figures.depth(learned_records.features())
