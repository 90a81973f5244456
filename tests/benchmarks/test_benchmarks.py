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
    assert names == ["products", "eigenvalues", "training"]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [(["product"], "products"), (["products", "--no-peers", "--models", "resnet2"], "resnet20")],
)
def test_unknown_name_is_a_wrong_request_with_the_nearest_right_one(arguments, near):
    done = benchmarks(*arguments)
    assert done.returncode == 2
    assert f"Did you mean {near!r}?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["products", "--no-peers", "--repeats", "0"]])
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
