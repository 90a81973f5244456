import math
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from landscape.checkpoint import load_state, read_checkpoint
from landscape.errors import RequestError
from landscape.trainers.data import digits
from landscape.trainers.models import mlp
from landscape.trainers.recipes.single import train_single


@pytest.fixture(autouse=True)
def one_thread():
    # More gain nothing on networks this small, and wait for each other on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(path):
    return read_checkpoint(path).state_dict


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_defaults_train_a_network_that_recognizes_unseen_digits(tmp_path):
    checkpoint = read_checkpoint(train_single(tmp_path))
    assert checkpoint.metrics["test_accuracy"] > 0.95
    assert checkpoint.metrics["train_accuracy"] > 0.99
    assert checkpoint.path.name == "single-mlp-lr0.1-seed0.pt"


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20"])
def test_the_checkpoint_describes_itself_well_enough_to_measure_its_own_metrics(tmp_path, model):
    path = train_single(tmp_path, model=model, epochs=1, batch_size=1000, seed=4)
    checkpoint = read_checkpoint(path)
    network, data = checkpoint.model(), checkpoint.data()
    load_state(network, checkpoint)
    network.eval()
    for split, (inputs, targets) in {"train": data, "test": digits("test")}.items():
        with torch.no_grad():
            logits = network(inputs)
        accuracy = (logits.argmax(1) == targets).double().mean().item()
        assert checkpoint.metrics[f"{split}_accuracy"] == accuracy
        assert math.isclose(
            checkpoint.metrics[f"{split}_loss"], cross_entropy(logits, targets).item(), rel_tol=1e-6
        )
    assert checkpoint.loss == "cross_entropy"
    assert checkpoint.recipe == {
        "name": "single",
        "model": model,
        "learning_rate": 0.1,
        "epochs": 1,
        "batch_size": 1000,
        "seed": 4,
    }
    assert (checkpoint.seed, checkpoint.step) == (4, 2)  # 1,438 examples: a batch, and the rest


def test_an_epoch_of_one_batch_is_one_step_of_gradient_descent(tmp_path):
    rate, (inputs, targets) = 0.25, digits()
    before, after = (
        weights(train_single(tmp_path, learning_rate=rate, epochs=epochs, batch_size=1438))
        for epochs in (1, 2)
    )
    for tensor in before.values():
        tensor.requires_grad_()
    logits = torch.func.functional_call(mlp(), before, inputs)
    gradients = torch.autograd.grad(cross_entropy(logits, targets), list(before.values()))
    for name, gradient in zip(before, gradients, strict=True):
        step = (before[name] - after[name]) / rate
        torch.testing.assert_close(step, gradient, rtol=1e-4, atol=1e-6)


def test_the_seed_alone_decides_the_weights(tmp_path):
    def run(folder, seed):
        return weights(train_single(tmp_path / folder, epochs=2, seed=seed))

    first = run("first", 0)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert equal(first, run("again", 0))
    assert not equal(first, run("other", 1))


@pytest.mark.parametrize("learning_rate", [0.1, 1e20])  # trained, and diverged
def test_no_global_generator_moves(tmp_path, learning_rate):
    def states():
        _, key, position, *_ = np.random.get_state()  # noqa: NPY002
        return random.getstate(), key.tolist(), position, torch.get_rng_state().tolist()

    before = states()
    with suppress(RequestError):
        train_single(tmp_path, learning_rate=learning_rate, epochs=1)
    assert states() == before


def test_progress_is_told_after_each_epoch(tmp_path):
    calls = []
    train_single(tmp_path, epochs=3, progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    losses = [float(message.removeprefix("train loss ")) for _, _, message in calls]
    assert losses == sorted(losses, reverse=True)


def test_progress_tells_the_mean_loss_of_all_examples_also_when_batches_are_ragged(tmp_path):
    calls = []
    options = {"learning_rate": 1e-30, "epochs": 1, "batch_size": 1000}  # the weights stay
    path = train_single(tmp_path, progress=lambda *call: calls.append(call), **options)
    loss = read_checkpoint(path).metrics["train_loss"]
    assert calls == [(1, 1, f"train loss {loss:.4f}")]


def test_runs_of_other_seeds_and_rates_lie_side_by_side(tmp_path):
    folder = tmp_path / "new" / "family"
    for rate, seed in [(0.1, 0), (0.1, 1), (1e-5, 0), (0.1 + 0.2, 0)]:
        train_single(folder, learning_rate=rate, seed=seed, epochs=1, batch_size=1000)
    assert sorted(path.name for path in folder.iterdir()) == [
        "single-mlp-lr0.1-seed0.pt",
        "single-mlp-lr0.1-seed1.pt",
        "single-mlp-lr0.3-seed0.pt",
        "single-mlp-lr1e-05-seed0.pt",
    ]


@pytest.mark.parametrize("epochs", [1, 9])
def test_a_diverged_run_stops_asks_for_a_lower_rate_and_writes_nothing(tmp_path, epochs):
    # An epoch is one step: the loss before the first is finite, only the weights after it are not.
    calls = []
    options = {"learning_rate": 1e30, "epochs": epochs, "batch_size": 1438}
    with pytest.raises(RequestError, match=r"diverged.*Lower it, to 0\.1 for example"):
        train_single(tmp_path / "out", progress=lambda *call: calls.append(call), **options)
    assert len(calls) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "mpl"}, "Did you mean 'mlp'"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 is no"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is no"),
        ({"learning_rate": float("inf")}, "learning_rate=inf is no"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1439}, r"batch_size=1439 is not in 1 \.\.\. 1438"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_bad_argument_is_refused_before_any_work(tmp_path, arguments, message):
    def no_work(*_):
        raise AssertionError("an epoch was trained")

    with pytest.raises(RequestError, match=message):
        train_single(tmp_path / "out", progress=no_work, **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["taken", "taken/below"])
def test_a_file_where_the_folder_should_be_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RequestError, match="Name a folder"):
        train_single(tmp_path / name, epochs=10**9)
