"""Simplices between modes: evenly sampled, low in loss, and of growing volume."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn
from toy_potentials import point

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.potential import FunctionPotential
from landscape.paths.simplex import barycentric, fit_simplex

# A valley along a circle around a hill. The tilt breaks the symmetry.
RING = FunctionPotential(
    lambda p: (p[:, :2].square().sum(1) - 1).square() + p[:, 2:].square().sum(1) - 0.01 * p[:, 1], 4
)
# Flat in three directions within a ball, steep in the fourth.
BALL = FunctionPotential(lambda p: F.relu(p[:, :3].square().sum(1) - 1) + 50 * p[:, 3].square(), 4)
MODES = [point(1, 0, 0, 0), point(-1, 0, 0, 0)]


def test_points_are_spread_evenly_over_a_simplex():
    found = barycentric(4000, 3, 1, np.random.default_rng(0))
    np.testing.assert_allclose(found.sum(1), 1)
    # Dirichlet(1): each weight is Beta(1, K - 1).
    for weights in found.T:
        assert stats.kstest(weights, stats.beta(1, 2).cdf).pvalue > 1e-3


def test_a_point_has_one_mode_and_all_connectors():
    found = barycentric(6, 5, 3, np.random.default_rng(0))
    assert (found[:, :3] > 0).tolist() == np.eye(3, dtype=bool)[[0, 1, 2, 0, 1, 2]].tolist()
    assert (found[:, 3:] > 0).all()


def test_the_first_connector_finds_a_way_around_the_hill():
    found = fit_simplex(RING, MODES, 1, steps=300, learning_rate=0.02, seed=0)
    line = RING.gradients(torch.zeros(1, 4).double())[0].item()
    assert found.max_loss < 0.6 * line
    assert found.mean_loss < 0.25 * line
    assert abs(found.vertices[2, 1]) > 0.8
    assert found.dimension == 1
    lengths = [(found.vertices[2] - mode).norm().item() for mode in MODES]
    np.testing.assert_allclose(np.exp(found.log_volumes), lengths)
    assert found.volume == pytest.approx(sum(lengths))


def test_the_volume_has_no_share_in_the_first_connector_between_modes():
    found = [
        fit_simplex(RING, MODES, 1, steps=20, regularization=weight, seed=0).vertices
        for weight in (0.0, 0.5)
    ]
    assert torch.equal(*found)


def test_without_regularization_a_connector_stays_at_the_centroid_of_a_flat_land():
    flat = FunctionPotential(lambda p: 0 * p.sum(1), 4)
    found = fit_simplex(flat, MODES, 2, steps=5, regularization=0.0, seed=0)
    assert not found.vertices[2:].any()


def test_the_volume_grows_until_the_loss_stops_it():
    volumes = [
        fit_simplex(
            BALL,
            [point(0.2, 0, 0, 0)],
            3,
            steps=300,
            learning_rate=0.005,
            seed=0,
            regularization=weight,
        )
        for weight in (1e-4, 1e-2)
    ]
    assert all(found.max_loss < 0.1 for found in volumes)
    assert volumes[1].volume > 2 * volumes[0].volume
    # Steep in the fourth direction: the simplex lies across it.
    assert volumes[1].vertices[:, 3].abs().max() < 0.1


def test_the_first_connector_of_a_single_mode_is_driven_off_it():
    found = fit_simplex(BALL, [point(0, 0, 0, 0)], 1, steps=100, seed=0)
    assert found.volume > 0.1


def test_samples_are_weighted_sums_of_the_vertices_by_seed():
    found = fit_simplex(BALL, MODES, 2, steps=20, seed=0)
    ensemble = found.sample(50, seed=1)
    assert ensemble.shape == (50, 4)
    assert torch.equal(ensemble, found.sample(50, seed=1))
    assert not torch.equal(ensemble, found.sample(50, seed=2))
    weights = torch.linalg.lstsq(
        torch.cat([found.vertices[[0, 2, 3]].T, torch.ones(1, 3).double()]),
        torch.cat([ensemble[::2].T, torch.ones(1, 25).double()]),
    ).solution
    assert (weights > -1e-6).all()
    torch.testing.assert_close(weights.sum(0), torch.ones(25).double())


def test_the_mean_loss_has_its_standard_error():
    linear = FunctionPotential(lambda p: p[:, 0], 4)
    options = {"steps": 1, "learning_rate": 1e-9, "num_samples": 400}
    means, errors = [], []
    for seed in range(20):
        found = fit_simplex(linear, MODES, 1, seed=seed, **options)
        means.append(found.mean_loss)
        errors.append(found.standard_error)
    # The connector stays at 0: two segments, each of mean +-1/2 and variance 1/12.
    assert np.mean(errors) == pytest.approx(math.sqrt(1 / 12 / 800), rel=0.1)
    assert abs(np.mean(means)) < 4 * np.mean(errors) / math.sqrt(20)
    assert np.std(means) == pytest.approx(np.mean(errors), rel=0.5)


# -- a network ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regression():
    """Linear in its parameters, of which some do not matter: solutions fill a plane."""
    torch.manual_seed(0)
    inputs = torch.randn(12, 3, dtype=torch.float64)
    inputs[:, 2] = inputs[:, 0] + inputs[:, 1]
    model = nn.Linear(3, 1, bias=False).double()
    return Objective(model, (inputs, inputs @ point(1, 2, 0)[:, None]), "mse")


def test_solutions_of_a_linear_network_stay_solutions(regression):
    mode = point(1, 2, 0)
    found = fit_simplex(
        regression, [mode], 1, steps=200, learning_rate=0.05, seed=0, also={"test": regression}
    )
    # (1, 1, -1) is the direction in which nothing changes: there alone the volume may grow.
    away = found.vertices[1] - mode
    assert abs(away @ point(1, 1, -1)) / (away.norm() * math.sqrt(3)) > 0.99
    assert found.max_loss < 1e-2
    np.testing.assert_allclose(found.fields["test_loss"], found.losses)
    expected = regression.losses(torch.as_tensor(found.weights) @ found.vertices).numpy()
    np.testing.assert_allclose(found.losses, expected, atol=1e-14)
    np.testing.assert_allclose(found.vertex_losses[0], 0, atol=1e-14)


def test_a_simplex_that_diverges_says_so(regression):
    found = fit_simplex(
        regression, [point(0, 0, 0), point(1, 2, 0)], 2, steps=400, learning_rate=1e3, seed=0
    )
    assert found.status.startswith("diverged at step")
    assert found.vertices.isfinite().all()
    assert found.dimension == 1


def test_the_record_has_units_and_the_vertices_only_if_asked():
    found = fit_simplex(BALL, MODES, 2, steps=5, num_samples=8, seed=0)
    dataset = found.to_dataset()
    assert all({"units", "long_name"} <= variable.attrs.keys() for variable in dataset.values())
    assert float(dataset["mean_loss"]) == found.mean_loss
    assert float(np.exp(dataset["total_log_volume"])) == pytest.approx(found.volume)
    assert dataset.sizes["sample"] == 16
    assert dataset.sizes["step"] == 10
    assert "vertex_vector" not in dataset
    assert found.to_dataset(vectors=True)["vertex_vector"].shape == (4, 4)
    json.dumps(found.settings, allow_nan=False)
    assert found.status == "converged"
    assert "2 modes, 2 connectors" in repr(found)


@pytest.mark.parametrize(
    "options",
    [{"num_connectors": 0}, {"steps": 0}, {"num_samples": 1}, {"momentum": 1.0},
     {"regularization": -1.0}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(RequestError, match="expected"):
        fit_simplex(BALL, MODES, seed=0, **options)
    with pytest.raises(RequestError, match="0 modes"):
        fit_simplex(BALL, [], seed=0)
