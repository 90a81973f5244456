"""Refinement: what is filled in is within the tolerance, and what the tolerance cannot promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import MLP, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import random_directions
from landscape.slices.execution import Execution
from landscape.slices.options import SweepOptions
from landscape.slices.refinement import coarsest_stride, filled, refine, upsampled
from landscape.slices.sweeping import grid, line, lines, plane


def refined(truth, tolerance, apart=0):
    """What was measured of a function on a grid, the function filled in, and what was asked for."""
    held, asked = np.full(truth.shape, np.nan), []

    def evaluate(points):
        asked.append(points)
        held.flat[points] = truth.flat[points]

    measured = refine(truth.shape, evaluate, held.copy, tolerance, apart=apart)
    assert np.array_equal(measured, ~np.isnan(held) | (np.isnan(truth) & measured))
    return measured, filled({"loss": held}, measured, truth.shape, apart=apart)["loss"], asked


def on_grid(function, *nums, low=-1.0, high=1.0):
    axes = [np.linspace(low, high, num) for num in nums]
    return function(*np.meshgrid(*axes, indexing="ij"))


# Name: function, and bounds on its pure second derivatives over [-1, 1]^k.
SMOOTH = {
    "parabola": (lambda a: a**2, [2]),
    "cubic": (lambda a: a**3, [6]),
    "quartic": (lambda a: a**4, [12]),
    "exponential": (lambda a: np.exp(3 * a), [9 * np.exp(3)]),
    "well": (lambda a: -np.exp(-(a**2) / 0.18), [2 / 0.18]),
    "odd wave": (lambda a: np.sin(np.pi * a), [np.pi**2]),
    "straight at its second point": (lambda a: np.sin(np.pi * (a + 0.75)), [np.pi**2]),
    "bowl": (lambda a, b: a**2 + 3 * b**2, [2, 6]),
    "tilted valley": (lambda a, b: (a + b) ** 4, [48, 48]),
    "egg carton": (lambda a, b: np.sin(3 * a) * np.cos(2 * b), [9, 4]),
    "log of a bowl": (lambda a, b: np.log1p(5 * (a**2 + b**2)), [10, 10]),
    "wave in three": (lambda a, b, c: np.sin(2 * a + b) * np.cos(2 * c), [4, 1, 4]),
    "valley in three": (lambda a, b, c: (a + b + c) ** 4 / 10, [10.8] * 3),
}


# -- the promise --------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("name", SMOOTH)
def test_filled_points_of_smooth_functions_are_within_the_tolerance(name, tolerance):
    function, bends = SMOOTH[name]
    num = {1: 129, 2: 33, 3: 17}[len(bends)]
    truth = on_grid(function, *[num] * len(bends))
    tolerance *= np.ptp(truth)
    measured, found, _ = refined(truth, tolerance)
    assert np.abs(found - truth).max() <= tolerance
    np.testing.assert_array_equal(found[measured], truth[measured])


@pytest.mark.parametrize("name", SMOOTH)
def test_nothing_is_measured_where_the_second_derivatives_forbid_an_error(name):
    function, bends = SMOOTH[name]
    num = {1: 129, 2: 33, 3: 17}[len(bends)]
    truth = on_grid(function, *[num] * len(bends))
    spacing = 2 / (num - 1) * coarsest_stride(truth.shape)
    # The bound of linear interpolation; the estimate goes on to the ends, and has a margin.
    certain = 3 * 1.5 * sum(bends) * spacing**2 / 8
    measured, _, asked = refined(truth, certain)
    assert len(asked) == 1
    assert measured.sum() == np.prod([(num - 1) // coarsest_stride(truth.shape) + 1 for num in
                                      truth.shape])  # fmt: skip


def test_halving_the_error_of_a_parabola_takes_as_many_halvings_as_theory_says():
    truth = on_grid(lambda a: a**2, 1025)
    for level in range(6):
        spacing = 2 / 8 / 2**level
        error = 1.5 * 2 * spacing**2 / 8  # of a^2 at half of this spacing, with the margin
        for tolerance, wanted in [
            (1.01 * error, 8 * 2**level + 1),
            (0.99 * error, 8 * 2**level * 2 + 1),
        ]:
            measured, _, _ = refined(truth, tolerance)
            assert measured.sum() == wanted


@pytest.mark.parametrize(
    ("function", "nums"),
    [
        (lambda a: 2 + 3 * a, (65,)),
        (lambda a, b: 1 + a - 2 * b + 5 * a * b, (33, 17)),
        (lambda a, b, c: a + b * c - 4 * a * b * c, (17, 17, 33)),
    ],
)
def test_a_multilinear_function_is_measured_on_the_coarsest_grid_only(function, nums):
    truth = on_grid(function, *nums)
    measured, found, asked = refined(truth, 1e-12)
    stride = coarsest_stride(nums)
    coarse = np.zeros(nums, dtype=bool)
    coarse[tuple(slice(None, None, stride) for _ in nums)] = True
    assert stride > 1
    assert np.array_equal(measured, coarse)
    assert len(asked) == 1
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-14)


def test_a_function_with_a_kink_is_refined_at_the_kink():
    truth = on_grid(lambda a: np.abs(a - 0.1), 257)
    measured, found, _ = refined(truth, 1e-3)
    a = np.linspace(-1, 1, 257)
    assert np.abs(found - truth).max() <= 1e-3
    fine = np.flatnonzero(measured[:-1] & measured[1:])  # neighbours on the finest grid
    assert len(fine)
    assert np.abs(a[fine] - 0.1).max() < 0.05
    assert measured.sum() < 40
    apart = np.abs(a - 0.1) > 0.5
    assert not measured[apart & (np.arange(257) % 32 != 0)].any()


def test_a_kink_across_a_plane_is_refined_along_it():
    truth = on_grid(lambda a, b: np.maximum(0, a + 0.5 * b), 65, 65)
    measured, found, _ = refined(truth, 2e-3)
    a, b = np.meshgrid(*[np.linspace(-1, 1, 65)] * 2, indexing="ij")
    assert np.abs(found - truth).max() <= 2e-3
    distance = np.abs(a + 0.5 * b)
    assert measured[distance < 0.02].mean() > 0.9
    assert measured[distance > 0.6].mean() < 0.03


def ravine():
    """Half as deep at 0.04 from its bottom, where the coarsest grid's spacing is 0.25."""
    return on_grid(lambda a, b: -np.exp(-(((a + 0.8 * b - 0.06) / 0.05) ** 2)), 65, 65)


