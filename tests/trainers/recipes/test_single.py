import random

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import landscape
from landscape.checkpoint import read_checkpoint
from landscape.errors import RequestError
from landscape.trainers.data import digits
from landscape.trainers.execution import train
from landscape.trainers.models import mlp


def weights(folder, **options):
    (path,) = train("single", folder, **options)
    return read_checkpoint(path).state_dict


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_the_defaults_train_a_network_that_recognizes_unseen_digits(tmp_path):
    (path,) = train("single", tmp_path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.metrics["test_accuracy"] > 0.95
    assert checkpoint.metrics["train_accuracy"] > 0.99
    assert path.name == "single-mlp-lr0.1-seed0.pt"


@pytest.mark.parametrize("model", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_the_checkpoint_measures_the_loss_that_was_recorded(tmp_path, model):
    (path,) = train("single", tmp_path, model=model, epochs=1, batch_size=1000, seed=4)
    checkpoint = read_checkpoint(path)
    objective = landscape.load_objective(path, dtype="float64")
    loss = float(objective.loss())
    assert loss == pytest.approx(checkpoint.metrics["train_loss"], rel=1e-5)
    assert (checkpoint.seed, checkpoint.step) == (4, 2)  # 1,438 examples: a batch, and the rest


def test_an_epoch_of_one_batch_is_one_step_of_gradient_descent(tmp_path):
    rate, (inputs, targets) = 0.25, digits()
    before, after = (
        weights(tmp_path / str(epochs), learning_rate=rate, epochs=epochs, batch_size=1438)
        for epochs in (1, 2)
    )
    for tensor in before.values():
        tensor.requires_grad_()
    logits = torch.func.functional_call(mlp(), before, inputs)
    gradients = torch.autograd.grad(cross_entropy(logits, targets), list(before.values()))
    for name, gradient in zip(before, gradients, strict=True):
        step = (before[name] - after[name]) / rate
        torch.testing.assert_close(step, gradient, rtol=1e-4, atol=1e-6)


def test_the_seed_alone_decides_the_weights_and_no_global_generator_moves(tmp_path):
    def states():
        _, key, position, *_ = np.random.get_state()  # noqa: NPY002
        return random.getstate(), key.tolist(), position, torch.get_rng_state().tolist()

    first = weights(tmp_path / "first", epochs=1)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = states()
    assert equal(first, weights(tmp_path / "again", epochs=1))
    assert states() == before
    assert not equal(first, weights(tmp_path / "other", epochs=1, seed=1))


def test_a_diverged_run_asks_for_a_lower_rate_and_writes_no_checkpoint(tmp_path):
    with pytest.raises(RequestError, match=r"diverged.*Lower it, to 0\.1 for example"):
        train("single", tmp_path / "out", learning_rate=1e30, epochs=2, batch_size=1438)
    assert not [*(tmp_path / "out").glob("*.pt")]
