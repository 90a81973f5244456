"""The figure of memorization: histogram, sorted values with intervals, images."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def images(figure):
    return [axis.images[0] for axis in figure.axes if axis.images]


def test_the_histogram_counts_the_values_that_there_are(fits_its_sheet):
    figure = figures.memorization(learned_records.memorization(80, undefined=3))
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 77
    assert "3 undefined" in caption(figure)
    assert "reliability of halves 0.87" in caption(figure)
    fits_its_sheet(figure)


def test_values_fall_and_the_band_is_their_interval():
    record = learned_records.memorization(80, undefined=0)
    record = record.isel(example=np.random.default_rng(0).permutation(80))
    axis = figures.memorization(record).axes[4]
    values = axis.lines[0].get_ydata()
    np.testing.assert_allclose(values, np.sort(record["value"])[::-1])
    (path,) = axis.collections[0].get_paths()
    assert path.vertices[:, 1].min() == pytest.approx(float(record["lower"].min()))
    assert axis.get_ylim()[0] == path.vertices[:, 1].min() < -0.1
    assert path.vertices[:, 1].max() == pytest.approx(float(record["upper"].max()))


def test_the_border_and_what_chance_gives_are_lines():
    record = learned_records.memorization(80)
    axis = figures.memorization(record).axes[4]
    assert [line.get_ydata()[0] for line in axis.lines[1:]] == [0.25, 0.6]
    record["null_high"] = record["split_half"] = np.nan
    figure = figures.memorization(record)
    assert len(figure.axes[4].lines) == 2
    assert "reliability" not in caption(figure)


def test_the_caption_counts_what_is_memorized_and_what_is_certain():
    record = learned_records.memorization(80, undefined=0)
    values = record["value"].to_numpy()
    words = caption(figures.memorization(record))
    assert words.startswith(f"50 networks; {(values >= 0.25).sum()} memorized (0.25 or more); ")
    assert f"; {(record['lower'].to_numpy() > 0).sum()} whose interval lies above 0" in words
    assert "undefined" not in words


def test_values_below_0_are_in_the_histogram():
    record = learned_records.memorization(20, undefined=0)
    record["value"][:2] = [-0.6, -0.1]
    axis = figures.memorization(record).axes[0]
    assert sum(bar.get_height() for bar in axis.patches) == 20
    assert axis.get_xlim()[0] < -0.6
    assert axis.get_ylim()[0] < 1 <= max(bar.get_height() for bar in axis.patches)
    assert axis.get_yscale() == "log"


def test_more_images_than_fit_are_left_out_and_an_even_one_is_drawn():
    record = learned_records.memorization(shown=30)
    record["shown_input"][0] = 7.0
    figure = figures.memorization(record)
    assert len(images(figure)) == 24
    assert not images(figure)[0].get_array().any()
    plain = record.drop_vars(["label", "shown_input"])
    without_channel = record["shown_input"][:, 0]
    flat = images(figures.memorization(plain.assign(shown_input=without_channel)))
    assert flat[1].axes.get_title() == "1\n0.99"


def test_images_are_drawn_in_their_own_range_with_their_names(fits_its_sheet):
    record = learned_records.memorization(shown=10)
    figure = figures.memorization(record)
    drawn = images(figure)
    assert len(drawn) == 10
    for place, image in enumerate(drawn):
        shown = record["shown_input"].to_numpy()[place, 0]
        low, high = shown.min(), shown.max()
        np.testing.assert_allclose(image.get_array(), (shown - low) / (high - low), atol=1e-6)
    assert drawn[3].axes.get_title() == "3: class 3\n0.96"
    fits_its_sheet(figure)


def test_colours_are_kept_and_vectors_are_no_images(tmp_path):
    record = learned_records.memorization(shown=2, channels=3)
    assert images(figures.memorization(record))[0].get_array().shape == (8, 8, 3)
    vectors = record.drop_vars("shown_input").assign(shown_input=(("shown", "f"), np.ones((2, 5))))
    figure = figures.memorization(vectors)
    figure.savefig(tmp_path / "figure.png")
    assert not images(figure)


@pytest.mark.parametrize("num", [1, 2])
def test_few_or_only_undefined_examples_are_drawn_without_a_warning(num, tmp_path):
    for undefined in (0, num):
        record = learned_records.memorization(num, undefined=undefined)
        figure = figures.memorization(record)
        figure.savefig(tmp_path / "figure.png")
        seen = figure.axes[4].lines[0].get_marker()
        assert seen == ("o" if num - undefined == 1 else "")


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe memorization"):
        figures.memorization(learned_records.features())
