"""Charts: theta(a) to the last bit, whatever else was evaluated, and buffers that move along."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from landscape.slices.chart import Chart


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def exact(chart, coefficients):
    """Theta in rational numbers, and the largest that is added up on the way."""
    rows = []
    for point in coefficients.tolist():
        row = []
        for index, start in enumerate(chart.center.tolist()):
            terms = [Fraction(start)]
            terms += [
                Fraction(a) * Fraction(vector[index].item())
                for a, vector in zip(point, chart.vectors, strict=True)
            ]
            row.append((sum(terms), float(sum(map(abs, terms)))))
        rows.append(row)
    return rows


@pytest.mark.parametrize("radius", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize(("k", "units"), [(1, 1), (2, 1), (3, 2)])
def test_theta_is_the_sum_to_a_unit_in_the_last_place(k, units, radius):
    chart = Chart(normal(40), 0.3 * normal(k, 40, seed=1))
    coefficients = radius * normal(6, k, seed=2)
    thetas = chart.thetas(coefficients)
    for row, wanted in zip(thetas.tolist(), exact(chart, coefficients), strict=True):
        for found, (value, scale) in zip(row, wanted, strict=True):
            assert abs(Fraction(found) - value) <= units * math.ulp(scale)


def test_no_step_is_added_to_another():
    chart = Chart(normal(500), normal(2, 500, seed=1))
    walk = torch.linspace(-7, 7, 113, dtype=torch.float64)
    coefficients = torch.cartesian_prod(walk, walk[::9])
    along = chart.thetas(coefficients)
    for index in (0, 1, 700, len(coefficients) - 1):
        alone = chart.thetas(coefficients[index : index + 1])[0]
        assert torch.equal(along[index], alone)
    assert torch.equal(chart.thetas(0 * coefficients[:1])[0], chart.center)


def test_a_far_point_comes_back_to_the_center():
    chart = Chart(normal(50), normal(2, 50, seed=1))
    before = chart.center.clone()
    chart.thetas(torch.full((1, 2), 1e200, dtype=torch.float64))
    assert torch.equal(chart.thetas(torch.zeros(1, 2, dtype=torch.float64))[0], before)


def test_coordinates_are_rounded_once_in_single_precision():
    chart = Chart(normal(60, dtype=torch.float32), normal(2, 60, seed=1, dtype=torch.float32))
    coefficients = normal(4, 2, seed=3) / 3
    wide = Chart(chart.center.double(), chart.vectors.double()).thetas(coefficients)
    scale = chart.center.abs() + coefficients.abs() @ chart.vectors.abs().double()
    eps = torch.finfo(torch.float32).eps
    assert ((chart.thetas(coefficients).double() - wide).abs() <= 2 * eps * scale).all()


def test_directions_that_do_not_move_leave_the_others_bits_alone():
    three = Chart(normal(30), normal(3, 30, seed=1))
    coefficients = torch.tensor([[0.0, 0.7, 0.0], [0.0, -1.3, 0.0]], dtype=torch.float64)
    one = Chart(three.center, three.vectors[1:2])
    assert torch.equal(three.thetas(coefficients), one.thetas(coefficients[:, 1:2]))
    mixed = torch.cat([coefficients, torch.ones(1, 3, dtype=torch.float64)])
    assert torch.equal(three.thetas(mixed)[:2], one.thetas(coefficients[:, 1:2]))
    assert torch.equal(three.thetas(mixed)[2], three.thetas(mixed[2:])[0])
    assert not torch.equal(three.thetas(mixed)[2], one.thetas(mixed[2:, 1:2])[0])


def test_buffers_move_along_a_line_and_reach_the_other_checkpoints():
    base = {"norm.running_mean": normal(3), "norm.running_var": normal(3, seed=1).square()}
    others = [{name: held + normal(3, seed=9 + i) for name, held in base.items()} for i in (0, 1)]
    steps = [{name: other[name] - base[name] for name in base} for other in others]
    chart = Chart(normal(4), normal(2, 4), tuple(steps))
    coefficients = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.25, -0.5]], dtype=torch.float64)
    found = chart.buffers(coefficients, base)
    assert found.keys() == base.keys()
    for name, held in base.items():
        assert torch.equal(found[name][0], held)
        torch.testing.assert_close(found[name][1], others[0][name], rtol=1e-15, atol=1e-15)
        torch.testing.assert_close(
            found[name][2], held + 0.25 * steps[0][name] - 0.5 * steps[1][name]
        )


def test_a_direction_without_buffers_leaves_them_where_they_are():
    base = {"scale": torch.tensor(2.0)}
    chart = Chart(normal(4), normal(2, 4), ({}, {"scale": torch.tensor(0.5)}))
    coefficients = torch.tensor([[3.0, 0.0], [3.0, 2.0]], dtype=torch.float64)
    assert chart.buffers(coefficients, base)["scale"].tolist() == [2.0, 3.0]
    assert Chart(normal(4), normal(2, 4)).buffers(coefficients, base) == {}
