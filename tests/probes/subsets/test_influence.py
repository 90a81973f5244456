import itertools

import numpy as np
import pytest
import torch
from oracles_nearest_neighbour import correct_of, exact_influence, ranking, uniform_masks

from landscape.errors import RequestError
from landscape.probes.subsets import influence as module
from landscape.probes.subsets.influence import influence
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.trainers.data.splits import subset_masks


class Problem:
    """Points in the plane, 15 % relabelled, tests without noise; 1-NN on subsets of a size."""

    def __init__(self, seed, n=60, size=30, num_tests=25):
        self.generator = np.random.default_rng(seed)
        self.points = self.generator.normal(size=(n, 2))
        self.tests = self.generator.normal(size=(num_tests, 2))
        self.labels, self.wanted = self.classes(self.points), self.classes(self.tests)
        wrong = self.generator.random(n) < 0.15
        self.labels[wrong] = self.generator.integers(0, 3, wrong.sum())
        self.order = ranking(self.points, self.tests)
        self.exact = exact_influence(self.order, self.labels, self.wanted, size)

    @staticmethod
    def classes(points):
        return (np.arctan2(points[:, 1], points[:, 0]) // 2.1).astype(int) + 2

    def runs(self, masks):
        own = ranking(self.points)
        return SubsetRuns(
            masks,
            correct_of(own, self.labels, self.labels, masks),
            correct_test=correct_of(self.order, self.labels, self.wanted, masks),
        )


def error(found, exact):
    return np.sqrt(np.nanmean(np.square(found.value - exact)))


def all_subsets(n, size):
    masks = np.zeros((len(list(itertools.combinations(range(n), size))), n), dtype=bool)
    for row, chosen in enumerate(itertools.combinations(range(n), size)):
        masks[row, list(chosen)] = True
    return masks


@pytest.mark.parametrize("size", [2, 4, 6])
def test_all_subsets_give_the_definition_and_the_closed_form(size):
    problem = Problem(0, n=8, size=size, num_tests=5)
    runs = problem.runs(all_subsets(8, size))
    found = influence(runs)
    np.testing.assert_allclose(found.value, problem.exact, atol=1e-12)
    for test, example in itertools.product(range(5), range(8)):
        right = {True: [], False: []}
        for chosen in itertools.combinations(range(8), size):
            nearest = next(other for other in problem.order[test] if other in chosen)
            right[example in chosen].append(problem.labels[nearest] == problem.wanted[test])
        wanted = np.mean(right[True]) - np.mean(right[False])
        assert found.value[test, example] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("size", [3, 5])
def test_slopes_on_all_subsets_of_one_size_are_the_differences_at_any_ratio(size):
    problem = Problem(1, n=8, size=size, num_tests=5)
    runs = problem.runs(all_subsets(8, size))
    found = influence(runs, method="ridge", penalty=1e-10)
    np.testing.assert_allclose(found.value, problem.exact, atol=1e-8)


def test_slopes_on_independent_draws_are_the_differences_without_a_factor():
    masks = np.array(list(itertools.product([0, 1], repeat=6)))
    generator = np.random.default_rng(0)
    correct = generator.random((64, 4)) < 0.5
    runs = SubsetRuns(masks, masks)
    ridge = influence(runs, correct, method="ridge", penalty=1e-10)
    np.testing.assert_allclose(ridge.value, influence(runs, correct).value, atol=1e-9)


def test_the_effect_on_itself_is_memorization():
    problem = Problem(2)
    runs = problem.runs(uniform_masks(problem.generator, 80, 60, 30))
    own, found = influence(runs, runs.correct), memorization(runs)
    np.testing.assert_allclose(np.diag(own.value), found.value, atol=1e-15)
    np.testing.assert_allclose(np.diag(own.lower), found.lower, atol=1e-15)
    np.testing.assert_allclose(np.diag(own.upper), found.upper, atol=1e-15)


def test_a_copy_among_the_tests_feels_what_the_example_memorizes():
    problem = Problem(3)
    masks = uniform_masks(problem.generator, 100, 60, 30)
    order = ranking(problem.points, problem.points + 1e-9)
    runs = problem.runs(masks)
    found = influence(runs, correct_of(order, problem.labels, problem.labels, masks))
    np.testing.assert_allclose(np.diag(found.value), memorization(runs).value, atol=1e-12)


def coverage(method, num_models, seeds):
    covered = []
    for seed in seeds:
        problem = Problem(seed)
        found = influence(
            problem.runs(uniform_masks(problem.generator, num_models, 60, 30)), method=method
        )
        covered.append((found.lower <= problem.exact) & (problem.exact <= found.upper))
    return np.mean(covered)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["difference", "ridge"])
@pytest.mark.parametrize("num_models", [50, 200])
def test_intervals_cover_the_exact_influence_of_the_nearest_neighbour_rule(method, num_models):
    share = coverage(method, num_models, range(60))
    print(f"{method}, T={num_models}: coverage {share:.4f} of 90,000 intervals")
    assert 0.94 < share < 0.98


def test_intervals_cover_on_a_few_problems():
    assert 0.94 < coverage("difference", 50, range(4)) < 0.98
    assert 0.94 < coverage("ridge", 50, range(4)) < 0.99


def test_ridge_has_smaller_errors_than_differences():
    errors = {"difference": [], "ridge": []}
    for seed in range(6):
        problem = Problem(seed)
        runs = problem.runs(uniform_masks(problem.generator, 100, 60, 30))
        for method, found in errors.items():
            found.append(error(influence(runs, method=method), problem.exact))
    assert np.mean(errors["ridge"]) < 0.8 * np.mean(errors["difference"])


