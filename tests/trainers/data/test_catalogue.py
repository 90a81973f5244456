import numpy as np
import pytest
import torch
from torch import nn

from landscape import Objective
from landscape.errors import RequestError
from landscape.trainers.data import digits, noisy_labels, subset_masks, ticks
from landscape.trainers.data.catalogue import describe, examples
from landscape.trainers.data.published import FASHION_MNIST

WITHOUT_FILES = ("digits", "ticks", "prototypes", "text")


@pytest.fixture(autouse=True)
def no_folder_of_the_user(monkeypatch):
    monkeypatch.delenv("LANDSCAPE_DATA", raising=False)


def rows(inputs):
    return {tuple(row) for row in inputs.flatten(1).tolist()}


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_examples_are_as_described(name):
    info = describe(name)
    for split in ("train", "test"):
        inputs, targets = examples(name, split)
        assert inputs.shape[1:] == info.input_shape
        assert len(inputs) == len(targets)
        assert info.sizes[split] in (None, len(inputs))
        assert 0 <= targets.min() <= targets.max() < info.num_classes


def test_arguments_change_what_is_described():
    for name, arguments in [
        ("ticks", {"num_features": 3}),
        ("prototypes", {"num_features": 5, "num_classes": 4}),
        ("text", {"context": 9}),
        ("digits", {"test_fraction": 0.5}),
    ]:
        info = describe(name, arguments)
        inputs, targets = examples(name, arguments=arguments)
        assert inputs.shape[1:] == info.input_shape
        assert info.sizes["train"] in (None, len(inputs))
        if name == "prototypes":
            assert int(targets.max()) + 1 == info.num_classes == 4


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_an_objective_takes_them_with_the_described_loss(name):
    info = describe(name)
    inputs, targets = examples(name, num_examples=20)
    if name == "text":
        model = nn.Embedding(info.num_classes, info.num_classes)
    else:
        outputs = 1 if info.loss == "bce" else info.num_classes
        model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), outputs))
    loss = Objective(model, (inputs, targets), loss=info.loss).loss()
    assert 0.2 < float(loss) < 10


def test_without_options_they_are_the_data_sets_own():
    for split in ("train", "test"):
        for ours, theirs in zip(examples("digits", split, 3), digits(split, 3), strict=True):
            assert torch.equal(ours, theirs)
    inputs, targets = ticks("test", 4)
    assert torch.equal(examples("ticks", "test", 4)[0], inputs)
    assert torch.equal(examples("ticks", "test", 4)[1], targets[:, None].float())


def test_train_and_validation_share_nothing_and_are_the_train_split():
    train, _ = examples(split="train", validation=0.1)
    held, targets = examples(split="validation", validation=0.1)
    assert (len(train), len(held)) == (1294, 144)
    assert not rows(train) & rows(held)
    assert rows(train) | rows(held) == rows(digits()[0])
    assert (targets.bincount() - digits()[1].bincount() / 1438 * 144).abs().max() < 1
    assert torch.equal(examples(split="test", validation=0.1)[0], digits("test")[0])
    assert not torch.equal(held, examples(split="validation", validation=0.1, seed=1)[0])


def test_a_subsample_keeps_the_classes_shares():
    inputs, targets = examples(num_examples=100)
    assert len(inputs) == 100
    assert (targets.bincount() - 10).abs().max() <= 1
    assert rows(inputs) <= rows(digits()[0])
    assert len(examples("ticks", num_examples=1000)[0]) == 1000


def test_label_noise_comes_before_the_subset_and_in_train_only():
    noise = {"kind": "symmetric", "rate": 0.5, "seed": 3}
    subset = {"num": 4, "ratio": 0.5, "seed": 1, "design": "balanced", "member": 2}
    inputs, targets = digits()
    noisy = noisy_labels(targets, 10, "symmetric", 0.5, seed=3).labels
    mask = subset_masks(len(targets), 4, 0.5, seed=1)[2]
    found = examples(label_noise=noise, subset=subset)
    assert torch.equal(found[0], inputs[mask])
    assert torch.equal(found[1], noisy[mask])
    # Two members that share an example see the same label for it.
    assert torch.equal(examples(label_noise=noise)[1], noisy)
    test = examples(split="test", label_noise=noise, subset=subset)
    assert torch.equal(test[0], digits("test")[0])
    assert torch.equal(test[1], digits("test")[1])


