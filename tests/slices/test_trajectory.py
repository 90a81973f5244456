"""A trajectory says where checkpoints lie, what they lose, and how much of that a plane shows."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import MLP, ConvNet, network, random_vectors, whitened
from torch import nn

from landscape import store
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices import pca
from landscape.slices.directions import Direction, random_directions
from landscape.slices.pca import random_walk_shares
from landscape.slices.sweeping import plane
from landscape.slices.trajectory import checkpoints_fingerprint, trajectory

F64 = torch.float64
N = 12


def _squares(n: int = N, scales: torch.Tensor | None = None) -> Objective:
    """L(theta) = sum of scales * theta^2, scales 1 unless given."""
    model = nn.Linear(n, 1, bias=False, dtype=F64)
    inputs = whitened(40, n) * (1 if scales is None else scales.sqrt())
    return Objective(model, (inputs, torch.zeros(40, 1, dtype=F64)), "mse")


def _basis(n: int = N, k: int = 2) -> torch.Tensor:
    """(k, n) orthonormal."""
    return torch.linalg.qr(random_vectors(n, k, seed=5))[0].T


def _classifier(**options: object) -> Objective:
    model, inputs, targets = network(MLP, num=30)
    return Objective(model, (inputs, targets), "cross_entropy", **options)


# -- the plane --------------------------------------------------------------------------------


def test_a_planar_path_is_shown_whole():
    path = torch.tensor([[3, 1], [2, -1], [1, 1], [0.5, 0], [0, 0]], dtype=F64)
    basis, center = _basis(), random_vectors(1, N)[0]
    thetas = center + path @ basis
    found = trajectory(_squares(), thetas)
    assert found.explained[:2].sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-14)
    np.testing.assert_allclose(found.projected_losses, found.losses, rtol=1e-12)
    np.testing.assert_allclose(found.distances, path.norm(dim=1), atol=1e-14)
    assert found.in_plane_share == pytest.approx(1)
    # The same path in another frame of the plane: its own inner products.
    turned = torch.from_numpy(found.coordinates)
    torch.testing.assert_close(turned @ turned.T, path @ path.T)
    assert found.coordinates[-1].tolist() == [0, 0]
    torch.testing.assert_close(found.center, thetas[-1], rtol=0, atol=0)


def test_coordinates_in_given_directions_are_the_ones_that_the_path_was_made_of():
    directions = torch.tensor([[3.0], [0.1]], dtype=F64) * _basis()
    path = torch.tensor([[3, 1], [2, -40], [0, 0]], dtype=F64)
    found = trajectory(_squares(), 1 + path @ directions, directions=directions)
    np.testing.assert_allclose(found.coordinates, path, atol=1e-12)


@pytest.mark.parametrize("angle", [0.01, 1.0, 3.0])
def test_oblique_directions_give_the_coordinates_of_the_part_in_the_plane(angle):
    first, second, off = _basis(k=3)
    directions = torch.stack(
        [5 * first, 0.2 * (math.cos(angle) * first + math.sin(angle) * second)]
    )
    # p = x e1 + y e2 is a d1 + b d2 with b = y / (0.2 sin), a = (x - 0.2 b cos) / 5.
    x, y, out = 2.0, -0.7, 3.0
    thetas = torch.stack([x * first + y * second + out * off, torch.zeros(N, dtype=F64)])
    found = trajectory(_squares(), thetas, directions=directions)
    b = y / (0.2 * math.sin(angle))
    a = (x - 0.2 * b * math.cos(angle)) / 5
    np.testing.assert_allclose(found.coordinates[0], [a, b], rtol=1e-9)
    assert found.residuals[0] == pytest.approx(out)
    assert found.projected_losses[0] == pytest.approx(x**2 + y**2)
    assert found.losses[0] == pytest.approx(x**2 + y**2 + out**2)


@pytest.mark.parametrize("given", [False, True])
def test_distances_are_made_of_the_parts_in_the_plane_and_off_it(given):
    thetas = random_vectors(7, N)
    directions = random_vectors(2, N, seed=9) if given else None
    found = trajectory(_squares(), thetas, directions=directions)
    stacked = torch.stack([direction.detach() for direction in found.directions]).numpy()
    inside = np.linalg.norm(found.coordinates @ stacked, axis=1)
    np.testing.assert_allclose(found.distances**2, inside**2 + found.residuals**2)
    np.testing.assert_allclose(found.distances, (thetas - thetas[-1]).norm(dim=1))
    share = (inside**2).sum() / (found.distances**2).sum()
    assert found.in_plane_share == pytest.approx(share)


def test_principal_directions_have_unit_norm_and_say_what_they_hold():
    found = trajectory(_squares(), random_vectors(7, N), names=range(0, 70, 10))
    for index, direction in enumerate(found.directions):
        assert direction.double().norm() == pytest.approx(1)
        share = 100 * found.explained[index]
        assert direction.name == f"principal component {index + 1} ({share:.1f} %)"
    assert found.names == ("0", "10", "20", "30", "40", "50", "60")


def test_at_most_ten_shares_are_kept_beside_those_of_a_random_walk():
    found = trajectory(_squares(), random_vectors(14, N))
    assert len(found.explained) == len(found.null_shares) == 10
    np.testing.assert_allclose(found.null_shares, random_walk_shares(14, 10))
    assert found.explained.sum() < 1


# -- losses -----------------------------------------------------------------------------------


def test_the_losses_are_true_and_those_of_the_plane_differ_by_what_lies_off_it():
    scales = torch.arange(1, N + 1, dtype=F64)
    basis = _basis(k=3)
    inside = torch.tensor([[2, 1, 0], [1, -1, 0], [0, 0, 0]], dtype=F64) @ basis
    off = torch.tensor([[1.5], [-0.5], [0]], dtype=F64) * basis[2]
    found = trajectory(_squares(scales=scales), inside + off, directions=basis[:2])
    exact = ((inside + off).square() @ scales).numpy()
    shown = (inside.square() @ scales).numpy()
    np.testing.assert_allclose(found.losses, exact, rtol=1e-12)
    np.testing.assert_allclose(found.projected_losses, shown, rtol=1e-12)
    np.testing.assert_allclose(found.residuals, [1.5, 0.5, 0], atol=1e-14)
    assert found.losses[-1] == found.projected_losses[-1]


def test_losses_and_accuracies_are_those_of_the_objective():
    objective = _classifier()
    thetas = objective.theta + random_vectors(4, objective.space.size)
    found = trajectory(objective, thetas)
    for index, theta in enumerate(thetas):
        metrics = objective.metrics(theta)
        assert found.losses[index] == metrics["loss"]
        assert found.accuracies[index] == metrics["accuracy"]
    assert len(set(found.accuracies)) > 1
    assert found.projected_accuracies[-1] == found.accuracies[-1]
    assert trajectory(_squares(), random_vectors(3, N)).accuracies is None


def test_a_sweep_around_the_last_checkpoint_has_the_path_s_coordinates():
    objective = _classifier()
    found = trajectory(objective, objective.theta + random_vectors(4, objective.space.size) / 9)
    for (a, b), shown in zip(found.coordinates, found.projected_losses, strict=True):
        ends = [(a - 1, a + 1), (b - 1, b + 1)]
        sweep = plane(objective, found.directions, (3, 3), ends, center=found.center)
        assert sweep.loss[1, 1] == pytest.approx(shown, rel=1e-9)


def test_nothing_changes_in_the_objective():
    objective = _classifier()
    before, state = objective.theta.clone(), torch.get_rng_state()
    thetas = objective.theta + random_vectors(3, objective.space.size)
    kept = thetas.clone()
    found = trajectory(objective, thetas)
    assert torch.equal(objective.theta, before)
    assert torch.equal(thetas, kept)
    thetas.zero_()
    assert torch.equal(found.center, kept[-1])
    assert torch.equal(torch.get_rng_state(), state)


# -- limits -----------------------------------------------------------------------------------


def test_limits_hold_the_path_with_a_margin():
    found = trajectory(_squares(), random_vectors(6, N))
    low, high = found.coordinates.min(0), found.coordinates.max(0)
    for axis, (start, stop) in enumerate(found.limits(0.5)):
        extent = high[axis] - low[axis]
        assert start == pytest.approx(low[axis] - extent / 2)
        assert stop == pytest.approx(high[axis] + extent / 2)


def test_limits_of_a_path_along_a_line_are_as_long_across_it():
    thetas = torch.tensor([[0.0], [3], [4]], dtype=F64) * _basis()[0]
    (low, high), (down, up) = trajectory(_squares(), thetas).limits(0.25)
    np.testing.assert_allclose([low, high, down, up], [-5, 1, -3, 3])
    # In units of the directions: the second is half as long, so it takes twice as many.
    directions = torch.tensor([[1.0], [0.5]], dtype=F64) * _basis()
    _, across = trajectory(_squares(), thetas, directions=directions).limits(0.25)
    np.testing.assert_allclose(across, [-6, 6])


def test_limits_around_a_point_are_those_of_a_plane():
    found = trajectory(_squares(), torch.ones(3, N, dtype=F64))
    assert found.limits(0) == ((-1, 1), (-1, 1))


# -- notes ------------------------------------------------------------------------------------


def test_a_random_walk_is_told_and_a_path_with_structure_is_not():
    n = 2_000
    model = nn.Linear(n, 1, bias=False, dtype=F64)
    data = torch.zeros(2, n, dtype=F64), torch.zeros(2, 1, dtype=F64)
    objective = Objective(model, data, "mse")
    walk = random_vectors(20, n).cumsum(0)
    assert any("random walk of 20" in note for note in trajectory(objective, walk).notes)
    given = trajectory(objective, walk, directions=random_vectors(2, n))
    assert not any("random walk" in note for note in given.notes)
    straight = walk / 100 + torch.arange(20, dtype=F64)[:, None]
    assert not any("random walk" in note for note in trajectory(objective, straight).notes)


def test_losses_that_the_plane_gets_wrong_are_told_and_the_worst_is_named():
    first, second, third = _basis(k=3)
    zero = torch.zeros(N, dtype=F64)
    thetas = torch.stack([first + 0.1 * third, second + third, zero])
    found = trajectory(
        _squares(), thetas, directions=torch.stack([first, second]), names=["early", "late", "end"]
    )
    (note,) = [note for note in found.notes if "in the plane" in note]
    assert "at 1 of 3 checkpoints" in note  # 1 beside 1.01 is within 10 %, 1 beside 2 is not
    assert "worst at late: 1 in the plane, 2 at the checkpoint, which lies 1 off it" in note
    whole = trajectory(_squares(), thetas)
    assert not any("in the plane" in note for note in whole.notes)


def test_rounding_of_a_loss_of_zero_is_no_difference():
    basis = _basis(k=3)
    thetas = torch.tensor([[1, 0, 0], [0, 1, 1e-9], [0, 0, 0]], dtype=F64) @ basis
    thetas[1] -= basis[1]  # 1e-9 off the plane: losses of 1e-18 and of 0
    found = trajectory(_squares(), thetas, directions=basis[:2])
    assert found.losses[1] > 2 * found.projected_losses[1]
    assert not any("in the plane" in note for note in found.notes)


def test_frozen_batch_norm_statistics_are_told():
    model, inputs, targets = network(ConvNet)
    for bn, told in (("eval", True), ("recalibrate", False)):
        objective = Objective(model, (inputs, targets), bn=bn)
        found = trajectory(objective, objective.theta + random_vectors(3, objective.space.size) / 9)
        assert any("BatchNorm statistics" in note for note in found.notes) == told
    assert not any("BatchNorm" in note for note in trajectory(_classifier(), _thetas(3)).notes)


def _thetas(num: int, seed: int = 1) -> torch.Tensor:
    return random_vectors(num, 43, seed=seed) / 5


def test_two_checkpoints_lie_on_a_line():
    found = trajectory(_squares(), random_vectors(2, N))
    assert found.coordinates[0, 0] == pytest.approx(-found.distances[0])
    np.testing.assert_allclose(found.coordinates[0, 1], 0, atol=1e-14)
    assert any("on one line" in note for note in found.notes)
    assert found.directions[1].name == "random direction"
    assert len(found.explained) == 1


@pytest.mark.parametrize("given", [False, True])
def test_equal_checkpoints_are_told(given):
    directions = random_vectors(2, N) if given else None
    found = trajectory(_squares(), torch.ones(3, N, dtype=F64), directions=directions)
    assert any("the same point" in note for note in found.notes)
    assert not found.coordinates.any()
    assert np.isnan(found.explained).all()
    assert found.in_plane_share == 1


# -- reading ----------------------------------------------------------------------------------


class OnDemand:
    """Checkpoints that exist only while somebody holds them."""

    def __init__(self, points: torch.Tensor) -> None:
        self._points, self.most, self.reads = points, 0, 0
        self._alive: list[weakref.ref[torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> torch.Tensor:
        point = self._points[index].clone()
        self._alive = [*(ref for ref in self._alive if ref() is not None), weakref.ref(point)]
        self.most, self.reads = max(self.most, len(self._alive)), self.reads + 1
        return point


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_checkpoints_may_be_read_on_demand_and_never_many_at_a_time(monkeypatch, dtype):
    monkeypatch.setattr(pca, "_BLOCK_BYTES", 0)
    thetas = random_vectors(30, N).to(dtype)
    lazy = OnDemand(thetas)
    found, whole = trajectory(_squares(), lazy), trajectory(_squares(), thetas)
    assert lazy.most <= 3
    np.testing.assert_allclose(found.coordinates, whole.coordinates, atol=1e-13)
    np.testing.assert_allclose(found.losses, whole.losses)
    assert found.settings == whole.settings


_PEAK = """
import resource, sys, torch
from torch import nn
from landscape.objective import Objective
from landscape.slices import pca
from landscape.slices.trajectory import trajectory

