"""A trained checkpoint, and the command line without a new process for each call."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from landscape.cli.app import main
from landscape.trainers import train


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("probe", path)`: exit code, standard output, standard error."""

    def call(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["landscape", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A real checkpoint, trained for two epochs."""
    return train("single", tmp_path_factory.mktemp("trained"), epochs=2)[0]


@pytest.fixture
def checkpoint(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it, alone in a fresh current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(trained, tmp_path / "ckpt.pt"))
