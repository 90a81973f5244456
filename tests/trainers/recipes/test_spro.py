import math

import pytest
import torch
from torch import nn

from landscape.trainers.examples import Examples
from landscape.trainers.execution import train
from landscape.trainers.gradients import Gradients
from landscape.trainers.recipes.spro import Simplex, log_volume, simplex_task
from landscape.trainers.stacking import stack
from landscape.trainers.training import Plan, fit

SHORT = {
    "pretrain_epochs": 1, "epochs": 2, "num_examples": 40, "num_members": 3, "num_scratch": 0,
    "num_vertices": 3,
}  # fmt: skip


@pytest.fixture
def _no_recording(monkeypatch):
    # To trace a graph takes longer than the few steps of these tests.
    monkeypatch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))


def linear(*weights):
    model = nn.Linear(len(weights), 1, bias=False).double()
    model.weight.data = torch.tensor([weights], dtype=torch.float64)
    return model


@pytest.mark.parametrize(
    ("vertices", "volume"),
    [
        ([[1, 1, 1], [1, 1, 3]], 2),  # a length
        ([[0, 0, 0], [3, 0, 0], [1, 2, 0]], 3),  # an area
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], 1 / 6),
    ],
)
def test_the_volume_is_that_of_elementary_geometry(vertices, volume):
    found = log_volume(torch.tensor(vertices, dtype=torch.float64))
    assert found.item() == pytest.approx(math.log(volume), abs=1e-14)


def test_training_sees_uniform_points_of_the_simplex_and_evaluation_the_vertex():
    # With one-hot vertices, the outputs for one-hot inputs are the weights of the three corners.
    fixed = torch.eye(3, dtype=torch.float64)[:2]
    simplex = Simplex(linear(0, 0, 1), fixed)
    inputs = torch.eye(3, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = torch.stack([simplex(inputs).detach().flatten() for _ in range(4000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(4000, dtype=torch.float64))
    # The flat Dirichlet distribution of three weights: mean 1/3, variance 1/18, covariance -1/36.
    exact = (torch.eye(3, dtype=torch.float64) * 3 - 1) / 36
    assert ((drawn.mean(0) - 1 / 3).abs() < 4 * math.sqrt(1 / 18 / 4000)).all()
    assert ((drawn.T.cov() - exact).abs() < 4 * (1 / 18) * math.sqrt(2 / 4000)).all()
    assert simplex.eval()(inputs).flatten().tolist() == [0, 0, 1]


def test_the_gradient_is_that_of_the_loss_at_the_point_less_the_volumes():
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    vertex = torch.randn(4, generator=generator, dtype=torch.float64)
    inputs = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    targets = torch.ones(5, 1, dtype=torch.float64)
    simplex = stack([Simplex(linear(*vertex.tolist()), fixed)])
    task = simplex_task("bce", 0.3)

    def by_hand(theta):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            weights = -torch.log1p(-torch.rand(3, dtype=torch.float64))
        corners = torch.cat([fixed, theta[None]])
        logits = inputs @ (weights / weights.sum() @ corners)
        edges = corners[1:] - corners[0]
        log_area = 0.5 * torch.logdet(edges @ edges.T) - math.log(2)
        return nn.functional.softplus(-logits).mean() - 0.3 * log_area

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        batch = [inputs[None], targets[None]]
        losses, gradients = Gradients(simplex, task, 1)(simplex.theta, simplex.rest, batch)
    theta = vertex.clone().requires_grad_()
    expected = by_hand(theta)
    torch.testing.assert_close(losses[0], expected.detach())
    (slope,) = torch.autograd.grad(expected, theta)
    torch.testing.assert_close(gradients[0], slope, rtol=1e-10, atol=1e-12)


def test_each_step_draws_another_point_also_where_the_graph_is_replayed(monkeypatch):
    # The gradient at a point is its weight times that of the loss, which is constant here.
    simplex = stack([Simplex(linear(0.5, 1.0), torch.zeros(1, 2, dtype=torch.float64))])
    data = Examples(torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))

    def task(network, inputs, targets):
        return network(inputs).sum()

    def moves(seed):
        plan = Plan(
            steps=4,
            learning_rate=[1.0],
            batch_size=2,
            seeds=[seed],
            loss="bce",
            task=task,
            snapshots=range(5),
        )
        trained = fit(simplex, plan, data)
        weights = torch.cat([trained.at(step).theta for step in range(5)])
        return weights.diff(dim=0)[:, 0]

    replayed = moves(0)
    assert len(set(replayed.tolist())) == 4
    assert ((replayed < 0) & (replayed > -1)).all()
    assert torch.equal(moves(0), replayed)
    assert not torch.equal(moves(1), replayed)
    monkeypatch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
    torch.testing.assert_close(moves(0), replayed)


@pytest.mark.usefixtures("_no_recording")
def test_earlier_vertices_stay_and_members_lie_within_the_simplex(tmp_path):
    family = train("spro", tmp_path / "out", **SHORT)

    def weights(name):
        state = torch.load(family.folder / f"{name}.pt", weights_only=True)["state_dict"]
        return torch.cat([tensor.flatten().double() for tensor in state.values()])

    table = family.members.set_index("name")
    corners = torch.stack([weights(f"vertex-{index}") for index in (1, 2, 3)])
    assert table.loc["model-1", "file"] == "vertex-1.pt"  # equal weights share a file
    for name in ("model-2", "model-3"):
        solved = torch.linalg.lstsq((corners[1:] - corners[0]).T, (weights(name) - corners[0]))
        inside = torch.cat([1 - solved.solution.sum()[None], solved.solution])
        assert (inside > -1e-4).all()
        rebuilt = inside @ corners
        torch.testing.assert_close(rebuilt, weights(name), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    ensemble = train("spro", tmp_path / "out").group("ensemble")
    assert float(ensemble["ensemble_test_accuracy"]) > 0.93
    assert float(ensemble["barrier"][:-1].max()) < 0.01
