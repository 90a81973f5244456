import itertools
from math import factorial

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.subsets import shapley as module
from landscape.probes.subsets.shapley import knn_shapley


def drawn(n, m=6, seed=0):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(n, 2)),
        generator.integers(0, 2, n),
        generator.normal(size=(m, 2)),
        generator.integers(0, 2, m),
    )


def utility(members, problem, k):
    points, labels, tests, wanted = problem
    members = np.asarray(members, dtype=int)
    total = 0.0
    for test, label in zip(tests, wanted, strict=True):
        distances = np.square(points[members] - test).sum(1)
        nearest = members[np.argsort(distances, kind="stable")[:k]]
        total += (labels[nearest] == label).sum() / k
    return total / len(tests)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_it_is_the_value_over_all_subsets(k):
    problem = drawn(6)
    found = knn_shapley(*problem, num_neighbours=k)
    wanted = np.zeros(6)
    for example in range(6):
        rest = [other for other in range(6) if other != example]
        for size in range(6):
            weight = factorial(size) * factorial(5 - size) / factorial(6)
            for chosen in itertools.combinations(rest, size):
                gain = utility([*chosen, example], problem, k) - utility(chosen, problem, k)
                wanted[example] += weight * gain
    np.testing.assert_allclose(found.value, wanted, atol=1e-12)
    assert found.utility == pytest.approx(utility(range(6), problem, k), abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(300, 10), (1000, 10), (4, 10), (1, 1)])
def test_values_add_up_to_the_utility(n, k):
    problem = drawn(n, 20)
    found = knn_shapley(*problem, num_neighbours=k)
    assert found.value.sum() == pytest.approx(found.utility, abs=1e-12)
    assert found.utility == pytest.approx(utility(range(n), problem, k), abs=1e-12)


def test_values_are_told_apart_beyond_the_nearest():
    found = knn_shapley(*drawn(300, 50), num_neighbours=10)
    assert len(np.unique(np.round(found.value, 14))) > 290


def test_blocks_of_tests_change_nothing(monkeypatch):
    problem = drawn(30, 11)
    whole = knn_shapley(*problem)
    monkeypatch.setattr(module, "_BLOCK", 90)
    steps = []
    parts = knn_shapley(*problem, progress=lambda done, total, words: steps.append(done))
    np.testing.assert_allclose(parts.value, whole.value, atol=1e-15)
    np.testing.assert_allclose(parts.standard_error, whole.standard_error, atol=1e-15)
    assert steps == [3, 6, 9, 11]


def test_the_standard_error_is_that_over_tests():
    points, labels, tests, wanted = drawn(12, 9)
    found = knn_shapley(points, labels, tests, wanted, num_neighbours=3)
    single = [
        knn_shapley(points, labels, tests[i : i + 1], wanted[i : i + 1], num_neighbours=3)
        for i in range(9)
    ]
    values = np.array([one.value for one in single])
    np.testing.assert_allclose(found.value, values.mean(0), atol=1e-14)
    np.testing.assert_allclose(found.standard_error, values.std(0, ddof=1) / 3, atol=1e-14)
    assert np.isnan(single[0].standard_error).all()


def test_of_equal_examples_the_first_is_nearer():
    places = np.random.default_rng(0).integers(0, 5, 300)
    first = np.flatnonzero(places == 0)[0]
    labels = (np.arange(300) != first).astype(int)
    found = knn_shapley(places[:, None], labels, [[-1.0]], [0], num_neighbours=1)
    np.testing.assert_allclose(found.value, labels == 0, atol=1e-15)


def test_wrong_requests_are_refused():
    points, labels, tests, wanted = drawn(5)
    with pytest.raises(RequestError, match="5 examples for 4 labels"):
        knn_shapley(points, labels[1:], tests, wanted)
    with pytest.raises(RequestError, match=r"expected \(m, 2\)"):
        knn_shapley(points, labels, tests[:, :1], wanted)
    with pytest.raises(RequestError, match="m >= 1"):
        knn_shapley(points, labels, tests[:0], wanted[:0])
    with pytest.raises(RequestError, match="num_neighbours=0"):
        knn_shapley(points, labels, tests, wanted, num_neighbours=0)
