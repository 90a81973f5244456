import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.data.prototypes import prototype_examples, prototypes


def test_without_noise_an_example_is_its_prototype_times_its_strength():
    drawn = prototype_examples(num_examples=50, noise=0.0)
    expected = drawn.strength[:, None] * drawn.prototypes[drawn.targets]
    torch.testing.assert_close(drawn.inputs, expected)


def test_what_is_not_prototype_is_noise_of_the_given_width():
    drawn = prototype_examples("test", noise=0.5)
    rest = drawn.inputs - drawn.strength[:, None] * drawn.prototypes[drawn.targets]
    count = rest.numel()
    assert abs(rest.double().mean()) < 4 * 0.5 / count**0.5
    assert abs(rest.double().std() - 0.5) < 4 * 0.5 / (2 * count) ** 0.5


def test_strengths_are_uniform_from_zero():
    strength = prototype_examples("test", max_strength=3.0).strength.double().sort().values / 3
    steps = (torch.arange(2000) + 0.5) / 2000
    assert (strength - steps).abs().max() < 1.95 / 2000**0.5  # Kolmogorov-Smirnov, p = 0.001


def test_splits_share_the_prototypes_and_nothing_else():
    train, test = prototype_examples(num_examples=50), prototype_examples("test", num_examples=50)
    assert torch.equal(train.prototypes, test.prototypes)
    assert not torch.equal(train.strength, test.strength)
    assert not torch.equal(train.prototypes, prototype_examples(seed=1).prototypes)


def test_classes_are_as_even_as_can_be_and_in_random_order():
    inputs, targets = prototypes(num_examples=25)
    assert inputs.shape == (25, 64)
    assert sorted(targets.bincount().tolist()) == [2] * 5 + [3] * 5
    assert targets.tolist() != sorted(targets.tolist())
    assert torch.equal(targets, prototypes(num_examples=25)[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tests"}, "Did you mean 'test'"),
        ({"seed": -1}, "seed=-1"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"noise": float("inf")}, "noise=inf"),
        ({"max_strength": -1.0}, "max_strength=-1.0"),
    ],
)
def test_what_cannot_be_drawn_says_why(arguments, message):
    with pytest.raises(RequestError, match=message):
        prototypes(**arguments)
