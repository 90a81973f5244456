import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.trainers.data.shapes import SHAPES, SIDE, shape_named

SQUARE = np.random.default_rng(0).uniform(-SIDE, SIDE, (200_000, 2))


@pytest.mark.parametrize("name", SHAPES)
def test_both_classes_have_half_the_square(name):
    inside = SHAPES[name].value(SQUARE) < 0
    assert abs(inside.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(SQUARE))


@pytest.mark.parametrize("name", SHAPES)
def test_neither_class_has_a_linear_signal(name):
    inside = SHAPES[name].value(SQUARE) < 0
    for chosen in (inside, ~inside):
        points = SQUARE[chosen]
        standard_error = points.std(0) / np.sqrt(len(points))
        assert (np.abs(points.mean(0)) < 4 * standard_error).all()


@pytest.mark.parametrize("name", SHAPES)
def test_boundary_points_lie_on_the_boundary_and_in_the_square(name):
    points = SHAPES[name].boundary(np.random.default_rng(1), 500)
    assert points.shape == (500, 2)
    assert np.abs(SHAPES[name].value(points)).max() < 1e-6
    assert np.abs(points).max() <= SIDE + 1e-12


@pytest.mark.parametrize("name", SHAPES)
def test_boundary_points_reach_every_quadrant(name):
    points = SHAPES[name].boundary(np.random.default_rng(1), 500)
    assert {tuple(signs) for signs in np.sign(points[np.abs(points).min(1) > 0.1])} == {
        (1, 1),
        (1, -1),
        (-1, 1),
        (-1, -1),
    }


@pytest.mark.parametrize("name", SHAPES)
def test_the_margin_is_the_distance_to_the_boundary(name):
    shape = SHAPES[name]
    margin = 0.5 * shape.widest
    classes = np.arange(400) % 2 == 1
    points = shape.sample(np.random.default_rng(2), classes, margin)
    value = shape.value(points)
    assert ((value > 0) == classes).all()
    assert np.abs(value).min() >= margin
    # No boundary point is nearer: the value is perpendicular to the boundary, not along an axis.
    boundary = shape.boundary(np.random.default_rng(3), 4000)
    distance = np.linalg.norm(points[:, None] - boundary, axis=2).min(1)
    assert (distance >= np.abs(value) - 1e-9).all()
    assert np.median(distance - np.abs(value)) < 0.02


@pytest.mark.parametrize("name", SHAPES)
def test_at_the_widest_margin_one_class_is_empty_and_not_before(name):
    value, widest = SHAPES[name].value(SQUARE), SHAPES[name].widest
    reach = min(value.max(), -value.min())
    assert 0.97 * widest < reach <= widest


def test_the_tick_is_the_papers():
    generator = np.random.default_rng(4)
    classes = generator.random(20_000) < 0.5
    x1, x2 = SHAPES["tick"].sample(generator, classes, 0.1).T
    m = 0.1 * np.sqrt(2)
    zero = (np.abs(x1) - 2 + m <= x2) & (x2 <= np.abs(x1) - m)
    one = (x2 >= np.abs(x1) + m) | (x2 <= np.abs(x1) - 2 - m)
    assert np.array_equal(zero, ~classes)
    assert np.array_equal(one, classes)
    b1, b2 = SHAPES["tick"].boundary(generator, 1000).T
    upper = np.isclose(b2, np.abs(b1))
    assert (upper | np.isclose(b2, np.abs(b1) - 2)).all()
    assert abs(upper.mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)


def test_without_a_margin_the_ticks_second_coordinate_spreads_as_in_the_paper():
    generator = np.random.default_rng(5)
    spread = [
        SHAPES["tick"].sample(generator, np.full(50_000, label), 0.0)[:, 1].std()
        for label in (False, True)
    ]
    assert spread == pytest.approx([0.76, 1.45], abs=0.06)


def test_a_misspelt_shape_gets_the_nearest_one():
    with pytest.raises(RequestError, match="Did you mean 'tick'"):
        shape_named("tik")
