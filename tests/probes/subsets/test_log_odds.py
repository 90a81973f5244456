import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.subsets.log_odds import log_odds


def test_it_is_the_logarithm_of_the_odds():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    wanted = (p / (1 - p)).log().numpy()
    np.testing.assert_allclose(log_odds(logits, labels), wanted, atol=1e-12)
    found = log_odds(logits.softmax(1), labels, space="probabilities")
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_two_classes_give_the_difference_of_the_logits():
    np.testing.assert_allclose(log_odds([[1.0, 4.0], [0.0, -2.0]], [1, 1]), [3.0, -2.0], atol=1e-15)


def test_sure_models_are_still_told_apart():
    logits = np.array([[60.0, 0.0, 0.0], [500.0, 0.0, 0.0], [-800.0, 0.0, 0.0]], dtype=np.float32)
    found = log_odds(logits, [0, 0, 0])
    np.testing.assert_allclose(found, logits[:, 0] - np.log(2))
    certain = log_odds([[1.0, 0.0], [0.0, 1.0]], [0, 0], space="probabilities")
    np.testing.assert_allclose(certain, [-np.log(1e-45), np.log(1e-45)])  # finite


def test_many_models_at_once_and_shifts_of_the_logits():
    logits = np.random.default_rng(0).normal(size=(3, 5, 4))
    labels = np.array([0, 1, 2, 3, 0])
    found = log_odds(logits, labels)
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found[1], log_odds(logits[1], labels), atol=1e-14)
    np.testing.assert_allclose(log_odds(logits + 100, labels), found, atol=1e-12)


@pytest.mark.parametrize(
    ("outputs", "labels", "space", "message"),
    [
        ([[1.0], [2.0]], [0, 0], "logits", "one class has no odds"),
        ([[1.0, 2.0]], [0, 1], "logits", "for 2 labels"),
        ([[1.0, 2.0]], [2], "logits", "there are 2 classes"),
        ([1.0, 2.0], [0], "logits", "has shape"),
        ([[1.0, 2.0]], [0], "logit", "unknown space"),
        ([[1.0, 2.0]], [0], "probabilities", "no probabilities"),
        ([[1.5, -0.5]], [0], "probabilities", "no probabilities"),
    ],
)
def test_wrong_requests_are_refused(outputs, labels, space, message):
    with pytest.raises(RequestError, match=message):
        log_odds(outputs, labels, space=space)
