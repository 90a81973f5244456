"""Barriers between two points: closed forms, errors that cover, and the terms of a rise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.barrier import barrier, chance_level
from landscape.paths.examples import Examples


def perceptron(seed, width=8, classes=3):
    torch.manual_seed(seed)
    layers = nn.Linear(5, width), nn.ReLU(), nn.Linear(width, classes)
    return nn.Sequential(*layers).double()


def norm_network(seed):
    torch.manual_seed(seed)
    layers = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    model = nn.Sequential(*layers).double()
    model.train()
    model(torch.randn(50, 5, dtype=torch.float64) * 2 + 1)
    return model.eval()


def data(num=60, seed=3, classes=3):
    torch.manual_seed(seed)
    inputs = torch.randn(num, 5, dtype=torch.float64)
    return inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long() % classes


def trained(seed, width=8, steps=60, make=perceptron):
    model = make(seed, width) if make is perceptron else make(seed)
    inputs, targets = data()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model


def flat(objective, model):
    return objective.space.flatten(dict(model.named_parameters()))


@pytest.fixture(scope="module")
def pair():
    first = trained(0)
    objective = Objective(first, data())
    return objective, objective.theta, flat(objective, trained(1))


class Quartic(nn.Module):
    """A scalar weight w with the loss (w^2 - 1)^2 + w / 4: two minima and a known barrier."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([-1.0], dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), 1)


def quartic():
    def loss(output, target):
        return ((output**2 - 1) ** 2 + output / 4).flatten()

    data = torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    return Objective(Quartic(), data, loss)


def test_the_refined_maximum_is_the_true_one_whatever_the_grid():
    objective = quartic()
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    # Above the chord w / 4 stands (w^2 - 1)^2, which is 1 at w = 0.
    for num in (4, 6, 10, 25):
        found = barrier(objective, *ends, num=num)
        assert found.value == pytest.approx(1.0, abs=1e-5)
        assert found.alpha == pytest.approx(0.5, abs=2e-3)
    coarse = barrier(objective, *ends, num=4, refine=False)
    assert coarse.value == pytest.approx((1 - 1 / 9) ** 2)


def test_every_definition_follows_its_own_maximum():
    objective = quartic()
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    w = np.linspace(-1, 1, 200001)
    losses = (w**2 - 1) ** 2 + w / 4
    for definition, expected in {
        "chord": 1.0,
        "midpoint": 1.0,
        "mean": losses.max(),
        "highest_end": losses.max() - 0.25,
        "saddle": losses.max(),
        "mode_connectivity": -np.abs(losses).max(),
    }.items():
        found = barrier(objective, *ends, num=7, definition=definition)
        assert found.value == pytest.approx(expected, abs=1e-5), definition


def test_a_valley_is_followed_down_by_mode_connectivity():
    objective = quartic()
    ends = torch.tensor([[-2.0], [0.2]], dtype=torch.float64)
    found = barrier(objective, *ends, num=6, definition="mode_connectivity")
    w = np.linspace(-2, 0.2, 200001)
    losses = (w**2 - 1) ** 2 + w / 4
    mean = (losses[0] + losses[-1]) / 2
    assert found.value == pytest.approx(mean - losses.min(), abs=1e-4)
    assert found.value > 0


def test_losses_are_those_of_the_objective_on_the_line(pair):
    objective, a, b = pair
    found = barrier(objective, a, b, num=5, refine=False)
    expected = [objective.loss((1 - t) * a + t * b) for t in found.alphas]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12)
    accuracies = [objective.metrics((1 - t) * a + t * b)["accuracy"] for t in found.alphas]
    np.testing.assert_allclose(found.profiles["error"].values, 1 - np.array(accuracies))


def test_refined_points_stand_where_they_belong(pair):
    objective, a, b = pair
    found = barrier(objective, a, b, num=5)
    assert len(found.alphas) > 5
    assert (np.diff(found.alphas) > 0).all()
    expected = [objective.loss((1 - t) * a + t * b) for t in found.alphas]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12)


def test_identical_ends_have_no_barrier_in_any_definition(pair):
    objective, a, _ = pair
    found = barrier(objective, a, a.clone())
    for name, profile in found.profiles.items():
        for definition, height in profile.heights.items():
            if definition != "saddle":
                assert abs(height.value) < 1e-15, (name, definition)
                assert profile.errors[definition] < 1e-15
    assert found.distance == 0
    assert found.angle == 0
    assert np.ptp(found.losses) < 1e-15


@pytest.mark.parametrize("make", ["linear", "logistic"])
def test_a_convex_model_has_no_barrier_in_any_of_100_pairs(make):
    torch.manual_seed(0)
    inputs, targets = data()
    if make == "linear":
        objective = Objective(nn.Linear(5, 2).double(), (inputs, inputs[:, :2] ** 2), "mse")
    else:
        objective = Objective(nn.Linear(5, 3).double(), (inputs, targets))
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        a, b = 3 * torch.randn(2, objective.space.size, generator=generator).double()
        found = barrier(objective, a, b, num=9)
        assert found.value == 0
        assert (found.profiles["loss"].gaps[1:-1] < 0).all()
        if found.decomposition is not None:
            assert found.decomposition.gap.abs().max() == 0


