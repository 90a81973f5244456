"""Ranks of features with known spectra, and what a sample makes of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.features.rank_measures import (
    alpha_req,
    effective_rank,
    participation_ratio,
    rankme,
)

RANKS = [
    participation_ratio,
    effective_rank,
    rankme,
    lambda features: effective_rank(features, of="variances"),
]


def gaussian(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def with_singular_values(values, count=40, seed=0):
    """Centred features whose singular values are these."""
    values = torch.as_tensor(values, dtype=torch.float64)
    start = gaussian(count, len(values), seed)
    left, _ = torch.linalg.qr(start - start.mean(0))
    right, _ = torch.linalg.qr(gaussian(len(values), len(values), seed + 1))
    return left * values @ right.T


def brute_traces(features, center):
    """U-statistics of (tr S)^2 and tr S^2, over all tuples of different examples."""
    squared, square = [], []
    if center:
        for i, j, k, m in itertools.permutations(features, 4):
            squared.append((i - j) @ (i - j) * ((k - m) @ (k - m)) / 4)
            square.append(((i - j) @ (k - m)) ** 2 / 4)
    else:
        for i, j in itertools.permutations(features, 2):
            squared.append(i @ i * (j @ j))
            square.append((i @ j) ** 2)
    return torch.stack(squared).mean(), torch.stack(square).mean()


# -- closed forms -----------------------------------------------------------------------------


def test_ranks_of_a_known_spectrum():
    values = np.array([3.0, 2.0, 1.0])
    features = with_singular_values(values)
    entropy = stats.entropy
    assert float(effective_rank(features)) == pytest.approx(np.exp(entropy(values)))
    variances = effective_rank(features, of="variances")
    assert float(variances) == pytest.approx(np.exp(entropy(values**2)))
    assert float(participation_ratio(features)) == pytest.approx(14**2 / (81 + 16 + 1))
    share = values / 6 + 1e-7
    expected = np.exp(-(share * np.log(share)).sum())
    assert float(rankme(features)) == pytest.approx(expected, rel=1e-12)
    assert abs(float(rankme(features)) - np.exp(entropy(values))) > 1e-7


def test_a_spectrum_is_taken_as_it_is():
    assert float(participation_ratio([9.0, 4.0, 1.0])) == pytest.approx(14**2 / 98)
    assert float(effective_rank([3, 2, 1])) == pytest.approx(np.exp(stats.entropy([3, 2, 1])))
    features = with_singular_values([3.0, 2.0, 1.0])
    assert float(rankme([3.0, 2.0, 1.0])) == pytest.approx(float(rankme(features)))
    assert alpha_req([1.0, 4.0, 9.0]).alpha == pytest.approx(alpha_req(features).alpha)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("size", [1, 50])
def test_rank_one_is_one(rank, size):
    features = gaussian(30, 1) @ gaussian(1, size, seed=1)
    # RankMe gives each direction 1e-7.
    assert float(rank(features)) == pytest.approx(1, abs=1e-10 if rank is not rankme else 1e-4)


@pytest.mark.parametrize("rank", RANKS)
def test_equal_directions_all_count(rank):
    assert float(rank(with_singular_values([2.0] * 7))) == pytest.approx(7, rel=1e-5)


def test_a_power_law_has_its_exponent():
    law = alpha_req(torch.arange(1, 51).double() ** -1.7)
    assert law.alpha == pytest.approx(1.7)
    assert law.standard_error == pytest.approx(0, abs=1e-10)
    assert (law.low, law.high) == (1, 50)


# -- samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"), [(50, 24.7), (100, 33.2), (200, 39.8), (1000, 47.6)]
)
def test_the_participation_ratio_of_a_sample_is_too_small(count, expected):
    found = [float(participation_ratio(gaussian(count, 50, seed))) for seed in range(8)]
    assert np.mean(found) == pytest.approx(expected, abs=0.4)
    assert np.mean(found) == pytest.approx(count * 50 / (count + 50), abs=0.7)


@pytest.mark.parametrize("count", [50, 100, 200])
@pytest.mark.parametrize("center", [True, False])
def test_the_unbiased_participation_ratio_is_not(count, center):
    found = [
        float(participation_ratio(gaussian(count, 50, seed), center=center, unbiased=True))
        for seed in range(20)
    ]
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - 50) < 4 * error + 0.1  # a ratio has a bias of its own
    assert error < 0.8


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("size", [2, 9])  # fewer features than examples, and more
def test_unbiased_traces_are_means_over_all_different_examples(center, size):
    features = gaussian(6, size) ** 2 + 1
    squared, square = brute_traces(features, center)
    found = participation_ratio(features, center=center, unbiased=True)
    assert float(found) == pytest.approx(float(squared / square), rel=1e-10)


def test_the_mean_of_the_data_does_not_enter_unless_it_is_wanted():
    features = gaussian(40, 6)
    for unbiased in (False, True):
        centred = participation_ratio(features + 100, unbiased=unbiased)
        assert float(centred) == pytest.approx(
            float(participation_ratio(features, unbiased=unbiased)), rel=1e-9
        )
        raw = participation_ratio(features + 100, center=False, unbiased=unbiased)
        assert float(raw) == pytest.approx(1, abs=1e-2)
    assert float(effective_rank(features + 100, center=False)) < 2
    assert alpha_req(features + 100, center=False).alpha > 3 * alpha_req(features + 100).alpha


def test_three_definitions_of_rank_disagree_as_published():
    scales = 1 / torch.arange(1, 51).double()
    samples = [gaussian(2000, 50, seed) * scales for seed in range(4)]

    def mean(measure):
        return np.mean([float(measure(features)) for features in samples])

    # One sample's own spread is 0.15, 0.1 and 0.005: 24.7, 4.8 and 2.7 of one sample are near.
    assert mean(effective_rank) == pytest.approx(np.exp(stats.entropy(scales)), abs=0.3)
    of_variances = mean(lambda features: effective_rank(features, of="variances"))
    assert of_variances == pytest.approx(np.exp(stats.entropy(scales**2)), abs=0.2)
    assert mean(rankme) == pytest.approx(24.5, abs=0.4)
    assert mean(lambda features: rankme(features + 3)) == pytest.approx(2.74, abs=0.02)
    assert mean(lambda features: alpha_req(features).alpha) == pytest.approx(2, abs=0.05)


# -- invariants -------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("scale", [-2.0, 1e-150, 1e150])
def test_scale_rotation_and_order_do_not_matter(rank, scale):
    features = gaussian(30, 8) * torch.arange(1, 9)
    rotation, _ = torch.linalg.qr(gaussian(8, 8, seed=3))
    changed = scale * features.flip(0) @ rotation
    assert float(rank(changed)) == pytest.approx(float(rank(features)), rel=1e-9)


@pytest.mark.parametrize("unbiased", [False, True])
def test_more_features_than_examples_are_the_same_as_padding(unbiased):
    features = gaussian(10, 6)
    padded = torch.cat([features, torch.zeros(10, 20, dtype=torch.float64)], 1)
    for center in (True, False):
        found = participation_ratio(padded, center=center, unbiased=unbiased)
        expected = participation_ratio(features, center=center, unbiased=unbiased)
        assert float(found) == pytest.approx(float(expected))


def test_the_line_of_a_power_law_is_scipys():
    spectrum = gaussian(60, 12).var(0)
    law = alpha_req(spectrum, low=3, high=9)
    ordered = np.sort(spectrum.numpy())[::-1][2:9]
    line = stats.linregress(np.log(np.arange(3, 10)), np.log(ordered))
    assert law.alpha == pytest.approx(-line.slope)
    assert law.standard_error == pytest.approx(line.stderr)
    assert (law.low, law.high) == (3, 9)


def test_variances_that_are_rounding_are_no_part_of_the_power_law():
    law = alpha_req(gaussian(30, 4) @ gaussian(4, 20, seed=1))
    assert law.high == 4
    assert alpha_req(gaussian(6, 20)).high == 5  # centring takes one direction


# -- what is undefined ------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [*RANKS, lambda x: participation_ratio(x, unbiased=True)])
def test_zeros_have_no_rank(rank):
    assert rank(torch.zeros(6, 3)).isnan()


@pytest.mark.parametrize("unbiased", [False, True])
def test_what_is_constant_has_no_centred_rank(unbiased):
    constant = torch.full((7, 3), 0.1, dtype=torch.float64)
    assert (constant.mean(0) != 0.1).all()  # by rounding
    assert participation_ratio(constant, unbiased=unbiased).isnan()
    assert effective_rank(constant).isnan()
    assert np.isnan(alpha_req(constant).alpha)
    assert float(effective_rank(constant, center=False)) == pytest.approx(1)


def test_too_few_examples_have_no_unbiased_ratio():
    for seed in range(20):  # else rounding gives some of them a number
        few, one = gaussian(3, 50, seed), gaussian(1, 50, seed)
        assert participation_ratio(few, unbiased=True).isnan()
        assert participation_ratio(one, center=False, unbiased=True).isnan()
    assert not participation_ratio(gaussian(4, 50), unbiased=True).isnan()
    assert participation_ratio(gaussian(1, 5), unbiased=False).isnan()


def test_an_unbiased_trace_that_is_not_positive_gives_no_ratio():
    crossed = torch.eye(4)  # no two examples have anything in common
    assert participation_ratio(crossed, center=False, unbiased=True).isnan()


def test_a_line_needs_two_points_and_its_error_three():
    assert np.isnan(alpha_req([1.0]).alpha)
    two = alpha_req([1.0, 0.5])
    assert two.alpha == pytest.approx(1)
    assert np.isnan(two.standard_error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: participation_ratio([1.0, 2.0], unbiased=True), "needs features"),
        (lambda: participation_ratio(torch.ones(2, 3, 4)), r"shape \(2, 3, 4\)"),
        (lambda: effective_rank(torch.ones(0, 3)), r"shape \(0, 3\)"),
        (lambda: rankme([1.0, -2.0]), "spectrum has -2"),
        (lambda: effective_rank(torch.ones(2, 2), of="variance"), "Did you mean 'variances'"),
        (lambda: alpha_req([1.0, 0.5, 0.2], high=4), "low=1, high=4"),
        (lambda: alpha_req([1.0, 0.5, 0.2], low=0), "low=0"),
        (lambda: alpha_req([1.0, 0.5, 0.2], low=2, high=2), "low < high <= 3"),
    ],
)
def test_wrong_requests_are_refused(call, message):
    with pytest.raises(RequestError, match=message):
        call()
