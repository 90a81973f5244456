import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.subsets import reliability
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.reliability import chance_values, convergence, split_half
from landscape.probes.subsets.subset_runs import SubsetRuns


def bernoulli_runs(seed, num_models, num_examples, spread=1.0):
    """Outcomes that are independent given the example: right if in, by chance if out."""
    generator = np.random.default_rng(seed)
    masks = generator.random((num_models, num_examples)) < 0.5
    guess = np.random.default_rng(99).random(num_examples) * spread
    correct = masks | (generator.random((num_models, num_examples)) < guess)
    return SubsetRuns(masks, correct), 1 - guess


def test_halves_tell_how_two_whole_sets_of_models_agree():
    pairs = [[bernoulli_runs(2 * s + k, 40, 400)[0] for k in range(2)] for s in range(8)]
    true = [
        np.corrcoef(*(memorization(r, num_draws=1).value for r in pair))[0, 1] for pair in pairs
    ]
    found = [split_half(pair[0].masks, pair[0].correct, seed=0) for pair in pairs]
    assert np.mean(found) == pytest.approx(np.mean(true), abs=0.01)
    assert np.std(found) < 0.02


def test_halves_of_nothing_but_noise_agree_in_nothing():
    generator = np.random.default_rng(0)
    masks = generator.random((40, 2000)) < 0.5
    found = split_half(masks, generator.random((40, 2000)) < 0.5, seed=0)
    assert abs(found) < 4 * 2 / np.sqrt(2000)


def test_halves_leave_out_examples_that_one_of_them_cannot_tell():
    runs, _ = bernoulli_runs(0, 6, 300)
    assert 0 < split_half(runs.masks, runs.correct, seed=0) < 1
    assert np.isnan(split_half(runs.masks[:3], runs.correct[:3], seed=0))


def test_blocks_of_examples_change_nothing(monkeypatch):
    runs, _ = bernoulli_runs(0, 20, 50)
    whole = split_half(runs.masks, runs.correct, seed=0)
    monkeypatch.setattr(reliability, "_BLOCK", 140)
    assert split_half(runs.masks, runs.correct, seed=0) == pytest.approx(whole, rel=1e-12)


def test_permuted_outcomes_by_their_law_are_those_permuted_by_hand():
    runs, _ = bernoulli_runs(1, 30, 60)
    generator = np.random.default_rng(5)
    largest, above = [], []
    for _ in range(600):
        correct = generator.permuted(runs.correct, axis=0)
        values = memorization(SubsetRuns(runs.masks, correct), num_draws=1).value
        largest.append(values.max())
        above.append((values >= 0.25).sum())
    found = chance_values(runs, num_draws=600, seed=0)
    assert found.high == pytest.approx(np.quantile(largest, 0.975), abs=0.05)
    assert found.num_above == pytest.approx(np.mean(above), abs=4 * np.std(above) / np.sqrt(300))


def test_the_largest_value_of_the_null_is_exceeded_by_chance_as_often_as_it_says():
    generator = np.random.default_rng(0)
    exceeded = 0
    for _ in range(100):
        masks = generator.random((40, 30)) < 0.5
        runs = SubsetRuns(masks, generator.random((40, 30)) < 0.7)
        found = memorization(runs, num_draws=1).value.max()
        exceeded += found > chance_values(runs, num_draws=100, seed=1).high
    assert exceeded / 100 < 0.025 + 4 * np.sqrt(0.025 * 0.975 / 100)


def test_examples_that_no_model_tells_have_no_null():
    found = chance_values(SubsetRuns([[1, 1]], [[1, 0]]), seed=0)
    assert np.isnan(found.high)
    assert found.num_above == 0


def test_the_error_at_few_models_is_that_to_the_truth():
    runs, true = bernoulli_runs(3, 400, 500, spread=0.9)
    found = convergence(runs, [20, 50, 100, 400], num_draws=20)
    for size, error in zip((20, 50, 100), found.error, strict=False):
        pieces = [np.arange(start, start + size) for start in range(0, 400, size)]
        values = [memorization(runs.select(models=p), num_draws=1).value for p in pieces]
        assert error == pytest.approx(np.sqrt(np.nanmean(np.square(values - true))), rel=0.12)
    assert found.distance[-1] == 0
    assert np.isnan(found.error[-1])
    assert (np.diff(found.distance) < 0).all()
    assert (np.diff(found.interval_width) < 0).all()
    full = memorization(runs, num_draws=1)
    assert found.interval_width[-1] == pytest.approx((full.upper - full.lower).mean())


def test_sizes_go_by_halves_and_undefined_examples_are_counted():
    runs, _ = bernoulli_runs(0, 32, 40)
    found = convergence(runs)
    assert found.sizes.tolist() == [4, 8, 16, 32]
    assert found.num_undefined[0] > found.num_undefined[-1] == 0
    assert found.num_undefined[0] == pytest.approx(40 / 8, rel=0.5)  # 2 (1/2)^4 of 40
    with pytest.raises(RequestError, match="from 2 to 32"):
        convergence(runs, [1, 8])
    with pytest.raises(RequestError, match="from 2 to 32"):
        convergence(runs, [64])
