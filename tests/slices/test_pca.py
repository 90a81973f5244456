"""Principal components are those of the points, whatever the points and however they are read."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from oracles import random_vectors
from sklearn.decomposition import PCA

from landscape.errors import RequestError
from landscape.slices import pca
from landscape.slices.pca import principal_components, random_walk_shares

F64 = torch.float64


def _walk(num: int, n: int, seed: int = 0) -> torch.Tensor:
    return random_vectors(num, n, seed=seed).cumsum(0)


class OnDemand:
    """Points that exist only while somebody holds them, and the most that did at a time."""

    def __init__(self, points: torch.Tensor) -> None:
        self._points = points
        self._alive: list[weakref.ref[torch.Tensor]] = []
        self.most = self.reads = 0

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> torch.Tensor:
        point = self._points[index].clone()
        self._alive = [*(ref for ref in self._alive if ref() is not None), weakref.ref(point)]
        self.most, self.reads = max(self.most, len(self._alive)), self.reads + 1
        return point


# -- the null ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [2, 3, 10, 41])
def test_the_shares_of_a_random_walk_are_those_of_its_expected_gram_matrix(num):
    steps = np.tril(np.ones((num, num)))[:, 1:]  # point t is the sum of the steps before it
    center = np.eye(num) - 1 / num
    values = np.linalg.eigvalsh(center @ steps @ steps.T @ center)[::-1][: num - 1]
    np.testing.assert_allclose(random_walk_shares(num, num - 1), values / values.sum(), rtol=1e-10)


def test_the_shares_of_an_endless_random_walk_are_six_over_pi_k_squared():
    np.testing.assert_allclose(random_walk_shares(math.inf, 3), [0.6079, 0.1520, 0.0675], atol=5e-5)
    np.testing.assert_allclose(random_walk_shares(100_000, 5), random_walk_shares(math.inf, 5))


def test_a_random_walk_in_many_dimensions_has_these_shares():
    num, n, walks = 40, 2_000, 30
    found = np.array([principal_components(_walk(num, n, s)).shares[:3] for s in range(walks)])
    exact = random_walk_shares(num, 3)
    # The mean over walks, and a bias of the order 1 / n: the first component takes the largest.
    error = 4 * found.std(0, ddof=1) / math.sqrt(walks) + 2 / n
    assert (np.abs(found.mean(0) - exact) < error).all()
    # A share's fluctuation is that of chi-squares with n degrees of freedom: below sqrt(2 / n).
    assert (found.std(0) < math.sqrt(2 / n) * exact * 1.5).all()


@pytest.mark.parametrize("k", [0, 5])
def test_more_components_than_there_are_are_refused(k):
    with pytest.raises(RequestError, match="between 1 and 4"):
        random_walk_shares(5, k)


# -- the components ---------------------------------------------------------------------------


@pytest.mark.parametrize(("num", "n", "k"), [(6, 30, 3), (12, 5, 4), (3, 3, 2), (2, 7, 1)])
def test_components_are_those_of_scikit_learn_and_of_the_singular_value_decomposition(num, n, k):
    points = random_vectors(num, n) + 5
    found = principal_components(points, k)
    sklearn = PCA().fit(points.numpy())
    rank = min(num - 1, n)
    assert found.shares.shape == (num - 1,)
    np.testing.assert_allclose(
        found.shares[:rank], sklearn.explained_variance_ratio_[:rank], atol=1e-12
    )
    _, _, right = np.linalg.svd(points.numpy() - points.numpy().mean(0))
    for other in (sklearn.components_[:k], right[:k]):
        overlap = found.directions.numpy() @ other.T
        np.testing.assert_allclose(np.abs(overlap), np.eye(k), atol=1e-10)
    assert found.rank == rank
    np.testing.assert_allclose(found.distances, (points - points[-1]).norm(dim=1), rtol=1e-12)


def test_components_do_not_depend_on_how_the_points_are_read(monkeypatch):
    points = random_vectors(17, 40)
    whole = principal_components(points)
    for least, block in [(1, 0), (4, 0), (5, 0), (1, 16 * 40 * 8), (1, 17 * 40 * 8)]:
        monkeypatch.setattr(pca, "_LEAST_HELD", least)
        monkeypatch.setattr(pca, "_BLOCK_BYTES", block)
        for given in (points, list(points), OnDemand(points)):
            found = principal_components(given)
            torch.testing.assert_close(found.directions, whole.directions)
            np.testing.assert_allclose(found.shares, whole.shares, atol=1e-14)
            np.testing.assert_allclose(found.distances, whole.distances)


def test_few_points_are_alive_and_each_is_read_as_often_as_is_said(monkeypatch):
    monkeypatch.setattr(pca, "_BLOCK_BYTES", 0)  # four are held, as of very long ones
    gc.disable()
    try:
        points = OnDemand(random_vectors(60, 20).float())
        principal_components(points)
    finally:
        gc.enable()
    assert points.most <= 2  # what is held is float64: copies
    blocks = sum(59 - start for start in range(0, 59, 4))
    assert points.reads == 1 + blocks + 59
    assert points.reads <= len(points) * (len(points) / (2 * 4) + 3)


def test_a_short_path_far_from_zero_keeps_its_digits():
    # From raw products, 1e12 + 1e-12 of them would be left.
    near, offset = random_vectors(6, 50), 1e6
    far = near / 1024 + offset
    moved = (far - offset) * 1024  # what float64 keeps of it
    found, exact = principal_components(far), principal_components(moved)
    np.testing.assert_allclose(found.shares, exact.shares, rtol=1e-9)
    torch.testing.assert_close(found.directions, exact.directions, rtol=0, atol=1e-9)


def test_shifts_rotations_and_scales_change_nothing_else():
    points, (basis, _) = random_vectors(8, 12), torch.linalg.qr(random_vectors(12, 12, seed=3))
    plain = principal_components(points)
    moved = principal_components(3 * points @ basis.T + 7)
    np.testing.assert_allclose(moved.shares, plain.shares, atol=1e-12)
    torch.testing.assert_close(moved.directions, plain.directions @ basis.T)
    np.testing.assert_allclose(moved.distances, 3 * plain.distances)


def test_differences_to_the_last_point_have_the_same_components():
    points = random_vectors(8, 12)
    found, other = principal_components(points), principal_components(points - points[-1])
    torch.testing.assert_close(found.directions, other.directions)


def test_sums_are_in_float64_for_points_in_float32():
    points = (1 + 1e-3 * random_vectors(5, 40)).float()
    found, exact = principal_components(points), principal_components(points.double())
    torch.testing.assert_close(found.directions, exact.directions, rtol=0, atol=0)
    assert found.directions.dtype == F64


# -- signs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_directions_lead_from_the_first_point_to_the_last(seed):
    points = _walk(9, 30, seed)
    directions = principal_components(points, 3).directions
    assert (directions @ (points[-1] - points[0]) > 0).all()


@pytest.mark.parametrize("turn", [1, -1])
def test_of_a_closed_path_they_lead_to_the_point_that_lies_farthest_out(turn):
    # Around: (0,0) (1,2) (3,0) (1,-2) (0,0); level along y, so the first of the farthest decides.
    path = torch.tensor([[0, 0], [1, 2], [3, 0], [1, -2], [0, 0]], dtype=F64) * turn
    basis = torch.linalg.qr(random_vectors(20, 2))[0].T
    points = path @ basis
    found = principal_components(points)
    scores = (points - points.mean(0)) @ found.directions.T
    assert scores[1, 0] > 0  # (1, 2) comes before (1, -2), as far out
    assert scores[2, 1] > 0


def test_points_in_another_block_size_never_turn_a_direction(monkeypatch):
    path = torch.tensor([[0, 1], [2, -1], [2, 1], [0, -1], [0, 1]], dtype=F64)
    points = path @ torch.linalg.qr(random_vectors(30, 2))[0].T
    whole = principal_components(points).directions
    for least in (1, 2, 3):
        monkeypatch.setattr(pca, "_BLOCK_BYTES", 0)
        monkeypatch.setattr(pca, "_LEAST_HELD", least)
        torch.testing.assert_close(principal_components(points).directions, whole)


# -- points that span too little --------------------------------------------------------------


def _assert_orthonormal(directions: torch.Tensor) -> None:
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(directions), dtype=F64))


def test_points_on_a_line_have_one_component_and_a_random_second_direction():
    along = random_vectors(1, 30)[0]
    points = torch.tensor([[0.0], [1], [4], [2]], dtype=F64) * along + 3
    found = principal_components(points)
    assert found.rank == 1
    np.testing.assert_allclose(found.shares, [1, 0, 0], atol=1e-14)
    torch.testing.assert_close(found.directions[0], along / along.norm())
    _assert_orthonormal(found.directions)
    torch.testing.assert_close(principal_components(points).directions, found.directions)


def test_two_points_have_one_component():
    points = random_vectors(2, 9)
    found = principal_components(points)
    assert found.rank == 1
    np.testing.assert_allclose(found.shares, [1])
    step = points[1] - points[0]
    torch.testing.assert_close(found.directions[0], step / step.norm())
    _assert_orthonormal(found.directions)


def test_equal_points_have_no_component_and_no_shares():
    found = principal_components(random_vectors(1, 9).expand(4, 9))
    assert found.rank == 0
    assert np.isnan(found.shares).all()
    assert not found.distances.any()
    _assert_orthonormal(found.directions)


def test_a_small_second_component_is_orthogonal_to_the_first():
    # Its square is 1e-10 of the first one's: from the Gram matrix alone, six digits are lost.
    basis = torch.linalg.qr(random_vectors(50, 2))[0].T
    path = torch.tensor([[0, 0], [1, 1e-5], [2, -1e-5], [3, 0]], dtype=F64)
    found = principal_components(path @ basis)
    assert found.rank == 2
    assert abs(float(found.directions[0] @ found.directions[1])) < 1e-15
    assert abs(float(found.directions[1] @ basis[1])) > 1 - 1e-9


# -- doubts -----------------------------------------------------------------------------------


def test_a_random_walk_is_called_one():
    (doubt,) = principal_components(_walk(30, 3_000)).doubts()
    assert "random walk of 30 points" in doubt
    assert "0.608/0.152" in doubt
    assert "no evidence of structure" in doubt


def test_a_path_with_structure_is_not():
    angle = torch.linspace(0, 2, 30, dtype=F64)[:, None]
    arc = torch.cat([angle.cos(), angle.sin()], 1) @ random_vectors(3_000, 2).T
    assert principal_components(arc).doubts() == ()


def test_more_in_the_first_component_than_a_walk_has_is_structure():
    # 0.97 + 0.03: together all of it, as three points of a random walk have, too.
    points = torch.tensor([[0, 0, 0.0], [1, 0.2, 0], [2, 0, 0]], dtype=F64)
    assert principal_components(points).doubts() == ()


def test_lines_and_single_points_are_told():
    (line,) = principal_components(random_vectors(2, 9)).doubts()
    assert "lie on one line" in line
    (point,) = principal_components(torch.ones(3, 9)).doubts()
    assert "the same point" in point


# -- wrong requests ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_point_that_is_not_finite_is_named(position, value):
    points = random_vectors(5, 8)
    points[position, 3] = value
    with pytest.raises(RequestError, match=f"'s{position}' \\(number {position + 1} of 5\\).*NaN"):
        principal_components(points, names=[f"s{index}" for index in range(5)])


def test_points_of_other_sizes_are_refused():
    with pytest.raises(RequestError, match=r"number 2 of 3 has 4 coordinates, the last one 3"):
        principal_components([torch.ones(3), torch.ones(4), torch.ones(3)])
    with pytest.raises(RequestError, match=r"shape \(1, 3\)"):
        principal_components([torch.ones(3), torch.ones(1, 3)])


def test_a_single_point_is_refused():
    with pytest.raises(RequestError, match="1 points, expected two"):
        principal_components(torch.ones(1, 3))


@pytest.mark.parametrize("k", [0, 4])
def test_more_directions_than_coordinates_are_refused(k):
    with pytest.raises(RequestError, match="between 1 and 3"):
        principal_components(random_vectors(9, 3), k)
