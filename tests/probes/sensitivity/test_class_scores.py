from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.class_scores import class_scores


def scores_of(objective):
    (batch,) = objective.batches
    with objective.evaluation():
        term = objective.term(objective.space.split(objective.theta), batch)
    return class_scores(objective.loss_function, term)


def test_logits_labels_and_who_counts(regression):
    inputs, labels = regression.inputs, regression.labels
    found = scores_of(Objective(regression.model, (inputs, labels)))
    torch.testing.assert_close(found.logits, inputs @ regression.weight.T)
    assert found.labels[regression.kept].equal(labels[regression.kept])
    assert found.counted.equal(regression.kept)
    wanted = (regression.probabilities * regression.one_hot).sum(1).log()
    torch.testing.assert_close(found.log_probability, wanted)


def test_one_logit_for_two_classes_is_a_pair():
    model = nn.Linear(5, 1, dtype=torch.float64)
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    found = scores_of(Objective(model, (inputs, labels), "bce"))
    logit = model(inputs).flatten()
    sign = 2 * labels - 1
    torch.testing.assert_close(found.log_probability, nn.functional.logsigmoid(sign * logit))


@pytest.mark.parametrize(
    ("model", "target", "loss"),
    [
        (nn.Linear(5, 3), torch.rand(6, 3), "mse"),
        (nn.Linear(5, 3), torch.rand(6, 3).softmax(1), "cross_entropy"),
        (nn.Linear(5, 3), (torch.rand(6, 3) > 0.5).float(), "bce"),
    ],
)
def test_what_has_no_class_for_each_example_is_refused(model, target, loss):
    with pytest.raises(RequestError, match="one class for each example"):
        scores_of(Objective(model, (torch.rand(6, 5), target), loss))
