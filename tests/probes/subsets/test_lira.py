import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.subsets.lira import lira
from landscape.trainers.data.splits import subset_masks


def gaussian(seed=0, num_models=64, num_examples=400, gap=1.5, spread=0.8, own=0.0):
    generator = np.random.default_rng(seed)
    masks = subset_masks(num_examples, num_models, 0.5, seed=seed, design="iid").numpy()
    hardness = generator.normal(size=num_examples) * 3
    spreads = spread * np.exp(own * generator.normal(size=num_examples))
    noise = generator.normal(size=(num_models, num_examples)) * spreads
    return masks, hardness + gap * masks + noise


@pytest.mark.parametrize("attack", ["online", "offline"])
@pytest.mark.parametrize("center", ["median", "mean"])
def test_gaussians_are_told_apart_as_well_as_they_can_be(attack, center):
    masks, values = gaussian(num_models=128)
    found = lira(masks, values, range(60), attack=attack, variance="pooled", center=center)
    oracle = stats.norm.cdf(1.5 / (0.8 * np.sqrt(2)))
    assert found.roc().auc == pytest.approx(oracle, abs=0.012)
    assert found.num_undefined == 0
    rate = found.roc().true_positive_rate_at(0.01).value
    best = stats.norm.sf(stats.norm.isf(0.01) - 1.5 / 0.8)
    assert rate == pytest.approx(best, abs=0.04)


def test_variances_of_their_own_help_where_they_differ():
    masks, values = gaussian(num_models=128, own=1.0)
    rates = {
        kind: lira(masks, values, range(60), variance=kind).roc().true_positive_rate_at(0.001).value
        for kind in ("per_example", "pooled")
    }
    assert rates["per_example"] > 2 * rates["pooled"]


def test_the_score_is_the_likelihood_ratio_written_out():
    masks, values = gaussian(num_models=12, num_examples=5)
    found = lira(masks, values, center="mean")
    medians = lira(masks, values, [3])
    offline = lira(masks, values, [3], attack="offline")
    for example in range(5):
        others = np.arange(12) != 3
        seen = values[others & masks[:, example], example]
        unseen = values[others & ~masks[:, example], example]
        phi = values[3, example]
        for score, middle in ((found.score[3], np.mean), (medians.score[0], np.median)):
            wanted = stats.norm.logpdf(phi, middle(seen), seen.std(ddof=1))
            wanted -= stats.norm.logpdf(phi, middle(unseen), unseen.std(ddof=1))
            assert score[example] == pytest.approx(wanted)
        wanted = (phi - np.median(unseen)) / unseen.std(ddof=1)
        assert offline.score[0, example] == pytest.approx(wanted)
        assert found.num_in[3, example] == len(seen)
        assert found.num_out[3, example] == len(unseen)
    np.testing.assert_array_equal(found.member, masks)
    assert medians.targets.tolist() == [3]


def test_the_pooled_spreads_are_those_of_each_group_by_itself():
    masks, values = gaussian(num_models=40, num_examples=300)
    values = np.where(masks, values * 0.1, values * 2)  # seen ones are tight, unseen ones are wide
    found = lira(masks, values, [0], variance="pooled", center="mean")
    spreads = []
    for group in (masks[1:], ~masks[1:]):
        held = np.where(group, values[1:], np.nan)
        squares = np.nansum(np.square(held - np.nanmean(held, 0)))
        spreads.append(np.sqrt(squares / (group.sum(0) - 1).sum()))
        assert not np.isclose(spreads[0], spreads[-1]) or len(spreads) == 1
    seen, unseen = (
        np.nanmean(np.where(group, values[1:], np.nan), 0) for group in (masks[1:], ~masks[1:])
    )
    wanted = stats.norm.logpdf(values[0], seen, spreads[0])
    wanted -= stats.norm.logpdf(values[0], unseen, spreads[1])
    np.testing.assert_allclose(found.score[0], wanted, rtol=1e-9, atol=1e-9)


def test_scores_that_are_far_out_do_not_saturate():
    masks, values = gaussian(num_models=20, num_examples=4)
    values[0] += [100.0, 200.0, 1e3, 1e4]
    assert np.isfinite(lira(masks, values, [0], attack="online").score).all()
    assert len(np.unique(lira(masks, values, [0], attack="offline").score)) == 4


def test_the_values_are_left_as_they_are_and_the_target_says_nothing_of_itself():
    masks, values = gaussian(num_models=10, num_examples=6)
    before = values.copy()
    first = lira(masks, values, [2])
    np.testing.assert_array_equal(values, before)
    flipped = masks.copy()
    flipped[2] = ~flipped[2]
    np.testing.assert_array_equal(lira(flipped, values, [2]).score, first.score)


def test_too_few_of_a_kind_have_no_score():
    masks = np.zeros((6, 2), dtype=bool)
    masks[:2, 0], masks[:3, 1] = True, True
    values = np.random.default_rng(0).normal(size=(6, 2))
    found = lira(masks, values)
    # Without the target one model is left that saw example 0: it has no spread.
    assert np.isnan(found.score[:, 0]).tolist() == [True, True, False, False, False, False]
    assert not np.isnan(found.score[:, 1]).any()
    assert found.num_undefined == 2
    assert not np.isnan(lira(masks, values, variance="pooled").score).any()
    assert not np.isnan(lira(masks, values, attack="offline").score).any()
    masks[:, 0] = False
    assert np.isnan(lira(masks, values, variance="pooled").score[:, 0]).all()
    assert found.roc().num_left_out == 2


def test_equal_values_have_no_score():
    masks = np.array([[1], [1], [1], [0], [0], [0]])
    assert np.isnan(lira(masks, np.ones((6, 1))).score).all()
    values = np.array([[2.0], [1.0], [1.0], [0.0], [0.0], [0.0]])
    for attack in ("online", "offline"):  # nor is it infinite where the target differs
        assert np.isnan(lira(masks, values, [0], attack=attack).score).all()


@pytest.mark.parametrize("models", [1, 2])
def test_a_single_model_is_refused(models):
    with pytest.raises(RequestError, match=f"there are {models} models"):
        lira(np.ones((models, 3)), np.zeros((models, 3)))


def test_wrong_requests_are_refused():
    masks, values = gaussian(num_models=4, num_examples=3)
    with pytest.raises(RequestError, match=r"values \(4, 2\)"):
        lira(masks, values[:, :2])
    with pytest.raises(RequestError, match="not finite"):
        lira(masks, np.where(masks, np.inf, values))
    for name in ("attack", "variance", "center"):
        with pytest.raises(RequestError, match=f"unknown {name} 'other'"):
            lira(masks, values, **{name: "other"})
    for targets in ([4], [-1], []):
        with pytest.raises(RequestError, match=r"expected models in 0 \.\.\. 3"):
            lira(masks, values, targets)


def test_progress_is_told():
    steps = []
    lira(*gaussian(num_models=4, num_examples=3), progress=lambda *told: steps.append(told))
    assert steps[-1] == (4, 4, "targets")