class Files:
    def __len__(self):
        return int(sys.argv[1])
    def __getitem__(self, index):
        return torch.randn(1_000_000, generator=torch.Generator().manual_seed(index))

pca._BLOCK_BYTES = 0
model = nn.Linear(1_000_000, 1, bias=False)
objective = Objective(model, (torch.zeros(1, 1_000_000), torch.zeros(1, 1)), "mse")
trajectory(objective, Files())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_checkpoints():
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", _PEAK, str(num)])) for num in (6, 30)
    )
    vector = 1_000_000 * 8 // 1024  # KiB
    assert many < few + 2 * vector


def test_order_is_kept_and_progress_is_told():
    thetas, told = _thetas(5), []
    objective = _classifier()
    forth = trajectory(objective, thetas, progress=lambda *values: told.append(values[:2]))
    back = trajectory(objective, thetas.flip(0))
    np.testing.assert_array_equal(forth.losses, back.losses[::-1])
    assert told == [(index, 5) for index in range(1, 6)]
    assert forth.settings["checkpoints"] != back.settings["checkpoints"]


def test_a_low_precision_objective_has_coordinates_of_double_precision():
    model = nn.Linear(N, 1, bias=False)
    objective = Objective(model, (torch.eye(N), torch.zeros(N, 1)), "mse")
    thetas = random_vectors(5, N).float()
    found = trajectory(objective, thetas)
    assert found.center.dtype == torch.float32
    # The plane is that of the directions as they are in float32.
    stacked = torch.stack([direction.detach() for direction in found.directions]).double()
    difference = thetas.double() - thetas[-1].double()
    exact = difference @ torch.linalg.pinv(stacked)
    np.testing.assert_allclose(found.coordinates, exact, atol=1e-13)
    assert found.directions[0].dtype == torch.float32


