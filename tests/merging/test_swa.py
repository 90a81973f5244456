"""Running averages of a run's checkpoints: each prefix is an average of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.merging.averaging import average
from landscape.merging.swa import swa
from landscape.objective import Objective


def classifier(num=40, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs, labels = torch.randn(num, 3, dtype=torch.float64), torch.randint(0, 3, (num,))
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    return Objective(model.double(), (inputs, labels), batch_size=15)


def checkpoints(objective, k=4):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(k, objective.space.size, generator=generator, dtype=torch.float64)
    return objective.theta + 0.5 * noise


def test_each_prefix_is_an_average_of_its_own():
    objective, test = classifier(), classifier(seed=3)
    thetas = checkpoints(objective)
    running = swa(objective, thetas, also={"test": test})
    for count in range(1, 5):
        found = average(objective, thetas[:count], also={"test": test})
        for name in ("", "test"):
            trail, whole = running[name], found[name]
            assert trail.losses[count - 1] == pytest.approx(whole.loss, rel=1e-14)
            assert trail.accuracies[count - 1] == whole.accuracy
            assert trail.checkpoint_losses[count - 1] == whole.member_losses[-1]
            assert trail.checkpoint_accuracies[count - 1] == whole.member_accuracies[-1]
        assert running.distances[count - 1] == pytest.approx(found.distances[-1], rel=1e-12)
    assert torch.equal(running.theta, found.theta)
    assert all(torch.equal(running.buffers[name], found.buffers[name]) for name in found.buffers)


def test_errors_are_those_of_paired_differences():
    objective = classifier()
    recalibrated = objective.under("recalibrate")
    thetas = checkpoints(objective, 2)
    pair = [recalibrated.per_example(theta) for theta in (thetas.mean(0), thetas[1])]
    expected = float((pair[0] - pair[1]).std() / math.sqrt(40))
    errors = swa(objective, thetas)[""].errors
    np.testing.assert_allclose(errors, [0, expected], rtol=1e-10, atol=1e-15)


def test_the_noise_of_a_quadratic_averages_out():
    design = torch.tensor([[2.0], [1.0], [-1.0]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    objective = Objective(model, (design, 3 * design), "mse")
    thetas = torch.tensor([[4.0], [2.0], [3.5], [2.5]], dtype=torch.float64)
    running = swa(objective, thetas)  # loss 2 (theta - 3)^2
    np.testing.assert_allclose(running.losses, [2, 0, 2 / 36, 0], atol=1e-14)
    assert running.best == 2


def test_checkpoints_may_come_from_a_generator():
    objective = classifier()
    thetas = checkpoints(objective)
    np.testing.assert_array_equal(
        swa(objective, iter(thetas)).losses, swa(objective, thetas).losses
    )


def test_the_record_runs_along_the_number_of_checkpoints():
    objective = classifier()
    running = swa(objective, checkpoints(objective), also={"test": classifier(seed=3)})
    dataset = running.to_dataset(vectors=True)
    assert dataset["count"].values.tolist() == [1, 2, 3, 4]
    assert float(dataset["test_final_loss"]) == running["test"].losses[-1]
    assert dataset["theta"].shape == (objective.space.size,)
    assert all({"units", "long_name"} <= set(one.attrs) for one in dataset.variables.values())
    assert running.status == "converged"


def test_no_checkpoints_are_refused():
    with pytest.raises(RequestError, match="no checkpoints"):
        swa(classifier(), [])
