from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.sensitivity.memorization_sweep import memorization_sweep
from landscape.probes.sensitivity.rank_correlation import rank_correlation
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns

RATES = [0.01, 0.1, 1.0]


@pytest.fixture
def tables():
    """Runs of 20 models on 15 examples at three learning rates, with curvature 100 / rate."""
    generator = np.random.default_rng(0)
    masks = generator.random((20, 15)) < 0.5
    runs = [
        SubsetRuns(masks, masks | (generator.random((20, 15)) < share)) for share in (0.9, 0.6, 0.2)
    ]
    curvature = np.array([[1.0], [0.1], [0.01]]) * generator.uniform(1, 3, 15)
    shares = np.array([[1.0], [2.0], [3.0]]) * generator.normal(size=15)
    return runs, curvature, shares


def test_the_table_has_what_was_measured_at_each_learning_rate(tables):
    runs, curvature, shares = tables
    found = memorization_sweep(RATES, runs, curvature, barrier_share=shares)
    for row, one in enumerate(runs):
        np.testing.assert_array_equal(found.memorization[row], memorization(one).value)
        assert found.accuracy_in[row] == 1
        assert found.accuracy_out[row] == one.correct[~one.masks].mean()
        both = found.memorization[row], curvature[row]
        assert found.correlations["curvature"][row] == rank_correlation(*both)
        wanted = rank_correlation(found.memorization[row], shares[row])
        assert found.correlations["barrier"][row] == wanted
    np.testing.assert_array_equal(found.curvature, curvature)
    np.testing.assert_array_equal(found.barrier_share, shares)


def test_trends_are_slopes_per_decade(tables):
    runs, curvature, shares = tables
    found = memorization_sweep(RATES, runs, curvature, barrier_share=shares)
    decades = np.log10(RATES)
    means = found.memorization.mean(1)
    memorized = found.trends["memorization"]
    assert memorized.value == pytest.approx(stats.linregress(decades, means).slope)
    assert memorized.low < memorized.value < memorized.high
    # Curvature falls by a decade with each decade, whichever examples are drawn.
    bent = found.trends["curvature"]
    np.testing.assert_allclose([bent.value, bent.low, bent.high], -1, rtol=1e-12)
    height = found.trends["barrier"]
    assert height.value == pytest.approx(stats.linregress(decades, shares.sum(1)).slope)


def test_learning_rates_may_come_in_any_order(tables):
    runs, curvature, shares = tables
    found = memorization_sweep(RATES, runs, curvature, barrier_share=shares)
    turned = memorization_sweep(
        RATES[::-1], runs[::-1], curvature[::-1], barrier_share=shares[::-1]
    )
    np.testing.assert_array_equal(turned.learning_rates, RATES)
    np.testing.assert_array_equal(turned.memorization, found.memorization)
    assert turned.trends == found.trends
    assert turned.correlations["curvature"] == found.correlations["curvature"]


def test_examples_that_were_never_held_out_are_in_no_trend(tables):
    runs, curvature, _ = tables
    masks = runs[1].masks.copy()
    masks[:, 4] = True
    runs = [runs[0], SubsetRuns(masks, runs[1].correct), runs[2]]
    found = memorization_sweep(RATES, runs, curvature)
    assert np.isnan(found.memorization[1, 4])
    assert np.isnan(found.memorization).sum() == 1
    assert found.trends["memorization"].num_examples == 14
    kept = np.arange(15) != 4
    slope = stats.linregress(np.log10(RATES), found.memorization[:, kept].mean(1)).slope
    assert found.trends["memorization"].value == pytest.approx(slope)
    assert found.trends["curvature"].num_examples == 15
    assert found.status == "1 of 15 examples are undefined"
    mean = found.to_dataset().mean_memorization.values
    assert mean[1] == pytest.approx(found.memorization[1, kept].mean())


def test_what_was_not_given_or_has_no_logarithm_has_no_trend(tables):
    runs, curvature, _ = tables
    curvature[1] = -1
    found = memorization_sweep(RATES, runs, curvature)
    assert np.isnan(found.trends["curvature"].value)
    assert np.isnan(found.trends["barrier"].value)
    assert found.trends["barrier"].num_examples == 0
    assert np.isnan(found.correlations["barrier"][0].value)
    assert np.isfinite(found.trends["memorization"].value)


def test_given_the_loss_correlations_are_partial(tables):
    runs, curvature, _ = tables
    loss = np.random.default_rng(1).random((3, 15))
    found = memorization_sweep(RATES, runs, curvature, loss=loss)
    wanted = rank_correlation(found.memorization[2], curvature[2], loss[2])
    assert found.correlations["curvature_given_loss"][2] == wanted


def test_the_data_set_names_what_it_holds(tables):
    runs, curvature, shares = tables
    found = memorization_sweep(RATES, runs, curvature, barrier_share=shares)
    dataset = found.to_dataset()
    assert dict(dataset.sizes) == {"learning_rate": 3, "example": 15}
    np.testing.assert_array_equal(dataset.learning_rate, RATES)
    assert dataset.memorization.dims == ("learning_rate", "example")
    assert float(dataset.memorization_trend) == found.trends["memorization"].value
    assert float(dataset.barrier_trend_high) == found.trends["barrier"].high
    values = [one.low for one in found.correlations["curvature"]]
    np.testing.assert_array_equal(dataset.curvature_correlation_low, values)
    for variable in dataset.variables.values():
        assert variable.attrs["units"]
        assert variable.attrs["long_name"]


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([0.1, 0.1, 1], "positive and each once"),
        ([0.0, 0.1, 1], "positive and each once"),
        ([0.1, 1], "3 runs of .* for 2 learning rates"),
    ],
)
def test_learning_rates_that_do_not_fit_are_refused(tables, rates, message):
    runs, curvature, _ = tables
    with pytest.raises(RequestError, match=message):
        memorization_sweep(rates, runs, curvature)


def test_tables_that_do_not_fit_are_refused(tables):
    runs, curvature, _ = tables
    with pytest.raises(RequestError, match="curvature has shape"):
        memorization_sweep(RATES, runs, curvature[:, :14])
    with pytest.raises(RequestError, match="loss has shape"):
        memorization_sweep(RATES, runs, curvature, loss=curvature.T)
    fewer = [*runs[:2], runs[2].select(examples=range(14))]
    with pytest.raises(RequestError, match=r"of \[14, 15\] examples"):
        memorization_sweep(RATES, fewer, curvature)