def test_a_permuted_copy_has_a_barrier_where_the_function_is_the_same(pair):
    objective, a, _ = pair
    tensors = objective.space.named(a)
    order = torch.tensor([3, 1, 0, 2, 7, 5, 6, 4])
    permuted = objective.space.flatten(
        {
            "0.weight": tensors["0.weight"][order],
            "0.bias": tensors["0.bias"][order],
            "2.weight": tensors["2.weight"][:, order],
            "2.bias": tensors["2.bias"],
        }
    )
    found = barrier(objective, a, permuted)
    assert found.losses[0] == pytest.approx(found.losses[-1], abs=1e-14)
    assert found.value > 3 * found.standard_error > 0


def test_the_standard_error_is_that_of_paired_differences(pair):
    objective, a, b = pair
    found = barrier(objective, a, b, num=5, refine=False)
    t = found.alpha
    rows = [objective.per_example(theta) for theta in (a, (1 - t) * a + t * b, b)]
    differences = rows[1] - (1 - t) * rows[0] - t * rows[2]
    expected = float(differences.std()) / math.sqrt(len(differences))
    assert found.standard_error == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(found.example_shares, differences / len(differences))
    assert found.profiles["loss"].gap_errors[[0, -1]] == pytest.approx([0, 0], abs=1e-16)


@pytest.mark.slow
def test_two_standard_errors_cover_the_barrier_of_the_population():
    """At a fixed alpha; draws of 200 from 20,000."""
    torch.manual_seed(0)
    inputs = torch.randn(20_000, 5, dtype=torch.float64)
    targets = (inputs[:, 0] + torch.randn(20_000) > 0).long()
    first, second = perceptron(0), perceptron(1)
    whole = Objective(first, (inputs, targets), batch_size=5000)
    ends = whole.theta, flat(whole, second)
    truth = barrier(whole, *ends, num=3, definition="midpoint").value
    covered = 0
    for draw in range(200):
        chosen = torch.randperm(20_000, generator=torch.Generator().manual_seed(draw))[:200]
        part = Objective(first, (inputs[chosen], targets[chosen]))
        found = barrier(part, *ends, num=3, definition="midpoint", execution="loop")
        covered += abs(found.value - truth) < 2 * found.standard_error
    assert 182 <= covered <= 199


def test_shares_of_classes_and_examples_add_up_to_the_barrier(pair):
    objective, a, b = pair
    for metric in ("loss", "error"):
        found = barrier(objective, a, b, metric=metric)
        assert float(found.example_shares.sum()) == pytest.approx(found.value, abs=1e-13)
        assert found.class_shares.sum() == pytest.approx(found.value, abs=1e-13)
        targets = data()[1]
        of_one = float(found.example_shares[targets == 1].sum())
        assert found.class_shares[1] == pytest.approx(of_one)


def test_the_terms_of_the_decomposition_add_up_to_the_chords_barrier(pair):
    objective, a, b = pair
    found = barrier(objective, a, b, definition="mean")
    chord = found.profiles["loss"].heights["chord"]
    assert float(found.decomposition.gap.sum()) == pytest.approx(chord.value, abs=1e-13)
    assert found.decomposition.alpha == chord.alpha


@pytest.mark.parametrize("bn", ["eval", "recalibrate", "interpolate", "batch"])
def test_statistics_follow_the_policy_in_the_decomposition_too(bn):
    first, second = trained(0, make=norm_network), trained(1, make=norm_network)
    objective = Objective(first, data())
    held = [dict(model.named_buffers()) for model in (first, second)]
    ends = objective.theta, flat(objective, second)
    found = barrier(objective, *ends, num=5, bn=bn, buffers=held)
    chord = found.profiles["loss"].heights["chord"].value
    assert float(found.decomposition.gap.sum()) == pytest.approx(chord, abs=1e-12)
    assert found.bn == bn


def test_statistics_are_recalibrated_by_default_and_not_frozen():
    first, second = trained(0, make=norm_network), trained(1, make=norm_network)
    objective = Objective(first, data())
    ends = objective.theta, flat(objective, second)
    found = barrier(objective, *ends, num=5, refine=False)
    fresh = objective.under("recalibrate")
    np.testing.assert_allclose(found.losses[[0, -1]], [fresh.loss(end) for end in ends])
    frozen = barrier(objective, *ends, num=5, refine=False, bn="eval")
    assert abs(frozen.losses[-1] - found.losses[-1]) > 0.1


def test_interpolated_statistics_are_those_of_both_ends_at_the_ends():
    first, second = trained(0, make=norm_network), trained(1, make=norm_network)
    objective = Objective(first, data())
    held = [dict(model.named_buffers()) for model in (first, second)]
    found = barrier(
        objective, objective.theta, flat(objective, second), num=5, bn="interpolate", buffers=held
    )
    own = [Objective(model, data()).value for model in (first, second)]
    np.testing.assert_allclose(found.losses[[0, -1]], own, rtol=1e-12)


