"""Scores of strange examples are ranked, never squeezed; ties count half."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from landscape.errors import RequestError
from landscape.probes.ensembles import probabilities
from landscape.probes.ensembles.diversity import diversity
from landscape.probes.ensembles.ood import OOD_SCORES, ood_scores, separation

# https://github.com/Lightning-AI/torchmetrics/issues/2819
FIRST = (98.0950, 98.4612, 98.1145, 98.1506, 97.6037, 98.9425, 99.2644, 99.5014)
REST = (99.7280, 99.6595, 99.6931, 99.4667, 99.9623, 99.8949, 99.8768)
LARGE = np.array([*FIRST, *REST], dtype=np.float32)


def groups(seed=0, ties=True):
    generator = np.random.default_rng(seed)
    inside, outside = generator.normal(size=60), generator.normal(size=43) + 1
    return (inside.round(1), outside.round(1)) if ties else (inside, outside)


def labelled(inside, outside):
    return np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside])


def test_large_logits_are_told_apart():
    found = separation(LARGE[:1], LARGE[1:])
    assert found.auroc == pytest.approx(13 / 14)
    assert found.auroc == pytest.approx(0.9286, abs=1e-4)


@pytest.mark.parametrize("ties", [True, False])
def test_areas_are_those_of_scikit_learn(ties):
    for seed in range(5):
        inside, outside = groups(seed, ties)
        truth, scores = labelled(inside, outside)
        found = separation(inside, outside)
        assert found.auroc == pytest.approx(roc_auc_score(truth, scores))
        assert found.aupr_out == pytest.approx(average_precision_score(truth, scores))
        assert found.aupr_in == pytest.approx(average_precision_score(1 - truth, -scores))
        rate, recall, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
        assert found.fpr95 == pytest.approx(rate[recall >= 0.95].min())


def test_equal_scores_separate_nothing():
    found = separation([1.0] * 5, [1.0] * 3)
    assert (found.auroc, found.fpr95) == (0.5, 1)
    assert (found.aupr_out, found.aupr_in) == (3 / 8, 5 / 8)


def test_separate_groups_are_told_without_error():
    found = separation([1.0, 2.0, 3.0], [4.0, 5.0])
    assert (found.auroc, found.aupr_out, found.aupr_in, found.fpr95) == (1, 1, 1, 0)
    assert found.auroc_error == 0


def test_ten_examples_are_enough_and_one_has_no_error():
    assert separation(np.arange(5.0), np.arange(5.0) + 2).auroc == pytest.approx(20.5 / 25)
    assert math.isnan(separation([0.0], [1.0, 2.0]).auroc_error)


def test_order_and_rising_functions_do_not_matter():
    inside, outside = groups()
    one = separation(inside, outside)
    generator = np.random.default_rng(0)
    shuffled = separation(generator.permutation(inside), generator.permutation(outside))
    assert astuple(shuffled) == pytest.approx(astuple(one), abs=1e-14)
    assert separation(np.exp(inside), np.exp(outside)) == one


def test_exchanged_groups_have_the_complement():
    inside, outside = groups()
    one, other = separation(inside, outside), separation(-outside, -inside)
    assert other.auroc == pytest.approx(one.auroc)
    assert separation(outside, inside).auroc == pytest.approx(1 - one.auroc)
    assert (other.aupr_in, other.aupr_out) == pytest.approx((one.aupr_out, one.aupr_in))


def test_the_standard_error_is_the_spread_over_samples():
    generator = np.random.default_rng(0)
    found = [
        separation(generator.normal(size=50), generator.normal(size=30) + 1) for _ in range(400)
    ]
    spread = np.std([one.auroc for one in found], ddof=1)
    assert np.mean([one.auroc_error for one in found]) == pytest.approx(spread, rel=0.12)


def test_scores_are_higher_where_the_ensemble_is_less_sure(draw):
    logits, labels = draw(3, 25, 4)
    p, found = softmax(logits, -1), ood_scores(logits)
    assert list(found) == list(OOD_SCORES)
    np.testing.assert_allclose(found["entropy"], entropy(p.mean(0), axis=-1))
    np.testing.assert_allclose(found["energy"], -logsumexp(logits, -1).mean(0))
    np.testing.assert_allclose(found["max_logit"], -logits.max(-1).mean(0))
    expected = diversity(logits, labels).mutual_information
    np.testing.assert_allclose(found["mutual_information"], expected)
    order = np.argsort(found["max_probability"])
    np.testing.assert_array_equal(order, np.argsort(-p.mean(0).max(-1)))


def test_the_largest_probability_orders_what_softmax_rounds_to_one():
    logits = np.zeros((2, 3, 2))
    logits[:, :, 1] = [60, 80, 70]
    assert np.argsort(ood_scores(logits)["max_probability"]).tolist() == [1, 2, 0]


def test_one_logit_has_the_scores_of_two(draw):
    logits, _ = draw(2, 9, 1)
    pair = np.concatenate([np.zeros_like(logits), logits], -1)
    for one, other in zip(ood_scores(logits).values(), ood_scores(pair).values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_blocks_do_not_matter(draw, monkeypatch):
    logits, _ = draw(2, 9, 3)
    whole = ood_scores(logits)
    monkeypatch.setattr(probabilities, "_BLOCK", 1)
    for name, score in ood_scores(logits).items():
        np.testing.assert_allclose(score, whole[name], rtol=1e-12)


def test_missing_scores_are_refused():
    with pytest.raises(RequestError, match="outside has 0 scores"):
        separation([1.0], [])
    with pytest.raises(RequestError, match="inside has 2 scores, 1 of them NaN"):
        separation([1.0, math.nan], [1.0])
