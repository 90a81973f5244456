"""The other commands: train, info, plot, doctor, demo."""

from __future__ import annotations

import dataclasses
import importlib

import matplotlib.image
import pytest
import torch

import landscape as ls
from landscape.trainers import train
from landscape.trainers.recipes import RECIPES, recipe_module

demo = importlib.import_module("landscape.cli.demo")

FAST = ("-k", "2", "--tol", "1e-2", "--num-steps", "10", "--max-products", "60")


def test_train_single_writes_a_checkpoint_that_describes_itself(run, tmp_path):
    done = run("train", "single", "--out", tmp_path, "--epochs", "1", "--lr", "0.2", "--json")
    assert done.code == 0
    objective = ls.load_objective(done.json["checkpoints"][0])
    assert objective.value == pytest.approx(done.json["members"][0]["train_loss"], rel=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_train_shows_every_option_of_a_recipe_with_its_default(run, recipe):
    text = " ".join(run("train", recipe, "--help").out.split())
    for field in dataclasses.fields(recipe_module(recipe).Options):
        assert f"--{field.name.replace('_', '-')}" in text
    for option in ("--out", "--dry-run", "--force", "--json", "--data-root"):
        assert option in text


def test_train_lists_its_recipes_and_asks_for_one(run):
    listed = run("train", "--list")
    assert [line.split()[0] for line in listed.out.splitlines()] == list(RECIPES)
    asked = run("train")
    assert asked.code == 2
    assert "lr-sweep" in asked.out


def test_train_help_is_help_and_no_failure(run):
    done = run("train", "--help")
    assert done.code == 0
    assert "lr-sweep" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("single", "--model", "mpl"), "'mlp'"),
        (("singel",), "'single'"),
        (("single", "--lr", "-1"), "learning_rate"),
        (("single", "--lr", "nan"), "learning_rate"),
        (("lr-sweep", "--learning-rates", "0.1,x"), "learning_rates"),
        (("lr-sweep", "--sphere", "project"), "'projected'"),
        (("lr-sweep", "--model", "mlp", "--data", "digits"), "sphere"),
        (("finetune",), "--start"),
        (("finetune", "--start", "nowhere"), "nowhere"),
        (("single", "--data", "cifar10", "--data-root", "nowhere"), "nowhere"),
        (("single", "--data", "cifar10", "--data-root", "."), "cifar-10"),
        (("single", "--device", "cuda:9"), "cuda:9"),
    ],
)
def test_train_refuses_in_one_line_and_leaves_nothing_behind(run, tmp_path, words, said):
    done = run("train", *words, "--out", tmp_path / "family")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_a_run_that_diverged_leaves_nothing_in_the_way_of_another(run, tmp_path):
    words = ("--out", tmp_path / "family", "--epochs", "2")
    diverged = run("train", "single", *words, "--lr", "1e6")
    assert diverged.code == 2
    assert "Lower it" in diverged.err
    assert not any(tmp_path.iterdir())
    assert run("train", "single", *words, "--lr", "0.1").code == 0


def test_a_run_that_was_interrupted_says_how_it_goes_on(run, tmp_path, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("landscape.trainers.training._Run._move", interrupted)
    done = run("train", "single", "--out", tmp_path, "--epochs", "1")
    assert done.code == 130
    assert "goes on" in done.err
    assert "Traceback" not in done.err


def test_an_unfinished_family_is_not_taken_for_a_checkpoint(run, tmp_path):
    (tmp_path / ".state").mkdir()
    for command in ("info", "probe"):
        done = run(command, tmp_path)
        assert done.code == 2
        assert "not finished" in done.err


def test_train_needs_a_folder(run):
    done = run("train", "single")
    assert done.code == 2
    assert "--out" in done.err


def test_train_dry_run_tells_what_it_takes_and_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("train", "single", "--out", "runs", "--dry-run", "--json")
    assert done.code == 0
    assert done.json["seconds"] > 0
    assert done.json["disk"] > 8970 * 4
    assert done.json["phases"][0]["steps"] == 60 * 45
    assert not any(tmp_path.iterdir())


def test_a_family_is_probed_plotted_and_told_of_by_its_folder(run, tmp_path):
    folder = tmp_path / "family"
    words = ("--data", "digits", "--model", "mlp", "--sphere", "none", "--steps", "90")
    seeds = ("--num-seeds", "1", "--batch-size", "32", "--learning-rates", "0.1,0.3")
    assert run("train", "lr-sweep", "--out", folder, *words, *seeds).code == 0
    assert run("probe", folder, *FAST).code == 0
    assert sorted(path.name for path in folder.glob("lr*.h5")) == [
        "lr0.1-seed0.h5",
        "lr0.3-seed0.h5",
    ]
    assert run("plot", folder).code == 0
    assert (folder / "comparison.png").is_file()
    told = run("info", folder, "--json").json
    assert told["recipe"] == "lr-sweep"
    assert len(told["members"]) == 2
    assert "lr0.3-seed0" in run("info", folder / "family.h5").out


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
    (other,) = train("single", tmp_path / "other", epochs=1, learning_rate=0.3)
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
    # The real recipe with fewer steps, since `make demo` runs it whole.
    monkeypatch.setitem(demo._OPTIONS, "steps", 90)
    done = run("demo", "--out", tmp_path / "demo")
    assert done.code == 0
    assert len(list((tmp_path / "demo").glob("lr*.h5"))) == 3
    assert len(list((tmp_path / "demo").glob("*.png"))) == 13
    assert (tmp_path / "demo" / "planes.gif").is_file()
    rows = [line.split() for line in done.out.splitlines()]
    assert [row[0] for row in rows if len(row) == 9 and row[0][0].isdigit()] == [
        "0.01",
        "0.1",
        "0.5",
    ]


def test_version(run):
    assert run("--version").out.strip() == ls.__version__
