"""Claim: a family's folder in the hands of one process, holding what belongs to one request only.

`making` works in it. The states of phases lie in `<folder>/.state`, beside their request.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from landscape.atomic import appearing
from landscape.errors import RequestError
from landscape.factory import JSON
from landscape.trainers.family import INDEX, Family, load_family

__all__ = ["STATE", "DivergedError", "claimed"]

STATE = ".state"


class DivergedError(RequestError):
    """Training came to nothing: the same request would fail again, so no work is kept of it.

    After any other failure, such as data that are no longer there, there is work to go on from.
    """


@contextmanager
def claimed(
    folder: Path, recipe: str, options: Mapping[str, JSON], *, force: bool
) -> Iterator[Family | None]:
    """The folder for this process alone, within the block; the family if it is there already.

    What a failure leaves behind is taken away, unless there is work to go on from.

    Raises:
        RequestError: the folder is a file, holds another family, or is in another process's hands.
    """
    if not next(path for path in (folder, *folder.parents) if path.exists()).is_dir():
        raise RequestError(f"out={str(folder)!r} is, or lies in, a file. Name a folder.")
    request = _request(recipe, options)
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            if (folder / INDEX).exists() and not force:
                yield _finished(folder, request)
                return
            _prepare(folder, request, force=force)
            try:
                yield None
            except DivergedError:
                shutil.rmtree(folder / STATE)
                _leave(folder, remove=fresh)
                raise
            except BaseException:
                _leave(folder, remove=fresh)
                raise
    except Timeout:
        raise RequestError(
            f"another process is training into {folder}. Wait for it, or name another folder."
        ) from None


def _finished(folder: Path, request: str) -> Family:
    """The family that is there already, if it is what was asked for."""
    family = load_family(folder)
    if _request(family.recipe, family.options) == request:
        return family
    raise RequestError(
        f"{folder} holds another family, made by `{family.command}`. Name another folder, or "
        "pass --force to replace it."
    )


def _prepare(folder: Path, request: str, *, force: bool) -> None:
    """Leave in the folder what belongs to this request only: the states that it has reached."""
    state, index = folder / STATE, folder / INDEX
    asked = state / "request.json"
    other = asked.is_file() and asked.read_text() != request
    if other and not force:
        raise RequestError(
            f"{folder} holds an unfinished family of another request: {asked.read_text()}. Name "
            "another folder, or pass --force to start anew."
        )
    if force:
        if index.exists():
            for path in load_family(folder):
                path.unlink(missing_ok=True)
            index.unlink()
        shutil.rmtree(state, ignore_errors=True)
    state.mkdir(exist_ok=True)
    for left in [*folder.glob(".*.tmp"), *state.glob(".*.tmp")]:
        left.unlink()  # half a file, of a process that was killed
    with appearing(asked) as temporary:
        temporary.write_text(request)


def _leave(folder: Path, *, remove: bool) -> None:
    """Take away what a failure leaves behind, unless work was kept to go on from."""
    state = folder / STATE
    if state.is_dir() and [path.name for path in state.iterdir()] != ["request.json"]:
        return
    shutil.rmtree(state, ignore_errors=True)
    if remove and [path.name for path in folder.iterdir()] == [".lock"]:
        shutil.rmtree(folder)


def _request(recipe: str, options: Mapping[str, JSON]) -> str:
    return json.dumps({"recipe": recipe, "options": options}, sort_keys=True)