# -- wrong requests ---------------------------------------------------------------------------


def test_a_checkpoint_with_nan_is_named_before_any_loss_is_measured(monkeypatch):
    objective, thetas = _squares(), random_vectors(4, N)
    thetas[2, 0] = math.nan
    monkeypatch.setattr(Objective, "metrics", lambda *_: pytest.fail("measured"))
    with pytest.raises(RequestError, match=r"'step 30' \(number 3 of 4\) holds NaN"):
        trajectory(objective, thetas, names=["step 10", "step 20", "step 30", "step 40"])


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (torch.ones(3, N, dtype=F64), "3 directions, expected two"),
        (torch.ones(2, N, dtype=F64), "span no plane"),
        (torch.stack([torch.ones(N), torch.zeros(N)]), "span no plane"),
        (torch.stack([torch.ones(N), torch.full((N,), math.nan)]), "span no plane"),
        (torch.ones(2, N + 1, dtype=F64), r"expected \(12,\)"),
    ],
)
def test_directions_that_span_no_plane_are_refused(directions, message):
    with pytest.raises(RequestError, match=message):
        trajectory(_squares(), random_vectors(3, N), directions=directions)


def test_checkpoints_of_another_network_are_refused_before_they_are_all_read():
    lazy = OnDemand(random_vectors(9, N - 1))
    with pytest.raises(RequestError, match=r"expected \(12,\)"):
        trajectory(_squares(), lazy)
    assert lazy.reads == 1


