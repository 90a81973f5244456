"""Files of every format, hostile and damaged ones among them, read without running anything."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from landscape.weight_files import CheckpointError, read_weight_file

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


class RunsACommand:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Net(nn.Linear):
    """A user's own network."""


def assert_weights(held, expected=WEIGHTS):
    assert set(held) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(held[name], tensor, rtol=0, atol=0)


def refusal(path, *, unsafe_load=False):
    with pytest.raises(CheckpointError) as caught:
        read_weight_file(path, unsafe_load=unsafe_load)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a", "a.safetensors"])
def test_torch_files_are_known_by_content(tmp_path, zipped, name):
    torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    held, container = read_weight_file(tmp_path / name)
    assert_weights(held)
    assert container == "torch"


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_safetensors_are_known_by_content(tmp_path, name):
    save_file(WEIGHTS, tmp_path / name)
    held, container = read_weight_file(tmp_path / name)
    assert_weights(held)
    assert container == "safetensors"


def test_changing_a_mapped_tensor_leaves_the_file_alone(tmp_path):
    torch.save(WEIGHTS, tmp_path / "a.pt")
    held, _ = read_weight_file(tmp_path / "a.pt")
    held["weight"].zero_()
    assert_weights(read_weight_file(tmp_path / "a.pt")[0])


def sharded(folder: Path, suffix: str) -> Path:
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for i, (name, tensor) in enumerate(WEIGHTS.items()):
        shard = f"{stem}-0000{i + 1}-of-00002.{suffix}"
        write = save_file if suffix == "safetensors" else torch.save
        write({name: tensor}, folder / shard)
        weight_map[name] = shard
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_through_their_index_or_folder(tmp_path, suffix):
    index = sharded(tmp_path, suffix)
    for path in (index, tmp_path):
        held, container = read_weight_file(path)
        assert_weights(held)
        assert container == "Hugging Face"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_weight_file_is_read(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(WEIGHTS, tmp_path / name)
    assert_weights(read_weight_file(tmp_path)[0])


def test_shards_may_be_links_as_in_a_download_cache(tmp_path):
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs").mkdir()
    sharded(tmp_path / "snapshot", "safetensors")
    for shard in (tmp_path / "snapshot").glob("*.safetensors"):
        shard.rename(tmp_path / "blobs" / shard.name)
        shard.symlink_to(tmp_path / "blobs" / shard.name)
    assert_weights(read_weight_file(tmp_path / "snapshot")[0])


def test_a_missing_shard_is_named(tmp_path):
    index = sharded(tmp_path, "safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "'model-00002-of-00002.safetensors'" in refusal(index)
    assert "missing" in refusal(index)


def test_a_shard_without_a_promised_tensor_is_named(tmp_path):
    index = sharded(tmp_path, "bin")
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    assert "lacks 'bias'" in refusal(index)


@pytest.mark.parametrize(
    "shard", ["../secret.pt", "/etc/secret.pt", "..", "", "a\\..\\..\\b", "C:b"]
)
def test_a_shard_outside_the_folder_is_refused(tmp_path, shard):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(WEIGHTS, tmp_path / "secret.pt")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": shard}}))
    assert "no file beside it" in refusal(index)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {**WEIGHTS, "extra": x}])
def test_a_malicious_file_is_refused_by_name_and_does_not_run(tmp_path, zipped, wrap):
    sentinel = tmp_path / "it ran"
    payload = wrap(RunsACommand(f"touch '{sentinel}'"))
    torch.save(payload, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "a.pt")
    assert f"{os.name}.system" in message
    assert "--unsafe-load" in message
    assert not sentinel.exists()
    read_weight_file(tmp_path / "a.pt", unsafe_load=True)
    assert sentinel.exists(), "else the test proves nothing"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_bare_pickle_of_any_protocol_is_named_and_does_not_run(tmp_path, protocol):
    sentinel = tmp_path / "it ran"
    payload = RunsACommand(f"touch '{sentinel}'")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(payload, protocol))
    assert f"{os.name}.system" in refusal(tmp_path / "a.pkl")
    assert not sentinel.exists()


def test_a_malicious_shard_does_not_run(tmp_path):
    sentinel = tmp_path / "it ran"
    index = sharded(tmp_path, "bin")
    shard = tmp_path / "pytorch_model-00002-of-00002.bin"
    torch.save({"bias": RunsACommand(f"touch '{sentinel}'")}, shard)
    assert f"{os.name}.system" in refusal(index)
    assert not sentinel.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_needs_unsafe_load(tmp_path, zipped):
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    torch.save(model, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "a.pt")
    assert "whole pickled module" in message
    assert "torch.nn.modules" in message
    assert "torch.save(model.state_dict()" in message
    assert "--unsafe-load" in message
    held, _ = read_weight_file(tmp_path / "a.pt", unsafe_load=True)
    assert isinstance(held, nn.Sequential)


