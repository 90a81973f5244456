"""Vertices: weighted sums of points, exact at the points; arcs on the sphere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.vertices import Vertices, line_weights


@pytest.fixture
def objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    inputs = torch.randn(12, 3, dtype=torch.float64)
    return Objective(model, (inputs, torch.arange(12) % 2), "cross_entropy")


def points(objective, num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, objective.space.size, generator=generator, dtype=torch.float64)


def at(chart, weights):
    return chart.thetas(chart.coefficients(weights))


def test_a_point_is_the_weighted_sum_of_the_vertices(objective):
    vertices, weights = points(objective, 3), torch.tensor([[0.2, 0.5, 0.3], [1.5, -1.0, 0.5]])
    chart = Vertices.of(objective, vertices)
    torch.testing.assert_close(at(chart, weights.double()), weights.double() @ vertices)


def test_at_a_vertex_it_is_that_vertex_bit_for_bit(objective):
    vertices = 1e3 * points(objective, 4)
    chart = Vertices.of(objective, vertices)
    assert torch.equal(at(chart, torch.eye(4, dtype=torch.float64)), vertices)


def test_between_equal_points_nothing_moves_by_rounding(objective):
    vertices = points(objective, 1).repeat(4, 1)
    chart = Vertices.of(objective, vertices)
    for ends in [(0, 1), (1, 3), (2, 3)]:
        thetas = at(chart, line_weights(torch.linspace(0, 1, 9), 4, ends))
        assert torch.equal(thetas, vertices[:1].expand(9, -1))


def test_it_is_the_chart_of_its_first_vertex(objective):
    vertices, weights = points(objective, 3), torch.tensor([[0.2, 0.5, 0.3]])
    chart = Vertices.of(objective, vertices)
    steps = chart.coefficients(weights)
    expected = chart.center + steps @ chart.vectors
    torch.testing.assert_close(at(chart, weights), expected)
    assert chart.is_affine


def test_line_weights_join_any_two_of_many():
    found = line_weights(torch.tensor([0.0, 0.25]), 4, (3, 1))
    assert torch.equal(found, torch.tensor([[0, 0, 0, 1.0], [0, 0.25, 0, 0.75]]).double())


def test_on_the_sphere_the_length_and_the_speed_stay_even(objective):
    vertices = points(objective, 2)
    sphere = torch.zeros(objective.space.size, dtype=torch.bool)
    sphere[5:] = True
    chart = Vertices.of(objective, vertices, sphere=sphere)
    thetas = at(chart, line_weights(torch.linspace(0, 1, 7)))
    own = thetas[:, sphere]
    lengths = own.norm(dim=1)
    torch.testing.assert_close(lengths, torch.linspace(lengths[0], lengths[-1], 7).double())
    units = own / lengths[:, None]
    angles = (units[1:] * units[:-1]).sum(1).acos()
    torch.testing.assert_close(angles, angles[0].expand(6))
    total = (units[0] @ units[-1]).acos()
    torch.testing.assert_close(angles.sum(), total)
    assert not chart.is_affine


def test_what_is_not_on_the_sphere_moves_along_the_line(objective):
    vertices = points(objective, 2)
    sphere = torch.zeros(objective.space.size, dtype=torch.bool)
    sphere[:5] = True
    weights = line_weights(torch.linspace(0, 1, 5))
    rest = at(Vertices.of(objective, vertices, sphere=sphere), weights)[:, 5:]
    torch.testing.assert_close(rest, weights @ vertices[:, 5:])


def test_the_arc_of_a_quarter_circle_has_the_diagonal_at_its_middle(objective):
    vertices = torch.zeros(2, objective.space.size, dtype=torch.float64)
    vertices[0, 0], vertices[1, 1] = 1, 1
    sphere = torch.arange(objective.space.size) < 2
    middle = at(Vertices.of(objective, vertices, sphere=sphere), line_weights(torch.tensor([0.5])))
    expected = torch.full((2,), math.sqrt(0.5), dtype=torch.float64)
    torch.testing.assert_close(middle[0, :2], expected)


def test_an_arc_between_points_of_one_direction_is_the_line(objective):
    vertices = points(objective, 1).repeat(2, 1) * torch.tensor([[1.0], [3.0]])
    sphere = torch.ones(objective.space.size, dtype=torch.bool)
    middle = at(Vertices.of(objective, vertices, sphere=sphere), line_weights(torch.tensor([0.5])))
    torch.testing.assert_close(middle[0], 2 * vertices[0])


@pytest.mark.parametrize("gap", [1e-3, 1e-7, 1e-9])
def test_an_arc_of_a_small_angle_keeps_its_digits(objective, gap):
    vertices = torch.zeros(2, objective.space.size, dtype=torch.float64)
    vertices[0, 0] = 1
    vertices[1, 0], vertices[1, 1] = math.cos(gap), math.sin(gap)
    sphere = torch.ones(objective.space.size, dtype=torch.bool)
    chart = Vertices.of(objective, vertices, sphere=sphere)
    quarter = at(chart, line_weights(torch.tensor([0.25])))[0]
    assert quarter[1].item() == pytest.approx(math.sin(gap / 4), rel=1e-9)
    assert quarter.norm().item() == pytest.approx(1, abs=1e-14)


def test_opposite_points_have_no_arc(objective):
    vertices = points(objective, 1).repeat(2, 1) * torch.tensor([[1.0], [-1.0]])
    sphere = torch.ones(objective.space.size, dtype=torch.bool)
    chart = Vertices.of(objective, vertices, sphere=sphere)
    with pytest.raises(RequestError, match="opposite on the sphere"):
        at(chart, line_weights(torch.tensor([0.5])))


def test_an_arc_joins_two_points_only(objective):
    sphere = torch.ones(objective.space.size, dtype=torch.bool)
    chart = Vertices.of(objective, points(objective, 3), sphere=sphere)
    with pytest.raises(RequestError, match="joins two points"):
        at(chart, torch.tensor([[0.2, 0.3, 0.5]]))


def test_buffers_are_mixed_like_the_weights(objective):
    held = [
        {name: buffer + index for name, buffer in objective.buffers.items()} for index in range(3)
    ]
    chart = Vertices.of(objective, points(objective, 3), held)
    weights = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
    found = chart.buffers(chart.coefficients(weights), objective.buffers)
    base = objective.buffers["1.running_mean"]
    torch.testing.assert_close(found["1.running_mean"], torch.stack([base + 1.1, base + 2]))
    assert "1.num_batches_tracked" not in found


@pytest.mark.parametrize(
    ("num", "buffers", "message"),
    [
        (1, None, "1 point was given"),
        (2, [{}], "2 points and 1 sets of buffers"),
        (2, [{}, {}], "the buffer '1.num_batches_tracked' is missing"),
    ],
)
def test_points_and_buffers_that_do_not_fit_are_refused(objective, num, buffers, message):
    with pytest.raises(RequestError, match=message):
        Vertices.of(objective, points(objective, num), buffers)


def test_a_point_that_is_not_finite_is_named(objective):
    vertices = points(objective, 2)
    vertices[1, 3] = math.nan
    with pytest.raises(RequestError, match="point 2 is not finite"):
        Vertices.of(objective, vertices)
