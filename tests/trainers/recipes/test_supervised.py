import numpy as np
import pytest
import torch

from landscape.checkpoint import build_model, read_checkpoint
from landscape.trainers.augment import augmentation
from landscape.trainers.data.catalogue import examples
from landscape.trainers.examples import Examples
from landscape.trainers.execution import train
from landscape.trainers.learnability import fixed_views
from landscape.trainers.making import Making

SMALL = {
    "num_examples": 60,
    "num_copies": 3,
    "epochs": 6,
    "flat_epochs": 2,
    "batch_size": 25,  # a ragged last batch of 10
    "num_objects": 20,
    "num_augmentations": 3,
    "record_every": 2,
    "chunk": 3,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return train("supervised", tmp_path_factory.mktemp("supervised"), **SMALL)


def test_the_recorded_answers_are_those_of_the_checkpoints_on_views_drawn_from_the_seed(family):
    recorded = family.group("learnability/training")
    mask = augmentation("mask", (64,))
    views = fixed_views(
        Examples(*examples("prototypes", num_examples=60)), mask, num_uniforms=mask.num_uniforms,
        num_objects=20, num_augmentations=3, seed=0,
    )  # fmt: skip
    assert recorded.label.values.tolist() == views.labels.tolist()
    for copy, path in enumerate(family):
        network = build_model(read_checkpoint(path)).eval()
        with torch.no_grad():
            right = network(views.examples.inputs).argmax(1) == views.examples.targets
        assert np.array_equal(recorded.correct.values[-1, copy].flatten(), right.numpy())


def test_records_are_made_where_they_were_asked_for(family):
    recorded = family.group("learnability/training")
    assert recorded.epoch.values.tolist() == [0, 2, 4, 6]
    assert dict(recorded.sizes) == {"time": 4, "member": 3, "object": 20, "augmentation": 3}
    assert recorded.attrs["chance"] == 0.1
    assert recorded.attrs["augment"] == "mask"


def test_objects_are_learnt_and_the_copies_do_not_agree_on_all_of_them(family):
    recorded = family.group("learnability/training")
    assert recorded.mean_learnability[-1] > recorded.mean_learnability[0] + 0.3
    assert len(np.unique(recorded.learnability.values[-1])) > 2


def test_copies_differ_in_their_weights_but_share_the_data(family):
    checkpoints = [read_checkpoint(path) for path in family]
    assert len({checkpoint.seed for checkpoint in checkpoints}) == 3
    assert len({str(checkpoint.data) for checkpoint in checkpoints}) == 1
    first, second = (checkpoint.state_dict for checkpoint in checkpoints[:2])
    assert not any(torch.equal(first[name], second[name]) for name in first if "weight" in name)


def test_a_copy_is_the_same_network_whatever_the_number_of_copies(family, tmp_path):
    fewer = train("supervised", tmp_path, **{**SMALL, "num_copies": 1, "chunk": 1})
    one, other = read_checkpoint(family[0]).state_dict, read_checkpoint(fewer[0]).state_dict
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_seeded_run_repeats_bit_for_bit(family, tmp_path):
    again = train("supervised", tmp_path, **SMALL)
    assert family.group("learnability/training").equals(again.group("learnability/training"))
    assert family.group("curves/training").test_loss.equals(
        again.group("curves/training").test_loss
    )


def test_a_run_that_was_killed_goes_on_to_the_same_records(family, tmp_path, monkeypatch):
    def killed(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Making, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            train("supervised", tmp_path, **SMALL)
    assert not (tmp_path / "family.h5").exists()
    again = train("supervised", tmp_path, **SMALL)
    assert family.group("learnability/training").equals(again.group("learnability/training"))
