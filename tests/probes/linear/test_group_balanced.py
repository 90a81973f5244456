"""Group-balanced probes: a shortcut of the majority loses its say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.linear.fitting import linear_probe
from landscape.probes.linear.group_balanced import _subsamples, group_balanced_probe
from tests.probes.linear.softmax_problems import labelled


def shortcut(num_examples=400, minority=0.05, seed=0):
    """Two classes; the first feature is a strong shortcut that lies for a minority."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_examples) % 2
    lies = generator.random(num_examples) < minority
    signs = 2 * labels - 1
    background = np.where(lies, -signs, signs)
    features = generator.normal(size=(num_examples, 4))
    features[:, 0] = 3 * background + 0.3 * features[:, 0]
    features[:, 1] += 1.5 * signs
    return features, labels, 2 * labels + (background > 0)


TRAIN, TEST = shortcut(), shortcut(600, 0.5, seed=1)


def test_weights_are_those_of_equal_groups():
    features, labels, groups = TRAIN
    found = group_balanced_probe(features, labels, groups, [1e-2], standardize=False)
    counts = np.bincount(groups)[groups]
    plain = linear_probe(features, labels, [1e-2], sample_weights=1 / counts)
    assert torch.equal(found.weights, plain.weights)
    assert found.groups.tolist() == [0, 1, 2, 3]
    assert len(found.fits) == 1


@pytest.mark.parametrize("balance", ["weights", "subsamples"])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_worst_group_gains_where_a_shortcut_lies(balance, norm):
    features, labels, groups = TRAIN
    plain = linear_probe(features, labels, [1e-2], standardize=True)
    found = group_balanced_probe(
        features, labels, groups, [1e-2], test=TEST, balance=balance, norm=norm, refits=3
    )
    right = (TEST[0] @ plain.weights[0].numpy().T + plain.intercept[0].numpy()).argmax(1) == TEST[1]
    worst = min(right[TEST[2] == group].mean() for group in range(4))
    assert found.worst_accuracy.item() > worst + 0.15


def test_subsamples_have_equal_groups_and_their_weights_are_averaged():
    features, labels, groups = TRAIN
    options = {"balance": "subsamples", "refits": 3}
    found = group_balanced_probe(features, labels, groups, [1e-2, 1.0], **options, seed=1)
    assert len(found.fits) == 3
    mean = sum(probe.weights for probe in found.fits) / 3
    torch.testing.assert_close(found.weights, mean)
    assert not torch.equal(found.fits[0].weights, found.fits[1].weights)
    least = np.bincount(groups).min()
    drawn = _subsamples(torch.from_numpy(groups), int(least), 3, seed=1)
    for rows, probe in zip(drawn, found.fits, strict=True):
        assert np.bincount(groups[rows]).tolist() == [least] * 4
        assert len(rows.unique()) == 4 * least
        alone = linear_probe(features[rows], labels[rows], [1e-2, 1.0], standardize=True)
        assert torch.equal(alone.weights, probe.weights)
    again = group_balanced_probe(features, labels, groups, [1e-2, 1.0], **options, seed=1)
    other = group_balanced_probe(features, labels, groups, [1e-2, 1.0], **options, seed=2)
    assert torch.equal(again.weights, found.weights)
    assert not torch.equal(other.weights, found.weights)


def test_accuracies_of_groups_are_means_over_their_examples():
    features, labels, groups = TRAIN
    found = group_balanced_probe(features, labels, groups, [1e-2], test=TEST)
    scores = TEST[0] @ found.weights[0].numpy().T + found.intercept[0].numpy()
    right = scores.argmax(1) == TEST[1]
    expected = [right[TEST[2] == group].mean() for group in range(4)]
    np.testing.assert_allclose(found.test_accuracy[0], expected)
    assert found.worst_accuracy.item() == min(expected)


def test_worst_group_of_validation_chooses_and_test_does_not():
    features, labels, groups = TRAIN
    grid = [100.0, 1e-2, 10.0]
    found = group_balanced_probe(
        features, labels, groups, grid, validation=shortcut(300, 0.4, seed=2), test=TEST
    )
    worst = found.validation_accuracy.amin(1)
    assert worst[found.chosen] == worst.max()
    wrong = TEST[0], 1 - TEST[1], TEST[2]
    other = group_balanced_probe(
        features, labels, groups, grid, validation=shortcut(300, 0.4, seed=2), test=wrong
    )
    assert other.chosen == found.chosen
    assert group_balanced_probe(features, labels, groups, grid).chosen is None


def test_group_without_test_examples_is_undefined_and_not_the_worst():
    features, labels, groups = TRAIN
    kept = TEST[2] != 1
    test = tuple(part[kept] for part in TEST)
    found = group_balanced_probe(features, labels, groups, [1e-2], test=test)
    assert found.test_accuracy[0, 1].isnan()
    others = found.test_accuracy[0, [0, 2, 3]]
    assert found.worst_accuracy.item() == others.min().item() > 0


def test_what_does_not_fit_says_what_would():
    features, labels = labelled()
    groups = labels
    with pytest.raises(RequestError, match="Did you mean 'weights'"):
        group_balanced_probe(features, labels, groups, [1.0], balance="weight")
    with pytest.raises(RequestError, match="The choices are: l1, l2"):
        group_balanced_probe(features, labels, groups, [1.0], norm="max")
    with pytest.raises(RequestError, match="refits=0"):
        group_balanced_probe(features, labels, groups, [1.0], refits=0)
    with pytest.raises(RequestError, match="60 labels and 3 groups"):
        group_balanced_probe(features, labels, groups[:3], [1.0])
    with pytest.raises(RequestError, match=r"groups \[7, 8, 9\] occur"):
        group_balanced_probe(features, labels, groups, [1.0], test=(features, labels, groups + 7))
    with pytest.raises(RequestError, match="2 parts, expected"):
        group_balanced_probe(features, labels, groups, [1.0], test=(features, labels))
    with pytest.raises(RequestError, match="no test was given"):
        _ = group_balanced_probe(features, labels, groups, [1.0]).worst_accuracy
