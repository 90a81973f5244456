"""Dead and dormant units, by hand and part by part."""

from __future__ import annotations

import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.features.units import dead_units, dormant_units, unit_activity


def test_a_unit_is_dead_if_it_is_never_above_zero():
    activations = torch.tensor([[0.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.1, 2.0]])
    assert dead_units(activations).tolist() == [True, True, False, False]
    assert (dead_units(activations) == dead_units(activations.relu())).all()


def test_one_position_is_enough_to_live():
    activations = torch.zeros(5, 2, 3, 3)
    activations[4, 1, 2, 0] = 1e-20
    assert dead_units(activations).tolist() == [True, False]


def test_a_dormant_unit_is_quiet_beside_the_others():
    activations = torch.tensor([[1.0, -1.0, 0.1, 0.0], [1.0, 1.0, 0.1, 0.0]])  # mean 0.525
    assert dormant_units(activations, tau=0.0).tolist() == [False, False, False, True]
    assert dormant_units(activations, tau=0.1 / 0.525 - 1e-6).tolist() == [*[False] * 3, True]
    assert dormant_units(activations, tau=0.1 / 0.525 + 1e-6).tolist() == [False, False, True, True]
    assert dormant_units(1e3 * activations).tolist() == dormant_units(activations).tolist()


def test_a_layer_of_zeros_is_dormant_and_dead():
    assert dormant_units(torch.zeros(3, 2)).all()
    assert dead_units(torch.zeros(3, 2)).all()


def test_active_units_are_counted_at_each_position():
    activations = torch.zeros(2, 3, 4)
    activations[0, :, 0] = torch.tensor([1.0, -1.0, 0.3])
    activations[1] = 1
    assert unit_activity(activations).num_active.tolist() == [3 / 4, 3]
    assert unit_activity(activations, eps=0.5).num_active.tolist() == [2 / 4, 3]


@pytest.mark.parametrize("size", [1, 3, 10])
def test_parts_of_the_data_add_up_to_the_whole(size):
    activations = torch.randn(10, 4, 5, generator=torch.Generator().manual_seed(0))
    whole = unit_activity(activations)
    first, *rest = (unit_activity(part) for part in activations.split(size))
    added = sum(rest, first)
    assert (added.highest == whole.highest).all()
    assert (added.num_active == whole.num_active).all()
    assert added.count == whole.count == 50
    torch.testing.assert_close(added.magnitude, whole.magnitude)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dead_units(torch.ones(3)), r"shape \(3,\)"),
        (lambda: dead_units(torch.ones(0, 3)), r"shape \(0, 3\)"),
        (lambda: dormant_units(torch.ones(2, 3), tau=-0.1), "tau=-0.1"),
        (lambda: unit_activity(torch.ones(2, 3), eps=-1), "eps=-1"),
    ],
)
def test_wrong_requests_are_refused(call, message):
    with pytest.raises(RequestError, match=message):
        call()
