import math

import pytest
import torch

from landscape.trainers.schedules import constant, cosine, cosine_cycles, delayed, triangles


def test_constant_is_one():
    assert [constant()(step) for step in (0, 7, 10**9)] == [1, 1, 1]


def test_cosine_is_that_of_torch():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    ours = cosine(20)
    for step in range(20):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_cosine_rises_linearly_first():
    factor = cosine(110, warmup=10)
    assert [factor(step) for step in range(10)] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factor(10) == 1
    assert factor(60) == pytest.approx(0.5)
    assert factor(110) == pytest.approx(0, abs=1e-15)


def test_cosine_holds_its_value_for_an_epoch():
    factor, smooth = cosine(40, hold=10), cosine(40)
    for step in range(40):
        assert factor(step) == smooth(step // 10 * 10)


def test_cycles_start_again_from_one():
    factor = cosine_cycles(8)
    assert [factor(step) for step in (0, 8, 16)] == [1, 1, 1]
    assert factor(12) == pytest.approx(0.5)
    assert factor(15) == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def test_delayed_starts_the_other_schedule_from_its_first_step():
    factor, later = delayed(5, cosine(10)), cosine(10)
    assert [factor(step) for step in range(5)] == [1] * 5
    assert [factor(step) for step in range(5, 15)] == [later(step) for step in range(10)]


def test_triangles_are_lowest_in_the_middle_of_each_cycle():
    factor = triangles(10, low=0.2)
    for cycle in (0, 10, 50):
        assert factor(cycle) == 1
        assert factor(cycle + 5) == pytest.approx(0.2)
        assert factor(cycle + 2) == pytest.approx(factor(cycle + 8)) == pytest.approx(0.68)
