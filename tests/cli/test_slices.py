"""Lines, planes and trajectories from the command line."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import landscape as ls
from landscape import store
from landscape.trainers import train

SMALL = ("--num", "5", "--execution", "loop")


def newest(path, probe):
    ((_, record),) = store.open_results(path).dataset(probe)
    return record


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """Three checkpoints of one network with BatchNorm."""
    return train(
        "lr-sweep",
        tmp_path_factory.mktemp("three"),
        model="cnn",
        data="digits",
        sphere="none",
        learning_rates=(0.01, 0.1, 0.5),
        num_seeds=1,
        steps=40,
    )


@pytest.fixture
def three(family, tmp_path, monkeypatch):
    """Copies of them, alone in a fresh current folder."""
    monkeypatch.chdir(tmp_path)
    return [tmp_path / shutil.copy(path, tmp_path / path.name) for path in family]


def test_a_plane_is_that_of_the_library(run, checkpoint):
    done = run("probe", checkpoint, "--probe", "plane", "--num", "3,4", "--radius", "1,0.5",
               "--seed", "7", "--execution", "loop", "--json")  # fmt: skip
    assert done.code == 0
    objective = ls.load_objective(checkpoint)
    directions = ls.random_directions(objective, 2, seed=7)
    options = ls.SweepOptions(execution="loop")
    expected = ls.plane(objective, directions, (3, 4), (1.0, 0.5), options=options)
    record = newest(checkpoint.with_suffix(".h5"), "plane")
    assert np.array_equal(record["loss"].values, expected.loss)
    assert np.array_equal(record["b"].values, expected.coordinates[1])
    assert done.json["records"][0]["values"]["max_cosine"] < 1e-6


def test_a_line_prints_its_doubts_and_is_skipped_the_second_time(run, checkpoint):
    words = ("probe", checkpoint, "--probe", "line", *SMALL, "--quadratic", "--topology")
    done = run(*words)
    assert done.code == 0
    for said in ("at the center", "note: evaluated: loop", "rescaled", "minima"):
        assert said in done.out
    again = run(*words)
    assert "was there" in again.out
    assert "minima" not in again.out
    record = newest(checkpoint.with_suffix(".h5"), "line")
    assert record["center_curvature"].shape == (1, 1)
    assert record["rescaling_change"] > 0


def test_several_seeds_are_a_band(run, checkpoint):
    assert run("probe", checkpoint, "--probe", "line", "--num-seeds", "3", *SMALL).code == 0
    record = newest(checkpoint.with_suffix(".h5"), "lines")
    assert record["loss"].shape == (3, 5)
    assert len({row.tobytes() for row in record["loss"].values}) == 3


def test_train_and_test_go_together_and_a_penalty_stands_apart(run, checkpoint):
    done = run("probe", checkpoint, "--probe", "line", *SMALL, "--weight-decay", "0.1",
               "--test-args", '{"split": "test"}')  # fmt: skip
    assert done.code == 0
    record = newest(checkpoint.with_suffix(".h5"), "line")
    source = ls.Source(data_arguments={"split": "test"})
    test = ls.load_objective(checkpoint, source)
    train_ = ls.load_objective(checkpoint)
    assert record["test_loss"].values[2] == pytest.approx(test.value, rel=1e-6)
    assert record["loss"].values[2] == pytest.approx(train_.value, rel=1e-6)
    squared = float(train_.theta.double().square().sum())
    assert record["penalty"].values[2] == pytest.approx(0.05 * squared, rel=1e-6)
    same = run("probe", checkpoint, "--probe", "line", "--num", "3", "--test-args", "{}")
    assert same.code == 0  # no change of the data: no test data
    data = ("--test-data", "landscape.trainers.data:digits", "--data-args", '{"split": "train"}')
    refused = run("probe", checkpoint, "--probe", "line", "--num", "3", *data)
    assert refused.code == 1
    assert "very data" in refused.err


@pytest.mark.parametrize("direction", ["gradient", "eigenvectors"])
def test_other_directions(run, checkpoint, direction):
    done = run("probe", checkpoint, "--probe", "line", *SMALL, "--direction", direction)
    assert done.code == 0
    record = newest(checkpoint.with_suffix(".h5"), "line")
    assert record["direction_norm"].item() == pytest.approx(1, rel=1e-5)
    assert direction.rstrip("s") in record.attrs["direction_names"]


def test_a_line_to_another_checkpoint_arrives_there(run, three):
    done = run("probe", three[0], "--probe", "line", "--towards", three[1], "--num", "5",
               "--interpolate-bn", "--execution", "loop")  # fmt: skip
    assert done.code == 0
    record = newest(three[0].with_suffix(".h5"), "line")
    assert record["a"].values.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    ends = [ls.load_objective(path).value for path in three[:2]]
    assert record["loss"].values[[1, 3]] == pytest.approx(ends, rel=1e-5)
    assert record["mark"].values.tolist() == ["lr0.01-seed0", "lr0.1-seed0"]


def test_the_plane_through_three_checkpoints_holds_them(run, three):
    done = run("probe", three[0], "--probe", "plane", "--towards", three[1], "--towards", three[2],
               *SMALL, "--vectors")  # fmt: skip
    assert done.code == 0
    record = newest(three[0].with_suffix(".h5"), "plane")
    places = dict(zip(record["mark"].values.tolist(), record["mark_place"].values, strict=True))
    objective = ls.load_objective(three[0])
    vectors = torch.as_tensor(record["direction_vector"].values).double()
    for path in three:
        there = objective.theta.double() + torch.as_tensor(places[path.stem]) @ vectors
        own = ls.load_objective(path).theta.double()
        assert torch.allclose(there, own, atol=1e-5)
    assert run("verify", three[0].with_suffix(".h5")).code == 0


def test_a_trajectory_is_kept_beside_the_last_checkpoint(run, three):
    done = run("probe", *three, "--probe", "trajectory", "--probe", "metrics", *SMALL)
    assert done.code == 0
    assert "random walk" in done.out
    record = newest(three[2].with_suffix(".h5"), "trajectory")
    assert record["checkpoint"].values.tolist() == [path.stem for path in three]
    assert record["loss"].shape == (5, 5)
    own = ls.load_objective(three[2]).value
    assert record["checkpoint_loss"].values[2] == pytest.approx(own, rel=1e-6)
    for path in three:
        assert newest(path.with_suffix(".h5"), "metrics") is not None
    assert not store.open_results(three[0].with_suffix(".h5")).dataset("trajectory")


def test_the_folder_of_a_recorder_is_a_trajectory(run, checkpoint, tmp_path):
    objective = ls.load_objective(checkpoint)
    recorder = ls.TrajectoryRecorder(objective.model, tmp_path / "steps")
    for _ in range(12):
        with torch.no_grad():
            for parameter in objective.model.parameters():
                parameter.mul_(0.98)
        recorder.step()
    source = ("--model", "landscape.trainers.models:mlp", "--loss", "cross_entropy")
    data = ("--data", "landscape.trainers.data:digits", "--data-args", '{"split": "train"}')
    done = run("probe", tmp_path / "steps", "--probe", "trajectory", "--num", "3", *source, *data)
    assert done.code == 0, done.err
    record = newest(tmp_path / "steps" / "step_000000012.h5", "trajectory")
    assert record["checkpoint"].values.tolist() == [f"step_{step:09}" for step in range(1, 13)]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--probe", "trajectory"), 2, "several checkpoints"),
        (("--probe", "plane", "--num", "1,2,3"), 2, "--num 21,21"),
        (("--probe", "line", "--radius", "far"), 2, "auto"),
        (("--probe", "line", "--normalize", "filters"), 2, "'filter'"),
        (("--probe", "plane", "--direction", "gradient"), 1, "--probe line"),
        (("--probe", "line", "--towards", "nowhere.pt"), 2, "nowhere.pt"),
        (("--probe", "line", "--fields", "los"), 1, "'loss'"),
        (("--probe", "line", "--interpolate-bn"), 1, "towards"),
        (
            (
                "--probe",
                "lines",
            ),
            2,
            "'line'",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(run, checkpoint, words, code, said):
    done = run("probe", checkpoint, *words)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_one_other_checkpoint_is_no_plane_and_another_network_is_refused(run, three, trained):
    done = run("probe", three[0], "--probe", "plane", "--towards", three[1], *SMALL)
    assert (done.code, "--towards" in done.err) == (1, True)
    done = run("probe", three[0], "--probe", "line", "--towards", trained, *SMALL)
    assert done.code == 2
    assert "another network" in done.err


def test_shards_are_merged_into_the_whole(run, checkpoint):
    words = ("probe", checkpoint, "--probe", "plane", *SMALL)
    for part in (1, 2):
        done = run(*words, "--shard", f"{part}/2", "--out", f"part{part}.h5")
        assert done.code == 0
    assert run("merge", "part1.h5", "part2.h5").code == 0
    assert run(*words).code == 0
    whole = newest(checkpoint.with_suffix(".h5"), "plane")
    merged = newest("part1.h5", "plane")
    assert np.array_equal(whole["loss"].values, merged["loss"].values)
    assert "was there" in run(*words, "--out", "part1.h5").out
    lone = run("merge", checkpoint.with_suffix(".h5"))
    assert lone.code == 2
    assert "--shard" in lone.err


def test_an_interrupted_plane_goes_on(run, checkpoint, monkeypatch):
    words = ("probe", checkpoint, "--probe", "plane", *SMALL)
    from landscape.slices.ledger import Ledger

    enter, count = Ledger.enter, 0

    def interrupted(self, *given):
        nonlocal count
        enter(self, *given)
        count += 1
        if count == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "enter", interrupted)
    done = run(*words)
    assert done.code == 130
    assert "goes on from there" in done.err
    (state,) = checkpoint.parent.glob(".*.state")
    monkeypatch.setattr(
        Ledger, "enter", lambda self, *given: (counted.append(1), enter(self, *given))
    )
    counted: list[int] = []
    assert run(*words).code == 0
    assert len(counted) == 25 - 10
    assert not state.exists()


def test_verify_finds_what_was_changed(run, checkpoint):
    run("probe", checkpoint, "--probe", "plane", *SMALL)
    file = checkpoint.with_suffix(".h5")
    done = run("verify", file, "--json")
    assert done.code == 0
    assert done.json[0]["right"] is True
    import h5py

    with h5py.File(file, "r+") as held:
        (group,) = held["plane"].values()
        group["loss"][...] += 0.1
    done = run("verify", file)
    assert done.code == 1
    assert "WRONG" in done.out
    assert run("verify", file, "--checkpoint", "nowhere.pt").code == 2
    checkpoint.rename("elsewhere.pt")
    assert "--checkpoint" in run("verify", file).err
    assert run("verify", "nothing.h5").code == 2