def test_a_ravine_that_is_seen_somewhere_is_followed_to_its_ends():
    truth = ravine()
    measured, found, asked = refined(truth, 0.05)
    assert np.abs(found - truth).max() <= 0.05
    assert measured.mean() < 0.25
    assert len(asked) > 4  # the coarsest grid, three halvings, and what was missed


def test_a_region_without_values_that_is_seen_somewhere_is_followed_to_its_ends():
    truth = ravine()
    truth[truth < -0.6] = np.nan
    measured, found, _ = refined(truth, 0.05)
    assert measured[np.isnan(truth)].all()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(truth))


# -- what it cannot promise ---------------------------------------------------------------------


def test_a_spike_between_the_points_of_the_coarsest_grid_is_missed():
    flat = np.zeros(65)
    spike = flat.copy()
    spike[4] = 100.0  # the coarsest grid has every eighth point
    measured, found, _ = refined(spike, 1e-3)
    assert not measured[4]
    assert found[4] == 0.0
    on_it = flat.copy()
    on_it[8] = 100.0
    measured, found, _ = refined(on_it, 1e-3)
    assert measured[6:11].all()
    np.testing.assert_array_equal(found, on_it)


def test_the_coarsest_grid_sees_waves_and_wells_of_the_stated_size():
    a = np.linspace(-1, 1, 129)
    for phase in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        wave = np.sin(2.5 * np.pi * a + phase)
        assert np.abs(refined(wave, 0.02)[1] - wave).max() <= 0.02
    for center in np.linspace(-1, 1, 41):
        well = -np.exp(-np.log(2) * ((a - center) / 0.25) ** 2)  # half as deep at 1/8 of the axis
        assert np.abs(refined(well, 0.02)[1] - well).max() <= 0.02


