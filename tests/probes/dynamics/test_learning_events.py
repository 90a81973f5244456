"""Learning events by hand, by a loop over all short sequences, and with presentations missing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.dynamics.learning_events import (
    first_learned,
    forgetting_events,
    iteration_learned,
    presentations_needed,
)

HAND = ["0011", "1010", "0000", "1111"]


def outcomes(*sequences):
    """(T, n) from a string an example; "-" was not presented."""
    table = {"0": 0, "1": 1, "-": -1}
    return np.array([[table[letter] for letter in sequence] for sequence in sequences]).T


def test_forgetting_by_hand_tells_never_learned_from_never_forgotten():
    found = forgetting_events(outcomes(*HAND))
    assert found.count.tolist() == [0, 2, 0, 0]
    assert found.learned.tolist() == [True, True, False, True]
    assert found.unforgettable.tolist() == [True, False, False, True]


@pytest.mark.parametrize("fill", [np.inf, 1000, 4, 0, np.nan])
def test_published_conventions_fill_the_never_learned_and_nobody_else(fill):
    found = forgetting_events(outcomes(*HAND), fill=fill)
    np.testing.assert_array_equal(found.count, [0, 2, fill, 0])
    assert not found.unforgettable[2]


def test_first_and_iteration_learned_by_hand():
    np.testing.assert_array_equal(first_learned(outcomes(*HAND)), [2, 0, np.nan, 0])
    np.testing.assert_array_equal(iteration_learned(outcomes(*HAND)), [2, np.nan, np.nan, 0])
    assert iteration_learned(outcomes("001011")) == 4
    assert first_learned(outcomes("001011")) == 2


def test_never_is_filled_where_it_is_asked_for():
    assert iteration_learned(outcomes(*HAND), never=4).tolist() == [2, 4, 4, 0]
    assert first_learned(outcomes(*HAND), never=4).tolist() == [2, 0, 4, 0]
    assert presentations_needed(outcomes(*HAND), never=4).tolist() == [2, 4, 4, 0]


def by_loop(sequence):
    """(forgetting, learned, first, iteration, needed) of the presentations of one example."""
    seen = [(time, letter) for time, letter in enumerate(sequence) if letter != "-"]
    word = "".join(letter for _, letter in seen)
    forgotten = sum(word[i : i + 2] == "10" for i in range(len(word)))
    right = [time for time, letter in seen if letter == "1"]
    lasting = len(word) - len(word.rstrip("1"))
    if not lasting:
        return forgotten, bool(right), right[0] if right else np.nan, np.nan, np.nan
    needed = len(word) - lasting
    return forgotten, True, right[0], seen[needed][0], needed


@pytest.mark.parametrize("letters", ["01", "01-"])
def test_all_sequences_of_five_are_as_by_a_loop(letters):
    sequences = ["".join(letter) for letter in itertools.product(letters, repeat=5)]
    table = outcomes(*sequences)
    events = forgetting_events(table)
    expected = np.array([by_loop(sequence) for sequence in sequences], dtype=float).T
    found = [events.count, events.learned, first_learned(table)]
    found += [iteration_learned(table), presentations_needed(table)]
    np.testing.assert_array_equal(np.array(found, dtype=float), expected)


def test_an_example_that_was_left_out_for_a_time_is_passed_over():
    table = outcomes("1-0", "1-1", "0-1")
    assert forgetting_events(table).count.tolist() == [1, 0, 0]
    assert iteration_learned(table, never=9).tolist() == [9, 0, 2]
    assert presentations_needed(table, never=9).tolist() == [9, 0, 1]


def test_nan_is_not_presented_too():
    table = outcomes("1-0").astype(float)
    table[table < 0] = np.nan
    assert forgetting_events(table).count == 1


def test_copies_and_views_are_counted_each():
    table = outcomes(*HAND)
    copies = np.stack([table, table[:, ::-1]], 1)
    assert forgetting_events(copies).count.tolist() == [[0, 2, 0, 0], [0, 0, 2, 0]]
    np.testing.assert_array_equal(
        iteration_learned(copies), [iteration_learned(table), iteration_learned(table[:, ::-1])]
    )


def test_a_single_time_is_enough():
    assert forgetting_events(outcomes("1", "0")).count.tolist() == [0, 0]
    assert iteration_learned(outcomes("1", "0"), never=1).tolist() == [0, 1]


def test_probabilities_are_no_outcomes():
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        forgetting_events([[0.5, 0.7]])
