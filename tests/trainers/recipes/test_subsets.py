import numpy as np
import pytest
import torch

from landscape.checkpoint import build_model, read_checkpoint
from landscape.errors import RequestError
from landscape.trainers.data.catalogue import examples
from landscape.trainers.examples import Examples
from landscape.trainers.execution import train
from landscape.trainers.orders import Orders

SMALL = {
    "data": "prototypes",
    "num_examples": 50,
    "num_subsets": 6,
    "ratio": 0.6,
    "epochs": 30,
    "batch_size": 10,
    "label_noise": 0.2,
    "chunk": 6,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return train("subsets", tmp_path_factory.mktemp("subsets"), **SMALL)


def test_each_member_has_its_share_and_each_example_its_members(family):
    recorded = family.group("subsets/train")
    mask = recorded.mask.values
    assert mask.shape == (6, 50)
    assert mask.dtype == np.uint8
    assert (mask.sum(1) == 30).all()
    assert mask.sum(0).max() - mask.sum(0).min() <= 1  # balanced
    assert len(np.unique(mask, axis=0)) == 6


def test_a_checkpoint_names_the_very_examples_that_it_was_trained_on(family):
    mask = torch.from_numpy(family.group("subsets/train").mask.values).bool()
    whole = {**read_checkpoint(family[0]).data.arguments}
    del whole["subset"]
    inputs, labels = examples(**whole)
    for row, path in zip(mask, family, strict=True):
        own_inputs, own_labels = read_checkpoint(path).data()
        assert torch.equal(own_inputs, inputs[row])
        assert torch.equal(own_labels, labels[row])


def test_the_recorded_outcomes_are_those_of_the_checkpoints_on_all_examples(family):
    recorded, unseen = family.group("subsets/train"), family.group("subsets/test")
    whole = {**read_checkpoint(family[0]).data.arguments}
    del whole["subset"]
    sets = {"train": examples(**whole), "test": examples("prototypes", "test")}
    for index, path in enumerate(family):
        network = build_model(read_checkpoint(path)).eval()
        for found, (inputs, labels) in zip((recorded, unseen), sets.values(), strict=True):
            with torch.no_grad():
                logits = network(inputs)
            right = (logits.argmax(1) == labels).numpy()
            assert np.array_equal(found.correct.values[index], right)
            probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
            np.testing.assert_allclose(found.probability[index], probability, rtol=1e-4, atol=1e-6)
            assert np.array_equal(found.margin.values[index] > 0, right)
            assert np.array_equal(found.label, labels)


def test_accuracies_tell_seen_examples_from_those_held_out(family):
    recorded = family.group("subsets/train")
    inside = recorded.mask.values.astype(bool)
    for index, row in family.members.iterrows():
        correct = recorded.correct.values[index]
        assert row["train_accuracy"] == correct[inside[index]].mean()
        assert row["held_out_accuracy"] == correct[~inside[index]].mean()
        assert read_checkpoint(family[index]).metrics["train_accuracy"] == row["train_accuracy"]
    assert family.members["train_accuracy"].mean() > family.members["held_out_accuracy"].mean()


def test_an_example_outside_a_members_mask_never_enters_its_batches(family):
    mask = torch.from_numpy(family.group("subsets/train").mask.values).bool()
    subsets = mask.nonzero()[:, 1].view(6, -1)
    orders = Orders(family.members["seed"].tolist(), 50, 10, subsets)
    seen = torch.zeros_like(mask, dtype=torch.int64)
    for step in range(2 * orders.steps_per_epoch):
        seen.scatter_add_(1, orders.batch(step)[0], torch.ones(6, 10, dtype=torch.int64))
    assert torch.equal(seen, 2 * mask.long())  # and every one inside, once an epoch


@pytest.mark.parametrize("member", [0, 4])
def test_what_a_member_does_not_see_makes_no_difference_to_it(
    family, member, monkeypatch, tmp_path
):
    """Ruin every example outside the member's mask: it must come out the same, others not."""
    from landscape.trainers.recipes import subsets as recipe

    mask = torch.from_numpy(family.group("subsets/train").mask.values).bool()
    honest = recipe.problem_of

    def ruined(*arguments, **named):
        made = honest(*arguments, **named)
        inputs = torch.where(mask[member][:, None], made.train.inputs, torch.tensor(9.0))
        train_set = Examples(inputs, made.train.targets)
        return recipe.replace(
            made, train=train_set, evaluations={**made.evaluations, "train": train_set}
        )

    monkeypatch.setattr(recipe, "problem_of", ruined)
    again = train("subsets", tmp_path, **SMALL)
    same = []
    for one, other in zip(family, again, strict=True):
        first, second = read_checkpoint(one).state_dict, read_checkpoint(other).state_dict
        same.append(all(torch.equal(first[name], second[name]) for name in first))
    assert same == [index == member for index in range(6)]


def test_wrong_labels_are_marked_and_test_labels_are_left_alone(family):
    recorded = family.group("subsets/train")
    true = examples("prototypes", num_examples=50)[1].numpy()
    assert recorded.label_is_wrong.values.sum() == 10  # a fifth of 50, exactly
    assert np.array_equal(recorded.label.values != true, recorded.label_is_wrong.values == 1)
    assert np.array_equal(family.group("subsets/test").label, examples("prototypes", "test")[1])


def test_hashes_tell_one_set_of_labels_from_another(family, tmp_path):
    short = {**SMALL, "epochs": 1}
    clean = train("subsets", tmp_path / "clean", **{**short, "label_noise": 0.0})
    noisy = train("subsets", tmp_path / "noisy", **short)
    named = [made.group("subsets/train").attrs for made in (family, noisy, clean)]
    assert named[0]["label_hash"] == named[1]["label_hash"] != named[2]["label_hash"]
    assert len({attributes["example_hash"] for attributes in named}) == 1
    assert named[0]["convention"] == "size-matched"


def test_a_seeded_run_repeats_bit_for_bit(family, tmp_path):
    again = train("subsets", tmp_path, **SMALL)
    for name in ("subsets/train", "subsets/test"):
        assert family.group(name).equals(again.group(name))


def test_leaving_one_out_leaves_another_one_out_each_time(tmp_path):
    made = train("subsets", tmp_path, **{**SMALL, "design": "loo", "epochs": 1})
    mask = made.group("subsets/train").mask.values
    assert (mask.sum(1) == 49).all()
    assert len(np.unique(mask.argmin(1))) == 6
    assert len(read_checkpoint(made[2]).data()[1]) == 49
    assert "44 of 50 examples are in all subsets" in made.notes[0]


def test_without_checkpoints_all_that_was_recorded_stays(tmp_path):
    made = train("subsets", tmp_path, **{**SMALL, "keep_checkpoints": False, "epochs": 1})
    assert len(made) == 1
    assert made.group("subsets/train").sizes["member"] == 6
    assert "--no-keep-checkpoints" in made.command


@pytest.mark.parametrize("ratio", [0.001, 1.5])
def test_subsets_that_are_empty_or_too_large_are_refused(ratio, tmp_path):
    with pytest.raises(RequestError, match="ratio"):
        train("subsets", tmp_path, **{**SMALL, "ratio": ratio})
