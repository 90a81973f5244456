"""Bands between minima: known saddles, and what a result says of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_potentials import (
    CURVY_END,
    CURVY_VALLEY,
    EGG_CARTON,
    MB_MINIMA,
    MB_SADDLES,
    MUELLER_BROWN,
    point,
)

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.band import tangents
from landscape.paths.neb import neb
from landscape.paths.potential import FunctionPotential

METHODS = pytest.mark.parametrize("method", ["neb", "string"])


@METHODS
@pytest.mark.parametrize("ends", list(MB_SADDLES))
def test_the_climbing_image_finds_the_saddles_of_mueller_and_brown(ends, method):
    energy, place = MB_SADDLES[ends]
    found = neb(
        MUELLER_BROWN, *(MB_MINIMA[end] for end in ends), num_pivots=9, steps=500,
        learning_rate=2e-4, method=method, climb=True, seed=0,
    )  # fmt: skip
    torch.testing.assert_close(found.pivots[found.climbing], point(*place), atol=2e-6, rtol=0)
    assert found.pivot_losses[found.climbing] == pytest.approx(energy, abs=1e-6)
    # Between pivots the polyline cuts across the valley's bends.
    assert energy - 1e-6 < found.saddle < energy + 0.5


def test_both_saddles_lie_between_the_two_deep_minima():
    found = neb(
        MUELLER_BROWN, MB_MINIMA[0], MB_MINIMA[2], num_pivots=17, steps=400, learning_rate=2e-4,
        climb=True, seed=0,
    )  # fmt: skip
    assert found.pivot_losses.max() == pytest.approx(MB_SADDLES[0, 1][0], abs=1e-4)
    inner = found.pivot_losses[1:-1]
    summits = inner[(inner > found.pivot_losses[:-2]) & (inner > found.pivot_losses[2:])]
    # The other one has no pivot of its own.
    assert min(summits) == pytest.approx(MB_SADDLES[1, 2][0], abs=1.0)


@METHODS
def test_the_curvy_valley_is_followed_to_its_saddle_at_the_origin(method):
    ends = point(-CURVY_END, -1), point(CURVY_END, 1)
    found = neb(
        CURVY_VALLEY, *ends, num_pivots=31, steps=300, learning_rate=0.1, method=method, seed=0
    )
    # By symmetry a pivot is at the origin, where the loss is exactly 1.
    assert found.pivot_losses.max() == pytest.approx(1, abs=1e-9)
    assert found.saddle == pytest.approx(1, abs=1e-3)
    assert found.saddle_t == pytest.approx(0.5, abs=0.02)
    assert found.straight["loss"].heights["saddle"].value > 1.5
    assert found.length_ratio > 1.1
    assert found.converged


def test_neighbours_in_the_egg_carton_are_joined_at_0():
    ends = point(0.5, 0.5), point(1.5, 0.5)
    start = neb(EGG_CARTON, *ends, num_pivots=5, steps=0, seed=0)
    assert start.saddle == pytest.approx(0, abs=1e-12)
    found = neb(EGG_CARTON, *ends, num_pivots=5, steps=50, learning_rate=0.01, seed=0)
    assert found.saddle == pytest.approx(0, abs=1e-9)
    assert found.barrier == found.barrier_above_highest_end == pytest.approx(2)


def test_across_the_egg_carton_the_way_leads_around_the_maximum():
    # Not quite on the diagonal, which is an axis of symmetry: nothing would push it off.
    ends = point(0.5, 0.5), point(1.5, 1.45)
    found = neb(EGG_CARTON, *ends, num_pivots=15, steps=400, learning_rate=0.005, seed=0)
    assert found.straight["loss"].heights["saddle"].value > 1.9
    assert found.saddle == pytest.approx(0, abs=0.02)


def test_identical_ends_are_flat():
    place = point(0.2, 0.7)
    found = neb(MUELLER_BROWN, place, place.clone(), steps=20, learning_rate=1e-4, seed=0)
    assert found.barrier == found.length == 0
    assert np.ptp(found.losses) == 0
    assert found.converged
    assert found.status == "converged"
    assert math.isnan(found.length_ratio)


def test_on_a_convex_potential_the_straight_line_has_no_barrier_and_stays_low():
    bowl = FunctionPotential(lambda points: points.square().sum(1), 3)
    ends = point(1, 0, 0), point(0, 1, 0)
    found = neb(bowl, *ends, num_pivots=5, steps=100, learning_rate=0.05, seed=0)
    assert found.barrier == 0
    assert found.saddle == pytest.approx(1)
    # Downhill across the band ends at the bottom: the band is bent to it.
    assert found.pivot_losses.min() < 0.2


def test_a_network_with_one_parameter_has_only_the_straight_path():
    inputs = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    objective = Objective(model, (inputs, 2 * inputs), "mse")
    found = neb(objective, point(1), point(4), num_pivots=4, steps=30, seed=0)
    assert found.forces.max() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(found.pivots.flatten(), point(1, 2, 3, 4))
    slope = inputs.square().mean().item()
    np.testing.assert_allclose(found.losses, slope * (1 + 3 * found.t - 2) ** 2, atol=1e-12)


# -- a small classifier ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solutions():
    """Two networks that tell the quadrants' diagonals apart, trained from different starts."""
    torch.manual_seed(9)
    inputs = torch.randn(60, 2, dtype=torch.float64)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    thetas = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(150):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        thetas.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    return Objective(model, (inputs, targets), "cross_entropy"), thetas


