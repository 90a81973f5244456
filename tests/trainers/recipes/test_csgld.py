import math

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.examples import Examples
from landscape.trainers.execution import train
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.recipes.csgld import in_last_part
from landscape.trainers.stacking import stack
from landscape.trainers.training import Plan, fit

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
        folder = tmp_path_factory.mktemp("csgld") / "out"
        yield train("csgld", folder, lr_ratio=0.5, temperature=0.01, **SHORT), plans[-1]


def test_noise_joins_in_the_last_part_of_each_cycle_only(run):
    _, plan = run
    loud = [step for step in range(plan.steps) if plan.noise_schedule(step)]
    assert loud == [16, 17, 18, 19, 36, 37, 38, 39]  # the last fifth of 20 steps
    assert list(plan.snapshots) == [20, 40]


@pytest.mark.parametrize(("share", "expected"), [(1.0, 10), (0.5, 5), (0.2, 2), (0.001, 1)])
def test_some_step_of_a_cycle_is_noisy_and_with_a_share_of_1_all_are(share, expected):
    schedule = in_last_part(10, share)
    assert [schedule(step) for step in range(20)].count(1.0) == 2 * expected


def test_the_noise_is_that_of_langevin_dynamics_on_the_sum_of_the_losses(run):
    _, plan = run
    rate = plan.learning_rate[0]
    assert rate == pytest.approx(0.5 * 0.05 / (1 - 0.9))
    assert plan.optimizer.momentum == 0
    # Per step sqrt(2 T lr / n), in units of sqrt(lr).
    assert plan.optimizer.noise == pytest.approx(math.sqrt(2 * 0.01 / 40))


def test_a_share_above_1_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"noisy_share=1\.5 is above 1"):
        train("csgld", tmp_path / "out", noisy_share=1.5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_noise_draws_from_the_posterior_at_its_temperature(temperature):
    # A linear model and a Gaussian prior: the posterior of a weight is Gaussian, too. Each output
    # has a weight of its own, so that one network is many chains.
    count, decay, rate, chains = 8, 0.3, 0.2, 4000
    inputs = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    targets = torch.zeros(count, 1, dtype=torch.float64)
    model = nn.Linear(1, chains, bias=False).double()

    def task(network, inputs, targets):
        return 0.5 * (network(inputs) - targets).square().sum(1).mean()

    plan = Plan(
        steps=150,
        learning_rate=[rate],
        batch_size=count,
        seeds=[0],
        loss="bce",
        task=task,
        optimizer=Optimizer(noise=math.sqrt(2 * temperature / count)),
        weight_decay=[decay],
    )
    found = fit(stack([model]), plan, Examples(inputs, targets)).stack.theta[0]
    curvature = (inputs.square().mean() + decay).item()
    # Steps of finite length widen the variance a little, by a known factor.
    exact = temperature / (count * curvature) / (1 - rate * curvature / 2)
    assert found.var().item() == pytest.approx(exact, abs=4 * exact * math.sqrt(2 / chains))
    assert abs(found.mean().item()) < 4 * math.sqrt(exact / chains)


def test_the_noise_schedule_alone_decides_when_noise_is_added():
    model = nn.Linear(1, 1).double()
    data = Examples(torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64))

    def moved(schedule):
        plan = Plan(
            steps=3,
            learning_rate=[1e-6],
            batch_size=4,
            seeds=[0],
            loss="bce",
            optimizer=Optimizer(noise=1.0),
            noise_schedule=schedule,
        )
        return fit(stack([model]), plan, data).stack.theta

    silent, once = moved(lambda step: 0.0), moved(lambda step: float(step == 1))
    twice_as_loud = moved(lambda step: 2.0 * (step == 1))
    torch.testing.assert_close(twice_as_loud - silent, 2 * (once - silent), rtol=1e-4, atol=1e-9)
    assert (once - silent).abs().min() > 1e-5


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    ensemble = train("csgld", tmp_path / "out").group("ensemble")
    assert float(ensemble["ensemble_test_accuracy"]) > 0.93
