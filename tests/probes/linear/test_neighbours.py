"""Neighbours: all pairs by brute force, ties included; nobody is a neighbour of their own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from landscape.errors import RequestError
from landscape.probes.linear import neighbours as module
from landscape.probes.linear.neighbours import knn_probe, nearest_neighbours, vote
from landscape.similarity.bootstrap import wilson


def grid(n=60, d=3, span=3, seed=0):
    """Points of a small grid: distances are exact, many are equal, and there are copies."""
    generator = np.random.default_rng(seed)
    return generator.integers(span, size=(n, d)).astype(float), generator.integers(4, size=n)


def cloud(n=60, d=5, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)), generator.integers(4, size=n)


def ranked(bank, query, own=None):
    """All rows from the nearest on, of equals the lower index; one pair at a time."""
    distances = [float(((query - row) ** 2).sum()) for row in bank]
    order = sorted(range(len(bank)), key=lambda row: (distances[row], row))
    return [row for row in order if row != own]


def elected(classes, weights):
    """The heaviest class of the neighbours in order; of equals the one that is named first."""
    votes = Counter()
    for label, weight in zip(classes, weights, strict=True):
        votes[label] += weight
    return next(label for label in classes if votes[label] >= max(votes.values()) - 1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 59])
def test_neighbours_are_those_of_brute_force_with_ties_by_index(k):
    bank, _ = grid()
    found = nearest_neighbours(bank, k=k, metric="euclidean")
    for row, point in enumerate(bank):
        expected = ranked(bank, point, own=row)[:k]
        assert found.indices[row].tolist() == expected
        distances = np.sqrt(((bank[expected] - point) ** 2).sum(1))
        np.testing.assert_allclose(found.distances[row], distances, rtol=1e-15)


@pytest.mark.parametrize("k", [1, 2, 5, 60])
def test_neighbours_of_others_are_those_of_brute_force_with_ties_by_index(k):
    (bank, _), (queries, _) = grid(), grid(17, seed=1)
    found = nearest_neighbours(bank, queries, k=k, metric="euclidean")
    assert found.indices.tolist() == [ranked(bank, query)[:k] for query in queries]


@pytest.mark.parametrize("k", [1, 3, 4, 7])
def test_votes_are_those_of_brute_force_with_ties_to_the_nearer(k):
    (bank, labels), (queries, right) = grid(), grid(40, seed=1)
    found = knn_probe(bank, labels, test=(queries, right), k=k, metric="euclidean")
    expected = [elected([labels[row] for row in ranked(bank, q)[:k]], [1] * k) for q in queries]
    assert found.predictions.tolist() == expected
    assert found.accuracy == np.mean(np.array(expected) == right)


def test_of_classes_with_equal_votes_the_nearest_neighbours_wins():
    bank = np.array([[1.0], [2], [3], [4], [50]])
    for labels, expected in [([2, 1, 1, 2, 0], 2), ([1, 2, 2, 1, 0], 1), ([0, 1, 1, 2, 2], 1)]:
        found = knn_probe(bank, labels, test=([[0.0]], [0]), k=4, metric="euclidean")
        assert found.predictions.tolist() == [expected]


@pytest.mark.parametrize("block", [1, 7, 64, 10**6])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_blocks_change_nothing_not_even_the_order_of_copies(monkeypatch, block, metric):
    base, _ = cloud(12, 7)
    bank = np.concatenate([base, base, base])  # sums in another order would part the copies
    expected = nearest_neighbours(bank, k=8, metric=metric)
    monkeypatch.setattr(module, "_BLOCK", block)
    found = nearest_neighbours(bank, k=8, metric=metric)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.distances, expected.distances)
    rows = torch.arange(12)
    assert torch.equal(found.indices[:12, 0], rows + 12)
    assert torch.equal(found.indices[12:24, :2], torch.stack([rows, rows + 24], 1))
    assert not found.distances[:, :2].any()


@pytest.mark.parametrize(("offset", "step"), [(6, 24), (10, 20), (23, 10)])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_far_from_the_origin_the_order_is_still_exact(offset, step, k):
    # Of |q|^2 - 2 q.b + |b|^2 the rounding is here as large as the differences, or far larger.
    generator = np.random.default_rng(0)
    bank = 2.0**offset + generator.integers(64, size=(200, 4)) / 2.0**step
    found = nearest_neighbours(bank, k=k, metric="euclidean")
    assert found.indices.tolist() == [ranked(bank, q, own=i)[:k] for i, q in enumerate(bank)]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_without_ties_it_is_scikit_learn(metric):
    (bank, labels), (queries, right) = cloud(), cloud(30, seed=1)
    theirs = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute").fit(bank)
    distances, indices = theirs.kneighbors(queries)
    found = nearest_neighbours(bank, queries, k=7, metric=metric)
    assert np.array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, atol=1e-12)
    for temperature, weights in [(None, "uniform"), (0.07, lambda d: np.exp(-d / 0.07))]:
        # Votes of one neighbour cannot be equal: the nearest decides there, in scikit-learn not.
        k = 1 if temperature is None else 7
        classifier = KNeighborsClassifier(k, metric=metric, algorithm="brute", weights=weights)
        options = {"k": k, "metric": metric, "temperature": temperature}
        ours = knn_probe(bank, labels, test=(queries, right), **options)
        assert np.array_equal(ours.predictions, classifier.fit(bank, labels).predict(queries))
        assert ours.accuracy == pytest.approx(classifier.score(queries, right))


def test_uniform_votes_without_ties_are_those_of_scikit_learn():
    bank, labels = cloud()
    queries, right = cloud(200, seed=1)
    labels = labels % 2  # two classes and an odd k: no tie
    classifier = KNeighborsClassifier(5, algorithm="brute").fit(bank, labels)
    ours = knn_probe(bank, labels, test=(queries, right % 2), k=5, metric="euclidean")
    assert np.array_equal(ours.predictions, classifier.predict(queries))
    assert ours.accuracy == pytest.approx(classifier.score(queries, right % 2))


def test_each_neighbour_weighs_by_its_own_distance():
    # Published code has weighted the sorted neighbours by the distances in the data's order.
    bank = np.array([[5.0], [9], [0.1], [0.2], [7]])
    labels = [1, 1, 0, 0, 1]
    found = knn_probe(bank, labels, test=([[0.0]], [0]), k=5, metric="euclidean", temperature=1)
    assert found.predictions.tolist() == [0]
    uniform = knn_probe(bank, labels, test=([[0.0]], [0]), k=5, metric="euclidean")
    assert uniform.predictions.tolist() == [1]


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
def test_weights_of_cosines_are_exponentials_up_to_a_factor(temperature):
    (bank, labels), (queries, right) = cloud(), cloud(30, seed=1)
    found = knn_probe(bank, labels, test=(queries, right), k=9, temperature=temperature)
    for row, query in enumerate(queries):
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        order = np.argsort(-cosines)[:9]
        weights = np.exp(cosines[order] / temperature)
        assert found.predictions[row] == elected(labels[order], weights / weights.max())


def test_low_temperatures_are_the_nearest_neighbour_and_do_not_overflow():
    (bank, labels), (queries, right) = cloud(), cloud(30, seed=1)
    cold = knn_probe(bank, labels, test=(queries, right), k=9, temperature=1e-6)
    nearest = knn_probe(bank, labels, test=(queries, right), k=1)
    assert np.array_equal(cold.predictions, nearest.predictions)


def test_neighbours_that_are_all_far_still_weigh():
    bank, labels = np.array([[1000.0], [1000.1], [1000.2]]), [0, 1, 1]  # exp(-1000) is 0
    found = knn_probe(bank, labels, test=([[0.0]], [1]), k=3, metric="euclidean", temperature=1)
    assert found.predictions.tolist() == [1]


def test_votes_that_are_equal_but_for_rounding_are_equal():
    bank = np.array([[1.0], [-2], [3], [-1], [2], [-3]])  # the same distances on either side
    found = nearest_neighbours(bank, [[0.0]], k=6, metric="euclidean")
    assert found.indices.tolist() == [[0, 3, 1, 4, 2, 5]]
    for labels in ([0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]):
        for temperature in np.linspace(0.1, 3, 30):
            assert vote(found, labels, temperature=temperature)[0] == labels[0]


def test_nobody_is_a_neighbour_of_their_own_but_a_copy_is():
    bank, labels = cloud(40)
    found = nearest_neighbours(bank, k=39)
    assert all(row not in found.indices[row] for row in range(40))
    copied = np.concatenate([bank, bank])
    twins = nearest_neighbours(copied, k=1)
    assert twins.indices.flatten().tolist() == [*range(40, 80), *range(40)]
    opposite = knn_probe(copied, [*labels, *(labels + 1)], k=1)
    assert opposite.accuracy == 0  # who found themselves would be right


def test_one_neighbour_that_may_be_oneself_is_not_to_be_had():
    bank, labels = cloud(400, 3)
    assert knn_probe(bank, labels, k=1).accuracy < 0.4  # chance is .25
    assert knn_probe(bank, labels, test=(bank, labels), k=1).accuracy == 1


def test_classes_are_counted_on_the_training_labels():
    bank = np.array([[0.0], [1], [10], [11]])
    queries = np.array([[0.4], [10.6], [0.6]])
    many = knn_probe(bank, [57, 57, 3, 3], test=(queries, [5, 0, 5]), k=2, metric="euclidean")
    assert many.predictions.tolist() == [57, 3, 57]  # classes that the test has not
    few = knn_probe(bank, [0, 0, 1, 1], test=(queries, [7, 1, 0]), k=2, metric="euclidean")
    assert few.predictions.tolist() == [0, 1, 0]  # a class that the training has not is wrong
    assert few.accuracy == pytest.approx(2 / 3)


def test_the_interval_is_wilsons():
    (bank, labels), (queries, right) = cloud(), cloud(30, seed=1)
    found = knn_probe(bank, labels, test=(queries, right), k=3)
    hits = float((found.predictions == right).sum())
    expected = wilson(np.asarray(hits), 30.0)
    assert (found.low, found.high) == (float(expected.low), float(expected.high))
    assert found.low < found.accuracy < found.high


def test_a_row_of_zeros_is_at_right_angles_to_all():
    bank = np.array([[1.0, 0], [0, 0], [-1, 0], [1, 1e-3]])
    found = nearest_neighbours(bank, [[0.0, 0], [2, 0]], k=4)
    assert found.indices.tolist() == [[0, 1, 2, 3], [0, 3, 1, 2]]
    np.testing.assert_allclose(found.distances[0], np.ones(4))
    np.testing.assert_allclose(found.distances[1], [0, 5e-7, 1, 2], rtol=1e-6)


def test_scales_do_not_change_the_cosine():
    (bank, _), (queries, _) = cloud(), cloud(30, seed=1)
    scales = np.random.default_rng(2).uniform(0.1, 10, (60, 1))
    before = nearest_neighbours(bank, queries, k=9)
    after = nearest_neighbours(scales * bank, 3 * queries, k=9)
    assert torch.equal(before.indices, after.indices)
    assert torch.allclose(before.distances, after.distances, rtol=1e-9)


def test_random_labels_are_right_by_chance():
    bank, _ = cloud(2000, 4)
    labels = np.random.default_rng(3).integers(2, size=2000)
    found = knn_probe(bank, labels, k=5)
    assert abs(found.accuracy - 0.5) < 3 * 0.5 / np.sqrt(2000)


def test_identical_examples_are_neighbours_by_index():
    found = nearest_neighbours(np.ones((6, 3)), k=2, metric="euclidean")
    assert found.indices.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize("k", [1, 2, 5, 9])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_many_copies_are_neighbours_as_by_brute_force(metric, k):
    generator = np.random.default_rng(0)
    # Three points, one of them of zeros, in many copies, among others of the same length.
    bank = np.array([[0.0, 0], [3, 4], [4, 3], [1, 1]])[
        generator.choice(4, 50, p=[0.4, 0.4, 0.1, 0.1])
    ]
    found = nearest_neighbours(bank, k=k, metric=metric)
    lengths = np.linalg.norm(bank, axis=1, keepdims=True)
    points = bank / np.where(lengths, lengths, 1) if metric == "cosine" else bank
    for row, point in enumerate(points):
        distances = ((points - point) ** 2).sum(1)
        if metric == "cosine":
            distances = 1 - (points * point).sum(1)
        order = np.lexsort([np.arange(50), distances.round(12)])
        assert found.indices[row].tolist() == [other for other in order if other != row][:k]


def test_a_dead_layer_is_no_work_for_all_pairs(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        module,
        "_nearest",
        lambda *args, real=module._nearest: sizes.append(len(args[0])) or real(*args),
    )
    nearest_neighbours(np.zeros((500, 8)), k=3, metric="euclidean")
    assert set(sizes) == {4}


def test_single_precision_is_compared_in_double():
    bank, _ = cloud()
    single = torch.tensor(bank, dtype=torch.float32)
    found = nearest_neighbours(single, k=4)
    assert found.distances.dtype == torch.float64
    assert torch.equal(found.distances, nearest_neighbours(single.double(), k=4).distances)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[0.0], [1]], [0, 1]), {"k": 2}, "k=2, and there are 1 .* Type k=1"),
        (([[0.0], [1]], [0, 1]), {"k": 0}, "k=0"),
        (([[0.0], [1]], [0]), {"k": 1}, "labels holds 1 examples, features 2"),
        (([[0.0], [1]], [0, 1]), {"k": 1, "metric": "cosin"}, "Did you mean 'cosine'"),
        (([[0.0], [np.nan]], [0, 1]), {"k": 1}, "features is not finite, first in row 1"),
        (([[0.0], [1]], [0, 1]), {"k": 1, "temperature": 0}, "temperature=0"),
        (([[0.0], [1]], [0, 1]), {"k": 1, "test": ([[0.0, 1]], [0])}, "2 features and the bank 1"),
        (([[0.0], [1]], [0, 1]), {"k": 1, "test": ([[0.0]], [0, 1])}, "test labels holds 2"),
        (([0.0, 1], [0, 1]), {"k": 1}, r"features has shape \(2,\)"),
        ((np.zeros((0, 2)), []), {"k": 1}, r"\(0, 2\)"),
    ],
)
def test_wrong_requests_are_refused(arguments, options, message):
    with pytest.raises(RequestError, match=message):
        knn_probe(*arguments, **options)
