"""Sweeping: lines, planes, grids and planes through checkpoints, and what of them is stored."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, ConvNet, cut, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import direction_towards, random_directions
from landscape.slices.execution import Execution
from landscape.slices.options import SweepOptions
from landscape.slices.sweeping import grid, line, lines, plane, plane_through

LOOP = SweepOptions(execution="loop", caveats=False)
BATCHED = SweepOptions(execution=Execution("batched", 7), caveats=False)
BOTH = pytest.mark.parametrize("options", [LOOP, BATCHED], ids=["loop", "batched"])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def options(**given):
    return SweepOptions(**({"execution": "loop", "caveats": False} | given))


model, inputs, labels = network(MLP, num=30)
batches = cut(inputs, labels, 8)
objective = Objective(model, batches)
directions = random_directions(objective, 2)


# -- the exact parabola ---------------------------------------------------------------------------


class Point(nn.Module):
    """A vector x; what is lost there is told by the loss alone."""

    def __init__(self, start):
        super().__init__()
        self.x = nn.Parameter(start.clone())

    def forward(self, inputs):
        return inputs * self.x


class Bowl:
    """x' H x / 2 + g' x + c, its directions and its exact values on any grid."""

    def __init__(self, n=6, seed=0):
        root = normal(n, n, seed=seed)
        self.hessian, self.linear = root + root.T, normal(n, seed=seed + 1)
        self.start, self.shift = normal(n, seed=seed + 2), 0.3
        # Neither of norm 1 nor orthogonal.
        self.vectors = torch.tensor([[0.7], [2.0], [0.2]]).double() * normal(3, n, seed=seed + 3)
        self.objective = Objective(Point(self.start), [torch.ones(1, n).double()], self._loss)

    def _loss(self, model, batch):
        return self.at(model(batch)[0]), 1.0

    def at(self, x):
        return x @ self.hessian @ x / 2 + self.linear @ x + self.shift

    def on(self, coordinates, vectors, center=None):
        center = self.start if center is None else center
        found = np.empty([len(axis) for axis in coordinates])
        for index in np.ndindex(*found.shape):
            x = center.clone()
            for place, axis, vector in zip(index, coordinates, vectors, strict=True):
                x += axis[place] * vector
            found[index] = self.at(x)
        return found


bowl = Bowl()
GRIDS = {
    "odd": ((5, 5), 1.0, [(-1, 1), (-1, 1)]),
    "even": ((4, 6), 1.0, [(-1, 1), (-1, 1)]),
    "not square": ((3, 7), (0.5, 2.0), [(-0.5, 0.5), (-2, 2)]),
    "one number": (5, 0.3, [(-0.3, 0.3), (-0.3, 0.3)]),
    "from 0": ((5, 4), [(0.0, 1.0), (0.0, 3.0)], [(0, 1), (0, 3)]),
    "other ends": ((4, 5), [(-0.25, 1.0), 2], [(-0.25, 1), (-2, 2)]),
    "away from the center": ((3, 3), [(2.0, 3.0), (-4.0, -3.5)], [(2, 3), (-4, -3.5)]),
    "one point across": ((5, 1), (1.0, 0.5), [(-1, 1), (0, 0)]),
    "one point aside": ((1, 3), [(0.0, 1.0), (0.0, 1.0)], [(0.5, 0.5), (0, 1)]),
    "numbers of numpy": (np.array([3, 4]), np.array([0.5, 1.5]), [(-0.5, 0.5), (-1.5, 1.5)]),
}


@BOTH
@pytest.mark.parametrize(("num", "radius", "ends"), GRIDS.values(), ids=list(GRIDS))
def test_a_plane_of_a_parabola_is_the_parabola(num, radius, ends, options):
    sweep = plane(bowl.objective, bowl.vectors[:2], num, radius, options=options)
    for axis, (low, high) in zip(sweep.coordinates, ends, strict=True):
        assert (axis[0], axis[-1]) == (low, high)  # labels are the radii, ends included
        np.testing.assert_allclose(np.diff(axis), (high - low) / max(1, len(axis) - 1), rtol=1e-12)
    exact = bowl.on(sweep.coordinates, bowl.vectors[:2])
    np.testing.assert_allclose(sweep.loss, exact, rtol=1e-12, atol=1e-12)
    assert sweep.center_loss == pytest.approx(bowl.at(bowl.start).item(), rel=1e-14)
    assert sweep.done.all()
    assert sweep.status == "converged"


def test_axes_are_never_swapped():
    class Valley(Bowl):
        def at(self, x):
            return x[0] ** 2 + 10 * x[1]

    valley = Valley()
    valley.objective = Objective(Point(0 * valley.start), [torch.ones(1, 6).double()], valley._loss)
    sweep = plane(valley.objective, torch.eye(6).double()[:2], (5, 3), (2.0, 1.0), options=LOOP)
    a, b = np.array([-2.0, -1, 0, 1, 2]), np.array([-1.0, 0, 1])
    np.testing.assert_allclose(sweep.loss, a[:, None] ** 2 + 10 * b[None, :], atol=1e-12)
    dataset = sweep.to_dataset()
    assert dataset["loss"].dims == ("a", "b")
    assert dataset["loss"].sel(a=-2, b=1) == pytest.approx(14)


@BOTH
def test_a_line_of_a_parabola_is_the_parabola(options):
    sweep = line(bowl.objective, bowl.vectors[0], 9, 1.5, options=options)
    exact = bowl.on(sweep.coordinates, bowl.vectors[:1])
    np.testing.assert_allclose(sweep.loss, exact, rtol=1e-12, atol=1e-12)
    second = np.diff(sweep.loss, 2) / np.diff(sweep.coordinates[0])[0] ** 2
    curvature = bowl.vectors[0] @ bowl.hessian @ bowl.vectors[0]
    np.testing.assert_allclose(second, float(curvature), rtol=1e-10)


@BOTH
def test_a_grid_of_three_axes_is_the_parabola(options):
    sweep = grid(bowl.objective, bowl.vectors, (3, 4, 2), (1.0, 0.5, 2.0), options=options)
    assert sweep.axes == ("a", "b", "c")
    exact = bowl.on(sweep.coordinates, bowl.vectors)
    np.testing.assert_allclose(sweep.loss, exact, rtol=1e-12, atol=1e-12)


@BOTH
def test_lines_are_a_line_along_each_direction(options):
    sweep = lines(bowl.objective, bowl.vectors, 5, [(0.0, 2.0)], options=options)
    assert sweep.axes == ("direction", "a")
    assert sweep.coordinates[0].tolist() == [0, 1, 2]
    for losses, vector in zip(sweep.loss, bowl.vectors, strict=True):
        exact = bowl.on(sweep.coordinates[1:], vector[None])
        np.testing.assert_allclose(losses, exact, rtol=1e-12, atol=1e-12)


def test_the_center_may_be_elsewhere():
    center = normal(6, seed=9)
    sweep = plane(bowl.objective, bowl.vectors[:2], 3, center=center, options=LOOP)
    exact = bowl.on(sweep.coordinates, bowl.vectors[:2], center)
    np.testing.assert_allclose(sweep.loss, exact, rtol=1e-12, atol=1e-12)
    assert sweep.center_loss == pytest.approx(bowl.at(center).item(), rel=1e-14)


def test_the_expansion_at_the_center_is_the_parabola_itself():
    sweep = plane(bowl.objective, bowl.vectors[:2], (4, 3), options=options(quadratic=True))
    np.testing.assert_allclose(sweep.quadratic(*sweep.coordinates), sweep.loss, rtol=1e-11)
    assert sweep.num_products == 2
    assert line(bowl.objective, bowl.vectors[0], 3, options=LOOP).quadratic is None


def test_a_radius_is_looked_for_where_none_is_given():
    sweep = line(objective, directions[0], 5, "auto", options=LOOP)
    assert max(sweep.loss[0], sweep.loss[-1]) == pytest.approx(5 * sweep.center_loss, rel=0.3)
    both = plane(objective, directions, 3, "auto", options=LOOP)
    assert both.coordinates[0][-1] == sweep.coordinates[0][-1]
    band = lines(objective, directions, 3, "auto", options=LOOP)
    assert band.coordinates[1][-1] == min(axis[-1] for axis in both.coordinates)


# -- rescaled networks ----------------------------------------------------------------------------


def rectified(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)


def rescaled(net, factors):
    """The same function: neurons times powers of two, what reads them divided by those."""
    with torch.no_grad():
        net[0].weight.mul_(factors[:, None])
        net[0].bias.mul_(factors)
        net[2].weight.div_(factors)
    return net


LAYER = torch.full((6,), 8.0)
NEURONS = torch.tensor([8.0, 0.25, 1.0, 4.0, 0.5, 2.0])


def picture(net, normalize, options, dtype):
    found = Objective(net, cut(inputs.to(dtype), labels, 8))
    drawn = random_directions(found, 2, normalize, seed=3)
    return plane(found, drawn, (5, 4), options=options)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_filter_normalised_planes_are_those_of_the_rescaled_layer_bit_for_bit(dtype, options):
    before = picture(rectified(dtype), "filter", options, dtype)
    after = picture(rescaled(rectified(dtype), LAYER), "filter", options, dtype)
    assert (after.loss == before.loss).all()
    assert (after.standard_error == before.standard_error).all()
    assert after.center_loss == before.center_loss
    plain = picture(rescaled(rectified(dtype), LAYER), "none", options, dtype)
    assert np.abs(plain.loss - picture(rectified(dtype), "none", options, dtype).loss).max() > 0.1


@BOTH
def test_filter_normalised_planes_depend_on_the_scale_of_single_neurons(options):
    before = picture(rectified(), "filter", options, torch.float64)
    after = picture(rescaled(rectified(), NEURONS), "filter", options, torch.float64)
    assert after.center_loss == before.center_loss  # the function is the same
    assert np.abs(after.loss - before.loss).max() > 0.01


@BOTH
@pytest.mark.parametrize("factors", [LAYER, NEURONS], ids=["layer", "neurons"])
def test_element_normalised_planes_depend_on_neither_bit_for_bit(factors, options):
    before = picture(rectified(), "element", options, torch.float64)
    after = picture(rescaled(rectified(), factors), "element", options, torch.float64)
    assert (after.loss == before.loss).all()


# -- fields and data ------------------------------------------------------------------------------


def margin(output, target):
    return output.gather(1, target[:, None])[:, 0] - output.mean(1)


ALL = ("loss", "accuracy", "class_loss", "class_accuracy", "penalty", "gradient_norm", "slope")


@BOTH
def test_all_fields_of_two_data_sets_in_one_pass_are_those_of_separate_sweeps(options):
    other = Objective(model, cut(normal(20, 4, seed=3), labels[:20], 6))
    extra = {"metrics": {"margin": margin}, "penalty": lambda theta: theta.square().sum()}
    options = SweepOptions(execution=options.execution, caveats=False, **extra)
    both = plane(objective, directions, (3, 4), fields=ALL, also={"test": other}, options=options)
    for prefix, single in (("", objective), ("test_", other)):
        for name in (*ALL, "standard_error"):
            fields = (name,) if name in ALL else ("loss",)
            alone = plane(single, directions, (3, 4), fields=fields, options=options)
            assert (both[f"{prefix}{name}"] == alone[name]).all()
        assert (both[f"{prefix}margin"] == alone["margin"]).all()
    assert both["slope"].shape == (3, 4, 2)
    assert both["test_class_loss"].shape == (3, 4, 3)
    dataset = both.to_dataset()
    assert dataset["test_class_loss"].dims == ("a", "b", "class")
    assert dataset["slope"].dims == ("a", "b", "direction")


def test_batch_norm_policies_of_a_sweep_are_those_of_an_objective():
    net, images, image_labels = network(ConvNet, num=20)
    data = cut(images, image_labels, 5)
    own = Objective(net, data)
    drawn = random_directions(own, 2)
    for bn in ("eval", "batch", "recalibrate"):
        sweep = plane(own, drawn, (3, 2), bn=bn, options=LOOP)
        policy = Objective(net, data, bn=bn)
        assert sweep.bn == bn
        assert sweep.center_loss == pytest.approx(policy.value, rel=1e-13)
        assert (plane(policy, drawn, (3, 2), options=LOOP).loss == sweep.loss).all()
    also = plane(own, drawn, (3, 2), bn="recalibrate", also={"same": own}, options=LOOP)
    assert (also["same_loss"] == also.loss).all()


def test_derivatives_at_moving_statistics_are_explained():
    net, images, image_labels = network(ConvNet, num=20)
    own = Objective(net, cut(images, image_labels, 5))
    drawn = random_directions(own, 1)[0]
    note = "derivatives are those at fixed BatchNorm statistics"
    for bn, fields, said in (
        ("recalibrate", ("slope",), True),
        ("recalibrate", ("loss",), False),
        ("batch", ("slope",), False),
    ):
        sweep = line(own, drawn, 3, fields=fields, bn=bn, options=LOOP)
        assert any(note in one for one in sweep.notes) is said
    sweep = line(own, drawn, 3, bn="recalibrate", options=options(quadratic=True))
    assert any(note in one for one in sweep.notes)


def test_points_left_early_are_told_apart_and_compose():
    many = Objective(model, cut(normal(600, 4, seed=4), torch.arange(600) % 3, 600))
    drawn = random_directions(many, 2)
    full = plane(many, drawn, (5, 5), 2.0, options=LOOP)
    clip = float(np.quantile(full.loss, 0.6))
    part = plane(many, drawn, (5, 5), 2.0, options=options(stop_error=0.03, clip=clip))
    assert (part["num_examples"] < 600).any()  # one batch of all examples was cut up for that
    inside = np.isfinite(part.loss)
    assert (np.abs(part.loss - full.loss)[inside] <= 5 * part["subset_error"][inside] + 1e-9).all()
    assert (full.loss[~inside] > clip).all()
    exact = plane(many, drawn, (5, 5), 2.0, options=options(clip=clip))
    assert (np.isposinf(exact.loss) == (full.loss > clip)).all()
    assert exact.caveats["clipped_share"] == (full.loss > clip).mean()


def test_nan_is_counted_and_kept():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, inputs):
            return inputs * self.w.sqrt()

    root = Objective(Root(), (normal(9, 1), normal(9, 1, seed=1)), "mse")
    sweep = line(root, torch.ones(1).double(), 9, 2.0, options=BATCHED)
    assert np.isnan(sweep.loss).tolist() == [True, True] + [False] * 7
    assert sweep.num_nan == 2
    assert sweep.done.all()
    assert sweep.status == "converged"
    assert any("NaN at 2 of 9 points" in note for note in sweep.notes)
    again = line(root, torch.ones(1).double(), 9, 2.0, options=BATCHED)
    np.testing.assert_array_equal(again.loss, sweep.loss)


def test_many_lines_cost_what_their_points_cost(monkeypatch):
    steps = []
    plain = torch.addcmul
    monkeypatch.setattr(torch, "addcmul", lambda *a, **k: steps.append(1) or plain(*a, **k))
    drawn = random_directions(objective, 6)
    lines(objective, drawn, 5, options=LOOP)
    assert len(steps) <= 6 * 5  # not each direction at each point of each other one


# -- planes through checkpoints -------------------------------------------------------------------


def moved(net, objective, theta, seed):
    """A copy of a network elsewhere, with other running statistics."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for name, block in objective.space.named(theta).items():
            other.get_parameter(name).copy_(block)
        for held in other.buffers():
            if held.is_floating_point():
                held.add_(normal(*held.shape, seed=seed).abs())
    return other


