"""The figure of an ensemble: members, what more of them bring, reliability."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest

from landscape import figures
from landscape.errors import RequestError


@pytest.mark.parametrize(("place", "metric"), [(0, "accuracy"), (1, "nll")])
def test_members_stand_at_one_and_the_curve_goes_on(place, metric, fits_its_sheet):
    record = learned_records.ensemble()
    figure = figures.ensemble(record)
    dots, curve = figure.axes[place].lines
    np.testing.assert_array_equal(dots.get_xydata(), np.c_[np.ones(4), record[metric]])
    np.testing.assert_array_equal(
        curve.get_xydata(), np.c_[record["size"], record[f"gain_{metric}"]]
    )
    ((bar,),) = [found.get_segments() for found in figure.axes[place].collections]
    low, high = (float(record[f"ensemble_{metric}_{end}"]) for end in ("low", "high"))
    np.testing.assert_allclose(bar, [[4, low], [4, high]])
    fits_its_sheet(figure)


def test_empty_bins_are_not_drawn_and_areas_follow_the_counts():
    record = learned_records.ensemble()
    dots = figures.ensemble(record).axes[2].collections[1]
    held = record["bin_count"].to_numpy() > 0
    wanted = np.c_[record["bin_confidence"], record["bin_accuracy"]][held]
    np.testing.assert_allclose(dots.get_offsets(), wanted)
    assert (np.diff(dots.get_sizes()) > 0).all()


def test_bins_have_their_interval_and_the_caption_its_numbers():
    record = learned_records.ensemble()
    figure = figures.ensemble(record)
    held = record["bin_count"].to_numpy() > 0
    ends = np.c_[record["bin_accuracy_low"], record["bin_accuracy_high"]][held]
    bars = figure.axes[2].collections[0].get_segments()
    np.testing.assert_allclose([found[:, 1] for found in bars], ends)
    words = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert words.startswith("Accuracy 0.9; negative log likelihood 0.35; calibrated 0.34; ")
    assert "disagreement 0.1; over the error 0.7; mutual information 0.05" in words


def test_of_many_networks_some_are_named_and_an_infinite_loss_is_left_out(tmp_path):
    record = learned_records.ensemble(30)
    record["nll"][0] = np.inf
    figure = figures.ensemble(record)
    figure.savefig(tmp_path / "figure.png")
    assert figure.axes[0].get_xticks().tolist() == list(range(1, 31, 3))
    assert figure.axes[0].get_xlim() == (0.4, 30.6)
    assert figure.axes[1].get_ylim()[1] < 1


def test_one_network_is_an_ensemble_too(tmp_path):
    record = learned_records.ensemble(members=1)
    record["disagreement"] = record["normalized_disagreement"] = np.nan
    figure = figures.ensemble(record)
    figure.savefig(tmp_path / "figure.png")
    assert figure.get_suptitle() == "Ensemble of 1 network"
    assert "isagreement" not in figure.legends[0].get_title().get_text()


def test_another_record_says_what_to_type():
    with pytest.raises(RequestError, match="--probe ensemble"):
        figures.ensemble(learned_records.features())
