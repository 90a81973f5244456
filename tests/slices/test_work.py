"""Work: sweeps that are killed and go on, in shards, refined, and in little memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import MLP, cut, network

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import random_directions
from landscape.slices.execution import Execution
from landscape.slices.options import SweepOptions
from landscape.slices.sweep import merge
from landscape.slices.sweeping import plane

TESTS = Path(__file__).parents[1]
BATCHED = Execution("batched", 7)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def options(**given):
    return SweepOptions(**({"execution": "loop", "caveats": False} | given))


model, inputs, labels = network(MLP, num=30)
batches = cut(inputs, labels, 8)
objective = Objective(model, batches)
directions = random_directions(objective, 2)
FIELDS = ("loss", "accuracy", "class_loss", "class_accuracy")


# -- killed, resumed, in shards -------------------------------------------------------------------


class KilledError(Exception):
    pass


def dying(after):
    def progress(done, total, _):
        if done >= after:
            raise KilledError

    return progress


@pytest.mark.parametrize("execution", ["loop", BATCHED, Execution("loop", reuse=True)], ids=str)
@pytest.mark.parametrize("after", [1, 20, 28])
def test_a_killed_sweep_goes_on_to_the_same_bits(tmp_path, after, execution):
    state = tmp_path / "state.npz"
    whole = plane(objective, directions, (5, 7), options=options(execution=execution))
    with pytest.raises(KilledError):
        plane(
            objective,
            directions,
            (5, 7),
            options=options(execution=execution, state=state, progress=dying(after)),
        )
    assert state.exists()
    counts = []
    resumed = plane(
        objective,
        directions,
        (5, 7),
        options=options(
            execution="auto",  # goes on as it began
            state=state,
            progress=lambda done, total, _: counts.append((done, total)),
        ),
    )
    for name, values in whole.fields.items():
        assert (resumed[name] == values).all()
    assert counts[0][0] > after
    assert counts[-1] == (35, 35)
    assert not state.exists()


def test_what_a_trial_chose_is_kept_for_the_rest(tmp_path):
    state = tmp_path / "state.npz"
    with pytest.raises(KilledError):
        plane(
            objective,
            directions,
            (30, 30),
            options=options(execution="auto", state=state, progress=dying(1)),
        )
    with np.load(state) as held:
        chosen = Execution(**json.loads(str(held["execution"])))
    resumed = plane(objective, directions, (30, 30), options=options(state=state))
    assert resumed.notes[-1] == f"evaluated: {chosen}"
    whole = plane(objective, directions, (30, 30), options=options(execution=chosen))
    assert (resumed.loss == whole.loss).all()


CHANGED = {
    "points": {"num": (5, 6)},
    "ends": {"radius": 0.9},
    "directions": {"directions": random_directions(objective, 2, seed=1)},
    "given directions": {"directions": normal(2, objective.space.size)},
    "fields": {"fields": ("loss",)},
    "data": {"objective": Objective(model, cut(inputs + 1, labels, 8))},
    "weights": {"objective": Objective(network(MLP, seed=1)[0], batches)},
    "further data": {"also": {"test": objective}},
    "clip": {"options": options(clip=5.0)},
    "shard": {"options": options(shard=(0, 2))},
    "center": {"center": objective.theta + 1e-9},
    "policy": {"bn": "batch"},
}


@pytest.mark.parametrize("changes", CHANGED.values(), ids=list(CHANGED))
def test_the_state_of_another_sweep_is_refused(tmp_path, changes):
    state = tmp_path / "state.npz"
    with pytest.raises(KilledError):
        plane(objective, directions, (5, 7), options=options(state=state, progress=dying(3)))
    changes = dict(changes)
    own = changes.pop("objective", objective)
    drawn = changes.pop("directions", directions)
    given = changes.pop("options", options())
    request = {"num": (5, 7)} | changes
    before = state.read_bytes()
    with pytest.raises(RequestError, match=r"belongs to another slice.*Name another file"):
        plane(
            own,
            drawn,
            options=SweepOptions(**(vars(given) | {"state": state})),
            **request,
        )
    assert state.read_bytes() == before


def test_a_stream_goes_on_with_other_numbers_of_points_at_a_time(tmp_path, monkeypatch):
    class Loader:
        def __iter__(self):
            return iter(batches)

    state = tmp_path / "state.npz"
    streamed = Objective(model, Loader(), cache_bytes=0)
    room = 8 * 10 * streamed.theta.nbytes  # an eighth of it holds ten points
    monkeypatch.setattr("landscape.slices.evaluation.available_bytes", lambda _: room)
    with pytest.raises(KilledError):
        plane(streamed, directions, (5, 7), options=options(state=state, progress=dying(5)))
    monkeypatch.undo()
    seen = []
    resumed = plane(
        streamed,
        directions,
        (5, 7),
        options=options(state=state, progress=lambda *told: seen.append(told)),
    )
    assert seen == [(35, 35, "")]
    whole = plane(objective, directions, (5, 7), options=options())
    assert (resumed.loss == whole.loss).all()


def test_the_state_of_other_given_directions_is_refused(tmp_path):
    state, given = tmp_path / "state.npz", normal(2, objective.space.size)
    with pytest.raises(KilledError):
        plane(objective, given, 3, options=options(state=state, progress=dying(2)))
    with pytest.raises(RequestError, match="belongs to another slice"):
        plane(objective, given + 1e-12, 3, options=options(state=state))
    resumed = plane(objective, given.clone(), 3, options=options(state=state))
    assert (resumed.loss == plane(objective, given, 3, options=options()).loss).all()


KILLED_BY_A_SIGNAL = """
    import os, signal, sys
    import torch
    from oracles import MLP, cut, network
    import landscape as ls
    from landscape.slices import ledger
    from landscape.slices.execution import Execution

    ledger._SECONDS = 0.0  # write at once
    state, out, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model, inputs, labels = network(MLP, num=30)
    objective = ls.Objective(model, cut(inputs, labels, 8))

    def progress(done, total, _):
        if done >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    sweep = ls.plane(
        objective,
        ls.random_directions(objective, 2),
        (5, 7),
        options=ls.SweepOptions(
            execution=Execution("batched", 4), state=state, progress=progress, caveats=False
        ),
    )
    torch.save({name: torch.as_tensor(field) for name, field in sweep.fields.items()}, out)
