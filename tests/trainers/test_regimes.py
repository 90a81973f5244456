import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.trainers.regimes import find_regimes, subregime_border

TIME = np.arange(40)


def falling(seed=0):
    noise = np.random.default_rng(seed).normal(size=len(TIME))
    return 0.6 * np.exp(-0.1 * TIME + 0.05 * noise)


def hovering(seed=0):
    noise = np.random.default_rng(seed).normal(size=len(TIME))
    return 0.3 * np.exp(0.1 * noise)


def regimes(losses, accuracies, rates=None, **more):
    losses = np.stack(losses, 1)
    accuracy = np.stack([np.full(len(losses), a) if np.isscalar(a) else a for a in accuracies], 1)
    rates = np.array(rates if rates is not None else np.arange(1, losses.shape[1] + 1.0))
    return find_regimes(rates, losses, accuracy, **{"num_examples": 400, "num_classes": 2, **more})


def test_falling_hovering_and_guessing_are_the_three_regimes():
    lost = np.full(len(TIME), np.log(2))
    found = regimes([falling(), hovering(), lost], [1.0, 0.9, 0.5])
    assert found.regime.tolist() == [1, 2, 3]
    assert found.convergence_threshold == 2
    assert found.divergence_threshold == 3
    assert [found.of(rate) for rate in (1, 2, 3)] == [1, 2, 3]
    assert "1 rates converge, 1 hover, 1 diverge" in found.sentences()[0]


@pytest.mark.parametrize("seed", range(20))
def test_stationary_noise_does_not_converge_and_a_decay_does(seed):
    found = regimes([falling(seed), hovering(seed)], [1.0, 0.9])
    assert found.regime.tolist() == [1, 2]


@pytest.mark.parametrize("level", [np.log(2), 0.1, 1 / 3, 1.7, 0.123456789])
def test_a_constant_loss_does_not_converge(level):
    assert regimes([np.full(len(TIME), level)], [0.9]).regime.tolist() == [2]


def test_a_loss_at_its_floor_has_converged_whatever_rounding_does():
    noise = np.random.default_rng(0).uniform(0, 9e-4, len(TIME))
    assert regimes([noise], [1.0]).regime.tolist() == [1]
    assert regimes([np.zeros(len(TIME))], [1.0]).regime.tolist() == [1]


def test_runs_of_one_rate_are_judged_together():
    half = [falling(), hovering(), hovering(1), hovering(2), falling(3), hovering(4)]
    found = regimes(half, [0.9] * 6, rates=[1, 1, 2, 2, 3, 3])
    assert found.converged_share.tolist() == [0.5, 0, 0.5]
    assert found.regime.tolist() == [1, 2, 1]


@pytest.mark.parametrize(("errors", "regime"), [(2.9, 3), (3.1, 2), (-5, 3)])
def test_chance_is_three_standard_errors_wide(errors, regime):
    window = len(TIME) // 4
    error = np.sqrt(0.1 * 0.9 / (400 * window))
    found = regimes([hovering()], [0.1 + errors * error], num_classes=10)
    assert found.chance_error == pytest.approx(error)
    assert found.regime.tolist() == [regime]


def test_runs_that_are_no_longer_finite_have_diverged():
    broken = np.where(TIME < 20, 0.3, np.nan)
    found = regimes([broken, broken, hovering()], [0.9, 0.9, 0.9], rates=[2, 2, 1])
    assert found.regime.tolist() == [2, 3]
    assert found.accuracy[1] == 0.5


def test_no_threshold_is_nan():
    found = regimes([falling(), falling(1)], [1.0, 1.0])
    assert np.isnan(found.convergence_threshold)
    assert np.isnan(found.divergence_threshold)
    assert found.to_dataset()["regime"].values.tolist() == [1, 1]


def test_too_few_evaluations_are_refused():
    with pytest.raises(RequestError, match="7 evaluations are too few"):
        find_regimes(np.ones(1), np.ones((7, 1)), np.ones((7, 1)), num_examples=9, num_classes=2)


def test_the_border_of_2a_is_the_last_rate_before_a_criterion_fails():
    rates = np.array([1.0, 2, 3, 4])
    accuracies = np.array([[0.9, 0.91], [0.9, 0.91], [0.9, 0.95], [0.9, 0.9]])
    barriers = np.zeros(4)
    assert subregime_border(rates, accuracies, barriers) == 2
    assert subregime_border(rates, accuracies, np.array([0, 0.1, 0, 0])) == 1
    assert np.isnan(subregime_border(rates, accuracies, barriers + 0.02))
