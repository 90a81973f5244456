"""Ledger: what has been measured of a slice so far, in memory and in a file that appears whole."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape.atomic import appearing
from landscape.errors import RequestError

__all__ = ["Ledger"]

_SECONDS = 5.0  # between two writes: what a kill can cost


class Ledger:
    """Rows of numbers, one a point, and which of them are done.

    Args:
        count: number of points.
        request: what identifies the slice; a file of another one is refused.
        path: where to keep it; None keeps it in memory.

    Raises:
        RequestError: a file of another slice, or one that cannot be read; a folder that cannot be
            made.
    """

    def __init__(
        self, count: int, request: Mapping[str, object], path: str | Path | None = None
    ) -> None:
        self.done: NDArray[np.bool_] = np.zeros(count, dtype=bool)
        self.rows: dict[str, NDArray[np.float64]] = {}
        self.execution: dict[str, object] | None = None
        self._request = json.dumps(request, sort_keys=True, default=str)
        self._path = None if path is None else Path(path)
        self._written = time.monotonic()
        if self._path is not None and self._path.exists():
            self._read(self._path)
        elif self._path is not None:
            self._make_folder(self._path.parent)

    def enter(self, points: NDArray[np.int64], values: Mapping[str, NDArray[np.float64]]) -> None:
        """Values (C, ...) of points, by field."""
        for name, entries in values.items():
            if name not in self.rows:
                shape = (len(self.done), *entries.shape[1:])
                self.rows[name] = np.full(shape, np.nan)
            self.rows[name][points] = entries
        self.done[points] = True
        if time.monotonic() - self._written > _SECONDS:
            self.write()

    def write(self) -> None:
        """Keep what is there.

        Raises:
            RequestError: the file cannot be written; it is as it was.
        """
        if self._path is None:
            return
        held: dict[str, Any] = {f"field_{i}": rows for i, rows in enumerate(self.rows.values())}
        # The names of an archive's parts are under no checksum, as their contents are.
        texts = {"request": self._request, "execution": json.dumps(self.execution)}
        texts["fields"] = json.dumps(list(self.rows))
        held |= {name: np.asarray(text) for name, text in texts.items()}
        try:
            with appearing(self._path) as temporary, temporary.open("wb") as file:
                np.savez(file, done=self.done, **held)
        except OSError as error:
            raise RequestError(
                f"cannot keep the state of the slice in {self._path}: {error}. Name a file in a "
                "folder that can be written and has room."
            ) from error
        self._written = time.monotonic()

    def remove(self) -> None:
        """The slice is complete and kept elsewhere: the file goes."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # now, and not when there is something to lose
            raise RequestError(
                f"cannot make the folder {folder} for the state of a slice: {error}. Name a file "
                "in another."
            ) from error

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                request = str(held["request"])
                self.execution = json.loads(str(held["execution"]))
                names = json.loads(str(held["fields"]))
                self.rows = {name: held[f"field_{i}"] for i, name in enumerate(names)}
                self.done = held["done"]
        except Exception as error:  # a damaged archive fails in whatever it is read by
            raise RequestError(
                f"{path} cannot be read as the state of a slice: {error}. Name another file, or "
                "delete it to start anew."
            ) from error
        if request != self._request:
            raise RequestError(
                f"{path} belongs to another slice: other points, directions, data or settings. "
                "Name another file, or delete it to start anew."
            )
