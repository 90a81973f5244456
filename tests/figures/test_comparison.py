"""The figure of a family: points and bars are the table's, and gaps in it do no harm."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from landscape import figures
from landscape.errors import RequestError

RATES = [0.01, 0.1, 1.0]


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "recipe.learning_rate": RATES,
            "recipe.model": ["mlp", "cnn", "mlp"],
            "eigenvalues.largest": [50.0, 15.0, 2.0],
            "eigenvalues.largest_residual": [1.0, 0.5, 0.1],
            "eigenvalues.smallest": [-0.3, -0.2, -0.1],
            "trace.value": [60.0, 50.0, 40.0],
            "trace.low": [55.0, 48.0, 39.0],
            "trace.high": [66.0, 53.0, 40.5],
            "metrics.loss": [0.2, 0.3, 0.4],
            "metrics.accuracy": [0.99, 0.98, 0.97],
            "density.negative_mass": [0.2, 0.1, 0.3],
            "density.negative_mass_low": [0.1, 0.05, 0.2],
            "density.negative_mass_high": [0.5, 0.4, 0.6],
        },
        index=["a.h5", "b.h5", "c.h5"],
    )


def panels(figure):
    return {axis.get_title("left"): axis for axis in figure.axes}


def points(axis):
    (dots,) = [found for found in axis.lines if found.get_marker() == "o"]
    return np.asarray(dots.get_xydata())


def bars(axis):
    return np.asarray([segment[:, 1] for segment in axis.collections[0].get_segments()])


def test_points_and_bars_are_the_columns_of_the_table(table):
    found = panels(figures.comparison(table, "recipe.learning_rate"))
    for title, column in {
        "Largest eigenvalue": "eigenvalues.largest",
        "Trace": "trace.value",
        "Smallest eigenvalue": "eigenvalues.smallest",
        "Loss": "metrics.loss",
        "Accuracy": "metrics.accuracy",
        "Negative eigenvalues": "density.negative_mass",
    }.items():
        np.testing.assert_array_equal(points(found[title]), np.c_[RATES, table[column]])
        assert found[title].get_xlabel() == "learning rate"
        assert found[title].get_ylabel()
    assert len(found) == 6
    np.testing.assert_array_equal(bars(found["Trace"]), table[["trace.low", "trace.high"]])
    np.testing.assert_array_equal(bars(found["Largest eigenvalue"])[0], [49, 51])
    ends = table[["density.negative_mass_low", "density.negative_mass_high"]]
    np.testing.assert_array_equal(bars(found["Negative eigenvalues"]), ends)
    assert found["Trace"].get_ylabel() == "loss / parameter²"


def test_the_edge_of_stability_is_two_over_the_rate(table):
    found = panels(figures.comparison(table, "recipe.learning_rate"))
    (edge,) = [one for one in found["Largest eigenvalue"].lines if one.get_linestyle() == "--"]
    np.testing.assert_allclose(edge.get_ydata() * edge.get_xdata(), 2)
    assert edge.get_xdata().min() < 0.01 < 1 < edge.get_xdata().max()
    assert not any(one.get_linestyle() == "--" for one in found["Trace"].lines)
    other = panels(figures.comparison(table, "metrics.loss"))
    assert not any(one.get_linestyle() == "--" for one in other["Largest eigenvalue"].lines)


def test_axes_are_logarithmic_over_more_than_a_decade(table):
    found = panels(figures.comparison(table, "recipe.learning_rate"))
    assert all(axis.get_xscale() == "log" for axis in found.values())
    assert len({axis.get_xlim() for axis in found.values()}) == 1
    assert found["Largest eigenvalue"].get_yscale() == "log"
    assert found["Accuracy"].get_yscale() == "linear"
    found = panels(figures.comparison(table, "metrics.loss"))
    assert all(axis.get_xscale() == "linear" for axis in found.values())


def test_columns_that_are_missing_or_empty_have_no_panel(table):
    table = table.drop(columns=["trace.value", "metrics.accuracy"])
    table["metrics.loss"] = np.nan
    found = panels(figures.comparison(table, "recipe.learning_rate"))
    assert set(found) == {"Largest eigenvalue", "Smallest eigenvalue", "Negative eigenvalues"}


def test_nan_leaves_out_a_point_a_bar_or_a_row(table, tmp_path):
    table = table.astype({"trace.value": object})
    table.loc["a.h5", "trace.value"] = None
    table.loc["b.h5", "trace.high"] = np.nan
    table.loc["c.h5", "eigenvalues.largest_residual"] = np.nan
    figure = figures.comparison(table, "recipe.learning_rate")
    figure.savefig(tmp_path / "figure.png")
    trace = panels(figure)["Trace"]
    np.testing.assert_array_equal(points(trace), [[0.1, 50], [1, 40]])
    np.testing.assert_array_equal(bars(trace), [[48, 50], [39, 40.5]])
    table.loc["a.h5", "recipe.learning_rate"] = np.nan
    figure = figures.comparison(table, "recipe.learning_rate")
    assert figure.get_suptitle() == "2 checkpoints by learning rate"


def test_a_row_without_a_name_is_left_out(table):
    table.loc["b.h5", "recipe.model"] = None
    figure = figures.comparison(table, "recipe.model")
    ticks = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert (ticks, figure.get_suptitle()) == (["mlp"], "2 checkpoints by model")


def test_names_stand_side_by_side_and_are_not_joined(table, tmp_path):
    figure = figures.comparison(table, "recipe.model")
    figure.savefig(tmp_path / "figure.png")
    axis = panels(figure)["Trace"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["cnn", "mlp"]
    np.testing.assert_array_equal(points(axis)[:, 0], [1, 0, 1])
    assert len(axis.lines) == 1


def test_no_and_yes_are_names(table):
    table["sphere"] = [True, False, True]
    axis = panels(figures.comparison(table, "sphere"))["Trace"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["False", "True"]
    np.testing.assert_array_equal(points(axis)[:, 0], [1, 0, 1])


def test_a_number_that_is_infinite_has_no_place(table):
    table["step"] = [1.0, np.inf, 3.0]
    figure = figures.comparison(table, "step")
    assert figure.get_suptitle() == "2 checkpoints by step"
    np.testing.assert_array_equal(points(panels(figure)["Trace"])[:, 0], [1, 3])


@pytest.mark.parametrize(("num_panels", "columns"), [(3, 3), (4, 2), (5, 3)])
def test_more_than_three_panels_stand_in_two_rows(table, num_panels, columns):
    shown = ["trace.value", "eigenvalues.smallest", "metrics.loss", "metrics.accuracy"]
    shown = ["recipe.learning_rate", *shown, "density.negative_mass"][: num_panels + 1]
    figure = figures.comparison(table[shown], "recipe.learning_rate")
    assert len(figure.axes) == num_panels
    assert figure.axes[0].get_gridspec().ncols == columns


def test_an_axis_is_logarithmic_from_one_decade_on(table):
    table["metrics.loss"] = [0.1, 0.5, 1.0]
    found = panels(figures.comparison(table, "recipe.learning_rate"))
    assert found["Loss"].get_yscale() == "log"
    table["metrics.loss"] = [0.1, 0.5, 0.9]
    found = panels(figures.comparison(table, "recipe.learning_rate"))
    assert found["Loss"].get_yscale() == "linear"


def test_a_line_joins_the_means_of_equal_numbers(table):
    table["seed"] = [1, 0, 1]
    axis = panels(figures.comparison(table, "seed"))["Trace"]
    (mean,) = [one for one in axis.lines if one.get_label() == "mean"]
    np.testing.assert_array_equal(mean.get_xydata(), [[0, 50], [1, 50]])


def test_one_checkpoint_is_a_family_too(table, tmp_path):
    figure = figures.comparison(table.iloc[:1], "recipe.learning_rate")
    figure.savefig(tmp_path / "figure.png")
    assert figure.get_suptitle() == "1 checkpoint by learning rate"


def test_an_unknown_column_gets_the_nearest_right_one(table):
    with pytest.raises(RequestError, match=r"'recipe\.lerning_rate'.*'recipe\.learning_rate'"):
        figures.comparison(table, "recipe.lerning_rate")


@pytest.mark.parametrize("by", ["seed", "recipe.learning_rate"])
def test_nothing_to_draw_says_what_to_type(table, by):
    table = table[["recipe.learning_rate"]].assign(seed=np.nan)
    with pytest.raises(RequestError, match="landscape probe"):
        figures.comparison(table, by)


def test_bands_share_a_panel_with_a_curve_and_a_name_each(table, fits_its_sheet):
    low, mid = np.array([0.5, 0.6, 0.7]), np.array([0.1, 0.4, 0.2])
    table = table.assign(
        **{
            "bands.low_band": low,
            "bands.low_band_low": low - 0.1,
            "bands.low_band_high": low + 0.1,
        },
        **{"bands.mid_band": mid},
    )
    figure = figures.comparison(table, "recipe.learning_rate")
    axis = panels(figure)["Accuracy by band"]
    dots = {line.get_label(): line for line in axis.lines if line.get_marker() == "o"}
    assert list(dots) == [text.get_text() for text in axis.get_legend().get_texts()]
    np.testing.assert_array_equal(dots["low"].get_ydata(), low)
    np.testing.assert_array_equal(dots["mid"].get_ydata(), mid)
    assert dots["low"].get_color() != dots["mid"].get_color()
    np.testing.assert_allclose(bars(axis), np.c_[low - 0.1, low + 0.1])
    lowest, highest = axis.get_ylim()
    assert lowest < 0.1
    assert highest > 0.8
    fits_its_sheet(figure)


def test_many_bands_have_a_colour_and_room_for_a_name_each(table):
    names = [f"bands.band {index}_band" for index in range(8)]
    table = table.assign(**{name: [0.2, 0.5, 0.9] for name in names})
    axis = panels(figures.comparison(table, "recipe.learning_rate"))["Accuracy by band"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert len({line.get_color() for line in dots}) == 8
    assert [line.get_label() for line in dots] == [f"band {index}" for index in range(8)]
    low, high = axis.get_ylim()
    assert (0.9 - low) / (high - low) < 0.65  # the legend is above
    assert axis.yaxis.get_major_formatter()(1.2, 0) == ""
    assert axis.yaxis.get_major_formatter()(0.8, 0) == "0.8"


def test_what_was_learned_is_drawn_with_its_interval(table):
    table = table.assign(
        **{
            "features.effective_number": [1.0, 2, 3],
            "features.effective_number_low": [0.5, 1, 2],
            "features.effective_number_high": [1.5, 3, 4],
            "linear.accuracy": [0.07, 0.8, 0.9],
            "linear.accuracy_low": [0.06, 0.7, 0.8],
            "linear.accuracy_high": [0.08, 0.9, 1.0],
            "depth.mean_depth": [1.0, 2, 3],
            "depth.mean_depth_error": [0.1, 0.2, np.nan],
        }
    )
    found = panels(figures.comparison(table, "recipe.learning_rate"))
    np.testing.assert_array_equal(points(found["Features used"])[:, 1], [1, 2, 3])
    np.testing.assert_array_equal(bars(found["Features used"])[1], [1, 3])
    np.testing.assert_array_equal(bars(found["Linear probe"])[1], [0.7, 0.9])
    assert found["Linear probe"].get_yscale() == "linear"  # though over a decade
    ends = [[1 - 0.196, 1 + 0.196], [2 - 0.392, 2 + 0.392], [3, 3]]
    np.testing.assert_allclose(bars(found["Prediction depth"]), ends)
