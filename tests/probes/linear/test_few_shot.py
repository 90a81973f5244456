"""Few-shot probes: k of each class, drawn anew, the larger draw around the smaller."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.linear.few_shot import few_shot_probe
from landscape.probes.linear.fitting import linear_probe
from tests.probes.linear.softmax_problems import labelled

FEATURES, LABELS = labelled(90, separation=1.5)
TEST = FEATURES[60:], LABELS[60:]


def few(shots, penalties=(1e-2,), **options):
    return few_shot_probe(
        FEATURES[:60], LABELS[:60], shots, penalties, **{"test": TEST, "seed": 0} | options
    )


def test_all_examples_of_each_class_are_the_whole():
    found = few([20], repeats=3)
    whole = linear_probe(FEATURES[:60], LABELS[:60], [1e-2], test=TEST)
    np.testing.assert_allclose(found.accuracy, whole.test_accuracy.item())
    assert found.mean.low == found.mean.value


def test_more_shots_are_right_more_often():
    found = few([1, 20], repeats=8)
    assert found.accuracy.shape == (2, 8)
    assert found.mean.value[1] > found.mean.value[0] + 0.1
    assert found.accuracy[0].std() > 0
    np.testing.assert_allclose(found.mean.value, found.accuracy.mean(1))
    low, high = stats.t.interval(
        0.95, 7, found.mean.value[0], found.accuracy[0].std(ddof=1) / np.sqrt(8)
    )
    assert (found.mean.low[0], found.mean.high[0]) == pytest.approx((low, high))


def test_seed_repeats_and_draws_do_not_depend_on_the_other_shots():
    first, again, other = few([3], repeats=4), few([3], repeats=4), few([3], repeats=4, seed=1)
    assert (first.accuracy == again.accuracy).all()
    assert (first.accuracy != other.accuracy).any()
    assert (few([1, 3, 5], repeats=4).accuracy[1] == first.accuracy[0]).all()


def test_one_draw_has_no_interval():
    found = few([2], repeats=1)
    assert np.isnan([found.mean.low, found.mean.high]).all()


def test_validation_chooses_the_penalty_of_each_draw():
    grid = [1e2, 1e-2]
    found = few([10], grid, repeats=3, validation=(FEATURES[:30], LABELS[:30]))
    assert set(found.penalty.flatten()) <= set(grid)
    with pytest.raises(RequestError, match="no validation to choose by"):
        few([10], grid)


def test_test_examples_choose_nothing():
    options = {"repeats": 3, "validation": (FEATURES[:30], LABELS[:30])}
    found = few([10], [1e2, 1e-2, 1e-4], **options)
    wrong = few([10], [1e2, 1e-2, 1e-4], **options, test=(TEST[0], (TEST[1] + 1) % 3))
    assert (found.penalty == wrong.penalty).all()
    assert (found.accuracy != wrong.accuracy).any()


@pytest.mark.parametrize(
    "options", [{"shots": [21]}, {"shots": [0]}, {"shots": []}, {"shots": [1], "repeats": 0}]
)
def test_shots_that_cannot_be_drawn_name_the_smallest_class(options):
    with pytest.raises(RequestError, match="expected numbers from 1 to 20"):
        few(**options)
