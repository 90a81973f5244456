"""Checkpoints as an ensemble: their logits on an objective's data, and the mean of weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.merging.averaging import average
from landscape.objective import Objective
from landscape.probes.ensembles.family import family_logits, family_report
from landscape.probes.ensembles.report import ensemble_report

N, C = 24, 3


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(C, (N,), generator=generator)


def network(norm=False):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, C)]
    return nn.Sequential(*(layer for layer in layers if norm or not _is_norm(layer))).double()


def _is_norm(layer):
    return isinstance(layer, nn.BatchNorm1d)


def points(objective, count=3, spread=0.5):
    generator = torch.Generator().manual_seed(1)
    size = len(objective.theta)
    steps = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return [objective.theta + spread * step for step in steps]


def outputs(model, theta, inputs):
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    return model(inputs).detach()


def test_its_logits_are_those_of_the_networks():
    inputs, labels = data()
    objective = Objective(network(), (inputs, labels), batch_size=7)
    thetas = points(objective)
    found = family_logits(objective, iter(thetas))
    model = network()
    expected = torch.stack([outputs(model, theta, inputs) for theta in thetas])
    torch.testing.assert_close(found.logits, expected)
    assert found.labels.tolist() == labels.tolist()
    torch.testing.assert_close(found.mean, torch.stack(thetas).mean(0))


def test_its_report_is_that_of_the_logits():
    objective = Objective(network(), data())
    thetas = points(objective)
    family = family_logits(objective, thetas)
    found = family_report(objective, thetas, seed=3, num_bins=5)
    expected = ensemble_report(family.logits, family.labels, seed=3, num_bins=5)
    assert found.to_dataset().identical(expected.to_dataset())
    assert found.soup is None


def test_the_provenance_is_of_the_objective_and_of_the_members():
    objective = Objective(network(), data())
    thetas = points(objective)
    one, other = family_report(objective, thetas), family_report(objective, thetas[::-1])
    for name, value in objective.provenance().items():
        assert one.provenance[name] == value
    assert one.provenance["members_fingerprint"] != other.provenance["members_fingerprint"]


def test_the_soup_is_the_network_of_the_mean_weights():
    inputs, labels = data()
    objective = Objective(network(), (inputs, labels))
    thetas = points(objective)
    found = family_report(objective, thetas, soup=True)
    logits = outputs(network(), torch.stack(thetas).mean(0), inputs)
    assert found.soup.accuracy == (logits.argmax(1) == labels).double().mean()
    assert found.soup.nll == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    dataset = found.to_dataset()
    assert (dataset.soup_accuracy, dataset.soup_nll) == (found.soup.accuracy, found.soup.nll)


def test_the_soup_of_copies_is_the_network():
    objective = Objective(network(), data())
    found = family_report(objective, [objective.theta] * 3, soup=True)
    assert found.soup.nll == pytest.approx(found.nll)
    assert found.soup.accuracy == found.accuracy


@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
def test_the_soup_has_statistics_of_its_own(bn):
    scored = Objective(network(norm=True), data(), bn=bn)
    training = Objective(network(norm=True), data(seed=5), bn=bn)
    thetas = points(scored)
    found = family_report(scored, thetas, soup=True)
    assert found.soup.nll == pytest.approx(average(scored, thetas).loss)
    assert any("data that it is scored on" in note for note in found.notes)
    trained = family_report(scored, thetas, soup=True, training=training)
    expected = average(training, thetas, also={"test": scored})["test"]
    assert trained.soup.nll == pytest.approx(expected.loss)
    assert trained.soup.accuracy == expected.accuracy
    assert trained.soup.nll != pytest.approx(found.soup.nll)
    assert not any("scored on" in note for note in trained.notes)


def test_members_have_their_own_statistics():
    model = network(norm=True)
    objective = Objective(model, data())
    own = []
    for shift in (0.0, 1.0):
        held = dict(model.named_buffers())
        own.append(held | {"1.running_mean": held["1.running_mean"] + shift})
    found = family_report(objective, [objective.theta] * 2, own)
    assert found.member_nll[0] == pytest.approx(objective.value)
    assert found.member_nll[1] != pytest.approx(objective.value)
    assert not any("BatchNorm" in note for note in found.notes)
    bare = family_report(objective, [objective.theta] * 2)
    assert any("which belong to none of the others" in note for note in bare.notes)
    assert found.provenance["members_fingerprint"] != bare.provenance["members_fingerprint"]


def test_single_precision_stays_single():
    inputs, labels = data()
    objective = Objective(network().float(), (inputs.float(), labels))
    assert family_logits(objective, points(objective)).logits.dtype == torch.float32


def test_one_logit_is_two_classes():
    torch.manual_seed(0)
    inputs, labels = data()
    targets = (labels > 0).double()
    objective = Objective(nn.Linear(4, 1).double(), (inputs, targets[:, None]), "bce")
    found = family_report(objective, [objective.theta, -objective.theta])
    assert found.member_nll[0] == pytest.approx(objective.value)
    assert np.exp(-found.member_nll.mean()) < 1


def test_members_that_do_not_fit_are_refused():
    objective = Objective(network(), data())
    theta = objective.theta
    with pytest.raises(RequestError, match="there are no members to evaluate"):
        family_report(objective, [])
    with pytest.raises(RequestError, match="member 2 holds weights that are not finite"):
        family_report(objective, [theta, theta * math.nan])
    with pytest.raises(RequestError, match="there are buffers for 1 members"):
        family_report(objective, [theta, theta], [{}])
    with pytest.raises(RequestError, match="more buffers than the 1 points"):
        family_report(objective, [theta], [{}, {}])