"""


@pytest.mark.slow
def test_a_sweep_killed_by_a_signal_goes_on_to_the_same_bits(tmp_path):
    script = tmp_path / "sweep.py"
    script.write_text(textwrap.dedent(KILLED_BY_A_SIGNAL))
    environment = os.environ | {"PYTHONPATH": str(TESTS)}

    def run(state, out, after):
        command = [sys.executable, str(script), str(state), str(out), str(after)]
        return subprocess.run(command, env=environment, check=False).returncode

    state, out, whole = tmp_path / "state.npz", tmp_path / "out.pt", tmp_path / "whole.pt"
    for after in (5, 20):
        assert run(state, out, after) == -signal.SIGKILL
        assert state.exists()
        assert not out.exists()
    assert run(state, out, 10**6) == 0
    assert not state.exists()
    assert run(tmp_path / "none.npz", whole, 10**6) == 0
    resumed, expected = torch.load(out), torch.load(whole)
    assert resumed.keys() == expected.keys()
    for name, field in expected.items():
        assert torch.equal(resumed[name], field)


@pytest.mark.parametrize("count", [1, 3, 35])
@pytest.mark.parametrize("execution", ["loop", BATCHED], ids=str)
def test_merged_shards_are_one_run(count, execution):
    def part(**given):
        return plane(objective, directions, (5, 7), options=options(execution=execution, **given))

    whole, shards = part(), [part(shard=(index, count)) for index in range(count)]
    assert sum(shard.done.sum() for shard in shards) == 35
    if count > 1:
        assert "points missing" in shards[0].status
        assert np.isnan(shards[0].loss[~shards[0].done]).all()
    merged = merge(shards[::-1])
    assert merged.done.all()
    for name, values in whole.fields.items():
        if execution == "loop":
            assert (merged[name] == values).all()
        else:
            np.testing.assert_allclose(merged[name], values, rtol=1e-12, atol=1e-14)
    assert merged.settings == whole.settings


def test_progress_of_a_shard_is_that_of_its_own_points():
    seen = []
    plane(
        objective,
        directions,
        (3, 4),
        options=options(shard=(1, 5), progress=lambda *told: seen.append(told)),
    )
    assert seen == [(1, 3, ""), (2, 3, ""), (3, 3, "")]  # 12 points in 5 parts: 3, 3, 2, 2, 2


def test_refinement_composes_with_what_else_there_is(tmp_path):
    state = tmp_path / "state.npz"
    request = {"num": (17, 17), "radius": 0.5, "also": {"test": objective}, "fields": FIELDS}
    whole = plane(objective, directions, options=options(tolerance=2e-4), **request)
    assert 0 < whole.done.mean() < 1
    assert np.isfinite(whole.loss).all()
    assert (whole["test_loss"] == whole.loss).all()
    assert np.isnan(whole.standard_error[~whole.done]).all()
    with pytest.raises(KilledError):
        plane(
            objective,
            directions,
            options=options(tolerance=2e-4, state=state, progress=dying(90)),
            **request,
        )
    resumed = plane(objective, directions, options=options(tolerance=2e-4, state=state), **request)
    for name, values in whole.fields.items():
        np.testing.assert_array_equal(resumed[name], values)


# -- memory ---------------------------------------------------------------------------------------

PEAK = """
    import resource, sys
    import torch
    from torch import nn
    import landscape as ls
    from landscape.slices.execution import Execution

    torch.set_num_threads(1)
    num, chunk = int(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))  # 0.5 MiB
    objective = ls.Objective(model, (torch.randn(64, 256), torch.arange(64) % 10))
    execution = Execution("batched", chunk) if chunk > 1 else "loop"
    ls.plane(
        objective,
        ls.random_directions(objective, 2),
        num,
        options=ls.SweepOptions(execution=execution, caveats=False),
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 4])
def test_peak_memory_does_not_grow_with_the_points(tmp_path, chunk):
    script = tmp_path / "peak.py"
    script.write_text(textwrap.dedent(PEAK))

    def peak(num):
        command = [sys.executable, str(script), str(num), str(chunk)]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    few, many = peak(3), peak(40)  # MiB; all 1,600 points at once would be 830
    assert many < few + 20
