"""Published: the files of the image sets, as their authors gave them out, and their hashes.

`image_files` looks for them and reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "FASHION_MNIST",
    "IDX_NAMES",
    "MNIST",
    "CifarFiles",
    "IdxFiles",
]


@dataclass(frozen=True)
class IdxFiles:
    """A data set of four IDX files, plain or gzipped.

    Attributes:
        folders: below the root, besides the root itself.
        system: a folder that a package of the system fills.
        sha256: of each file's decompressed bytes, so that it does not matter who compressed them.
        sizes: examples in each split.
        advice: how else to get them, for the error that says they are missing.
    """

    name: str
    folders: tuple[str, ...]
    system: Path | None
    sha256: dict[str, str]
    sizes: dict[str, int]
    advice: str
    num_classes: int = 10


@dataclass(frozen=True)
class CifarFiles:
    """A data set in CIFAR's python or binary version, in a folder or in the archive.

    Attributes:
        python, binary: the folder of each version, also within its archive.
        pickles, records: the files in them, by split.
        python_archive: its file name.
        binary_archive: its file name and MD5: its members have no published hash of their own.
        md5: of each pickle.
        label_key, label_bytes: where the fine label stands in a pickle, and in a record.
        size: examples in one pickle or binary file of each split.
    """

    name: str
    python: str
    binary: str
    pickles: dict[str, tuple[str, ...]]
    records: dict[str, tuple[str, ...]]
    python_archive: str
    binary_archive: tuple[str, str]
    md5: dict[str, str]
    label_key: str
    label_bytes: int
    size: dict[str, int]
    num_classes: int


IDX_NAMES = {
    (split, kind): f"{stem}-{kind}-idx{dimensions}-ubyte"
    for split, stem in (("train", "train"), ("test", "t10k"))
    for kind, dimensions in (("images", 3), ("labels", 1))
}
MNIST = IdxFiles(
    "MNIST",
    ("MNIST/raw", "mnist", "MNIST", "mnist/raw"),
    None,
    {
        IDX_NAMES[
            "train", "images"
        ]: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        IDX_NAMES[
            "train", "labels"
        ]: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        IDX_NAMES[
            "test", "images"
        ]: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        IDX_NAMES[
            "test", "labels"
        ]: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    {"train": 60_000, "test": 10_000},
    "",
)
FASHION_MNIST = IdxFiles(
    "FashionMNIST",
    ("FashionMNIST/raw", "fashion-mnist", "fashion_mnist", "FashionMNIST"),
    Path("/usr/share/datasets/fashion-mnist"),
    {
        IDX_NAMES[
            "train", "images"
        ]: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        IDX_NAMES[
            "train", "labels"
        ]: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        IDX_NAMES[
            "test", "images"
        ]: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        IDX_NAMES[
            "test", "labels"
        ]: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    {"train": 60_000, "test": 10_000},
    " On Debian, `apt-get install dataset-fashion-mnist` puts them where they are found.",
)
CIFAR10 = CifarFiles(
    "CIFAR10",
    python="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    pickles={
        "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test": ("test_batch",),
    },
    records={
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    python_archive="cifar-10-python.tar.gz",
    binary_archive=("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    label_key="labels",
    label_bytes=1,
    size={"train": 10_000, "test": 10_000},
    num_classes=10,
)
CIFAR100 = CifarFiles(
    "CIFAR100",
    python="cifar-100-python",
    binary="cifar-100-binary",
    pickles={"train": ("train",), "test": ("test",)},
    records={"train": ("train.bin",), "test": ("test.bin",)},
    python_archive="cifar-100-python.tar.gz",
    binary_archive=("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    label_key="fine_labels",
    label_bytes=2,
    size={"train": 50_000, "test": 10_000},
    num_classes=100,
)
