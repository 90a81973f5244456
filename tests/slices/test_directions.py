"""Directions: drawn again from a seed, or along what the network or its optimizer knows."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from oracles import MLP, ConvNet, cut, network, symmetric_matrix
from torch import nn

from landscape.curvature.eigen import eigsh
from landscape.curvature.operators import MatrixOperator
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import (
    Direction,
    cosines,
    direction_towards,
    eigenvector_directions,
    gradient_direction,
    normalized,
    random_directions,
    regenerate,
)


def objective_of(kind=MLP, dtype=torch.float64, **options):
    model, inputs, targets = network(kind, dtype=dtype)
    return Objective(model, cut(inputs, targets, 4), **options)


def wide_objective():
    """Two weights of equal shape, 10,000 entries each."""
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    inputs = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    return Objective(model.double(), (inputs.double(), inputs.double()), "mse")


def drawn(objective, num=1, **options):
    return random_directions(objective, num, "none", orthogonal=False, **options)


# -- draws --------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_bits_and_another_seed_gives_others():
    objective = objective_of()
    first, again = (random_directions(objective, 2, seed=3) for _ in range(2))
    assert all(map(torch.equal, first, again))
    others = [3 + 2**32, 4, 2**100]  # also seeds that agree in their last 32 bits
    for direction in (random_directions(objective, 1, seed=seed)[0] for seed in others):
        assert (direction != first[0])[first[0] != 0].all()


def test_the_global_generators_are_left_alone():
    objective = objective_of()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = random_directions(objective, 1)[0]
    torch.manual_seed(7)
    again = random_directions(objective, 1)[0]
    torch.set_rng_state(before[0])
    assert torch.equal(first, again)
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("normalize", ["filter", "layer", "element", "none"])
def test_a_draw_does_not_depend_on_which_parameters_are_selected(normalize):
    whole, part = objective_of(), objective_of(params="head.weight")
    for one, other in zip(
        random_directions(whole, 2, normalize, orthogonal=normalize != "none"),
        random_directions(part, 2, normalize, orthogonal=normalize != "none"),
        strict=True,
    ):
        assert torch.equal(one[whole.space.slice_of("head.weight")], other + 0)


def test_a_draw_does_not_depend_on_the_order_of_the_layers():
    class Reversed(MLP):
        def __init__(self):
            super().__init__()
            self.hidden = self._modules.pop("hidden")

    _, inputs, targets = network(MLP)
    one = objective_of()
    other = Objective(Reversed().double(), cut(inputs, targets, 4))
    assert other.space.names[0] == "head.weight"
    for a, b in zip(drawn(one, 2), drawn(other, 2), strict=True):
        for name in one.space.names:
            assert torch.equal(a[one.space.slice_of(name)], b[other.space.slice_of(name)])


@pytest.mark.parametrize("normalize", ["filter", "layer", "element", "model", "none"])
def test_a_direction_does_not_depend_on_how_many_are_asked_for(normalize):
    objective = objective_of()
    few, many = (random_directions(objective, num, normalize) for num in (2, 6))
    assert all(map(torch.equal, few, many[:2]))


@pytest.mark.parametrize("normalize", ["filter", "layer", "element", "model", "none"])
def test_float32_directions_are_the_float64_ones_rounded_once(normalize):
    narrow, wide = objective_of(dtype=torch.float32), objective_of()
    center = narrow.theta.double()
    for one, other in zip(
        random_directions(narrow, 2, normalize),
        random_directions(wide, 2, normalize, center=center),
        strict=True,
    ):
        assert one.dtype == torch.float32
        assert torch.equal(one + 0, other.float())


def test_draws_are_normal():
    (direction,) = drawn(wide_objective())
    n = len(direction)
    z = (direction - direction.mean()) / direction.std()
    assert abs(direction.mean().item()) < 4 / n**0.5
    assert abs(direction.var().item() - 1) < 4 * (2 / n) ** 0.5
    assert abs(z.pow(3).mean().item()) < 4 * (6 / n) ** 0.5
    assert abs(z.pow(4).mean().item() - 3) < 4 * (24 / n) ** 0.5


def test_draws_are_independent_between_tensors_directions_and_seeds():
    objective = wide_objective()
    rows = [
        direction[objective.space.slice_of(name)]
        for seed in (0, 1, 2)
        for direction in drawn(objective, 2, seed=seed)
        for name in objective.space.names
    ]
    correlations = cosines(torch.stack(rows)) - np.eye(12)
    assert np.abs(correlations).max() < 4.5 / 100  # of 66 pairs; the standard error is 1 / 100


def test_norms_are_those_of_the_center():
    objective = objective_of()
    one = random_directions(objective, 1, center=4 * objective.theta)[0]
    assert torch.equal(one, 4 * random_directions(objective, 1)[0])
    wanted = normalized(objective, drawn(objective)[0], "filter", center=4 * objective.theta)
    assert torch.equal(one + 0, wanted)


def test_buffers_are_no_coordinates_and_stay_as_they_are():
    objective = objective_of(ConvNet)
    before = copy.deepcopy(objective.model.state_dict())
    for direction in random_directions(objective, 2, norms="layer"):
        assert direction.shape == (sum(p.numel() for p in objective.model.parameters()),)
        assert not direction.buffers
    after = objective.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["random", "gradient"])
def test_a_direction_is_regenerated_bit_for_bit_from_its_recipe_as_json(kind):
    objective = objective_of(ConvNet)
    center = objective.theta * 1.1
    if kind == "random":
        options = {"seed": 5, "center": center, "biases": "layer", "norms": "element"}
        originals = random_directions(objective, 3, "layer", **options)
        originals += random_directions(objective, 2, "model", orthogonal=False)
    else:
        originals = (
            gradient_direction(objective, center=center),
            gradient_direction(objective, "filter", sign=True, center=center, biases="layer"),
        )
    for original in originals:
        recipe = json.loads(json.dumps(dict(original.recipe)))
        where = None if recipe.get("normalize") == "model" else center
        again = regenerate(objective_of(ConvNet), recipe, where)
        assert torch.equal(again + 0, original + 0)
        assert (again.name, again.recipe) == (original.name, original.recipe)


def test_what_does_not_follow_from_its_recipe_says_to_keep_the_vectors():
    objective = objective_of()
    towards = direction_towards(objective, 2 * objective.theta)
    with pytest.raises(RequestError, match="--vectors"):
        regenerate(objective, towards.recipe)
    with pytest.raises(RequestError, match="lacks 'seed'"):
        regenerate(objective, {"kind": "random", "normalize": "filter", "index": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num is 0"),
        ({"num": 1, "seed": -1}, "seed is -1"),
        ({"num": 1, "normalize": "fitler"}, "Did you mean 'filter'"),
        ({"num": 1, "center": torch.zeros(3)}, r"expected \(43,\)"),
    ],
)
def test_a_wrong_request_says_so(options, message):
    with pytest.raises(RequestError, match=message):
        random_directions(objective_of(), **options)


@pytest.mark.parametrize("options", [{"params": "*.bias"}, {"zero": True}])
def test_a_direction_that_moves_nothing_is_refused(options):
    objective = objective_of(params=options.get("params", "*"))
    center = torch.zeros_like(objective.theta) if "zero" in options else None
    with pytest.raises(RequestError, match="zero everywhere"):
        random_directions(objective, 1, center=center)
    with pytest.raises(RequestError, match="zero everywhere"):
        gradient_direction(objective, "filter", center=center)


# -- the class ----------------------------------------------------------------------------------


def test_operations_on_a_direction_give_plain_tensors():
    direction = random_directions(objective_of(), 1)[0]
    assert isinstance(direction, torch.Tensor)
    plain = torch.zeros(43, dtype=torch.float64)
    results = [
        plain + 2 * direction,
        direction.float(),
        direction[3:],
        direction.to("cpu", torch.float32),
        torch.stack([direction, direction]),
        direction.detach(),
        direction.clone(),
    ]
    assert {type(result) for result in results} == {torch.Tensor}
    assert torch.equal(direction + plain, plain.add(direction))
    assert not direction.requires_grad


def copies():
    return {
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "pickle": lambda direction: pickle.loads(pickle.dumps(direction)),
    }


@pytest.mark.parametrize("way", copies())
def test_a_copy_keeps_what_a_direction_knows(way):
    objective = objective_of(ConvNet)
    buffers = {name: buffer + 1 for name, buffer in objective.buffers.items()}
    direction = direction_towards(objective, 2 * objective.theta, name="twice", buffers=buffers)
    copied = copies()[way](direction)
    assert type(copied) is Direction
    assert torch.equal(copied + 0, direction + 0)
    assert (copied.name, copied.recipe) == ("twice", {"kind": "towards"})
    assert copied.buffers.keys() == {"norm.running_mean", "norm.running_var"}
    for change in copied.buffers.values():
        torch.testing.assert_close(change, torch.ones(2, dtype=torch.float64))


def test_a_pickle_holds_one_direction_not_its_companions():
    objective = wide_objective()
    one, two = (len(pickle.dumps(random_directions(objective, num)[0])) for num in (1, 5))
    assert two < 1.01 * one


def test_a_direction_prints_as_what_it_is():
    direction = random_directions(objective_of(), 2, seed=3)[1]
    assert direction.name == "random, filter-normalised, seed 3, #2"
    assert repr(direction).startswith("Direction('random, filter-normalised, seed 3, #2', n=43, ")
    assert repr(direction) == str(direction) == f"{direction}"


# -- gradient and eigenvectors ------------------------------------------------------------------


def test_the_gradient_direction_is_the_gradient_over_its_norm():
    objective = objective_of()
    center = objective.theta * 1.5
    gradient = objective.gradient(center)
    direction = gradient_direction(objective, center=center)
    torch.testing.assert_close(direction * gradient.norm(), gradient, rtol=1e-14, atol=0)
    slope = (objective.loss(center + 1e-5 * direction) - objective.loss(center)) / 1e-5
    assert slope == pytest.approx(gradient.norm().item(), rel=1e-3)


def test_the_sign_of_the_gradient_has_entries_of_one_size():
    objective = objective_of()
    direction = gradient_direction(objective, sign=True)
    assert torch.equal(direction.sign(), objective.gradient().sign())
    torch.testing.assert_close(direction.abs(), torch.full_like(direction.clone(), 43**-0.5))


def test_a_gradient_by_filters_has_the_filters_norms():
    objective = objective_of()
    direction = gradient_direction(objective, "filter")
    moved, weights, gradient = (
        objective.space.named(v)["head.weight"]
        for v in (direction, objective.theta, objective.gradient())
    )
    torch.testing.assert_close(moved.norm(dim=1), weights.norm(dim=1), rtol=1e-14, atol=0)
    along = (moved * gradient).sum(1) / moved.norm(dim=1) / gradient.norm(dim=1)
    torch.testing.assert_close(along, torch.ones_like(along), rtol=1e-14, atol=0)


def test_a_gradient_of_zero_points_nowhere():
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    inputs = torch.ones(3, 2, dtype=torch.float64)
    objective = Objective(model, (inputs, torch.zeros(3, 1, dtype=torch.float64)), "mse")
    with pytest.raises(RequestError, match="norm 0 at the center"):
        gradient_direction(objective)


def test_eigenvector_directions_are_the_eigenvectors():
    matrix = symmetric_matrix([5, 3, 1, 0.5, 0.2, 0.1])
    pairs = eigsh(MatrixOperator(matrix), 2, seed=0, tol=1e-10)
    directions = eigenvector_directions(pairs, 2)
    for direction, value in zip(directions, (5, 3), strict=True):
        torch.testing.assert_close(matrix @ direction, value * direction, rtol=1e-8, atol=1e-8)
        assert direction.norm().item() == pytest.approx(1)
        assert direction.recipe["eigenvalue"] == pytest.approx(value)
    assert directions[1].name == "eigenvector #2, eigenvalue 3"
    assert json.loads(json.dumps(dict(directions[0].recipe)))["kind"] == "eigenvector"
    for num in (0, 3):
        with pytest.raises(RequestError, match="2 eigenpairs"):
            eigenvector_directions(pairs, num)


# -- towards another checkpoint -----------------------------------------------------------------


def other_net():
    model, _, _ = network(ConvNet, seed=9)
    return model


def test_a_unit_step_arrives_at_the_other_checkpoint_with_its_statistics():
    objective, other = objective_of(ConvNet), other_net()
    theta = objective.space.flatten(dict(other.named_parameters()))
    direction = direction_towards(objective, theta, buffers=dict(other.named_buffers()))
    torch.testing.assert_close(objective.theta + direction, theta, rtol=1e-14, atol=1e-15)
    assert direction.buffers.keys() == {"norm.running_mean", "norm.running_var"}
    for name, change in direction.buffers.items():
        arrived = objective.buffers[name] + change
        torch.testing.assert_close(arrived, other.get_buffer(name), rtol=1e-14, atol=1e-15)


def test_statistics_change_from_those_of_the_objective_whatever_the_model_became():
    objective, other = objective_of(ConvNet), other_net()
    expected = {n: other.get_buffer(n) - b for n, b in objective.buffers.items() if b.ndim}
    objective.model.load_state_dict(other.state_dict())
    theta = objective.space.flatten(dict(other.named_parameters()))
    buffers = dict(objective.model.named_buffers())
    changes = direction_towards(objective, theta, buffers=buffers).buffers
    assert changes.keys() == expected.keys()
    assert all(torch.equal(changes[name], expected[name]) for name in expected)


def test_buffers_that_agree_do_not_change_even_where_they_are_infinite():
    class Masked(MLP):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

    model, inputs, targets = Masked().double(), *network(MLP)[1:]
    objective = Objective(model, cut(inputs, targets, 4))
    direction = direction_towards(objective, objective.theta + 1, buffers={"mask": model.mask})
    assert not direction.buffers


@pytest.mark.parametrize(
    ("other", "buffers", "message"),
    [
        (lambda theta: theta, None, "at the same point"),
        (lambda theta: theta * torch.nan, None, "not finite"),
        (lambda theta: theta[:3], None, r"shape \(3,\)"),
        (lambda theta: theta + 1, {}, "norm.running_mean is missing"),
        (lambda theta: theta + 1, {"norm.running_mean": torch.ones(3)}, r"of shape \(3,\)"),
    ],
)
def test_what_is_no_other_checkpoint_is_refused(other, buffers, message):
    objective = objective_of(ConvNet)
    with pytest.raises(RequestError, match=message):
        direction_towards(objective, other(objective.theta), buffers=buffers)


# -- cosines ------------------------------------------------------------------------------------


def test_cosines_of_known_vectors_with_zero_for_a_vector_of_zeros():
    vectors = torch.tensor([[3.0, 0, 0], [-1, 0, 0], [1, 1, 0], [0, 0, 0]])
    half = 0.5**0.5
    expected = [[1, -1, half, 0], [-1, 1, -half, 0], [half, -half, 1, 0], [0, 0, 0, 0]]
    found = cosines(vectors)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_cosines_are_summed_in_float64_part_by_part(monkeypatch):
    monkeypatch.setattr("landscape.slices.directions._CHUNK", 700)
    vectors = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
    units = nn.functional.normalize(vectors.double())
    np.testing.assert_allclose(cosines(vectors), units @ units.T, rtol=1e-12)


def test_a_recipe_tells_a_center_that_is_not_the_checkpoints():
    objective = objective_of()
    elsewhere = objective.theta * 1.5
    (plain,), (there,) = (
        random_directions(objective, 1, center=center) for center in (None, elsewhere)
    )
    assert "center" not in plain.recipe
    assert plain.recipe == random_directions(objective, 1, center=objective.theta)[0].recipe
    assert torch.equal(regenerate(objective, there.recipe, elsewhere), there)
    for wrong in (None, 2 * objective.theta):
        with pytest.raises(RequestError, match="another center"):
            regenerate(objective, there.recipe, wrong)
    # A recipe of the checkpoint's point follows it to other weights: that is how it is rescaled.
    assert torch.equal(regenerate(objective, plain.recipe, elsewhere), there)
    (uphill,) = (gradient_direction(objective, center=elsewhere),)
    assert torch.equal(regenerate(objective, uphill.recipe, elsewhere), uphill)
    with pytest.raises(RequestError, match="another center"):
        regenerate(objective, uphill.recipe)
