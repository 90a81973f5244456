"""Image files: MNIST, Fashion-MNIST and CIFAR from the files in which their authors publish them.

What the files are called is in `published`, how they are laid out in `image_formats`. Nothing is
unpacked or cached on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.trainers.data.image_formats import (
    Bytes,
    read_cifar_pickle,
    read_cifar_records,
    read_idx,
)
from landscape.trainers.data.location import DATA_VARIABLE, data_root, find_file
from landscape.trainers.data.published import (
    CIFAR10,
    CIFAR100,
    FASHION_MNIST,
    IDX_NAMES,
    MNIST,
    CifarFiles,
    IdxFiles,
)

__all__ = ["cifar10", "cifar100", "fashion_mnist", "mnist"]

Split = Literal["train", "test"]


def mnist(split: Split = "train", root: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Handwritten digits, 60,000 to train and 10,000 to test, in the files' order.

    Read from `train-images-idx3-ubyte` and so on, plain or with `.gz`, in the root or below it in
    `MNIST/raw` or `mnist`. The decompressed bytes are checked against their SHA-256.

    Args:
        root: a folder; by default $LANDSCAPE_DATA.

    Returns:
        inputs: (n, 1, 28, 28) float32 in [0, 1].
        targets: (n,) int64, 0 ... 9.

    Raises:
        RequestError: no such split, files that are missing, or not the published ones.

    Source: LeCun, Cortes and Burges 1998.
    """
    return _from_idx(MNIST, split, root)