def test_a_plane_through_three_checkpoints_goes_through_them():
    second, third = (objective.theta + normal(objective.space.size, seed=s) for s in (1, 2))
    sweep = plane_through(objective, second, third, (4, 5), names=("A", "B", "C"), options=LOOP)
    assert sweep.marks["A"] == (0, 0)
    assert sweep.marks["B"] == (1, 0)
    first, other = sweep.vectors
    assert abs(sweep.cosines[0, 1]) < 1e-14
    np.testing.assert_allclose(*sweep.direction_norms, rtol=1e-14)
    for name, point in (("A", objective.theta), ("B", second), ("C", third)):
        a, b = sweep.marks[name]
        torch.testing.assert_close(objective.theta + a * first + b * other, point)
        for axis, place in zip(sweep.coordinates, (a, b), strict=True):
            assert axis[0] < place < axis[-1]
        again = plane(objective, sweep.vectors, 1, [(a - 1, a + 1), (b - 1, b + 1)], options=LOOP)
        assert again.loss[0, 0] == pytest.approx(objective.loss(point), rel=1e-12)


@BOTH
def test_interpolated_buffers_meet_those_of_each_checkpoint(options):
    net, images, image_labels = network(ConvNet, num=20)
    data = cut(images, image_labels, 5)
    own = Objective(net, data)
    points = [own.theta + 0.3 * normal(own.space.size, seed=s) for s in (1, 2)]
    others = [moved(net, own, theta, seed=s) for s, theta in enumerate(points, start=5)]
    towards = [
        direction_towards(own, theta, buffers=dict(other.named_buffers()))
        for theta, other in zip(points, others, strict=True)
    ]
    for place, net_there in (((0, 0), net), ((1, 0), others[0]), ((0, 1), others[1])):
        ends = [(p - 0.5, p + 0.5) for p in place]
        at = plane(own, towards, 1, ends, bn="interpolate", options=options)
        assert at.loss[0, 0] == pytest.approx(Objective(net_there, data).value, rel=1e-12)
        frozen = plane(own, towards, 1, ends, options=options)
        assert (frozen.loss == at.loss).all() == (net_there is net)


