"""Every command and code block of the README runs, in the order in which a reader meets it."""

from __future__ import annotations

import json
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
    ran = 0
    reader = _Reader(tmp_path, environment)
    for language, text in blocks:
        named = _FILE.match(text)
        if named:
            (tmp_path / named[1]).write_text(text)
        elif language == "python":
            reader.types(text)
            ran += 1
        elif language == "bash":
            for line in text.strip().splitlines():
                _run(["bash", "-c", line], tmp_path, environment)
                ran += 1
    reader.leaves()
    assert ran >= 18
    assert (tmp_path / "mine.h5").is_file()


def test_the_two_commands_are_the_ones_that_make_knows():
    commands = next(
        text for language, text in _BLOCK.findall(README.read_text()) if language == "sh"
    )
    targets = re.findall(r"^make (\w+)", commands, re.MULTILINE)
    makefile = (README.parent / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


_SESSION = """
import json, sys, traceback
namespace = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        exec(compile(json.loads(line), "README.md", "exec"), namespace)
        answer = ""
    except BaseException:
        answer = traceback.format_exc()
    print(json.dumps(answer), file=sys.stderr, flush=True)
"""


class _Reader:
    """Goes through the Python blocks in one session, as a reader at a prompt does."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.session = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _SESSION],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def types(self, block: str) -> None:
        self.session.stdin.write(json.dumps(block) + "\n")
        self.session.stdin.flush()
        error = json.loads(self.session.stderr.readline())
        assert not error, f"{block}\n{error}"

    def leaves(self) -> None:
        self.session.stdin.close()
        assert self.session.wait(timeout=60) == 0
        self.session.stderr.close()


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
