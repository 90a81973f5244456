"""Data and networks by name: splits that belong together, networks that fit, seeds that repeat."""

from __future__ import annotations

import pytest
import torch

from landscape.errors import RequestError
from landscape.factory import Factory
from landscape.trainers.data.catalogue import describe
from landscape.trainers.problems import (
    MODELS,
    factory_for,
    networks,
    problem,
    problem_of,
    side_by_side,
)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_network_takes_the_examples_that_it_is_for(model):
    data = {"tick-mlp": "ticks", "transformer": "text"}.get(model, "digits")
    given = problem(data, model, num_examples=20)
    outputs = given.model()(given.train.inputs[:2])
    width = 1 if given.loss == "bce" else given.info.num_classes
    assert outputs.shape[-1] == width


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("mpl", "digits", "'mlp'"),
        ("tick-mlp", "digits", "ticks"),
        ("cnn", "ticks", "images"),
        ("transformer", "digits", "text"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(model, data, said):
    with pytest.raises(RequestError, match=said):
        factory_for(model, describe(data), {})


def test_arguments_go_before_the_defaults():
    assert factory_for("mlp", describe("digits"), {"hidden": [3]}).arguments["hidden"] == [3]


def test_fewer_training_examples_are_tested_on_all():
    whole, part = problem("digits", "mlp"), problem("digits", "mlp", num_examples=100)
    assert len(part.train) == 100
    assert len(part.evaluations["train"]) == 100
    assert torch.equal(part.evaluations["test"].inputs, whole.evaluations["test"].inputs)


def test_a_validation_split_is_taken_from_the_training_examples():
    whole, split = problem("digits", "mlp"), problem("digits", "mlp", validation=0.25)
    assert set(split.evaluations) == {"train", "validation", "test"}
    assert len(split.train) + len(split.evaluations["validation"]) == len(whole.train)


def test_one_hot_targets_are_for_the_squared_loss():
    given = problem("digits", "mlp", num_examples=30, one_hot=True)
    assert given.loss == "mse"
    assert given.train.targets.sum(1).tolist() == [1.0] * 30


def test_a_problem_is_the_one_that_its_checkpoint_names():
    given = problem("digits", "mlp", seed=3, num_examples=50)
    again = problem_of(given.data, given.model)
    assert torch.equal(given.train.inputs, again.train.inputs)
    with pytest.raises(RequestError, match="no splits"):
        problem_of(Factory("pkg.mod:load"), given.model)


def test_equal_seeds_make_equal_networks_and_others_do_not():
    model = factory_for("mlp", describe("digits"), {})
    state = torch.get_rng_state()
    stack = networks(model, [5, 6, 5])
    assert torch.equal(stack.theta[0], stack.theta[2])
    assert not torch.equal(stack.theta[0], stack.theta[1])
    assert torch.equal(stack.theta, networks(model, [5, 6, 5]).theta)
    assert torch.equal(torch.get_rng_state(), state)


def test_side_by_side_gives_each_member_its_own_examples():
    problems = [problem("ticks", "tick-mlp", seed=seed, num_examples=32) for seed in (0, 1)]
    joined = side_by_side(problems, [1, 0, 1])
    inputs, targets = joined.train.gather(torch.arange(4).expand(3, 4))
    for member, which in enumerate([1, 0, 1]):
        assert torch.equal(inputs[member], problems[which].train.inputs[:4])
        assert torch.equal(targets[member], problems[which].train.targets[:4])
    assert joined.evaluations["test"].inputs.shape[0] == 2
