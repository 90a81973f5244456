"""What networks learned, from the command line."""

from __future__ import annotations

import re
import shutil

import learned_records
import numpy as np
import pytest
import torch

import landscape as ls
from landscape import store
from landscape.cli.summary import describe
from landscape.probes.answers import answers
from landscape.probes.features.band_use import band_use
from landscape.probes.features.multi_view_use import feature_use, tick_use
from landscape.probes.linear.depth import prediction_depth
from landscape.probes.linear.layer_probes import probe_layers
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.trainers import load_family, train

TEST = ("--test-args", '{"split": "test"}')


def newest(path, probe):
    ((_, record),) = store.open_results(path).dataset(probe)
    return record


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """Folders by name: three runs from unlike seeds, networks on subsets, ticks, and images."""

    def folder(recipe, **options):
        return train(recipe, tmp_path_factory.mktemp(recipe), **options).folder

    return {
        "single": [folder("single", epochs=2, seed=seed) for seed in range(3)],
        "subsets": [folder("subsets", num_examples=200, num_subsets=8, epochs=8)],
        "ticks": [folder("single", data="ticks", epochs=10)],
        "images": [folder("single", model="cnn", epochs=1)],
    }


@pytest.fixture
def runs(trained_once, tmp_path, monkeypatch):
    """Copies of one of them in a fresh current folder: `runs("single")`, its checkpoints."""
    monkeypatch.chdir(tmp_path)

    def copied(name):
        folders = [
            shutil.copytree(folder, tmp_path / f"{name}{index}")
            for index, folder in enumerate(trained_once[name])
        ]
        return [path for folder in folders for path in load_family(folder)]

    return copied


def points(paths):
    """The objective of the first, and all points."""
    objectives = [ls.load_objective(path) for path in paths]
    return objectives[0], [one.theta for one in objectives]


# -- of one checkpoint ------------------------------------------------------------------------


def test_linear_probes_are_those_of_the_library_and_print_their_controls(run, checkpoint):
    words = ("--probe", "linear", "--penalties", "0.01,1", "--layers", "2,*4", *TEST)
    done = run("probe", checkpoint, *words)
    assert done.code == 0
    test = ls.load_objective(checkpoint, ls.Source(data_arguments={"split": "test"}))
    objective = ls.load_objective(checkpoint)
    expected = probe_layers(
        objective, layers=("2", "*4"), penalties=(0.01, 1), test=test, seed=0
    ).to_dataset()
    record = newest(checkpoint.with_suffix(".h5"), "linear")
    np.testing.assert_array_equal(record["test_accuracy"], expected["test_accuracy"])
    assert record["penalty"].values.tolist() == [0.01, 1]
    best = int(expected["validation_accuracy"].values.max(1).argmax())
    layer = str(expected["layer"].values[best])
    assert f"{100 * float(expected['accuracy']):.2f} % [" in done.out
    assert f"at {layer!r}, which validation chose" in done.out
    assert "untrained network" in done.out
    assert "was there" in run("probe", checkpoint, *words).out
    plain = run("probe", checkpoint, *words, "--no-controls")
    assert "untrained network" not in plain.out


def test_features_of_ticks_are_those_of_the_data_that_it_saw(run, runs):
    (path,) = runs("ticks")
    done = run("probe", path, "--probe", "features")
    assert done.code == 0
    expected = tick_use(ls.load_objective(path), seed=0)
    record = newest(path.with_suffix(".h5"), "features")
    np.testing.assert_array_equal(record["accuracy"], expected.to_dataset()["accuracy"])
    assert f"effective number {float(record['effective_number']):.3g} [" in done.out
    assert "was there" in run("probe", path, "--probe", "features").out
    drawn = ("--data-args", '{"seed": 5, "arguments": {"margin": 0.3}}')
    run("probe", path, "--probe", "features", *drawn, "--out", "other.h5")
    source = ls.Source(data_arguments={"seed": 5, "arguments": {"margin": 0.3}})
    expected = tick_use(ls.load_objective(path, source), seed=5, margin=0.3)
    other = newest("other.h5", "features")
    np.testing.assert_array_equal(other["accuracy"], expected.to_dataset()["accuracy"])


def test_features_of_other_data_are_blocks_of_the_width_that_is_named(run, runs):
    (path,) = runs("images")
    asked = run("probe", path, "--probe", "features")
    assert asked.code == 1
    assert "--blocks 2" in asked.err
    assert run("probe", path, "--probe", "features", "--blocks", "16").code == 0
    expected = feature_use(ls.load_objective(path), block=16, seed=0).to_dataset()
    record = newest(path.with_suffix(".h5"), "features")
    np.testing.assert_array_equal(record["flip_rate"], expected["flip_rate"])
    assert record.sizes["feature"] == 4


