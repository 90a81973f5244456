"""Streaming: however the examples are cut into batches, the numbers are those of the whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.similarity import streaming
from landscape.similarity.cka import cka, cka_estimate
from landscape.similarity.streaming import StreamingCKA


def features(n=23, widths=(3, 4, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    found = {}
    for index, width in enumerate(widths):
        mixing = torch.randn(2, width, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, width, generator=generator, dtype=torch.float64)
        found["abc"[index]] = common @ mixing + noise + 5 * index
    return found


def parts(whole, sizes):
    split = {name: x.split(sizes) for name, x in whole.items()}
    return [{name: x[i] for name, x in split.items()} for i in range(len(sizes))]


ALL = list(itertools.combinations("abc", 2))
SPLITS = pytest.mark.parametrize("sizes", [[23], [10, 10, 3], [1, 22], [1] * 23, [4, 0, 19]])


@SPLITS
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("widths", [(3, 4, 2), (40, 30, 50), (2, 60, 30)])
def test_any_split_gives_the_numbers_of_the_whole(sizes, debiased, widths):
    whole = features(widths=widths)
    gathered = StreamingCKA(ALL, debiased=debiased)
    for batch in parts(whole, sizes):
        gathered.update(batch)
    for batch in parts(whole, sizes):
        gathered.revisit(batch)
    for first, second in ALL:
        expected = cka_estimate(whole[first], whole[second], debiased=debiased)
        found = gathered.estimate(first, second)
        assert found.value == pytest.approx(expected.value, abs=1e-12)
        assert found.standard_error == pytest.approx(expected.standard_error, abs=1e-12)
        assert found.num_examples == 23


def test_few_features_are_added_up_and_many_are_held():
    few, many = (StreamingCKA(ALL) for _ in range(2))
    few.update(features())
    many.update(features(widths=(40, 30, 50)))
    assert few.needs_second_pass
    assert not many.needs_second_pass


def test_what_is_held_gives_way_to_products_as_examples_come():
    gathered, whole = StreamingCKA(ALL), features(n=60, widths=(8, 8, 8))
    seen = []
    for batch in parts(whole, [5] * 12):
        gathered.update(batch)
        seen.append(gathered.needs_second_pass)
    assert seen == sorted(seen)
    assert seen[0] is False
    assert seen[-1] is True
    assert gathered.value("a", "c") == pytest.approx(cka(whole["a"], whole["c"]), abs=1e-12)


def test_a_mean_over_batches_would_be_another_number():
    whole = features()
    by_batch = [cka(batch["a"], batch["b"]) for batch in parts(whole, [10, 13])]
    assert abs(np.mean(by_batch) - cka(whole["a"], whole["b"])) > 1e-3


def test_pairs_are_symmetric_and_each_is_one_with_itself():
    gathered = StreamingCKA(ALL)
    gathered.update(features())
    assert gathered.value("a", "b") == gathered.value("b", "a")
    assert gathered.value("c", "c") == 1.0


@pytest.mark.parametrize("widths", [(3, 4, 2), (40, 30, 50)])
def test_a_pair_that_is_named_in_both_orders_counts_once(widths):
    whole = features(widths=widths)
    gathered = StreamingCKA([("a", "b"), ("b", "a"), ("a", "b"), ("a", "a")])
    gathered.update(whole)
    gathered.revisit(whole)
    expected = cka_estimate(whole["a"], whole["b"])
    for first, second in ("ab", "ba"):
        found = gathered.estimate(first, second)
        assert found.value == pytest.approx(expected.value, abs=1e-12)
        assert found.standard_error == pytest.approx(expected.standard_error, abs=1e-12)


def test_the_second_pass_may_come_in_another_order():
    gathered, whole = StreamingCKA(ALL), features()
    batches = parts(whole, [10, 10, 3])
    for batch in batches:
        gathered.update(batch)
    for batch in reversed(batches):
        gathered.revisit(batch)
    expected = cka_estimate(whole["a"], whole["b"]).standard_error
    assert gathered.estimate("a", "b").standard_error == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("widths", [(3, 4, 2), (40, 30, 50)])
def test_memory_that_is_written_to_again_does_no_harm(widths):
    gathered, whole = StreamingCKA(ALL), features(widths=widths)
    room = {name: torch.empty(5, x.shape[1], dtype=x.dtype) for name, x in whole.items()}
    for start in range(0, 20, 5):
        for name, x in whole.items():
            room[name].copy_(x[start : start + 5])
        gathered.update(room)
    assert gathered.value("a", "b") == pytest.approx(cka(whole["a"][:20], whole["b"][:20]))


@pytest.mark.parametrize("widths", [(3, 4, 2), (40, 30, 50)])
def test_more_examples_may_follow_a_look(widths):
    gathered, whole = StreamingCKA(ALL), features(widths=widths)
    first, second = parts(whole, [12, 11])
    gathered.update(first)
    gathered.value("a", "b")
    gathered.update(second)
    assert gathered.value("a", "b") == pytest.approx(cka(whole["a"], whole["b"]), abs=1e-12)


def test_kernels_in_blocks_are_the_kernels(monkeypatch):
    whole = features(widths=(40, 30, 50))
    expected = cka_estimate(whole["a"], whole["b"])
    monkeypatch.setattr("landscape.similarity.products._BLOCK", 23 * 2 * 5)
    found = cka_estimate(whole["a"], whole["b"])
    assert found.value == pytest.approx(expected.value, abs=1e-13)
    assert found.standard_error == pytest.approx(expected.standard_error, abs=1e-13)


def test_float32_features_are_added_up_in_float64():
    whole = {name: x.float() for name, x in features(n=2000).items()}
    expected = cka(whole["a"].double(), whole["b"].double())
    assert cka(whole["a"], whole["b"]) == pytest.approx(expected, abs=1e-12)


def test_too_little_memory_is_said_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(streaming, "available_bytes", lambda device: 1000)
    with pytest.raises(RequestError, match="pool='spatial'"):
        StreamingCKA(ALL).update(features(widths=(40, 30, 50)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(RequestError, match="no pairs"):
        StreamingCKA([])
    gathered, whole = StreamingCKA(ALL), features()
    with pytest.raises(RequestError, match="'c' are missing"):
        gathered.update({name: whole[name] for name in "ab"})
    gathered.update(whole)
    with pytest.raises(RequestError, match="4 wide, and are now 3"):
        gathered.update(whole | {"b": whole["a"]})
    with pytest.raises(RequestError, match="none of the pairs"):
        gathered.value("a", "d")
    with pytest.raises(RequestError, match="0 of 23 examples came a second time"):
        gathered.estimate("a", "b")
    gathered.revisit(whole)
    with pytest.raises(RequestError, match="before the first revisit"):
        gathered.update(whole)
