import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.execution import train

SHORT = {"pretrain_epochs": 1, "epochs": 2, "num_examples": 40, "num_members": 3, "num_scratch": 0}


@pytest.fixture(scope="module", autouse=True)
def _no_recording():
    # To trace a graph takes longer than the few steps of these tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
        yield


def test_members_of_a_global_ensemble_come_from_a_start_each(tmp_path):
    table = train("deep-ensemble", tmp_path / "out", kind="global", **SHORT).members
    starts = table.query("role == 'start'")["name"].tolist()
    assert starts == ["start-1", "start-2", "start-3"]
    assert table.query("role in ('model 1', 'member')")["start"].tolist() == starts


def test_members_of_a_local_ensemble_share_their_start_and_differ_in_their_heads(tmp_path):
    options = {**SHORT, "learning_rate": 1e-12}
    family = train("deep-ensemble", tmp_path / "out", **options)
    assert family.members.query("role == 'member'")["start"].tolist() == ["start-1"] * 2
    first, second = (
        torch.load(family.folder / f"{name}.pt", weights_only=True)["state_dict"]
        for name in ("model-1", "model-2")
    )
    near = {key: bool((first[key] - second[key]).abs().max() < 1e-6) for key in first}
    assert near == {key: not key.startswith("5.") for key in first}


def test_fewer_starts_than_members_are_taken_by_turns(tmp_path):
    options = {**SHORT, "kind": "global", "num_pretrained": 2}
    table = train("deep-ensemble", tmp_path / "out", **options).members
    members = table.query("role in ('model 1', 'member')")
    assert members["start"].tolist() == ["start-1", "start-2", "start-1"]


def test_a_global_ensemble_of_one_start_is_refused(tmp_path):
    with pytest.raises(RequestError, match="kind='global' with one start is a local ensemble"):
        train("deep-ensemble", tmp_path / "out", kind="global", num_pretrained=1, **SHORT)


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    local, apart = (
        train("deep-ensemble", tmp_path / kind, kind=kind).group("ensemble")
        for kind in ("local", "global")
    )
    assert float(local["barrier"][:-1].max()) < 0.02 < 0.3 < float(apart["barrier"][1:-1].min())
    assert float(local["test_diversity"]) < float(apart["test_diversity"])
    assert float(local["soup_test_accuracy"]) > 0.92
    assert float(apart["soup_test_accuracy"]) < 0.7
    for ensemble in (local, apart):
        assert float(ensemble["ensemble_test_accuracy"]) > 0.93
