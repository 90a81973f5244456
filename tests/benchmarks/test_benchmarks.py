"""The benchmarks run, and say what they measured; the numbers themselves are not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import landscape

ROOT = Path(landscape.__file__).parent.parent


def benchmarks(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # two of them on one core would wait in turn
        capture_output=True,
        text=True,
    )


def test_list_names_each_benchmark_on_a_line():
    done = benchmarks("--list")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["products", "eigenvalues", "training", "slices", "paths", "probes"]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["product"], "products"),
        (["products", "--no-peers", "--models", "resnet2"], "resnet20"),
        (["slices", "--no-peers", "--parts", "exact"], "exactness"),
        (["paths", "--no-peers", "--parts", "matchin"], "matching"),
    ],
)
def test_unknown_name_is_a_wrong_request_with_the_nearest_right_one(arguments, near):
    done = benchmarks(*arguments)
    assert done.returncode == 2
    assert f"Did you mean {near!r}?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["products", "--no-peers", "--repeats", "0"],
        ["slices", "--no-peers", "--images", "1"],
        ["slices", "--no-peers", "--side", "2"],
        ["paths", "--no-peers", "--solutions", "2"],
        ["paths", "--no-peers", "--widths", "8,4"],
    ],
)
def test_wrong_arguments_exit_2_in_one_line(arguments):
    done = benchmarks(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_products_prints_ratio_error_and_peak_memory_of_each_contestant(tmp_path):
    arguments = ["--models", "mlp", "--repeats", "1", "--no-peers", "--json", tmp_path / "a.json"]
    done = benchmarks("products", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "a.json").read_text())["mlp"]["contestants"]
    assert [row["name"] for row in rows] == [
        "gradient",
        "landscape, graphs kept",
        "landscape, rebuilt",
    ]
    for row in rows:
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(row["name"] + " ")]
        assert f"{row['ratio']['median']:.2f}" in line
        assert "iB" in line
        assert row["error"] < 1e-5
        assert 2**20 < row["peak"] < 2**29
    assert rows[0]["ratio"]["median"] == 1
    assert "target 2.0: " in done.stdout
    assert "WRONG" not in done.stdout


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """What `slices` prints and writes of planes with few points and few images."""
    written = tmp_path_factory.mktemp("slices") / "a.json"
    arguments = ["--side", "4", "--images", "4", "--repeats", "1", "--no-peers", "--no-compiled"]
    done = benchmarks("slices", *arguments, "--json", written)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), json.loads(written.read_text())


def test_slices_prints_how_exact_each_plane_is(slices):
    printed, found = slices
    assert len(found["exactness"]) == 9
    for check in found["exactness"]:
        assert check["measured"] <= check["bound"] <= 1e-12
        assert any(line.startswith(check["claim"] + " ") for line in printed)


@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_slices_compares_seconds_of_the_same_losses(slices, network):
    printed, found = slices
    compared = found[network]
    names = [row["name"].split(",")[0] for row in compared["rows"]]
    assert names == {"cnn": ["landscape", "loop"], "mlp": ["landscape", "loop", "loop"]}[network]
    assert compared["flops"] == pytest.approx(
        {"cnn": 4 * 81.6e6, "mlp": 1438 * 17664}[network], 1e-3
    )
    for row in compared["rows"]:
        assert row["difference"] < 1e-5
        assert row["point"][0] > 0
        assert len(row["point"]) == len(row["overhead"]) == len(compared["gemm"]) == 1
        assert any(line.startswith(row["name"] + " ") for line in printed)
    assert not any("WRONG" in line for line in printed)


def test_slices_measures_the_memory_of_planes_that_differ_in_points_alone(slices):
    printed, found = slices
    mlp, cnn = found["memory"]
    assert mlp["points"] == [1, 16, 49]
    assert cnn["points"] == [4, 16]
    for growth in found["memory"]:
        assert growth["results"] == sorted(growth["results"])
        assert all(0 <= peak < 2**29 for peak in growth["peaks"])
        assert sum(line.startswith(growth["network"] + ": ") for line in printed) >= 2


def test_slices_says_of_each_target_whether_it_was_met(slices):
    printed, found = slices
    promises = [target["promise"] for target in found["targets"]]
    assert sum("takes 3 times as long" in promise for promise in promises) == 1
    assert sum("takes 10 times as long" in promise for promise in promises) == 2
    assert sum("75% of the GEMM rate" in promise for promise in promises) == 1
    assert sum("results aside" in promise for promise in promises) == 3
    for target in found["targets"]:
        (line,) = [
            line
            for line in printed
            if line.startswith(target["promise"]) and line.endswith(" " + target["verdict"])
        ]
        assert target["found"] in line
