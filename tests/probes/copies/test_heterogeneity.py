import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.copies.copies import Copies
from landscape.probes.copies.heterogeneity import debiased_variance, heterogeneity


def normal_answers(rng, correlation, shape, share=0.4):
    """Equally hard objects; the answers of a copy on the views of an object are correlated."""
    views = shape[-1]
    matrix = np.full((views, views), correlation) + (1 - correlation) * np.eye(views)
    drawn = rng.standard_normal(shape) @ np.linalg.cholesky(matrix).T
    return drawn < stats.norm.ppf(share)


def uniform(p_values):
    return stats.kstest(p_values, "uniform").pvalue > 0.005


@pytest.mark.parametrize("correlation", [0.8, 0.0, -0.3])
def test_permuted_copies_are_calibrated_whatever_the_views_have_in_common(correlation):
    rng = np.random.default_rng(0)
    copies = Copies(normal_answers(rng, correlation, (250, 6, 40, 4)))
    found = heterogeneity(copies, num_draws=59, seed=1)
    assert found.null == "copies"
    assert uniform(found.mae_p)
    assert uniform(found.over_dispersion_p)


@pytest.mark.parametrize("correlation", [0.8, -0.3])
def test_independent_answers_are_no_null_for_dependent_views(correlation):
    rng = np.random.default_rng(0)
    copies = Copies(normal_answers(rng, correlation, (100, 6, 40, 4)))
    found = heterogeneity(copies, null="answers", num_draws=59, seed=1)
    assert not uniform(found.over_dispersion_p)
    rejected = (found.over_dispersion_p < 0.05).mean()
    assert rejected > 0.5 if correlation > 0 else rejected == 0


def test_independent_views_are_calibrated_under_both_permutations():
    rng = np.random.default_rng(3)
    copies = Copies(normal_answers(rng, 0.0, (150, 6, 40, 3)))
    for null in ("answers", "views"):
        found = heterogeneity(copies, null=null, num_draws=59, seed=1)
        assert uniform(found.mae_p)


@pytest.mark.parametrize("correlation", [0.0, -0.3])
def test_the_published_binomial_null_is_wrong_for_averages(correlation):
    rng = np.random.default_rng(0)
    copies = Copies(normal_answers(rng, correlation, (60, 10, 80, 4)))
    found = heterogeneity(copies, null="binomial", num_draws=59, seed=1)
    assert (found.over_dispersion_p == 1).all()  # far too wide: no object is ever found hard
    assert (found.mae_p < 0.05).mean() > 0.95  # and the curves are flatter than it allows
    right = heterogeneity(copies, num_draws=59, seed=1)
    assert (found.mae > 2 * right.mae).all()


def test_the_binomial_null_is_calibrated_for_one_augmentation():
    rng = np.random.default_rng(4)
    copies = Copies(rng.random((300, 8, 50)) < 0.3)
    found = heterogeneity(copies, num_draws=59, seed=1)
    assert found.null == "binomial"
    assert uniform(found.mae_p)
    assert uniform(found.over_dispersion_p)


def test_permuted_copies_stay_calibrated_where_copies_differ_in_accuracy():
    rng = np.random.default_rng(5)
    accuracy = np.array([0.05, 0.1, 0.5, 0.9, 0.95, 0.95])[:, None]
    copies = Copies(rng.random((250, 6, 50)) < accuracy)
    assert uniform(heterogeneity(copies, null="copies", num_draws=59, seed=1).mae_p)
    binomial = heterogeneity(copies, null="binomial", num_draws=59, seed=1)
    assert not uniform(binomial.over_dispersion_p)


def test_views_of_unequal_hardness_are_told_from_unequal_objects():
    rng = np.random.default_rng(6)
    by_view = rng.random((1, 1, 200, 4)) < 0.5  # each view is right for all copies or for none
    found = Copies(np.broadcast_to(by_view, (1, 10, 200, 4)))
    assert heterogeneity(found, seed=0).mae_p[0] < 0.01
    assert heterogeneity(found, null="views", seed=0).mae_p[0] > 0.05
    by_object = np.broadcast_to(rng.random((1, 1, 200, 1)) < 0.5, (1, 10, 200, 4))
    noisy = by_object ^ (rng.random(by_object.shape) < 0.1)
    assert heterogeneity(Copies(noisy), null="views", seed=0).mae_p[0] < 0.01


def test_all_draws_of_a_tiny_family_are_its_permutations():
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=bool)  # (N, K)
    curves = []
    for orders in itertools.product(itertools.permutations(range(4)), repeat=2):
        # The order of one copy can stay: curves are sorted.
        moved = [correct[0], *(correct[i + 1][list(o)] for i, o in enumerate(orders))]
        curves.append(np.sort(np.sum(moved, 0)) / 3)
    own = np.sort(correct.sum(0)) / 3
    exact = np.mean([np.abs(own - curve).mean() for curve in curves])
    found = heterogeneity(Copies(correct[None]), null="copies", num_draws=4000, seed=0)
    error = found.mae_spread[0] / np.sqrt(4000)
    assert abs(found.mae[0] - exact) < 4 * error
    stacked = np.array(curves)
    between = np.abs(stacked[:, None] - stacked[None]).mean()
    assert found.mae_null[0] == pytest.approx(between, abs=0.01)
    np.testing.assert_allclose(found.null_curve[0], np.mean(curves, 0), atol=0.02)


