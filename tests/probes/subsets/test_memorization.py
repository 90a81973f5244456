import itertools

import numpy as np
import pytest
import torch
from oracles_nearest_neighbour import (
    correct_of,
    exact_memorization,
    exact_out,
    ranking,
    uniform_masks,
)
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.ranking import roc
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.reliability import split_half
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.trainers.data.splits import subset_masks


def problem(seed, n, num_classes=3, noise=0.15):
    """Points in the plane with classes by angle, some relabelled; who was is told, too."""
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(n, 2))
    angles = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) + 0.5
    labels = np.minimum((angles * num_classes).astype(int), num_classes - 1)
    wrong = generator.random(n) < noise
    labels[wrong] = (labels[wrong] + generator.integers(1, num_classes, wrong.sum())) % num_classes
    return points, labels, wrong, generator


def nearest_runs(points, labels, masks):
    return SubsetRuns(masks, correct_of(ranking(points), labels, labels, masks))


def overlapping(seed, gap):
    """60 points of three overlapping classes, 15 % relabelled; without a gap labels are random."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, 60)
    angles = 2 * np.pi * labels / 3
    points = generator.normal(size=(60, 2)) + gap * np.c_[np.cos(angles), np.sin(angles)]
    wrong = generator.random(60) < 0.15
    labels[wrong] = (labels[wrong] + generator.integers(1, 3, wrong.sum())) % 3
    return points, labels, generator


def coverage(num_models, num_problems, gap):
    covered, total = 0, 0
    for seed in range(num_problems):
        points, labels, generator = overlapping(seed, gap)
        masks = uniform_masks(generator, num_models, 60, 30)
        found = memorization(nearest_runs(points, labels, masks), num_draws=1)
        exact = exact_memorization(points, labels, 30)
        covered += ((found.lower <= exact) & (exact <= found.upper)).sum()
        total += 60
    return covered / total


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 1.0])
@pytest.mark.parametrize("num_models", [50, 200])
def test_intervals_cover_the_exact_value_of_the_nearest_neighbour_rule(num_models, gap):
    share = coverage(num_models, 200, gap)
    print(f"T={num_models}, gap {gap}: coverage {share:.4f} of 12,000 intervals")
    # Values near 0 are covered more often: 97.9 % at gap 1.5, where a fifth of the examples is.
    assert 0.94 < share < 0.98


def test_intervals_cover_on_a_few_problems():
    assert 0.94 < coverage(50, 12, 0.0) < 0.98


def test_all_subsets_give_the_definition():
    points, labels, _, _ = problem(0, 9)
    order = ranking(points)
    masks = np.zeros((126, 9), dtype=bool)
    for row, chosen in enumerate(itertools.combinations(range(9), 4)):
        masks[row, list(chosen)] = True
    found = memorization(nearest_runs(points, labels, masks))
    for example in range(9):
        right = {True: [], False: []}
        for chosen in itertools.combinations(range(9), 4):
            nearest = next(other for other in order[example] if other in chosen)
            right[example in chosen].append(labels[nearest] == labels[example])
        wanted = np.mean(right[True]) - np.mean(right[False])
        assert found.value[example] == pytest.approx(wanted, abs=1e-12)
    np.testing.assert_allclose(found.value, exact_memorization(points, labels, 4), atol=1e-12)


def test_leaving_out_one_at_a_time_asks_for_the_nearest_other():
    points, labels, _, _ = problem(1, 40)
    masks = subset_masks(40, 40, seed=0, design="loo").numpy()
    found = memorization(nearest_runs(points, labels, masks))
    other = ranking(points)[:, 1]
    np.testing.assert_array_equal(found.value, labels[other] != labels)
    assert found.num_memorized == (labels[other] != labels).sum() > 0
    assert found.mean_memorization == pytest.approx(np.mean(labels[other] != labels))
    assert (found.num_out == 1).all()


def test_never_held_out_or_never_in_is_undefined_and_not_the_accuracy():
    masks = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    found = memorization(SubsetRuns(masks, np.ones((3, 3))))
    for values in (found.value, found.lower, found.upper, found.standard_error):
        assert np.isnan(values).tolist() == [True, True, False]
    assert np.isnan(found.accuracy_out).tolist() == [True, False, False]
    assert np.isnan(found.accuracy_in).tolist() == [False, True, False]
    assert found.num_in.tolist() == [3, 0, 2]
    assert found.num_out.tolist() == [0, 3, 1]
    assert found.num_undefined == 2
    assert found.status == "2 of 3 examples are undefined"
    assert "1 examples were in all subsets and 1 in none" in found.notes[0]
    assert found.mean_memorization == 0


def test_as_many_are_never_held_out_as_chance_says():
    masks = subset_masks(20_000, 12, 0.7, seed=0, design="iid").numpy()
    found = (~masks).sum(0) == 0
    expected = 20_000 * 0.7**12
    assert abs(found.sum() - expected) < 4 * np.sqrt(expected)
    assert memorization(SubsetRuns(masks, masks), num_draws=1).num_undefined == found.sum()


def test_the_standard_error_is_that_of_two_proportions():
    masks = np.repeat([1, 0], [10, 4])[:, None]
    correct = np.repeat([1, 0, 1, 0], [8, 2, 2, 2])[:, None]
    found = memorization(SubsetRuns(masks, correct))
    assert found.value[0] == pytest.approx(0.3)
    assert found.standard_error[0] == pytest.approx(np.sqrt(0.8 * 0.2 / 10 + 0.5 * 0.5 / 4))
    assert found.accuracy_in[0] == 0.8
    assert found.accuracy_out[0] == 0.5


def test_a_constant_predictor_memorizes_nothing():
    _, labels, _, generator = problem(0, 50)
    masks = uniform_masks(generator, 40, 50, 25)
    found = memorization(SubsetRuns(masks, np.tile(labels == 1, (40, 1))))
    np.testing.assert_array_equal(found.value, 0)
    assert found.num_memorized == 0
    assert np.isnan(found.split_half)  # all values are the same


def test_random_labels_are_memorized_but_for_lucky_guesses():
    generator = np.random.default_rng(0)
    means = []
    for _ in range(5):
        points, labels = generator.normal(size=(400, 3)), generator.integers(0, 10, 400)
        masks = uniform_masks(generator, 200, 400, 200)
        means.append(
            memorization(nearest_runs(points, labels, masks), num_draws=1).mean_memorization
        )
    assert np.mean(means) == pytest.approx(0.9, abs=4 * 0.015 / np.sqrt(5))


def test_mislabelled_examples_are_those_that_are_memorized():
    aucs = []
    for seed in range(3):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 5, 300)
        points = (
            generator.normal(size=(300, 2)) + 6 * np.eye(5)[labels][:, :2] * (labels < 2)[:, None]
        )
        points = np.c_[points, 8.0 * labels]
        wrong = np.zeros(300, dtype=bool)
        wrong[generator.choice(300, 15, replace=False)] = True
        labels = np.where(wrong, (labels + generator.integers(1, 5, 300)) % 5, labels)
        masks = uniform_masks(generator, 200, 300, 150)
        found = memorization(nearest_runs(points, labels, masks), num_draws=1)
        aucs.append(roc(found.value, wrong).auc)
    assert min(aucs) > 0.95


def near_copies(seed, copies, n=400, num_classes=10):
    """Random labels, and one point `copies` times, a hair apart, with the same label."""
    generator = np.random.default_rng(seed)
    points, labels = generator.normal(size=(n, 3)), generator.integers(0, num_classes, n)
    points[:copies] = points[0] + 1e-6 * generator.normal(size=(copies, 3))
    labels[:copies] = labels[0]
    return points, labels


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_a_group_of_near_copies_shares_what_is_memorized(copies):
    n, size = 400, 280
    q = size / (n - 1)
    exact = []
    for seed in range(60):
        points, labels = near_copies(seed, copies, n)
        order = ranking(points, points[:copies])  # only the examples of the group are asked for
        exact += [exact_memorization_of(order, labels, each, size) for each in range(copies)]
    assert np.mean(exact) == pytest.approx((1 - q) ** (copies - 1) * 0.9, abs=0.02)


def exact_memorization_of(order, labels, example, size):
    return 1 - exact_out(order[example, 1:], labels, labels[example], size, without=example)


def test_a_duplicate_halves_it_in_the_runs_as_in_the_formula():
    n, size = 200, 140
    points, labels = near_copies(3, 2, n)
    masks = uniform_masks(np.random.default_rng(0), 2000, n, size)
    found = memorization(nearest_runs(points, labels, masks), num_draws=1)
    exact = exact_memorization_of(ranking(points), labels, 0, size)
    assert abs(found.value[0] - exact) < 4 * found.standard_error[0]


def test_conflicting_duplicates_are_memorized_by_hand():
    # Two equal points of different labels; ties go to the first. The second is never right while
    # the first is in, so it is memorized only where the first is out.
    points, labels = np.array([[0.0], [0.0], [10.0]]), np.array([0, 1, 0])
    order = np.argsort(np.square(points - points.T), axis=1, kind="stable")
    masks = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=bool)
    correct = correct_of(order, labels, labels, masks)
    found = memorization(SubsetRuns(masks, correct))
    # First: in, always right; out (subset {1, 2}), wrong. Second: in with 0 wrong, with 2 right;
    # out (subset {0, 2}) wrong. Third: its own class is nearest but with {0, 1}: 0 is first.
    np.testing.assert_array_equal(found.value, [1.0, 0.5, 0.0])


def test_permuting_examples_or_classes_changes_nothing_else():
    points, labels, _, generator = problem(2, 30)
    masks = uniform_masks(generator, 50, 30, 15)
    found = memorization(nearest_runs(points, labels, masks))
    order = generator.permutation(30)
    moved = memorization(nearest_runs(points[order], labels[order], masks[:, order]))
    np.testing.assert_array_equal(moved.value, found.value[order])
    np.testing.assert_array_equal(moved.lower, found.lower[order])
    renamed = memorization(nearest_runs(points, np.array([2, 0, 1])[labels], masks))
    np.testing.assert_array_equal(renamed.value, found.value)
    rows = generator.permutation(50)
    runs = nearest_runs(points, labels, masks)
    np.testing.assert_allclose(memorization(runs.select(models=rows)).value, found.value)


def test_balanced_subsets_give_smaller_errors():
    points, labels, _, _ = problem(4, 60)
    exact = exact_memorization(points, labels, 30)
    errors = {}
    for design in ("iid", "balanced"):
        squares = []
        for seed in range(30):
            masks = subset_masks(60, 20, 0.5, seed=seed, design=design).numpy()
            found = memorization(nearest_runs(points, labels, masks), num_draws=1)
            squares.append(np.nanmean(np.square(found.value - exact)))
        errors[design] = np.sqrt(np.mean(squares))
    assert errors["balanced"] < 0.92 * errors["iid"]


def test_soft_values_have_the_interval_of_welch():
    generator = np.random.default_rng(0)
    masks = generator.random((40, 5)) < 0.5
    values = generator.normal(size=(40, 5)) + masks
    runs = SubsetRuns(masks, values > 0, values=values)
    found = memorization(runs, of="values", confidence=0.9)
    for example in range(5):
        groups = values[masks[:, example], example], values[~masks[:, example], example]
        wanted = stats.ttest_ind(*groups, equal_var=False).confidence_interval(0.9)
        assert found.lower[example] == pytest.approx(wanted.low)
        assert found.upper[example] == pytest.approx(wanted.high)
    assert np.isnan(found.null_high)
    seed = np.random.SeedSequence(0).spawn(2)[0]
    assert found.split_half == split_half(masks, values, seed=seed)
    np.testing.assert_allclose(found.accuracy_in, memorization(runs).accuracy_in)
    with pytest.raises(RequestError, match="no values"):
        memorization(SubsetRuns(masks, values > 0), of="values")


def test_few_models_are_said_in_the_notes():
    points, labels, _, generator = problem(0, 20)
    few, many = (
        memorization(nearest_runs(points, labels, uniform_masks(generator, T, 20, 10)))
        for T in (199, 200)
    )
    assert "only thresholds of 0.25" in few.notes[-1]
    assert not many.notes
    assert many.status == "converged"


def test_a_seed_repeats_its_draws():
    points, labels, _, generator = problem(0, 20)
    runs = nearest_runs(points, labels, uniform_masks(generator, 30, 20, 10))
    first, again, other = (memorization(runs, seed=seed) for seed in (0, 0, 1))
    assert first.split_half == again.split_half != other.split_half
    assert first.null_high == again.null_high


def test_the_dataset_has_every_number_with_its_unit_and_the_most_memorized_images():
    points, labels, _, generator = problem(0, 20)
    masks = uniform_masks(generator, 30, 20, 10)
    runs = SubsetRuns(masks, nearest_runs(points, labels, masks).correct, labels=labels)
    images = torch.arange(20 * 3 * 2 * 2).reshape(20, 3, 2, 2).float()
    steps = []
    found = memorization(runs, progress=lambda done, total, words: steps.append((done, total)))
    dataset = found.with_examples(images, num=4).to_dataset()
    assert steps == [(1, 3), (2, 3), (3, 3)]
    for name in ("value", "lower", "upper", "num_in", "num_out", "accuracy_in", "accuracy_out"):
        assert dataset[name].dims == ("example",)
        np.testing.assert_array_equal(dataset[name], getattr(found, name))
    for name in ("mean_memorization", "num_memorized", "num_undefined", "num_models", "split_half"):
        assert dataset[name].dims == ()
    assert {"units", "long_name"} <= set.intersection(*(set(v.attrs) for v in dataset.values()))
    assert dataset["label"].values.tolist() == labels.tolist()
    assert dataset["shown_input"].dims == ("shown", "channel", "y", "x")
    shown = dataset["shown_example"].values
    assert len(shown) == 4
    assert found.value[shown].min() >= np.sort(found.value)[-4]
    np.testing.assert_array_equal(dataset["shown_input"], images[shown])
    assert "shown_input" not in found.to_dataset()
    flat = found.with_examples(np.zeros((20, 7))).to_dataset()
    assert flat["shown_input"].dims == ("shown", "feature")


def test_undefined_examples_are_not_shown():
    masks = np.array([[1, 1, 0], [1, 0, 1]])
    found = memorization(SubsetRuns(masks, masks)).with_examples(np.eye(3))
    assert 0 not in found.shown_example


def test_wrong_options_are_refused():
    runs = SubsetRuns([[1, 0], [0, 1]], [[1, 0], [0, 1]])
    with pytest.raises(RequestError, match="unknown of 'margin'"):
        memorization(runs, of="margin")
    with pytest.raises(RequestError, match="confidence=95"):
        memorization(runs, confidence=95)
    with pytest.raises(RequestError, match="num_draws=0"):
        memorization(runs, num_draws=0)
    with pytest.raises(RequestError, match=r"expected \(2, ...\)"):
        memorization(runs).with_examples(np.zeros((3, 4)))
