import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from landscape.errors import RequestError
from landscape.trainers.data import digits


@pytest.mark.parametrize("test_fraction", [0.2, 0.5])
def test_the_splits_share_no_digit_and_together_are_all(test_fraction):
    parts = [digits(split, seed=3, test_fraction=test_fraction) for split in ("train", "test")]
    # Images and labels side by side: sorted, they are the same rows only if nothing is lost,
    # repeated, or given another's label.
    ours = np.concatenate(
        [np.column_stack([16 * inputs.flatten(1), targets]) for inputs, targets in parts]
    )
    bunch = load_digits()
    theirs = np.column_stack([bunch.data, bunch.target])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


@pytest.mark.parametrize("test_fraction", [0.1, 0.2, 0.5])
def test_each_class_is_split_by_the_same_fraction(test_fraction):
    targets = digits("test", seed=0, test_fraction=test_fraction)[1]
    expected = np.bincount(load_digits().target) * test_fraction
    assert np.abs(targets.bincount().numpy() - expected).max() <= 1
    assert len(targets) == round(1797 * test_fraction)


def test_inputs_are_float_images_between_zero_and_one():
    inputs, targets = digits()
    assert inputs.shape[1:] == (1, 8, 8)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert (inputs.min().item(), inputs.max().item()) == (0, 1)


def test_the_seed_alone_decides_the_split():
    inputs, targets = digits("test", seed=1)
    np.random.seed(5)  # noqa: NPY002
    again, targets_again = digits("test", seed=1)
    assert torch.equal(inputs, again)
    assert torch.equal(targets, targets_again)
    assert not torch.equal(inputs, digits("test", seed=2)[0])


def test_no_global_generator_moves():
    def states():
        _, key, position, *_ = np.random.get_state()  # noqa: NPY002
        return key.tolist(), position, torch.get_rng_state().tolist()

    before = states()
    digits()
    assert states() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"test_fraction": 0.0}, "test_fraction=0.0"),
        ({"test_fraction": 0.999}, "test_fraction=0.999"),
        ({"test_fraction": float("nan")}, "test_fraction=nan"),
    ],
)
def test_a_split_that_cannot_be_made_says_why(arguments, message):
    with pytest.raises(RequestError, match=message):
        digits(**arguments)
