"""Downloads are asked for, go to a folder that was named, and say what they lack."""

from __future__ import annotations

import sys
import types

import pytest

from landscape.errors import RequestError
from landscape.factory import Factory
from landscape.trainers.downloading import download


@pytest.fixture
def torchvision(monkeypatch):
    calls = []
    datasets = types.ModuleType("torchvision.datasets")
    datasets.MNIST = lambda root, train, download: calls.append((root, train, download))
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return calls


def test_both_splits_are_fetched_into_the_root(torchvision, tmp_path):
    download("mnist", tmp_path)
    assert torchvision == [(tmp_path, True, True), (tmp_path, False, True)]


def test_data_without_files_need_no_download(torchvision):
    download("digits")
    assert torchvision == []


def test_a_folder_is_needed(torchvision, monkeypatch):
    monkeypatch.delenv("LANDSCAPE_DATA", raising=False)
    with pytest.raises(RequestError, match="needs a folder"):
        download("mnist")


def test_torchvision_is_needed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(RequestError, match="needs torchvision"):
        download("mnist", tmp_path)


@pytest.mark.parametrize("path", ["downloading:download", "execution:train", "stacking:stack"])
def test_a_checkpoint_may_not_name_what_reaches_the_network_or_writes(path):
    assert not Factory(f"landscape.trainers.{path}").is_own