def test_noise_on_two_classes_swaps_them():
    clean = examples("ticks")[1]
    noisy = examples("ticks", label_noise={"kind": "symmetric", "rate": 1.0, "seed": 0})[1]
    assert torch.equal(noisy, 1 - clean)


def test_normalized_inputs_have_mean_0_and_deviation_1_over_the_whole_train_set():
    train, _ = examples(normalize=True)
    assert abs(float(train.double().mean())) < 1e-6
    assert abs(float(train.double().std(correction=0)) - 1) < 1e-6
    raw = digits()[0].double()
    mean, std = raw.mean(), raw.std(correction=0)
    for arguments in ({"split": "test"}, {"num_examples": 50}):
        expected = (examples(**arguments)[0].double() - mean) / std
        torch.testing.assert_close(examples(**arguments, normalize=True)[0].double(), expected)


def test_features_of_vectors_are_normalized_one_by_one():
    inputs, _ = examples("prototypes", normalize=True)
    torch.testing.assert_close(inputs.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(64))
    # All on the boundary's upright axis would have no spread: it stays 0, not NaN.
    flat = examples("prototypes", normalize=True, arguments={"noise": 0.0, "max_strength": 0.0})
    assert torch.equal(flat[0], torch.zeros(512, 64))


def test_a_modulus_makes_the_task_coarser():
    assert torch.equal(examples(label_modulus=5)[1], digits()[1] % 5)
    assert describe("digits", label_modulus=5).num_classes == 5


def test_calls_repeat_and_move_no_global_generator():
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    arguments = {
        "validation": 0.2,
        "num_examples": 100,
        "label_noise": {"seed": 0, "rate": 0.5},
        "subset": {"num": 3, "ratio": 0.4, "seed": 0, "member": 1, "stratify": True},
    }
    first, again = examples(**arguments), examples(**arguments)
    assert len(first[0]) == 40
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    after = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before


@pytest.mark.skipif(
    not FASHION_MNIST.system.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_needs_no_folder_where_it_is_installed():
    inputs, targets = examples("fashion-mnist", "test", num_examples=100)
    assert inputs.shape == (100, *describe("fashion-mnist").input_shape)
    assert targets.bincount().tolist() == [10] * 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digit"}, "Did you mean 'digits'"),
        ({"split": "valid"}, "Did you mean 'validation'"),
        ({"split": "validation"}, "give validation"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"name": "ticks", "validation": 0.1}, "draws its validation split afresh"),
        ({"num_examples": 2000}, r"num_examples=2000 is not in 1 \.\.\. 1438"),
        ({"seed": -1}, "seed=-1"),
        ({"arguments": {"seed": 3}}, "arguments has seed"),
        ({"arguments": {"margin": 3}}, "does not take the arguments"),
        ({"label_noise": {"rate": 0.1}}, "lacks seed"),
        ({"label_noise": {"seed": 0, "knd": "uniform"}}, "Did you mean 'kind'"),
        ({"subset": {"num": 2, "ratio": 0.5, "seed": 0, "member": 2}}, "member=2"),
        ({"name": "text", "normalize": True}, "symbols"),
        ({"name": "text", "label_noise": {"seed": 0}}, "one label an example"),
        ({"name": "mnist"}, r"\$LANDSCAPE_DATA"),
    ],
)
def test_what_makes_no_sense_says_why(arguments, message):
    with pytest.raises(RequestError, match=message):
        examples(**arguments)


def test_few_examples_and_noisy_labels_are_those_of_the_coarser_task():
    _, targets = examples("digits", num_examples=50, label_modulus=5)
    assert (targets.bincount() - 10).abs().max() <= 1
    noise = {"kind": "uniform", "rate": 1.0, "seed": 0}
    _, noisy = examples("digits", label_modulus=2, label_noise=noise)
    assert set(noisy.tolist()) == {0, 1}


@pytest.mark.parametrize("modulus", [0, 1, 10, 11])
def test_a_modulus_that_leaves_no_coarser_task_is_refused(modulus):
    with pytest.raises(RequestError, match=f"label_modulus={modulus} leaves no coarser task"):
        examples("digits", label_modulus=modulus)