def test_wrong_checkpoints_and_names_are_refused():
    with pytest.raises(RequestError, match="two or more checkpoints, and this one has 1"):
        trajectory(_squares(), random_vectors(1, N))
    with pytest.raises(RequestError, match="2 names for 3 checkpoints"):
        trajectory(_squares(), random_vectors(3, N), names=["a", "b"])
    with pytest.raises(RequestError, match="single parameter"):
        trajectory(_squares(1), random_vectors(3, 1))


# -- the record -------------------------------------------------------------------------------


def test_the_record_names_its_dimensions_and_survives_a_file(tmp_path):
    objective = _classifier()
    found = trajectory(objective, _thetas(5), names=["s0", "s1", "s2", "s3", "s4"])
    assert found.probe == "trajectory"
    assert found.status == "converged"
    (group,) = store.save(tmp_path / "r.h5", found, vectors=True)
    read = store.read(tmp_path / "r.h5", group)
    assert dict(read.sizes) == {
        "checkpoint": 5,
        "component": 4,
        "direction": 2,
        "other_direction": 2,
        "parameter": objective.space.size,
    }
    assert read["checkpoint"].values.tolist() == list(found.names)
    np.testing.assert_array_equal(read["checkpoint_place"], found.coordinates)
    np.testing.assert_array_equal(read["checkpoint_loss"], found.losses)
    np.testing.assert_array_equal(read["projected_loss"], found.projected_losses)
    np.testing.assert_array_equal(read["checkpoint_residual"], found.residuals)
    np.testing.assert_array_equal(read["explained_share"], found.explained)
    np.testing.assert_array_equal(read["projected_accuracy"], found.projected_accuracies)
    np.testing.assert_allclose(read["direction_norm"], 1)
    np.testing.assert_array_equal(read["direction_vector"][1], found.directions[1].detach())
    assert float(read["largest_loss_gap"]) == np.abs(found.losses - found.projected_losses).max()
    assert float(read["explained_by_two"]) == pytest.approx(found.explained[:2].sum())
    assert float(read["null_by_two"]) == pytest.approx(random_walk_shares(5, 2).sum())
    for variable in read.data_vars.values():
        assert {"units", "long_name"} <= variable.attrs.keys()
    assert read.attrs["direction_names"] == "\n".join(d.name for d in found.directions)


