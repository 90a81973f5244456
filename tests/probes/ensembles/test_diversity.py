"""Diversity: identities of what an ensemble gains, copies that differ in nothing, one member."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef
from sklearn.metrics.pairwise import cosine_similarity

from landscape.errors import RequestError
from landscape.probes.ensembles.diversity import (
    disagreement,
    diversity,
    error_correlation,
    error_kappa,
)
from landscape.probes.ensembles.evaluation import evaluate
from landscape.trainers.averaging import diversity as of_trainers


def test_the_loss_of_the_ensemble_is_at_most_the_mean(draw):
    logits, labels = draw(5, 200, 4)
    held = evaluate(logits, labels)
    gain = diversity(logits, labels).nll_gain
    np.testing.assert_allclose(held.nll + gain, held.member_nll.mean(0))
    assert gain.min() > -1e-14
    assert gain.mean() > 0.05


def test_the_brier_score_gains_the_spread_of_the_members_exactly(draw):
    logits, labels = draw(5, 50, 4)
    held = evaluate(logits, labels)
    gain = diversity(logits, labels).brier_gain
    np.testing.assert_allclose(held.member_brier.mean(0) - held.brier, gain, atol=1e-15)


def test_mutual_information_is_entropy_of_the_mean_less_mean_entropy(draw):
    logits, labels = draw(5, 50, 4)
    p = softmax(logits, -1)
    expected = entropy(p.mean(0), axis=-1) - entropy(p, axis=-1).mean(0)
    found = diversity(logits, labels).mutual_information
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert found.min() >= 0
    assert found.max() <= math.log(5)


def test_members_that_exclude_each_other_share_log_k():
    logits = 800 * np.eye(3)[:, None, :]
    found = diversity(logits, [0])
    assert found.mutual_information == pytest.approx(math.log(3))
    assert found.disagreement.tolist() == [1]


def test_copies_differ_in_nothing(draw):
    logits, labels = draw(1, 60, 4)
    for copies in (2, 3, 7):
        found = diversity(np.repeat(logits, copies, 0), labels)
        held = evaluate(np.repeat(logits, copies, 0), labels)
        assert not found.mutual_information.any()
        assert not found.disagreement.any()
        assert not found.brier_gain.any()
        np.testing.assert_array_equal(held.nll, held.member_nll[0])
        assert found.normalized_disagreement == 0
        assert found.kappa == pytest.approx(1)
        assert found.error_correlation == pytest.approx(1)
        assert found.residual_cosine == pytest.approx(1)


def test_one_member_is_defined(draw):
    logits, labels = draw(1, 60, 4)
    found = diversity(logits, labels)
    assert not found.disagreement.any()
    assert not found.mutual_information.any()
    assert not found.nll_gain.any()
    assert found.normalized_disagreement == 0
    assert math.isnan(found.kappa)
    assert math.isnan(found.error_correlation)
    assert math.isnan(found.residual_cosine)


def test_disagreement_is_the_share_of_unlike_pairs_and_follows_from_counts():
    predictions = np.random.default_rng(0).integers(0, 4, (6, 30))
    pairs = [(predictions[i] != predictions[j]) for i, j in combinations(range(6), 2)]
    found = disagreement(predictions)
    np.testing.assert_allclose(found, np.mean(pairs, 0))
    counts = (predictions[:, :, None] == np.arange(4)).sum(0)
    np.testing.assert_allclose(found, 1 - (counts * (counts - 1)).sum(1) / 30)


def test_divided_by_the_error_it_is_that_of_the_trainers(draw):
    import torch

    logits, labels = draw(4, 80, 3)
    theirs = of_trainers(torch.from_numpy(logits.argmax(-1)), torch.from_numpy(labels))
    assert diversity(logits, labels).normalized_disagreement == pytest.approx(theirs)


def test_without_errors_the_normalised_disagreement_is_undefined():
    found = diversity([[[2.0, 0.0], [0.0, 3.0]]] * 2, [0, 1])
    assert math.isnan(found.normalized_disagreement)
    assert math.isnan(found.kappa)


def test_kappa_and_correlation_are_those_of_scikit_learn():
    correct = np.random.default_rng(0).random((4, 70)) < [[0.5], [0.6], [0.7], [0.8]]
    pairs = list(combinations(correct, 2))
    kappa = np.mean([cohen_kappa_score(*pair) for pair in pairs])
    assert error_kappa(correct) == pytest.approx(kappa)
    correlation = np.mean([matthews_corrcoef(*pair) for pair in pairs])
    assert error_correlation(correct) == pytest.approx(correlation)


def test_opposite_errors_are_correlated_by_minus_one():
    assert error_correlation([[1, 0, 1, 0], [0, 1, 0, 1]]) == pytest.approx(-1)
    assert error_kappa([[1, 0, 1, 0], [0, 1, 0, 1]]) == pytest.approx(-1)


def test_pairs_without_the_number_are_left_out():
    mixed = [[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert error_correlation(mixed) == pytest.approx(error_correlation(mixed[:2]))


def test_the_cosine_is_between_residuals_of_all_examples(draw):
    logits, labels = draw(3, 20, 4)
    residuals = (softmax(logits, -1) - np.eye(4)[labels]).reshape(3, -1)
    expected = cosine_similarity(residuals)[np.triu_indices(3, 1)].mean()
    assert diversity(logits, labels).residual_cosine == pytest.approx(expected)


def test_the_order_of_members_does_not_matter(draw):
    logits, labels = draw(4, 30, 3)
    one, other = diversity(logits, labels), diversity(logits[::-1], labels)
    np.testing.assert_allclose(one.disagreement, other.disagreement)
    np.testing.assert_allclose(one.mutual_information, other.mutual_information)
    assert one.residual_cosine == pytest.approx(other.residual_cosine)


def test_other_shapes_are_refused():
    with pytest.raises(RequestError, match=r"predictions has shape \(3,\), expected \(K, N\)"):
        disagreement([0, 1, 2])
    with pytest.raises(RequestError, match="with a member and an example"):
        error_kappa(np.zeros((2, 0)))
