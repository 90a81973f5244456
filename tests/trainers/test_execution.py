import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers import making
from landscape.trainers.execution import command_line, train
from landscape.trainers.family import load_family
from landscape.trainers.options import made
from landscape.trainers.recipes import recipe_module

SHORT = {"epochs": 1, "batch_size": 1000}


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("single", {}),
        ("single", {"learning_rate": 0.1 + 0.2, "model": "mlp-tanh", "schedule": "cosine"}),
        ("lr-sweep", {"learning_rates": (1e-5, 1 / 3), "vary_data": False, "per_group": True}),
    ],
)
def test_the_command_line_gives_the_same_options_back(tmp_path, recipe, options):
    kind = recipe_module(recipe).Options
    chosen = made(kind, options)
    words = shlex.split(command_line(recipe, tmp_path / "a b", chosen))
    assert words[:5] == ["landscape", "train", recipe, "--out", str(tmp_path / "a b")]
    given, rest = {}, words[5:]
    while rest:
        name = rest.pop(0).removeprefix("--").replace("-", "_")
        if name.startswith("no_"):
            given[name.removeprefix("no_")] = False
        else:
            given[name] = True if not rest or rest[0].startswith("--") else rest.pop(0)
    assert made(kind, given) == chosen


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("singel", {}, "Did you mean 'single'"),
        ("single", {"epoch": 3}, "Did you mean 'epochs'"),
        ("single", {"learning_rate": float("nan")}, "learning_rate=nan"),
        ("single", {"model": "mpl"}, "Did you mean 'mlp'"),
        ("single", {"batch_size": 1439}, r"batch_size=1439 is not in 1 \.\.\. 1438"),
        ("single", {"device": "nowhere"}, "device='nowhere' cannot be used"),
        ("lr-sweep", {"num_evaluations": 7}, "num_evaluations=7 is out of range"),
        ("lr-sweep", {"steps": 7}, "steps=7 is out of range"),
        ("lr-sweep", {"data": "digits", "model": "mlp"}, "Take a scale-invariant model"),
    ],
)
def test_a_bad_request_is_refused_and_leaves_nothing(tmp_path, recipe, options, message):
    with pytest.raises(RequestError, match=message):
        train(recipe, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_family_that_is_there_is_returned_without_work(tmp_path):
    first = train("single", tmp_path, **SHORT)
    stamp = first[0].stat().st_mtime_ns

    def no_work(*_):
        raise AssertionError("a step was taken")

    assert train("single", tmp_path, progress=no_work, **SHORT) == first
    assert first[0].stat().st_mtime_ns == stamp


def test_another_request_needs_force_which_replaces_the_files(tmp_path):
    train("single", tmp_path, **SHORT)
    with pytest.raises(RequestError, match="holds another family, made by `landscape train single"):
        train("single", tmp_path, seed=1, **SHORT)
    second = train("single", tmp_path, force=True, seed=1, **SHORT)
    assert second[0].name.endswith("seed1.pt")
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [second[0].name]


def test_an_unfinished_family_goes_on_for_its_own_request_only(tmp_path, monkeypatch):
    saved = making._save

    def save_and_stop(state, path):
        saved(state, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(making, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train("single", tmp_path, **SHORT)
    (tmp_path / ".state" / ".training.pt.dead.tmp").write_text("half")
    (tmp_path / ".family.h5.dead.tmp").write_text("half")
    with pytest.raises(RequestError, match="is not finished"):
        load_family(tmp_path)
    with pytest.raises(RequestError, match="unfinished family of another request"):
        train("single", tmp_path, seed=1, **SHORT)
    again = train("single", tmp_path, **SHORT)
    assert len(again) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {again[0].name, "family.h5", ".lock"}


def test_two_at_once_are_refused(tmp_path):
    def second(*_):
        train("single", tmp_path / "out", **SHORT)

    with pytest.raises(RequestError, match="another process is training into"):
        train("single", tmp_path / "out", progress=second, **SHORT)


@pytest.mark.parametrize("name", ["taken", "taken/below"])
def test_a_file_where_the_folder_should_be_is_refused(tmp_path, name):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RequestError, match="Name a folder"):
        train("single", tmp_path / name)


_CHILD = """
import sys
from landscape.trainers import execution, making, training
from landscape.trainers.gradients import Trial
execution.Place = lambda *given: making.Place(*given, interval=0.02)
# The trial of chunks is decided by the clock, and another chunk rounds otherwise.
training.choose_chunk = lambda stack, *given: Trial({len(stack): 0.0})
print("ready", flush=True)
execution.train("lr-sweep", sys.argv[1], steps=1500, num_evaluations=20, num_seeds=1,
                learning_rates=(0.001, 0.01, 0.1), last_weights=2)
"""


def _start(folder):
    words = [sys.executable, "-c", _CHILD, str(folder)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def _finish(process):
    process.communicate()
    assert process.returncode == 0


@pytest.mark.slow
def test_a_family_whose_maker_is_killed_again_and_again_is_that_of_one_run(tmp_path):
    whole = tmp_path / "whole"
    _finish(_start(whole))
    folder, generator, killed = tmp_path / "killed", np.random.default_rng(0), 0
    for _ in range(6):
        process = _start(folder)
        process.stdout.readline()
        try:
            process.communicate(timeout=generator.uniform(0.2, 2.5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
        if (folder / "family.h5").exists():
            load_family(folder)
            break
    _finish(_start(folder))
    assert killed
    one, other = load_family(whole), load_family(folder)
    assert one.members.equals(other.members)
    for path, twin in zip(one, other, strict=True):
        states = [torch.load(p, weights_only=True)["state_dict"] for p in (path, twin)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert one.group("curves/training").equals(other.group("curves/training"))
    assert not [*folder.rglob("*.tmp")]
