"""Histories: logits that are there already, and what users hand over for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.dynamics.histories import as_outcomes, as_series, as_times, history

T, N, C = 3, 5, 4


def drawn():
    generator = np.random.default_rng(0)
    return generator.normal(size=(T, N, C)), generator.integers(C, size=N)


def test_of_logits_every_time_is_a_row():
    logits, labels = drawn()
    found = history(logits, labels, times=[0, 10, 30])
    assert found.margin.shape == found.correct.shape == (T, N)
    np.testing.assert_array_equal(found.prediction, logits.argmax(-1))
    np.testing.assert_array_equal(found.correct, logits.argmax(-1) == labels)
    assert found.presented.all()
    assert found.times.tolist() == [0, 10, 30]
    assert found.num_augmentations == 1


def test_the_hash_is_of_the_labels_in_their_order():
    logits, labels = drawn()
    same = history(torch.tensor(logits), labels.tolist())
    assert same.label_hash == history(logits, labels).label_hash
    other = history(logits, np.roll(labels, 1))
    assert other.label_hash != same.label_hash


def test_logits_that_do_not_fit_are_refused():
    logits, labels = drawn()
    with pytest.raises(RequestError, match=r"expected \(T, n, C\) and \(n,\)"):
        history(logits, labels[1:])
    with pytest.raises(RequestError, match="two classes at the least"):
        history(logits[..., :1], np.zeros(N, dtype=int))
    with pytest.raises(RequestError, match="one time"):
        history(logits[:0], labels)
    with pytest.raises(RequestError, match="there are 4 classes"):
        history(logits, [0, 1, 2, 3, 4])


def test_times_increase():
    with pytest.raises(RequestError, match="expected 3 increasing numbers"):
        as_times([0, 1, 1], 3)
    with pytest.raises(RequestError, match="expected 2 increasing numbers"):
        as_times([0, 1, 2], 2)


def test_outcomes_are_right_wrong_or_not_presented():
    assert as_outcomes([[True, False]]).tolist() == [[1, 0]]
    assert as_outcomes([[1.0, np.nan, -1]]).tolist() == [[1, -1, -1]]
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        as_outcomes([[2, 0]])
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        as_outcomes([[0.5, 0]])


def test_a_series_has_times_first_and_as_many_dimensions_as_it_likes():
    assert as_series(np.zeros((2, 3, 4, 5)), "x").shape == (2, 3, 4, 5)
    assert as_series(torch.zeros(2, 3), "x").shape == (2, 3)
    with pytest.raises(RequestError, match=r"x has shape \(3,\), expected \(T, n\)"):
        as_series([1, 2, 3], "x")
    with pytest.raises(RequestError, match="no time"):
        as_series(np.zeros((0, 3)), "x")
