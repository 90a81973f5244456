import numpy as np
import pytest
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.copies.classes import class_learnability
from landscape.probes.copies.copies import Copies
from landscape.probes.copies.variance import variance_components


def planted(rng, times, of_class, of_object, copies=5, sizes=(12, 10, 14, 8), views=2):
    """Classes of these effects, objects of this standard deviation within them."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    own = rng.uniform(-1, 1, (times, 1, len(labels), 1)) * np.sqrt(3) * of_object
    probability = 0.5 + np.asarray(of_class)[labels][:, None] + own
    return Copies(rng.random((times, copies, len(labels), views)) < probability, labels=labels)


def measured(copies, **named):
    systematic = variance_components(copies, seed=0).systematic.value
    return class_learnability(copies, systematic, seed=1, **named)


def test_the_mean_of_each_class_has_students_interval():
    copies = planted(np.random.default_rng(0), 2, [0.2, -0.2, 0.1, 0.0], 0.1)
    found = measured(copies)
    assert found.classes.tolist() == [0, 1, 2, 3]
    assert found.num_objects.tolist() == [12, 10, 14, 8]
    for index, label in enumerate(found.classes):
        own = copies.learnability[1, copies.labels == label]
        assert found.learnability.value[1, index] == pytest.approx(own.mean(), rel=1e-12)
        low, high = stats.t.interval(0.95, len(own) - 1, own.mean(), stats.sem(own))
        assert found.learnability.low[1, index] == pytest.approx(low, rel=1e-9)
        assert found.learnability.high[1, index] == pytest.approx(min(high, 1), rel=1e-9)


def test_no_interval_leaves_the_shares_between_zero_and_one():
    correct = np.ones((1, 3, 8))
    correct[0, 0, :3], correct[0, :, 4:], correct[0, 0, 4:6] = 0, 0, 1
    found = class_learnability(Copies(correct, labels=[0] * 4 + [1] * 4), np.ones(1), seed=0)
    value, low, high = (getattr(found.learnability, name)[0] for name in ("value", "low", "high"))
    assert 2 * value[0] - low[0] > 1
    assert high[0] == 1
    assert 2 * value[1] - high[1] < 0
    assert low[1] == 0


def test_labels_that_do_not_occur_have_no_class():
    correct = np.random.default_rng(0).random((1, 3, 4)) < 0.5
    found = class_learnability(Copies(correct, labels=[7, 2, 7, 2]), np.ones(1), seed=0)
    assert found.classes.tolist() == [2, 7]


def test_a_class_of_one_object_has_no_interval():
    correct = np.random.default_rng(0).random((1, 3, 5)) < 0.5
    found = class_learnability(Copies(correct, labels=[0, 1, 0, 0, 0]), np.ones(1), seed=0)
    assert np.isfinite(found.learnability.value).all()
    assert np.isnan(found.learnability.low[0]).tolist() == [False, True]


def test_the_variance_between_classes_is_found_without_bias():
    effects = np.array([0.15, -0.15, 0.1, 0.0])
    copies = planted(np.random.default_rng(1), 300, effects, 0.1)
    found = class_learnability(copies, np.ones(300), seed=0).variance
    sizes = np.array([12, 10, 14, 8])
    centered = effects - (effects * sizes).sum() / sizes.sum()
    exact = (sizes * centered**2).sum() / (sizes.sum() - 1)
    assert abs(found.mean() - exact) < 4 * found.std(ddof=1) / np.sqrt(300)


def test_unequal_objects_make_no_classes():
    copies = planted(np.random.default_rng(4), 300, [0, 0, 0, 0], 0.25)
    found = class_learnability(copies, np.ones(300), seed=0).variance
    assert abs(found.mean()) < 4 * found.std(ddof=1) / np.sqrt(300)


def test_a_copys_own_preference_for_a_class_is_no_classes_hardness():
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(4), 10)
    preferred = rng.uniform(0.1, 0.9, (300, 5, 4))[:, :, labels, None]
    copies = Copies(rng.random((300, 5, 40, 2)) < preferred, labels=labels)
    found = class_learnability(copies, np.ones(300), seed=0).variance
    assert abs(found.mean()) < 4 * found.std(ddof=1) / np.sqrt(300)


def test_shares_of_what_only_the_class_or_only_the_object_decides():
    labels = np.repeat([0, 1], 20)
    by_class = np.broadcast_to((labels == 1)[:, None], (1, 4, 40, 3))
    found = measured(Copies(by_class, labels=labels))
    assert found.share[0] == pytest.approx(1, rel=1e-9)
    assert found.p_value[0] < 0.01
    by_object = np.broadcast_to((np.arange(40) % 2 == 1)[:, None], (1, 4, 40, 3))
    found = measured(Copies(by_object, labels=labels))
    assert found.share[0] == 0
    assert found.p_value[0] > 0.5


def test_permutation_is_calibrated_where_labels_mean_nothing():
    copies = planted(np.random.default_rng(3), 200, [0, 0, 0, 0], 0.1)
    found = class_learnability(copies, np.ones(200), seed=0).p_value
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("labels", [np.zeros(6, int), np.arange(6)])
def test_one_class_or_as_many_as_objects_explain_nothing(labels):
    correct = np.random.default_rng(0).random((2, 3, 6)) < 0.5
    found = class_learnability(Copies(correct, labels=labels), np.ones(2), seed=0)
    assert np.isnan(found.variance).all()
    assert np.isnan(found.share).all()


def test_where_all_objects_are_alike_there_is_no_p_value():
    copies = Copies(np.ones((1, 3, 6)), labels=[0, 1] * 3)
    assert np.isnan(class_learnability(copies, np.zeros(1), seed=0).p_value[0])
    assert np.isnan(class_learnability(copies, np.zeros(1), seed=0).share[0])


def test_copies_without_labels_are_refused():
    with pytest.raises(RequestError, match="no labels"):
        class_learnability(Copies(np.eye(3)[None]), np.ones(1), seed=0)
    copies = Copies(np.eye(3)[None], labels=[0, 1, 1])
    with pytest.raises(RequestError, match="confidence"):
        class_learnability(copies, np.ones(1), confidence=1.0, seed=0)
