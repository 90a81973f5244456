"""Ledger: what has been measured of a slice so far, in memory and in a file that appears whole."""

from __future__ import annotations

import json
import time
import zipfile
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
        RequestError: a file of another slice, or one that cannot be read.
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
        """Keep what is there."""
        if self._path is None:
            return
        with appearing(self._path) as temporary, temporary.open("wb") as file:
            held: dict[str, Any] = {f"field_{name}": rows for name, rows in self.rows.items()}
            held["request"] = np.asarray(self._request)
            held["execution"] = np.asarray(json.dumps(self.execution))
            np.savez(file, done=self.done, **held)
        self._written = time.monotonic()

    def remove(self) -> None:
        """The slice is complete and kept elsewhere: the file goes."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as held:
                request = str(held["request"])
                if request != self._request:
                    raise RequestError(
                        f"{path} belongs to another slice: other points, directions, data or "
                        "settings. Name another file, or delete it to start anew."
                    )
                self.done = held["done"]
                self.execution = json.loads(str(held["execution"]))
                self.rows = {
                    name.removeprefix("field_"): held[name]
                    for name in held.files
                    if name.startswith("field_")
                }
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(
                f"{path} cannot be read as the state of a slice: {error}. Delete it to start anew."
            ) from error
