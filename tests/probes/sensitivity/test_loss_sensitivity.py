from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.loss_sensitivity import (
    SensitivityRecorder,
    class_sensitivity,
    loss_sensitivity,
)


def softmax_gradients(regression, scale=1.0):
    """(N, 5) of softmax regression at weights scale W: (p - y) W."""
    weight = scale * regression.weight
    p = (regression.inputs @ weight.T).softmax(1)
    return ((p - regression.one_hot) @ weight).numpy()


def test_of_softmax_regression_it_is_the_closed_form(regression):
    found = loss_sensitivity(regression.objective)
    kept = regression.kept.numpy()
    wanted = np.abs(softmax_gradients(regression)).sum(1)
    np.testing.assert_allclose(found.value[kept], wanted[kept], rtol=1e-12)
    assert np.isnan(found.value[~kept]).all()
    assert (found.num_looks == kept).all()


def test_gini_is_that_of_the_values(regression):
    found = loss_sensitivity(regression.objective)
    known = found.value[~np.isnan(found.value)]
    pairs = np.abs(known[:, None] - known).sum()
    assert found.gini == pytest.approx(pairs / (2 * len(known) * known.sum()), rel=1e-12)
    assert found.gini_low < found.gini < found.gini_high


def test_gini_of_equal_values_is_0_and_of_one_value_1_less_its_share():
    recorder = SensitivityRecorder(4)
    recorder.add(range(4), torch.ones(4, 3))
    assert recorder.result().gini == pytest.approx(0)
    recorder = SensitivityRecorder(4)
    recorder.add(range(4), torch.tensor([[0.0], [0], [-2], [0]]))
    assert recorder.result().gini == pytest.approx(3 / 4)


def test_over_training_it_is_the_mean_of_the_steps_and_the_recorder_agrees(regression):
    scales = (1.0, 0.5, 2.0)
    thetas = torch.stack([scale * regression.objective.theta for scale in scales])
    offline = loss_sensitivity(regression.objective, thetas)
    wanted = np.mean([np.abs(softmax_gradients(regression, s)).sum(1) for s in scales], 0)
    kept = regression.kept.numpy()
    np.testing.assert_allclose(offline.value[kept], wanted[kept], rtol=1e-12)
    recorder = SensitivityRecorder(13)
    for theta in thetas:
        recorder.record(regression.objective, theta)
    online = recorder.result()
    np.testing.assert_allclose(online.value, offline.value, rtol=1e-12)
    assert online.gini_low == offline.gini_low
    assert (online.num_looks[kept] == 3).all()


def test_a_training_loop_may_add_its_own_gradients_in_any_order_and_number():
    gradients = torch.randn(7, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    norms = gradients.double().abs().flatten(1).sum(1).numpy()
    recorder = SensitivityRecorder(5)
    recorder.add(torch.tensor([2, 0, 2, 2]), gradients[:4])  # one of them three times
    recorder.add([4], gradients[4:5])  # a batch of one
    recorder.add([0, 4], gradients[5:])
    found = recorder.result()
    wanted = [norms[[1, 5]].mean(), np.nan, norms[[0, 2, 3]].mean(), np.nan, norms[[4, 6]].mean()]
    np.testing.assert_allclose(found.value, wanted)
    np.testing.assert_array_equal(found.num_looks, [2, 0, 3, 0, 2])


def test_what_was_never_looked_at_is_nan_and_not_0():
    found = SensitivityRecorder(3).result()
    assert np.isnan(found.value).all()
    assert np.isnan([found.gini, found.gini_low, found.gini_high]).all()


def test_a_result_does_not_change_when_more_is_recorded():
    recorder = SensitivityRecorder(2)
    recorder.add([0, 1], torch.ones(2, 1))
    found = recorder.result()
    recorder.add([0], 3 * torch.ones(1, 1))
    np.testing.assert_array_equal(found.num_looks, [1, 1])
    np.testing.assert_array_equal(recorder.result().value, [2, 1])


def test_classes_have_the_closed_form_of_softmax_regression(regression):
    found = class_sensitivity(regression.objective)
    labels = regression.labels.numpy()
    for i in range(3):
        one_hot = torch.eye(3, dtype=torch.float64)[i]
        gradients = ((regression.probabilities - one_hot) @ regression.weight).abs().sum(1).numpy()
        for j in range(3):
            own = gradients[labels == j]
            assert found.value[i, j] == pytest.approx(own.mean(), rel=1e-12)
            error = own.std(ddof=1) / np.sqrt(len(own))
            assert found.standard_error[i, j] == pytest.approx(error, rel=1e-9)
    np.testing.assert_array_equal(found.num_examples, [(labels == j).sum() for j in range(3)])


def test_its_diagonal_is_the_loss_sensitivity_by_class(objective, checkpoints, data):
    found = class_sensitivity(objective, checkpoints)
    own = loss_sensitivity(objective, checkpoints).value
    labels = data[1].numpy()
    wanted = [own[labels == one].mean() for one in range(3)]
    np.testing.assert_allclose(np.diag(found.value), wanted, rtol=1e-12)


def test_a_class_without_examples_is_nan(network, data):
    objective = Objective(network, (data[0][:3], torch.tensor([0, 0, 2])))
    found = class_sensitivity(objective)
    assert np.isnan(found.value[:, 1]).all()
    assert np.isfinite(found.value[:, [0, 2]]).all()
    assert np.isnan(found.standard_error[:, 2]).all()  # a single example has no spread
    np.testing.assert_array_equal(found.num_examples, [2, 0, 1])


def test_wrong_requests_are_refused(objective):
    with pytest.raises(RequestError, match="has 13 examples, the recorder 12"):
        SensitivityRecorder(12).record(objective)
    with pytest.raises(RequestError, match="2 gradients for 1 indices"):
        SensitivityRecorder(12).add([3], torch.zeros(2, 4))
    with pytest.raises(RequestError, match="indices has class 12"):
        SensitivityRecorder(12).add([12], torch.zeros(1, 4))
    with pytest.raises(RequestError, match="num_examples=0"):
        SensitivityRecorder(0)


def test_token_ids_have_no_gradient():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3))
    objective = Objective(model, (torch.randint(7, (5, 2)), torch.arange(5) % 3))
    with pytest.raises(RequestError, match="Token ids have no gradient"):
        loss_sensitivity(objective)
