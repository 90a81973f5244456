from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.barrier import barrier
from landscape.probes.sensitivity.geometry_bridge import bridge
from landscape.probes.sensitivity.input_curvature import input_curvature
from landscape.probes.sensitivity.weight_curvature import weight_curvature


@pytest.fixture
def ends(objective):
    """The barrier between two networks that are one function: all hidden units have turned."""
    theta = objective.theta
    for _ in range(60):
        theta = theta - objective.gradient(theta)
    turned = -theta
    turned[objective.space.slice_of("2.bias")] *= -1
    return barrier(objective, theta, turned, num=5, execution="loop")


def test_scores_are_those_that_were_measured_and_correlations_scipy_s(objective, ends):
    memorized = np.random.default_rng(0).random(13)
    found = bridge(objective, memorized, barrier=ends, seed=3)
    curvature = weight_curvature(objective, seed=3).value
    np.testing.assert_array_equal(found.curvature, curvature)
    np.testing.assert_array_equal(found.barrier_share, ends.example_shares)
    np.testing.assert_allclose(found.loss, objective.per_example().numpy())
    for name, score in (("curvature", curvature), ("barrier", found.barrier_share)):
        both = ~np.isnan(score)
        wanted = stats.spearmanr(memorized[both], score[both]).statistic
        assert found.correlations[name].value == pytest.approx(wanted)
        assert found.correlations[name].num_left_out == 13 - both.sum()


def test_shares_of_the_barrier_add_up_to_it(objective, ends):
    found = bridge(objective, np.zeros(13), curvature=np.ones(13), barrier=ends)
    assert ends.value > 0.1
    assert found.barrier_share.sum() == pytest.approx(ends.value, rel=1e-12)


def test_a_score_that_is_a_function_of_the_loss_says_nothing_given_the_loss(objective):
    losses = objective.per_example().numpy()
    noise = np.random.default_rng(0).random(13)
    found = bridge(objective, np.exp(losses), curvature=losses + noise)
    assert found.correlations["curvature"].value > 0.5
    assert np.isnan(found.correlations["curvature_given_loss"].value)
    other = bridge(objective, losses + noise, curvature=losses - noise)
    assert other.correlations["curvature_given_loss"].value < 0
    assert other.correlations["curvature_given_loss"].value < other.correlations["curvature"].value


def test_undefined_memorization_is_left_out_and_counted(objective):
    memorized = np.random.default_rng(0).random(13)
    memorized[[2, 6]] = np.nan
    found = bridge(objective, memorized, curvature=np.arange(13.0))
    assert found.correlations["curvature"].num_left_out == 2
    assert found.correlations["curvature_given_loss"].num_left_out == 3  # one has no loss
    assert found.status == "2 of 13 examples have not both scores"
    assert bridge(objective, np.arange(13.0), curvature=np.arange(13.0)).status == "converged"


def test_without_a_barrier_there_is_none(objective):
    found = bridge(objective, np.arange(13.0), curvature=np.arange(13.0))
    assert np.isnan(found.barrier_share).all()
    assert np.isnan(found.correlations["barrier"].value)
    assert found.correlations["curvature"].value == pytest.approx(1)


def test_the_point_may_be_another(objective, checkpoints):
    found = bridge(objective, np.arange(13.0), theta=checkpoints[2])
    np.testing.assert_allclose(found.loss, objective.per_example(checkpoints[2]).numpy())
    wanted = weight_curvature(objective, checkpoints[2]).value
    np.testing.assert_array_equal(found.curvature, wanted)


def test_the_data_set_names_what_it_holds(objective, ends):
    memorized = np.random.default_rng(0).random(13)
    found = bridge(objective, memorized, barrier=ends)
    dataset = found.to_dataset()
    assert set(dataset.sizes) == {"example"}
    for name in ("memorization", "curvature", "barrier_share", "loss"):
        np.testing.assert_array_equal(dataset[name], getattr(found, name))
    for name, one in found.correlations.items():
        assert float(dataset[f"{name}_correlation"]) == one.value
        assert float(dataset[f"{name}_correlation_low"]) == one.low
        assert float(dataset[f"{name}_correlation_high"]) == one.high
        assert int(dataset[f"{name}_num_left_out"]) == one.num_left_out
        assert int(dataset[f"{name}_num_examples"]) == one.num_examples
    assert all(v.attrs["units"] and v.attrs["long_name"] for v in dataset.data_vars.values())
    assert dataset.curvature.attrs["units"] == "loss / parameter^2"
    assert found.provenance == objective.provenance()
    assert found.probe == "bridge"


def test_units_are_those_of_the_curvature_and_of_the_barrier(objective, checkpoints):
    of_inputs = bridge(objective, np.arange(13.0), curvature=input_curvature(objective))
    assert of_inputs.to_dataset().curvature.attrs["units"] == "loss^2 / input^4"
    of_error = barrier(objective, *checkpoints[[0, 3]], num=3, metric="error", execution="loop")
    found = bridge(objective, np.arange(13.0), curvature=np.arange(13.0), barrier=of_error)
    assert found.to_dataset().barrier_share.attrs["units"] == "1"
    assert found.to_dataset().curvature.attrs["units"] == "1"
    gauss_newton = weight_curvature(objective, matrix="gauss_newton")
    assert (
        "gauss-newton" in bridge(objective, np.arange(13.0), curvature=gauss_newton).curvature_kind
    )


def test_scores_of_other_examples_are_refused(objective, ends, network, data):
    with pytest.raises(RequestError, match="memorization_values has 12 entries for 13"):
        bridge(objective, np.zeros(12))
    with pytest.raises(RequestError, match="curvature has 12 entries"):
        bridge(objective, np.zeros(13), curvature=np.zeros(12))
    fewer = Objective(network, (data[0][:12], data[1][:12]))
    with pytest.raises(RequestError, match="barrier has 13 entries for 12"):
        bridge(fewer, np.zeros(12), curvature=np.zeros(12), barrier=ends)


def test_a_barrier_that_does_not_tell_its_examples_apart_is_refused(network, data):
    inputs, labels = data[0], data[1].clamp(min=0)
    loss = lambda output, target: nn.functional.cross_entropy(output, target)  # noqa: E731
    mixed = Objective(network, (inputs, labels), loss)
    between = barrier(mixed, mixed.theta, 2 * mixed.theta, num=3, execution="loop")
    objective = Objective(network, (inputs, labels))
    with pytest.raises(RequestError, match="no shares of single examples"):
        bridge(objective, torch.zeros(13), curvature=np.zeros(13), barrier=between)
