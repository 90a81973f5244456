"""The figure of feature use: descending, with the feature's own number beneath."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def test_features_stand_in_descending_order_in_both_panels(fits_its_sheet):
    record = learned_records.features(16)
    accuracy = np.random.default_rng(0).permutation(np.linspace(0.5, 0.9, 16))
    record["accuracy"][:] = accuracy
    figure = figures.features(record)
    order = np.argsort(-accuracy)
    single, swapped = figure.axes
    np.testing.assert_array_equal(single.lines[0].get_ydata(), accuracy[order])
    np.testing.assert_array_equal(swapped.lines[0].get_ydata(), record["flip_rate"][order])
    for axis in figure.axes:
        assert [text.get_text() for text in axis.get_xticklabels()] == [str(k) for k in order]
    assert "Effective number of features 1" in caption(figure)
    fits_its_sheet(figure)


def test_where_only_swaps_were_made_they_give_the_order():
    record = learned_records.features(4, single=False)
    record["flip_rate"][:] = [0.1, 0.4, 0.2, 0.3]
    (axis,) = figures.features(record).axes
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [0.4, 0.3, 0.2, 0.1])


def test_chance_is_that_of_the_record():
    figure = figures.features(learned_records.features(chance=0.1))
    line = figure.axes[0].lines[1]
    assert (line.get_label(), line.get_ydata()[0]) == ("chance", 0.1)
    bars = np.asarray([found[:, 1] for found in figure.axes[0].collections[0].get_segments()])
    np.testing.assert_allclose(bars[0], [0.87, 0.93])
    assert "[0.9, 1.2]; the best is 0.4 above the second; accuracy on all" in caption(figure)


def test_of_many_features_some_are_named_at_their_places():
    (_, axis) = figures.features(learned_records.features(40)).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == [str(k) for k in range(0, 40, 3)]
    assert axis.get_xticks().tolist() == list(range(0, 40, 3))


def test_of_one_feature_there_is_no_gap():
    record = learned_records.features(1)
    record["gap"] = np.nan
    assert "above the second" not in caption(figures.features(record))


def test_no_feature_beyond_chance_is_said():
    assert "No feature is used beyond chance" in caption(
        figures.features(learned_records.features(used=0))
    )


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe features"):
        figures.features(learned_records.bands())
