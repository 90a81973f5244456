"""Which elements are right, where outputs and targets are classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.accuracy import correctness
from landscape.losses import Term, resolve_loss


def told(loss, output, target):
    resolved = resolve_loss(loss, device=torch.device("cpu"))
    return correctness(resolved, Term(torch.zeros(()), 1.0, output, target))


def logits(predicted, classes=3):
    return F.one_hot(torch.as_tensor(predicted), classes).double()


TARGET = torch.tensor([0, 1, 2, 2])
CASES = {
    "classes": (logits([0, 2, 2, 1]), TARGET, [True, False, True, False]),
    "a column of classes": (logits([0, 2, 2, 1]), TARGET[:, None], [True, False, True, False]),
    "tokens, classes last": (
        logits([[0, 2], [2, 1]]),
        TARGET.view(2, 2),
        [[True, False], [True, False]],
    ),
    "pixels, classes second": (
        logits([[0, 2], [2, 1]]).movedim(-1, 1),
        TARGET.view(2, 2),
        [[True, False], [True, False]],
    ),
}


@pytest.mark.parametrize(("output", "target", "right"), CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("loss", ["cross_entropy", F.cross_entropy, nn.NLLLoss()], ids=str)
def test_right_is_the_largest_logit_at_the_target(loss, output, target, right):
    found = told(loss, output, target)
    assert found.right.tolist() == right
    assert found.count == 4


def test_elements_left_out_neither_count_nor_are_right():
    found = told("cross_entropy", logits([0, 0, 0]), torch.tensor([0, -100, 1]))
    assert found.right.tolist() == [True, False, False]
    assert found.counted.tolist() == [True, False, True]
    assert found.count == 2
    other = told(nn.CrossEntropyLoss(ignore_index=0), logits([0, 0]), torch.tensor([0, 1]))
    assert (other.right.tolist(), other.count) == ([False, False], 1)


def test_binary_outputs_are_right_on_the_right_side_of_the_threshold():
    output = torch.tensor([[2.0], [-1.0], [0.1]])
    target = torch.tensor([1.0, 1.0, 0.0])
    assert told("bce", output, target).right.tolist() == [[True], [False], [False]]
    shares = torch.tensor([0.9, 0.4, 0.6])
    assert told(nn.BCELoss(), shares, target).right.tolist() == [True, False, False]


def test_a_users_loss_of_class_indices_has_an_accuracy():
    found = told(lambda output, target: output.sum(), logits([0, 2, 2, 1]), TARGET)
    assert found.right.tolist() == [True, False, True, False]


NONE = {
    "regression": ("mse", torch.zeros(4, 3), torch.zeros(4, 3)),
    "regression on whole numbers": ("mse", torch.zeros(4, 3), torch.zeros(4, 3).long()),
    "counts": ("mse", torch.zeros(4, 1), TARGET),
    "class probabilities": ("cross_entropy", torch.zeros(4, 3), torch.full((4, 3), 1 / 3)),
    "no output": ("cross_entropy", None, TARGET),
    "one number an example": (lambda o, t: o.sum(), torch.zeros(4), TARGET),
    "shapes that do not fit": (lambda o, t: o.sum(), torch.zeros(4, 3, 5), TARGET),
}


@pytest.mark.parametrize(("loss", "output", "target"), NONE.values(), ids=list(NONE))
def test_where_there_are_no_classes_nothing_is_right_or_wrong(loss, output, target):
    assert told(loss, output, target) is None
