"""Downloading: the published files of a data set, by torchvision, when a user asks for them.

It stands outside of `data`, whose functions a checkpoint may name: reading a checkpoint must reach
no network.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from landscape.errors import RequestError
from landscape.trainers.data.location import DATA_VARIABLE, data_root

__all__ = ["download"]

_CLASSES = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


def download(name: str, root: str | Path | None = None) -> None:
    """Get a data set's files into a folder, unless they are there; other names need none.

    Args:
        root: by default $LANDSCAPE_DATA.

    Raises:
        RequestError: no folder named, or a torchvision that is missing or does not import.
    """
    if name not in _CLASSES:
        return
    folder = data_root(root)
    if folder is None:
        raise RequestError(f"a download needs a folder: give --data-root, or set ${DATA_VARIABLE}.")
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except Exception as error:  # torchvision beside another torch fails with a RuntimeError
        raise RequestError(
            f"a download needs torchvision, which does not import here ({error}). Install it, or "
            f"get the files of {name} by hand."
        ) from None
    for train in (True, False):
        getattr(datasets, _CLASSES[name])(folder, train=train, download=True)
