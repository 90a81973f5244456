"""Second-split forgetting is the iteration learned of the complement, both ways round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.probes.dynamics.learning_events import iteration_learned
from landscape.probes.dynamics.mislabels import noisy_label_auc
from landscape.probes.dynamics.recorder import Recorder
from landscape.probes.dynamics.second_split import second_split_forgetting, second_split_protocol


def outcomes(*sequences):
    return np.array([[int(letter) for letter in sequence] for sequence in sequences]).T


def test_by_hand():
    table = outcomes("1100", "1010", "0000", "1111", "0100")
    np.testing.assert_array_equal(second_split_forgetting(table), [2, 3, 0, np.nan, 2])
    assert second_split_forgetting(table, never=4).tolist() == [2, 3, 0, 4, 2]


def test_it_is_the_iteration_learned_of_the_complement():
    table = np.random.default_rng(0).integers(2, size=(6, 50))
    expected = iteration_learned(1 - table)
    np.testing.assert_array_equal(second_split_forgetting(table), expected)


def test_what_was_not_presented_stays_so():
    assert second_split_forgetting([[1], [-1], [0]]) == 2
    assert second_split_forgetting([[1], [np.nan], [1]], never=9) == 9


def test_every_example_is_in_the_first_half_once_a_run_and_the_halves_are_swapped():
    calls = []

    def run(first, second, seed):
        calls.append((first, second, seed))
        return np.zeros((3, len(first)))

    found = second_split_protocol(run, 7, seeds=[4, 5])
    assert found.num_runs == 2
    for (first, second, _), (third, fourth, _) in (calls[:2], calls[2:]):
        np.testing.assert_array_equal(first, fourth)
        np.testing.assert_array_equal(second, third)
        np.testing.assert_array_equal(np.sort([*first, *second]), np.arange(7))
    assert len({seed for *_, seed in calls}) == 4
    assert calls[0][0].tolist() != calls[2][0].tolist()


def test_scores_go_to_their_examples_and_are_means_over_runs():
    forgotten_at = np.array([0, 1, 2, 3, 4, 2])  # 4: never

    def run(first, second, seed):
        return np.arange(4)[:, None] < forgotten_at[first]

    found = second_split_protocol(run, 6, seeds=[0, 1, 2])
    np.testing.assert_array_equal(found.value, forgotten_at)
    assert found.num_never.tolist() == [0, 0, 0, 0, 3, 0]
    assert found.num_unlearned.tolist() == [3, 0, 0, 0, 0, 0]
    assert found.standard_error.tolist() == [0] * 6
    assert np.isnan(second_split_protocol(run, 6, seeds=[0]).standard_error).all()


def test_the_standard_error_is_that_of_the_runs():
    def run(first, second, seed):
        return np.arange(8)[:, None] < np.random.default_rng(seed).integers(9, size=len(first))

    whole = second_split_protocol(run, 5, seeds=range(6))
    alone = np.array([second_split_protocol(run, 5, seeds=[seed]).value for seed in range(6)])
    np.testing.assert_allclose(whole.value, alone.mean(0))
    np.testing.assert_allclose(whole.standard_error, alone.std(0, ddof=1) / np.sqrt(6))


def test_what_cannot_be_split_or_does_not_fit_is_refused():
    with pytest.raises(RequestError, match="two examples to split"):
        second_split_protocol(lambda *_: [[0]], 1, seeds=[0])
    with pytest.raises(RequestError, match="one seed"):
        second_split_protocol(lambda *_: [[0]], 4, seeds=[])
    with pytest.raises(RequestError, match=r"expected \(T, 2\)"):
        second_split_protocol(lambda *_: [[0]], 4, seeds=[0])


@pytest.mark.slow
def test_mislabeled_digits_are_forgotten_first():
    from sklearn.datasets import load_digits

    from landscape.trainers.data.label_noise import noisy_labels

    images, classes = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32) / 4
    noise = noisy_labels(torch.tensor(classes), 10, "symmetric", 0.1, seed=0)
    labels = noise.labels

    def run(first, second, seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

        def epoch(part):
            for at in torch.tensor(part)[torch.randperm(len(part))].split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[at]), labels[at]).backward()
                optimizer.step()

        recorder = Recorder(labels[first], 10, mode="eval")
        data = inputs[first], labels[first]
        for _ in range(40):
            epoch(first)
        for _ in range(10):
            recorder.evaluate(model, data)
            epoch(second)
        return recorder.history.correct

    found = second_split_protocol(run, len(labels), seeds=[0])
    learned = found.num_unlearned == 0
    changed = noise.changed.numpy()
    assert learned[changed].mean() > 0.3  # else there is nothing to forget
    scores = np.where(learned, found.value, np.nan)
    assert noisy_label_auc(scores, changed, noisy="low").low > 0.9
