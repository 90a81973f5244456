"""What the layers of a network have of sparsity is what their recorded activations have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.features import layer_sparsity as module
from landscape.probes.features.layer_sparsity import layer_sparsity
from landscape.probes.features.rank_measures import (
    alpha_req,
    effective_rank,
    participation_ratio,
    rankme,
)
from landscape.probes.features.sparsity_measures import gini, hoyer
from landscape.similarity.activations import activations

N = 25


def images(channels=3, size=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, channels, size, size, generator=generator, dtype=torch.float64)
    return inputs, torch.arange(N) % 4


def convolutional(inplace=False):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, dtype=torch.float64),
        nn.BatchNorm2d(5, dtype=torch.float64),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(80, 4, dtype=torch.float64),
    )


def objective(model=None, batch_size=7, **options):
    return Objective(model or convolutional(), images(), batch_size=batch_size, **options)


def column(found, name, layer):
    return found.measures[name][found.layers.index(layer)]


@pytest.mark.parametrize("inplace", [False, True])
def test_it_measures_the_mean_response_of_each_channel(inplace):
    problem = objective(convolutional(inplace))
    found = layer_sparsity(problem)
    assert found.layers == ("0", "1", "2", "4")
    for layer, features in activations(problem, pool="spatial").items():
        expected = {
            "hoyer_population": hoyer(features, 1).nanmean(),
            "hoyer_lifetime": hoyer(features, 0).nanmean(),
            "gini_population": gini(features, 1).nanmean(),
            "gini_lifetime": gini(features, 0).nanmean(),
            "gini_population_error": gini(features, 1).std() / N**0.5,
            "participation_ratio": participation_ratio(features),
            "participation_ratio_unbiased": participation_ratio(features, unbiased=True),
            "effective_rank": effective_rank(features),
            "rankme": rankme(features),
            "alpha_req": alpha_req(features).alpha,
            "alpha_req_error": alpha_req(features).standard_error,
            "num_units": features.shape[1],
        }
        for name, value in expected.items():
            assert column(found, name, layer) == pytest.approx(float(value), rel=1e-9), name


def test_active_and_dormant_units_are_counted_at_all_positions():
    problem = objective()
    found = layer_sparsity(problem, eps=0.3, tau=0.9)
    raw = activations(problem, layers="2")["2"].reshape(N, 5, 16)
    assert column(found, "l0", "2") == pytest.approx(float((raw > 0.3).sum(1).double().mean()))
    by_unit = raw.abs().mean((0, 2))
    assert column(found, "dormant_share", "2") == (by_unit <= 0.9 * by_unit.mean()).double().mean()
    # A channel with one active position is not dead, though its mean is negative.
    highest = activations(problem, layers="0")["0"].reshape(N, 5, 16).amax((0, 2))
    assert column(found, "dead_share", "0") == (highest <= 0).double().mean()


def linear():
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 8, dtype=torch.float64), nn.ReLU())


@pytest.mark.parametrize(("build", "biased"), [(convolutional, 1), (linear, 1)])
def test_a_unit_that_its_bias_kills_is_dead_and_dormant(build, biased):
    model = build()
    before = layer_sparsity(objective(model), layers="2")
    with torch.no_grad():
        model[biased].bias[3] = -1e9
    after = layer_sparsity(objective(model), layers="2")
    share = 1 / after.measures["num_units"][0]
    assert before.measures["dead_share"] == [0]
    assert after.measures["dead_share"] == [share]
    assert after.measures["dormant_share"] == [share]


@pytest.mark.parametrize("batch_size", [1, 25])
def test_batches_and_passes_do_not_matter(batch_size, monkeypatch):
    expected = layer_sparsity(objective())
    monkeypatch.setattr(module, "_BUDGET", 1)  # a pass for each layer
    found = layer_sparsity(objective(batch_size=batch_size))
    assert found.layers == expected.layers
    for name, values in expected.measures.items():
        np.testing.assert_allclose(found.measures[name], values, rtol=1e-9, err_msg=name)


def test_passes_are_as_few_as_memory_allows(monkeypatch):
    problem = objective(batch_size=N)
    calls = []
    problem.model.register_forward_hook(lambda *_: calls.append(1))
    layer_sparsity(problem)
    assert len(calls) == 2  # one to see the sizes
    monkeypatch.setattr(module, "_BUDGET", 8 * N * 10)  # two layers of five channels
    layer_sparsity(problem)
    assert len(calls) == 2 + 3


def test_every_element_may_be_a_unit_and_tokens_have_theirs_last():
    found = layer_sparsity(objective(), layers="0", pool="none")
    assert found.measures["num_units"] == [80]

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 5, dtype=torch.float64)

        def forward(self, inputs):  # (N, tokens, 3)
            return self.inner(inputs).mean(1)

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(N, 6, 3, generator=generator, dtype=torch.float64)
    problem = Objective(Mixer(), (inputs, torch.arange(N) % 5))
    found = layer_sparsity(problem, layers="inner", pool="tokens")
    raw = activations(problem, layers="inner", pool="tokens")["inner"]
    assert found.measures["num_units"] == [5]
    assert found.measures["rankme"][0] == pytest.approx(float(rankme(raw)))
    whole = activations(problem, layers="inner")["inner"].reshape(N, 6, 5)
    highest = whole.amax((0, 1))
    assert found.measures["dead_share"][0] == float((highest <= 0).double().mean())


def test_batch_norm_has_the_statistics_of_its_policy():
    problem = objective(bn="recalibrate")
    found = layer_sparsity(problem, layers="1")
    features = activations(problem, layers="1", pool="spatial")["1"]
    assert found.measures["rankme"][0] == pytest.approx(float(rankme(features)))
    running = layer_sparsity(objective(), layers="1")
    assert running.measures["rankme"][0] != pytest.approx(float(rankme(features)))


@pytest.mark.parametrize("budget", [1, 2**30])  # in two passes, and in one
def test_a_module_that_is_called_twice_is_two_layers(budget, monkeypatch):
    monkeypatch.setattr(module, "_BUDGET", budget)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, inputs):
            return self.inner(self.inner(inputs).relu())

    inputs = torch.randn(N, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = layer_sparsity(Objective(Twice(), (inputs, torch.arange(N) % 4)))
    assert found.layers == ("inner", "inner:2")
    assert found.measures["rankme"][0] != found.measures["rankme"][1]


def test_elsewhere_and_uncentred_are_what_they_say():
    problem = objective()
    theta = 1.5 * problem.theta
    found = layer_sparsity(problem, theta, layers="4", center=False)
    features = activations(problem, theta, layers="4")["4"]
    expected = float(participation_ratio(features, center=False))
    assert found.measures["participation_ratio"][0] == pytest.approx(expected)
    assert expected != pytest.approx(float(participation_ratio(features)), rel=1e-3)
    alpha = alpha_req(features, center=False).alpha
    assert found.measures["alpha_req"][0] == pytest.approx(alpha)


def test_silent_examples_have_no_population():
    model = nn.Sequential(nn.Linear(2, 3, bias=False, dtype=torch.float64), nn.ReLU())
    inputs = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, -1.0], [0.5, 0.1]]).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.5, -0.2]]))
    found = layer_sparsity(Objective(model, (inputs, torch.arange(4) % 3)), layers="1")
    assert found.measures["silent_share"] == [0.25]
    responses = model(inputs).detach()[1:]
    assert found.measures["hoyer_population"][0] == pytest.approx(float(hoyer(responses).mean()))


def test_the_model_is_left_as_it_was_also_where_it_fails():
    model = convolutional().train()
    problem = objective(model, bn="recalibrate")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layer_sparsity(problem)
    with pytest.raises(RequestError, match="no layer matches"):
        layer_sparsity(problem, layers="nothing")
    with torch.no_grad():
        bad = problem.theta * torch.nan
    with pytest.raises(RequestError, match="puts out NaN") as error:
        layer_sparsity(problem, bad)
    assert error.value  # what was raised is still held, and with it all that was running
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks for part in model.modules())
    for name, tensor in model.state_dict().items():
        assert (tensor == before[name]).all()


def test_outputs_that_change_their_size_are_refused():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.inner(inputs).mean(1)

    batches = [(torch.ones(4, tokens, 3), torch.arange(4) % 2) for tokens in (5, 6)]
    problem = Objective(Mean(), batches)
    with pytest.raises(RequestError, match="'inner' has 10 units in the first batch and 12"):
        layer_sparsity(problem, layers="inner", pool="none")
    found = layer_sparsity(problem, layers="inner", pool="tokens")
    assert found.measures["num_units"] == [2]


def test_negative_numbers_are_refused():
    with pytest.raises(RequestError, match="tau=-1"):
        layer_sparsity(objective(), tau=-1)


def test_the_dataset_has_the_layers_and_their_means():
    found = layer_sparsity(objective())
    dataset = found.to_dataset()
    assert dataset.layer.values.tolist() == ["0", "1", "2", "4"]
    for name in (
        *("hoyer_population", "hoyer_lifetime", "gini_population", "gini_lifetime", "l0"),
        *("dead_share", "dormant_share", "participation_ratio", "effective_rank", "rankme"),
        *("alpha_req", "num_units"),
    ):
        assert dataset[name].dims == ("layer",)
    for variable in dataset.data_vars.values():
        assert {"units", "long_name"} <= set(variable.attrs)
    mean = float(np.mean(found.measures["effective_rank"]))
    assert float(dataset.mean_effective_rank) == pytest.approx(mean)
    assert found.status == "converged"
    assert found.settings["pool"] == "spatial"
    assert found.provenance["num_examples"] == N


def test_a_measure_that_no_layer_has_has_no_mean():
    inputs = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    problem = Objective(nn.Sequential(nn.Linear(3, 1)), (inputs, torch.randn(N, 1)), "mse")
    found = layer_sparsity(problem)
    assert np.isnan(found.mean("hoyer_population"))
    assert found.mean("effective_rank") == pytest.approx(1)
