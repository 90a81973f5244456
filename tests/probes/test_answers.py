"""Answers are the network's logits on the objective's data, whatever the layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.answers import answers

N, C = 7, 3


def data(width=4):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, width, generator=generator, dtype=torch.float64)
    return inputs, torch.arange(N) % C


def linear(outputs=C, width=4):
    torch.manual_seed(1)
    return nn.Linear(width, outputs, dtype=torch.float64)


def test_they_are_the_networks_in_the_order_of_the_data():
    model, (inputs, labels) = linear(), data()
    found = answers(Objective(model, (inputs, labels), batch_size=3))
    torch.testing.assert_close(found.logits, model(inputs).detach())
    assert found.labels.tolist() == labels.tolist()


def test_elsewhere_they_are_those_of_the_other_weights():
    model, (inputs, labels) = linear(), data()
    objective = Objective(model, (inputs, labels))
    found = answers(objective, 2 * objective.theta)
    torch.testing.assert_close(found.logits, 2 * model(inputs).detach())


def test_one_logit_has_two_columns():
    model, (inputs, _) = linear(1), data()
    targets = torch.tensor([0.0, 1, 1, 0, 1, 0, 0], dtype=torch.float64)
    found = answers(Objective(model, (inputs, targets[:, None]), "bce"))
    assert found.labels.tolist() == targets.tolist()
    torch.testing.assert_close(found.logits[:, 1:], model(inputs).detach())
    assert not found.logits[:, 0].any()


def test_one_logit_may_be_flat_and_its_targets_soft():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear(1)

        def forward(self, inputs):
            return self.inner(inputs)[:, 0]

    model, (inputs, _) = Flat(), data()
    targets = torch.tensor([0.2, 0.9, 1, 0, 0.6, 0.5, 0], dtype=torch.float64)
    for shaped in (targets, targets[:, None]):
        found = answers(Objective(model, (inputs, shaped), "bce"))
        assert found.labels.tolist() == [0, 1, 1, 0, 1, 0, 0]
        torch.testing.assert_close(found.logits[:, 1], model(inputs).detach())


def test_a_column_of_classes_and_a_class_that_is_left_out():
    model, (inputs, labels) = linear(), data()
    column = answers(Objective(model, (inputs, labels[:, None])))
    assert column.labels.tolist() == labels.tolist()
    without = answers(Objective(model, (inputs, labels), nn.CrossEntropyLoss(ignore_index=1)))
    torch.testing.assert_close(without.logits, model(inputs).detach()[labels != 1])
    assert without.labels.tolist() == labels[labels != 1].tolist()


def test_they_are_double_without_a_graph_and_dropout_is_off():
    model = nn.Sequential(linear().float(), nn.Dropout(0.5))
    inputs, labels = data()
    found = answers(Objective(model, (inputs.float(), labels)))
    assert found.logits.dtype == torch.float64
    objective = Objective(model, (inputs.float(), labels))
    assert not answers(objective, objective.theta.clone().requires_grad_()).logits.requires_grad
    expected = model[0](inputs.float()).detach().double()
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-6)


def test_positions_are_examples_and_those_left_out_are_not():
    class Tokens(nn.Module):
        def __init__(self, last):
            super().__init__()
            self.inner, self.last = linear(), last

        def forward(self, inputs):
            out = self.inner(inputs)
            return out if self.last else out.movedim(-1, 1)

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(C, (2, 5), generator=generator)
    targets[1, 3:] = -100
    plain = Tokens(last=True)(inputs).detach()[targets >= 0]
    found = answers(Objective(Tokens(last=False), (inputs, targets)))
    torch.testing.assert_close(found.logits, plain)
    assert found.labels.tolist() == targets[targets >= 0].tolist()


def test_batch_norm_has_the_statistics_of_the_policy():
    model = nn.Sequential(linear(), nn.BatchNorm1d(C, affine=False, dtype=torch.float64))
    inputs, labels = data()
    found = answers(Objective(model, (inputs, labels), bn="recalibrate"))
    torch.testing.assert_close(found.logits.mean(0), torch.zeros(C, dtype=torch.float64))
    own = dict(model.named_buffers()) | {"1.running_mean": torch.ones(C, dtype=torch.float64)}
    moved = answers(Objective(model, (inputs, labels)), buffers=own)
    policy = answers(Objective(model, (inputs, labels), bn="recalibrate"), buffers=own)
    torch.testing.assert_close(policy.logits, found.logits)
    expected = (model[0](inputs).detach() - 1) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(moved.logits, expected)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "reason"),
    [
        ("mse", C, torch.zeros(N, C, dtype=torch.float64), "targets are no class indices"),
        ("mse", C, torch.zeros(N, C, dtype=torch.int64), r"outputs \(7, 3\) and targets \(7, 3\)"),
        ("bce", C, torch.zeros(N, C, dtype=torch.float64), "3 yes-or-no targets"),
        (lambda model, batch: model(batch[0]).square().mean(), C, torch.zeros(N), "hides"),
    ],
)
def test_losses_without_classes_are_refused(loss, outputs, targets, reason):
    objective = Objective(linear(outputs), (data()[0], targets), loss)
    with pytest.raises(RequestError, match=reason):
        answers(objective)


def test_numbers_that_are_whole_are_no_classes():
    model = nn.Sequential(linear(1), nn.Flatten(0))
    with pytest.raises(RequestError, match="targets are no class indices"):
        answers(Objective(model, (data()[0], data()[1]), "mse"))