def test_bands_are_those_of_the_library_and_a_column_each(run, runs):
    (path,) = runs("images")
    done = run("probe", path, "--probe", "bands", "--borders", "1,3", "--band-norm", "inf")
    assert done.code == 0
    expected = band_use(ls.load_objective(path), borders=(1, 3), norm=float("inf")).to_dataset()
    record = newest(path.with_suffix(".h5"), "bands")
    np.testing.assert_array_equal(record["accuracy"], expected["accuracy"])
    table = ls.open_results(str(path.with_suffix(".h5"))).table()
    assert table["bands.low_band"].item() == expected["accuracy"].sel(band="low")


def test_bands_need_images(run, checkpoint):
    done = run("probe", checkpoint, "--probe", "bands", "--model", "nowhere.py:build")
    assert done.code == 2
    text = run("probe", checkpoint, "--probe", "bands", "--borders", "3,1")
    assert text.code == 1
    assert "borders" in text.err


def test_sparsity_is_of_the_layers_that_are_named(run, runs):
    (path,) = runs("images")
    wrong = run("probe", path, "--probe", "sparsity", "--layers", "nothing*")
    assert wrong.code == 1
    assert "no layer matches 'nothing*'" in wrong.err
    _, *names = [name for name, _ in ls.load_objective(path).model.named_modules()]
    done = run("probe", path, "--probe", "sparsity", "--layers", f"{names[1]},{names[-1]}")
    assert done.code == 0
    record = newest(path.with_suffix(".h5"), "sparsity")
    assert record["layer"].values.tolist() == [names[1], names[-1]]


def test_the_depth_of_test_examples_is_asked_of_the_training_data(run, runs):
    (path,) = runs("images")
    words = ("--probe", "depth", "--num-neighbors", "5", "--layer-pool", "none", *TEST)
    done = run("probe", path, *words)
    assert done.code == 0
    test = ls.load_objective(path, ls.Source(data_arguments={"split": "test"}))
    expected = prediction_depth(ls.load_objective(path), k=5, pool="none", test=test).to_dataset()
    record = newest(path.with_suffix(".h5"), "depth")
    np.testing.assert_array_equal(record["depth"], expected["depth"])
    assert "was there" in run("probe", path, *words).out
    assert "was there" not in run("probe", path, *words, "--target", "label").out


# -- of several -------------------------------------------------------------------------------


def test_an_ensemble_is_of_all_and_lies_beside_the_first(run, runs):
    paths = runs("single")
    done = run("probe", *paths, "--probe", "ensemble", *TEST)
    assert done.code == 0
    record = newest(paths[0].with_suffix(".h5"), "ensemble")
    assert record.sizes["member"] == 3
    test = ls.load_objective(paths[0], ls.Source(data_arguments={"split": "test"}))
    _, thetas = points(paths)
    logits = torch.stack([answers(test, theta).logits for theta in thetas])
    right = logits.log_softmax(-1).logsumexp(0).argmax(-1) == answers(test).labels
    assert float(record["ensemble_accuracy"]) == pytest.approx(right.double().mean().item())
    assert not paths[1].with_suffix(".h5").exists()
    assert "was there" in run("probe", *paths, "--probe", "ensemble", *TEST).out
    assert "was there" not in run("probe", *paths, "--probe", "ensemble").out
    assert "was there" not in run("probe", *paths[:2], "--probe", "ensemble", *TEST).out


def test_dynamics_are_of_checkpoints_in_the_order_of_their_names(run, runs):
    paths = runs("single")
    done = run("probe", *paths, "--probe", "dynamics")
    assert done.code == 0
    objective, thetas = points(paths)
    labels = answers(objective).labels
    right = torch.stack([answers(objective, one).logits.argmax(1) == labels for one in thetas])
    record = newest(paths[0].with_suffix(".h5"), "dynamics")
    np.testing.assert_array_equal(record["correct"], right)
    turned = run("probe", *paths[::-1], "--probe", "dynamics")
    assert "was there" not in turned.out
    assert run("probe", paths[0], "--probe", "dynamics").code == 2


def test_a_recorded_run_has_the_times_of_its_steps(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n    torch.manual_seed(0)\n    return nn.Linear(3, 2)\n"
        "def load():\n    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))\n"
        "    return x, (x[:, 0] > 0).long()\n"
    )
    (tmp_path / "landscape.toml").write_text(
        'model = "net.py:build"\ndata = "net.py:load"\nloss = "cross_entropy"\n'
    )
    network = torch.nn.Linear(3, 2)
    recorder = ls.TrajectoryRecorder(network, tmp_path / "steps", every=10)
    recorder.record()
    for _ in range(40):
        recorder.step()
    source = ("--model", "net.py:build", "--data", "net.py:load", "--loss", "cross_entropy")
    assert run("probe", "steps", "--probe", "dynamics", *source).code == 0
    (path,) = (tmp_path / "steps").glob("*.h5")
    assert newest(path, "dynamics")["time"].values.tolist() == [0, 10, 20, 30, 40]