def banded(solutions, **options):
    objective, thetas = solutions
    return neb(objective, *thetas, **{"num_pivots": 5, "steps": 60, "seed": 0, **options})


def test_a_band_between_two_solutions_is_lower_than_the_line(solutions):
    found = banded(solutions, steps=150)
    line = found.straight["loss"].heights["saddle"].value
    assert found.saddle < 0.4 * line
    error = found.profiles["error"].heights["saddle"].value
    assert error < found.straight["error"].heights["saddle"].value
    assert 0 < found.standard_error < found.barrier
    assert torch.equal(found.pivots[[0, -1]], torch.stack(solutions[1]))


def test_what_is_reported_is_the_loss_of_the_network_there(solutions):
    objective = solutions[0]
    found = banded(solutions, steps=10, also={"test": objective})
    np.testing.assert_allclose(found.pivot_losses, objective.losses(found.pivots).numpy())
    middle = objective.loss(torch.lerp(found.pivots[1], found.pivots[2], 0.3))
    assert found.losses[13] == pytest.approx(middle)
    np.testing.assert_allclose(found.profiles["test_loss"].values, found.losses)
    assert len(found.losses) == len(found.t) == 41
    assert found.saddle == found.losses.max()


def test_the_same_seed_gives_the_same_band(solutions):
    pivots = [banded(solutions, batch_size=16, steps=10, seed=seed).pivots for seed in (1, 1, 2)]
    assert torch.equal(pivots[0], pivots[1])
    assert not torch.equal(pivots[0], pivots[2])


def test_the_forces_are_those_of_all_the_data(solutions):
    found = banded(solutions, batch_size=7, steps=5)
    gradients = torch.stack([solutions[0].gradient(pivot) for pivot in found.pivots])
    along = tangents(found.pivots, torch.as_tensor(found.pivot_losses))
    across = gradients[1:-1] - (gradients[1:-1] * along).sum(1, keepdim=True) * along
    np.testing.assert_allclose(found.forces[1:-1], across.norm(dim=1).numpy())


def test_decay_is_no_part_of_the_losses_that_are_reported(solutions):
    found = banded(solutions, weight_decay=0.1)
    np.testing.assert_allclose(found.pivot_losses, solutions[0].losses(found.pivots).numpy())
    norms = [banded(solutions, weight_decay=d).pivots[2].norm() for d in (0, 0.1)]
    assert norms[1] < 0.8 * norms[0]


def test_a_band_that_diverged_says_so(solutions):
    found = banded(solutions, learning_rate=1e300)
    assert "diverged" in found.status
    assert not found.converged
    assert found.saddle == pytest.approx(found.straight["loss"].heights["saddle"].value, rel=0.2)


def test_a_band_that_is_not_there_yet_says_how_far(solutions):
    found = banded(solutions, steps=3)
    assert found.status.startswith("not converged: residual")
    gain = found.forces.max() * found.length / 4 / np.ptp(found.straight["loss"].values)
    assert found.residual == pytest.approx(gain)


def test_the_record_has_units_and_the_pivots_only_if_asked(solutions):
    found = banded(solutions, steps=5, also={"test": solutions[0]})
    dataset = found.to_dataset()
    assert all({"units", "long_name"} <= variable.attrs.keys() for variable in dataset.values())
    assert float(dataset["loss_saddle"]) == found.saddle
    assert float(dataset["loss_chord"]) == found.barrier
    assert int(dataset["is_pivot"].sum()) == 5
    assert dataset.sizes["step"] == 5
    assert "pivot_vector" not in dataset
    held = found.to_dataset(vectors=True)["pivot_vector"]
    assert held.shape == tuple(found.pivots.shape)
    json.dumps(found.settings, allow_nan=False)
    assert found.probe == "neb"
    assert "saddle" in repr(found)


def test_progress_tells_every_step(solutions):
    seen = []
    banded(solutions, steps=3, progress=lambda *told: seen.append(told))
    assert seen == [(1, 3, ""), (2, 3, ""), (3, 3, "")]


def test_a_band_of_two_pivots_is_refused():
    with pytest.raises(RequestError, match="3 pivots"):
        neb(EGG_CARTON, point(0, 0), point(1, 1), num_pivots=2, seed=0)
