import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.data.label_noise import noisy_labels

TARGETS = torch.arange(10_000) % 10
KINDS = ("uniform", "symmetric", "permuted")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.33337, 1.0])
def test_exactly_the_share_is_selected_and_only_those_change(kind, rate):
    noisy = noisy_labels(TARGETS, 10, kind, rate, seed=0)
    assert int(noisy.selected.sum()) == round(rate * 10_000)
    assert torch.equal(noisy.changed, noisy.labels != TARGETS)
    assert not (noisy.changed & ~noisy.selected).any()
    assert (noisy.labels.min(), noisy.labels.max()) == (0, 9)


def test_uniform_noise_keeps_a_share_of_true_labels():
    # rate (1 - 1/C) are wrong: the trap is to take the rate for it.
    noisy = noisy_labels(TARGETS, 10, "uniform", 0.5, seed=1)
    sigma = (5000 * 0.1 * 0.9) ** 0.5
    assert abs(int(noisy.changed.sum()) - 4500) < 3 * sigma


def test_symmetric_noise_never_keeps_a_label_and_takes_all_others_alike():
    noisy = noisy_labels(TARGETS, 10, "symmetric", 0.5, seed=2)
    assert torch.equal(noisy.changed, noisy.selected)
    shift = ((noisy.labels - TARGETS) % 10)[noisy.selected].bincount(minlength=10)[1:]
    sigma = (5000 / 9 * 8 / 9) ** 0.5
    assert (shift - 5000 / 9).abs().max() < 4 * sigma


def test_permuted_labels_keep_the_size_of_every_class():
    targets = TARGETS.clamp(max=4)  # uneven classes
    noisy = noisy_labels(targets, 5, "permuted", 0.7, seed=3)
    assert torch.equal(noisy.labels.bincount(), targets.bincount())
    share = targets.bincount() / 10_000
    expected = 0.7 * (1 - float(share.square().sum()))
    assert abs(float(noisy.changed.double().mean()) - expected) < 0.02


def test_a_seed_repeats_and_the_targets_stay():
    before = TARGETS.clone()
    first, again = (noisy_labels(TARGETS, 10, "uniform", 0.5, seed=4) for _ in range(2))
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(TARGETS, before)
    assert not torch.equal(first.selected, noisy_labels(TARGETS, 10, rate=0.5, seed=5).selected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "symetric"}, "Did you mean 'symmetric'"),
        ({"rate": 1.5}, "rate=1.5"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"num_classes": 9}, r"labels 0 \.\.\. 9, outside 0 \.\.\. 8"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"targets": torch.zeros(4, 2, dtype=torch.int64)}, r"shape \(4, 2\)"),
        ({"targets": torch.zeros(4)}, "float32"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_noise_that_cannot_be_drawn_says_why(arguments, message):
    with pytest.raises(RequestError, match=message):
        noisy_labels(**{"targets": TARGETS, "num_classes": 10, "seed": 0, **arguments})
