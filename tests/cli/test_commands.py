"""The other commands: train, info, plot, doctor, demo."""

from __future__ import annotations

import inspect

import matplotlib.image
import pytest
import torch

import landscape as ls
from landscape.cli import train as command
from landscape.trainers import train_single

FAST = ("-k", "2", "--tol", "1e-2", "--num-steps", "10", "--max-products", "60")


def test_train_single_writes_a_checkpoint_that_describes_itself(run, tmp_path):
    done = run("train", "single", "--out", tmp_path, "--epochs", "1", "--lr", "0.2", "--json")
    assert done.code == 0
    objective = ls.load_objective(done.json["checkpoint"])
    assert objective.value == pytest.approx(done.json["metrics"]["train_loss"], rel=1e-5)


def test_train_states_the_defaults_of_its_recipe():
    stated = inspect.signature(command.single).parameters
    for name, parameter in inspect.signature(train_single).parameters.items():
        if name not in ("out", "progress"):
            option = stated[name].annotation
            assert f"Default: {parameter.default}." in option


def test_train_lists_its_recipes_and_asks_for_one(run):
    assert run("train", "--list").out.startswith("single ")
    assert run("train").code == 2


def test_train_refuses_what_its_recipe_refuses(run, tmp_path):
    done = run("train", "single", "--out", tmp_path, "--model", "mpl")
    assert done.code == 2
    assert "'mlp'" in done.err
    assert not any(tmp_path.iterdir())


def test_info_tells_what_is_in_a_result_file(run, checkpoint):
    run("probe", checkpoint, *FAST)
    done = run("info", checkpoint.with_suffix(".h5"), "--json")
    probes = {record["probe"] for record in done.json["records"]}
    assert probes == {"metrics", "eigenvalues", "trace", "density"}
    assert done.json["attributes"]["recipe.learning_rate"] == 0.1
    text = run("info", checkpoint.with_suffix(".h5")).out
    assert "largest" in text
    assert "recipe.learning_rate" in text


def test_info_tells_what_is_in_a_checkpoint(run, checkpoint):
    done = run("info", checkpoint, "--json").json
    assert done["kind"] == "landscape"
    assert done["values"] == 8970
    torch.save({"weight": torch.zeros(2, 3)}, "bare.pt")
    assert "--model" in run("info", "bare.pt").out
    missing = run("info", "mising.h5")
    assert missing.code == 2


def test_plot_draws_each_record_and_the_comparison(run, checkpoint, tmp_path):
    other = train_single(tmp_path, epochs=1, learning_rate=0.3)
    run("probe", checkpoint, other, *FAST)
    files = [checkpoint.with_suffix(".h5"), other.with_suffix(".h5")]
    done = run("plot", *files, "--out", tmp_path / "figures")
    assert done.code == 0
    written = done.out.split()
    assert len(written) == 5
    for path in written:
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[0] > 300
        assert pixels[..., :3].std() > 0.01  # not an empty sheet


def test_plot_without_anything_to_draw_says_what_to_do(run, checkpoint):
    run("probe", checkpoint, "--probe", "metrics")
    done = run("plot", checkpoint.with_suffix(".h5"))
    assert done.code == 2
    assert "landscape probe" in done.err
    assert run("plot", checkpoint.with_suffix(".h5"), "--format", "pgn").code == 2


def test_doctor_finds_this_installation_well_and_tries_a_checkpoint(run, checkpoint):
    done = run("doctor", checkpoint)
    assert done.code == 0
    assert "rounding noise" in done.out
    assert "BAD" not in done.out


def test_doctor_says_what_is_wrong_with_a_checkpoint(run, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    done = run("doctor", checkpoint)
    assert done.code == 1
    assert "BAD" in done.out


def test_demo_compares_three_networks_and_draws_them(run, tmp_path, monkeypatch):
    # The real recipe with fewer epochs, since `make demo` runs it whole.
    def short(out, *, learning_rate, progress):
        return train_single(out, learning_rate=learning_rate, epochs=2, progress=progress)

    monkeypatch.setattr("landscape.trainers.train_single", short)
    done = run("demo", "--out", tmp_path / "demo")
    assert done.code == 0
    assert len(list((tmp_path / "demo").glob("*.h5"))) == 3
    assert len(list((tmp_path / "demo").glob("*.png"))) == 7
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[0] for row in rows if len(row) == 9 and row[0][0].isdigit()] == [
        "0.01",
        "0.1",
        "0.5",
    ]


def test_version(run):
    assert run("--version").out.strip() == ls.__version__
