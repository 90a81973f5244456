"""Dynamics: what is stored of a run, and of its checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import store
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.dynamics.agreement import score_agreement
from landscape.probes.dynamics.dynamics import checkpoint_dynamics, training_dynamics
from landscape.probes.dynamics.histories import history
from landscape.probes.dynamics.mislabels import noisy_label_auc
from landscape.probes.dynamics.recorder import Recorder

N, C = 12, 3
CONTRACT = {
    "example": [
        *("learned", "ever_learned", "forgetting", "first_learned", "iteration_learned", "aum"),
        *("aum_probability", "el2n", "confidence", "variability", "correctness"),
        *("cumulative_loss", "label"),
    ],
    "time": ["accuracy", "mean_loss"],
    None: ["num_never_learned", "num_unforgettable", "mean_forgetting"],
}


def words(*sequences):
    """A history of two classes in which an example is right where its word has a 1."""
    right = np.array([[int(letter) for letter in word] for word in sequences]).T
    logits = np.stack([2.0 * right - 1, np.zeros(right.shape)], -1)
    return history(logits, [0] * len(sequences), times=10.0 * np.arange(len(right)))


def conv():
    torch.manual_seed(1)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(4, C))


def trajectory(model, inputs, labels, steps=3):
    """(thetas, buffers) before each step of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    space, thetas, buffers = Objective(model, (inputs, labels)).space, [], []
    model.train()
    for _ in range(steps):
        thetas.append(space.flatten(dict(model.named_parameters())).detach().clone())
        buffers.append({name: value.clone() for name, value in model.named_buffers()})
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return torch.stack(thetas), buffers


def drawn(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, *shape, generator=generator), torch.arange(N) % C


def test_the_record_is_that_of_the_contract():
    dataset = training_dynamics(words("0011", "1010", "0000", "1111")).to_dataset()
    for dim, names in CONTRACT.items():
        for name in names:
            assert dataset[name].dims == (() if dim is None else (dim,)), name
    assert dataset["correct"].dims == ("time", "example")
    assert dataset["correct"].dtype == np.int8
    for name, variable in dataset.data_vars.items():
        assert {"units", "long_name"} <= set(variable.attrs), name
    assert not dataset.attrs


def test_the_headline_by_hand():
    found = training_dynamics(words("0011", "1010", "0000", "1111"))
    dataset = found.to_dataset()
    assert (dataset["num_never_learned"], dataset["num_unforgettable"]) == (1, 2)
    assert dataset["mean_forgetting"] == pytest.approx(2 / 3)
    np.testing.assert_array_equal(dataset["forgetting"], [0, 2, np.nan, 0])
    np.testing.assert_array_equal(dataset["first_learned"], [20, 0, np.nan, 0])
    np.testing.assert_array_equal(dataset["iteration_learned"], [20, np.nan, np.nan, 0])
    assert dataset["learned"].values.tolist() == [True, False, False, True]
    assert dataset["accuracy"].values.tolist() == [0.5, 0.25, 0.75, 0.5]
    assert found.status == "converged"
    assert np.isnan(training_dynamics(words("00")).mean_forgetting)


def test_a_record_survives_its_file(tmp_path):
    found = training_dynamics(words("0011", "1010", "0000", "1111"))
    (group,) = store.save(tmp_path / "run.h5", [found])
    kept = store.read(tmp_path / "run.h5", group)
    for name, variable in found.to_dataset().data_vars.items():
        np.testing.assert_array_equal(kept[name], variable)


def test_without_history_only_the_outcomes_are_missing():
    labels = torch.arange(N) % C
    kept, summed = Recorder(labels, C), Recorder(labels, C, history=False)
    for epoch in range(3):
        logits = torch.randn(N, C, generator=torch.Generator().manual_seed(epoch))
        for recorder in (kept, summed):
            recorder.record(torch.arange(N), logits)
            recorder.end_epoch()
    one, other = training_dynamics(kept).to_dataset(), training_dynamics(summed).to_dataset()
    assert set(one.data_vars) - set(other.data_vars) == {"correct"}
    for name, variable in other.data_vars.items():
        np.testing.assert_allclose(variable, one[name], atol=1e-12)
    assert training_dynamics(kept).provenance["label_hash"] == kept.label_hash


def test_each_view_is_an_example_of_its_own():
    labels = torch.arange(N) % C
    recorder = Recorder(labels, C, num_augmentations=2)
    logits = torch.randn(N, 2, C, generator=torch.Generator().manual_seed(0))
    recorder.record(torch.arange(N), logits)
    recorder.end_epoch()
    dataset = training_dynamics(recorder).to_dataset()
    second = dataset.isel(example=dataset["augmentation"].values == 1)
    assert second["object"].values.tolist() == list(range(N))
    assert second["label"].values.tolist() == labels.tolist()
    expected = history(logits[None, :, 1], labels)
    np.testing.assert_allclose(second["aum"], expected.margin[0])
    np.testing.assert_array_equal(second["correct"], expected.correct)
    assert dataset["correct"].dims == ("time", "example")


