"""The file of a recorder: an npz that appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from landscape.atomic import appearing
from landscape.errors import RequestError

__all__ = ["read", "write"]

_KIND = "landscape recorder 1"


def write(path: Path, about: Mapping[str, object], arrays: Mapping[str, Any]) -> None:
    """Keep arrays by name, and what can be said in JSON.

    Raises:
        RequestError: the file cannot be written; it is as it was.
    """
    text = np.asarray(json.dumps({"kind": _KIND, **about}))
    try:
        with appearing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, about=text, **arrays)
    except OSError as error:
        raise RequestError(
            f"cannot keep the recorder in {path}: {error}. Name a file in a folder that can be "
            "written and has room."
        ) from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """What `write` kept.

    Raises:
        RequestError: a file that is none of ours, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(str(arrays.pop("about")))
        kind = about.pop("kind")
    except Exception as error:  # a damaged archive fails in whatever it is read by
        raise _not_ours(path, str(error)) from error
    if kind != _KIND:
        raise _not_ours(path, f"it is of the kind {kind!r}")
    return about, arrays


def _not_ours(path: Path, reason: str) -> RequestError:
    return RequestError(
        f"{path} cannot be read as a recorder: {reason}. Name a file that save() wrote."
    )