def test_lasso_has_smaller_errors_than_differences_too():
    problem = Problem(0, num_tests=8)
    runs = problem.runs(uniform_masks(problem.generator, 100, 60, 30))
    found = influence(runs, method="lasso")
    assert error(found, problem.exact) < error(influence(runs), problem.exact)
    assert found.penalty.shape == (8,)
    assert np.isnan(found.lower).all()


def test_complementary_pairs_harm_differences():
    errors = {"iid": [], "balanced": []}
    for seed in range(6):
        problem = Problem(seed)
        for design, found in errors.items():
            masks = subset_masks(60, 60, 0.5, seed=seed, design=design).numpy()
            found.append(error(influence(problem.runs(masks)), problem.exact))
    assert np.mean(errors["balanced"]) > 1.1 * np.mean(errors["iid"])


@pytest.mark.parametrize("method", ["difference", "ridge", "lasso"])
def test_a_constant_predictor_has_no_influence(method):
    masks = uniform_masks(np.random.default_rng(0), 20, 10, 5)
    found = influence(SubsetRuns(masks, masks), np.tile([True, False], (20, 1)), method=method)
    np.testing.assert_array_equal(found.value, 0)
    if method != "lasso":  # no model disagreed, which is no proof that none would
        assert (found.upper > 0.05).all()


@pytest.mark.parametrize("method", ["difference", "ridge", "lasso"])
def test_never_in_or_always_in_is_undefined(method):
    masks = uniform_masks(np.random.default_rng(0), 20, 10, 5)
    masks[:, 0], masks[:, 1] = True, False
    tests = np.random.default_rng(1).random((20, 2)) < 0.5
    found = influence(SubsetRuns(masks, masks), tests, method=method)
    undefined = np.arange(10) < 2
    np.testing.assert_array_equal(np.isnan(found.value), np.tile(undefined, (2, 1)))
    assert np.isnan(found.lower[:, undefined]).all()
    assert found.status == "2 of 10 examples are undefined"
    assert "2 examples were in all subsets or in none" in found.notes[-1]


def test_blocks_precision_and_kind_of_array_change_nothing(monkeypatch):
    problem = Problem(4)
    runs = problem.runs(uniform_masks(problem.generator, 50, 60, 30))
    whole = influence(runs)
    as_tensor = influence(runs, torch.from_numpy(runs.correct_test).float())
    np.testing.assert_array_equal(as_tensor.value, whole.value)
    ridge = influence(runs, method="ridge")
    monkeypatch.setattr(module, "_BLOCK", 70)
    steps = []
    parts = influence(runs, progress=lambda done, total, words: steps.append((done, total)))
    for name in ("value", "lower", "upper"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-15)
    np.testing.assert_allclose(influence(runs, method="ridge").lower, ridge.lower, atol=1e-15)
    assert steps[-1] == (25, 25)
    assert len(steps) > 1
    small = influence(runs, dtype=np.float32)
    assert small.value.dtype == small.upper.dtype == np.float32
    np.testing.assert_allclose(small.value, whole.value, atol=1e-6)


def test_permuting_examples_tests_or_models_is_followed():
    problem = Problem(5)
    masks = uniform_masks(problem.generator, 50, 60, 30)
    runs = problem.runs(masks)
    order, tests, rows = (problem.generator.permutation(k) for k in (60, 25, 50))
    for method in ("difference", "ridge"):
        found = influence(runs, method=method)
        moved = influence(
            runs.select(models=rows, examples=order),
            runs.correct_test[rows][:, tests],
            method=method,
        )
        np.testing.assert_allclose(moved.value, found.value[tests][:, order], atol=1e-10)


def test_noise_takes_the_strongest_penalty_and_says_so():
    generator = np.random.default_rng(0)
    masks = uniform_masks(generator, 30, 40, 20)
    found = influence(SubsetRuns(masks, masks), generator.random((30, 200)) < 0.5, method="ridge")
    assert "is the largest that was tried" in found.notes[0]
    assert np.abs(found.value).max() < 0.01


def test_the_dataset_has_every_number_with_its_unit():
    problem = Problem(6)
    found = influence(problem.runs(uniform_masks(problem.generator, 50, 60, 30)))
    dataset = found.to_dataset()
    assert dataset["value"].dims == ("test", "example")
    assert dataset["num_in"].dims == ("example",)
    root = np.sqrt(np.square(found.value).mean())
    assert float(dataset["root_mean_square"]) == pytest.approx(root)
    assert all({"units", "long_name"} <= set(v.attrs) for v in dataset.values())
    assert found.status == "converged"


def test_wrong_requests_are_refused():
    runs = SubsetRuns([[1, 0], [0, 1]], [[1, 0], [0, 1]])
    with pytest.raises(RequestError, match="there are no tests"):
        influence(runs)
    with pytest.raises(RequestError, match="3 models and the runs have 2"):
        influence(runs, [[1], [0], [1]])
    with pytest.raises(RequestError, match=r"unknown method 'rigde'\. Did you mean 'ridge'"):
        influence(runs, [[1], [0]], method="rigde")
    with pytest.raises(RequestError, match="penalty is given with method='difference'"):
        influence(runs, [[1], [0]], penalty=1.0)
    with pytest.raises(RequestError, match="other values than 0 and 1"):
        influence(runs, [[0.5], [0]])
