"""Every option of a plan reaches the function that it is meant for, and tells records apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learned_records import measured
from torch import nn

from landscape import learned_probes
from landscape.errors import RequestError
from landscape.learned_plan import LearnedPlan
from landscape.learned_probes import LearnedProbes
from landscape.objective import Objective
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.request import Source
from landscape.trainers.family import INDEX

OTHERS = object()  # stands for the test data
MEMBERS = (Path("a/first.pt"), Path("a/second.pt"))
PLAN = LearnedPlan(
    layers=("0", "2"),
    layer_pool="none",
    penalties=(0.1, 1.0),
    validation_share=0.4,
    controls=False,
    num_neighbors=7,
    target="label",
    blocks=3,
    borders=(1, 3),
    band_norm="inf",
    dormant_below=0.5,
    num_bins=4,
    shown=0,
    members=MEMBERS,
)
LAYERS = {"layers": ("0", "2"), "pool": "none"}


def small():
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return Objective(nn.Linear(4, 2), (inputs, torch.arange(8) % 2))


@dataclass
class Alone:
    """What a company is asked for, without files."""

    objective: Objective = field(default_factory=small)
    checkpoint: Path = Path("a/first.pt")
    source: Source = field(default_factory=Source)

    def test(self, data, arguments):
        return {"test": OTHERS}


@pytest.fixture
def points(monkeypatch):
    """Weights of the members, by the names of their files."""
    held = {"first.pt": torch.zeros(10), "second.pt": torch.ones(10)}

    def load_point(path, source, objective):
        return held[path.name], {"buffer": held[path.name]}

    monkeypatch.setattr(learned_probes, "load_point", load_point)
    monkeypatch.setattr(
        learned_probes,
        "read_checkpoint",
        lambda path, unsafe_load: SimpleNamespace(step={"first.pt": 3, "second.pt": 8}[path.name]),
    )
    return held


@pytest.mark.parametrize(
    ("probe", "function", "expected"),
    [
        (
            "linear",
            "probe_layers",
            LAYERS
            | {"penalties": (0.1, 1.0), "validation_share": 0.4, "controls": False, "k": 7}
            | {"test": OTHERS, "seed": 5},
        ),
        ("depth", "prediction_depth", LAYERS | {"k": 7, "target": "label", "test": OTHERS}),
        ("features", "feature_use", {"block": 3, "seed": 5}),
        ("bands", "band_use", {"borders": (1, 3), "norm": float("inf")}),
        ("sparsity", "layer_sparsity", LAYERS | {"tau": 0.5}),
        ("ensemble", "family_report", {"soup": True, "num_bins": 4, "seed": 5}),
        ("memorization", "memorization", {"seed": 5}),
    ],
)
def test_options_reach_their_function(monkeypatch, points, probe, function, expected):
    asked = {}

    def called(*_, **options):
        asked.update(options)
        return measured(probe)

    monkeypatch.setattr(learned_probes, function, called)
    monkeypatch.setattr(LearnedProbes, "_runs", None)
    company = Alone()
    found = LearnedProbes(company, PLAN, seed=5).measure(probe, progress := (lambda *_: None))
    assert type(found) is type(measured(probe))
    assert found.provenance == company.objective.provenance()
    assert asked.pop("progress", progress) is progress
    assert asked.pop("training", company.objective) is company.objective
    assert asked == expected


@pytest.mark.parametrize(
    ("probe", "function"), [("linear", "probe_layers"), ("depth", "prediction_depth")]
)
def test_what_was_not_asked_for_has_the_functions_own_default(monkeypatch, probe, function):
    asked = {}

    def called(*_, **options):
        asked.update(options)
        return measured(probe)

    monkeypatch.setattr(learned_probes, function, called)
    LearnedProbes(Alone(), LearnedPlan(), seed=0).measure(probe, lambda *_: None)
    assert not {"k", "penalties"} & set(asked)


def test_ensembles_are_scored_on_the_test_data_and_dynamics_have_the_steps(monkeypatch, points):
    given = {}

    def report(objective, thetas, buffers, **options):
        given["ensemble"] = [objective, thetas, buffers, options["training"]]
        return measured("ensemble")

    def dynamics(objective, thetas, buffers, steps, progress):
        given["dynamics"] = steps
        return measured("dynamics")

    monkeypatch.setattr(learned_probes, "family_report", report)
    monkeypatch.setattr(learned_probes, "checkpoint_dynamics", dynamics)
    company = Alone()
    LearnedProbes(company, PLAN, seed=0).measure("ensemble", lambda *_: None)
    scored, thetas, buffers, training = given["ensemble"]
    assert scored is OTHERS
    assert training is company.objective
    assert thetas == list(points.values())
    assert [held["buffer"] for held in buffers] == thetas
    LearnedProbes(company, PLAN, seed=0).measure("dynamics", lambda *_: None)
    assert given["dynamics"] == [3, 8]
    turned = LearnedPlan(members=MEMBERS[::-1])
    LearnedProbes(company, turned, seed=0).measure("dynamics", lambda *_: None)
    assert given["dynamics"] is None  # not in the order of the steps


def test_a_record_is_told_by_its_seed_and_by_the_members_names_and_weights(points):
    def settings(probe, *members, seed=0):
        return LearnedProbes(Alone(), LearnedPlan(members=members), seed=seed).settings(probe)

    assert settings("bands", seed=5) == {"band_norm": "1", "seed": 5}
    once = settings("ensemble", *MEMBERS)
    assert once["members"] == ["first.pt", "second.pt"]
    assert settings("ensemble", *MEMBERS) == once
    assert settings("ensemble", *MEMBERS, seed=1) != once
    points["second.pt"] = 2 * points["second.pt"]
    changed = settings("ensemble", *MEMBERS)
    assert changed["members"] == once["members"]
    assert changed["members_fingerprint"] != once["members_fingerprint"]
    with pytest.raises(RequestError, match="several checkpoints of one run"):
        settings("dynamics", MEMBERS[0])


def test_memorization_is_told_by_the_runs_and_masks_go_before_a_family(
    monkeypatch, tmp_path, points
):
    (tmp_path / INDEX).touch()
    masks = np.random.default_rng(0).random((2, 8)) < 0.5
    np.save(tmp_path / "masks.npy", masks)
    company = Alone(checkpoint=tmp_path / "first.pt")
    plan = LearnedPlan(members=MEMBERS)

    def settings(plan, correct):
        runs = SubsetRuns(masks, correct)
        monkeypatch.setattr(SubsetRuns, "from_family", lambda folder: runs)
        return LearnedProbes(company, plan, seed=0).settings("memorization")

    once = settings(plan, masks)
    assert set(once) == {"shown", "seed", "runs"}
    assert settings(plan, masks) == once
    assert settings(plan, ~masks)["runs"] != once["runs"]
    named = LearnedPlan(members=MEMBERS, masks=str(tmp_path / "masks.npy"))
    found = settings(named, masks)
    assert set(found) == {"shown", "seed", "masks", "members", "members_fingerprint"}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings(LearnedPlan(members=MEMBERS, masks="~/masks.npy"), masks) == found


@pytest.mark.parametrize(
    ("data", "is_own", "name"),
    [("other.py:load", True, "ticks"), (None, False, "ticks"), (None, True, "digits")],
)
def test_only_the_own_ticks_say_what_a_feature_is(monkeypatch, data, is_own, name):
    arguments = {"name": name, "seed": 3, "arguments": {"margin": 0.2, "num_examples": 50}}
    factory = SimpleNamespace(is_own=is_own, arguments=arguments)
    monkeypatch.setattr(
        learned_probes, "read_checkpoint", lambda path, unsafe_load: SimpleNamespace(data=factory)
    )
    asked = {}

    def tick_use(objective, **options):
        asked.update(options)
        return measured("features")

    monkeypatch.setattr(learned_probes, "tick_use", tick_use)
    probes = LearnedProbes(Alone(source=Source(data=data)), LearnedPlan(), seed=0)
    with pytest.raises(RequestError, match="--blocks 2"):
        probes.measure("features", lambda *_: None)
    factory.is_own, arguments["name"] = True, "ticks"
    LearnedProbes(Alone(), LearnedPlan(), seed=0).measure("features", lambda *_: None)
    assert asked == {"seed": 3, "margin": 0.2}
