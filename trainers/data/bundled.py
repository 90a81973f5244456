"""Bundled: data sets that need no network and no files, the digits and text for characters.

Larger image sets are read by `image_files`; networks for all of them are in `models`.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.trainers.data.location import data_root, find_file

__all__ = ["TEXT_VOCABULARY", "digits", "text"]

# The last symbol stands for every character that is not in the table.
TEXT_VOCABULARY = "\n" + "".join(chr(code) for code in range(32, 127)) + "\N{REPLACEMENT CHARACTER}"

_TEXT_FILES = ("text.txt", "input.txt")
_TEST_TENTHS = 1


def digits(
    split: Literal["train", "test"] = "train", seed: int = 0, test_fraction: float = 0.2
) -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that come with scikit-learn.

    Args:
        seed: draws the split, stratified by class; both splits must be given the same one.
        test_fraction: share of the examples that are kept for the test split.

    Returns:
        inputs: (n, 1, 8, 8) float32 in [0, 1]: the grey levels 0 ... 16 divided by 16.
        targets: (n,) int64, 0 ... 9, in random order.

    Raises:
        RequestError: no such split, a seed outside 32 bits, or a split with fewer than one
            example for each class.

    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", test part.
    """
    if split not in ("train", "test"):
        raise unknown_choice("split", split, ("train", "test"))
    if not 0 <= seed < 2**32:
        raise RequestError(f"seed={seed} is not in 0 ... 2**32 - 1. Choose one that is.")
    bunch = load_digits()
    total, num_classes = len(bunch.target), len(bunch.target_names)
    lowest = num_classes / total
    if not lowest <= test_fraction <= 1 - lowest:
        raise RequestError(
            f"test_fraction={test_fraction} leaves fewer than {num_classes} of the {total} digits "
            "on one side. Choose a share such as 0.2."
        )
    train, test = train_test_split(
        np.arange(total),
        test_size=round(test_fraction * total),
        random_state=seed,
        stratify=bunch.target,
    )
    chosen = train if split == "train" else test
    inputs = torch.tensor(bunch.images[chosen] / 16, dtype=torch.float32)
    targets = torch.tensor(bunch.target[chosen], dtype=torch.int64)
    return inputs[:, None], targets  # (n, 1, 8, 8), (n,)


def text(
    split: Literal["train", "test"] = "train",
    seed: int = 0,
    context: int = 64,
    path: str | Path | None = None,
) -> tuple[Tensor, Tensor]:
    """Windows of a text and, for every position, the character that comes next.

    The symbols are positions in `TEXT_VOCABULARY`, whatever the text. The last tenth of the text is
    the test split; windows do not overlap, and what fills no window at the end is left out.

    Args:
        seed: of the windows' order.
        context: T, characters in a window.
        path: a file in UTF-8, or a folder with `text.txt` or `input.txt`. By default that folder is
            $LANDSCAPE_DATA; without such a file, the prose with which scikit-learn describes its
            data sets (about 43,000 characters; they vary a little with its version).

    Returns:
        inputs, targets: (n, T) int64 each.

    Raises:
        RequestError: no such split or file, a text that is not UTF-8, or too short for one window.
    """
    if split not in ("train", "test"):
        raise unknown_choice("split", split, ("train", "test"))
    if context < 1:
        raise RequestError(f"context={context} holds no character. Choose 1 or more, such as 64.")
    if seed < 0:
        raise RequestError(f"seed={seed} is negative. Choose 0 or more.")
    symbols = _symbols(_written(path))
    border = len(symbols) - len(symbols) * _TEST_TENTHS // 10
    part = symbols[:border] if split == "train" else symbols[border:]
    num_windows = (len(part) - 1) // context
    if num_windows < 1:
        raise RequestError(
            f"context={context} needs {context + 1} characters, but the {split} part of the text "
            f"has {len(part)}. Choose a shorter context or a longer text."
        )
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(num_windows)
    covered = num_windows * context
    inputs = part[:covered].view(num_windows, context)
    targets = part[1 : covered + 1].view(num_windows, context)
    chosen = torch.from_numpy(order)
    return inputs[chosen], targets[chosen]


def _written(path: str | Path | None) -> str:
    named = Path(path).expanduser() if path is not None else None
    if named is not None and named.is_file():
        return _read(named)
    folder = named if named is not None and named.is_dir() else None
    if named is not None and folder is None:
        raise RequestError(f"path={str(path)!r} is no file. Name a text file, or leave it out.")
    if folder is None:
        folder = data_root(None)
    found = find_file([folder], _TEXT_FILES) if folder is not None else None
    if found is not None:
        return _read(found)
    if path is not None:
        raise RequestError(
            f"path={str(path)!r} holds no {' or '.join(_TEXT_FILES)}. Put one there, or name a "
            "file."
        )
    described = importlib.resources.files("sklearn.datasets.descr").iterdir()
    pages = sorted((page for page in described if page.name.endswith(".rst")), key=lambda p: p.name)
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{str(file)!r} is not UTF-8 text (byte {error.start}). Convert it first."
        ) from None


def _symbols(written: str) -> Tensor:
    unknown = len(TEXT_VOCABULARY) - 1
    codes = np.frombuffer(written.encode("utf-32-le"), dtype="<u4")
    table = np.full(128, unknown, dtype=np.int64)
    for symbol, character in enumerate(TEXT_VOCABULARY[:unknown]):
        table[ord(character)] = symbol
    known = codes < len(table)
    return torch.from_numpy(np.where(known, table[np.where(known, codes, 0)], unknown))
