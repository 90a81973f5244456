import numpy as np
import pytest
import torch

from landscape.checkpoint import build_model, read_checkpoint
from landscape.trainers.data.catalogue import examples
from landscape.trainers.execution import train

SMALL = {
    "num_examples": 60,
    "num_copies": 3,
    "epochs": 30,
    "flat_epochs": 20,
    "batch_size": 30,
    "num_objects": 60,
    "record_every": 15,
    "chunk": 3,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return train("random-labels", tmp_path_factory.mktemp("random"), **SMALL)


def test_all_copies_learn_one_and_the_same_permutation_of_the_labels(family):
    true_inputs, true_labels = examples("prototypes", num_examples=60)
    data = [read_checkpoint(path).data() for path in family]
    for inputs, labels in data:
        assert torch.equal(inputs, true_inputs)
        assert torch.equal(labels, data[0][1])
    labels = data[0][1]
    assert torch.equal(labels.bincount(), true_labels.bincount())  # class balance is kept
    assert (labels == true_labels).double().mean() < 0.4


def test_answers_are_held_against_the_permuted_labels(family):
    recorded = family.group("learnability/training")
    checkpoint = read_checkpoint(family[1])
    inputs, labels = checkpoint.data()
    assert recorded.label.values.tolist() == labels.tolist()
    assert (
        recorded.true_label.values.tolist()
        == examples(num_examples=60, name="prototypes")[1].tolist()
    )
    with torch.no_grad():
        right = build_model(checkpoint).eval()(inputs).argmax(1) == labels
    assert np.array_equal(recorded.correct.values[-1, 1, :, 0], right.numpy())


def test_the_copies_come_to_know_labels_that_say_nothing(family):
    recorded = family.group("learnability/training")
    assert recorded.mean_learnability[0] < 0.3
    assert recorded.mean_learnability[-1] > 0.9
    # Beyond what they have seen, they guess.
    assert (family.members["test_accuracy"] < 0.25).all()


def test_without_augmentation_each_object_has_one_view(family):
    recorded = family.group("learnability/training")
    assert dict(recorded.sizes) == {"time": 3, "member": 3, "object": 60, "augmentation": 1}


def test_with_augmentation_each_object_has_its_fixed_views(tmp_path):
    made = train(
        "random-labels", tmp_path,
        **{**SMALL, "augment": "mask", "num_augmentations": 4, "epochs": 2},
    )  # fmt: skip
    assert made.group("learnability/training").sizes["augmentation"] == 4


def test_another_seed_is_another_permutation_and_the_same_seed_the_same(family, tmp_path):
    labels = []
    for seed in (0, 1):
        made = train("random-labels", tmp_path / str(seed), **{**SMALL, "epochs": 1, "seed": seed})
        labels.append(read_checkpoint(made[0]).data()[1])
    assert torch.equal(labels[0], read_checkpoint(family[0]).data()[1])
    assert not torch.equal(labels[0], labels[1])
