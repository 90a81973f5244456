"""Volumes against closed forms, the Cayley-Menger determinant and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from landscape.paths.simplex_volume import log_volume, volume_term


def random_vertices(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def corner(size):
    """The origin and the unit vectors: volume 1 / size!."""
    return torch.cat([torch.zeros(1, size), torch.eye(size)]).double()


def cayley_menger(vertices):
    """Volume of K vertices: V^2 = |det| / ((K - 1)!^2 2^(K - 1)), from distances alone."""
    count = len(vertices)
    bordered = np.ones((count + 1, count + 1))
    bordered[0, 0] = 0
    bordered[1:, 1:] = ((vertices[:, None] - vertices[None]) ** 2).sum(-1).numpy()
    squared = abs(np.linalg.det(bordered)) / (math.factorial(count - 1) ** 2 * 2 ** (count - 1))
    return math.sqrt(squared)


@pytest.mark.parametrize(
    ("vertices", "volume"),
    [
        (corner(2), 1 / 2),
        (corner(3), 1 / 6),
        (corner(1), 1),
        (3 * corner(3), 27 / 6),
        (torch.eye(3).double(), math.sqrt(3) / 2),  # in a space of more dimensions
        (torch.ones(1, 4).double(), 1),  # a point
    ],
)
def test_volumes_of_known_simplices(vertices, volume):
    assert math.exp(log_volume(vertices)) == pytest.approx(volume, rel=1e-14)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_volume_is_the_root_of_the_cayley_menger_determinant(count):
    vertices = random_vertices(count, 7)
    assert math.exp(log_volume(vertices)) == pytest.approx(cayley_menger(vertices), rel=1e-12)


def test_the_volume_stays_under_rotation_translation_and_permutation():
    vertices = random_vertices(4, 6)
    turn, _ = torch.linalg.qr(random_vertices(6, 6, seed=1))
    volume = log_volume(vertices)
    for same in (vertices @ turn, vertices + 100 * turn[0], vertices[[2, 0, 3, 1]]):
        assert log_volume(same) == pytest.approx(volume, abs=1e-12)


def test_what_lies_in_a_line_has_no_volume():
    line = torch.linspace(0, 1, 3).double()[:, None] * torch.ones(4).double()
    assert log_volume(line) < -30
    assert log_volume(random_vertices(4, 2)) == -math.inf


def test_many_vertices_far_beyond_what_a_float_holds():
    # Orthogonal edges of length 1e-4: V = 1e-4^100 / 100!, which is 0 as a float.
    vertices = 1e-4 * corner(100)
    assert log_volume(vertices) == pytest.approx(100 * math.log(1e-4) - math.lgamma(101))
    assert math.exp(log_volume(vertices)) == 0


@pytest.mark.parametrize("scale", [1.0, 0.01])  # above and below the offset of 1e-4
@pytest.mark.parametrize("num_modes", [1, 2])
def test_the_term_is_the_gradient_of_the_logarithm_of_all_volumes(num_modes, scale):
    modes = scale * random_vertices(num_modes, 5)
    connectors = scale * random_vertices(3, 5, seed=1)

    def logarithm(last):
        simplices = [torch.cat([mode[None], connectors[:-1], last[None]]) for mode in modes]
        return math.log(sum(cayley_menger(simplex) for simplex in simplices) + 1e-4)

    last = connectors[-1]
    steps = scale * 1e-5 * torch.eye(5).double()
    expected = torch.tensor(
        [(logarithm(last + step) - logarithm(last - step)) / (2 * scale * 1e-5) for step in steps]
    ).double()
    simplices = [torch.cat([mode[None], connectors]) for mode in modes]
    found = volume_term(simplices, np.random.default_rng(0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.norm()))


def test_a_vertex_among_the_others_is_sent_off_across_them():
    vertices = torch.cat([corner(4)[:3], corner(4)[:3].mean(0, keepdim=True)])
    found = volume_term([vertices], np.random.default_rng(0))
    torch.testing.assert_close(found[:2], torch.zeros(2).double(), atol=1e-12, rtol=0)
    # A triangle of area 1/2, a cone of slope 1/2 / 3, over the offset.
    assert found.norm() == pytest.approx(1 / 6 / 1e-4)


def test_an_implicit_step_does_not_leap_from_the_tip():
    vertices = torch.cat([corner(4)[:3], corner(4)[:3].mean(0, keepdim=True)])
    step = 0.01
    arrived = step * float(volume_term([vertices], np.random.default_rng(0), step).norm())
    # The step is the gradient where it arrives: h = step / (h + 1e-4 / slope).
    assert arrived == pytest.approx(step / (arrived + 6e-4))
    assert arrived < 0.1


def test_a_base_without_volume_gives_no_direction():
    vertices = torch.zeros(3, 4).double()
    vertices[2, 0] = 1.0
    assert volume_term([vertices], np.random.default_rng(0)).norm() < 1e-300
