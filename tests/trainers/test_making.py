"""What a recipe works with: shared files where weights are equal, phases that are done once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.claim import DivergedError, claimed
from landscape.trainers.family import INDEX, load_family
from landscape.trainers.making import Making, Member, Place
from landscape.trainers.training import Plan


@pytest.fixture
def make(tmp_path):
    (tmp_path / ".state").mkdir()
    return Making(tmp_path, "single", {"seed": 0}, "landscape train single", Place())


@pytest.fixture
def problem(make):
    return make.problem("ticks", "tick-mlp", num_examples=64)


def plan(stack, **options):
    settings = {"steps": 3, "batch_size": 16, "loss": "bce"} | options
    count = len(stack)
    return Plan(learning_rate=[0.1] * count, seeds=list(range(count)), chunk=1, **settings)


def test_equal_weights_share_a_file_and_others_do_not(make, problem):
    stack = make.networks(problem, [0, 0, 1])
    members = [Member(name, "final", seed=0) for name in "abc"]
    paths = make.keep(members, stack, problem)
    assert [path.name for path in paths] == ["a.pt", "a.pt", "c.pt"]
    family = make.finish()
    assert list(family.members["file"]) == ["a.pt", "a.pt", "c.pt"]
    assert [path.name for path in family] == ["a.pt", "c.pt"]


def test_networks_that_differ_in_a_frozen_weight_only_do_not_share_a_file(make, problem):
    stack = make.networks(problem, [0, 0])
    (name,) = stack.frozen
    stack.frozen[name][1, 0, 0] += 1e-3
    paths = make.keep([Member(name, "final", seed=0) for name in "ab"], stack, problem)
    assert paths[0] != paths[1]


def test_a_member_that_is_not_finite_is_listed_without_a_file(make, problem):
    stack = make.networks(problem, [0, 1])
    stack.theta[1, 0] = torch.nan
    make.keep([Member(name, "final", seed=0) for name in "ab"], stack, problem)
    family = make.finish()
    assert list(family.members["diverged"]) == [False, True]
    assert len(family) == 1


def test_two_members_of_one_name_are_refused_before_they_are_trained(make, problem):
    stack = make.networks(problem, [0, 1])
    with pytest.raises(RequestError, match="'x' would be trained twice"):
        make.fit("training", stack, plan(stack), problem.train, {}, ["x", "x"])


def test_a_finished_phase_is_read_and_not_trained_again(make, problem, monkeypatch):
    stack = make.networks(problem, [0])
    first = make.fit("training", stack, plan(stack), problem.train, problem.evaluations)
    monkeypatch.setattr("landscape.trainers.training._Run._move", None)
    second = make.fit("training", stack, plan(stack), problem.train, problem.evaluations)
    assert torch.equal(first.stack.theta, second.stack.theta)
    assert not torch.equal(first.stack.theta, stack.theta)


def test_a_finished_family_keeps_no_states(make, problem, tmp_path):
    stack = make.networks(problem, [0])
    make.fit("training", stack, plan(stack), problem.train, problem.evaluations)
    assert (tmp_path / ".state").is_dir()
    make.note("a sentence")
    family = make.finish()
    assert not (tmp_path / ".state").exists()
    assert family.notes == ("a sentence",)
    assert family.group("curves/training").sizes == {"time": 1, "member": 1}


def test_a_setting_that_some_members_lack_is_empty_text_or_nan(make, problem):
    stack = make.networks(problem, [0, 1])
    settings = [{"start": "x", "rate": 0.1}, {}]
    members = [
        Member(name, "final", seed=0, settings=one)
        for name, one in zip("ab", settings, strict=True)
    ]
    make.keep(members, stack, problem)
    table = make.finish().members
    assert list(table["start"]) == ["x", ""]
    assert table["rate"].isna().tolist() == [False, True]


_HOLDER = """
import sys, time
from pathlib import Path
from landscape.trainers.claim import claimed
with claimed(Path(sys.argv[1]), "single", {}, force=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_in_one_process_hands(tmp_path):
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        try:
            with (
                pytest.raises(RequestError, match="another process"),
                claimed(tmp_path, "single", {}, force=False),
            ):
                pass
        finally:
            other.kill()
    with claimed(tmp_path, "single", {}, force=False) as held:  # a dead one holds nothing
        assert held is None


def test_a_failure_without_work_to_go_on_from_leaves_no_folder(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(ZeroDivisionError), claimed(folder, "single", {}, force=False):
        raise ZeroDivisionError
    assert not folder.exists()


def fail(folder, failure):
    with claimed(folder, "single", {}, force=False):
        raise failure


def test_what_diverged_leaves_nothing_to_go_on_from(tmp_path):
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state" / "training.pt").write_bytes(b"state")
    with pytest.raises(RequestError, match="diverged"):
        fail(tmp_path, DivergedError("diverged"))
    assert not (tmp_path / ".state").exists()


def test_work_to_go_on_from_outlives_a_failure_and_another_request_is_refused(tmp_path):
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state" / "training.pt").write_bytes(b"state")
    for failure in (ZeroDivisionError(), RequestError("the data are gone")):
        with pytest.raises(type(failure)):
            fail(tmp_path, failure)
    assert (tmp_path / ".state" / "training.pt").exists()
    request = json.loads((tmp_path / ".state" / "request.json").read_text())
    assert request == {"recipe": "single", "options": {}}
    with (
        pytest.raises(RequestError, match="unfinished family of another request"),
        claimed(tmp_path, "single", {"seed": 1}, force=False),
    ):
        pass
    with claimed(tmp_path, "single", {"seed": 1}, force=True):
        assert not (tmp_path / ".state" / "training.pt").exists()


def test_an_unfinished_family_says_how_it_goes_on(tmp_path):
    (tmp_path / ".state").mkdir()
    with pytest.raises(RequestError, match="not finished"):
        load_family(tmp_path)
    assert not (tmp_path / INDEX).exists()