def test_the_plane_through_meets_the_third_with_its_buffers():
    net, images, image_labels = network(ConvNet, num=20)
    data = cut(images, image_labels, 5)
    own = Objective(net, data)
    second = own.theta + 0.3 * normal(own.space.size, seed=1)
    across = second - own.theta
    up = normal(own.space.size, seed=2)
    up -= (up @ across) / (across @ across) * across
    up *= 2 * across.norm() / up.norm()
    third = own.theta + 0.5 * across + up  # above the middle, twice as high as the base is long
    others = [moved(net, own, theta, seed=s) for s, theta in ((5, second), (6, third))]
    buffers = [dict(other.named_buffers()) for other in others]
    sweep = plane_through(
        own, second, third, (5, 7), buffers=buffers, bn="interpolate", options=LOOP
    )
    np.testing.assert_allclose(sweep.marks["C"], (0.5, 2), atol=1e-12)
    # Margins of a quarter of the height: steps of 1/2 pass through all three.
    for place, value in (
        ((1, 1), own.value),
        ((3, 1), Objective(others[0], data).value),
        ((2, 5), Objective(others[1], data).value),
    ):
        assert sweep.loss[place] == pytest.approx(value, rel=1e-11)


# -- requests that cannot be met ------------------------------------------------------------------

