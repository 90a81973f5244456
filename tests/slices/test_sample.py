"""Samples: the first examples of an objective, as an objective of its own."""

from __future__ import annotations

import pytest
import torch
from oracles import MLP, cut, network

from landscape.objective import Objective
from landscape.slices.sample import first_batch, first_examples


def test_a_sample_is_the_same_objective_of_the_first_examples():
    model, inputs, labels = network(MLP, num=100)
    objective = Objective(model, cut(inputs, labels, 30))
    sample = first_examples(objective, 70)
    assert [len(batch[0]) for batch in sample.batches] == [30, 30, 10]
    assert sample.batches.num_examples == 70
    assert torch.equal(torch.cat([batch[0] for batch in sample.batches]), inputs[:70])
    assert [len(batch[1]) for batch in first_batch(objective).batches] == [30]
    assert first_examples(objective, 10**6).batches.num_examples == 100
    assert objective.batches.num_examples == 100
    mean = objective.per_example()[:70].mean()
    assert sample.losses(objective.theta[None]).item() * 100 == pytest.approx(70 * mean.item())
