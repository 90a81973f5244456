"""Scores: their laws, by hand, and what happens to numbers that are missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from landscape.errors import RequestError
from landscape.probes.dynamics.histories import history
from landscape.probes.dynamics.scores import (
    aum,
    cumulative_loss,
    data_map,
    el2n,
    learnability_curve,
    margins,
)

T, N, C = 6, 9, 4


def drawn(seed=0):
    generator = np.random.default_rng(seed)
    return 2 * generator.normal(size=(T, N, C)), generator.integers(C, size=N)


def test_aum_by_hand():
    logits = [[[3.0, 1, 0]], [[0.0, 4, 1]]]
    assert aum(history(logits, [0]).margin, space="logit") == (2 - 4) / 2


def test_aum_does_not_see_a_shift_of_all_logits_and_scales_with_them():
    logits, labels = drawn()
    plain = aum(history(logits, labels).margin, space="logit")
    shift = np.arange(T * N).reshape(T, N, 1)
    np.testing.assert_allclose(aum(history(logits + shift, labels).margin, space="logit"), plain)
    np.testing.assert_allclose(aum(history(7 * logits, labels).margin, space="logit"), 7 * plain)


def test_aum_of_probabilities_is_another_score_within_1():
    logits, labels = drawn()
    found = history(100 * logits, labels)
    areas = aum(found.probability_margin, space="probability")
    assert (np.abs(areas) <= 1).all()
    assert (np.abs(aum(found.margin, space="logit")) > 1).any()


def test_a_margin_of_logits_is_not_taken_for_one_of_probabilities():
    logits, labels = drawn()
    with pytest.raises(RequestError, match=r"in \[-1, 1\]"):
        aum(history(100 * logits, labels).margin, space="probability")
    with pytest.raises(RequestError, match="unknown space 'logits'"):
        aum([[0.0]], space="logits")


def test_margins_in_both_spaces_are_the_histories():
    logits, labels = drawn()
    found = history(logits, labels)
    np.testing.assert_array_equal(margins(logits[0], labels, space="logit"), found.margin[0])
    wanted = found.probability_margin[0]
    np.testing.assert_array_equal(margins(logits[0], labels, space="probability"), wanted)


def test_margins_are_of_each_example_and_not_of_the_last():
    logits = torch.tensor([[2.0, 0], [0, 3], [5, 0]])
    assert margins(logits, [0, 0, 0], space="logit").tolist() == [2, -3, 5]
    assert margins(logits[:1], [0], space="logit").tolist() == [2]


def test_el2n_is_the_mean_of_norms_over_runs():
    logits, labels = drawn()
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    norms = np.linalg.norm(p - np.eye(C)[labels], axis=-1)
    np.testing.assert_allclose(el2n(logits, labels), norms.mean(0))
    assert (np.abs(el2n(logits, labels) - np.sqrt((norms**2).mean(0))) > 1e-3).any()
    assert el2n(np.zeros((1, 1, C)), [0]) == pytest.approx(np.sqrt(1 - 1 / C))


def test_the_data_map_keeps_its_law():
    logits, labels = drawn()
    probabilities = history(logits, labels).probability
    found = data_map(probabilities)
    np.testing.assert_allclose(
        found.variability**2 + found.aleatoric, found.confidence * (1 - found.confidence)
    )
    np.testing.assert_allclose(found.confidence, probabilities.mean(0))
    np.testing.assert_allclose(found.variability, probabilities.std(0))  # ddof 0


def test_a_data_map_is_of_probabilities():
    with pytest.raises(RequestError, match=r"in \[0, 1\]"):
        data_map([[-2.0]])


def test_the_cumulative_loss_is_a_sum():
    logits, labels = drawn()
    losses = history(logits, labels).loss
    np.testing.assert_allclose(cumulative_loss(losses), losses.sum(0))


def test_what_was_not_presented_is_left_out_and_what_is_no_number_is_not():
    values = np.array([[1.0, np.nan, np.nan], [0.5, 0.25, np.nan]])
    presented = np.array([[1, 0, 0], [1, 1, 0]])
    expected = [0.75, 0.25, np.nan]
    np.testing.assert_array_equal(aum(values, space="logit", presented=presented), expected)
    found = data_map(values, presented=presented)
    np.testing.assert_array_equal(found.confidence, expected)
    np.testing.assert_array_equal(found.variability, [0.25, 0, np.nan])
    total = cumulative_loss(values, presented=presented)
    np.testing.assert_array_equal(total, [1.5, 0.25, np.nan])
    assert np.isnan(aum(values, space="logit")).tolist() == [False, True, True]
    with pytest.raises(RequestError, match="presented has shape"):
        aum(values, space="logit", presented=presented[:1])


def test_scores_go_with_their_examples():
    logits, labels = drawn()
    order = np.random.default_rng(1).permutation(N)
    moved, still = history(logits[:, order], labels[order]), history(logits, labels)
    np.testing.assert_array_equal(
        aum(moved.margin, space="logit"), aum(still.margin, space="logit")[order]
    )
    np.testing.assert_array_equal(
        el2n(logits[:, order], labels[order]), el2n(logits, labels)[order]
    )


def test_r_t_is_the_share_of_copies_and_augmentations():
    correct = np.random.default_rng(0).integers(2, size=(T, 3, N, 2))
    np.testing.assert_allclose(learnability_curve(correct), correct.mean((1, 3)))
    np.testing.assert_allclose(learnability_curve(correct[..., 0]), correct[..., 0].mean(1))
    dims = ("time", "member", "object", "augmentation")
    dataset = xr.Dataset({"correct": (dims, correct.astype(np.int8))})
    np.testing.assert_allclose(learnability_curve(dataset), correct.mean((1, 3)))
    turned = dataset.transpose("augmentation", "object", "time", "member")
    np.testing.assert_allclose(learnability_curve(turned), correct.mean((1, 3)))


def test_r_t_leaves_out_who_was_not_there():
    correct = [[[1, -1, -1], [0, 1, -1]]]
    np.testing.assert_array_equal(learnability_curve(correct), [[0.5, 1, np.nan]])
    with pytest.raises(RequestError, match=r"give correct\[:, None\]"):
        learnability_curve([[1, 0]])
