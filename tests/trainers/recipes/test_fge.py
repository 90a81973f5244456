import numpy as np
import pytest

from landscape.trainers.execution import train
from landscape.trainers.schedules import triangles
from landscape.trainers.training import fit

SHORT = {
    "pretrain_epochs": 1, "epochs": 4, "num_examples": 40, "num_members": 3, "num_scratch": 0,
    "batch_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A family, and the plan of its cycles."""
    plans = []

    def watched(stack, plan, *rest):
        plans.append(plan)
        return fit(stack, plan, *rest)

    # To trace a graph takes longer than the few steps of these tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
        patch.setattr("landscape.trainers.making.fit", watched)
        folder = tmp_path_factory.mktemp("fge") / "out"
        yield train("fge", folder, lr_ratio=1, **SHORT), plans[-1]


def test_members_are_taken_right_after_the_steps_of_the_lowest_rate(run):
    _, plan = run
    cycle = 2 * 5  # epochs a cycle, steps an epoch
    factors = np.array([triangles(cycle)(step) for step in range(2 * cycle)])
    lowest = np.flatnonzero(factors == factors.min())
    assert list(plan.snapshots) == (lowest + 1).tolist() == [6, 16]
    assert [plan.schedule(step) for step in lowest] == [0.01, 0.01]
    assert plan.steps == 16


def test_the_rate_changes_with_each_batch(run):
    _, plan = run
    rates = np.array([plan.schedule(step) for step in range(plan.steps)])
    np.testing.assert_allclose(np.abs(np.diff(rates)), 0.99 / 5)


def test_the_members_lie_on_one_path(run):
    family, _ = run
    table = family.members.set_index("name")
    assert table.loc["model-1":"model-3", "step"].tolist() == [20, 26, 36]
    assert 0 < table.loc["model-2", "distance"] < table.loc["model-3", "distance"]


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    ensemble = train("fge", tmp_path / "out").group("ensemble")
    assert float(ensemble["ensemble_test_accuracy"]) > 0.93
    assert float(ensemble["barrier"][:-1].max()) < 0.01
