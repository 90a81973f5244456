import random

import numpy as np
import pytest
import torch
from torch import nn

from landscape.trainers.examples import Examples, loss_task
from landscape.trainers.gradients import Gradients, choose_chunk
from landscape.trainers.models import cnn, mlp
from landscape.trainers.stacking import stack
from landscape.trainers.training import Plan, fit

MEMBERS = 3


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, inputs):
        return self.b(torch.tanh(self.a(inputs)))


class Wrapped(nn.Module):
    """A linear layer before something that a recording cannot hold."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)


class BranchesOnValues(Wrapped):
    def forward(self, inputs):
        outputs = self.layer(inputs)
        return outputs if inputs.sum() > 0 else -3 * outputs


class DrawsInPython(Wrapped):
    """Seldom anything but 1: no comparison of a few values would show it."""

    def forward(self, inputs):
        return self.layer(inputs) * (1 + int(random.random() < 0.02))


class DrawsInNumPy(Wrapped):
    def forward(self, inputs):
        return self.layer(inputs) * (1 + (np.random.randint(50) == 0))  # noqa: NPY002


class ReadsNumPy(Wrapped):
    def forward(self, inputs):
        return self.layer(inputs) * (1 + abs(float(inputs.detach().numpy().mean())))


class CountsPositives(Wrapped):
    def forward(self, inputs):
        return self.layer(inputs) * inputs[inputs > 0].shape[0]


class MeansOfPositives(Wrapped):
    def forward(self, inputs):
        outputs = self.layer(inputs)
        return outputs + outputs[inputs > 0].mean()


class LooksUp(Wrapped):
    """Indexing by whole numbers has a fixed shape: it can be recorded."""

    def forward(self, inputs):
        return self.layer(inputs[:, torch.tensor([3, 1, 1, 0])])


NETWORKS = {
    "mlp": lambda: mlp(4, (5,), 4),
    "layernorm": lambda: mlp(4, (5,), 4, norm="layer"),
    "batchnorm": lambda: mlp(4, (5,), 4, norm="batch"),
    "in-place": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.Hardtanh(inplace=True)
    ),
    "tied": Tied,
    "look-up": LooksUp,
}
UNRECORDABLE = [
    BranchesOnValues, DrawsInPython, DrawsInNumPy, ReadsNumPy, CountsPositives, MeansOfPositives
]  # fmt: skip


def members(make, number=MEMBERS):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return stack([make().double() for _ in range(number)])


def batch(seed=0, size=6, number=MEMBERS):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, size, 4, generator=generator, dtype=torch.float64)
    return [inputs, torch.randint(4, (number, size), generator=generator)]


def copies(rest):
    return {name: tensor.clone() for name, tensor in rest.items()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_replay_is_what_eager_autograd_gives(name, chunk):
    together, task = members(NETWORKS[name]), loss_task("cross_entropy")
    recorded = Gradients(together, task, chunk)
    eager = Gradients(together, task, chunk, replayed=False)
    rests = copies(together.rest), copies(together.rest)
    for seed, size in enumerate([6, 6, 4, 6]):  # the first records, the third anew
        theta = together.theta + 0.1 * seed
        found = recorded(theta, rests[0], batch(seed, size))
        expected = eager(theta, rests[1], batch(seed, size))
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
        for key in rests[1]:
            torch.testing.assert_close(rests[0][key], rests[1][key], rtol=1e-14, atol=1e-14)
    assert recorded.replayed
    assert recorded.peak_bytes > 0
    assert not eager.peak_bytes


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_each_network_alone(name):
    together = members(NETWORKS[name])
    inputs, targets = batch()
    losses, gradients = Gradients(together, loss_task("cross_entropy"), MEMBERS)(
        together.theta, copies(together.rest), [inputs, targets]
    )
    for m in range(MEMBERS):
        model = together.member(m)
        loss = nn.functional.cross_entropy(model(inputs[m]), targets[m])
        own = torch.autograd.grad(loss, list(model.parameters()))
        torch.testing.assert_close(losses[m], loss.detach())
        torch.testing.assert_close(gradients[m], torch.cat([g.flatten() for g in own]))


@pytest.mark.parametrize("network", UNRECORDABLE)
def test_what_cannot_be_recorded_runs_as_it_is(network):
    together, task = members(network, 1), loss_task("cross_entropy")
    work = Gradients(together, task, 1)
    for seed in range(4):
        inputs, targets = batch(seed, number=1)
        if seed > 1:
            inputs = inputs - 1
        before = random.getstate(), np.random.get_state()  # noqa: NPY002
        if seed == 0:  # recording draws as well
            work(together.theta, {}, [inputs, targets])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        _, gradients = work(together.theta, {}, [inputs, targets])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        model = together.member(0)
        loss = nn.functional.cross_entropy(model(inputs[0]), targets[0])
        own = torch.autograd.grad(loss, list(model.parameters()))
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.testing.assert_close(gradients[0], torch.cat([g.flatten() for g in own]))
    assert not work.replayed


def test_what_vmap_cannot_run_is_run_one_member_at_a_time():
    together = members(BranchesOnValues)
    inputs, targets = batch()
    plan = Plan(
        steps=3, learning_rate=[0.1] * 3, batch_size=4, seeds=[0, 1, 2], loss="cross_entropy"
    )
    trained = fit(together, plan, Examples(inputs[0], targets[0]))
    assert trained.chunk == 1
    assert trained.stack.theta.isfinite().all()


@pytest.mark.parametrize("chunk", [1, MEMBERS])
def test_dropout_repeats_with_the_seed_and_is_each_members_own(chunk):
    together = members(lambda: nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 4)))
    same = together.select([0] * MEMBERS)
    inputs, targets = (tensor[:1].expand(MEMBERS, *tensor.shape[1:]) for tensor in batch())
    work = Gradients(same, loss_task("cross_entropy"), chunk)
    found = []
    with torch.random.fork_rng():
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            found.append(work(same.theta, {}, [inputs, targets])[0].clone())
            assert len(found[-1].unique()) == MEMBERS
    assert work.replayed
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_frozen_parameters_have_no_gradient_and_stay():
    def make():
        model = mlp(4, (5,), 4)
        model[1].requires_grad_(False)
        return model

    together = members(make)
    rest = copies(together.rest)
    _, gradients = Gradients(together, loss_task("cross_entropy"), MEMBERS)(
        together.theta, rest, batch()
    )
    assert gradients.shape == (MEMBERS, 5 * 4 + 4)
    assert all(torch.equal(rest[name], tensor) for name, tensor in together.frozen.items())


@pytest.mark.parametrize("chunk", [1, 2, MEMBERS])
def test_running_statistics_move_by_one_batch_a_step(chunk):
    together = members(NETWORKS["batchnorm"])
    rest = copies(together.rest)
    work = Gradients(together, loss_task("cross_entropy"), chunk)
    models = [together.member(m) for m in range(MEMBERS)]
    for seed, size in enumerate([6, 6, 4]):
        inputs, targets = batch(seed, size)
        work(together.theta, rest, [inputs, targets])
        for m, model in enumerate(models):
            model(inputs[m])
            for name, buffer in model.named_buffers():
                torch.testing.assert_close(rest[name][m], buffer, rtol=1e-14, atol=1e-14)
    assert rest["2.num_batches_tracked"].tolist() == [3] * MEMBERS


def test_the_trial_of_chunks_leaves_stack_and_randomness_as_they_are():
    together = members(lambda: nn.Sequential(mlp(4, (5,), 4, norm="batch"), nn.Dropout(0.5)))
    theta, rest = together.theta.clone(), copies(together.rest)
    state = torch.get_rng_state(), random.getstate()
    trial = choose_chunk(together, loss_task("cross_entropy"), batch())
    assert set(trial.seconds) == {1, MEMBERS}
    assert trial.seconds[trial.chosen] == min(trial.seconds.values())
    assert torch.equal(together.theta, theta)
    assert all(torch.equal(together.rest[name], tensor) for name, tensor in rest.items())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


@pytest.mark.slow
def test_a_convolutional_network_is_recorded_as_well():
    together = members(lambda: cnn(1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(MEMBERS, 5, 1, 8, 8, generator=generator, dtype=torch.float64)
    work = Gradients(together, loss_task("cross_entropy"), MEMBERS)
    work(together.theta, copies(together.rest), [inputs, torch.zeros(MEMBERS, 5).long()])
    assert work.replayed
