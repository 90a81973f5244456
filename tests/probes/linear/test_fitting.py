"""Linear probes as users call them: parity, invariants, and what decides what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from landscape.errors import RequestError
from landscape.probes.linear.fitting import linear_probe
from tests.probes.linear.softmax_problems import labelled

GRID = [1e-3, 1.0, 1e-1]


def objective(weights, intercept, features, labels, penalty):
    logits = torch.as_tensor(features) @ torch.as_tensor(weights).T + torch.as_tensor(intercept)
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels))
    return loss.item() + penalty / 2 * float((np.asarray(weights) ** 2).sum())


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_scikit_learn_finds_the_same(classes):
    features, labels = labelled(120, classes=classes)
    probe = linear_probe(features, labels, GRID, tol=1e-6)
    assert probe.converged.all()
    for index, penalty in enumerate(GRID):
        factor = 2 if classes == 2 else 1
        peer = LogisticRegression(C=factor / (penalty * 120), tol=1e-9, max_iter=5000)
        peer.fit(features, labels)
        weights, intercept = peer.coef_, peer.intercept_
        if classes == 2:  # one vector: the difference of ours
            weights, intercept = np.r_[-weights, weights] / 2, np.r_[-intercept, intercept] / 2
        found = objective(probe.weights[index], probe.intercept[index], features, labels, penalty)
        expected = objective(weights, intercept, features, labels, penalty)
        assert found == pytest.approx(expected, rel=1e-6)
        assert found == pytest.approx(probe.objective[index].item(), rel=1e-12)
        np.testing.assert_allclose(probe.weights[index], weights, rtol=0, atol=1e-4)
        accuracy = peer.score(features, labels)
        assert probe.train_accuracy[index].item() == pytest.approx(accuracy, abs=1 / 119)


def test_binary_objective_is_scikit_learns_at_half_the_penalty():
    features, labels = labelled(80, classes=2)
    probe = linear_probe(features, labels, [0.3], tol=1e-6)
    vector = (probe.weights[0, 1] - probe.weights[0, 0]).numpy()
    margins = (2 * labels - 1) * (
        features @ vector + float(probe.intercept[0, 1] - probe.intercept[0, 0])
    )
    binary = np.logaddexp(0, -margins).mean() + 0.3 / 2 / 2 * (vector**2).sum()
    assert binary == pytest.approx(probe.objective.item(), rel=1e-12)


def test_turning_the_features_turns_the_weights():
    features, labels = labelled()
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    plain = linear_probe(features, labels, GRID, tol=1e-7)
    other = linear_probe(features @ turned, labels, GRID, tol=1e-7)
    torch.testing.assert_close(
        other.weights, plain.weights @ torch.from_numpy(turned), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(other.objective, plain.objective, rtol=0, atol=1e-12)


def test_shifting_the_features_moves_the_intercept_alone():
    features, labels = labelled()
    plain = linear_probe(features, labels, GRID, tol=1e-7)
    moved = linear_probe(features + 100, labels, GRID, tol=1e-7)
    torch.testing.assert_close(moved.weights, plain.weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_a_row_twice_is_a_row_of_weight_two(standardize):
    features, labels = labelled()
    weights = np.ones(60)
    weights[[3, 10]] = 2, 0
    rows = np.r_[np.delete(np.arange(60), 10), 3]
    weighted = linear_probe(
        features, labels, GRID, sample_weights=weights, standardize=standardize, tol=1e-9
    )
    twice = linear_probe(features[rows], labels[rows], GRID, standardize=standardize, tol=1e-9)
    torch.testing.assert_close(weighted.weights, twice.weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(weighted.objective, twice.objective, rtol=0, atol=1e-12)
    torch.testing.assert_close(weighted.train_accuracy, twice.train_accuracy)


def test_infinite_penalty_gives_the_shares_of_the_classes():
    features, labels = labelled(50, classes=3)
    probe = linear_probe(features, labels, [torch.inf])
    shares = torch.bincount(torch.from_numpy(labels)).double() / 50
    torch.testing.assert_close(probe.intercept[0].softmax(0), shares)
    assert probe.train_loss.item() == pytest.approx(-(shares * shares.log()).sum().item())
    assert probe.objective.item() == probe.train_loss.item()
    assert probe.gradient_norm.item() < 1e-15


def test_separable_classes_are_all_right_as_the_penalty_vanishes_and_without_one_unconverged():
    features, labels = labelled(40, classes=3, separation=30.0)
    probe = linear_probe(features, labels, [1e-1, 1e-6, 1e-9, 0.0])
    assert probe.train_accuracy[1:].tolist() == pytest.approx([1, 1, 1])
    losses = probe.train_loss.tolist()
    assert losses[0] > 100 * losses[1] > 1e4 * losses[2] > 0
    assert probe.converged.tolist() == [True, True, True, False]
    assert (probe.iterations < 100).all()


def test_gradient_norm_is_the_true_one():
    features, labels = labelled()
    probe = linear_probe(features, labels, GRID, tol=1e-2)
    for index, penalty in enumerate(GRID):
        weights = probe.weights[index].clone().requires_grad_()
        intercept = probe.intercept[index].clone().requires_grad_()
        logits = torch.from_numpy(features) @ weights.T + intercept
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        (loss + penalty / 2 * weights.square().sum()).backward()
        norm = max(weights.grad.abs().max().item(), intercept.grad.abs().max().item())
        assert probe.gradient_norm[index].item() == pytest.approx(norm, rel=1e-6)


def test_order_of_the_penalties_is_kept():
    features, labels = labelled()
    up = linear_probe(features, labels, sorted(GRID), tol=1e-9)
    down = linear_probe(features, labels, sorted(GRID, reverse=True), tol=1e-9)
    torch.testing.assert_close(up.weights, down.weights.flip(0), rtol=0, atol=1e-8)
    assert up.penalties.tolist() == sorted(GRID)


def test_random_labels_are_guessed_at_chance_on_new_examples():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(1200, 5))
    labels = generator.integers(4, size=1200)
    test = features[200:], labels[200:]
    probe = linear_probe(features[:200], labels[:200], [1e-3, 1e-1], test=test)
    deviation = np.sqrt(0.25 * 0.75 / 1000)
    assert (probe.test_accuracy - 0.25).abs().max() < 3 * deviation


# -- what decides what -------------------------------------------------------------------------


def test_test_examples_change_their_own_numbers_and_nothing_else():
    features, labels = labelled(100)
    validation = features[60:80], labels[60:80]
    found = []
    for order in (labels[80:], (labels[80:] + 1) % 3):
        probe = linear_probe(
            features[:60], labels[:60], GRID, validation=validation, test=(features[80:], order)
        )
        found.append(probe)
    assert not torch.equal(found[0].test_accuracy, found[1].test_accuracy)
    for name in ("weights", "chosen", "accuracy", "loss", "train_loss", "gradient_norm"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


def test_validation_chooses_and_without_it_nothing_does():
    features, labels = labelled(90, width=12)
    validation = features[30:], labels[30:]
    probe = linear_probe(features[:30], labels[:30], [1e-6, 1e-1, 1e3], validation=validation)
    assert probe.chosen == probe.validation_accuracy.argmax()
    assert torch.equal(probe.accuracy, probe.validation_accuracy)
    assert torch.equal(probe.loss, probe.validation_loss)
    by_loss = linear_probe(
        features[:30], labels[:30], [1e-6, 1e-1, 1e3], validation=validation, select="loss"
    )
    assert by_loss.chosen == by_loss.validation_loss.argmin()
    without = linear_probe(features[:30], labels[:30], GRID)
    assert without.chosen is None
    assert without.validation_accuracy is None
    assert torch.equal(without.accuracy, without.train_accuracy)


def test_equal_accuracies_are_told_apart_by_the_loss():
    features, labels = labelled(60, separation=30.0)
    probe = linear_probe(
        features[:30], labels[:30], [1e-3, 1e-1, 1e-2], validation=(features[30:], labels[30:])
    )
    assert probe.validation_accuracy.tolist() == pytest.approx([1, 1, 1])
    assert probe.chosen == probe.validation_loss.argmin() == 0


def test_a_fraction_is_held_out_with_the_shares_of_the_classes():
    features, labels = labelled(90)
    probe = linear_probe(features, labels, GRID, validation=1 / 3, seed=4)
    again = linear_probe(features, labels, GRID, validation=1 / 3, seed=4)
    other = linear_probe(features, labels, GRID, validation=1 / 3, seed=5)
    assert torch.equal(probe.weights, again.weights)
    assert not torch.equal(probe.weights, other.weights)
    counts = probe.validation_accuracy * 30
    torch.testing.assert_close(counts, counts.round())
    prior = linear_probe(features, labels, [torch.inf], validation=1 / 3)
    torch.testing.assert_close(prior.intercept, torch.zeros(1, 3).double())  # 20 of each


def test_weights_stay_with_their_examples_when_some_are_held_out():
    features, labels = labelled(90)
    weights = np.where(labels == 1, 3.0, 1.0)
    probe = linear_probe(
        features, labels, [torch.inf], validation=1 / 3, sample_weights=weights, seed=4
    )
    torch.testing.assert_close(
        probe.intercept[0].softmax(0), torch.tensor([0.2, 0.6, 0.2]).double()
    )


def test_standard_deviations_are_those_of_training_alone():
    features, labels = labelled(80)
    features = features * [1, 10, 100, 1e-3, 1]
    first = linear_probe(
        features[:60], labels[:60], GRID, standardize=True, test=(features[60:], labels[60:])
    )
    other = linear_probe(
        features[:60], labels[:60], GRID, standardize=True, test=(50 * features[60:], labels[60:])
    )
    assert torch.equal(first.weights, other.weights)
    deviations = features[:60].std(0)
    by_hand = linear_probe(features[:60] / deviations, labels[:60], GRID)
    torch.testing.assert_close(
        first.weights, by_hand.weights / torch.from_numpy(deviations), rtol=1e-6, atol=1e-9
    )
    scores = features[60:] @ first.weights[0].numpy().T + first.intercept[0].numpy()
    accuracy = (scores.argmax(1) == labels[60:]).mean()
    assert first.test_accuracy[0].item() == pytest.approx(accuracy)


def test_a_unit_that_is_dead_has_no_weight():
    features, labels = labelled()
    features[:, 2] = 7.0
    for standardize in (False, True):
        probe = linear_probe(features, labels, GRID, standardize=standardize)
        assert probe.weights[:, :, 2].abs().max() < 1e-12
        assert probe.converged.all()


# -- classes -----------------------------------------------------------------------------------


def test_class_that_test_lacks_is_still_a_class():
    features, labels = labelled(60)
    held = labels[40:] != 2
    probe = linear_probe(
        features[:40], labels[:40], GRID, test=(features[40:][held], labels[40:][held])
    )
    assert probe.weights.shape == (3, 3, 5)
    assert probe.classes.tolist() == [0, 1, 2]


def test_class_that_training_lacks_is_always_wrong_and_counted():
    features, labels = labelled(60, separation=30.0)
    test = np.r_[features[40:], features[40:45]], np.r_[labels[40:], [7] * 5]
    probe = linear_probe(features[:40], labels[:40], GRID, test=test)
    assert probe.classes.tolist() == [0, 1, 2]
    assert probe.test_accuracy.tolist() == pytest.approx([20 / 25] * 3)
    assert (probe.test_loss == torch.inf).all()


def test_labels_may_be_any_integers():
    features, labels = labelled()
    plain = linear_probe(features, labels, GRID, validation=(features, labels))
    names = np.array([-5, 3, 40])[labels]
    named = linear_probe(features, names, GRID, validation=(features, names))
    assert named.classes.tolist() == [-5, 3, 40]
    assert torch.equal(named.weights, plain.weights)
    assert torch.equal(named.accuracy, plain.accuracy)


def test_class_whose_examples_have_no_weight_is_none():
    features, labels = labelled()
    probe = linear_probe(features, labels, GRID, sample_weights=labels != 1)
    assert probe.classes.tolist() == [0, 2]


# -- layers ------------------------------------------------------------------------------------


def test_layers_together_are_each_by_itself():
    layers = np.stack([labelled(seed=seed)[0] for seed in range(3)])
    labels = labelled()[1]
    validation = layers[:, ::2], labels[::2]
    stacked = linear_probe(layers, labels, GRID, validation=validation)
    listed = linear_probe(
        list(layers), labels, GRID, validation=(list(layers[:, ::2]), labels[::2])
    )
    named = linear_probe(
        {"a": layers[0], "b": layers[1][:, :2]},
        labels,
        GRID,
        validation=({"a": layers[0, ::2], "b": layers[1, ::2, :2]}, labels[::2]),
    )
    assert stacked.weights.shape == (3, 3, 3, 5)
    assert stacked.chosen.shape == (3,)
    assert stacked.penalties.shape == (3,)
    for index, layer in enumerate(layers):
        alone = linear_probe(layer, labels, GRID, validation=(layer[::2], labels[::2]))
        torch.testing.assert_close(stacked.weights[index], alone.weights, rtol=0, atol=1e-10)
        assert torch.equal(stacked.accuracy[index], alone.accuracy)
        assert torch.equal(listed.weights[index], stacked.weights[index])
    assert torch.equal(named["a"].weights, stacked.weights[0])
    assert named["b"].weights.shape == (3, 3, 2)


def test_global_generators_and_the_callers_arrays_are_left_alone():
    features, labels = labelled()
    kept = features.copy()
    torch.manual_seed(0)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    linear_probe(features, labels, GRID, validation=0.3, standardize=True, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert (features == kept).all()


FEATURES, LABELS = labelled(20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((FEATURES, LABELS[:5], GRID), "20 rows of features and 5 labels"),
        ((FEATURES[:0], LABELS[:0], GRID), "0 examples"),
        ((FEATURES, 0 * LABELS, GRID), "needs two classes"),
        ((FEATURES, LABELS, []), "one or more numbers from 0"),
        ((FEATURES, LABELS, [-1.0]), "one or more numbers from 0"),
        ((FEATURES, LABELS, [np.nan]), "one or more numbers from 0"),
        ((FEATURES, LABELS + 0.5, GRID), "holds float64, expected"),
        ((np.where(FEATURES > 3, np.nan, FEATURES), LABELS, GRID), "is not finite in"),
        (([FEATURES, FEATURES[:, :2]], LABELS, GRID), "as a mapping"),
        (({}, LABELS, GRID), "empty mapping"),
    ],
)
def test_what_cannot_be_fitted_says_why(arguments, words):
    with pytest.raises(RequestError, match=words):
        linear_probe(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 1.5}, "a fraction between 0 and 1"),
        ({"validation": 0.001}, "a fraction between 0 and 1"),
        ({"validation": (FEATURES[:, :2], LABELS)}, "2 features and training 5"),
        ({"test": (FEATURES, LABELS, LABELS)}, "3 parts"),
        ({"test": ({"a": FEATURES}, LABELS)}, "in the same form"),
        ({"sample_weights": LABELS[:3]}, "3 sample_weights for 20"),
        ({"sample_weights": -np.ones(20)}, "not negative"),
        ({"select": "acuracy"}, "Did you mean 'accuracy'"),
        ({"tol": 0.0}, "0 < tol < 1"),
    ],
)
def test_options_that_do_not_fit_say_what_would(options, words):
    with pytest.raises(RequestError, match=words):
        linear_probe(FEATURES, LABELS, GRID, **options)
