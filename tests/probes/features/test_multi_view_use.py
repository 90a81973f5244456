"""Networks that are built to use some features are found to use these."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.features.multi_view_use import feature_use, tick_use
from landscape.similarity.bootstrap import wilson
from landscape.trainers.data.multi_view import single_feature_sets, ticks

F = 5


class Ticks(nn.Module):
    """Weighs the features' distances from their boundaries: one logit, (n, 1)."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    def forward(self, inputs):
        x1, x2 = inputs.reshape(len(inputs), -1, 2).unbind(2)
        value = (x2 - x1.abs() + 1).abs() - 1
        return (value * self.weights).sum(1, keepdim=True)


def using(*features, count=F):
    return Ticks([float(k in features) for k in range(count)])


def problem(model, num_examples=200, **options):
    inputs, labels = ticks("test", 0, num_examples, F)
    return Objective(model, (inputs, labels.float()), "bce", **options)


def singles(count=200, num_features=F):
    return single_feature_sets(0, num_features, count)


# -- networks that are built ------------------------------------------------------------------


def test_a_network_of_one_feature():
    found = tick_use(problem(using(2)), seed=0, num_features=F, num_examples=200)
    assert found.accuracy.value[2] == 1
    others = np.delete(found.accuracy.value, 2)
    assert np.abs(others - 0.5).max() < 4 * 0.5 / 200**0.5
    assert found.use.value.tolist() == [0, 0, 0.5, 0, 0]
    assert found.effective_number == pytest.approx(1)
    assert found.participation_ratio == pytest.approx(1)
    assert found.gini == pytest.approx(1 - 1 / F)
    assert found.gap == 0.5
    assert found.flip_rate.value.tolist() == [0, 0, 1, 0, 0]
    assert found.control_rate.value.tolist() == [0] * 5
    assert float(found.full_accuracy.value) == 1
    assert found.chance == 0.5
    assert found.status == "converged"


def test_a_network_of_two_features_uses_two():
    found = tick_use(problem(using(0, 3)), seed=0, num_features=F, num_examples=200)
    assert found.accuracy.value[[0, 3]].tolist() == [1, 1]
    assert found.use.value.tolist() == [0.5, 0, 0, 0.5, 0]
    assert found.effective_number == pytest.approx(2)
    assert found.participation_ratio == pytest.approx(2)
    assert found.gini == pytest.approx(1 - 2 / F)
    assert found.gap == 0


def test_a_network_of_all_features_uses_all_though_no_swap_changes_it():
    found = tick_use(problem(using(*range(F))), seed=0, num_features=F, num_examples=200)
    assert found.effective_number == pytest.approx(F)
    assert found.gini == pytest.approx(0, abs=1e-12)
    assert found.flip_rate.value.max() < 0.3  # the others outvote it


def test_a_network_of_no_feature_has_no_effective_number():
    found = feature_use(
        lambda inputs: torch.ones(len(inputs)), ticks("test", 0, 50, F), single=singles(50)
    )
    assert found.use.value.tolist() == [0] * F
    for name in ("effective_number", "gini", "participation_ratio"):
        held = found.summaries[name]
        assert np.isnan([held.value, held.low, held.high]).all()
    assert found.gap == 0
    assert found.status == "no feature is used: its numbers are NaN"


def test_a_function_alone_is_asked_about_ticks():
    found = feature_use(using(1, count=F), num_features=F)
    assert found.accuracy.value[1] == 1
    assert found.effective_number == pytest.approx(1)
    assert found.num_examples == 2000
    assert found.settings["data"] == "ticks"
    assert found.provenance == {}


# -- accuracy ---------------------------------------------------------------------------------


def noisy_model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2 * F, 16), nn.ReLU(), nn.Linear(16, 1))


def test_accuracies_are_those_on_the_single_feature_sets_by_the_sign_of_the_logit():
    model = noisy_model()
    found = tick_use(problem(model), seed=7, num_features=F, num_examples=150)
    inputs, labels = single_feature_sets(7, F, 150)
    right = ((model(inputs)[..., 0] > 0) == labels.bool()).double().sum(1)
    np.testing.assert_allclose(found.accuracy.value, right / 150)
    expected = wilson(right.numpy(), 150.0)
    np.testing.assert_allclose(found.accuracy.low, expected.low)
    np.testing.assert_allclose(found.accuracy.high, expected.high)


def test_margin_and_shape_are_of_the_single_feature_sets():
    model = noisy_model()
    found = tick_use(
        problem(model), seed=7, num_features=F, num_examples=150, margin=0.3, shape="circles"
    )
    inputs, labels = single_feature_sets(7, F, 150, 0.3, "circles")
    right = ((model(inputs)[..., 0] > 0) == labels.bool()).double().mean(1)
    np.testing.assert_allclose(found.accuracy.value, right)