def test_memorization_of_a_family_is_that_of_its_subset_runs(run, runs):
    paths = runs("subsets")
    folder = paths[0].parent
    done = run("probe", folder, "--probe", "memorization", "--shown", "3")
    assert done.code == 0
    expected = memorization(SubsetRuns.from_family(folder))
    record = newest(paths[0].with_suffix(".h5"), "memorization")
    np.testing.assert_array_equal(record["value"], expected.value)
    np.testing.assert_array_equal(record["num_out"], expected.num_out)
    shown = record["shown_example"].to_numpy()
    assert len(shown) == 3
    whole = ls.load_objective(paths[0], ls.Source(data_arguments={"subset": None}))
    ((inputs, _),) = list(whole.batches)
    np.testing.assert_array_equal(record["shown_input"], inputs.numpy()[shown])
    assert "was there" in run("probe", folder, "--probe", "memorization", "--shown", "3").out


def test_foreign_checkpoints_come_with_their_masks(run, runs):
    paths = runs("single")
    objective, thetas = points(paths)
    generator = np.random.default_rng(0)
    masks = generator.random((3, objective.batches.num_examples)) < 0.5
    np.save("masks.npy", masks)
    done = run("probe", *paths, "--probe", "memorization", "--masks", "masks.npy", "--shown", "0")
    assert done.code == 0
    labels = answers(objective).labels
    right = torch.stack([answers(objective, one).logits.argmax(1) == labels for one in thetas])
    expected = memorization(SubsetRuns(masks, right))
    record = newest(paths[0].with_suffix(".h5"), "memorization")
    np.testing.assert_array_equal(record["value"], expected.value)
    assert "shown_input" not in record
    np.testing.assert_array_equal(record["label"], labels)
    again = ("probe", *paths, "--probe", "memorization", "--masks", "masks.npy", "--shown", "0")
    assert "was there" in run(*again).out
    np.save("masks.npy", ~masks)
    assert "was there" not in run(*again).out


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        (np.zeros((3, 4)), r"expected \(3, 1438\)"),
        (np.zeros((2, 1438)), r"expected \(3, 1438\)"),
        (np.zeros(4), "no table"),
        (None, "cannot be read"),
    ],
)
def test_masks_that_do_not_fit_are_refused(run, runs, masks, reason):
    paths = runs("single")
    if masks is not None:
        np.save("masks.npy", masks)
    done = run("probe", *paths, "--probe", "memorization", "--masks", "masks.npy")
    assert done.code in (1, 2)
    assert re.search(reason, done.err)


def test_without_masks_or_subsets_memorization_says_what_to_name(run, checkpoint):
    done = run("probe", checkpoint, "--probe", "memorization")
    assert done.code == 2
    assert "--masks masks.npy" in done.err


def test_every_record_is_drawn(run, runs):
    (path,) = runs("images")
    run("probe", path, "--probe", "sparsity", "--probe", "bands")
    done = run("plot", path.with_suffix(".h5"))
    assert done.code == 0
    drawn = {image.stem.rpartition("-")[2] for image in path.parent.glob("*.png")}
    assert {"sparsity", "bands"} <= drawn


# -- in a line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "line"),
    [
        (
            "linear",
            "94.00 % [92.0, 96.0] at 'head', which validation chose of 4 layers, neighbours "
            "85.0 %, untrained network 40.0 %, random labels 10.0 %",
        ),
        ("depth", "1.500 +- 0.2 (95 %) on average of at most 3, never settled for 2 examples"),
        (
            "features",
            "effective number 1 [0.9, 1.2] of 16, feature 0 alone 90.0 %, feature 0 swapped, "
            "changes the answers to 80.0 %",
        ),
        (
            "bands",
            "accuracy on one band alone: background 10.0 %, low 23.3 %, mid 36.7 %, high 50.0 %; "
            "on all 92.00 %",
        ),
        (
            "sparsity",
            "3 layers, on average Gini 0.450, effective rank 14.4, 11.2 % of the units dead",
        ),
        (
            "ensemble",
            "4 networks, accuracy 90.00 % [88.0, 92.0] (members 86.50 %), NLL 0.35, calibrated "
            "0.34, calibration error 0.01, disagreement 0.1",
        ),
        (
            "dynamics",
            "60 examples at 6 times, 5 never right, 54 never forgotten, 0.0364 forgetting events "
            "on average",
        ),
        (
            "memorization",
            "0.5000 on average over 80 examples and 50 networks, 58 with 0.25 or more, "
            "3 undefined, reliability of halves 0.870",
        ),
    ],
)
def test_a_record_is_said_in_a_line(probe, line):
    assert describe(probe, getattr(learned_records, probe)()) == line


def test_what_is_undefined_is_not_said():
    record = learned_records.linear()
    record["control_accuracy"][:] = np.nan
    assert "random labels" not in describe("linear", record)
    record = learned_records.features(single=False, used=0)
    record["flip_rate"][3] = 0.5
    assert describe("features", record) == (
        "none of 16 features used beyond chance, feature 3 swapped, changes the answers to 50.0 %"
    )
    assert "settled for" not in describe("depth", learned_records.depth(never=0))
    record = learned_records.ensemble(1)
    record["disagreement"] = np.nan
    assert "disagreement" not in describe("ensemble", record)
    record = learned_records.memorization(undefined=0)
    record["split_half"] = np.nan
    assert describe("memorization", record).endswith("with 0.25 or more")
