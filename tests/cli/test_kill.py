"""SIGKILL at any moment: a readable file, and every record that was reported as finished."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# A parent that has imported everything, and run nothing, forks the victims: a fresh interpreter
# for each would spend its life importing.
_DRIVER = """
import json, os, random, signal, sys, time
import landscape.cli.app, landscape.probing, landscape.trainers.models, landscape.trainers.data
from landscape import store

checkpoint, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
target = os.path.splitext(checkpoint)[0] + ".h5"
words = ["landscape", "probe", checkpoint, "--num-steps", "15", "-k", "2", "--force"]

def victim(log):
    pid = os.fork()
    if pid:
        return pid
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch
    torch.set_num_threads(1)
    sys.argv = words
    try:
        landscape.cli.app.main()
    finally:
        os._exit(0)

def reported(log):
    names = {"metrics", "eigenvalues", "trace", "density"}
    return names & {line.split()[0] for line in open(log) if line.startswith("  ")}

log = checkpoint + ".log"
began = time.time()
os.waitpid(victim(log), 0)
whole = time.time() - began
assert len(reported(log)) == 4, open(log).read()
generator = random.Random(seed)
ever, killed, partial = reported(log), 0, 0
for _ in range(kills):
    if generator.random() < 0.5:
        os.remove(target)  # half of them begin without a file
        ever = set()
    pid = victim(log)
    time.sleep(generator.uniform(0, whole))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed += os.WIFSIGNALED(status)
    new = reported(log)
    partial += 0 < len(new) < 4
    ever |= new
    if not os.path.exists(target):
        assert not ever, ever
        # Something to remove next time.
        os.waitpid(victim(log), 0)
        ever = reported(log)
    found = {}
    for record in store.records(target):
        found[record.probe] = store.read(target, record.group)  # each one whole
    assert ever <= found.keys(), (ever, set(found))
os.waitpid(victim(log), 0)
print(json.dumps({"killed": killed, "partial": partial, "whole": whole,
                  "left": sorted(os.listdir(os.path.dirname(checkpoint)))}))
"""


def _kill(trained: Path, folder: Path, kills: int, seed: int) -> dict[str, object]:
    checkpoint = Path(shutil.copy(trained, folder / "ckpt.pt"))
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(checkpoint), str(kills), str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.parametrize(("kills", "seed"), [(8, 0), pytest.param(50, 1, marks=pytest.mark.slow)])
def test_a_killed_probe_leaves_a_readable_file_and_every_finished_record(
    trained, tmp_path, kills, seed
):
    report = _kill(trained, tmp_path, kills, seed)
    assert report["killed"] > kills / 2  # it met them at work
    assert report["partial"] > 0
    # The last run cleans up what the dead have left.
    assert set(report["left"]) <= {"ckpt.pt", "ckpt.h5", "ckpt.pt.log", ".ckpt.h5.lock"}
