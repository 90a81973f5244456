"""Gain curves are means over subsets; a deep ensemble's equal is read off a broken line."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.ensembles.evaluation import evaluate
from landscape.probes.ensembles.gains import (
    Equivalent,
    _sizes,
    _subsets,
    deep_ensemble_equivalent,
    gain_curve,
)
from landscape.probes.ensembles.temperature import calibrated_nll


def test_every_point_is_the_mean_over_all_subsets(draw):
    logits, labels = draw(4, 80, 3)
    found = gain_curve(logits, labels, seed=5)
    assert found.sizes.tolist() == [1, 2, 3, 4]
    assert found.num_subsets.tolist() == [4, 6, 4, 1]
    assert found.exact.all()
    for row, size in enumerate(found.sizes):
        subsets = [evaluate(logits[list(s)], labels) for s in combinations(range(4), size)]
        columns = {
            "accuracy": [one.correct.mean() for one in subsets],
            "nll": [one.nll.mean() for one in subsets],
            "brier": [one.brier.mean() for one in subsets],
            "calibrated_nll": [
                calibrated_nll(one.log_probability, labels, seed=5).value for one in subsets
            ],
        }
        for index, (name, values) in enumerate(columns.items()):
            assert getattr(found, name)[row] == pytest.approx(np.mean(values), rel=1e-9)
            if len(values) > 1:
                spread = np.std(values, ddof=1)
                assert found.spreads[index, row] == pytest.approx(spread, rel=1e-6)
    assert np.isnan(found.spreads[:, -1]).all()


def test_the_mean_loss_never_rises_with_the_size(draw):
    logits, labels = draw(5, 60, 4, spread=2)
    found = gain_curve(logits, labels)
    assert (np.diff(found.nll) < 0).all()
    assert (np.diff(found.brier) < 0).all()


def test_many_subsets_are_sampled_and_the_seed_repeats_them(draw):
    logits, labels = draw(7, 20, 3)
    one, again, other = (gain_curve(logits, labels, num_subsets=4, seed=s) for s in (1, 1, 2))
    assert one.num_subsets.tolist() == [4, 4, 4, 4, 4, 4, 1]
    assert one.exact.tolist() == [False] * 6 + [True]
    np.testing.assert_array_equal(one.nll, again.nll)
    assert (one.nll[1:6] != other.nll[1:6]).any()


def test_an_infinite_loss_has_no_deviation():
    logits = np.array([[[0.0, 1.0]] * 6, [[0.0, 2.0]] * 6])
    found = gain_curve(logits, [1, 1, 1, 1, 1, 0])
    assert np.isinf(found.calibrated_nll).all()
    assert np.isnan(found.spreads[3]).all()
    assert np.isfinite(found.nll).all()


def test_copies_gain_nothing(draw):
    logits, labels = draw(1, 20, 3)
    found = gain_curve(np.repeat(logits, 3, 0), labels)
    np.testing.assert_allclose(found.nll, found.nll[0], rtol=1e-12)


@pytest.mark.parametrize(("count", "size", "wanted"), [(7, 3, 10), (6, 3, 19), (40, 20, 10)])
def test_sampled_subsets_are_different_and_of_their_size(count, size, wanted):
    found = _subsets(count, size, wanted, np.random.default_rng(0))
    assert len(found) == len(set(found)) == wanted
    assert all(len(set(subset)) == size and max(subset) < count for subset in found)


def test_sampled_subsets_hold_each_member_equally_often():
    generator = np.random.default_rng(0)
    for count, size in ((9, 3), (40, 10)):
        drawn = [s for _ in range(200) for s in _subsets(count, size, 5, generator)]
        share = np.bincount(np.concatenate(drawn), minlength=count) / len(drawn)
        sigma = math.sqrt(size / count * (1 - size / count) / len(drawn))
        assert np.abs(share - size / count).max() < 4.5 * sigma


def test_few_members_have_every_size_and_many_about_two_a_doubling():
    assert _sizes(10) == list(range(1, 11))
    assert _sizes(30) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 30]


def test_no_subsets_are_refused(draw):
    with pytest.raises(RequestError, match="num_subsets=0, expected 1 or more"):
        gain_curve(*draw(2, 5, 2), num_subsets=0)


# --- The deep ensemble that is as good ---


def test_between_two_sizes_it_is_interpolated():
    curve = [1, 2, 4], [0.5, 0.4, 0.3]
    assert deep_ensemble_equivalent(0.4, *curve) == Equivalent(2, "equal")
    assert deep_ensemble_equivalent(0.45, *curve).size == pytest.approx(1.5)
    assert deep_ensemble_equivalent(0.35, *curve).size == pytest.approx(3)


def test_beyond_the_ends_it_says_so():
    curve = [1, 2, 4], [0.5, 0.4, 0.3]
    assert deep_ensemble_equivalent(0.2, *curve) == Equivalent(4, "more")
    assert deep_ensemble_equivalent(0.6, *curve) == Equivalent(1, "less")
    assert deep_ensemble_equivalent(0.5, *curve) == Equivalent(1, "equal")
    assert deep_ensemble_equivalent(0.3, *curve) == Equivalent(4, "equal")


def test_it_is_the_smallest_size_where_the_curve_turns_back():
    found = deep_ensemble_equivalent(0.4, [1, 2, 3, 4], [0.5, 0.35, 0.45, 0.3])
    assert found.size == pytest.approx(1 + 2 / 3)


def test_sizes_may_come_in_any_order_and_with_gaps():
    found = deep_ensemble_equivalent(0.35, [50, 1, 3], [0.2, 0.5, 0.4])
    assert found.size == pytest.approx(3 + 47 / 4)


def test_an_ensemble_is_its_own_equal(draw):
    logits, labels = draw(4, 100, 3, spread=2)
    curve = gain_curve(logits, labels)
    for size, value in zip(curve.sizes, curve.calibrated_nll, strict=True):
        found = deep_ensemble_equivalent(value, curve.sizes, curve.calibrated_nll)
        assert found.size == pytest.approx(size)


@pytest.mark.parametrize(
    ("value", "sizes", "values", "reason"),
    [
        (0.1, [1, 2], [0.3], "for 1 values"),
        (0.1, [], [], "for 0 values"),
        (0.1, [1, 1], [0.3, 0.2], "each size once"),
        (math.nan, [1], [0.3], "finite losses"),
        (0.1, [1, 2], [0.3, math.inf], "Leave out"),
    ],
)
def test_other_curves_are_refused(value, sizes, values, reason):
    with pytest.raises(RequestError, match=reason):
        deep_ensemble_equivalent(value, np.asarray(sizes, float), np.asarray(values, float))
