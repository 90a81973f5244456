import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.data.multi_view import multi_view, single_feature_sets, ticks
from landscape.trainers.data.shapes import SHAPES


def values(inputs, shape="tick"):
    """Signed distance to the boundary of every feature, (n, F)."""
    points = inputs.double().numpy().reshape(-1, 2)
    return SHAPES[shape].value(points).reshape(len(inputs), -1)


def test_the_defaults_are_the_papers():
    inputs, targets = ticks()
    assert inputs.shape == (512, 32)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert len(ticks("test")[1]) == 2000
    assert np.abs(values(inputs)).min() > 0.1 - 1e-6
    assert abs(targets.double().mean() - 0.5) < 4 * 0.5 / np.sqrt(512)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_feature_alone_tells_the_class(shape):
    drawn = multi_view(num_examples=60, num_features=3, shape=shape, seed=1)
    shown = values(drawn.inputs, shape) > 0
    assert (shown == drawn.targets.bool()[:, None].numpy()).all()
    assert drawn.separable.all()


def test_an_exact_share_is_separable_and_the_rest_lies_on_the_boundary():
    shares = [0.0, 0.29, 0.5, 1.0]
    drawn = multi_view(num_examples=100, num_features=4, utility=shares, seed=2)
    assert drawn.separable.sum(0).tolist() == [0, 29, 50, 100]
    value = values(drawn.inputs)
    separable = drawn.separable.numpy()
    assert np.abs(value[~separable]).max() < 1e-6
    assert np.abs(value[separable]).min() > 0.1 - 1e-6
    # Which examples are separable differs between features.
    assert not torch.equal(drawn.separable[:, 1], drawn.separable[:, 2] & drawn.separable[:, 1])


def test_swapped_labels_are_an_exact_share_as_many_of_each_class_and_in_train_only():
    drawn = multi_view(num_examples=200, num_features=3, label_swap=0.1, seed=3)
    targets = drawn.targets.bool().numpy()
    wrong = (values(drawn.inputs) > 0) != targets[:, None]
    assert wrong[targets].sum(0).tolist() == [10, 10, 10]
    assert wrong[~targets].sum(0).tolist() == [10, 10, 10]
    assert not np.array_equal(wrong[:, 0], wrong[:, 1])
    test = multi_view("test", num_features=3, label_swap=0.1, seed=3)
    assert ((values(test.inputs) > 0) == test.targets.bool()[:, None].numpy()).all()


def test_splits_and_seeds_share_nothing():
    sets = [
        ticks(split, seed, num_examples=50)[0]
        for split, seed in (("train", 0), ("validation", 0), ("test", 0), ("train", 1))
    ]
    points = torch.cat(sets).view(-1, 2)
    assert len(points.unique(dim=0)) == len(points)
    assert torch.equal(sets[0], ticks("train", 0, num_examples=50)[0])


def test_only_its_own_feature_is_separable_in_a_single_feature_set():
    inputs, targets = single_feature_sets(4, num_features=3, num_examples=50)
    assert inputs.shape == (3, 50, 6)
    assert targets.shape == (3, 50)
    for k in range(3):
        value = values(inputs[k])
        assert ((value[:, k] > 0) == targets[k].bool().numpy()).all()
        assert np.abs(value[:, k]).min() > 0.1 - 1e-6
        assert np.abs(np.delete(value, k, 1)).max() < 1e-6


def test_single_feature_sets_repeat_and_differ():
    inputs, targets = single_feature_sets(4, num_features=2, num_examples=50)
    again, _ = single_feature_sets(4, num_features=2, num_examples=50)
    assert torch.equal(inputs, again)
    assert not torch.equal(targets[0], targets[1])
    assert not torch.equal(targets[0], single_feature_sets(5, 2, 50)[1][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tran"}, "Did you mean 'train'"),
        ({"seed": -1}, "seed=-1"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"num_features": 0}, "num_features=0"),
        ({"margin": 0.7}, r"margin=0.7 is not in 0 \.\.\. 0.636"),
        ({"margin": float("nan")}, "margin=nan"),
        ({"utility": [0.5]}, "1 shares for 16 features"),
        ({"utility": 1.1}, "utility=1.1"),
        ({"label_swap": 2}, "label_swap=2"),
        ({"shape": "star"}, "unknown shape 'star'"),
    ],
)
def test_what_cannot_be_drawn_says_why(arguments, message):
    with pytest.raises(RequestError, match=message):
        ticks(**arguments)
