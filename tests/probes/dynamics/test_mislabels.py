"""Finding noisy labels: ties are half, intervals cover, threshold samples have no say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from landscape.errors import RequestError
from landscape.probes.dynamics.mislabels import (
    aum_threshold,
    noisy_label_auc,
    threshold_samples,
)


def test_auc_by_hand_with_ties_as_a_half():
    assert noisy_label_auc([1, 2, 3], [0, 0, 1], noisy="high").value == 1
    assert noisy_label_auc([1, 2, 3], [0, 0, 1], noisy="low").value == 0
    assert noisy_label_auc([5, 5, 5], [0, 1, 1], noisy="high").value == 0.5
    assert noisy_label_auc([1, 2, 2], [0, 0, 1], noisy="high").value == 0.75


def test_auc_is_the_share_of_pairs_and_scikit_learns():
    generator = np.random.default_rng(0)
    scores, noisy = generator.integers(6, size=80).astype(float), generator.random(80) < 0.3
    ahead = scores[noisy][:, None] - scores[~noisy]
    share = ((ahead > 0) + 0.5 * (ahead == 0)).mean()
    found = noisy_label_auc(scores, noisy, noisy="high")
    assert found.value == pytest.approx(share, abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(noisy, scores), abs=1e-12)
    other = noisy_label_auc(scores, noisy, noisy="low")
    assert other.value == pytest.approx(1 - share, abs=1e-12)
    assert (other.low, other.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)


def test_scores_that_are_missing_are_counted_and_infinite_ones_are_scores():
    found = noisy_label_auc([np.nan, 1, np.inf, 0], [1, 0, 1, 0], noisy="high")
    assert (found.value, found.num_undefined) == (1, 1)
    assert (found.num_noisy, found.num_clean) == (1, 2)


def test_the_interval_is_not_empty_at_the_ends_and_narrows():
    few = noisy_label_auc([0, 0, 0, 1, 1], [0, 0, 0, 1, 1], noisy="high")
    assert few.high == 1
    assert few.low < 0.8
    many = noisy_label_auc([0] * 300 + [1] * 200, [0] * 300 + [1] * 200, noisy="high")
    assert 0.97 < many.low < 1
    wide = noisy_label_auc([0, 0, 0, 1, 1], [0, 0, 0, 1, 1], noisy="high", confidence=0.99)
    assert wide.low < few.low


def test_the_interval_covers_the_true_area():
    # 400 samples of 20 noisy and 60 clean, one standard deviation apart: area Phi(1 / sqrt 2).
    generator, truth, hits = np.random.default_rng(0), 0.7602499389065233, 0
    noisy = np.arange(80) < 20
    for _ in range(400):
        found = noisy_label_auc(generator.normal(size=80) + noisy, noisy, noisy="high")
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_auc_needs_both_kinds():
    with pytest.raises(RequestError, match="Give both"):
        noisy_label_auc([1, 2], [0, 0], noisy="high")
    with pytest.raises(RequestError, match="0 positives and 1 negatives"):
        noisy_label_auc([1, np.nan], [0, 1], noisy="high")
    with pytest.raises(RequestError, match="unknown side"):
        noisy_label_auc([1, 2], [0, 1], noisy="lower")
    with pytest.raises(RequestError, match="expected one each"):
        noisy_label_auc([1, 2], [0, 1, 1], noisy="low")


def test_the_fake_class_takes_a_classes_share_at_random():
    labels = np.arange(53) % 5
    drawn = threshold_samples(labels, 5, seed=0)
    assert len(drawn.chosen) == 53 // 5
    assert (drawn.labels[drawn.chosen] == 5).all()
    kept = np.setdiff1d(np.arange(53), drawn.chosen)
    np.testing.assert_array_equal(drawn.labels[kept], labels[kept])
    assert labels.max() == 4
    np.testing.assert_array_equal(threshold_samples(labels, 5, seed=0).chosen, drawn.chosen)
    assert threshold_samples(labels, 5, seed=1).chosen.tolist() != drawn.chosen.tolist()
    with pytest.raises(RequestError, match="more examples than classes"):
        threshold_samples([0, 1], 3, seed=0)


def test_examples_below_the_percentile_are_flagged_but_no_threshold_samples():
    areas = np.array([0.0, 1, 2, 3, 4, -1, 2.5])
    found = aum_threshold(areas, [1, 3], percentile=50)
    assert found.value == 2
    assert found.flagged.tolist() == [True, False, True, False, False, True, False]
    assert found.is_threshold.tolist() == [False, True, False, True, False, False, False]
    assert found.num_threshold == 2
    expected = np.percentile(areas[:5], 99)
    assert aum_threshold(areas, range(5)).value == pytest.approx(expected)


def test_without_an_area_nothing_is_flagged_nor_a_threshold():
    assert not aum_threshold([np.nan, 1.0], [1]).flagged.any()
    with pytest.raises(RequestError, match="has no area"):
        aum_threshold([np.nan, 1.0], [0])
    with pytest.raises(RequestError, match="one index at the least"):
        aum_threshold([1.0], np.zeros(0, dtype=int))
    with pytest.raises(RequestError, match="all in range"):
        aum_threshold([1.0], [1])
