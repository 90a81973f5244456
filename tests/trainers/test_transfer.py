import json
import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.execution import train
from landscape.trainers.family import load_family
from landscape.trainers.gradients import Trial
from landscape.trainers.making import Making, Place
from landscape.trainers.orders import child_seed
from landscape.trainers.transfer import Transfer, TransferOptions, transfer

SHORT = {
    "pretrain_epochs": 1,
    "epochs": 2,
    "num_examples": 40,
    "num_members": 3,
    "num_scratch": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _no_recording():
    # To trace a graph takes longer than the few steps of these tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
        # Which members share a graph is else chosen by a clock, and other graphs round otherwise.
        patch.setattr(
            "landscape.trainers.training.choose_chunk", lambda stack, *_: Trial({len(stack): 0.0})
        )
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Of one family under construction, so that its pre-training is done once and read then.
    folder = tmp_path_factory.mktemp("making")
    (folder / ".state").mkdir()
    return folder


@pytest.fixture
def make(folder):
    return Making(folder, "deep-ensemble", {}, "", Place())


def notes(family):
    with h5py.File(family.folder / "family.h5") as file:
        return json.loads(file.attrs["notes"])


def ground(make, **options) -> Transfer:
    return transfer(TransferOptions(**{**SHORT, **options}), make)


def test_only_the_head_is_new_and_each_member_has_its_own(make):
    found = ground(make)
    seeds = found.seeds(1, 2)
    stack = found.networks(seeds, [0, 0])
    start = found.starts.member(0)
    models = [stack.member(index) for index in range(2)]
    names = [name for name, _ in start.named_parameters()]
    for name in names[:-2]:
        for model in models:
            assert torch.equal(model.get_parameter(name), start.get_parameter(name))
    for name in names[-2:]:
        first, second = (model.get_parameter(name) for model in models)
        assert first.shape[0] == 5
        assert start.get_parameter(name).shape[0] == 10
        assert not torch.equal(first, second)


def test_the_head_is_found_by_its_shape_and_running_statistics_come_along(make):
    problem = make.problem("digits", "resnet8")
    starts = make.networks(problem, [0])
    for tensor in starts.buffers.values():
        tensor.add_(1)
    found = ground(make)
    target = replace(found.problem.model, path=problem.model.path)
    target = replace(target, arguments={**problem.model.arguments, "num_classes": 5})
    found = replace(found, starts=starts, problem=replace(found.problem, model=target))
    old, new = starts.member(0).state_dict(), found.networks([7], [0]).member(0).state_dict()
    changed = {tuple(new[name].shape) for name in new if not torch.equal(new[name], old[name])}
    assert changed == {(5, 64), (5,)}


def test_equal_labels_keep_the_head(make):
    found = ground(make, target_modulus=0)
    assert torch.equal(found.networks([7, 8], [0, 0]).theta, found.starts.theta[[0, 0]])


def test_the_target_is_a_balanced_few_with_coarser_labels_and_the_whole_test_split(make):
    found = ground(make)
    counts = found.problem.train.targets.bincount()
    assert counts.sum() == 40
    assert (counts - 8).abs().max() <= 1  # 0 and 5 are a little rarer than 1 and 6
    assert len(found.problem.evaluations["test"]) == 359
    assert found.problem.evaluations["test"].targets.max() == 4
    assert found.problem.info.num_classes == 5


def test_seeds_of_one_purpose_are_those_of_no_other(make):
    found = ground(make)
    seeds = [seed for purpose in range(5) for seed in found.seeds(purpose, 50)]
    assert len(set(seeds)) == 250
    assert found.seeds(1, 2) == [child_seed(0, 1, index) >> 1 for index in range(2)]
    assert max(seeds) < 2**63  # they are kept as signed numbers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modulus": 10}, "target_modulus=10 does not fit digits, which has 10 classes"),
        ({"target_modulus": 1}, "target_modulus=1"),
        ({"num_examples": 5000}, "num_examples=5000"),
    ],
)
def test_a_target_that_is_none_is_refused(make, options, message):
    with pytest.raises(RequestError, match=message):
        ground(make, **options)


def test_two_classes_have_no_coarser_task(tmp_path):
    with pytest.raises(RequestError, match="target_modulus=5 does not fit ticks"):
        train("deep-ensemble", tmp_path / "out", data="ticks", model="tick-mlp", **SHORT)


@pytest.mark.slow
def test_two_classes_and_one_logit_can_be_transferred_with_equal_labels(tmp_path):
    options = {**SHORT, "data": "ticks", "model": "tick-mlp", "target_modulus": 0}
    family = train("deep-ensemble", tmp_path / "out", **options)
    ensemble = family.group("ensemble")
    assert 0 <= ensemble["ensemble_test_accuracy"] <= 1


# --- what every recipe keeps; deep-ensemble stands for all ---


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return train("deep-ensemble", tmp_path_factory.mktemp("transfer") / "out", **SHORT)


