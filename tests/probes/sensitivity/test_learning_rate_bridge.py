from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.learning_rate_bridge import _trained_on_all, learning_rate_bridge
from landscape.probes.subsets.training import Training
from landscape.trainers.examples import Examples

pytestmark = pytest.mark.slow  # networks are trained

NUM_WRONG = 8


def noisy(num_examples=40):
    """Two classes by the sign of the first input; the first eight have the other label."""
    inputs = torch.randn(num_examples, 4, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] > 0).long()
    labels[:NUM_WRONG] = 1 - labels[:NUM_WRONG]
    return inputs, labels


def perceptron():
    return nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 2))


def test_mislabelled_examples_are_memorized_at_the_rates_at_which_the_network_fits_them():
    told = []
    found = learning_rate_bridge(
        perceptron, noisy(), [0.001, 0.3], num_subsets=24, num_networks=2,
        training=Training(epochs=60, batch_size=16),
        progress=lambda *words: told.append(words),
    )  # fmt: skip
    wrong, right = found.memorization[:, :NUM_WRONG], found.memorization[:, NUM_WRONG:]
    assert wrong[1].mean() > 0.6 > wrong[0].mean()
    assert wrong[1].mean() > right[1].mean() + 0.3
    assert found.accuracy_in[1] > 0.95 > found.accuracy_in[0]
    assert found.trends["memorization"].low > 0
    assert found.correlations["curvature"][1].low > 0
    assert np.isfinite(found.barrier_share).all()
    assert np.isfinite(found.loss).all()
    assert told == [(1, 2, "learning rates"), (2, 2, "learning rates")]
    again = learning_rate_bridge(
        perceptron, noisy(), [0.001, 0.3], num_subsets=24, num_networks=2,
        training=Training(epochs=60, batch_size=16),
    )  # fmt: skip
    np.testing.assert_array_equal(found.memorization, again.memorization)
    np.testing.assert_array_equal(found.curvature, again.curvature)


def test_networks_start_alike_at_every_learning_rate_and_the_generator_is_left_alone():
    inputs, labels = noisy(12)
    state = torch.get_rng_state()
    stacked = _trained_on_all(
        perceptron, Examples(inputs, labels), [1e-12, 0.5], 2, Training(epochs=1), 0
    )
    assert torch.equal(state, torch.get_rng_state())
    still, moved = stacked.theta[:2], stacked.theta[2:]
    assert not torch.equal(still[0], still[1])
    distances = (moved - still).norm(dim=1)
    assert (distances > 0.01).all()
    assert (distances < (moved.flip(0) - still).norm(dim=1)).all()


def test_members_are_those_that_train_alone():
    inputs, labels = noisy(12)
    examples, training = Examples(inputs, labels), Training(epochs=2, batch_size=5)
    together = _trained_on_all(perceptron, examples, [0.1, 0.5], 2, training, 0)
    alone = _trained_on_all(perceptron, examples, [0.5], 2, training, 0)
    torch.testing.assert_close(together.theta[2:], alone.theta, rtol=1e-4, atol=1e-6)
    objective = Objective(together.member(3), (inputs, labels))
    torch.testing.assert_close(objective.theta, together.theta[3])


def test_a_learning_rate_at_which_training_diverges_is_named():
    inputs, labels = noisy(12)
    model = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))  # noqa: E731
    with pytest.raises(RequestError, match=r"diverges at the learning rates \[1e\+20\]"):
        learning_rate_bridge(model, (inputs * 1e10, labels), [1e-25, 1e20], num_networks=2)


@pytest.mark.parametrize("options", [{"num_networks": 1}, {"learning_rates": [0.1]},
                                     {"learning_rates": [0.0, 0.1]}])  # fmt: skip
def test_wrong_options_are_refused(options):
    with pytest.raises(RequestError, match="expected 2 networks or more"):
        learning_rate_bridge(perceptron, noisy(), **{"learning_rates": [0.1, 0.2], **options})
