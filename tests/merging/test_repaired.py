"""Repaired: what follows from the stages and the layers."""

from __future__ import annotations

import math

import pytest
import torch

from landscape.merging.repaired import STAGES, Repaired, RepairedLayer, Stages


def repaired(losses, ratios=((0.5, 1.0),), alpha=0.25):
    held = dict(zip(STAGES, losses, strict=True))
    layers = [
        RepairedLayer(
            name=str(index), num_channels=3, dead=0, ratio_before=before, ratio_after=after,
            mean_error=0.0, std_error=0.0, sets_mean=True, is_batch_norm=False,
        )
        for index, (before, after) in enumerate(ratios)
    ]  # fmt: skip
    stages = Stages(held, dict.fromkeys(STAGES, 0.5), held["repaired"] - held["merged"], 0.1)
    return Repaired(
        settings={}, theta=torch.zeros(2), buffers={}, alpha=alpha, layers=tuple(layers),
        left_out={}, stages={"": stages},
    )  # fmt: skip


def test_the_barrier_is_measured_from_the_chord_at_alpha():
    # The chord at 0.25 is 1.5: the merged network lies 2 above it, the repaired one 0.5.
    assert repaired([1.0, 3.0, 3.5, 3.5, 2.0]).barrier_reduction() == pytest.approx(0.75)
    assert repaired([1.0, 3.0, 3.5, 3.5, 4.5]).barrier_reduction() == pytest.approx(-0.5)


def test_without_a_barrier_there_is_nothing_to_reduce():
    assert math.isnan(repaired([1.0, 3.0, 1.2, 1.2, 1.1]).barrier_reduction())


def test_ratios_are_means_over_layers_whose_goal_is_not_dead():
    found = repaired([1.0] * 5, [(0.2, 1.0), (math.nan, math.nan), (0.6, 0.8)])
    assert found.ratio_before == pytest.approx(0.4)
    assert found.ratio_after == pytest.approx(0.9)


def test_a_loss_that_is_not_finite_is_no_success():
    assert repaired([1.0, 1.0, 1.0, 1.0, math.inf]).status == "the loss is inf"
