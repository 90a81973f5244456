import numpy as np
import pytest
import torch

from landscape.checkpoint import build_model, read_checkpoint
from landscape.errors import RequestError
from landscape.trainers.augment import augmentation
from landscape.trainers.contrastive import contrastive_correct
from landscape.trainers.data.catalogue import examples
from landscape.trainers.examples import Examples
from landscape.trainers.execution import train
from landscape.trainers.learnability import fixed_views

SMALL = {
    "num_examples": 48,
    "num_copies": 3,
    "epochs": 4,
    "flat_epochs": 1,
    "batch_size": 20,  # a ragged last batch of 8
    "num_objects": 24,
    "num_candidates": 12,
    "num_augmentations": 3,
    "dim": 16,
    "chunk": 3,
    "seed": 4,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return train("simclr", tmp_path_factory.mktemp("simclr"), **SMALL)


def test_the_recorded_answers_are_those_of_the_checkpoints_among_fixed_candidates(family):
    recorded = family.group("learnability/training")
    inputs, targets = examples("prototypes", num_examples=48)
    mask = augmentation("mask", (64,))
    views = fixed_views(
        Examples(inputs, targets), mask, num_uniforms=mask.num_uniforms, num_objects=24,
        num_augmentations=3, views=2, seed=4,
    )  # fmt: skip
    assert recorded.object.values.tolist() == views.objects.tolist()
    for copy, path in enumerate(family):
        network = build_model(read_checkpoint(path)).eval()
        with torch.no_grad():
            embeddings = network(views.examples.inputs.flatten(0, 1)).view(2, 12, 3, 2, 16)
        first, second = embeddings.transpose(1, 2).unbind(3)  # (2, 3, 12, 16)
        correct = contrastive_correct(first, second).transpose(1, 2).reshape(24, 3)
        assert np.array_equal(recorded.correct.values[-1, copy], correct.numpy())


def test_every_epoch_is_recorded_with_the_chance_of_the_candidates(family):
    recorded = family.group("learnability/training")
    assert recorded.epoch.values.tolist() == [0, 1, 2, 3, 4]
    assert dict(recorded.sizes) == {"time": 5, "member": 3, "object": 24, "augmentation": 3}
    assert recorded.attrs["chance"] == 1 / 23
    accuracy = family.group("curves/training").views_accuracy
    np.testing.assert_allclose(recorded.correct.mean(["object", "augmentation"]), accuracy)
    np.testing.assert_array_equal(
        recorded.correct.values.reshape(5, 3, -1),
        family.group("outcomes/training/views").correct,
    )


def test_training_brings_the_views_of_an_object_together(family):
    loss = family.group("curves/training").views_loss
    assert (loss[-1] < loss[0]).all()
    assert (family.group("outcomes/training/views").probability[-1] <= 1).all()


def test_a_checkpoint_names_the_contrastive_loss_which_labels_alone_cannot_give(family):
    checkpoint = read_checkpoint(family[0])
    assert checkpoint.loss == "nt_xent"
    assert checkpoint.model.arguments["num_classes"] == 16


def test_a_seeded_run_repeats_bit_for_bit(family, tmp_path):
    again = train("simclr", tmp_path, **SMALL)
    for one, other in zip(family, again, strict=True):
        first, second = read_checkpoint(one).state_dict, read_checkpoint(other).state_dict
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert family.group("learnability/training").equals(again.group("learnability/training"))


def test_another_seed_draws_other_objects_and_other_networks(family, tmp_path):
    other = train("simclr", tmp_path, **{**SMALL, "seed": 5, "epochs": 1})
    first, second = (f.group("learnability/training") for f in (family, other))
    assert first.object.values.tolist() != second.object.values.tolist()
    assert not set(family.members["seed"]) & set(other.members["seed"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"augment": "none"}, "augment='none'"),
        ({"num_candidates": 10}, "num_candidates=10 does not divide num_objects=24"),
        ({"num_objects": 60, "num_candidates": 60}, "num_objects=60 is not in 1 ... 48"),
        ({"augment": "simclr"}, "simclr"),
        ({"augment": "masks"}, "mask"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(changed, words, tmp_path):
    with pytest.raises(RequestError, match=words):
        train("simclr", tmp_path, **{**SMALL, **changed})
