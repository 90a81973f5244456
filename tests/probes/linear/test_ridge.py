"""Ridge probes: what is left out is what n refits say, at every penalty and for any shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV

from landscape.errors import RequestError
from landscape.probes.linear.ridge import ridge_probe

SHAPES = [(30, 4), (12, 20), (9, 9), (9, 8), (10, 8)]
PENALTIES = [1e-4, 1e-2, 1.0, 30.0]


def problem(n, d, targets=2, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(1, 2, (n, d)), generator.normal(3, 1, (n, targets))


def labelled(n=40, d=5, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    return generator.normal(size=(n, d)) + 1.5 * np.eye(d)[labels], labels


def solved(features, targets, alpha):
    """Slopes and intercept from the normal equations, with a column of ones that costs nothing."""
    columns = np.c_[features, np.ones(len(features))]
    costs = alpha * np.diag(np.r_[np.ones(features.shape[1]), 0])
    solution = np.linalg.lstsq(columns.T @ columns + costs, columns.T @ targets, rcond=None)[0]
    return solution[:-1].T, solution[-1]


def refits(features, targets, alpha):
    """(n, C) what the others say of each example."""
    said = []
    for index in range(len(features)):
        rest = np.arange(len(features)) != index
        slopes, intercept = solved(features[rest], targets[rest], alpha)
        said.append(slopes @ features[index] + intercept)
    return np.array(said)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_left_out_is_what_n_refits_say(n, d, penalty):
    features, targets = problem(n, d)
    found = ridge_probe(features, targets, [penalty])
    expected = refits(features, targets, n * penalty)
    np.testing.assert_allclose(found.loo_predictions, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.loo_error, [((expected - targets) ** 2).mean()], rtol=1e-10)
    by_example = ((expected - targets) ** 2).mean(1)
    error = by_example.std(ddof=1) / np.sqrt(n)
    np.testing.assert_allclose(found.loo_standard_error, [error], rtol=1e-9)


def test_left_out_with_a_single_feature_is_the_closed_form_to_rounding():
    features, targets = np.array([[-1.0], [0], [1]]), np.array([0.0, 0, 3])
    found = ridge_probe(features, targets, [2 / 3])  # alpha 2, on the centred sum of squares 2
    # Without the third: x = -1, 0, y = 0 -> 0. Without the first: x = 0, 1, y = 0, 3, slope .6.
    np.testing.assert_allclose(found.loo_predictions[:, 0], [1.5 - 1.5 * 0.6, 1.5, 0], atol=1e-14)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_weights_are_those_of_scikit_learn_at_alpha_n_lambda(n, d):
    features, targets = problem(n, d)
    found = ridge_probe(features, targets, PENALTIES)
    for index, penalty in enumerate(PENALTIES):
        theirs = Ridge(alpha=n * penalty, solver="cholesky").fit(features, targets)
        np.testing.assert_allclose(found.weights[index], theirs.coef_, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.intercept[index], theirs.intercept_, rtol=1e-8)
        error = ((theirs.predict(features) - targets) ** 2).mean()
        np.testing.assert_allclose(found.train_error[index], error, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_choice_is_that_of_scikit_learn(n, d):
    features, targets = problem(n, d)
    penalties = np.logspace(-3, 2, 11)
    found = ridge_probe(features, targets, penalties)
    theirs = RidgeCV(alphas=n * penalties, store_cv_results=True).fit(features, targets)
    assert n * found.penalties[found.chosen] == pytest.approx(theirs.alpha_)
    np.testing.assert_allclose(
        found.loo_error, theirs.cv_results_.mean((0, 1)), rtol=1e-8, atol=1e-12
    )


def test_left_out_accuracy_is_that_of_n_refitted_classifiers():
    features, labels = labelled()
    found = ridge_probe(features, labels, [0.1])
    right = 0
    for index in range(len(labels)):
        rest = np.arange(len(labels)) != index
        theirs = RidgeClassifier(alpha=0.1 * len(labels)).fit(features[rest], labels[rest])
        right += theirs.predict(features[index : index + 1])[0] == labels[index]
    assert found.loo_accuracy[0] * len(labels) == pytest.approx(right)
    assert 0.5 < float(found.loo_accuracy[0]) < float(found.train_accuracy[0])
    whole = RidgeClassifier(alpha=0.1 * len(labels)).fit(features, labels)
    assert float(found.train_accuracy[0]) == pytest.approx(whole.score(features, labels))
    said = found.classes[found.predict(features).argmax(1)]
    assert said.tolist() == whole.predict(features).tolist()


def test_the_interval_of_the_accuracy_is_wilsons():
    features, labels = labelled()
    found = ridge_probe(features, labels, [0.1])
    share, n, z = float(found.loo_accuracy[0]), len(labels), 1.959963984540054
    for end in (found.loo_low, found.loo_high):
        bound = float(end[0])
        assert abs(share - bound) == pytest.approx(z * np.sqrt(bound * (1 - bound) / n))
    assert found.loo_low[0] < share < found.loo_high[0]


def test_classes_are_those_that_occur():
    features, labels = labelled()
    found = ridge_probe(features, 7 * labels + 2, [0.1])
    assert found.classes.tolist() == [2, 9, 16]
    assert found.weights.shape == (1, 3, 5)
    assert torch.equal(found.loo_accuracy, ridge_probe(features, labels, [0.1]).loo_accuracy)


def test_numbers_have_no_accuracy():
    features, targets = problem(12, 3)
    found = ridge_probe(features, targets[:, 0], [0.1, 1.0])
    assert found.classes is None
    assert found.weights.shape == (2, 1, 3)
    for share in (found.train_accuracy, found.loo_accuracy, found.loo_low, found.loo_high):
        assert share.isnan().all()
        assert share.shape == (2,)


def test_large_penalties_leave_the_mean_of_the_others():
    features, targets = problem(10, 3, 1)
    found = ridge_probe(features, targets, [1e14])
    others = (targets.sum() - targets) / 9
    np.testing.assert_allclose(found.loo_predictions, others, rtol=1e-9)
    np.testing.assert_allclose(found.intercept[0], targets.mean(), rtol=1e-9)
    np.testing.assert_allclose(found.leverage, np.full((1, 10), 0.1), rtol=1e-9)


def test_features_that_are_constant_say_the_mean():
    found = ridge_probe(np.full((4, 2), 5.0), np.array([0.0, 1, 2, 3]), [0.0, 1.0])
    np.testing.assert_allclose(found.loo_predictions[:, 0], [2, 5 / 3, 4 / 3, 1])
    assert not found.weights.any()
    assert found.num_undefined.tolist() == [0, 0]


def test_without_a_penalty_it_is_least_squares_with_its_left_out_residuals():
    features, targets = problem(30, 4)
    found = ridge_probe(features, targets, [0.0])
    np.testing.assert_allclose(found.loo_predictions, refits(features, targets, 0), rtol=1e-9)


def test_interpolation_without_a_penalty_has_nothing_left_out():
    features, targets = problem(6, 20)
    found = ridge_probe(features, targets, [0.0, 1e-9, 1.0])
    assert found.num_undefined.tolist() == [6, 0, 0]
    assert found.loo_error.isnan().tolist() == [True, False, False]
    assert found.loo_standard_error[0].isnan()
    np.testing.assert_allclose(found.leverage[0], np.ones(6))
    np.testing.assert_allclose(found.train_error[0], 0, atol=1e-20)
    assert found.chosen != 0


@pytest.mark.parametrize("penalty", [1e-9, 1e-14, 1e-20])
def test_small_penalties_do_not_drown_in_rounding_where_d_exceeds_n(penalty):
    features, targets = problem(8, 20)
    found = ridge_probe(features, targets, [penalty])
    # The limit: what the solution of least norm on the others says.
    expected = []
    for index in range(8):
        rest = np.arange(8) != index
        mean, level = features[rest].mean(0), targets[rest].mean(0)
        slopes = np.linalg.pinv(features[rest] - mean) @ (targets[rest] - level)
        expected.append((features[index] - mean) @ slopes + level)
    np.testing.assert_allclose(found.loo_predictions, expected, rtol=1e-6)


def test_an_example_alone_with_a_feature_is_undefined_without_a_penalty():
    features, targets = problem(12, 3, 1)
    features[:, 2] = 0
    features[4, 2] = 1
    found = ridge_probe(features, targets, [0.0, 1e-20, 0.5])
    assert found.num_undefined.tolist() == [1, 1, 0]
    assert found.loo_error.isnan().tolist() == [True, True, False]
    assert found.leverage[0, 4] == pytest.approx(1)
    assert found.chosen == 2
    alone = ridge_probe(features, targets, [0.0])
    assert alone.loo_predictions.isnan().flatten().nonzero().flatten().tolist() == [4]


def test_an_undefined_example_leaves_no_accuracy():
    features, labels = labelled()
    features = np.c_[features, np.eye(len(labels))[:, 0]]
    found = ridge_probe(features, labels, [0.0])
    assert found.loo_accuracy.isnan().all()
    assert found.loo_high.isnan().all()
    assert not found.train_accuracy.isnan().any()


def test_of_equals_the_largest_penalty_is_chosen():
    features = np.full((5, 2), 1.0)  # nothing to regress on: all penalties are equal
    assert ridge_probe(features, np.arange(5.0), [0.1, 10.0, 1.0]).chosen == 1


def test_many_penalties_are_each_alone():
    features, targets = problem(20, 6)
    together = ridge_probe(features, targets, PENALTIES)
    for index, penalty in enumerate(PENALTIES):
        alone = ridge_probe(features, targets, [penalty])
        for name in ("weights", "intercept", "loo_error", "leverage", "train_error"):
            assert torch.equal(getattr(together, name)[index], getattr(alone, name)[0]), name


def test_rotations_of_the_features_change_nothing():
    features, targets = problem(15, 6)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    before = ridge_probe(features, targets, PENALTIES)
    after = ridge_probe(features @ rotation, targets, PENALTIES)
    assert torch.allclose(before.loo_predictions, after.loo_predictions, rtol=1e-9)
    assert torch.allclose(before.leverage, after.leverage, rtol=1e-9)


def test_single_precision_is_computed_in_double():
    features, targets = problem(15, 4)
    single = torch.tensor(features, dtype=torch.float32)
    found = ridge_probe(single, torch.tensor(targets), [0.1])
    same = ridge_probe(single.double().numpy(), targets, [0.1])
    assert found.weights.dtype == torch.float64
    assert torch.equal(found.loo_predictions, same.loo_predictions)


@pytest.mark.parametrize(
    ("features", "targets", "penalties", "message"),
    [
        (np.ones((3, 2)), [0, 1], [1.0], "3 examples and targets 2"),
        (np.ones((1, 2)), [0], [1.0], "at least 2"),
        (np.ones((3, 2)), [0, 1, 1], [], "penalties"),
        (np.ones((3, 2)), [0, 1, 1], [-1.0], ">= 0"),
        (np.ones((3, 2)), [0, 1, 1], [np.inf], "finite"),
        (np.full((3, 2), np.nan), [0, 1, 1], [1.0], "row 0"),
        (np.ones((3, 2)), [0.0, np.inf, 1], [1.0], "targets is not finite"),
        (np.ones((3, 2)), [0, -1, 1], [1.0], "class indices"),
    ],
)
def test_wrong_requests_are_refused(features, targets, penalties, message):
    with pytest.raises(RequestError, match=message):
        ridge_probe(features, targets, penalties)
