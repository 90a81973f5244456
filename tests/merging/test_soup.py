"""Greedy soups against the algorithm written out, their ties, and where statistics come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.merging.soup import greedy_soup
from landscape.objective import Objective


def data(seed, num=30):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    labels = (inputs @ torch.tensor([[1.0, -1, 0.3]], dtype=torch.float64).T > 0).long()[:, 0]
    return inputs, labels


def network(normalized=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(4) if normalized else nn.Identity()
        return nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2)).double()


def problem(normalized=False, k=6, seed=1):
    model = network(normalized)
    training, validation = (Objective(model, data(draw), batch_size=30) for draw in (0, 1))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(k, training.space.size, generator=generator, dtype=torch.float64)
    return training, validation, training.theta + 0.6 * noise


def written_out(validation, thetas, better):
    """Algorithm 1 of the source; `better` scores a point, the larger the better."""
    alone = [better(validation, theta) for theta in thetas]
    order = sorted(range(len(thetas)), key=lambda i: (-alone[i][0], -alone[i][1], i))
    kept = [order[0]]
    for index in order[1:]:
        with_it = better(validation, thetas[[*kept, index]].mean(0))[0]
        if with_it >= better(validation, thetas[kept].mean(0))[0]:
            kept.append(index)
    return order, kept


def by_accuracy(objective, theta):
    found = objective.metrics(theta)
    return round(found["accuracy"] * 30), -found["loss"]


def by_loss(objective, theta):
    return by_accuracy(objective, theta)[::-1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("criterion", "better"), [("accuracy", by_accuracy), ("loss", by_loss)])
def test_a_greedy_soup_is_the_published_algorithm(criterion, better, seed):
    training, validation, thetas = problem(seed=seed)
    order, kept = written_out(validation, thetas, better)
    soup = greedy_soup(training, thetas, validation, criterion=criterion)
    assert soup.order.tolist() == order
    assert soup.ingredients == kept
    assert sorted(np.flatnonzero(soup.kept)) == sorted(kept)
    torch.testing.assert_close(soup.theta, thetas[kept].mean(0), rtol=1e-13, atol=1e-14)
    metrics = [validation.metrics(theta)[criterion] for theta in thetas]
    np.testing.assert_allclose(soup.scores, metrics, rtol=1e-13)


def test_a_soup_is_no_worse_than_its_best_member_on_validation_data():
    for seed in range(5):
        training, validation, thetas = problem(seed=seed)
        soup = greedy_soup(training, thetas, validation)
        assert soup.average["validation"].accuracy >= soup.scores.max()


def test_a_member_that_keeps_the_accuracy_is_taken():
    training, validation, thetas = problem(k=1)
    soup = greedy_soup(training, [thetas[0], thetas[0] * (1 + 1e-9)], validation)
    assert soup.ingredients == sorted(soup.ingredients, key=soup.order.tolist().index)
    assert soup.kept.all()
    assert soup.trials[soup.order[1]] == soup.scores[soup.order[0]]


def test_equal_members_keep_their_order():
    training, validation, thetas = problem(k=1)
    soup = greedy_soup(training, [thetas[0]] * 3, validation)
    assert soup.order.tolist() == [0, 1, 2]


def test_statistics_come_from_the_training_data():
    training, validation, thetas = problem(normalized=True)
    soup = greedy_soup(training, thetas, validation)
    inputs, _ = data(0)
    weight, bias = (training.space.named(soup.theta)[f"0.{part}"] for part in ("weight", "bias"))
    expected = (inputs @ weight.T + bias).mean(0)
    torch.testing.assert_close(soup.buffers["1.running_mean"], expected)
    recalibrated = training.under("recalibrate")
    for index, theta in enumerate(thetas):
        with recalibrated.evaluation(), torch.no_grad():
            statistics = recalibrated.buffers_at(theta)
            batch = next(iter(validation.batches))
            term = validation.term(validation.space.split(theta), batch, statistics)
        right = (term.output.argmax(1) == term.target).double().mean()
        assert soup.scores[index] == pytest.approx(float(right))


def test_validating_on_the_training_data_is_named():
    training, validation, thetas = problem()
    named = "validation data are the training data"
    assert any(named in note for note in greedy_soup(training, thetas, training).notes)
    assert not any(named in note for note in greedy_soup(training, thetas, validation).notes)


def test_a_member_of_no_finite_loss_is_never_kept():
    training, validation, thetas = problem()
    broken = thetas[1].clone()
    broken[training.space.slice_of("3.weight")] = 1e308  # both logits overflow, inf - inf is NaN
    thetas = torch.stack([broken, *thetas[2:]])
    soup = greedy_soup(training, thetas, validation, criterion="loss")
    assert math.isnan(soup.scores[0])
    assert soup.order[-1] == 0
    assert not soup.kept[0]
    assert soup.status == "converged"


def test_members_that_are_all_broken_make_a_soup_of_one():
    training, validation, thetas = problem(k=2)
    thetas[:, training.space.slice_of("3.weight")] = 1e308
    soup = greedy_soup(training, thetas, validation)
    assert soup.ingredients == [0]
    assert "nan" in soup.status


def test_members_are_loaded_one_at_a_time():
    training, validation, thetas = problem()

    class Files:
        reads: list[int] = []  # noqa: RUF012

        def __len__(self):
            return len(thetas)

        def __getitem__(self, index):
            if not 0 <= index < len(thetas):
                raise IndexError(index)
            self.reads.append(index)
            return thetas[index]

    soup = greedy_soup(training, Files(), validation)
    assert torch.equal(soup.theta, greedy_soup(training, thetas, validation).theta)
    assert set(Files.reads) == set(range(6))


def test_the_record_holds_all_candidates_and_the_average():
    training, validation, thetas = problem()
    soup = greedy_soup(training, thetas, validation, also={"test": validation})
    dataset = soup.to_dataset()
    assert dataset["kept"].values.tolist() == soup.kept.tolist()
    assert dataset["rank"].values[soup.order].tolist() == list(range(6))
    assert float(dataset["validation_loss"]) == soup.average["validation"].loss
    assert float(dataset["test_loss"]) == soup.average["validation"].loss
    assert int(dataset["num_candidates"]) == 6
    assert all({"units", "long_name"} <= set(one.attrs) for one in dataset.data_vars.values())


def test_what_makes_no_soup_is_refused():
    training, validation, thetas = problem()
    with pytest.raises(RequestError, match="Did you mean 'accuracy'"):
        greedy_soup(training, thetas, validation, criterion="acuracy")
    with pytest.raises(RequestError, match="no members"):
        greedy_soup(training, [], validation)
    with pytest.raises(RequestError, match="measured anyway"):
        greedy_soup(training, thetas, validation, also={"validation": validation})
    line = nn.Linear(3, 1, dtype=torch.float64)
    inputs, _ = data(0)
    objective = Objective(line, (inputs, inputs[:, :1]), "mse")
    with pytest.raises(RequestError, match="criterion='loss'"):
        greedy_soup(objective, [objective.theta], objective)
