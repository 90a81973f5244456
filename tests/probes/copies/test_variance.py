import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.copies.copies import Copies
from landscape.probes.copies.variance import variance_components

NAMES = ("object", "view", "copy", "copy_object", "residual")


def planted(rng, times, copies, objects, views, of_object, of_view, of_copy=0.0, shared=False):
    """Answers of which the probability is 1/2 + uniform effects of these standard deviations."""

    def effect(deviation, *shape):
        return rng.uniform(-1, 1, shape) * np.sqrt(3) * deviation

    view_shape = (times, 1, 1, views) if shared else (times, 1, objects, views)
    probability = (
        0.5
        + effect(of_object, times, 1, objects, 1)
        + effect(of_view, *view_shape)
        + effect(of_copy, times, copies, 1, 1)
    )
    assert 0 <= probability.min() <= probability.max() <= 1
    return Copies(rng.random((times, copies, objects, views)) < probability)


def within_four_errors(values, exact):
    return abs(values.mean() - exact) < 4 * values.std(ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("shared", [False, True])
def test_planted_variances_are_found_without_bias(shared):
    rng = np.random.default_rng(0)
    copies = planted(rng, 100, 4, 20, 3, 0.1, 0.08, 0.05, shared=shared)
    found = variance_components(copies, seed=0)
    assert within_four_errors(found.object.value, 0.01)
    assert within_four_errors(found.view.value, 0.0064)
    assert within_four_errors(found.copy.value, 0.0025)
    assert within_four_errors(found.copy_object.value, 0)
    noise = 0.25 - 0.01 - 0.0064 - 0.0025  # p (1 - p) on average
    assert within_four_errors(found.residual.value, noise)


def test_the_raw_variance_of_views_holds_the_noise_that_is_removed_here():
    rng = np.random.default_rng(1)
    copies = planted(rng, 100, 4, 20, 3, 0.1, 0.0)
    raw = copies.view_learnability.var(2, ddof=1).mean(1)
    assert raw.mean() == pytest.approx(0.24 / 4, rel=0.05)
    assert within_four_errors(variance_components(copies, seed=0).view.value, 0)


def test_a_copys_own_preference_for_an_object_is_no_objects_hardness():
    rng = np.random.default_rng(2)
    known = rng.random((150, 4, 20, 1)) < 0.5  # each copy knows all views of its own objects
    copies = Copies(np.broadcast_to(known, (150, 4, 20, 3)))
    found = variance_components(copies, seed=0)
    assert within_four_errors(found.object.value, 0)
    assert within_four_errors(found.copy_object.value, 0.25)
    np.testing.assert_allclose(found.residual.value, 0, atol=1e-12)


def test_shares_of_what_only_objects_or_only_views_decide():
    rng = np.random.default_rng(3)
    by_object = rng.random((1, 1, 60, 1)) < 0.5
    found = variance_components(Copies(np.broadcast_to(by_object, (1, 5, 60, 4))), seed=0)
    assert found.object_share.value[0] == 1
    assert found.view_share.value[0] == 0
    p = by_object.mean()
    assert found.object.value[0] == pytest.approx(p * (1 - p) * 60 / 59, rel=1e-9)
    by_view = rng.random((1, 1, 60, 4)) < 0.5
    found = variance_components(Copies(np.broadcast_to(by_view, (1, 5, 60, 4))), seed=0)
    assert found.object_share.value[0] < 0.15
    assert found.systematic.value[0] == pytest.approx(0.25, abs=0.01)
    assert found.residual.value[0] == pytest.approx(0, abs=1e-12)


def test_a_negative_component_is_no_share():
    halves = np.random.default_rng(0).permuted(np.tile([0, 1, 0, 1], (60, 1)), axis=1)
    found = variance_components(Copies(np.broadcast_to(halves, (1, 5, 60, 4))), seed=0)
    assert found.object.value[0] < -0.05  # objects are more alike than their views allow
    for name, exact in (("object_share", 0), ("view_share", 1)):
        held = getattr(found, name)
        assert (held.value[0], held.low[0], held.high[0]) == (exact, exact, exact)


def test_the_components_are_those_of_the_sums_of_squares_written_out():
    rng = np.random.default_rng(4)
    N, K, M = 3, 7, 4
    x = (rng.random((N, K, M)) < rng.random((1, K, M))).astype(float)

    def effect(*kept):
        """Of a set of factors: their mean less all effects within it."""
        mean = x.mean(tuple(axis for axis in range(3) if axis not in kept), keepdims=True)
        for size in range(len(kept)):
            for inner in ([()], [(k,) for k in kept], [kept[:2], kept[1:], kept[::2]])[size]:
                mean = mean - effects[inner]
        return mean

    effects = {}
    for kept in [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]:
        effects[kept] = effect(*kept)
    square = {}
    for kept, values in effects.items():
        freedom = np.prod([x.shape[axis] - 1 for axis in kept])
        square[kept] = np.square(np.broadcast_to(values, x.shape)).sum() / freedom
    c, o, v, co, cv, ov, e = (
        square[k] for k in [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    )
    exact = {
        "object": (o - co - ov + e) / (N * M),
        "view": (v - cv - ov + e) / (N * K) + (ov - e) / N,
        "copy": (c - co - cv + e) / (M * K),
        "copy_object": (co - e) / M,
        "residual": e,
    }
    found = variance_components(Copies(x[None]), seed=0)
    for name in NAMES:
        assert getattr(found, name).value[0] == pytest.approx(exact[name], rel=1e-9, abs=1e-12)
    whole = exact["object"] + exact["view"]
    assert found.systematic.value[0] == pytest.approx(whole, rel=1e-9)
    assert found.object_share.value[0] == pytest.approx(max(exact["object"], 0) / whole, rel=1e-9)


def test_one_augmentation_does_not_tell_objects_from_views():
    rng = np.random.default_rng(5)
    copies = planted(rng, 150, 4, 20, 1, 0.1, 0.08)
    found = variance_components(copies, seed=0)
    assert within_four_errors(found.systematic.value, 0.0164)
    for name in ("object", "view", "object_share", "view_share", "copy_object"):
        assert np.isnan(getattr(found, name).value).all()


def test_one_copy_does_not_tell_anything_from_noise():
    copies = planted(np.random.default_rng(6), 1, 1, 20, 3, 0.1, 0.0)
    found = variance_components(copies, seed=0)
    for name, held in vars(found).items():
        assert np.isnan(held.value).all(), name


def test_the_interval_holds_the_share_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    copies = planted(rng, 60, 8, 100, 4, 0.16, 0.12)
    held = variance_components(copies, seed=0).object_share
    exact = 0.16**2 / (0.16**2 + 0.12**2)
    inside = (held.low <= exact) & (exact <= held.high)
    assert inside.mean() > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 60)
    assert (held.high - held.low).max() < 0.5


@pytest.mark.parametrize("right", [False, True])
def test_without_any_variance_there_is_no_share(right):
    found = variance_components(Copies(np.full((1, 3, 5, 2), right)), seed=0)
    assert found.object.value[0] == 0
    assert np.isnan(found.object_share.value[0])
    assert np.isnan(found.view_share.value[0])


def test_a_confidence_that_is_no_probability_is_refused():
    with pytest.raises(RequestError, match="confidence"):
        variance_components(Copies(np.eye(3)[None]), confidence=95, seed=0)
