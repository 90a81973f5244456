"""The loss and the Brier score are scikit-learn's, and finite where a probability rounds to 0."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from landscape.errors import RequestError
from landscape.probes.ensembles.probabilities import log_probabilities
from landscape.probes.ensembles.proper_scores import brier_scores, nll_scores


def test_by_hand():
    log_p = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(nll_scores(log_p, [0, 1]), -np.log([0.5, 0.1]))
    np.testing.assert_allclose(brier_scores(log_p, [0, 1]), [0.375, 0.01 + 0.81 + 0.64])


@pytest.mark.parametrize("classes", [2, 4])
def test_they_are_those_of_scikit_learn(draw, classes):
    logits, labels = draw(1, 60, classes)
    log_p = log_probabilities(logits)[0]
    p = np.exp(log_p)
    names = list(range(classes))
    assert nll_scores(log_p, labels).mean() == pytest.approx(log_loss(labels, p, labels=names))
    theirs = brier_score_loss(labels, p, labels=names, scale_by_half=False)
    assert brier_scores(log_p, labels).mean() == pytest.approx(theirs)


def test_two_classes_have_twice_the_score_of_one_probability(draw):
    logits, labels = draw(1, 40, 2)
    log_p = log_probabilities(logits)[0]
    usual = np.square(np.exp(log_p[:, 1]) - labels)
    np.testing.assert_allclose(brier_scores(log_p, labels), 2 * usual)


def test_a_probability_that_rounds_to_zero_has_a_finite_loss():
    log_p = log_probabilities([[[0.0, 2000.0]]])[0]
    assert np.exp(log_p[0, 0]) == 0
    assert nll_scores(log_p, [0]).tolist() == [2000]
    assert brier_scores(log_p, [0]).tolist() == [2]


@pytest.mark.parametrize("score", [nll_scores, brier_scores])
def test_labels_that_do_not_fit_are_refused(score):
    with pytest.raises(RequestError, match="there are 1 labels for 2 examples"):
        score(np.zeros((2, 3)), [0])
    with pytest.raises(RequestError, match="labels has class 3, and there are 3 classes"):
        score(np.zeros((2, 3)), [0, 3])