size = objective.space.size
other_net = Objective(rectified(), batches)
WRONG = {
    "one direction for a plane": (
        lambda: plane(objective, directions[:1]),
        r"two directions, 1 were given. `line` takes one",
    ),
    "no directions": (lambda: grid(objective, []), r"no direction.*random_directions"),
    "seven directions": (lambda: grid(objective, [directions[0]] * 7, 2), "a grid has 6 at most"),
    "a direction of another size": (
        lambda: line(objective, normal(7)),
        rf"shape \(7,\), expected \({size},\).*space.flatten",
    ),
    "a center of another size": (
        lambda: line(objective, directions[0], center=normal(7)),
        rf"shape \(7,\), expected \({size},\)",
    ),
    "a NaN direction": (
        lambda: plane(objective, [directions[0], directions[1] * float("nan")]),
        "direction 2 is not finite",
    ),
    "a NaN center": (
        lambda: line(objective, directions[0], center=objective.theta * float("inf")),
        "the center is not finite",
    ),
    "no points": (lambda: line(objective, directions[0], 0), r"num is \(0,\), expected 1 whole"),
    "half a point": (lambda: plane(objective, directions, 2.5), "num is 2.5, expected 2 whole"),
    "three numbers": (lambda: plane(objective, directions, (3, 3, 3)), "expected 2 whole number"),
    "ends of a line not in a list": (
        lambda: line(objective, directions[0], radius=(0.0, 1.0)),
        r"expected one number, or a list of 1.*\[\(0.0, 1.0\)\]",
    ),
    "three radii": (lambda: plane(objective, directions, radius=[1, 2, 3]), "or a list of 2"),
    "a radius of 0": (lambda: line(objective, directions[0], radius=0), "a radius above 0"),
    "ends the wrong way": (
        lambda: line(objective, directions[0], radius=[(1.0, -1.0)]),
        r"an axis of \(1.0, -1.0\)",
    ),
    "a NaN radius": (lambda: line(objective, directions[0], radius=float("nan")), "axis of nan"),
    "no end": (
        lambda: line(objective, directions[0], radius=[(0.0, float("inf"))]),
        r"an axis of \(0.0, inf\)",
    ),
    "three ends": (lambda: line(objective, directions[0], radius=[(0, 1, 2)]), "an axis of"),
    "a word for a radius": (
        lambda: line(objective, directions[0], radius="atuo"),
        "unknown radius 'atuo'.*Did you mean 'auto'",
    ),
    "a misspelt policy": (
        lambda: line(objective, directions[0], bn="recalibrated"),
        "unknown BatchNorm policy 'recalibrated'.*Did you mean 'recalibrate'",
    ),
    "buffers that nobody knows": (
        lambda: line(objective, directions[0], bn="interpolate"),
        r"direction_towards\(objective, other, buffers=dict\(model.named_buffers",
    ),
    "further data of another network": (
        lambda: line(objective, directions[0], also={"test": other_net}),
        "'test' belong to an objective with other parameters",
    ),
    "further data by a name that is taken": (
        lambda: line(objective, directions[0], also={"class": objective}, options=LOOP),
        "'class' would give another field 'class_accuracy'. Give them another name",
    ),
    "a misspelt field": (
        lambda: line(objective, directions[0], fields=("los",)),
        "unknown field 'los'.*Did you mean 'loss'",
    ),
    "more shards than points": (
        lambda: line(objective, directions[0], 3, options=options(shard=(2, 4))),
        r"shard is \(2, 4\), but there are 3 points",
    ),
    "three points on a line": (
        lambda: plane_through(objective, objective.theta + 1, objective.theta + 2),
        "A, B, C lie on a line.*direction_towards",
    ),
    "the same point twice": (
        lambda: plane_through(objective, objective.theta, objective.theta + 1),
        "A and B are the same point",
    ),
    "a clip of a loss that may be negative": (
        lambda: line(
            Objective(model, batches, lambda o, t: -F.cross_entropy(o, t)),
            directions[0],
            options=options(clip=1.0),
        ),
        "may be negative.*Leave clip out",
    ),
    "a misspelt execution": (
        lambda: line(objective, directions[0], options=options(execution="vmap")),
        "unknown execution 'vmap'.*The choices are: auto, batched, compiled, loop",
    ),
}


