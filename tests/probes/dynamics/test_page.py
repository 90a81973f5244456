"""A page counts what it may not wait for, and says it when it is checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.dynamics.page import Page, columns, positions

LABELS = torch.tensor([0, 1, 2, 1])


def entered(at, labels=None, views=1, augmentation=None):
    page = Page(LABELS, views)
    page.enter(torch.tensor(at), torch.zeros(len(at), 3), augmentation, labels)
    return page


def test_what_an_accelerator_was_told_wrongly_comes_to_light_later():
    # As for indices that are not in host memory: nothing is raised on entering.
    with pytest.raises(RequestError, match="indices out of range: 2 of them"):
        entered([0, 4, -1]).check()
    with pytest.raises(RequestError, match="example 2 was presented 2 times"):
        entered([2, 2]).check()
    with pytest.raises(RequestError, match="1 labels are others"):
        entered([0, 1], torch.tensor([0, 2])).check()
    with pytest.raises(RequestError, match="out of range: 1 of them"):
        entered([0, 1], views=2, augmentation=torch.tensor([0, 2])).check()
    entered([0, 1], torch.tensor([0, 1])).check()


def test_entries_are_where_they_belong_and_the_rest_is_not_there():
    page = entered([3, 0])
    assert torch.isnan(page.block).all(1).tolist() == [False, True, True, False]
    page = entered([3, 0], views=2, augmentation=torch.tensor([1, 0]))
    assert page.counts.tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


def test_indices_in_host_memory_are_looked_at_at_once():
    own = LABELS.numpy()
    for at in ([0, 4], [-1]):
        with pytest.raises(RequestError, match="indices out of range"):
            positions(torch.tensor(at), None, own)
    with pytest.raises(RequestError, match="twice in the batch"):
        positions([1, 1], None, own)
    with pytest.raises(RequestError, match="1 labels are others"):
        positions([1, 2], torch.tensor([1, 1]), own)
    for at in ([0.0, 1.0], [[0]], [True, False]):
        with pytest.raises(RequestError, match=r"expected \(b,\) integers"):
            positions(at, None, own)
    with pytest.raises(RequestError, match=r"labels has shape \(1,\)"):
        positions([1, 2], torch.tensor([1]), own)
    for at in ([1, 2], np.array([1, 2]), torch.tensor([1, 2], dtype=torch.int32), range(1, 3)):
        assert positions(at, torch.tensor([1, 2]), own).tolist() == [1, 2]


def test_logits_of_a_batch_have_a_row_an_index():
    assert columns(torch.zeros(2, 3), 2, 3, 1, None).shape == (2, 3)
    assert columns(torch.zeros(2, 4, 3), 2, 3, 4, None).shape == (2, 4, 3)
    assert columns(torch.zeros(2, 3), 2, 3, 4, 1).shape == (2, 3)
    with pytest.raises(RequestError, match=r"logits has shape \(3,\), expected \(1, 3\)"):
        columns(torch.zeros(3), 1, 3, 1, None)  # a squeezed batch of one
    with pytest.raises(RequestError, match=r"expected \(2, 4, 3\). Name the view"):
        columns(torch.zeros(2, 3), 2, 3, 4, None)
    for augmentation in (4, -1, torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(RequestError, match=r"expected one of 0 ... 3"):
            columns(torch.zeros(2, 3), 2, 3, 4, augmentation)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_one_logit_has_two_columns(shape):
    found = columns(torch.tensor([3.0, -1.0]).reshape(shape), 2, 2, 1, None)
    assert found.tolist() == [[0, 3], [0, -1]]
