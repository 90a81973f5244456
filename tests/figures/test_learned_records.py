"""The figures of what was learned draw what was measured, after a file, whatever its shape."""

from __future__ import annotations

import learned_records
import numpy as np
import pytest
from learned_records import measured

from landscape import figures, store

PROBES = (
    "linear", "depth", "features", "bands", "sparsity", "ensemble", "dynamics", "memorization",
)  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """A measured record as it comes back from a file."""

    def record(probe, **options):
        store.save(tmp_path / "results.h5", measured(probe, **options))
        ((_, found),) = store.open_results(tmp_path / "results.h5").dataset(probe)
        return found

    return record


@pytest.mark.parametrize("probe", PROBES)
def test_made_up_records_are_like_the_measured_ones(probe, read):
    made, found = getattr(learned_records, probe)(), read(probe)
    for name, variable in made.variables.items():
        assert variable.dims == found[name].dims, name
        assert variable.dtype.kind == found[name].dtype.kind, name
        assert variable.dtype.kind == "U" or variable.dtype == found[name].dtype, name


def lines(axis):
    """What has a name in a panel."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}


def bars(axis, place=0):
    return np.asarray([segment[:, 1] for segment in axis.collections[place].get_segments()])


def test_linear(read, fits_its_sheet):
    record = read("linear")
    figure = figures.linear(record)
    by_layer = lines(figure.axes[0])
    np.testing.assert_array_equal(by_layer["linear probe"], record["test_accuracy"])
    np.testing.assert_array_equal(by_layer["untrained network"], record["untrained_accuracy"])
    np.testing.assert_array_equal(by_layer["random labels"], record["control_accuracy"])
    np.testing.assert_array_equal(by_layer["the network"], [record["network_accuracy"]] * 2)
    np.testing.assert_allclose(bars(figure.axes[0]), np.c_[record["test_low"], record["test_high"]])
    fits_its_sheet(figure)


def test_depth(read, fits_its_sheet):
    record = read("depth")
    figure = figures.depth(record)
    never = int(record["num_undefined"])
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [*record["count"].to_numpy(), *([never] if never else [])]
    agreement, accuracy = figure.axes[1].lines
    np.testing.assert_array_equal(agreement.get_ydata(), record["knn_agreement"])
    np.testing.assert_array_equal(accuracy.get_ydata(), record["knn_accuracy"])
    fits_its_sheet(figure)


def test_features(read, fits_its_sheet):
    record = read("features")
    figure = figures.features(record)
    order = np.argsort(-record["flip_rate"].to_numpy(), kind="stable")
    (axis,) = figure.axes
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), record["flip_rate"][order])
    ends = np.c_[record["flip_low"], record["flip_high"]][order]
    np.testing.assert_allclose(bars(axis), ends)
    fits_its_sheet(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_bands(read, channels, fits_its_sheet):
    record = read("bands", channels=channels)
    figure = figures.bands(record)
    kept, removed, whole, chance = (line.get_ydata() for line in figure.axes[0].lines)
    np.testing.assert_array_equal(kept, record["accuracy"])
    np.testing.assert_array_equal(removed, record["removed_accuracy"])
    assert (whole[0], chance[0]) == (record["full_accuracy"], record["chance"])
    drawn = [axis for axis in figure.axes if axis.images]
    titles = record["band_image"].to_numpy().tolist()
    assert [axis.get_title() for axis in drawn] == [*titles, *[""] * len(titles)]
    fits_its_sheet(figure)


def test_sparsity(read, fits_its_sheet):
    record = read("sparsity")
    figure = figures.sparsity(record)
    for place, name, words in (
        (0, "gini_population", "Gini, over units"),
        (0, "hoyer_lifetime", "Hoyer, over examples"),
        (1, "dead_share", "dead"),
        (2, "effective_rank", "effective rank"),
        (2, "num_units", "units"),
    ):
        np.testing.assert_array_equal(lines(figure.axes[place])[words], record[name])
    fits_its_sheet(figure)


def test_ensemble(read, fits_its_sheet):
    record = read("ensemble")
    figure = figures.ensemble(record)
    for axis, metric in zip(figure.axes, ("accuracy", "nll"), strict=False):
        members, gains = (line.get_ydata() for line in axis.lines)
        np.testing.assert_array_equal(members, record[metric])
        np.testing.assert_array_equal(gains, record[f"gain_{metric}"])
    held = record["bin_count"] > 0
    ends = np.c_[record["bin_accuracy_low"], record["bin_accuracy_high"]][held]
    np.testing.assert_allclose(bars(figure.axes[2]), ends)
    fits_its_sheet(figure)


def test_dynamics(read, fits_its_sheet):
    record = read("dynamics")
    figure = figures.dynamics(record)
    found = lines(figure.axes[1])
    np.testing.assert_array_equal(found["right"], record["accuracy"])
    once = [float((record["first_learned"] <= time).mean()) for time in record["time"]]
    np.testing.assert_allclose(found["right at least once so far"], once)
    margins = figure.axes[3].lines[0].get_ydata()
    np.testing.assert_array_equal(margins, np.sort(record["aum"]))
    counted = sum(bar.get_height() for bar in figure.axes[2].patches)
    assert counted == learned_records.NUM
    fits_its_sheet(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_memorization(read, channels, fits_its_sheet):
    record = read("memorization", channels=channels)
    figure = figures.memorization(record)
    values = record["value"].to_numpy()
    sorted_values = next(axis for axis in figure.axes if axis.get_title("left") == "sorted")
    known = np.sort(values[np.isfinite(values)])[::-1]
    np.testing.assert_array_equal(lines(sorted_values)["memorization"], known)
    drawn = [axis for axis in figure.axes if axis.images]
    example = int(record["shown_example"][0])
    label = int(record["label"][example])
    assert drawn[0].get_title() == f"{example}: class {label}\n{values[example]:.2g}"
    assert len(drawn) == 3
    fits_its_sheet(figure)


def test_the_columns_of_a_comparison_are_those_of_measured_records(tmp_path):
    for probe in PROBES:
        store.save(tmp_path / "results.h5", measured(probe))
    table = store.open_results(tmp_path / "results.h5").table().assign(seed=0)
    figure = figures.comparison(table, "seed")
    titles = {axis.get_title("left") for axis in figure.axes}
    assert titles == {
        "Accuracy by band", "Effective rank", "Ensemble", "Features used", "Linear probe",
        "Memorization", "Prediction depth",
    }  # fmt: skip