def test_answers_that_are_no_numbers_are_said_in_the_status():
    found = training_dynamics(history([[[np.nan, 0], [1.0, 0]]], [0, 0]))
    assert found.status == "1 answers were no numbers: wrong"


def test_checkpoints_are_measured_in_evaluation_mode_with_their_own_statistics():
    inputs, labels = drawn(1, 6, 6)
    model = conv()
    objective = Objective(conv(), (inputs, labels), batch_size=5)
    thetas, buffers = trajectory(model, inputs, labels)
    found = checkpoint_dynamics(objective, thetas, buffers, times=[0, 1, 2])
    logits = []
    for theta, own in zip(thetas, buffers, strict=True):
        model.load_state_dict(objective.space.named(theta) | own)
        logits.append(model.eval()(inputs).detach().numpy())
    expected = training_dynamics(history(np.stack(logits), labels))
    np.testing.assert_allclose(found.scores.aum, expected.scores.aum, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.correct, expected.correct)
    assert found.provenance["data_fingerprint"] == objective.batches.fingerprint


def test_statistics_of_one_checkpoint_are_not_used_for_all():
    inputs, labels = drawn(1, 6, 6)
    thetas, buffers = trajectory(conv(), inputs, labels)
    objective = Objective(conv(), (inputs, labels))
    with pytest.raises(RequestError, match="running statistics differ"):
        checkpoint_dynamics(objective, thetas)
    again = checkpoint_dynamics(objective.under("recalibrate"), thetas)
    losses = objective.under("recalibrate").losses(thetas)
    np.testing.assert_allclose(again.scores.mean_loss, losses, rtol=1e-5)
    with pytest.raises(RequestError, match="holds 2, expected one for each"):
        checkpoint_dynamics(objective, thetas, buffers[:2])
    with pytest.raises(RequestError, match="holds 3, expected one for each"):
        checkpoint_dynamics(objective, thetas[:2], buffers)


def test_the_mean_loss_of_a_time_is_that_of_the_objective():
    inputs, labels = drawn(4)
    objective = Objective(nn.Linear(4, C), (inputs, labels), batch_size=5)
    thetas = torch.stack([objective.theta * scale for scale in (0, 1, 3)])
    ticks = []
    found = checkpoint_dynamics(
        objective, (theta for theta in thetas), progress=lambda *tick: ticks.append(tick)
    )
    np.testing.assert_allclose(found.scores.mean_loss, objective.losses(thetas), rtol=1e-6)
    assert [objective.metrics(theta)["accuracy"] for theta in thetas] == pytest.approx(
        found.scores.accuracy.tolist()
    )
    assert ticks == [(1, 0, "checkpoint"), (2, 0, "checkpoint"), (3, 0, "checkpoint")]
    assert found.times.tolist() == [0, 1, 2]


def test_a_trajectory_must_be_one():
    inputs, labels = drawn(4)
    objective = Objective(nn.Linear(4, C), (inputs, labels))
    with pytest.raises(RequestError, match="thetas is empty"):
        checkpoint_dynamics(objective, [])
    with pytest.raises(RequestError, match="the vector has shape"):
        checkpoint_dynamics(objective, [torch.zeros(3)])
    with pytest.raises(RequestError, match="increasing"):
        checkpoint_dynamics(objective, objective.theta.expand(2, -1), times=[1, 1])


@pytest.mark.slow
def test_noisy_labels_of_digits_have_a_low_area_under_the_margin():
    from sklearn.datasets import load_digits

    from landscape.trainers.data.label_noise import noisy_labels

    images, classes = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32) / 16
    noise = noisy_labels(torch.tensor(classes), 10, "symmetric", 0.1, seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = Recorder(noise.labels, 10)
    for _ in range(15):
        for at in torch.randperm(len(inputs)).split(64):
            logits = model(inputs[at])
            recorder.record(at, logits, labels=noise.labels[at])
            optimizer.zero_grad()
            F.cross_entropy(logits, noise.labels[at]).backward()
            optimizer.step()
        recorder.end_epoch()
    scores = recorder.scores()
    changed = noise.changed.numpy()
    found = noisy_label_auc(scores.aum, changed, noisy="low")
    assert found.value > 0.95
    assert found.low > 0.9
    for name in ("el2n", "cumulative_loss"):
        assert noisy_label_auc(getattr(scores, name), changed, noisy="high").value > 0.9
    assert noisy_label_auc(scores.confidence, changed, noisy="low").value > 0.9
    agreement = score_agreement({"aum": scores.aum, "el2n": scores.el2n})
    assert agreement.correlation.high[0, 1] < -0.5