def test_no_axis_starts_from_fewer_than_eight_intervals():
    for count in range(1, 300):
        stride = coarsest_stride((count,))
        assert (count - 1) % stride == 0
        assert stride == 1 or (count - 1) // stride >= 8
        assert (count - 1) % (2 * stride) or (count - 1) // stride < 16  # and is the coarsest
    assert coarsest_stride((21, 21)) == 2
    assert coarsest_stride((33, 65)) == 4
    assert coarsest_stride((33, 65, 17)) == 2
    assert coarsest_stride((33, 20)) == coarsest_stride((33, 1)) == coarsest_stride((9,)) == 1


def test_a_grid_that_cannot_be_thinned_is_measured_whole():
    truth = on_grid(lambda a, b: a + b, 20, 33)
    measured, found, asked = refined(truth, 1e3)
    assert measured.all()
    assert len(asked) == 1
    np.testing.assert_array_equal(found, truth)


# -- bookkeeping --------------------------------------------------------------------------------


def test_each_point_is_asked_for_once():
    truth = on_grid(lambda a, b: np.log1p(50 * ((a - 0.3) ** 2 + b**2)), 65, 33)
    measured, _, asked = refined(truth, 0.02)
    points = np.concatenate(asked)
    assert len(asked) > 2
    assert len(np.unique(points)) == len(points) == measured.sum()
    assert 0.05 < measured.mean() < 0.9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_regions_that_are_not_finite_are_measured_and_kept(bad):
    truth = on_grid(lambda a, b: a + 2 * b, 33, 33)
    truth[20:, 18:] = bad
    truth[24:, 24:] *= -1  # infinities of both signs side by side
    measured, found, _ = refined(truth, 0.1)
    assert measured[20:, 18:].all()
    assert measured[19, 17:].all()  # the last finite ones beside them
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(truth))
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-13)
    assert not measured.all()


def test_huge_losses_do_not_overflow():
    truth = on_grid(lambda a: 1.5e308 * a, 33)
    _, found, _ = refined(truth, 1e300)
    np.testing.assert_allclose(found, truth, rtol=1e-12, atol=0)


def test_filled_leaves_measured_values_bit_for_bit_and_its_arguments_alone():
    generator = np.random.default_rng(0)
    field = generator.standard_normal((33, 17))
    field[0, 0] = np.frombuffer(np.uint64(0x7FF8DEADBEEF0001).tobytes())[0]  # a NaN with a payload
    field[4, 4], field[8, 8] = -0.0, np.inf
    measured = generator.random(field.shape) < 0.3
    measured[::2, ::2] = True
    before = field.copy()
    found = filled({"loss": field}, measured, field.shape)["loss"]
    assert found[measured].tobytes() == field[measured].tobytes()
    assert field.tobytes() == before.tobytes()
    assert not np.array_equal(found[~measured], field[~measured])


def test_what_is_filled_in_lies_between_its_neighbours():
    truth = on_grid(lambda a, b: a**2 + b, 33, 33)
    measured, found, _ = refined(truth, 0.5)
    assert measured.sum() == 81
    # By an independent interpolation: bilinear between the measured points.
    coarse, fine = np.linspace(-1, 1, 9), np.linspace(-1, 1, 33)
    rows = np.stack([np.interp(fine, coarse, row) for row in truth[::4, ::4]])
    whole = np.stack([np.interp(fine, coarse, column) for column in rows.T]).T
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-14)


def test_fields_with_further_dimensions_are_filled_too():
    shape = (17, 33)
    measured = np.zeros(shape, dtype=bool)
    measured[::2, ::2] = True
    weights = np.array([1.0, -2.0, 0.5])
    loss = on_grid(lambda a, b: 1 + a + 3 * b, *shape)
    classes = loss[..., None] * weights
    held = {"loss": loss.copy(), "class_loss": classes.copy(), "deep": np.stack([classes] * 2, -1)}
    for field in held.values():
        field[~measured] = np.nan
    found = filled(held, measured, shape)
    np.testing.assert_allclose(found["class_loss"], classes, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found["deep"][..., 1], classes, rtol=0, atol=1e-14)