def test_the_use_of_a_feature_is_its_accuracy_above_chance():
    weights = [1.0, 0.0, 0.6, 0.0, 0.0]

    class Noisy(nn.Module):
        """Sees features through a noise that the rest of the input brings."""

        def forward(self, inputs):
            noise = 0.8 * torch.sin(50 * inputs[:, 8] + 70 * inputs[:, 9])
            return Ticks(weights)(inputs)[:, 0] + noise

    found = feature_use(Noisy(), ticks("test", 0, 400, F), single=singles(4000))
    above = found.accuracy.value - 0.5
    error = 0.5 / 4000**0.5
    assert found.use.value[0] > found.use.value[2] > 0.1
    assert found.use.value[[0, 2]] == pytest.approx(above[[0, 2]], abs=4 * error)
    assert found.use.value[[1, 3]].tolist() == [0, 0]  # accuracies are not 0.5 exactly
    assert found.use.low[2] < found.use.value[2] < found.use.high[2]
    effective = found.summaries["effective_number"]
    assert 1 < effective.low < effective.value < effective.high < 3


def test_summaries_follow_from_the_use():
    found = tick_use(problem(Ticks([1.0, 0.7, 0.4, 0.2, 0.0])), seed=0, num_features=F)
    noisy = tick_use(problem(noisy_model()), seed=0, num_features=F)
    for each in (found, noisy):
        use = each.use.value
        share = use[use > 0] / use.sum()
        assert each.effective_number == pytest.approx(np.exp(-(share * np.log(share)).sum()))
        assert each.participation_ratio == pytest.approx(use.sum() ** 2 / (use**2).sum())
        first, second = np.sort(use)[:-3:-1]
        assert each.gap == pytest.approx(first - second)
        difference = np.abs(use[:, None] - use).mean() / (2 * use.mean())
        assert each.gini == pytest.approx(difference)
        for held in each.summaries.values():
            assert held.low <= held.high


# -- swaps ------------------------------------------------------------------------------------


def test_without_single_feature_sets_the_swaps_are_what_is_summed_up():
    found = feature_use(problem(using(2), batch_size=30))
    assert np.isnan(found.accuracy.value).all()
    assert found.use_of == "flip_rate"
    assert found.use.value.tolist() == found.flip_rate.value.tolist() == [0, 0, 1, 0, 0]
    assert found.effective_number == pytest.approx(1)
    expected = wilson(np.array([0.0, 200.0]), 200.0)
    assert found.flip_rate.low[[1, 2]] == pytest.approx(expected.low)
    assert found.flip_rate.high[[1, 2]] == pytest.approx(expected.high)


def test_ones_own_data_have_blocks_and_classes_of_their_own():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    inputs = torch.randn(90, 2, 3, generator=generator)
    inputs[:, 0, 2] = labels.float()  # entry 2 of the flattened input

    def network(shown):
        return nn.functional.one_hot(shown[:, 0, 2].round().long(), 3)

    found = feature_use(network, (inputs, labels), blocks=[[0, 5], [2], [1, 3, 4]])
    assert found.flip_rate.value.tolist() == [0, 1, 0]
    assert found.chance == pytest.approx(1 / 3)
    assert float(found.full_accuracy.value) == 1
    alone = feature_use(
        network,
        (inputs, labels),
        blocks=[[0, 5], [2], [1, 3, 4]],
        single=(inputs.expand(3, -1, -1, -1), labels.expand(3, -1)),
    )
    assert alone.use.value == pytest.approx([0, 2 / 3, 0])
    assert alone.effective_number == pytest.approx(1)


def test_arrays_and_lists_are_data_too():
    inputs = np.array([[0.0, 1.0], [0.0, -1.0], [3.0, 1.0], [3.0, -1.0]])
    found = feature_use(lambda x: x[:, 1], (inputs, [1, 0, 1, 0]), block=1)
    assert found.flip_rate.value.tolist() == [0, 1]


def test_the_control_sees_what_is_not_the_class():
    inputs = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(300) % 2  # nothing in the inputs tells it
    found = feature_use(lambda shown: shown[:, 0], (inputs, labels), block=1)
    assert found.flip_rate.value[0] == pytest.approx(0.5, abs=0.12)
    assert found.control_rate.value[0] == pytest.approx(0.5, abs=0.12)
    assert found.control_rate.value[1] == found.flip_rate.value[1] == 0


def test_entries_behind_the_last_feature_are_left_alone():
    inputs, labels = ticks("test", 0, 60, F)
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([inputs, noise], 1)
    found = feature_use(lambda shown: using(2)(shown[:, : 2 * F]), (padded, labels), num_features=F)
    assert found.flip_rate.value.tolist() == [0, 0, 1, 0, 0]


