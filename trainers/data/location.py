"""Location: the folders in which a data set's files are looked up.

`image_files` and `bundled.text` read what lies there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from landscape.errors import RequestError

__all__ = ["DATA_VARIABLE", "data_root", "find_file"]

DATA_VARIABLE = "LANDSCAPE_DATA"


def data_root(root: str | Path | None) -> Path | None:
    """`root`, or else the folder that $LANDSCAPE_DATA names, or else none.

    Raises:
        RequestError: it is named, but there is no such folder.
    """
    named = root if root is not None else os.environ.get(DATA_VARIABLE) or None
    if named is None:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        source = "root" if root is not None else f"${DATA_VARIABLE}"
        raise RequestError(f"{source}={str(named)!r} is no folder. Make it, or name another one.")
    return folder


def find_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of the files that exists; folders count before names."""
    names = tuple(names)
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path.is_file()), None)
