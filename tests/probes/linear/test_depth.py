"""Prediction depth: the layer where the label comes in; nobody votes for themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.linear import depth as module
from landscape.probes.linear.depth import consensus, depths, prediction_depth
from landscape.similarity.activations import activations
from landscape.similarity.bootstrap import wilson

NUM_LAYERS = 5


def scaled(*factors):
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    layer.weight.data = torch.diag(torch.tensor(factors, dtype=torch.float64))
    return layer


def pairs(count=12, shift=0.0):
    """Neighbours on a line, of opposite classes; the label is there, too small to be seen."""
    labels = torch.arange(2 * count) % 2
    places = 10.0 * (torch.arange(2 * count) // 2) + 0.1 * labels + shift
    return torch.stack([places.double(), 1e-3 * (2 * labels - 1).double()], 1), labels


def revealed_at(layer):
    """A network of identities, but that `layer` makes the label large; the last tells the class."""
    layers = [scaled(1.0, 1e6 if index == layer else 1.0) for index in range(1, NUM_LAYERS + 1)]
    head = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    head.weight.data = torch.tensor([[0.0, -1], [0, 1]], dtype=torch.float64)
    return nn.Sequential(*layers, head)


def classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 3),
    ).double()


def images(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 1, 5, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (count,), generator=generator)
    inputs[:, 0, 0, 0] += 3 * labels
    return inputs, labels


def num_hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@pytest.mark.parametrize("layer", range(1, NUM_LAYERS + 1))
@pytest.mark.parametrize("target", ["model", "label"])
def test_a_label_that_comes_in_at_a_layer_has_its_depth(layer, target):
    found = prediction_depth(Objective(revealed_at(layer), pairs()), k=1, target=target)
    assert found.depth.tolist() == [layer] * 24
    assert found.mean_depth == layer
    assert found.num_undefined == 0
    expected = [0.0] * layer + [1.0] * (NUM_LAYERS + 3 - layer)
    assert found.knn_accuracy.value.tolist() == expected
    assert found.knn_agreement.value.tolist() == expected
    assert found.layers == ("input", *map(str, range(NUM_LAYERS + 1)), "softmax")


@pytest.mark.parametrize("own_model", [False, True])
def test_others_have_the_depth_of_the_layer_too(own_model):
    model = revealed_at(3)
    other = copy.deepcopy(model) if own_model else model
    # Nearest in place is the partner of the other class, among strangers as among one's own.
    inputs, labels = pairs()
    swapped = inputs.clone()
    swapped[:, 0] = inputs[:, 0] + 0.1 - 0.2 * labels
    found = prediction_depth(Objective(model, (inputs, labels)), k=1,
                             test=Objective(other, (swapped, labels)))  # fmt: skip
    assert found.depth.tolist() == [3.0] * 24
    assert found.layers[0] == "input"
    assert not any(one._forward_pre_hooks for one in (model, other))


def test_identities_leave_all_votes_equal():
    model = nn.Sequential(*[scaled(1.0, 1.0) for _ in range(4)])
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    objective = Objective(model, (inputs, torch.randint(2, (50,), generator=generator)))
    found = prediction_depth(objective, k=5)
    assert (found.votes[:-1] == found.votes[0]).all()  # all but the softmax
    assert len(set(found.knn_accuracy.value[:-1])) == 1


def test_one_neighbour_that_is_oneself_does_not_make_all_depths_zero():
    inputs, _ = images(60)
    labels = torch.randint(3, (60,), generator=torch.Generator().manual_seed(5))
    found = prediction_depth(Objective(classifier(), (inputs, labels)), k=1, target="label")
    assert found.knn_accuracy.value.max() < 0.7  # with oneself 1
    assert np.count_nonzero(found.depth == 0) < 20


@pytest.mark.parametrize("with_test", [False, True])
@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_it_is_that_of_scikit_learn_layer_by_layer(with_test, bn, metric):
    model = classifier()
    train = Objective(model, images(), batch_size=16, bn=bn)
    test = Objective(model, images(25, 1), batch_size=7, bn=bn) if with_test else None
    found = prediction_depth(train, k=1, test=test, metric=metric, layers=["0", "1", "2", "5"])
    reference = copy.deepcopy(model).eval()
    if bn == "recalibrate":
        reference[1].running_mean = train.buffers_at(train.theta)["1.running_mean"]
        reference[1].running_var = train.buffers_at(train.theta)["1.running_var"]

    def features(inputs):
        seen = [inputs]
        with torch.no_grad():
            for index, layer in enumerate(reference):
                inputs = layer(inputs)
                if index in (0, 1, 2, 5):
                    seen.append(inputs.clone())
        return [part.flatten(1).numpy() for part in [*seen, inputs.softmax(1)]]

    known, (asked_inputs, asked_labels) = images(), images(25, 1) if with_test else images()
    votes = []
    for bank, queries in zip(features(known[0]), features(asked_inputs), strict=True):
        knn = KNeighborsClassifier(1, metric=metric, algorithm="brute").fit(bank, known[1])
        nearest = knn.kneighbors(queries if with_test else None, return_distance=False)[:, 0]
        votes.append(known[1].numpy()[nearest])
    assert found.votes.tolist() == np.array(votes).tolist()
    final = features(asked_inputs)[-1].argmax(1)
    assert found.final_class.tolist() == final.tolist()
    assert found.label.tolist() == asked_labels.tolist()
    expected = []
    for row, label in enumerate(final):
        settled = [layer for layer in range(6) if all(v[row] == label for v in votes[layer:])]
        expected.append(min(settled, default=np.nan))
    np.testing.assert_array_equal(found.depth, expected)
    assert len(set(found.depth[np.isfinite(found.depth)])) > 1
    hits = (np.array(votes) == asked_labels.numpy()).sum(1).astype(float)
    np.testing.assert_allclose(found.knn_accuracy.low, wilson(hits, len(final)).low)


def test_depths_of_sequences_by_hand():
    votes = np.array([[1, 0, 1, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(depths(votes, np.ones(5, int)), [0, 1, 2, 2, np.nan])
    np.testing.assert_array_equal(depths(votes[:, :1], [3]), [np.nan])
    np.testing.assert_array_equal(depths([[2], [2]], [2]), [0])


def test_votes_are_compared_with_the_target():
    objective = Objective(classifier(), images())
    model = prediction_depth(objective, k=3)
    label = prediction_depth(objective, k=3, target="label")
    given = prediction_depth(objective, k=3, target=torch.ones(40, dtype=torch.int64))
    assert np.array_equal(model.target, model.final_class)
    assert np.array_equal(label.target, label.label)
    assert (given.target == 1).all()
    for found in (model, label, given):
        np.testing.assert_array_equal(found.depth, depths(found.votes, found.target))
        agreement = (found.votes == found.final_class).mean(1)
        np.testing.assert_allclose(found.knn_agreement.value, agreement)
        assert np.array_equal(found.votes, model.votes)
    assert not np.array_equal(model.depth, label.depth, equal_nan=True)


def test_consensus_is_the_majority_and_of_equals_the_lowest():
    assert consensus([[2, 0, 1], [2, 1, 0], [1, 1, 2]]).tolist() == [2, 1, 0]


def test_layers_are_in_the_order_in_which_they_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = scaled(1.0, 1.0), scaled(1.0, 1.0)

        def forward(self, inputs):
            return self.last(self.first(self.first(inputs)))

    found = prediction_depth(Objective(Backwards(), pairs()), k=1)
    assert found.layers == ("input", "first", "first:2", "last", "softmax")


@pytest.mark.parametrize("held", [0, 2000, 2**30])
def test_groups_of_layers_change_nothing(monkeypatch, held):
    objective = Objective(classifier(), images(), batch_size=16)
    expected = prediction_depth(objective, k=3)
    monkeypatch.setattr(module, "_HELD", held)
    found = prediction_depth(objective, k=3)
    assert np.array_equal(found.votes, expected.votes)
    assert found.layers == expected.layers


def test_layers_are_held_a_group_at_a_time(monkeypatch):
    recorded = []
    monkeypatch.setattr(
        module,
        "activations",
        lambda *args, **named: recorded.append(named["layers"]) or activations(*args, **named),
    )
    objective = Objective(classifier(), images())
    prediction_depth(objective, k=3)
    assert recorded == [("0", "1", "2", "5")]
    recorded.clear()
    monkeypatch.setattr(module, "_HELD", 40 * 36 * 8 * 2)  # two of the wide ones
    prediction_depth(objective, k=3)
    assert recorded == [("0", "1"), ("2", "5")] or recorded == [("0", "1"), ("2",), ("5",)]


def test_spatial_means_are_fewer_features():
    objective = Objective(classifier(), images())
    found = prediction_depth(objective, k=3, layers="0", pool="spatial")
    means = activations(objective, layers="0", pool="spatial")["0"]
    knn = KNeighborsClassifier(3, algorithm="brute").fit(means, found.label)
    nearest = found.label[knn.kneighbors(return_distance=False)]
    is_clear = np.array([len(set(row)) < 3 for row in nearest.tolist()])  # no tie of three
    majority = np.array([np.bincount(row).argmax() for row in nearest])
    assert np.array_equal(found.votes[1][is_clear], majority[is_clear])


def test_inputs_that_are_no_numbers_are_left_out_and_it_is_said():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(7, (30, 3), generator=generator)
    objective = Objective(model, (tokens, torch.randint(3, (30,), generator=generator)))
    found = prediction_depth(objective, k=3)
    assert found.layers == ("0", "2", "softmax")
    assert "first layer" in found.notes[0]
    assert not prediction_depth(Objective(classifier(), images()), k=3).notes


def test_inputs_may_be_named_and_their_first_tensor_is_taken():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = revealed_at(2)

        def forward(self, inputs, scale=1.0):
            return self.inner(inputs * scale)

    class Loss(nn.Module):
        def forward(self, output, target):
            return nn.functional.cross_entropy(output, target)

    found = prediction_depth(Objective(Named(), pairs()), k=1, layers="inner.?")
    assert found.layers[0] == "input"
    assert found.depth.tolist() == [2.0] * 24


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
def test_the_model_is_left_as_it_was(bn):
    model = classifier().train()
    model[0].eval()
    flags = [part.training for part in model.modules()]
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    objective = Objective(model, images(), batch_size=20, bn=bn)
    prediction_depth(objective, k=3, test=Objective(model, images(20, 1), bn=bn))
    assert [part.training for part in model.modules()] == flags
    assert num_hooks(model) == 0
    assert all(torch.equal(before[name], held) for name, held in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_hooks_are_gone_where_it_raises():
    model = classifier()
    objective = Objective(model, images())
    model[5].forward = lambda inputs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        prediction_depth(objective, k=3)
    assert num_hooks(model) == 0


def test_progress_is_told_probe_by_probe():
    told = []
    prediction_depth(
        Objective(classifier(), images()), k=3, layers=["0", "5"],
        progress=lambda *report: told.append(report),
    )  # fmt: skip
    assert told == [(1, 4, "input"), (2, 4, "0"), (3, 4, "5"), (4, 4, "softmax")]


def test_its_data_set_says_what_it_holds(tmp_path):
    found = prediction_depth(Objective(classifier(), images()), k=3)
    data = found.to_dataset()
    assert found.probe == "depth"
    assert found.status == "converged"
    assert all({"units", "long_name"} <= set(held.attrs) for held in data.data_vars.values())
    assert data["depth"].dims == ("example",)
    assert data["layer"].to_numpy().tolist() == list(found.layers)
    assert int(data["count"].sum() + data["num_undefined"]) == 40
    assert int(data["count"][0]) == np.count_nonzero(found.depth == 0)
    assert float(data["mean_depth"]) == pytest.approx(np.nanmean(found.depth))
    settled = found.depth[np.isfinite(found.depth)]
    error = settled.std(ddof=1) / np.sqrt(len(settled))
    assert float(data["mean_depth_error"]) == pytest.approx(error)
    accuracy = (found.final_class == found.label).mean()
    assert float(data["network_accuracy"]) == pytest.approx(accuracy)
    for name in ("knn_accuracy", "knn_agreement"):
        assert (data[f"{name}_low"] <= data[name]).all()
        assert (data[f"{name}_high"] >= data[name]).all()
    data.to_netcdf(tmp_path / "depth.nc", engine="h5netcdf")


def test_without_a_settled_example_there_is_no_mean():
    found = prediction_depth(Objective(revealed_at(1), pairs()), k=1, target=torch.full((24,), 7))
    assert np.isnan(found.depth).all()
    assert found.num_undefined == 24
    data = found.to_dataset()
    assert np.isnan(data["mean_depth"])
    assert np.isnan(data["mean_depth_error"])
    assert not data["count"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 40}, "at 'input': k=40, and there are 39"),
        ({"target": "lable"}, "Did you mean 'label'"),
        ({"target": [0, 1]}, "target holds 2 classes, expected 40"),
        ({"metric": "cosin"}, "Did you mean 'cosine'"),
        ({"layers": "9"}, "no layer matches '9'"),
        ({"pool": "space"}, "pool"),
    ],
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        prediction_depth(Objective(classifier(), images()), **{"k": 3, **options})


def test_votes_and_targets_of_other_lengths_are_refused():
    with pytest.raises(RequestError, match="of 2 examples, target of 1"):
        depths([[0, 1]], [0])


def test_another_network_is_refused():
    other = Objective(classifier(1), images(20, 1))
    with pytest.raises(RequestError, match="another network"):
        prediction_depth(Objective(classifier(), images()), k=3, test=other)


def test_examples_without_a_class_of_their_own_are_refused():
    inputs, labels = images()
    labels[3] = -100
    with pytest.raises(RequestError, match=r"\[39\] labels for \[40\] examples"):
        prediction_depth(Objective(classifier(), (inputs, labels)), k=3)