def test_the_measures_are_their_definitions_on_the_draws():
    rng = np.random.default_rng(7)
    correct = rng.random((1, 6, 30)) < rng.beta(1, 1, 30)
    found = heterogeneity(Copies(correct), num_draws=50, seed=3)
    child = np.random.SeedSequence(3).spawn(1)[0]
    drawn = np.random.default_rng(child).multivariate_hypergeometric(
        np.full(30, 6), correct.sum(), size=50, method="marginals"
    )
    curves = np.sort(drawn, 1) / 6
    own = np.sort(correct[0].sum(0)) / 6
    distances = np.abs(curves - own).mean(1)
    assert found.mae[0] == pytest.approx(distances.mean(), rel=1e-12)
    assert found.mae_spread[0] == pytest.approx(distances.std(ddof=1), rel=1e-12)
    between = np.abs(curves[:, None] - curves[None]).mean(2).sum(1) / 49
    assert found.mae_null[0] == pytest.approx(between.mean(), rel=1e-12)
    assert found.mae_null_spread[0] == pytest.approx(between.std(ddof=1), rel=1e-12)
    np.testing.assert_allclose(found.null_curve[0], curves.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.null_low[0], np.quantile(curves, 0.025, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.null_high[0], np.quantile(curves, 0.975, axis=0), rtol=1e-12)
    counts = correct[0].sum(0)
    p = counts.mean() / 6
    exact = np.square(counts - 6 * p).sum() / (6 * p * (1 - p)) / 29
    assert found.over_dispersion[0] == pytest.approx(exact, rel=1e-12)


def test_naive_and_debiased_variance_of_a_beta_distributed_difficulty():
    rng = np.random.default_rng(8)
    copies = Copies(rng.random((1, 20, 20_000)) < rng.beta(0.5, 1.2, 20_000))
    exact = 0.6 / (1.7**2 * 2.7)
    assert exact == pytest.approx(0.0767, abs=3e-4)
    naive = copies.learnability.var(1, ddof=1)[0]
    assert naive == pytest.approx(0.0831, abs=0.0015)
    found = debiased_variance(copies)[0]
    assert found == pytest.approx(exact, abs=0.0015)
    r = copies.learnability[0]
    assert found == pytest.approx(r.var(ddof=1) - (r * (1 - r)).mean() / 19, rel=1e-12)


def test_the_debiased_variance_is_unbiased_for_dependent_views():
    rng = np.random.default_rng(9)
    found = debiased_variance(Copies(normal_answers(rng, 0.8, (400, 5, 50, 3))))
    assert abs(found.mean()) < 4 * found.std(ddof=1) / np.sqrt(400)
    raw = Copies(normal_answers(rng, 0.8, (50, 5, 50, 3))).learnability.var(1, ddof=1)
    assert raw.mean() > 0.03


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("null", ["copies", "answers", "views", "binomial"])
def test_nothing_is_said_of_times_at_which_all_answers_are_equal(share, null):
    correct = np.random.default_rng(0).random((2, 4, 20, 3)) < 0.5
    correct[0] = share
    found = heterogeneity(Copies(correct), null=null, num_draws=10, seed=0)
    for name, values in vars(found).items():
        if name not in ("null", "num_draws"):
            assert np.isnan(values[0]).all(), name
            assert np.isfinite(values[1]).all(), name


def test_the_seed_decides_the_draws_and_nothing_else_does():
    copies = Copies(np.random.default_rng(0).random((2, 5, 20, 2)) < 0.5)
    first, again, other = (heterogeneity(copies, num_draws=20, seed=s).mae for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_objects_and_copies_have_no_order():
    copies = np.random.default_rng(0).random((1, 5, 30, 2)) < 0.5
    order = np.random.default_rng(1).permutation(30)
    first = heterogeneity(Copies(copies), num_draws=400, seed=1)
    turned = heterogeneity(Copies(copies[:, ::-1, order]), num_draws=400, seed=1)
    assert first.over_dispersion[0] == pytest.approx(turned.over_dispersion[0], rel=1e-12)
    error = np.hypot(first.mae_spread[0], turned.mae_spread[0]) / np.sqrt(400)
    assert abs(first.mae[0] - turned.mae[0]) < 4 * error


def test_one_copy_has_no_debiased_variance():
    copies = Copies(np.eye(4, dtype=bool)[None, :1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(debiased_variance(copies)).all()


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"null": "copy"}, "Did you mean 'copies'"),
        ({"null": "views"}, "there is one"),
        ({"num_draws": 1}, "num_draws=1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(named, words):
    with pytest.raises(RequestError, match=words):
        heterogeneity(Copies(np.eye(4, dtype=bool)[None]), seed=0, **named)
