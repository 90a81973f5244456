"""Probabilities stay in logarithms: large logits keep finite losses, and shapes mean one thing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from landscape.errors import RequestError
from landscape.probes.ensembles import probabilities
from landscape.probes.ensembles.probabilities import (
    Members,
    ensemble_log_probabilities,
    log_odds,
    log_probabilities,
)


def test_they_are_the_logarithm_of_softmax(draw):
    logits, _ = draw(3, 7, 4)
    np.testing.assert_allclose(log_probabilities(logits), log_softmax(logits, -1), rtol=1e-13)


def test_large_logits_keep_what_softmax_rounds_to_nothing():
    found = log_probabilities([[[0.0, 2000.0], [1e6, -1e6]]])
    np.testing.assert_allclose(found, [[[-2000, 0], [0, -2e6]]])


def test_the_ensemble_is_the_mean_of_probabilities(draw):
    log_p = log_softmax(draw(3, 7, 4)[0], -1)
    expected = logsumexp(log_p, 0) - math.log(3)
    np.testing.assert_allclose(ensemble_log_probabilities(log_p), expected, rtol=1e-13)


def test_copies_have_the_probabilities_of_one_exactly(draw):
    log_p = log_softmax(draw(1, 7, 4)[0], -1)
    for copies in (2, 3, 7):
        together = ensemble_log_probabilities(np.repeat(log_p, copies, 0))
        np.testing.assert_array_equal(together, log_p[0])


def test_what_one_member_excludes_the_ensemble_does_not():
    log_p = np.array([[[-math.inf, 0.0]], [[0.0, -math.inf]], [[0.0, -math.inf]]])
    np.testing.assert_allclose(np.exp(ensemble_log_probabilities(log_p)), [[2 / 3, 1 / 3]])
    assert ensemble_log_probabilities(log_p[:1])[0, 0] == -math.inf


@pytest.mark.parametrize("shape", [(3, 5, 1), (3, 5)])
def test_one_logit_has_two_classes(shape):
    logits = np.linspace(-50, 50, 15).reshape(shape)
    found = log_probabilities(logits)
    assert found.shape == (3, 5, 2)
    flat = logits.reshape(3, 5)
    np.testing.assert_allclose(found[..., 1], -np.logaddexp(0, -flat), atol=1e-15)
    np.testing.assert_allclose(found[..., 0], -np.logaddexp(0, flat), atol=1e-15)


def test_two_axes_are_one_network_or_members_with_one_logit_by_the_number_of_labels():
    logits = np.arange(6.0).reshape(2, 3)
    assert Members.of(logits, 2).logits.shape == (1, 2, 3)
    assert Members.of(logits, 3).logits.shape == (2, 3, 1)
    with pytest.raises(RequestError, match="may be members with one logit"):
        Members.of(np.zeros((3, 3)), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensors_of_any_precision_and_lists_of_members_are_taken(dtype):
    tensor = torch.tensor([[[0.5, 1.0], [2.0, 0.0]], [[1.0, 1.0], [0.0, 4.0]]], dtype=dtype)
    expected = log_softmax(tensor.double().numpy(), -1)
    for given in (tensor.requires_grad_(), list(tensor.detach()), tensor.tolist()):
        np.testing.assert_allclose(log_probabilities(given), expected, rtol=1e-13)


def test_a_read_only_array_is_taken():
    logits = np.zeros((2, 3, 4))
    logits.flags.writeable = False
    assert log_probabilities(logits).shape == (2, 3, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_member_that_is_not_finite_is_named(bad):
    logits = np.zeros((3, 5, 2))
    logits[1, [2, 4], 0] = bad
    with pytest.raises(RequestError, match="member 1 has logits that are not finite at 2 of 5"):
        log_probabilities(logits)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\), expected \(K, N, C\)"),
        (np.zeros((0, 3, 4)), r"shape \(0, 3, 4\)"),
        ([np.zeros((3, 2)), np.zeros((4, 2))], "member 1 has logits of shape"),
        (np.array([["a"]]), "expected numbers"),
    ],
)
def test_other_shapes_are_refused(given, reason):
    with pytest.raises(RequestError, match=reason):
        log_probabilities(given)


def test_probabilities_are_not_taken_for_their_logarithms():
    with pytest.raises(RequestError, match=r"Use log_probabilities\(logits\)"):
        ensemble_log_probabilities([[[0.4, 0.6]]])


def test_another_number_of_labels_is_refused():
    for given in (np.zeros((2, 3, 4)), Members.of(np.zeros((2, 3, 4)))):
        with pytest.raises(RequestError, match="logits has 3 examples and there are 4 labels"):
            Members.of(given, 4)


def test_log_odds_order_examples_whose_probabilities_round_to_one():
    log_p = log_probabilities([[[0.0, 60.0, 0.0], [0.0, 70.0, 0.0]]])[0]
    assert np.exp(log_p[:, 1]).tolist() == [1, 1]
    np.testing.assert_allclose(log_odds(log_p), [60 - math.log(2), 70 - math.log(2)])


def test_log_odds_are_those_of_the_largest_probability(draw):
    log_p = log_probabilities(draw(1, 20, 3)[0])[0]
    p = np.exp(log_p).max(1)
    np.testing.assert_allclose(log_odds(log_p), np.log(p / (1 - p)), rtol=1e-10)


def test_subsets_are_ensembles_of_their_own(draw, monkeypatch):
    logits, _ = draw(4, 9, 3)
    subsets = [(0,), (1, 3), (0, 2, 3), (0, 1, 2, 3), (2,)]
    expected = [ensemble_log_probabilities(log_softmax(logits, -1)[list(s)]) for s in subsets]
    for block in (2**22, 40, 1):  # also example by example, subset by subset
        monkeypatch.setattr(probabilities, "_BLOCK", block)
        found = [one.numpy() for one in Members.of(logits).ensembles(subsets)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_subset_keeps_what_the_others_outweigh_beyond_rounding():
    logits = [[[0.0, 0.0]], [[0.0, 2000.0]], [[0.0, 3000.0]]]
    found = [one.numpy() for one in Members.of(logits).ensembles([(1, 2), (2,)])]
    np.testing.assert_allclose(found, [[[-2000 - math.log(2), 0]], [[-3000, 0]]])


def test_blocks_are_the_examples_in_order(draw, monkeypatch):
    logits, _ = draw(2, 7, 3)
    monkeypatch.setattr(probabilities, "_BLOCK", 20)
    parts = [block for _, block in Members.of(logits).blocks()]
    assert len(parts) > 3
    np.testing.assert_array_equal(torch.cat(parts, 1).numpy(), logits)