def test_another_point_of_the_objective_is_another_network():
    objective = problem(using(2))
    theta = torch.zeros(F)
    theta[4] = 1
    found = tick_use(objective, seed=0, num_features=F, num_examples=50, theta=theta)
    assert found.flip_rate.value.tolist() == [0, 0, 0, 0, 1]
    assert found.accuracy.value[4] == 1


def test_a_feature_that_is_read_the_wrong_way_round_is_not_used():
    network = Ticks([1.0, 0.0, 0.0, 0.0, -0.5])
    found = feature_use(network, ticks("test", 0, 100, F), single=singles())
    assert found.accuracy.value[4] == 0
    assert found.use.value.tolist() == [0.5, 0, 0, 0, 0]
    assert found.effective_number == pytest.approx(1)


def test_the_seed_repeats_and_matters():
    network = noisy_model()
    data = ticks("test", 0, 100, F)
    first, again, other = (feature_use(network, data, seed=seed) for seed in (1, 1, 2))
    assert (first.flip_rate.value == again.flip_rate.value).all()
    assert first.summaries["gini"].low == again.summaries["gini"].low
    assert (first.flip_rate.value != other.flip_rate.value).any()


def test_swaps_of_features_are_independent_of_one_another():
    class Both(nn.Module):
        def forward(self, inputs):
            seen.append(inputs)
            return inputs[:, 0]

    seen = []
    inputs = torch.arange(80.0).reshape(40, 2)
    feature_use(Both(), (inputs, torch.arange(40) % 2), block=1)
    donors = [
        part[:, entry] // 2
        for part, entry in itertools.product(seen, (0, 1))
        if (part[:, entry] != inputs[:, entry]).any()
    ]
    assert len(donors) == 4
    for one, two in itertools.combinations(donors, 2):
        assert (one != two).any()


def test_the_model_and_the_data_are_left_as_they_were():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2 * F, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs, labels = ticks("test", 0, 40, F)
    copied = inputs.clone()
    feature_use(model, (inputs, labels), single=singles(40))
    feature_use(Objective(model, (inputs, labels[:, None].float()), "bce"), single=singles(40))
    assert (inputs == copied).all()
    assert all(part.training for part in model.modules())
    for name, tensor in model.state_dict().items():
        assert (tensor == before[name]).all()


# -- results and refusals ---------------------------------------------------------------------


def test_the_dataset_has_what_is_to_be_drawn():
    found = tick_use(problem(using(2, 3)), seed=0, num_features=F, num_examples=100)
    dataset = found.to_dataset()
    for name in ("accuracy", "low", "high", "flip_rate", "flip_low", "flip_high", "use"):
        assert dataset[name].dims == ("feature",)
    for name in ("effective_number", "gini", "participation_ratio", "gap"):
        assert float(dataset[name]) == getattr(found, name)
    assert dataset.sortby("rank").sorted_use.values.tolist() == [0.5, 0.5, 0, 0, 0]
    assert float(dataset.full_accuracy) == float(found.full_accuracy.value)
    for variable in dataset.data_vars.values():
        assert {"units", "long_name"} <= set(variable.attrs)
    assert found.provenance["num_examples"] == 200


def test_one_feature_has_no_gap():
    inputs, labels = ticks("test", 0, 30, 1)
    found = feature_use(using(0, count=1), (inputs, labels))
    assert np.isnan(found.gap)
    assert found.effective_number == pytest.approx(1)


DATA = (torch.ones(4, 6), torch.arange(4) % 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": (torch.ones(4, 6), torch.zeros(3).long())}, r"labels \(3,\)"),
        ({"data": (torch.ones(4, 6), torch.zeros(4))}, "labels holds float32"),
        ({"data": (torch.ones(4, 6), torch.ones(4).long())}, "are class"),
        ({"num_features": 4}, "6 entries, which are not 4 blocks of 2"),
        ({"block": 4}, "6 entries, which are not whole blocks of 4"),
        ({"block": 0}, "block=0"),
        ({"blocks": [[0, 6]]}, "entries from 0 to 5"),
        ({"blocks": [[0], []]}, "none of them empty"),
        ({"blocks": [[0]], "num_features": 2}, "num_features=2, and there are 1 blocks"),
        ({"single": (torch.ones(2, 4, 6), torch.zeros(2, 4))}, r"expected \(3, n, 6\)"),
        ({"single": (torch.ones(3, 4, 6), torch.zeros(3, 5))}, r"expected \(3, 4\)"),
        ({"theta": torch.ones(2)}, "theta is a point"),
    ],
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        feature_use(lambda inputs: inputs[:, 0], **{"data": DATA, **options})


def test_positions_are_no_inputs_of_their_own():
    model = nn.Conv1d(2, 3, 1)
    data = (torch.ones(4, 2, 5), torch.arange(20).reshape(4, 5) % 3)
    with pytest.raises(RequestError, match="20 classes for 4 inputs"):
        feature_use(Objective(model, data))
