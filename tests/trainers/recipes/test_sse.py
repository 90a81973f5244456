import numpy as np
import pytest

from landscape.trainers.execution import train
from landscape.trainers.training import fit

SHORT = {
    "pretrain_epochs": 1, "epochs": 2, "num_examples": 40, "num_members": 4, "num_scratch": 0,
    "batch_size": 16,
}  # fmt: skip


def test_cycles_follow_each_other_with_a_fresh_optimizer_and_order_each(tmp_path, monkeypatch):
    runs = []

    def watched(stack, plan, *rest):
        runs.append((stack, plan, fit(stack, plan, *rest)))
        return runs[-1][2]

    # To trace a graph takes longer than the few steps of these tests.
    monkeypatch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
    monkeypatch.setattr("landscape.trainers.making.fit", watched)
    family = train("sse", tmp_path / "out", epoch_ratio=1.5, **SHORT)
    _, fine_tuning, *cycles = runs
    ends = [fine_tuning, *cycles]
    for before, (start, plan, _) in zip(ends, cycles, strict=False):
        np.testing.assert_array_equal(start.theta, before[2].stack.theta)
        assert plan.steps == 9  # 3 epochs of 3 steps
    assert len({plan.seeds[0] for _, plan, _ in cycles}) == 3
    assert family.members.query("role != 'soup'")["step"].tolist()[1:] == [6, 15, 24, 33]


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    found = {
        ratio: train("sse", tmp_path / f"{ratio}", lr_ratio=ratio).group("ensemble")
        for ratio in (1, 2, 8)
    }
    for ratio in (1, 2):
        assert float(found[ratio]["barrier"][:-1].max()) < 1e-3
        assert float(found[ratio]["ensemble_test_accuracy"]) > 0.93
    assert (np.diff(found[1]["distance"].values[:5]) > 0).all()
    assert float(found[8]["barrier"][:-1].max()) > 0.3
