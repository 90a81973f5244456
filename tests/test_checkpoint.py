"""Checkpoints: our own written and read back, those of others understood, networks built."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

import landscape
from landscape.checkpoint import (
    CheckpointError,
    build_model,
    load_state,
    read_checkpoint,
    write_checkpoint,
)
from landscape.errors import RequestError
from landscape.factory import Factory

MLP = Factory(
    "landscape.trainers.models:mlp",
    {"in_features": 4, "hidden": [3], "num_classes": 2, "activation": "tanh"},
)
DIGITS = Factory("landscape.trainers.data:digits", {"split": "train"})


def mlp(seed=0):
    torch.manual_seed(seed)
    network = MLP()
    assert isinstance(network, nn.Module)
    return network


def write(path, network=None, **changes):
    request = {
        "model_factory": MLP,
        "data_factory": DIGITS,
        "loss": "cross_entropy",
        "recipe": {"name": "single", "learning_rate": 0.1, "hidden": (3, 4)},
        "seed": 5,
        "step": 12,
        "metrics": {"train_loss": 0.25, "test_accuracy": np.float64(0.5)},
    }
    return write_checkpoint(path, network or mlp(), **{**request, **changes})


def assert_same(tensors, expected):
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Ours ---


def test_what_we_write_we_read_back(tmp_path):
    network = mlp()
    path = write(tmp_path / "a.pt", network)
    checkpoint = read_checkpoint(path)
    assert path == tmp_path / "a.pt"
    assert_same(checkpoint.state_dict, network.state_dict())
    assert checkpoint.path == path
    assert checkpoint.kind == "landscape"
    assert checkpoint.model == MLP
    assert checkpoint.data == DIGITS
    assert checkpoint.loss == "cross_entropy"
    assert checkpoint.recipe == {"name": "single", "learning_rate": 0.1, "hidden": [3, 4]}
    assert (checkpoint.seed, checkpoint.step) == (5, 12)
    assert checkpoint.metrics == {"train_loss": 0.25, "test_accuracy": 0.5}
    assert checkpoint.module is None
    assert checkpoint.notes == ()


def test_our_checkpoints_open_with_plain_torch(tmp_path):
    content = torch.load(write(tmp_path / "a.pt"), weights_only=True)
    assert content["format"] == "landscape-checkpoint"
    assert content["format_version"] == 1
    assert content["model"] == {"factory": MLP.path, "arguments": MLP.arguments}
    assert content["landscape_version"] == landscape.__version__
    assert type(content["torch_version"]) is str


def test_our_checkpoints_build_their_own_network(tmp_path):
    network = mlp()
    built = build_model(read_checkpoint(write(tmp_path / "a.pt", network)))
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(built(inputs), network(inputs), rtol=0, atol=0)


def test_writing_replaces_and_leaves_nothing_beside(tmp_path):
    write(tmp_path / "a.pt", step=1)
    write(tmp_path / "a.pt", step=2)
    assert read_checkpoint(tmp_path / "a.pt").step == 2
    assert os.listdir(tmp_path) == ["a.pt"]


def test_what_was_read_outlives_a_new_file_of_the_same_name(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a.pt", mlp(0)))
    write(tmp_path / "a.pt", mlp(1))
    assert_same(checkpoint.state_dict, mlp(0).state_dict())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "a.pt", step=1)

    def full_disk(content, file):
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.pt", step=2)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "a.pt").step == 1
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits of POSIX")
def test_a_checkpoint_gets_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "other").write_text("")
    write(tmp_path / "a.pt")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "a.pt")]
    assert modes[0] == modes[1]


def test_a_member_of_a_stack_is_written_alone(tmp_path):
    stack = torch.zeros(1000, 2, 4)
    network = nn.Linear(4, 2)
    network.weight.data = stack[3]
    write(tmp_path / "a.pt", network)
    assert (tmp_path / "a.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": {"optimizer": torch.optim.SGD}}, "recipe holds what JSON cannot"),
        ({"metrics": {"loss": torch.tensor(1.0)}}, "metrics holds what JSON cannot"),
        ({"model_factory": Factory("a:b", {"x": {1}})}, "model_factory holds what JSON cannot"),
    ],
)
def test_what_a_reader_could_not_read_is_not_written(tmp_path, changes, said):
    with pytest.raises(CheckpointError, match=said):
        write(tmp_path / "a.pt", **changes)
    assert os.listdir(tmp_path) == []


def test_writing_into_no_folder_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no folder"):
        write(tmp_path / "runs" / "a.pt")


def altered(path, **changes):
    content = torch.load(write(path), weights_only=True)
    torch.save({**content, **changes}, path)
    return path


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    message = refusal(altered(tmp_path / "a.pt", format_version=2))
    assert "format version 2" in message
    assert "reads up to 1" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"state_dict": {}},
        {"state_dict": None},
        {"format_version": None},
        {"recipe": []},
        {"recipe": {"a": torch.ones(1)}},
        {"metrics": {"loss": "low"}},
        {"seed": "5"},
        {"model": None},
        {"model": {"factory": 3, "arguments": {}}},
        {"data": {"factory": "a:b", "arguments": [1]}},
    ],
)
def test_a_damaged_field_of_ours_is_an_error(tmp_path, changes):
    refusal(altered(tmp_path / "a.pt", **changes))


@pytest.mark.parametrize(
    "factory",
    [
        "os:system",
        "builtins:exec",
        "landscape.trainers.models:torch.load",
        "landscape.trainers.recipes.single:run",
        "landscape.store:save",
        "landscape.trainers.evil.py:run",
    ],
)
def test_a_checkpoint_cannot_name_foreign_code(tmp_path, monkeypatch, factory):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "landscape.trainers.evil.py").write_text("open('it ran', 'w')\n")
    before = list(sys.path)
    described = {"factory": factory, "arguments": {"command": "touch 'it ran'"}}
    checkpoint = read_checkpoint(altered(tmp_path / "a.pt", model=described))
    with pytest.raises(CheckpointError, match="was not called") as caught:
        build_model(checkpoint)
    assert factory in str(caught.value)
    assert "--model" in str(caught.value)
    assert "--unsafe-load" in str(caught.value)
    assert not (tmp_path / "it ran").exists()
    assert sys.path == before


def test_unsafe_load_calls_the_factory_that_a_checkpoint_names(tmp_path):
    described = {"factory": "torch.nn:Linear", "arguments": {"in_features": 2, "out_features": 1}}
    path = altered(tmp_path / "a.pt", model=described, state_dict=nn.Linear(2, 1).state_dict())
    assert isinstance(build_model(read_checkpoint(path), unsafe_load=True), nn.Linear)


def test_a_given_factory_wins(tmp_path):
    described = {"factory": "os:system", "arguments": {"command": "false"}}
    checkpoint = read_checkpoint(altered(tmp_path / "a.pt", model=described))
    assert_same(build_model(checkpoint, MLP).state_dict(), mlp().state_dict())


# --- Others' ---


def test_a_bare_state_dict_needs_a_factory(tmp_path):
    network = mlp()
    torch.save(network.state_dict(), tmp_path / "a.pt")
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    assert checkpoint.kind == "state dict"
    assert checkpoint.model is None
    assert_same(build_model(checkpoint, MLP).state_dict(), network.state_dict())
    with pytest.raises(CheckpointError, match="--model"):
        build_model(checkpoint)


@pytest.mark.parametrize(
    "key",
    [
        *("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params"),
        *("module", "state_dict_ema", "model_ema", "encoder"),
    ],
)
def test_weights_under_a_key_are_found_among_the_rest(tmp_path, key):
    network = mlp()
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "step": 40,
        key: network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "optim_buffers": {"momentum": torch.ones(3)},
        "rng": torch.get_rng_state(),
        "best": torch.tensor(0.5),
    }
    torch.save(content, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert_same(checkpoint.state_dict, network.state_dict())
    assert checkpoint.kind == "training checkpoint"
    assert checkpoint.step == 40
    assert f"read the weights under {key!r}" in checkpoint.notes


def test_weights_two_keys_down_are_found(tmp_path):
    network = mlp()
    torch.save({"model": {"state_dict": network.state_dict()}}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert_same(checkpoint.state_dict, network.state_dict())
    assert checkpoint.notes == ("looked under 'model'", "read the weights under 'state_dict'")


def test_options_under_a_known_key_do_not_hide_the_weights(tmp_path):
    network = mlp()
    torch.save({"params": {"lr": 0.1}, "encoder": network.state_dict()}, tmp_path / "a.pt")
    assert_same(read_checkpoint(tmp_path / "a.pt").state_dict, network.state_dict())


def test_plain_weights_win_over_averaged_ones(tmp_path):
    content = {"state_dict_ema": mlp(1).state_dict(), "state_dict": mlp(0).state_dict()}
    torch.save(content, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert_same(checkpoint.state_dict, mlp(0).state_dict())
    assert "averaged weights lie under 'state_dict_ema'" in checkpoint.notes


def test_a_lightning_checkpoint_builds_its_network(tmp_path):
    network = mlp()
    content = {
        "epoch": 2,
        "global_step": 300,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": t for name, t in network.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [torch.optim.Adam(network.parameters()).state_dict()],
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(content, tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert (checkpoint.kind, checkpoint.step) == ("Lightning", 300)
    assert_same(build_model(checkpoint, MLP).state_dict(), network.state_dict())


def test_safetensors_build_a_network(tmp_path):
    network = mlp()
    save_model(network, str(tmp_path / "a.safetensors"))
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.kind == "safetensors"
    assert_same(build_model(checkpoint, MLP).state_dict(), network.state_dict())


def test_a_sharded_folder_builds_a_network(tmp_path):
    network = mlp()
    weight_map = {}
    for i, (name, tensor) in enumerate(network.state_dict().items()):
        weight_map[name] = f"model-0000{i + 1}-of-00004.safetensors"
        save_file({name: tensor}, tmp_path / weight_map[name])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.kind == "Hugging Face"
    assert_same(build_model(checkpoint, MLP).state_dict(), network.state_dict())


def test_safetensors_of_tied_weights_build_a_tied_network(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    source, target = Tied(), Tied()
    save_model(source, str(tmp_path / "a.safetensors"))
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert len(checkpoint.state_dict) == 1
    load_state(target, checkpoint)
    assert torch.equal(target.embedding.weight, source.embedding.weight)
    assert target.head.weight is target.embedding.weight


def test_a_whole_module_is_its_own_network_with_unsafe_load(tmp_path):
    network = mlp()
    torch.save(network, tmp_path / "a.pt")
    assert "--unsafe-load" in refusal(tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt", unsafe_load=True)
    assert checkpoint.kind == "whole module"
    assert_same(build_model(checkpoint).state_dict(), network.state_dict())
    assert build_model(checkpoint) is checkpoint.module


def test_a_module_under_a_key_is_read_with_unsafe_load(tmp_path):
    network = mlp()
    torch.save({"model": network, "epoch": 3}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt", unsafe_load=True)
    assert_same(build_model(checkpoint).state_dict(), network.state_dict())


def test_several_networks_in_one_file_are_listed(tmp_path):
    content = {"netG": mlp(0).state_dict(), "netD": mlp(1).state_dict(), "optimG": {}}
    torch.save(content, tmp_path / "gan.pt")
    message = refusal(tmp_path / "gan.pt")
    assert "'netG', 'netD'" in message
    assert "torch.load('gan.pt')['netG']" in message


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"state_dict": {}}, [1, 2], torch.ones(3), {"model": {"lr": 1}}]
)
def test_a_file_without_weights_is_told(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert "holds" in message
    assert "torch.save(model.state_dict()" in message


def test_a_dict_that_holds_itself_ends(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "a.pt")
    assert "no weights" in refusal(tmp_path / "a.pt")


def test_tensors_of_any_kind_survive(tmp_path):
    content = {
        "mask": torch.tensor([True, False]),
        "count": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "parameter": nn.Parameter(torch.ones(2)),
        "lstm._extra_state": {"scale": 2},
    }
    torch.save(content, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.notes == ("left out what is no tensor: lstm._extra_state",)
    assert checkpoint.state_dict["half"].dtype == torch.bfloat16
    assert not any(tensor.requires_grad for tensor in checkpoint.state_dict.values())


def test_nan_weights_are_read_but_not_loaded(tmp_path):
    network = mlp()
    nn.init.constant_(next(network.parameters()), float("nan"))
    checkpoint = read_checkpoint(write(tmp_path / "a.pt", network))
    with pytest.raises(CheckpointError, match="diverged"):
        build_model(checkpoint)


def test_a_factory_that_builds_no_network_is_told(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match="returned a dict"):
        build_model(checkpoint, Factory("builtins:dict"))
    with pytest.raises(RequestError, match="no module"):
        build_model(checkpoint, Factory("nowhere_at_all:net"))
