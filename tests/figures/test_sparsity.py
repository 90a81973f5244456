"""The figure of sparsity: each measure by layer."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError

PANELS = (
    ("gini_population", "gini_lifetime", "hoyer_population", "hoyer_lifetime"),
    ("dead_share", "dormant_share"),
    ("num_units", "effective_rank", "rankme", "participation_ratio"),
)


def test_each_measure_has_its_curve(fits_its_sheet):
    record = learned_records.sparsity()
    figure = figures.sparsity(record)
    for axis, beneath, names in zip(figure.axes[:3], figure.axes[3:], PANELS, strict=True):
        for line, name in zip(axis.lines, names, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), record[name])
        words = [text.get_text() for text in beneath.get_legend().get_texts()]
        assert words == [line.get_label() for line in axis.lines]
        assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "2", "4"]
        assert axis.get_ylabel()
        assert not beneath.axison
    assert [axis.get_ylim() for axis in figure.axes[:2]] == [(-0.03, 1.03)] * 2
    ranks = [record[name] for name in PANELS[2]]
    low, high = figure.axes[2].get_ylim()
    assert low < np.min(ranks) < np.max(ranks) < high
    assert (low, high) == pytest.approx((0.8 * np.min(ranks), 1.6 * np.max(ranks)))
    fits_its_sheet(figure)


def test_ranks_over_a_decade_have_a_log_axis():
    record = learned_records.sparsity()
    assert figures.sparsity(record).axes[2].get_yscale() == "log"
    for name in PANELS[2]:
        record[name][:] = 5.0
    assert figures.sparsity(record).axes[2].get_yscale() == "linear"


def test_the_mean_share_of_dead_units_is_said():
    record = learned_records.sparsity()
    record["dead_share"][:] = [0.1, 0.2, 0.6]
    words = figures.sparsity(record).legends[-1].get_title().get_text()
    assert "30\N{NO-BREAK SPACE}% of the units are dead" in words


def test_many_layers_with_long_names_fit(fits_its_sheet):
    names = tuple(f"stages.{index}.attention.projection" for index in range(40))
    figure = figures.sparsity(learned_records.sparsity(names))
    assert len(figure.axes[0].get_xticklabels()) == 14
    fits_its_sheet(figure)


def test_what_is_undefined_is_left_out(tmp_path):
    record = learned_records.sparsity()
    record["hoyer_lifetime"][:] = np.nan
    figure = figures.sparsity(record)
    figure.savefig(tmp_path / "figure.png")
    assert len(figure.axes[0].lines) == 3


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe sparsity"):
        figures.sparsity(learned_records.features())
