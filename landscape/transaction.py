"""Transactions on a file: one writer at a time, and the old file or the new, whatever happens.

A file that keeps nothing of an older one and has one writer appears by `atomic`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from landscape.errors import RequestError

__all__ = ["exclusive", "replacement"]


@contextmanager
def exclusive(path: str | Path, *, timeout: float) -> Iterator[Path]:
    """The file that `path` leads to, while no other writer has it; its folder is made.

    Args:
        timeout: seconds to wait for another writer.

    Raises:
        RequestError: the other writer took longer, or the block could not write.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing to the file, under one lock
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=timeout):
            yield target
    except Timeout as error:
        holders = [int(name.split(".")[-2]) for name in _temporaries(target)] or ""
        raise RequestError(
            f"another process {holders} has been writing {path} for {timeout:g} s, here or on "
            "a machine that shares the folder. Wait for it, end it, or save to another file."
        ) from error
    except (OSError, RuntimeError) as error:  # the latter is HDF5's for a disk that fills on close
        raise RequestError(
            f"cannot write {path}: {error}. The file is as it was. "
            "Save to a folder that can be written and has room for a second copy of the file."
        ) from error


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A hidden copy to write to; when the block ends well it takes the file's place for good.

    The caller has the file to itself: see `exclusive`.
    """
    for stale in _temporaries(path):  # we hold the lock: whoever wrote these is dead
        path.with_name(stale).unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists():
            shutil.copy(path, temporary)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every system lets a folder be synced; the file is whole anyway
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # a rename too can be lost in a power cut
        finally:
            os.close(folder)


def _temporaries(path: Path) -> list[str]:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    return [name for name in os.listdir(path.parent) if pattern.fullmatch(name)]
