"""Moments of BatchNorm's inputs, pooled over batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.batch_norm import Moments


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPES = {"features": (12, 3), "sequences": (12, 3, 5), "images": (12, 3, 4, 2)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_moments_are_those_that_batch_norm_takes_itself(shape):
    values = 2 + 3 * normal(*shape)
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](3, momentum=1.0)
    norm.double().train()(values)
    found = Moments.of(values)
    assert found.count == values.numel() // 3
    torch.testing.assert_close(found.mean, norm.running_mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.variance, norm.running_var, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("sizes", [[12], [5, 7], [1, 1, 10], [3, 4, 5]])
def test_pooled_moments_are_those_of_the_whole(sizes):
    values = 5 + normal(12, 3, 4)
    parts = [Moments.of(part) for part in values.split(sizes)]
    pooled, whole = sum(parts[1:], start=parts[0]), Moments.of(values)
    assert pooled.count == whole.count
    torch.testing.assert_close(pooled.mean, whole.mean, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(pooled.variance, whole.variance, rtol=1e-13, atol=1e-13)


def test_pooling_does_not_cancel_far_from_zero():
    values = 1e8 + normal(2000, 1)
    pooled = Moments.of(values[:700]) + Moments.of(values[700:])
    exact = (values - 1e8).var(dim=0)  # exact: the shift is a whole number of units
    torch.testing.assert_close(pooled.variance, exact, rtol=1e-6, atol=0)


def test_a_single_value_has_no_variance():
    assert Moments.of(normal(1, 3)).variance.tolist() == [0.0, 0.0, 0.0]


def test_single_precision_inputs_are_added_up_in_double():
    values = (1000 + normal(500, 2)).float()
    found = Moments.of(values)
    assert found.mean.dtype == torch.float64
    torch.testing.assert_close(found.variance, values.double().var(dim=0), rtol=1e-12, atol=0)
