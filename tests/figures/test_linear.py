"""The figure of linear probes: layers, controls, and the penalty that validation chose."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_layers_have_their_accuracy_interval_and_controls(fits_its_sheet):
    record = learned_records.linear()
    figure = figures.linear(record)
    axis = figure.axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
    np.testing.assert_array_equal(drawn["linear probe"], record["test_accuracy"])
    np.testing.assert_array_equal(drawn["nearest neighbours"], record["knn_accuracy"])
    np.testing.assert_array_equal(drawn["untrained network"], record["untrained_accuracy"])
    np.testing.assert_array_equal(drawn["random labels"], record["control_accuracy"])
    bars = np.asarray([found[:, 1] for found in axis.collections[0].get_segments()])
    np.testing.assert_allclose(bars, np.c_[record["test_low"], record["test_high"]])
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "2", "4", "head"]
    fits_its_sheet(figure)


def test_a_control_that_was_not_asked_for_is_not_drawn():
    record = learned_records.linear()
    record["untrained_accuracy"][:] = np.nan
    record["control_accuracy"][:] = np.nan
    assert legend(figures.linear(record)) == [
        "linear probe", "nearest neighbours", "the network", "chance",
    ]  # fmt: skip


def test_the_chosen_penalty_has_a_ring():
    record = learned_records.linear()
    axis = figures.linear(record).axes[1]
    rings = [line for line in axis.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal([ring.get_xdata() for ring in rings], [[1e-2]] * 4)
    np.testing.assert_allclose(
        [ring.get_ydata()[0] for ring in rings], record["validation_accuracy"][:, 1]
    )
    assert axis.get_xscale() == "log"


def test_many_layers_with_long_names_fit(fits_its_sheet):
    names = tuple(f"stages.{index}.blocks.{index}.attention.projection" for index in range(60))
    figure = figures.linear(learned_records.linear(names))
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert len(shown) == 20
    assert shown[0] == "…s.0.attention.projection"[-22:] or shown[0].startswith("…")
    fits_its_sheet(figure)


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe linear"):
        figures.linear(learned_records.features())