def test_test_data_are_measured_in_the_same_pass(pair):
    objective, a, b = pair
    test = Objective(trained(0), data(30, seed=8))
    found = barrier(objective, a, b, num=5, also={"test": test}, refine=False)
    expected = [test.loss((1 - t) * a + t * b) for t in found.alphas]
    np.testing.assert_allclose(found.profiles["test_loss"].values, expected, rtol=1e-12)
    assert set(found.profiles) == {"loss", "error", "test_loss", "test_error"}


def test_an_arc_of_scale_invariant_weights_is_the_line_of_their_directions():
    first, second = trained(0, make=norm_network), trained(1, make=norm_network)
    objective = Objective(first, data())
    a, b = objective.theta, flat(objective, second)
    found = barrier(objective, a, b, num=5, interpolation="spherical", refine=False)
    # Under BatchNorm the length of a row does not matter: scaling an end changes nothing.
    scaled = b.clone()
    for name in ("0.weight", "0.bias"):
        scaled[objective.space.slice_of(name)] *= 7
    again = barrier(objective, a, scaled, num=5, interpolation="spherical", refine=False)
    np.testing.assert_allclose(found.losses, again.losses, rtol=1e-4)
    line = barrier(objective, a, scaled, num=5, refine=False)
    assert abs(line.losses[2] / found.losses[2] - 1) > 0.01
    assert found.invariant_angle == pytest.approx(again.invariant_angle, abs=1e-12)
    assert found.angle != pytest.approx(again.angle, abs=1e-3)


def test_a_network_without_scale_invariant_weights_has_no_arc(pair):
    objective, a, b = pair
    with pytest.raises(RequestError, match="no parameter of this network is scale-invariant"):
        barrier(objective, a, b, interpolation="spherical")


def test_chance_is_what_the_frequencies_of_the_classes_give(pair):
    objective, a, b = pair
    found = barrier(objective, a, b, num=3)
    shares = torch.bincount(data()[1]).double() / 60
    entropy = -float((shares * shares.log()).sum())
    assert found.profiles["loss"].chance == pytest.approx(entropy)
    assert found.profiles["error"].chance == pytest.approx(1 - float(shares.max()))
    unknown = Examples(torch.zeros(1), 1.0)
    assert math.isnan(chance_level(unknown, "loss"))


def test_a_loss_that_is_nan_on_the_way_is_no_barrier_of_a_number():
    class Root(Quartic):
        def forward(self, x):
            return (self.w.abs() - 0.5).sqrt().expand(len(x), 1)

    target = torch.zeros(4, 1, dtype=torch.float64)
    objective = Objective(Root(), (target, target), "mse")
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    found = barrier(objective, *ends, num=5)
    assert math.isnan(found.value)
    assert found.status == "1 of 5 points are NaN"
    assert found.to_dataset()["loss"].isnull().sum() == 1


def test_a_regression_has_no_errors_and_no_relative_height():
    inputs, _ = data()
    objective = Objective(perceptron(0, classes=1), (inputs, inputs[:, :1]), "mse")
    other = flat(objective, perceptron(1, classes=1))
    found = barrier(objective, objective.theta, other, num=5)
    assert set(found.profiles) == {"loss"}
    assert math.isnan(found.profiles["loss"].heights["relative"].value)
    assert found.decomposition is None
    with pytest.raises(RequestError, match="no classes"):
        barrier(objective, objective.theta, other, metric="error")


def test_progress_counts_the_points(pair):
    objective, a, b = pair
    seen = []
    barrier(objective, a, b, num=9, refine=False, progress=lambda *args: seen.append(args))
    assert seen[-1][:2] == (9, 9)


def test_it_becomes_a_data_set_with_units_and_names(pair):
    objective, a, b = pair
    found = barrier(objective, a, b, also={"test": Objective(trained(0), data(30, seed=8))})
    dataset = found.to_dataset()
    assert float(dataset["barrier"]) == found.value
    assert float(dataset["barrier_error"]) == found.standard_error
    chord = dataset["loss_height"].sel(definition="chord")
    assert float(chord) == found.value
    assert all({"units", "long_name"} <= set(v.attrs) for v in dataset.data_vars.values())
    assert float(dataset["class_share"].sum()) == pytest.approx(found.value)
    terms = [float(dataset[f"gap_{name}"]) for name in ("partition", "convexity", "target")]
    assert terms[0] - terms[1] - terms[2] == pytest.approx(found.value)
    assert dataset["test_error"].dims == ("alpha",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"definition": "chrod"}, "chord"),
        ({"metric": "accuracy"}, "loss"),
        ({"interpolation": "slerp"}, "spherical"),
        ({"num": 2}, "num is 2"),
        ({"bn": "interpolate"}, "give buffers="),
        ({"bn": "frozen"}, "BatchNorm policy"),
    ],
)
def test_wrong_requests_are_explained(pair, arguments, message):
    objective, a, b = pair
    with pytest.raises(RequestError, match=message):
        barrier(objective, a, b, **arguments)


def test_ends_of_another_network_are_refused(pair):
    objective, a, _ = pair
    with pytest.raises(RequestError, match="expected"):
        barrier(objective, a, torch.zeros(3))
