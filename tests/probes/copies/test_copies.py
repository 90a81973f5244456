import numpy as np
import pytest
import torch
import xarray as xr

from landscape.errors import RequestError
from landscape.probes.copies.copies import Copies

RNG = np.random.default_rng(0)
CORRECT = RNG.random((3, 4, 5, 2)) < 0.6


def recorded(**changed):
    return xr.Dataset(
        {
            "correct": (("time", "member", "object", "augmentation"), CORRECT.astype(np.int8)),
            "label": ("object", [1, 0, 1, 2, 0]),
            "diverged": ("member", changed.get("diverged", [0, 0, 1, 0])),
        },
        {"epoch": ("time", [0.0, 2.0, 3.0]), "object": ("object", [3, 7, 8, 20, 21])},
        {"chance": 0.1},
    )


def test_the_shares_are_means_over_copies_and_augmentations():
    copies = Copies(CORRECT)
    by_hand = np.zeros((3, 5))
    for t, i, k, j in np.ndindex(*CORRECT.shape):
        by_hand[t, k] += CORRECT[t, i, k, j] / 8
    np.testing.assert_allclose(copies.learnability, by_hand, rtol=1e-12)
    np.testing.assert_allclose(copies.view_learnability.mean(2), by_hand, rtol=1e-12)
    np.testing.assert_allclose(copies.copy_learnability.mean(1), by_hand, rtol=1e-12)
    np.testing.assert_allclose(copies.mean_learnability, by_hand.mean(1), rtol=1e-12)
    assert copies.view_learnability[1, 2, 1] == CORRECT[1, :, 2, 1].mean()
    assert copies.copy_learnability[1, 3, 2] == CORRECT[1, 3, 2].mean()


def test_the_standard_error_is_that_of_the_copies_accuracies():
    accuracy = CORRECT.mean((2, 3))
    expected = [np.std(row, ddof=1) / 2 for row in accuracy]
    np.testing.assert_allclose(Copies(CORRECT).standard_error, expected, rtol=1e-12)
    assert np.isnan(Copies(CORRECT[:, :1]).standard_error).all()


def test_without_augmentations_each_object_has_one_view():
    copies = Copies(torch.from_numpy(CORRECT[..., 0]))
    assert copies.correct.shape == (3, 4, 5, 1)
    assert (copies.num_times, copies.num_copies) == (3, 4)
    assert (copies.num_objects, copies.num_augmentations) == (5, 1)
    assert copies.times.tolist() == [0, 1, 2]
    assert np.isnan(copies.chance)


def test_one_view_keeps_everything_else():
    copies = Copies(CORRECT, labels=[0, 1, 0, 1, 2], chance=0.25, times=[1, 2, 4], num_dropped=2)
    view = copies.view(1)
    assert np.array_equal(view.correct[..., 0], CORRECT[..., 1])
    assert view.labels.tolist() == [0, 1, 0, 1, 2]
    assert (view.chance, view.times.tolist(), view.num_dropped) == (0.25, [1, 2, 4], 2)
    with pytest.raises(RequestError, match="augmentation=2"):
        copies.view(2)


def test_a_copy_that_diverged_is_dropped_unless_it_is_asked_for():
    copies = Copies.of(recorded())
    assert np.array_equal(copies.correct, CORRECT[:, [0, 1, 3]])
    assert copies.num_dropped == 1
    assert copies.times.tolist() == [0, 2, 3]
    assert copies.objects.tolist() == [3, 7, 8, 20, 21]
    assert copies.labels.tolist() == [1, 0, 1, 2, 0]
    assert copies.chance == 0.1
    kept = Copies.of(recorded(), diverged="wrong")
    assert np.array_equal(kept.correct, CORRECT)
    assert kept.num_dropped == 0


def test_the_order_of_a_datasets_dimensions_does_not_matter():
    turned = recorded().transpose("object", "augmentation", "member", "time")
    assert np.array_equal(Copies.of(turned).correct, Copies.of(recorded()).correct)


@pytest.mark.parametrize(
    ("dataset", "named", "words"),
    [
        (recorded(diverged=[1, 1, 1, 1]), {}, "all 4 copies diverged"),
        (recorded().rename(correct="right"), {}, "the dataset has correct"),
        (recorded().isel(member=0), {}, "expected correct"),
        (recorded(), {"diverged": "dropped"}, "Did you mean 'drop'"),
    ],
)
def test_a_dataset_that_says_nothing_is_refused(dataset, named, words):
    with pytest.raises(RequestError, match=words):
        Copies.of(dataset, **named)


@pytest.mark.parametrize(
    ("correct", "named", "words"),
    [
        (np.full((1, 2, 3), 0.5), {}, "other values than 0 and 1"),
        (np.zeros((2, 3)), {}, "shape"),
        (np.zeros((2, 0, 3)), {}, "at least one time"),
        (CORRECT, {"times": [0, 1]}, "times is"),
        (CORRECT, {"times": [0, 2, 1]}, "increasing"),
        (CORRECT, {"labels": [0, 1]}, "labels has 2 entries"),
        (CORRECT, {"objects": [0, 1, 2, 3, 3]}, "Draw objects without replacement"),
        (CORRECT, {"chance": 1.5}, "chance=1.5"),
    ],
)
def test_what_does_not_fit_is_refused(correct, named, words):
    with pytest.raises(RequestError, match=words):
        Copies(correct, **named)


def test_what_was_given_is_not_shared():
    given = CORRECT.copy()
    copies = Copies(given)
    given[:] = True
    assert np.array_equal(copies.correct, CORRECT)
