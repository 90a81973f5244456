"""The figure of linear probes: layers, controls, and the penalty that validation chose."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest
from matplotlib.colors import to_rgb

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


def test_the_caption_says_what_was_chosen_and_how_far_the_solver_came():
    record = learned_records.linear()
    record["gradient_norm"][0, 0] = 3e-5
    words = figures.linear(record).legends[0].get_title().get_text().replace("\n", " ")
    assert words.startswith("Test accuracy 94\N{NO-BREAK SPACE}% at the layer")
    assert "gradient norm left 3×10⁻⁵" in words
    record["gradient_norm"][:] = np.nan
    assert "gradient" not in figures.linear(record).legends[0].get_title().get_text()


def test_the_network_and_chance_are_lines_across():
    axis = figures.linear(learned_records.linear()).axes[0]
    drawn = {line.get_label(): line.get_ydata()[0] for line in axis.lines}
    assert (drawn["the network"], drawn["chance"]) == (0.97, 0.1)


def test_no_penalty_and_a_single_one_are_drawn(tmp_path):
    for penalties in [(0.0, 1.0, 10.0), (1.0,)]:
        record = learned_records.linear(penalties=penalties)
        figure = figures.linear(record)
        figure.savefig(tmp_path / "figure.png")
        assert figure.axes[1].get_xscale() == ("log" if len(penalties) > 1 else "linear")
        assert figure.axes[1].lines[0].get_xdata().tolist() == [one for one in penalties if one]


def test_the_chosen_penalty_has_a_ring():
    record = learned_records.linear()
    axis = figures.linear(record).axes[1]
    rings = [line for line in axis.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal([ring.get_xdata() for ring in rings], [[1e-2]] * 4)
    np.testing.assert_allclose(
        [ring.get_ydata()[0] for ring in rings], record["validation_accuracy"][:, 1]
    )
    assert axis.get_xscale() == "log"
    lightness = [sum(to_rgb(ring.get_color())) for ring in rings]
    assert lightness == sorted(lightness, reverse=True)  # later layers darker


def test_many_layers_with_long_names_fit(fits_its_sheet):
    names = tuple(f"stages.{index}.blocks.{index}.attention.projection" for index in range(60))
    figure = figures.linear(learned_records.linear(names))
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert len(shown) == 15
    assert shown[0] == "….attention.projection"
    fits_its_sheet(figure)


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe linear"):
        figures.linear(learned_records.features())