def fashion_mnist(split: Split = "train", root: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Pieces of clothing, in files like those of `mnist`, with the same checks.

    Also found where Debian's package dataset-fashion-mnist puts them, so that no root is needed.

    Args:
        root: a folder; by default $LANDSCAPE_DATA. `FashionMNIST/raw` and `fashion-mnist` in it are
            looked up too.

    Returns:
        inputs: (n, 1, 28, 28) float32 in [0, 1]; 60,000 to train, 10,000 to test.
        targets: (n,) int64, 0 ... 9.

    Raises:
        RequestError: no such split, files that are missing, or not the published ones.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.
    """
    return _from_idx(FASHION_MNIST, split, root)


def cifar10(split: Split = "train", root: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Small colour photographs in 10 classes, 50,000 to train and 10,000 to test, in file order.

    Read from the folder `cifar-10-batches-py` or the archive `cifar-10-python.tar.gz`, whose files
    are checked against the published MD5; or from the archive `cifar-10-binary.tar.gz`, checked as
    a whole; or from the folder `cifar-10-batches-bin`, for which no hashes are published: there the
    number of records and the labels' range are checked.

    Args:
        root: a folder; by default $LANDSCAPE_DATA.

    Returns:
        inputs: (n, 3, 32, 32) float32 in [0, 1].
        targets: (n,) int64, 0 ... 9.

    Raises:
        RequestError: no such split, files that are missing, or not the published ones.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    return _from_cifar(CIFAR10, split, root)


def cifar100(split: Split = "train", root: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """As `cifar10`, in 100 fine classes; from `cifar-100-python`, `-binary` or their archives."""
    return _from_cifar(CIFAR100, split, root)


def _from_idx(files: IdxFiles, split: Split, root: str | Path | None) -> tuple[Tensor, Tensor]:
    _require_split(split)
    folder = data_root(root)
    places = [] if folder is None else [folder, *(folder / name for name in files.folders)]
    places += [] if files.system is None else [files.system]
    names = [IDX_NAMES[split, "images"], IDX_NAMES[split, "labels"]]
    found = [find_file(places, (f"{name}.gz", name)) for name in names]
    arrays = []
    for name, path in zip(names, found, strict=True):
        if path is None:
            wanted = " and ".join(f"{name}.gz" for name in names)
            raise _missing(files.name, wanted, files.folders[0], folder, files.advice)
        content = _unzipped(path) if path.suffix == ".gz" else path.read_bytes()
        _require_hash(content, files.sha256[name], "sha256", str(path))
        arrays.append(read_idx(content, str(path)))
    images, labels = arrays
    expected = (files.sizes[split], 28, 28)
    if images.shape != expected:
        raise RequestError(
            f"{found[0]} has images of shape {images.shape}, expected {expected}. It is another "
            "data set's."
        )
    return _tensors([images[:, None]], [labels], files.num_classes, files.sizes[split], files.name)


def _from_cifar(files: CifarFiles, split: Split, root: str | Path | None) -> tuple[Tensor, Tensor]:
    _require_split(split)
    folder = data_root(root)
    batches = [] if folder is None else _cifar_batches(files, split, folder)
    if not batches:
        wanted = f"{files.python_archive} or {files.binary_archive[0]}, as downloaded,"
        raise _missing(files.name, wanted, None, folder, "")
    images, labels = zip(*batches, strict=True)
    size = files.size[split] * len(files.pickles[split])
    return _tensors(images, labels, files.num_classes, size, files.name)


def _cifar_batches(files: CifarFiles, split: Split, root: Path) -> list[tuple[Bytes, Bytes]]:
    """Of the first version that is there: pickles in a folder or archive, then records."""
    pickles, records = files.pickles[split], files.records[split]
    archive, (binary_archive, archive_md5) = files.python_archive, files.binary_archive
    contents = _contents(root / files.python, pickles)
    contents = contents or _members(root / archive, files.python, pickles)
    if contents:
        for name, content in contents.items():
            _require_hash(content, files.md5[name], "md5", f"{name} of {files.python}")
        return [
            read_cifar_pickle(content, files.label_key, f"{name} of {files.python}")
            for name, content in contents.items()
        ]
    contents = _contents(root / files.binary, records)
    if not contents and (root / binary_archive).is_file():
        path = root / binary_archive
        _require_hash(path.read_bytes(), archive_md5, "md5", str(path))
        contents = _members(path, files.binary, records)
    return [
        read_cifar_records(content, files.label_bytes, f"{name} of {files.binary}")
        for name, content in contents.items()
    ]


def _contents(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise RequestError(
            f"{str(folder)!r} has no {', '.join(absent)}. Unpack the whole archive there."
        )
    return {name: (folder / name).read_bytes() for name in names}


def _members(archive: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    if not archive.is_file():
        return {}
    contents = {}
    try:
        with tarfile.open(archive) as opened:
            for name in names:
                member = opened.extractfile(f"{folder}/{name}")
                if member is None:
                    raise KeyError(f"{folder}/{name}")
                contents[name] = member.read()
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise RequestError(
            f"{str(archive)!r} cannot be read ({type(error).__name__}: {error}). Download it again."
        ) from None
    return contents


def _unzipped(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError) as error:
        raise RequestError(f"{str(path)!r} is cut off or no gzip file ({error}).") from None


def _tensors(
    images: Iterable[Bytes], labels: Iterable[Bytes], num_classes: int, size: int, name: str
) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(np.concatenate(list(images)))
    targets = torch.from_numpy(np.concatenate(list(labels)).astype(np.int64))
    if not len(pixels) == len(targets) == size:
        raise RequestError(
            f"{name} has {len(pixels)} images and {len(targets)} labels, expected {size} of both. "
            "The files belong to another data set or are incomplete."
        )
    if int(targets.max()) >= num_classes:
        raise RequestError(
            f"{name} has the label {int(targets.max())}, expected 0 ... {num_classes - 1}. The "
            "files belong to another data set."
        )
    return pixels.to(torch.float32).div_(255), targets


def _require_split(split: str) -> None:
    if split not in ("train", "test"):
        raise unknown_choice("split", split, ("train", "test"))


def _require_hash(content: bytes, expected: str, algorithm: str, source: str) -> None:
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise RequestError(
            f"{source} is not the published file: its {algorithm} is {found}, expected {expected}. "
            "Download it again."
        )


def _missing(
    name: str, wanted: str, below: str | None, root: Path | None, advice: str
) -> RequestError:
    where = f"${DATA_VARIABLE}, a folder that you name," if root is None else f"{str(root)!r}"
    sub = "" if below is None else f" (or {below} in it)"
    return RequestError(
        f"the files of {name} are not there. Put {wanted} into {where}{sub}; where torchvision is "
        f"installed, `landscape train ... --download` gets them.{advice}"
    )
