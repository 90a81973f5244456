"""One pass over the logits: every column is what a plain computation gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from landscape.errors import RequestError
from landscape.probes.ensembles import probabilities
from landscape.probes.ensembles.evaluation import evaluate


@pytest.mark.parametrize("block", [2**22, 50, 1])
def test_columns_are_those_of_probabilities(draw, monkeypatch, block):
    logits, labels = draw(4, 11, 3)
    monkeypatch.setattr(probabilities, "_BLOCK", block)
    found = evaluate(logits, labels)
    p, hot = softmax(logits, -1), np.eye(3)[labels]
    mean = p.mean(0)
    np.testing.assert_allclose(np.exp(found.log_probability), mean)
    np.testing.assert_allclose(found.confidence, mean.max(1))
    np.testing.assert_array_equal(found.correct, mean.argmax(1) == labels)
    np.testing.assert_allclose(found.nll, -np.log(mean[np.arange(11), labels]))
    np.testing.assert_allclose(found.brier, np.square(mean - hot).sum(1))
    np.testing.assert_array_equal(found.member_classes, logits.argmax(-1))
    np.testing.assert_array_equal(found.member_correct, logits.argmax(-1) == labels)
    np.testing.assert_allclose(found.member_confidence, p.max(-1))
    np.testing.assert_allclose(found.member_nll, -np.log((p * hot).sum(-1)))
    np.testing.assert_allclose(found.member_brier, np.square(p - hot).sum(-1))
    np.testing.assert_allclose(found.brier_gain, np.square(p - mean).sum(-1).mean(0))
    residuals = (p - hot).reshape(4, -1)
    np.testing.assert_allclose(found.residual_products, residuals @ residuals.T)


def test_logits_of_a_thousand_are_finite_in_every_column():
    found = evaluate([[[0.0, 1000.0]], [[0.0, 3000.0]]], [0])
    assert found.nll[0] == pytest.approx(1000 + np.log(2))
    assert found.member_nll.tolist() == [[1000], [3000]]
    assert found.mutual_information.tolist() == [0]


def test_one_network_may_have_two_axes(draw):
    logits, labels = draw(1, 9, 4)
    np.testing.assert_array_equal(evaluate(logits[0], labels).nll, evaluate(logits, labels).nll)


def test_labels_out_of_range_are_refused(draw):
    with pytest.raises(RequestError, match="labels has class 3, and there are 3 classes"):
        evaluate(np.zeros((2, 3, 3)), [0, 1, 3])
    with pytest.raises(RequestError, match="logits has 3 examples and there are 2 labels"):
        evaluate(np.zeros((2, 3, 4)), [0, 1])