def test_the_plane_goes_into_the_same_record(tmp_path):
    objective = _classifier()
    found = trajectory(objective, _thetas(5))
    sweep = plane(objective, found.directions, (4, 3), found.limits(), center=found.center)
    whole = dataclasses.replace(found, plane=sweep)
    dataset = whole.to_dataset(vectors=True)
    xr.testing.assert_equal(dataset["loss"], sweep.to_dataset()["loss"])
    assert dataset["loss"].dims == ("a", "b")
    assert dataset["center_loss"] == pytest.approx(found.losses[-1])
    assert dataset["checkpoint_place"].dims == ("checkpoint", "direction")
    names = set(sweep.to_dataset().variables) | set(found.to_dataset().variables)
    assert set(dataset.variables) == names | {"direction_vector"}
    (group,) = store.save(tmp_path / "r.h5", whole)
    assert "direction_vector" not in store.read(tmp_path / "r.h5", group)
    assert whole.status == "converged"
    cut = dataclasses.replace(
        sweep, done=np.zeros((4, 3), dtype=bool), fields={"loss": np.full((4, 3), math.nan)}
    )
    assert dataclasses.replace(found, plane=cut).status == "12 of 12 points missing"


def test_the_request_tells_planes_and_checkpoints_apart():
    objective, thetas = _squares(), random_vectors(3, N)
    directions = random_vectors(2, N, seed=4)
    settings = [
        trajectory(objective, thetas).settings,
        trajectory(objective, torch.cat([thetas[:1] + 1, thetas[1:]])).settings,
        trajectory(objective, thetas, directions=directions).settings,
        trajectory(objective, thetas, directions=directions.flip(0)).settings,
    ]
    assert all(one != other for i, one in enumerate(settings) for other in settings[:i])
    assert settings[0]["checkpoints"] == checkpoints_fingerprint(list(thetas))
    assert trajectory(objective, thetas).num_products == 0


def test_directions_keep_their_names():
    objective = _classifier()
    directions = random_directions(objective, 2, normalize="none", seed=3)
    found = trajectory(objective, _thetas(3), directions=directions)
    assert [d.name for d in found.directions] == [d.name for d in directions]
    assert all(isinstance(direction, Direction) for direction in found.directions)
    plain = trajectory(objective, _thetas(3), directions=random_vectors(2, 43))
    assert [d.name for d in plain.directions] == ["direction 1", "direction 2"]