@pytest.mark.parametrize(("request_", "words"), WRONG.values(), ids=list(WRONG))
def test_what_cannot_be_met_is_refused_with_the_words_to_type(request_, words):
    with pytest.raises(RequestError, match=words):
        request_()


def test_a_matrix_of_directions_will_do():
    matrix = torch.stack([direction.detach() for direction in directions])
    one = plane(objective, matrix, 3, options=LOOP)
    assert (one.loss == plane(objective, directions, 3, options=LOOP).loss).all()
    assert one.direction_names == ("given direction", "given direction")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit")  # what the compiler imports warns of itself
def test_further_data_may_belong_to_another_copy_of_a_compiled_network():
    also = {"same": objective, "copy": Objective(copy.deepcopy(model), batches)}
    sweep = line(objective, directions[0], 5, also=also, options=options(execution="compiled"))
    np.testing.assert_allclose(sweep["same_loss"], sweep.loss, rtol=1e-12)
    np.testing.assert_allclose(sweep["copy_loss"], sweep.loss, rtol=1e-12)
    np.testing.assert_allclose(
        sweep.loss, line(objective, directions[0], 5, options=LOOP).loss, rtol=1e-12
    )


@pytest.mark.parametrize("stop_error", [None, 1e-9])
@pytest.mark.parametrize("execution", [Execution(), Execution("batched", 2), "auto"], ids=str)
def test_test_data_see_the_statistics_of_the_training_data(execution, stop_error):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs, targets = torch.randn(30, 3).double(), torch.randint(0, 2, (30,))
    other = 3 + 2 * torch.randn(20, 3).double(), torch.randint(0, 2, (20,))
    objective, test = Objective(model, (inputs, targets)), Objective(model, other)
    direction = torch.randn(objective.space.size, dtype=torch.float64)
    found = line(
        objective,
        direction,
        5,
        fields=("loss",),
        also={"test": test},
        bn="recalibrate",
        options=SweepOptions(execution=execution, stop_error=stop_error),
    )
    for point, shift in enumerate(found.coordinates[0]):
        theta = objective.theta + float(shift) * direction
        moved = copy.deepcopy(model)
        torch.nn.utils.vector_to_parameters(theta, moved.parameters())
        with torch.no_grad():
            entering = moved[0](inputs)
            moved[1].running_mean.copy_(entering.mean(0))
            moved[1].running_var.copy_(entering.var(0))
            expected = nn.functional.cross_entropy(moved.eval()(other[0]), other[1])
        assert found["test_loss"][point] == pytest.approx(float(expected), rel=1e-11)
