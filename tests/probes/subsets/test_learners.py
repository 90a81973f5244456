import numpy as np
import pytest
import torch
from oracles_nearest_neighbour import correct_of, ranking
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from landscape.errors import RequestError
from landscape.probes.subsets.learners import subset_runs_of
from landscape.trainers.data.splits import subset_masks


def clusters(n):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, n)
    points = generator.normal(size=(n, 2)) + 3 * np.eye(3)[labels][:, :2]
    return torch.tensor(points), torch.tensor(labels)


def test_any_learner_runs_and_the_nearest_neighbour_is_that_of_the_oracle():
    points, labels = (held.numpy() for held in clusters(40))
    points = points.astype(float)
    masks = subset_masks(40, 20, 0.5, seed=0).numpy()
    tests = (points[20:27] + 0.3, labels[20:27])
    steps = []
    runs = subset_runs_of(
        lambda x, y: KNeighborsClassifier(1).fit(x, y),
        points,
        labels,
        masks,
        test=tests,
        progress=lambda done, total, words: steps.append(done),
    )
    np.testing.assert_array_equal(runs.correct, correct_of(ranking(points), labels, labels, masks))
    order = ranking(points, tests[0])
    np.testing.assert_array_equal(runs.correct_test, correct_of(order, labels, tests[1], masks))
    assert runs.values is None
    assert steps == list(range(1, 21))
    # A learner that changes itself is asked before it learns again.
    learner = KNeighborsClassifier(1)
    np.testing.assert_array_equal(
        subset_runs_of(learner.fit, points, labels, masks).correct, runs.correct
    )


def test_learners_with_logits_give_soft_values_and_tensors_stay_tensors():
    inputs, labels = clusters(20)
    masks = subset_masks(20, 3, 0.8, seed=0)

    def fit(x, y):
        assert isinstance(x, torch.Tensor)
        assert isinstance(y, torch.Tensor)
        fitted = LogisticRegression().fit(x, y)
        return lambda queries: torch.from_numpy(fitted.decision_function(queries))

    runs = subset_runs_of(fit, inputs, labels, masks)
    assert runs.values.shape == (3, 20)
    assert np.isfinite(runs.values).all()
    assert ((runs.values > 0) <= runs.correct).all()  # more than half: surely the most likely


def test_predictions_that_are_none_are_refused():
    inputs, labels = clusters(20)
    masks = np.ones((1, 20))
    with pytest.raises(RequestError, match="Expected a logit for each class"):
        subset_runs_of(lambda x, y: lambda q: np.zeros(3), inputs, labels, masks)
    with pytest.raises(RequestError, match="are empty"):
        subset_runs_of(lambda x, y: None, inputs, labels, np.zeros((1, 20)))