def test_upsampling_is_linear_and_keeps_what_it_has():
    values = np.random.default_rng(0).standard_normal((3, 4, 2))
    found = upsampled(values, 2)
    assert found.shape == (5, 7, 2)
    np.testing.assert_array_equal(found[::2, ::2], values)
    np.testing.assert_allclose(found[1, 1], values[:2, :2].mean((0, 1)), rtol=0, atol=1e-15)
    assert upsampled(values, 2, 1).shape == (3, 7, 2)


def test_axes_apart_are_neither_thinned_nor_interpolated():
    a = np.linspace(-1, 1, 65)
    truth = np.stack([0 * a, 1e6 + a, np.abs(a), a**2] + [5 * a] * 5)  # 9 lines, 8 intervals
    measured, found, _ = refined(truth, 1e-2, apart=1)
    for row, values in enumerate(truth):
        alone, single, _ = refined(values, 1e-2)
        np.testing.assert_array_equal(measured[row], alone)
        np.testing.assert_array_equal(found[row], single)


# -- in a sweep ---------------------------------------------------------------------------------


class Point(nn.Module):
    """Its weights are a point of the plane."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, inputs):
        return inputs


def objective_over(function):
    """An objective whose loss is `function` of the point (2,)."""
    data = [(torch.zeros(1, 1, dtype=torch.float64),) * 2]
    return Objective(Point(), data, lambda model, batch: function(model.place), reduction="mean")


def bent(place):
    return 1 + torch.log1p(20 * (place[0] - 0.3) ** 2 + 5 * place[1] ** 2)


AXES = torch.eye(2, dtype=torch.float64)
PLAIN = SweepOptions(execution=Execution("batched", chunk=128), caveats=False)


def small_objective():
    model, inputs, targets = network(MLP, num=12)
    return Objective(model, (inputs, targets))


def assert_same(found, wanted):
    """Equal but for the rounding of other chunks."""
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=0)


def test_the_measured_points_are_those_that_are_done():
    objective = objective_over(bent)
    seen = []
    options = replace(PLAIN, tolerance=0.05, progress=lambda done, _, __: seen.append(done))
    found = plane(objective, AXES, (33, 33), options=options)
    whole = plane(objective, AXES, (33, 33), options=PLAIN)
    assert seen[-1] == found.done.sum()
    assert 81 < found.done.sum() < 33 * 33
    assert_same(found.loss[found.done], whole.loss[found.done])
    assert np.abs(found.loss - whole.loss).max() <= 0.05
    assert found.status == "converged"
    assert found.caveats["interpolated_share"] == pytest.approx(1 - found.done.mean())


def test_errors_and_numbers_of_examples_are_not_filled_in():
    objective = small_objective()
    metrics = {"top_error": lambda output, target: (output.argmax(1) != target).double()}
    options = SweepOptions(tolerance=1e3, stop_error=1e-6, metrics=metrics, caveats=False)
    fields = ("accuracy", "slope")
    direction = random_directions(objective, 1)[0]
    found = line(objective, direction, 33, fields=fields, options=options)
    assert found.done.sum() == 9
    for name in ("standard_error", "subset_error", "num_examples"):
        np.testing.assert_array_equal(np.isnan(found[name]), ~found.done)
    for name in ("loss", "accuracy", "slope", "top_error"):
        assert np.isfinite(found[name]).all()


def test_other_data_and_class_fields_are_filled_from_the_same_points():
    objective, test = small_objective(), small_objective()
    directions = random_directions(objective, 2)
    options = replace(PLAIN, tolerance=0.02)
    fields = ("loss", "accuracy", "class_loss")
    arguments = {"fields": fields, "also": {"test": test}}
    found = plane(objective, directions, (17, 17), 2.0, **arguments, options=options)
    whole = plane(objective, directions, (17, 17), 2.0, **arguments, options=PLAIN)
    assert not found.done.all()
    for name in ("loss", "accuracy", "class_loss", "test_loss", "test_class_loss"):
        assert_same(found[name][found.done], whole[name][found.done])
        assert np.isfinite(found[name]).all()
    np.testing.assert_array_equal(found["test_loss"], found["loss"])
    np.testing.assert_array_equal(found["class_loss"], found["test_class_loss"])


def test_points_beyond_the_clip_are_measured_and_infinite():
    objective = small_objective()
    directions = random_directions(objective, 2)
    options = replace(PLAIN, tolerance=0.05, clip=2.0)
    found = plane(objective, directions, (17, 17), 4.0, options=options)
    whole = plane(objective, directions, (17, 17), 4.0, options=replace(PLAIN, clip=2.0))
    np.testing.assert_array_equal(np.isinf(found.loss), np.isinf(whole.loss))
    assert np.isinf(found.loss).any()
    assert found.done[np.isinf(found.loss)].all()


@pytest.mark.parametrize("num", [4, 17])  # of 17 every second could be left out, and must not be
def test_lines_are_refined_each_along_itself(num):
    objective = small_objective()
    directions = random_directions(objective, num)
    options = replace(PLAIN, tolerance=0.02)
    found = lines(objective, directions, 33, 3.0, options=options)
    assert not any("tolerance left" in note for note in found.notes)
    for index, direction in enumerate(directions):
        alone = line(objective, direction, 33, 3.0, options=options)
        np.testing.assert_array_equal(found.done[index], alone.done)
        assert_same(found.loss[index], alone.loss)
    assert not found.done.all()


@pytest.mark.parametrize("num", [(20, 33), (33, 15), (9, 9), (1, 33)])
def test_a_grid_that_cannot_be_thinned_says_so(num):
    objective = objective_over(bent)
    found = plane(objective, AXES, num, options=replace(PLAIN, tolerance=0.05))
    assert found.done.all()
    (note,) = [note for note in found.notes if "tolerance left" in note]
    assert "even" in note
    assert "33" in note
    thinned = plane(objective, AXES, (17, 33), options=replace(PLAIN, tolerance=0.05))
    assert not any("tolerance left" in note for note in thinned.notes)


@pytest.mark.parametrize("stop_after", [1, 5, 20])
def test_a_refinement_goes_on_after_a_kill_with_the_same_bits(tmp_path, stop_after):
    objective = small_objective()
    directions = random_directions(objective, 2)
    options = replace(
        PLAIN,
        execution=Execution("batched", chunk=8),
        tolerance=0.01,
        state=tmp_path / "state.npz",
    )
    whole = plane(objective, directions, (17, 17), 2.0, options=replace(options, state=None))
    calls = []

    def killing(*_):
        calls.append(None)
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plane(objective, directions, (17, 17), 2.0, options=replace(options, progress=killing))
    assert (tmp_path / "state.npz").exists()
    resumed = plane(objective, directions, (17, 17), 2.0, options=options)
    assert not (tmp_path / "state.npz").exists()
    np.testing.assert_array_equal(resumed.done, whole.done)
    for name, values in whole.fields.items():
        assert resumed[name].tobytes() == values.tobytes()
    assert (
        180 < whole.done.sum() < 289
    )  # beyond the coarsest grid's 81, so that 20 calls are inside


def test_a_grid_of_three_directions_is_refined():
    objective = small_objective()
    directions = random_directions(objective, 3)
    coarse = replace(PLAIN, execution=Execution("batched", chunk=1024))
    options = replace(coarse, tolerance=0.02)
    found = grid(objective, directions, 17, fields=("loss",), options=options)
    whole = grid(objective, directions, 17, fields=("loss",), options=coarse)
    assert np.abs(found.loss - whole.loss).max() <= 0.02
    assert found.done.mean() < 0.6


def test_shards_do_not_refine():
    with pytest.raises(RequestError, match="cannot refine"):
        SweepOptions(tolerance=0.1, shard=(0, 2))
