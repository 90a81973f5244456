"""The figure of bands: accuracies that keep or lack one, and images of them."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError


def test_accuracies_have_their_intervals_and_the_bands_their_power(fits_its_sheet):
    record = learned_records.bands()
    figure = figures.bands(record)
    axis = figure.axes[0]
    kept, removed = axis.lines[:2]
    np.testing.assert_array_equal(kept.get_ydata(), record["accuracy"])
    np.testing.assert_array_equal(removed.get_ydata(), record["removed_accuracy"])
    bars = [np.asarray([s[:, 1] for s in found.get_segments()]) for found in axis.collections]
    np.testing.assert_allclose(bars[0], np.c_[record["low"], record["high"]])
    np.testing.assert_allclose(bars[1], np.c_[record["removed_low"], record["removed_high"]])
    names = [text.get_text() for text in axis.get_xticklabels()]
    assert names[1] == "low\n25 %"
    fits_its_sheet(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_rows_under_the_names_of_their_bands(channels, fits_its_sheet):
    record = learned_records.bands(shown=2, channels=channels)
    figure = figures.bands(record)
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in drawn[:5]] == ["image", "background", "low", "mid", "high"]
    assert len(drawn) == 10
    shown = record["shown_image"].to_numpy()[1, 2]
    scaled = (shown - shown.min()) / (shown.max() - shown.min())
    wanted = scaled[0] if channels == 1 else np.moveaxis(scaled, 0, -1)
    np.testing.assert_allclose(drawn[7].images[0].get_array(), wanted, atol=1e-6)
    fits_its_sheet(figure)


def test_whole_images_and_chance_are_lines_and_more_images_are_left_out():
    figure = figures.bands(learned_records.bands(shown=5, channels=2))
    heights = {line.get_label(): line.get_ydata()[0] for line in figure.axes[0].lines[2:]}
    assert heights == {"all bands": 0.92, "chance": 0.1}
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == 15
    assert drawn[0].images[0].get_array().shape == (8, 8)


def test_eight_bands_and_two_fit(fits_its_sheet):
    fits_its_sheet(figures.bands(learned_records.bands(("background", "low"))))
    names = ("background", *(f"band {index}" for index in range(1, 8)))
    fits_its_sheet(figures.bands(learned_records.bands(names)))


def test_without_images_there_are_only_the_accuracies(tmp_path):
    figure = figures.bands(learned_records.bands(shown=0))
    figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes) == 1
    assert "range" not in figure.legends[0].get_title().get_text()


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe bands"):
        figures.bands(learned_records.features())
