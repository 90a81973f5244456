"""All scores from sums kept on the way are those of the whole history."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from landscape.probes.dynamics.example_scores import Accumulators, ExampleScores, example_scores
from landscape.probes.dynamics.histories import history
from landscape.probes.dynamics.measurements import MEASUREMENTS

T, N, C = 25, 40, 3
NAMES = [field.name for field in fields(ExampleScores)]


def drawn(missing=0.0, undefined=0.0, scale=2.0):
    generator = np.random.default_rng(0)
    logits = scale * generator.normal(size=(T, N, C))
    labels = generator.integers(C, size=N)
    logits[np.arange(T)[:, None], np.arange(N), labels] += np.linspace(-1, 3, T)[:, None]
    logits[generator.random((T, N)) < undefined, 0] = np.nan
    found = history(logits, labels)
    gone = generator.random((T, N)) < missing
    if missing:
        gone[:, 0] = True  # never presented at all
    for name in MEASUREMENTS:
        getattr(found, name)[gone] = -1 if name in ("correct", "prediction") else np.nan
    return found


def online(found):
    sums = Accumulators(found.correct.shape[1:])
    for time in range(len(found.times)):
        sums.enter({name: getattr(found, name)[time] for name in MEASUREMENTS})
    return sums.scores()


@pytest.mark.parametrize("options", [{}, {"missing": 0.3}, {"missing": 0.2, "undefined": 0.05}])
@pytest.mark.parametrize("name", NAMES)
def test_online_equals_offline(name, options):
    found = drawn(**options)
    one, other = getattr(online(found), name), getattr(example_scores(found), name)
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    assert np.asarray(one).dtype.kind == np.asarray(other).dtype.kind


def test_a_small_variability_keeps_its_digits_online():
    logits = np.zeros((1000, 1, 2))
    logits[:, 0, 0] = 3 + 1e-7 * (np.arange(1000) % 2)
    found = history(logits, [0])
    exact = found.probability.std(0)
    assert online(found).variability == pytest.approx(exact, rel=1e-6)


def test_never_learned_is_told_from_never_forgotten():
    logits = np.zeros((4, 3, 2))
    for example, word in enumerate(["0000", "1111", "1010"]):
        logits[:, example, 0] = [2.0 * int(letter) - 1 for letter in word]
    scores = example_scores(history(logits, [0, 0, 0]))
    np.testing.assert_array_equal(scores.forgetting, [np.nan, 0, 2])
    assert scores.ever_learned.tolist() == [False, True, True]
    assert scores.learned.tolist() == [False, True, False]
    assert scores.correctness.tolist() == [0, 4, 2]


def test_curves_are_means_over_what_was_presented_at_a_time():
    found = drawn(missing=0.3)
    there = found.presented
    scores = example_scores(found)
    for time in range(T):
        assert scores.accuracy[time] == pytest.approx((found.correct[time][there[time]]).mean())
        assert scores.mean_loss[time] == pytest.approx(found.loss[time][there[time]].mean())


def test_answers_that_are_no_numbers_are_wrong_counted_and_spread_to_the_means():
    found = drawn(undefined=0.02)
    scores = example_scores(found)
    bad = np.isnan(found.margin)
    assert bad.any()
    np.testing.assert_array_equal(scores.num_undefined, bad.sum(0))
    np.testing.assert_array_equal(np.isnan(scores.aum), bad.any(0))
    assert not found.correct[bad].any()
    assert (scores.correctness == (found.correct == 1).sum(0)).all()


def test_a_state_goes_on_as_if_it_had_not_stopped():
    found = drawn(missing=0.2)
    first, rows = Accumulators((N,)), []
    for time in range(T):
        rows.append({name: getattr(found, name)[time] for name in MEASUREMENTS})
    for part in rows[:10]:
        first.enter(part)
    second = Accumulators((N,))
    second.restore(first.state())
    for part in rows[10:]:
        second.enter(part)
    whole, again = online(found), Accumulators((N,))
    for part in rows[:10]:
        again.enter(part)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(second.scores(), name), getattr(whole, name))
        # The one that the state is of was left where it was.
        np.testing.assert_array_equal(getattr(first.scores(), name), getattr(again.scores(), name))
