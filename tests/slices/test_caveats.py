"""Caveats: each is measured right, said in a sentence where it matters, and costs what it says."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, ConvNet, network
from torch import nn

from landscape.objective import Objective
from landscape.slices import caveats
from landscape.slices.directions import direction_towards, gradient_direction, random_directions
from landscape.slices.execution import Execution
from landscape.slices.options import SweepOptions
from landscape.slices.sweep import merge
from landscape.slices.sweeping import line, lines, plane

LOOP = SweepOptions(execution="loop")


class ReluNet(nn.Module):
    """4 -> 5 -> 3: its hidden neurons can be rescaled, the function staying as it is."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, inputs):
        return self.head(torch.relu(self.hidden(inputs)))


class Point(nn.Module):
    """Its weights are a point of the plane."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, inputs):
        return inputs


def objective_over(function):
    """An objective whose loss is `function(a, b)` of its two weights, which are 0."""
    data = [(torch.zeros(1, 1, dtype=torch.float64),) * 2]
    return Objective(Point(), data, lambda model, _: function(*model.place), reduction="mean")


def relu_objective(kind=ReluNet):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind().double()
        inputs, targets = torch.randn(20, 4).double(), torch.randint(0, 3, (20,))
    return Objective(model, (inputs, targets))


def conv_objective(**options):
    model, inputs, targets = network(ConvNet, num=20)
    return Objective(model, (inputs, targets), **options)


def notes_with(sweep, words):
    return [note for note in sweep.notes if words in note]


# -- what a sweep shows by itself ---------------------------------------------------------------


def test_directions_that_are_not_orthogonal_are_told():
    objective = objective_over(lambda a, b: 1 + a**2 + b**2)
    slanted = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    found = plane(objective, slanted, (2, 2), options=LOOP)
    assert found.caveats["max_cosine"] == pytest.approx(np.sqrt(0.5), rel=1e-15)
    (note,) = notes_with(found, "not orthogonal")
    assert "0.71" in note
    found = plane(objective, torch.eye(2, dtype=torch.float64), (2, 2), options=LOOP)
    assert found.caveats["max_cosine"] == 0.0
    assert not notes_with(found, "not orthogonal")


def test_points_beyond_the_clip_and_without_a_value_are_told():
    objective = objective_over(
        lambda a, b: torch.where(a > 0.9, torch.nan, torch.where(a < -0.9, torch.inf, 1 + b))
    )
    found = plane(objective, torch.eye(2, dtype=torch.float64), (5, 3), options=LOOP)
    assert found.caveats["clipped_share"] == 0.2
    assert notes_with(found, "the loss is infinite at 3 of 15 points")
    assert notes_with(found, "the loss is NaN at 3 of 15 points")
    assert found.to_dataset()["nan_points"] == 3
    clipped = line(relu_objective(), random_directions(relu_objective(), 1)[0], 9, 20.0,
                   options=replace(LOOP, clip=2.0))  # fmt: skip
    share = np.isinf(clipped.loss).mean()
    assert 0 < share == clipped.caveats["clipped_share"]
    assert notes_with(clipped, "beyond the clip of 2 at")


def test_filled_points_are_told():
    objective = objective_over(lambda a, b: 1 + a + b)
    options = replace(LOOP, tolerance=0.1)
    found = line(objective, torch.eye(2, dtype=torch.float64)[0], 17, options=options)
    assert found.caveats["interpolated_share"] == 8 / 17
    assert notes_with(found, "47.1% of the points were filled in")


def test_everything_is_stored_as_a_scalar():
    objective = conv_objective()
    found = plane(objective, random_directions(objective, 2), (2, 2), options=LOOP)
    dataset = found.to_dataset()
    assert set(found.caveats) == {"max_cosine", "clipped_share", "stale_bn_gap"}
    for name, value in found.caveats.items():
        assert float(dataset[name]) == value


# -- frozen BatchNorm statistics ----------------------------------------------------------------


def recalibrated_loss(objective, theta):
    """By torch alone: one pass in training mode over all data, then the loss in eval mode."""
    model = copy.deepcopy(objective.model)
    (batch,) = objective.batches
    inputs, targets = batch
    with torch.no_grad():
        for parameter, block in zip(model.parameters(), objective.space.split(theta), strict=True):
            parameter.copy_(block)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        model.train()(inputs)
        return F.cross_entropy(model.eval()(inputs), targets).item()


@pytest.mark.parametrize("radius", [1.0, 8.0])  # frozen statistics look better; and worse
def test_the_gap_of_frozen_statistics_is_that_of_an_own_computation(radius):
    objective = conv_objective()
    directions = random_directions(objective, 2)
    found = plane(objective, directions, (3, 2), [radius, (0.0, 0.5)], options=LOOP)
    first = objective.theta - radius * directions[0]
    last = objective.theta + radius * directions[0] + 0.5 * directions[1]
    fresh = np.array([recalibrated_loss(objective, theta) for theta in (first, last)])
    frozen = found.loss[[0, -1], [0, -1]]
    wanted = np.abs(fresh - frozen).max()
    assert found.caveats["stale_bn_gap"] == pytest.approx(wanted, rel=1e-10)
    (note,) = notes_with(found, "frozen statistics mislead")
    for stale, right in zip(frozen, fresh, strict=True):
        assert f"{stale:.3g} instead of {right:.3g}" in note
    assert "bn='recalibrate'" in note
    assert (fresh.max() > frozen.max()) == (radius == 1.0)
    assert found.notes[0] == "evaluated: loop"


def test_statistics_that_are_right_at_the_ends_are_no_news():
    model, inputs, targets = network(ConvNet, num=20)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()(inputs)
    objective = Objective(model, (inputs, targets), params="head")  # behind BatchNorm
    found = line(objective, random_directions(objective, 1)[0], 3, options=LOOP)
    assert found.caveats["stale_bn_gap"] < 1e-12
    assert np.ptp(found.loss) > 0.01
    assert not notes_with(found, "mislead")


@pytest.mark.parametrize(("share", "is_told"), [(0.99, True), (1.01, False)])
def test_a_gap_is_told_from_a_tenth_of_the_rise_on(monkeypatch, share, is_told):
    objective = conv_objective()
    direction = random_directions(objective, 1)[0]
    found = line(objective, direction, 3, options=LOOP)
    rise = np.abs(found.loss[[0, -1]] - found.center_loss).max()
    assert caveats._SHARE == 0.1
    monkeypatch.setattr(caveats, "_SHARE", share * found.caveats["stale_bn_gap"] / rise)
    again = line(objective, direction, 3, options=LOOP)
    assert bool(notes_with(again, "mislead")) == is_told


def test_statistics_that_make_the_loss_overflow_are_told():
    objective = conv_objective()
    direction = torch.zeros_like(objective.theta)
    direction[objective.space.slice_of("conv.weight")] = 1e100  # its BatchNorm would divide by it
    direction[objective.space.slice_of("head.weight")] = 1e250
    found = line(objective, direction, 3, options=LOOP)
    assert not np.isfinite(found.loss[[0, -1]]).all()
    assert not np.isfinite(found.caveats["stale_bn_gap"])
    assert notes_with(found, "mislead")


def test_a_loss_that_is_infinite_with_frozen_statistics_only_is_told():
    model, inputs, _ = network(ConvNet, num=20)
    objective = Objective(model, (inputs, torch.zeros(20, 3, dtype=torch.float64)), "mse")
    direction = torch.zeros_like(objective.theta)
    for name in ("conv.weight", "head.weight"):
        direction[objective.space.slice_of(name)] = 1e100
    found = line(objective, direction, 3, options=LOOP)
    assert np.isposinf(found.loss[[0, -1]]).all()
    assert np.isposinf(found.caveats["stale_bn_gap"])
    assert "inf instead of" in notes_with(found, "mislead")[0]


@pytest.mark.parametrize("bn", ["batch", "recalibrate"])
def test_statistics_that_are_not_frozen_are_not_stale(bn):
    objective = conv_objective()
    found = line(objective, random_directions(objective, 1)[0], 3, bn=bn, options=LOOP)
    assert "stale_bn_gap" not in found.caveats
    assert not notes_with(found, "mislead")
    assert not notes_with(found, "quadratic")


def test_a_network_without_batch_norm_has_no_stale_statistics():
    objective = relu_objective()
    found = line(objective, random_directions(objective, 1)[0], 3, options=LOOP)
    assert "stale_bn_gap" not in found.caveats


def test_a_quadratic_beside_moving_statistics_is_told():
    objective = conv_objective()
    other = copy.deepcopy(objective.model)
    for tensor in (*other.parameters(), other.norm.running_mean, other.norm.running_var):
        tensor.data.mul_(1.25)
    theta = objective.space.flatten(dict(other.named_parameters()))
    direction = direction_towards(objective, theta, buffers=dict(other.named_buffers()))
    options = replace(LOOP, quadratic=True)
    moving = ("recalibrate", "interpolate")
    for bn, is_told in [("eval", False), ("batch", False), *((bn, True) for bn in moving)]:
        found = line(objective, direction, 3, 1e-3, bn=bn, fields=("loss",), options=options)
        second = np.diff(found.loss, 2)[0] / 1e-6
        is_expansion = abs(found.quadratic.curvature[0, 0] - second) < 1e-4
        assert is_expansion != is_told
        assert bool(notes_with(found, "not the expansion")) == is_told


# -- the scale of single neurons ----------------------------------------------------------------


def test_filter_normalised_slices_of_relu_networks_depend_on_the_scale_of_neurons():
    objective = relu_objective()
    found = plane(objective, random_directions(objective, 2), (3, 3), options=LOOP)
    assert found.caveats["rescaling_change"] > 0.01
    (note,) = notes_with(found, "scale of single neurons")
    assert f"{found.caveats['rescaling_change']:.2g}" in note
    assert "normalize='element'" in note


def test_element_normalised_slices_do_not():
    objective = relu_objective()
    directions = random_directions(objective, 2, "element")
    found = plane(objective, directions, (3, 3), options=LOOP)
    assert 0 <= found.caveats["rescaling_change"] < 1e-12
    assert not notes_with(found, "scale of single neurons")
    assert np.ptp(found.loss) > 0.01


def test_the_change_is_that_of_directions_drawn_again_at_rescaled_weights(monkeypatch):
    objective = relu_objective()
    directions = random_directions(objective, 2)
    seen = {}

    def spy(objective, make_directions, coefficients, losses):
        theta = 3 * objective.theta
        seen["again"] = make_directions(theta)
        seen["wanted"] = torch.stack([d + 0 for d in random_directions(objective, 2, center=theta)])
        seen["coefficients"], seen["losses"] = coefficients, losses
        return 0.25

    monkeypatch.setattr(caveats, "rescaling_change", spy)
    found = plane(objective, directions, (3, 2), [1.0, (0.0, 0.5)], options=LOOP)
    assert found.caveats["rescaling_change"] == 0.25
    assert torch.equal(seen["again"], seen["wanted"])
    assert seen["coefficients"].tolist() == [[-1.0, 0.0], [1.0, 0.5]]
    np.testing.assert_allclose(seen["losses"], found.loss[[0, -1], [0, -1]], rtol=1e-14)


@pytest.mark.parametrize(("share", "is_told"), [(0.099, False), (0.101, True)])
def test_a_change_is_told_from_a_tenth_of_the_rise_on(monkeypatch, share, is_told):
    objective = relu_objective()
    direction = random_directions(objective, 1)[0]
    plain = line(objective, direction, 3, options=LOOP)
    rise = np.abs(plain.loss[[0, -1]] - plain.center_loss).max()
    monkeypatch.setattr(caveats, "rescaling_change", lambda *_: share * rise)
    found = line(objective, direction, 3, options=LOOP)
    assert found.caveats["rescaling_change"] == share * rise
    assert bool(notes_with(found, "single neurons")) == is_told


def test_smooth_networks_have_no_such_scale():
    objective = relu_objective(MLP)  # of tanh units
    found = plane(objective, random_directions(objective, 2), (3, 3), options=LOOP)
    assert "rescaling_change" not in found.caveats
    assert not notes_with(found, "single neurons")


def test_directions_that_cannot_be_drawn_again_are_left_out():
    objective = relu_objective()
    (random,) = random_directions(objective, 1)
    given, gradient = random + 0, gradient_direction(objective)
    for pair in ([given, random], [random, gradient]):
        found = plane(objective, pair, (2, 2), options=LOOP)
        assert "rescaling_change" not in found.caveats


def test_another_center_is_left_out():
    objective = relu_objective()
    (random,) = random_directions(objective, 1)
    found = line(objective, random, 3, center=objective.theta + 0.1, options=LOOP)
    assert "rescaling_change" not in found.caveats


def test_losses_that_are_not_finite_are_left_out():
    objective = relu_objective()
    (random,) = random_directions(objective, 1)
    found = line(objective, random, 3, 1e200, options=LOOP)
    assert not np.isfinite(found.loss).all()
    assert "rescaling_change" not in found.caveats


# -- what they do not depend on -----------------------------------------------------------------


def test_a_clip_an_early_stop_and_a_refinement_leave_them_as_they_are():
    objective = conv_objective()
    direction = random_directions(objective, 1)[0]
    plain = line(objective, direction, 17, 4.0, options=LOOP)
    for changes in ({"clip": 0.5}, {"stop_error": 1e6}, {"tolerance": 0.5}):
        found = line(objective, direction, 17, 4.0, options=replace(LOOP, **changes))
        gap = found.caveats["stale_bn_gap"]
        assert gap == pytest.approx(plain.caveats["stale_bn_gap"], rel=1e-12)
        assert notes_with(found, "mislead") == notes_with(plain, "mislead")


@pytest.mark.parametrize("kind", [conv_objective, relu_objective])
def test_each_shard_has_those_of_the_whole(kind):
    objective = kind()
    directions = random_directions(objective, 2)
    whole = plane(objective, directions, (3, 3), options=LOOP)
    parts = [
        plane(objective, directions, (3, 3), options=replace(LOOP, shard=(i, 3))) for i in range(3)
    ]
    assert len(whole.caveats) == 3
    for part in parts:
        assert part.caveats == whole.caveats
    merged = merge(parts)
    assert merged.caveats == whole.caveats
    assert sorted(merged.notes) == sorted(whole.notes)


def test_a_single_point_and_several_lines_have_ends_too():
    objective = conv_objective()
    directions = random_directions(objective, 2)
    single = line(objective, directions[0], 1, [(0.0, 1.0)], options=LOOP)
    middle = recalibrated_loss(objective, objective.theta + 0.5 * directions[0])
    assert single.caveats["stale_bn_gap"] == pytest.approx(abs(middle - single.loss[0]), rel=1e-9)
    assert notes_with(single, "mislead")[0].count("instead of") == 1
    several = lines(objective, directions, 3, options=LOOP)
    ends = [objective.theta - directions[0], objective.theta + directions[1]]
    gaps = [
        abs(recalibrated_loss(objective, theta) - loss)
        for theta, loss in zip(ends, several.loss[[0, 1], [0, 2]], strict=True)
    ]
    assert several.caveats["stale_bn_gap"] == pytest.approx(max(gaps), rel=1e-9)


# -- cost ---------------------------------------------------------------------------------------


def num_forwards(objective, **options):
    """Forward passes of a line, one batch each."""
    count = []
    handle = objective.model.register_forward_hook(lambda *_: count.append(None))
    direction = random_directions(objective, 1)[0]
    try:
        line(objective, direction, 5, options=SweepOptions(execution=Execution(), **options))
    finally:
        handle.remove()
    return len(count)


def test_without_caveats_nothing_is_measured(monkeypatch):
    objective = conv_objective()

    def refuse(*_):
        raise AssertionError("a loss was evaluated")

    for name in ("losses", "loss", "buffers_at"):
        monkeypatch.setattr(Objective, name, refuse)
    found = line(objective, random_directions(objective, 1)[0], 3,
                 options=replace(LOOP, caveats=False))  # fmt: skip
    assert found.caveats == {"clipped_share": 0.0}


# At the ends 2 losses. Frozen statistics: 3 recalibrations, and 3 losses with what they give. Scale
# of neurons: on the first batch the order of the layers, the outputs, and those of each pair that
# may be rescaled; then 3 losses of the rescaled network where there is such a pair.
@pytest.mark.parametrize(
    ("kind", "wanted"), [(conv_objective, 2 + 6 + 3), (relu_objective, 2 + 3 + 3)]
)
def test_the_cost_is_the_stated_one(kind, wanted):
    assert num_forwards(kind()) - num_forwards(kind(), caveats=False) == wanted


def test_the_cost_does_not_grow_with_the_number_of_points():
    objective = conv_objective()
    count = []
    handle = objective.model.register_forward_hook(lambda *_: count.append(None))
    costs = []
    direction = random_directions(objective, 1)[0]
    line(objective, direction, 3)  # what is known of the objective after a first slice is kept
    for num in (3, 30):
        for measured in (True, False):
            count.clear()
            options = SweepOptions(execution=Execution(), caveats=measured)
            line(objective, direction, num, options=options)
            costs.append(len(count))
    handle.remove()
    assert costs[0] - costs[1] == costs[2] - costs[3]


def test_directions_that_cannot_be_drawn_again_cost_nothing_without_batch_norm():
    objective = relu_objective()
    counts = []
    for measured in (True, False):
        count = []
        handle = objective.model.register_forward_hook(lambda *_, count=count: count.append(None))
        options = SweepOptions(execution=Execution(), caveats=measured)
        line(objective, torch.ones_like(objective.theta), 3, options=options)
        handle.remove()
        counts.append(len(count))
    assert counts[0] == counts[1]
