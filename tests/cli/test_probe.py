"""`landscape probe` on good requests."""

from __future__ import annotations

import math

import pytest
import torch

import landscape as ls
from landscape import store

FAST = ("-k", "2", "--tol", "1e-2", "--num-steps", "10", "--max-products", "60")


def test_it_writes_every_default_record_beside_the_checkpoint(run, checkpoint):
    done = run("probe", checkpoint, *FAST)
    assert done.code == 0
    probes = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ")]
    assert probes == ["metrics", "eigenvalues", "trace", "density", "->"]
    table = ls.open_results(checkpoint.with_suffix(".h5")).table()
    objective = ls.load_objective(checkpoint)
    assert table["metrics.loss"].item() == pytest.approx(objective.value)
    assert table["recipe.learning_rate"].item() == 0.1
    top = ls.eigsh(ls.HessianOperator(objective), 1, seed=1).values[0]
    assert table["eigenvalues.largest"].item() == pytest.approx(top, rel=1e-3)


def test_the_same_request_twice_is_skipped_and_force_repeats_it(run, checkpoint):
    words = ("probe", checkpoint, "--probe", "trace", *FAST)
    assert run(*words, "--json").json["records"][0]["state"] == "measured"
    before = checkpoint.with_suffix(".h5").read_bytes()
    assert run(*words, "--json").json["records"][0]["state"] == "skipped"
    assert checkpoint.with_suffix(".h5").read_bytes() == before
    assert run(*words, "--json", "--force").json["records"][0]["state"] == "measured"
    assert len(ls.open_results(checkpoint.with_suffix(".h5")).records()) == 1


def test_another_request_is_another_record(run, checkpoint):
    run("probe", checkpoint, "--probe", "trace", *FAST)
    run("probe", checkpoint, "--probe", "trace", *FAST, "--seed", "1")
    run("probe", checkpoint, "--probe", "trace", *FAST, "--params", "*.weight")
    assert len(ls.open_results(checkpoint.with_suffix(".h5")).records()) == 3


def test_json_is_one_document_with_the_numbers(run, checkpoint):
    done = run("probe", checkpoint, "--json", *FAST)
    records = {record["probe"]: record for record in done.json["records"]}
    assert list(records) == ["metrics", "eigenvalues", "trace", "density"]
    values = records["eigenvalues"]["values"]
    low, high = values["interval"][0]
    assert low < values["eigenvalue"][0] < high
    assert records["trace"]["values"]["standard_error"] > 0
    assert done.err == ""


def test_quiet_prints_the_file_and_nothing_else(run, checkpoint):
    done = run("probe", checkpoint, "--quiet", "--probe", "metrics")
    assert done.out == f"{checkpoint.with_suffix('.h5')}\n"
    assert done.err == ""


def test_several_checkpoints_each_get_a_file_and_a_bad_one_stops_no_other(run, checkpoint):
    missing = checkpoint.with_name("missing.pt")
    done = run("probe", missing, checkpoint, "--probe", "metrics")
    assert done.code == 2
    assert "missing.pt" in done.err
    assert checkpoint.with_suffix(".h5").is_file()
    assert not missing.with_suffix(".h5").exists()


def test_a_foreign_checkpoint_needs_model_data_and_loss(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build(width=3):\n    return nn.Linear(width, 2)\n"
        "def load(n=20):\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    return torch.randn(n, 3, generator=g), torch.randint(2, (n,), generator=g)\n"
        "def twice(output, target):\n"
        "    return 2 * torch.nn.functional.cross_entropy(output, target)\n"
    )
    torch.save({"model_state_dict": torch.nn.Linear(3, 2).state_dict()}, "foreign.pt")
    words = ["probe", "foreign.pt", "--probe", "metrics", "--json"]
    for needed, given in [
        ("--model", ["--model", "net.py:build"]),
        ("--loss", ["--loss", "cross_entropy"]),
        ("--data", ["--data", "net.py:load"]),
    ]:
        done = run(*words)
        assert done.code == 2
        assert needed in done.err
        words += given
    once = run(*words).json["records"][0]["values"]
    assert once["num_examples"] == 20
    more = run(*words, "--data-args", '{"n": 30}').json["records"][0]["values"]
    assert more["num_examples"] == 30
    doubled = run(*words, "--loss", "net.py:twice").json["records"][0]["values"]
    assert doubled["loss"] == pytest.approx(2 * once["loss"])
    (tmp_path / "landscape.toml").write_text(
        'model = "net.py:build"\ndata = "net.py:load"\nloss = "cross_entropy"\n'
        "[data_arguments]\nn = 25\n"
    )
    by_file = run("probe", "foreign.pt", "--probe", "metrics", "--json", "--out", "other.h5")
    assert by_file.json["records"][0]["values"]["num_examples"] == 25


def test_a_probe_that_fails_leaves_the_others_and_exits_with_1(run, checkpoint):
    # Too small a budget for k pairs: eigenvalues fail, and what is deflated by them.
    done = run("probe", checkpoint, "--max-products", "5")
    assert done.code == 1
    assert "max_products=5 is too small" in done.err
    assert "metrics.loss" in ls.open_results(checkpoint.with_suffix(".h5")).table()


def test_float64_lowers_the_noise_floor(run, checkpoint):
    words = ("probe", checkpoint, "--probe", "eigenvalues", *FAST, "--json")
    single = run(*words).json["records"][0]["values"]
    double = run(*words, "--dtype", "float64").json["records"][0]["values"]
    assert double["noise_floor"] < 1e-6 * single["noise_floor"]
    assert math.isclose(double["largest"], single["largest"], rel_tol=1e-4)


def test_eigenvectors_go_into_the_file_only_when_asked_for(run, checkpoint):
    words = ("probe", checkpoint, "--probe", "eigenvalues", *FAST)
    group = run(*words, "--json").json["records"][0]["group"]
    assert "eigenvector" not in store.read(checkpoint.with_suffix(".h5"), group)
    run(*words, "--force", "--vectors")
    record = store.read(checkpoint.with_suffix(".h5"), group)
    vectors = torch.from_numpy(record["eigenvector"].values)
    assert vectors.shape == (8970, 2)
    product = ls.HessianOperator(ls.load_objective(checkpoint)).matvec(vectors[:, 0])
    assert product.norm().item() == pytest.approx(record["eigenvalue"].values[0], rel=2e-2)