def test_members_and_soup_are_kept_with_their_roles_and_distances(family):
    table = family.members.set_index("name")
    roles = ["start", "model 1", "member", "member", "soup"]
    assert table["role"].tolist() == roles
    assert table.loc["model-1", ["distance", "angle", "barrier"]].tolist() == [0, 0, 0]
    checkpoints = {path.stem: path for path in family}
    weights = {}
    for name in ("model-1", "model-2", "model-3", "soup"):
        state = torch.load(checkpoints[name], weights_only=True)["state_dict"]
        weights[name] = torch.cat([tensor.flatten().double() for tensor in state.values()])
    for name in ("model-2", "soup"):
        expected = (weights[name] - weights["model-1"]).norm().item()
        assert table.loc[name, "distance"] == pytest.approx(expected, rel=1e-6)
    mean = sum(weights[f"model-{i}"] for i in (1, 2, 3)) / 3
    torch.testing.assert_close(weights["soup"], mean, rtol=0, atol=1e-6)


def test_the_record_agrees_with_the_members(family):
    ensemble, table = family.group("ensemble"), family.members.set_index("name")
    for name in ("test_accuracy", "train_loss", "distance", "barrier"):
        expected = table.loc[ensemble["network"].values, name]
        np.testing.assert_array_equal(ensemble[name].values, expected)
    assert ensemble["soup_test_loss"] == table.loc["soup", "test_loss"]
    assert ensemble["ensemble_test_loss"] <= table.loc["model-1":"model-3", "test_loss"].mean()


def test_fine_tuning_is_compared_with_training_from_scratch(family):
    curves = family.group("curves/fine-tuning")
    last = curves["test_accuracy"].values[-1]
    assert curves["member"].values.tolist() == [
        "fine-tuned-1", "fine-tuned-2", "fine-tuned-3", "scratch-1"
    ]  # fmt: skip
    note = notes(family)[0]
    verdict = "wins over" if last[:3].mean() > last[3] else "DOES NOT win over"
    assert note.startswith(f"fine-tuning {verdict} training from scratch")
    assert f"{last[:3].mean():.4f} (n=3) against {last[3]:.4f} (n=1)" in note


def test_a_family_can_be_gone_on_with_and_the_target_is_named_in_its_checkpoints(family, tmp_path):
    start = str(family.folder / "start-1.pt")
    again = train("deep-ensemble", tmp_path / "out", start=start, **SHORT)
    for name in ("model-1.pt", "model-3.pt"):
        first, second = (
            torch.load(one.folder / name, weights_only=True)["state_dict"]
            for one in (family, again)
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert "start" not in set(again.members["role"])


@pytest.mark.slow
def test_a_seed_repeats_bit_for_bit_in_equal_graphs_and_another_does_not(family, tmp_path):
    torch.manual_seed(3)
    again = train("deep-ensemble", tmp_path / "again", **SHORT)
    other = train("deep-ensemble", tmp_path / "other", seed=1, **SHORT)
    states = [
        torch.load(one.folder / "model-2.pt", weights_only=True)["state_dict"]
        for one in (family, again, other)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not any(torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_full_batch_children_are_clones_and_a_note_says_so(tmp_path):
    family = train("star-sse", tmp_path / "out", batch_size=40, **SHORT)
    assert [note for note in notes(family) if note.startswith("CLONES: model-2 and model-3")]
    # One file holds both.
    assert len(set(family.members.query("role == 'member'")["file"])) == 1


def test_children_that_see_their_own_batches_are_no_clones(tmp_path):
    family = train("star-sse", tmp_path / "out", **{**SHORT, "batch_size": 16})
    assert not [note for note in notes(family) if "CLONES" in note]
    assert len(set(family.members.query("role == 'member'")["file"])) == 2


def test_a_fine_tuning_that_diverges_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"diverged: .* learning_rate=1e\+30. Lower it"):
        train("star-sse", tmp_path / "out", learning_rate=1e30, **SHORT)


def test_a_diverged_member_is_named_and_the_others_are_kept(tmp_path):
    family = train("star-sse", tmp_path / "out", lr_ratio=1e30, **SHORT)
    assert "DIVERGED: the weights of model-2 are not finite" in " ".join(notes(family))
    assert sorted(path.stem for path in family) == ["model-1", "start-1"]


@pytest.mark.slow
def test_an_interrupted_recipe_goes_on_where_it_stopped(family, tmp_path):
    class Interrupted(Exception):  # noqa: N818
        pass

    def stop(phase, done, total, words):
        if phase == "fine-tuning":
            raise Interrupted

    with pytest.raises(Interrupted):
        train("deep-ensemble", tmp_path / "out", progress=stop, **SHORT)
    phases = []
    train("deep-ensemble", tmp_path / "out", progress=lambda *a: phases.append(a[0]), **SHORT)
    assert set(phases) == {"fine-tuning"}
    found = load_family(tmp_path / "out").group("ensemble")
    assert found.equals(family.group("ensemble"))


@pytest.mark.slow
def test_starts_of_two_data_sets_are_refused(family, tmp_path):
    other = train("deep-ensemble", tmp_path / "other", **{**SHORT, "num_examples": 20})
    start = ",".join(str(one.folder / "model-1.pt") for one in (family, other))
    with pytest.raises(RequestError, match="networks of 2 data sets"):
        train("deep-ensemble", tmp_path / "out", start=start, target_modulus=0, num_examples=20)


def test_the_diversity_of_perfect_members_is_not_a_number_but_recorded(family):
    # Few-shot training examples are learnt without an error, so their diversity is 0 / 0.
    ensemble = family.group("ensemble")
    value = float(ensemble["train_diversity"])
    assert math.isnan(value) or value >= 0
