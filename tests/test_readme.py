"""Every command and code block of the README runs, in the order in which a reader meets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w.]+\.(?:py|toml))\n")


def test_every_block_runs_in_order(tmp_path):
    blocks = _BLOCK.findall(README.read_text())
    languages = {language for language, _ in blocks}
    assert languages == {"sh", "bash", "python", "toml"}  # a new language would go untested
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    python: list[str] = []
    ran = 0
    for language, text in blocks:
        named = _FILE.match(text)
        if named:
            (tmp_path / named[1]).write_text(text)
        elif language == "python":
            # A reader goes on in the same session: blocks before it have run.
            python.append(text)
            _run([sys.executable, "-W", "error", "-c", "\n".join(python)], tmp_path, environment)
            ran += 1
        elif language == "bash":
            for line in text.strip().splitlines():
                _run(["bash", "-c", line], tmp_path, environment)
                ran += 1
    assert ran >= 12
    assert (tmp_path / "mine.h5").is_file()


def test_the_two_commands_are_the_ones_that_make_knows():
    commands = next(
        text for language, text in _BLOCK.findall(README.read_text()) if language == "sh"
    )
    targets = re.findall(r"^make (\w+)", commands, re.MULTILINE)
    makefile = (README.parent / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