def test_a_module_whose_code_is_gone_is_named(tmp_path, monkeypatch):
    torch.save(Net(2, 2), tmp_path / "a.pt")
    monkeypatch.delitem(globals(), "Net")
    message = refusal(tmp_path / "a.pt", unsafe_load=True)
    assert "names code that fails here" in message
    assert "Net" in message


def test_harmless_company_is_read_without_unsafe_load(tmp_path):
    company = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "history": collections.defaultdict(list, {"loss": [0.5]}),
        "order": collections.OrderedDict(a=1),
        "accuracy": np.float64(0.75),
        "loss": np.float32(0.5),
        "epoch": np.int64(7),
        "big endian": np.dtype(">f8").type(2.0),
        "best": np.bool_(True),
        "name": np.str_("resnet"),
        "random": {"numpy": np.random.RandomState(0).get_state(), "python": random.getstate()},
        "objects": np.array([{}, None], dtype=object),
        "path": Path("a/b"),
    }
    torch.save({"state_dict": WEIGHTS, **company}, tmp_path / "a.pt")
    held, _ = read_weight_file(tmp_path / "a.pt")
    assert_weights(held["state_dict"])
    assert held["accuracy"] == 0.75
    assert held["loss"] == 0.5
    assert held["epoch"] == 7
    assert held["best"] is True
    assert held["history"] == {"loss": [0.5]}


def test_reading_leaves_the_list_of_safe_globals_as_it_was(tmp_path):
    torch.save({"args": argparse.Namespace()}, tmp_path / "a.pt")
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        before = set(torch.serialization.get_safe_globals())
        read_weight_file(tmp_path / "a.pt")
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()


def test_a_newer_pickle_protocol_is_explained(tmp_path):
    torch.save(WEIGHTS, tmp_path / "a.pt", pickle_protocol=4)
    assert "newer protocol" in refusal(tmp_path / "a.pt")
    assert_weights(read_weight_file(tmp_path / "a.pt", unsafe_load=True)[0])


def test_a_missing_file_brings_the_nearest_name(tmp_path):
    torch.save(WEIGHTS, tmp_path / "model_best.pt")
    assert "Did you mean 'model_best.pt'?" in refusal(tmp_path / "model_bset.pt")
    assert "no file" in refusal(tmp_path / "no folder" / "a.pt")


def test_a_folder_without_weights_lists_what_it_has(tmp_path):
    assert "holds no model.safetensors" in refusal(tmp_path)
    torch.save(WEIGHTS, tmp_path / "epoch9.pt")
    assert "epoch9.pt: name one" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "lfs pull"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a PNG image"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"config = 3\nmodel\n", "not a checkpoint"),
        (b"# notes\n", "not a checkpoint"),
        (b"\x00" * 64, "not a checkpoint"),
        (b'{"hidden_size": 8}', "without a 'weight_map'"),
        (b'{"weight_map": ', "is text"),
        (b"{" * 40, "is text"),
        (b"[" * 8 + b'{"a":' * 5000, "not a checkpoint"),
        (b'{"weight_map": [1]}', "without a 'weight_map'"),
    ],
)
@pytest.mark.parametrize("unsafe_load", [False, True])
def test_what_is_no_checkpoint_is_told_apart(tmp_path, content, said, unsafe_load):
    (tmp_path / "a.pt").write_bytes(content)
    message = refusal(tmp_path / "a.pt", unsafe_load=unsafe_load)
    assert said in message
    assert "\n" not in message


def test_archives_that_are_no_checkpoint_are_told_apart(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.ones(2))
    assert "zip archive, but no checkpoint" in refusal(tmp_path / "a.npz")


def test_a_torchscript_archive_is_a_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/constants.pkl", b"\x80\x02).")
    assert "TorchScript" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("unsafe_load", [False, True])
def test_cut_files_are_called_cut(tmp_path, form, unsafe_load):
    path = tmp_path / "a.pt"
    if form == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        message = refusal(path, unsafe_load=unsafe_load)
        assert "cut short or damaged" in message
        assert "\n" not in message
        assert "weights_only" not in message


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_damaged_bytes_give_a_checkpoint_error_or_a_reading_and_nothing_else(tmp_path, form):
    path = tmp_path / "a.pt"
    if form == "safetensors":
        save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.randrange(len(whole))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weight_file(path)
        except CheckpointError:
            refused += 1
    assert refused > 20
