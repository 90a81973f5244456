"""Hoyer and Gini by their closed forms, and by the properties that tell them apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.features.sparsity_measures import gini, hoyer, l0

MEASURES = [hoyer, gini]


def vector(count=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64) + 0.01


@pytest.mark.parametrize("count", [2, 5, 64])
def test_one_hot_is_the_sparsest(count):
    one_hot = torch.zeros(count)
    one_hot[count // 2] = -3
    assert float(hoyer(one_hot)) == pytest.approx(1, abs=1e-14)
    assert float(gini(one_hot)) == pytest.approx(1 - 1 / count, abs=1e-15)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("count", [2, 3, 50])
def test_what_is_the_same_everywhere_is_not_sparse(measure, count):
    assert float(measure([0.1] * count)) == pytest.approx(0, abs=1e-14)


def test_small_vectors_by_hand():
    assert float(hoyer([3, 4])) == pytest.approx((2**0.5 - 7 / 5) / (2**0.5 - 1))
    # 1 - 2 (1/7 (2 - 1 + 1/2) / 2 + ...) of 1, 2, 4: 1 - 2/21 (5/2 + 2 * 3/2 + 4 * 1/2)
    assert float(gini([2, 1, -4])) == pytest.approx(1 - 2 / 21 * 7.5)


def test_gini_is_the_mean_difference_over_twice_the_mean():
    x = vector(9)
    difference = (x[:, None] - x).abs().mean()
    assert float(gini(x)) == pytest.approx(float(difference / (2 * x.mean())), abs=1e-14)


def test_hoyer_is_a_function_of_the_treves_rolls_sparseness():
    x = vector(9)
    activity = x.mean() ** 2 / x.square().mean()
    expected = 3 * (1 - activity.sqrt()) / (3 - 1)
    assert float(hoyer(x)) == pytest.approx(float(expected), abs=1e-14)


def test_cloning_leaves_gini_and_changes_hoyer():
    x = vector()
    assert float(gini(x.repeat(3))) == pytest.approx(float(gini(x)), abs=1e-14)
    assert abs(float(hoyer(x.repeat(3)) - hoyer(x))) > 0.01


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_robin_hood_makes_it_less_sparse(measure, seed):
    x = vector(seed=seed)
    taken = x.clone()
    rich, poor = x.argmax(), x.argmin()
    part = 0.3 * (x[rich] - x[poor])
    taken[rich] -= part
    taken[poor] += part
    assert measure(taken) < measure(x) - 1e-4


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("tide", [0.01, 1.0, 100.0])
def test_a_rising_tide_makes_it_less_sparse(measure, tide):
    assert measure(vector() + tide) < measure(vector()) - 1e-4


@pytest.mark.parametrize("measure", MEASURES)
def test_babies_make_it_sparser(measure):
    x = vector()
    assert measure(torch.cat([x, torch.zeros(1)])) > measure(x) + 1e-4


@pytest.mark.parametrize("measure", MEASURES)
def test_one_who_is_rich_enough_makes_it_sparser(measure):
    x = vector()
    richer, richest = x.clone(), x.clone()
    richer[3], richest[3] = 50, 100
    assert measure(x) < measure(richer) < measure(richest)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("scale", [-3.0, 1e-200, 1e200])
def test_scale_order_and_sign_do_not_matter(measure, scale):
    x = vector()
    signs = torch.where(torch.arange(20) % 3 == 0, -1.0, 1.0)
    changed = scale * (x * signs).flip(0)
    assert float(measure(changed)) == pytest.approx(float(measure(x)), abs=1e-13)


@pytest.mark.parametrize("measure", MEASURES)
def test_zero_has_no_sparsity(measure):
    found = measure(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert found.isnan().tolist() == [True, False]


def test_of_a_single_entry_only_gini_says_something():
    assert hoyer([3.0]).isnan()
    assert float(gini([3.0])) == 0


@pytest.mark.parametrize("measure", [*MEASURES, l0])
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_any_dimension_is_taken_and_the_others_are_independent(measure, dim):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    by_hand = np.apply_along_axis(lambda row: float(measure(row)), dim, x.double().numpy())
    found = measure(x, dim=dim)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), by_hand, atol=1e-14)


def test_l0_counts_what_is_above_the_threshold():
    x = [[0.0, -2.0, 0.5], [1e-9, 0.0, 0.0]]
    assert l0(x).tolist() == [2, 1]
    assert l0(x, eps=0.5).tolist() == [1, 0]
    assert l0(x, dim=0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("measure", [*MEASURES, l0])
@pytest.mark.parametrize(("x", "dim"), [(torch.ones(2, 3), 2), (torch.ones(0), 0), (3.0, -1)])
def test_a_dimension_that_is_not_there_is_refused(measure, x, dim):
    with pytest.raises(RequestError, match=r"x has shape .* along dimension"):
        measure(x, dim=dim)


def test_a_negative_threshold_is_refused():
    with pytest.raises(RequestError, match="eps=-1"):
        l0([1.0], eps=-1)
