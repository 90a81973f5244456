"""A wrong request: one clear line, exit code 2, nothing written, nothing lost."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from torch import nn

NET = """
import torch
from torch import nn

def build(classes=2):
    return nn.Linear(3, classes)

def load(n=8, labels=2, nan=False):
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 3, generator=g)
    if nan:
        inputs[1, 2] = float("nan")
    return inputs, torch.randint(labels, (n,), generator=g)

def empty():
    return []
"""
FOREIGN = ("--model", "net.py:build", "--data", "net.py:load", "--loss", "cross_entropy")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    torch.save(nn.Linear(3, 2).state_dict(), "good.pt")
    torch.save(nn.Linear(3, 2), "module.pt")
    torch.save({"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}, "nan.pt")
    torch.save({"fc.weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, "names.pt")
    torch.save({"weight": torch.zeros(2, 5), "bias": torch.zeros(2)}, "shapes.pt")
    (tmp_path / "short.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:400])
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Evil()}))
    (tmp_path / "foreign.h5").write_text("no HDF5 at all")
    return tmp_path


CASES = {
    "a missing file": (["goood.pt", *FOREIGN], ["goood.pt", "good.pt"]),
    "a truncated file": (["short.pt", *FOREIGN], ["short.pt"]),
    "a malicious pickle": (["evil.pt", *FOREIGN], ["mkdir", "--unsafe-load"]),
    "a whole module": (["module.pt", *FOREIGN], ["--unsafe-load", "state_dict"]),
    "names that do not fit": (["names.pt", *FOREIGN], ["fc.weight", "weight"]),
    "shapes that do not fit": (["shapes.pt", *FOREIGN], ["(2, 5)", "(2, 3)"]),
    "NaN in the weights": (["nan.pt", *FOREIGN], ["weight", "finite"]),
    "NaN in the data": (
        ["good.pt", *FOREIGN, "--data-args", '{"nan": true}'],
        ["NaN", "batch 0"],
    ),
    "labels out of range": (
        ["good.pt", *FOREIGN, "--data-args", '{"labels": 9}'],
        ["labels out of range", "2 classes"],
    ),
    "an empty loader": (["good.pt", *FOREIGN, "--data", "net.py:empty"], ["no batch"]),
    "k beyond the parameters": (["good.pt", *FOREIGN, "-k", "9"], ["k=9", "between 1 and 8"]),
    "an unknown probe": (
        ["good.pt", *FOREIGN, "--probe", "eigenvalue"],
        ["'eigenvalue'", "Did you mean 'eigenvalues'?"],
    ),
    "an unknown loss": (["good.pt", *FOREIGN, "--loss", "crossentropy"], ["'cross_entropy'"]),
    "an unknown module": (["good.pt", *FOREIGN, "--model", "nett.py:build"], ["net.py"]),
    "an unknown function": (["good.pt", *FOREIGN, "--model", "net.py:bild"], ["'build'"]),
    "arguments that do not fit": (
        ["good.pt", *FOREIGN, "--model-args", '{"clases": 3}'],
        ["clases", "classes"],
    ),
    "arguments that are no JSON": (["good.pt", *FOREIGN, "--model-args", "{3"], ["JSON"]),
    "a glob without parameters": (["good.pt", *FOREIGN, "--params", "wieght"], ["weight"]),
    "an unknown BatchNorm policy": (["good.pt", *FOREIGN, "--bn", "evil"], ["'eval'"]),
    "an unknown dtype": (["good.pt", *FOREIGN, "--dtype", "float46"], ["'float64'"]),
    "a device that is not there": (["good.pt", *FOREIGN, "--device", "cuda:99"], ["cuda:99"]),
    "a result file that is none": (["good.pt", *FOREIGN, "--out", "foreign.h5"], ["foreign.h5"]),
}


@pytest.mark.parametrize(("words", "said"), CASES.values(), ids=CASES)
def test_it_says_what_came_and_what_to_type(run, folder, words, said):
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = run("probe", *words)
    assert done.code == 2
    assert done.out.startswith(words[0]) or done.out == ""
    for part in said:
        assert part in done.err
    assert "Traceback" not in done.err
    after = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before  # nothing written, nothing lost
    assert not (folder / "executed").exists()


def test_json_requests_get_the_error_as_json(run, folder):
    done = run("probe", "missing.pt", *FOREIGN, "--json")
    assert done.code == 2
    assert "missing.pt" in done.json["error"]


def test_a_misspelt_command_gets_the_nearest(run):
    done = run("prob")
    assert done.code == 2
    assert "probe" in done.err


def test_a_misspelt_option_gets_the_nearest(run, folder):
    done = run("probe", "good.pt", "--forse")
    assert done.code == 2
    assert "--force" in done.err


def test_several_outs_are_refused(run, folder):
    done = run("probe", "good.pt", "nan.pt", *FOREIGN, "--out", "one.h5")
    assert done.code == 2
    assert "--out" in done.err


def test_data_that_do_not_fit_the_model_are_a_wrong_request(run, folder):
    (folder / "net.py").write_text(NET.replace("torch.randn(n, 3", "torch.randn(n, 4"))
    done = run("probe", "good.pt", *FOREIGN)
    assert done.code == 2
    assert "(8, 4) float32" in done.err
    assert not (folder / "good.h5").exists()
