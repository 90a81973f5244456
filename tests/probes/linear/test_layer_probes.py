"""Layer probes: fitted, chosen and tested on three parts, beside controls that know nothing."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.linear import depth, layer_probes
from landscape.probes.linear.controls import untrained, untrained_point
from landscape.probes.linear.depth import projected
from landscape.probes.linear.layer_probes import probe_layers
from landscape.similarity.activations import activations
from landscape.similarity.bootstrap import wilson

PENALTIES = [1e-2, 1.0]
QUICK = {"penalties": PENALTIES, "k": 5}


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 3),
    ).double()


def images(count=120, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    inputs = torch.randn(count, 1, 5, 5, generator=generator, dtype=torch.float64)
    return inputs * (1 + 0.7 * labels[:, None, None, None]), labels


def both(model, bn="eval", **options):
    return (
        Objective(model, images(**options), batch_size=32, bn=bn),
        Objective(model, images(60, 1), batch_size=50, bn=bn),
    )


def rows_of(labels, others, share=0.2, seed=0):
    stream = np.random.SeedSequence(seed).spawn(4)[0]
    return layer_probes._split(labels, others, share, stream)


@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
@pytest.mark.parametrize("pool", ["spatial", "none"])
def test_probes_are_those_of_scikit_learn_on_the_layers_features(bn, pool):
    model = network()
    train, test = both(model, bn)
    found = probe_layers(train, test=test, layers=["1", "5"], pool=pool, controls=False, **QUICK)
    assert found.layers == ("1", "5")
    buffers = train.buffers_at(train.theta) or {}
    split = rows_of(images()[1], images(60, 1)[1])
    for layer, name in enumerate(found.layers):
        ours, theirs = (
            activations(side.under("eval"), layers=name, pool=pool, buffers=buffers)[name].numpy()
            for side in (train, test)
        )
        fit, choose, last = ours[split.rows[0]], ours[split.rows[1]], theirs
        scaler = StandardScaler().fit(fit)
        for index, penalty in enumerate(PENALTIES):
            probe = LogisticRegression(C=1 / (96 * penalty), tol=1e-10, max_iter=5000)
            probe.fit(scaler.transform(fit), split.labels[0])
            scores = [
                probe.score(scaler.transform(part), labels)
                for part, labels in zip((fit, choose, last), split.labels, strict=True)
            ]
            assert found.train_accuracy[layer, index] == pytest.approx(scores[0])
            assert found.validation_accuracy[layer, index] == pytest.approx(scores[1])
            if index == found.chosen[layer]:
                assert found.test.value[layer] == pytest.approx(scores[2])
            log = probe.predict_log_proba(scaler.transform(choose))
            loss = -log[np.arange(len(choose)), split.labels[1]].mean()
            assert found.validation_loss[layer, index] == pytest.approx(loss, abs=1e-5)
        knn = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(fit, split.labels[0])
        one = probe_layers(
            train, test=test, layers=name, pool=pool, controls=False, penalties=[1.0], k=1
        )
        assert one.knn.value[0] == pytest.approx(knn.score(last, split.labels[2]))


def test_test_labels_choose_nothing():
    model = network()
    inputs, labels = images(60, 1)
    train = Objective(model, images())
    right = probe_layers(train, test=Objective(model, (inputs, labels)), controls=False, **QUICK)
    wrong = probe_layers(
        train, test=Objective(model, (inputs, (labels + 1) % 3)), controls=False, **QUICK
    )
    for name in ("chosen", "train_accuracy", "validation_accuracy", "validation_loss"):
        assert np.array_equal(getattr(right, name), getattr(wrong, name)), name
    assert right.best == wrong.best
    assert right.accuracy > 0.45 > wrong.accuracy
    assert (right.validation_accuracy.max(1) != right.test.value).any()


def test_a_label_that_comes_in_at_a_layer_can_be_read_off_from_there_on():
    class Revealed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()
            self.head = nn.Linear(3, 3, dtype=torch.float64)

        def forward(self, inputs):
            noise = self.first(inputs[:, :3])
            return self.head(self.second(noise + 100 * inputs[:, 3:]))

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (200,), generator=generator)
    noise = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    data = (torch.cat([noise, torch.eye(3, dtype=torch.float64)[labels]], 1), labels)
    found = probe_layers(Objective(Revealed(), data), layers=["first", "second"], **QUICK)
    assert abs(found.test.value[0] - 1 / 3) < 4 * np.sqrt(2 / 9 / 40)
    assert found.test.value[1] == found.knn.value[1] == found.accuracy == 1
    assert found.best == 1
    assert found.selectivity[1] > 0.4


def test_the_layer_is_chosen_by_validation_and_then_by_loss():
    objective = Objective(network(), images())
    options = {"layers": ["0", "2", "5"], "pool": "none", "k": 5, "controls": False}
    clear = probe_layers(objective, penalties=[1e-2], **options)
    assert clear.validation_accuracy[:, 0].argmax() == 1
    assert clear.validation_loss[:, 0].argmin() == 2  # another layer's
    tied = probe_layers(objective, penalties=[1.0], **options)
    assert tied.validation_accuracy[1, 0] == pytest.approx(tied.validation_accuracy[2, 0])
    assert tied.validation_loss[1, 0] < tied.validation_loss[2, 0]
    for found in (clear, tied):
        assert found.best == 1
        assert found.accuracy == found.test.value[1]


def test_random_labels_are_right_by_chance_and_fit_a_wide_layer():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 80, generator=generator, dtype=torch.float64)
    labels = torch.arange(200) % 2
    inputs[:, 0] += 10 * labels
    model = nn.Sequential(nn.Linear(80, 80), nn.Linear(80, 2)).double()
    found = probe_layers(
        Objective(model, (inputs, labels)), layers="0", penalties=[1e-3], validation_share=0.25, k=5
    )
    assert found.test.value[0] == 1
    assert abs(found.control.value[0] - 0.5) < 3 * 0.5 / np.sqrt(50)
    assert found.control_train_accuracy[0] > 0.95  # 80 features of 100 examples
    assert found.control.low[0] < 0.5 < found.control.high[0]
    np.testing.assert_allclose(found.selectivity, found.test.value - found.control.value)


@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
def test_the_untrained_network_is_probed_as_the_trained_one(bn):
    model = network()
    train, test = both(model, bn)
    fresh = untrained(model, seed=3)
    found = probe_layers(train, test=test, layers=["2", "5"], untrained=fresh, **QUICK)
    # A network that is at those weights, with those statistics, to be probed itself.
    theta, beside = untrained_point(train, fresh)
    state = dict(beside) | dict(train.space.named(theta))
    bare = copy.deepcopy(model)
    bare.load_state_dict({name: state.get(name, held) for name, held in bare.state_dict().items()})
    expected = probe_layers(
        *both(bare)[:1], test=both(bare)[1], layers=["2", "5"], controls=False, **QUICK
    )
    np.testing.assert_array_equal(found.untrained.value, expected.test.value)
    np.testing.assert_array_equal(found.untrained.low, expected.test.low)


def test_the_untrained_network_is_drawn_where_it_can_be():
    model = network()
    model.token = nn.Parameter(torch.ones(2, dtype=torch.float64))
    objective = Objective(model, images())
    found = probe_layers(objective, layers="5", **QUICK)
    assert np.isnan(found.untrained.value).all()
    assert np.isnan(found.untrained.low).all()
    assert not np.isnan(found.control.value).any()
    assert any("'token'" in note for note in found.notes)
    given = probe_layers(objective, layers="5", untrained=copy.deepcopy(model), **QUICK)
    assert np.isfinite(given.untrained.value).all()
    drawn = probe_layers(Objective(network(), images()), layers="5", **QUICK)
    assert np.isfinite(drawn.untrained.value).all()
    assert not any("untrained" in note for note in drawn.notes)
    with pytest.raises(RequestError, match=r"has no 'token' of shape \(2,\)"):
        probe_layers(objective, layers="5", untrained=nn.Linear(2, 2), **QUICK)


def test_random_labels_are_fitted_at_the_penalty_that_was_chosen():
    objective = Objective(network(), images())
    options = {"layers": "2", "pool": "none", "k": 5}
    found = probe_layers(objective, penalties=[100.0, 1e-2], **options)
    assert found.chosen.tolist() == [1]
    alone, strong = (probe_layers(objective, penalties=[held], **options) for held in (1e-2, 100.0))
    assert found.control_train_accuracy == pytest.approx(alone.control_train_accuracy)
    assert found.control_train_accuracy > strong.control_train_accuracy + 0.1


def test_without_controls_there_are_none():
    found = probe_layers(Objective(network(), images()), layers="5", controls=False, **QUICK)
    for held in (found.control.value, found.untrained.value, found.control_train_accuracy):
        assert np.isnan(held).all()
    assert np.isnan(found.selectivity).all()


def test_intervals_are_wilsons_over_the_test_examples():
    train, test = both(network())
    found = probe_layers(train, test=test, layers="5", **QUICK)
    for held in (found.test, found.knn, found.control, found.untrained, found.network):
        expected = wilson((held.value * 60).round(), 60.0)
        np.testing.assert_allclose(held.low, expected.low)
        np.testing.assert_allclose(held.high, expected.high)
        assert (held.low < held.value).all()


@pytest.mark.parametrize("with_test", [True, False])
def test_the_parts_are_disjoint_and_have_the_classes_shares(with_test):
    labels = torch.arange(120) % 3
    others = torch.arange(30) % 2 if with_test else None
    split = rows_of(labels, others)
    train, validation, test = (rows.tolist() for rows in split.rows)
    used = train + validation + ([] if with_test else test)
    assert sorted(used) == list(range(120))
    assert [len(train), len(validation), len(test)] == [96, 24, 30] if with_test else [72, 24, 24]
    for rows, held in zip(split.rows, split.labels, strict=True):
        source = others if with_test and len(rows) == 30 else labels
        assert torch.equal(source[rows], held)
    for held in split.labels[: 2 if with_test else 3]:
        assert held.bincount().tolist() == [len(held) // 3] * 3


def test_without_test_examples_it_is_said_whose_they_are():
    train, test = both(network())
    own = probe_layers(train, layers="5", controls=False, **QUICK)
    assert any("trained on them" in note for note in own.notes)
    split = rows_of(images()[1], None)
    logits = activations(train, layers="5")["5"][split.rows[2]]
    right = (logits.argmax(1) == split.labels[2]).double().mean()
    assert own.network.value == pytest.approx(float(right))
    assert not probe_layers(train, test=test, layers="5", controls=False, **QUICK).notes


def test_chance_is_the_commonest_class_of_training_on_the_test_examples():
    model = network()
    inputs, _ = images()
    labels = torch.tensor([0] * 20 + [1] * 70 + [2] * 30)
    test_inputs, _ = images(10, 1)
    test = Objective(model, (test_inputs, torch.tensor([0] * 7 + [1] * 3)))
    found = probe_layers(
        Objective(model, (inputs, labels)), test=test, layers="5", controls=False, **QUICK
    )
    assert found.chance == pytest.approx(0.3)


def test_classes_may_be_missing_on_either_side():
    model = nn.Sequential(nn.Identity(), nn.Linear(6, 6, dtype=torch.float64))
    labels = torch.tensor([1, 3, 5]).repeat(20)
    right = torch.tensor([1, 3] * 9)
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(60, 6, generator=generator, dtype=torch.float64)
    one_hot = torch.eye(6, dtype=torch.float64)
    train = Objective(model, (one_hot[labels] + noise, labels))
    asked = torch.cat([right, torch.tensor([1, 3])])
    answers = torch.cat([right, torch.tensor([0, 0])])  # of a class that training does not have
    test = Objective(model, (one_hot[asked] + noise[:20], answers))
    found = probe_layers(train, test=test, layers="0", **QUICK)
    assert found.test.value[0] == found.knn.value[0] == 0.9


def test_wide_layers_are_projected_and_it_is_said():
    train, test = both(network())
    options = {"test": test, "layers": ["0", "5"], "pool": "none", "controls": False, **QUICK}
    found = probe_layers(train, max_features=7, **options)
    assert found.num_features.tolist() == [7, 3]
    assert found.width.tolist() == [36, 3]
    assert [note for note in found.notes if "projected" in note] == [
        "projected at random to 7 features: 0"
    ]
    whole = probe_layers(train, max_features=36, **options)
    assert whole.num_features.tolist() == [36, 3]
    assert not whole.notes
    assert not np.array_equal(whole.validation_loss[0], found.validation_loss[0])
    assert np.array_equal(whole.validation_loss[1], found.validation_loss[1])


def test_a_projected_layer_is_still_read_off():
    # Training and test examples have to be projected alike for that.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    inputs = torch.randn(200, 400, generator=generator, dtype=torch.float64)
    inputs += 2 * (2 * labels - 1)[:, None]
    model = nn.Sequential(nn.Identity(), nn.Linear(400, 2, dtype=torch.float64))
    train = Objective(model, (inputs[:140], labels[:140]))
    test = Objective(model, (inputs[140:], labels[140:]))
    found = probe_layers(train, test=test, layers="0", max_features=20, controls=False, **QUICK)
    assert found.test.value[0] == found.knn.value[0] == 1


def test_the_projection_is_the_seeds_and_keeps_lengths_on_average():
    features = torch.randn(3, 1500, generator=torch.Generator().manual_seed(0))
    squares = []
    for child in np.random.SeedSequence(0).spawn(20):
        thin = projected(features, 50, child)
        assert torch.equal(thin, projected(features, 50, child))
        assert torch.allclose(thin[:1], projected(features[:1], 50, child), rtol=1e-9)
        squares.append((thin.square().sum(1) / features.double().square().sum(1)).numpy())
    assert thin.dtype == torch.float64
    # Each has the variance 2 / m, or a little less.
    assert abs(np.mean(squares) - 1) < 4 * np.sqrt(2 / 50 / 60)
    assert np.std(squares) == pytest.approx(np.sqrt(2 / 50), rel=0.3)
    assert projected(features, 1500, child) is features


def test_blocks_of_the_projection_are_not_copies_of_each_other(monkeypatch):
    features = torch.eye(40, dtype=torch.float64)
    monkeypatch.setattr(depth, "_ROWS", 8)
    thin = projected(features, 5, np.random.SeedSequence(0))
    assert set(thin.abs().flatten().tolist()) == {5**-0.5}
    assert len({tuple(row) for row in thin[::8].tolist()}) > 1


def test_images_are_averaged_over_space_unless_told_otherwise():
    objective = Objective(network(), images())
    found = probe_layers(objective, layers=["0", "5"], controls=False, **QUICK)
    assert found.width.tolist() == [4, 3]


def test_features_are_standardized_by_the_training_examples_unless_told_otherwise():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).double()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(90, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (90,), generator=generator)
    small = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in small[0].parameters():
            parameter.mul_(1e-3)
    objectives = [Objective(held, (inputs, labels)) for held in (model, small)]
    options = {"layers": "0", "controls": False, **QUICK}
    one, other = (probe_layers(held, **options) for held in objectives)
    np.testing.assert_allclose(one.train_loss, other.train_loss, rtol=1e-7)
    one, other = (probe_layers(held, standardize=False, **options) for held in objectives)
    assert (one.train_loss < other.train_loss - 1e-3).all()


def test_the_seed_says_everything_that_is_random():
    train, test = both(network())
    options = {"test": test, "layers": "5", "max_features": 2, **QUICK}
    first, second, other = (probe_layers(train, seed=seed, **options) for seed in (0, 0, 1))
    for name in ("validation_loss", "train_loss", "control_train_accuracy", "chosen"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert not np.array_equal(first.validation_loss, other.validation_loss)
    for name in ("test", "control", "untrained"):
        pair = (getattr(first, name).value, getattr(second, name).value)
        assert np.array_equal(*pair), name


def test_groups_of_layers_change_nothing(monkeypatch):
    train, test = both(network())
    expected = probe_layers(train, test=test, layers=["0", "5"], **QUICK)
    monkeypatch.setattr(depth, "_HELD", 0)
    found = probe_layers(train, test=test, layers=["0", "5"], **QUICK)
    assert found.layers == expected.layers
    np.testing.assert_array_equal(found.validation_loss, expected.validation_loss)
    np.testing.assert_array_equal(found.untrained.value, expected.untrained.value)


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
def test_the_model_is_left_as_it_was(bn):
    model = network().train()
    model[0].eval()
    flags = [part.training for part in model.modules()]
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    train, test = both(model, bn)
    probe_layers(train, test=test, layers=["1", "5"], **QUICK)
    assert [part.training for part in model.modules()] == flags
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(torch.equal(before[name], held) for name, held in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_has_not_converged_is_said():
    objective = Objective(network(), images())
    fine = probe_layers(objective, layers="5", controls=False, **QUICK)
    assert fine.converged.all()
    assert fine.status == "converged"
    flawed = dataclasses.replace(fine, converged=np.array([[True, False]]))
    assert flawed.status == "not converged: 1 of 2 probes"
    separable = (images()[0] * 1e-3, torch.arange(120) % 3)
    separable[0][:, 0, 0, 0] = separable[1] * 100.0
    lost = probe_layers(
        Objective(network(), separable), layers="0", pool="none", penalties=[0.0], controls=False
    )
    assert lost.status == "not converged: 1 of 1 probes"


def test_progress_is_told_layer_by_layer():
    told = []
    probe_layers(
        Objective(network(), images()), layers=["0", "5"], controls=False,
        progress=lambda *report: told.append(report), **QUICK,
    )  # fmt: skip
    assert told == [(1, 2, "0"), (2, 2, "5")]


def test_its_data_set_says_what_it_holds(tmp_path):
    found = probe_layers(Objective(network(), images()), layers=["0", "5"], **QUICK)
    data = found.to_dataset()
    assert found.probe == "linear"
    assert all({"units", "long_name"} <= set(held.attrs) for held in data.data_vars.values())
    for name in (
        "train_accuracy", "validation_accuracy", "train_loss", "validation_loss", "gradient_norm",
    ):  # fmt: skip
        assert data[name].dims == ("layer", "penalty")
        np.testing.assert_array_equal(data[name], getattr(found, name))
    for name, values in {
        "test_accuracy": found.test.value,
        "test_low": found.test.low,
        "test_high": found.test.high,
        "control_accuracy": found.control.value,
        "untrained_accuracy": found.untrained.value,
        "knn_accuracy": found.knn.value,
        "num_features": found.num_features,
        "selectivity": found.selectivity,
        "chosen_penalty": np.array(PENALTIES)[found.chosen],
    }.items():
        assert data[name].dims == ("layer",)
        np.testing.assert_array_equal(data[name], values)
    assert float(data["accuracy"]) == found.accuracy
    assert float(data["accuracy_low"]) == found.test.low[found.best]
    assert float(data["accuracy_high"]) == found.test.high[found.best]
    assert float(data["chance"]) == found.chance
    assert data["layer"].to_numpy()[int(data["chosen_layer"])] == found.layers[found.best]
    assert data["penalty"].to_numpy().tolist() == PENALTIES
    data.to_netcdf(tmp_path / "linear.nc", engine="h5netcdf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_share": 0.0}, "validation_share=0.0 of 120 examples"),
        ({"validation_share": 0.5}, r"parts of \[0, 60, 60\]"),
        ({"validation_share": 1.5}, "validation_share=1.5"),
        ({"max_features": 0}, "max_features=0"),
        ({"k": 90}, "at '0': k=90, and there are 72"),
        ({"penalties": [-1.0]}, "at '0': penalties"),
        ({"layers": "6"}, "no layer matches '6'"),
    ],
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        probe_layers(Objective(network(), images()), **{**QUICK, **options})


def test_another_network_and_examples_without_a_class_are_refused():
    train = Objective(network(), images())
    with pytest.raises(RequestError, match="another network"):
        probe_layers(train, test=Objective(network(1), images()), **QUICK)
    inputs, labels = images()
    labels[0] = -100
    with pytest.raises(RequestError, match=r"\[119\] labels for \[120\]"):
        probe_layers(Objective(network(), (inputs, labels)), **QUICK)
