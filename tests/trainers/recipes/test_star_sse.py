import re

import numpy as np
import pytest
import torch

from landscape.trainers.execution import train
from landscape.trainers.making import Making, Place
from landscape.trainers.recipes import sse, star_sse
from landscape.trainers.stacking import concatenated
from landscape.trainers.training import fit
from landscape.trainers.transfer import CYCLES, CycleOptions, transfer

SHORT = {"pretrain_epochs": 1, "epochs": 2, "num_examples": 40, "num_members": 3, "num_scratch": 0}


@pytest.fixture(scope="module", autouse=True)
def _no_recording():
    # To trace a graph takes longer than the few steps of these tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("making")
    (folder / ".state").mkdir()
    return transfer(CycleOptions(**SHORT), Making(folder, "star-sse", {}, "", Place()))


def weights(family, name):
    return torch.load(family.folder / f"{name}.pt", weights_only=True)["state_dict"]


def test_children_trained_together_are_those_trained_one_after_another(ground):
    problem, seeds = ground.problem, ground.seeds(CYCLES, 3)
    model_1 = ground.networks([5], [0]).to(dtype=torch.float64)
    examples = problem.train.to(dtype=torch.float64)
    together = fit(model_1.select([0] * 3), ground.plan(seeds), examples)
    alone = [fit(model_1, ground.plan([seed]), examples).stack for seed in seeds]
    expected = concatenated(alone).theta
    torch.testing.assert_close(together.stack.theta, expected, rtol=0, atol=1e-12)
    assert (expected[0] - expected[1]).norm() > 1e-3


def test_a_cycle_is_a_cosine_by_epoch_from_the_ratio_times_the_rate(ground):
    options = CycleOptions(**SHORT, lr_ratio=4, epoch_ratio=2.5, learning_rate=0.02)
    assert (options.cycle_rate, options.cycle_epochs) == (0.08, 5)
    plan = ground.plan([0], rate=options.cycle_rate, epochs=options.cycle_epochs)
    epoch = ground.steps_per_epoch
    factors = np.array([plan.schedule(step) for step in range(plan.steps)]).reshape(5, epoch)
    expected = 0.5 * (1 + np.cos(np.pi * np.arange(5) / 5))
    np.testing.assert_allclose(factors, expected[:, None].repeat(epoch, 1))
    assert plan.learning_rate == [0.08]


def test_the_first_cycle_is_that_of_the_sequential_recipe(tmp_path):
    # Same start, same seed, an optimizer without a past: only what comes after differs.
    star, chain = (train(name, tmp_path / name, **SHORT) for name in ("star-sse", "sse"))
    for name, same in (("model-1", True), ("model-2", True), ("model-3", False)):
        first, second = weights(star, name), weights(chain, name)
        for key in first:
            close = torch.allclose(first[key], second[key], rtol=0, atol=1e-5)
            assert close == same, (name, key)


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    # One seed, at the ratios that the header tells of: within, at and beyond the basin's border.
    found = {
        ratio: train("star-sse", tmp_path / f"{ratio}", lr_ratio=ratio).group("ensemble")
        for ratio in (1, 2, 4, 8)
    }
    barrier = {ratio: float(one["barrier"][:-1].max()) for ratio, one in found.items()}
    assert max(barrier[1], barrier[2]) < 1e-3
    assert 0.005 < barrier[4] < barrier[8]
    diversity = [float(one["test_diversity"]) for one in found.values()]
    assert diversity == sorted(diversity)
    accuracy = {ratio: float(one["ensemble_test_accuracy"]) for ratio, one in found.items()}
    assert all(0.92 < accuracy[ratio] < 0.97 for ratio in (1, 2, 4))
    assert accuracy[8] < max(accuracy.values())
    assert float(found[2]["soup_test_accuracy"]) > 0.93
    assert float(found[8]["soup_test_accuracy"]) < 0.4


@pytest.mark.slow
def test_children_are_equally_far_from_model_1_while_those_of_sse_drift_away(tmp_path):
    star, chain = (
        train(name, tmp_path / name, lr_ratio=1).group("ensemble")["distance"].values[1:-1]
        for name in ("star-sse", "sse")
    )
    assert (np.diff(chain) > 0).all()
    index = np.arange(len(star))
    slope, error = np.polyfit(index, star, 1)[0], star.std(ddof=1) / np.sqrt(5)
    assert abs(slope) < 3 * error  # 5: sum of squares of the index around its mean
    assert chain[-1] > star.max()


@pytest.mark.parametrize("recipe", [sse, star_sse])
def test_the_header_says_on_how_many_runs(recipe):
    assert re.search(r"\d+ seeds", recipe.__doc__)
