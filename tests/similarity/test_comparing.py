"""Comparing networks: all measures of one pass are those of each by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.similarity.activations import activations
from landscape.similarity.cka import cka, cka_estimate
from landscape.similarity.comparing import compare, compare_family
from landscape.similarity.distances import weight_distances
from landscape.store import open_results, save


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 5, bias=False),
        nn.BatchNorm1d(5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 3),
    ).double()


def data(n=50):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, :3]).argmax(1)


def objective_of(model, batch_size=16, **options):
    return Objective(model, data(), batch_size=batch_size, **options)


@pytest.fixture
def family():
    objective = objective_of(network(0))
    others = [objective.space.flatten(dict(network(s).named_parameters())) for s in (1, 2)]
    return objective, [objective.theta, *others]


def test_it_is_the_sum_of_its_parts(family):
    objective, (a, b, _) = family
    found = compare(objective, a, b)
    recalibrated = objective.under("recalibrate")
    first, second = (activations(recalibrated, theta) for theta in (a, b))
    assert found.layers == tuple(first) == ("0", "1", "2", "3")
    for index, layer in enumerate(found.layers):
        alone = cka_estimate(first[layer], second[layer])
        assert found.cka.value[0, 1, index] == pytest.approx(alone.value, abs=1e-12)
        interval = (found.cka.low[0, 1, index], found.cka.high[0, 1, index])
        assert interval == pytest.approx(alone.interval, abs=1e-11)
        for column, other in enumerate(found.layers):
            expected = cka(first[layer], second[other])
            assert found.cross_layer_cka[index, column] == pytest.approx(expected, abs=1e-12)
    assert np.array_equal(found.weights.angle, weight_distances(objective, [a, b]).angle)
    assert found.value("euclidean") == pytest.approx(float((a - b).norm()))
    predicted = [features["3"].argmax(1) for features in (first, second)]
    assert found.value("disagreement") == float((predicted[0] != predicted[1]).double().mean())
    accuracy = recalibrated.metrics(b)["accuracy"]
    assert found.predictions["accuracy"].value[1] == pytest.approx(accuracy)
    assert found.value("cka") == pytest.approx(found.cka.value[0, 1].mean())


def test_identical_networks_are_alike_in_everything(family):
    objective, (a, _, _) = family
    found = compare(objective, a, a.clone())
    assert (found.cka.value == 1).all()
    assert np.diagonal(found.cross_layer_cka) == pytest.approx(np.ones(4), abs=1e-12)
    for name in ("disagreement", "js_divergence", "kl_divergence", "calibration_difference"):
        assert found.value(name) == 0
    for name in ("angle", "euclidean", "relative", "scale_invariant_angle"):
        assert found.value(name) == 0


def test_a_family_has_the_numbers_of_its_pairs(family):
    objective, points = family
    whole = compare_family(objective, dict(zip("xyz", points, strict=True)))
    pair = compare(objective, points[0], points[2])
    assert whole.networks == ("x", "y", "z")
    assert whole.cross_layer_cka is None
    np.testing.assert_allclose(whole.cka.value[0, 2], pair.cka.value[0, 1], atol=1e-12)
    np.testing.assert_allclose(whole.cka.value[2, 0], pair.cka.value[0, 1], atol=1e-12)
    np.testing.assert_allclose(whole.cka.low[0, 2], pair.cka.low[0, 1], atol=1e-11)
    for name, held in pair.predictions.items():
        if held.value.ndim == 2:
            alone = whole.predictions[name].value[0, 2]
            assert alone == pytest.approx(held.value[0, 1], abs=1e-13)
    three = [whole.predictions["disagreement"].value[i, j] for i, j in [(0, 1), (0, 2), (1, 2)]]
    assert whole.value("disagreement") == pytest.approx(np.mean(three))
    assert compare_family(objective, points).networks == ("1", "2", "3")


def test_batches_do_not_matter_under_fixed_statistics(family):
    objective, (a, b, _) = family
    found = compare(objective, a, b, bn="eval")
    other = compare(objective_of(network(0), batch_size=50), a, b, bn="eval")
    np.testing.assert_allclose(found.cka.value, other.cka.value, atol=1e-12)
    assert found.value("js_divergence") == pytest.approx(other.value("js_divergence"), abs=1e-13)


def test_batch_norm_statistics_are_those_of_the_policy(family):
    objective, (a, b, _) = family
    inputs, _ = data()
    models = [network(0), network(1)]
    for model in models:
        model[1].running_mean += 0.3
        model[1].running_var *= 2
    held = [dict(model.named_buffers()) for model in models]
    own = compare(objective, a, b, bn="eval", buffers=held)
    with torch.no_grad():
        first, second = (model.eval()(inputs).argmax(1) for model in models)
    assert own.value("disagreement") == float((first != second).double().mean())
    plain = compare(objective, a, b, bn="eval")
    fresh = compare(objective, a, b)
    values = {found.value("js_divergence") for found in (own, plain, fresh)}
    assert len(values) == 3
    assert compare(objective, a, b, bn="batch").value("js_divergence") not in values
    assert fresh.settings["bn"] == fresh.provenance["bn"] == "recalibrate"


def test_wrong_buffers_are_refused(family):
    objective, (a, b, _) = family
    held = dict(network(0).named_buffers())
    with pytest.raises(RequestError, match="Give bn='eval'"):
        compare(objective, a, b, buffers=[held, held])
    with pytest.raises(RequestError, match="1 sets of buffers for 2 networks"):
        compare(objective, a, b, buffers=[held], bn="eval")
    short = {name: held[name] for name in held if name != "1.running_mean"}
    with pytest.raises(RequestError, match=r"'1.running_mean' is missing"):
        compare(objective, a, b, buffers=[held, short], bn="eval")


def test_scale_invariant_weights_are_found_and_compared(family):
    objective, (a, b, _) = family
    b = b.clone()
    expected = compare(objective, a, b).value("scale_invariant_angle")
    rows = objective.space.slice_of("0.weight")
    u, v = a[rows], b[rows]
    assert math.cos(expected) == pytest.approx(float(u @ v / u.norm() / v.norm()))
    b[rows] *= 5
    found = compare(objective, a, b)
    assert found.value("scale_invariant_angle") == pytest.approx(expected, abs=1e-14)
    plain = Objective(nn.Sequential(nn.Linear(6, 3)).double(), data())
    assert compare(plain, plain.theta, plain.theta).scale_invariant_angle is None


def test_layers_and_what_they_lack_are_said(family):
    objective, (a, b, _) = family
    assert compare(objective, a, b, layers=["1", "3"]).layers == ("1", "3")
    model = network(0)
    model[0].add_module("unused", nn.ReLU())
    found = compare(objective_of(model), a, b)
    assert found.layers == ("0", "1", "2", "3")
    assert any("0.unused" in note for note in found.notes)
    with pytest.raises(RequestError, match=r"'0.unused' has no output"):
        compare(objective_of(model), a, b, layers=["0", "0.unused"])


def test_a_layer_that_is_dead_has_no_cka_and_spoils_no_mean():
    objective = objective_of(network(0))
    dead = objective.theta.clone()
    dead[objective.space.slice_of("1.bias")] = -100
    found = compare(objective, objective.theta, dead)
    assert np.isnan(found.cka.value[0, 1]).tolist() == [False, False, True, True]
    assert found.value("cka") == pytest.approx(np.nanmean(found.cka.value[0, 1]))
    assert found.cka.value[0, 0, 2] == 1


def test_features_that_are_too_many_to_hold_pass_twice_and_few_once(family):
    objective, (a, b, _) = family
    seen = []
    compare(objective, a, b, progress=lambda *step: seen.append(step))
    assert [step[0] for step in seen] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert "once more" in seen[-1][2]
    wide = nn.Sequential(nn.Linear(6, 300), nn.Tanh(), nn.Linear(300, 3)).double()
    objective, held = objective_of(wide), []
    compare(objective, objective.theta, -objective.theta, progress=lambda *s: held.append(s))
    assert [step[0] for step in held] == [1, 2, 3, 4]


def test_one_pass_serves_all_networks():
    objective = objective_of(nn.Sequential(nn.Linear(6, 3)).double())
    calls = []
    handle = objective.model[0].register_forward_hook(lambda *_: calls.append(1))
    compare_family(objective, [scale * objective.theta for scale in (1, 2, 3)])
    handle.remove()
    assert len(calls) == 3 * 4 * 2  # networks, batches, and once more for the intervals of CKA


def test_a_loss_that_shows_no_outputs_leaves_the_rest():
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    objective = Objective(network(0), data(), loss)
    found = compare(objective, objective.theta, -objective.theta)
    assert found.predictions == {}
    assert np.isfinite(found.value("angle"))
    with pytest.raises(RequestError, match="unknown measure 'disagreement'"):
        found.value("disagreement")


def test_the_model_stays_as_it_was(family):
    objective, (a, b, _) = family
    model = objective.model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compare(objective, a, b)
    with pytest.raises(RequestError):
        compare(objective, a, b[1:])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_fewer_than_four_examples_are_refused():
    inputs, target = data(3)
    model = nn.Sequential(nn.Linear(6, 3)).double()
    objective = Objective(model, (inputs, target))
    with pytest.raises(RequestError, match="3 examples, expected at least 4"):
        compare(objective, objective.theta, -objective.theta)


def test_it_is_kept_in_a_file_and_its_scalars_are_columns(family, tmp_path):
    objective, (a, b, _) = family
    found = compare(objective, a, b)
    save(tmp_path / "a.h5", found)
    results = open_results(tmp_path / "a.h5")
    row = results.table().iloc[0]
    for name in ("cka", "disagreement", "js_divergence", "angle", "scale_invariant_angle"):
        assert row[f"similarity.{name}"] == found.value(name)
    low, high = found.interval("js_divergence")
    assert (row["similarity.js_divergence_low"], row["similarity.js_divergence_high"]) == (
        low,
        high,
    )
    (_, stored), *_ = results.dataset("similarity")
    assert stored["pair_cka"].sel(network="a", other_network="b", layer="2") == pytest.approx(
        found.cka.value[0, 1, 2]
    )
    for name, variable in stored.data_vars.items():
        assert variable.attrs.keys() >= {"units", "long_name"}, name


def test_the_same_request_has_the_same_settings_and_another_seed_has_not(family):
    objective, (a, b, _) = family
    first, again, other = (compare(objective, a, b, seed=s) for s in (0, 0, 1))
    assert first.settings == again.settings != other.settings
    assert first.interval("js_divergence") == again.interval("js_divergence")
    assert first.interval("js_divergence") != other.interval("js_divergence")
    assert first.interval("disagreement") == other.interval("disagreement")  # Wilson's


def test_unknown_names_are_refused(family):
    objective, (a, b, _) = family
    found = compare(objective, a, b)
    with pytest.raises(RequestError, match="Did you mean 'disagreement'"):
        found.value("disagreements")
    with pytest.raises(RequestError, match="measure with an interval 'angle'"):
        found.interval("angle")
