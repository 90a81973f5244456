"""What the commands print: lines for people, JSON for programs, progress on the error stream."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Progress", "fail", "print_json", "print_table", "progress_bar"]


def fail(message: str, *, as_json: bool = False) -> None:
    """Say in one line why nothing was done."""
    if as_json:
        print_json({"error": message})
    print(f"landscape: {message}", file=sys.stderr)


def print_json(value: object) -> None:
    """One JSON document on standard output; NaN and infinities as null."""
    print(json.dumps(_plain(value), allow_nan=False))


def _plain(value: Any) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # a NumPy array or scalar
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_table(table: pd.DataFrame) -> None:
    """A small table: one column an entry, as wide as it needs."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in table.columns:
        drawn.add_column(str(name), justify="right", no_wrap=True)
    for row in table.itertuples(index=False):
        drawn.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    # A pipe has no width of its own: never wrap there.
    width = None if sys.stdout.isatty() else 240
    Console(width=width, highlight=False).print(drawn)


@dataclass
class Progress:
    """Reports of work under way, drawn as one bar where standard error is a terminal."""

    _bar: Any = None
    _tasks: dict[str, Any] = field(default_factory=dict)

    def report(self, label: str, done: int, total: int) -> None:
        """`done` of at most `total` steps of what is called `label`."""
        if self._bar is None:
            return
        if label not in self._tasks:
            self._tasks[label] = self._bar.add_task(label, total=total)
        self._bar.update(self._tasks[label], completed=done, total=total)

    def finish(self, labels: Sequence[str] | None = None) -> None:
        """Take bars away; all of them by default."""
        for label in list(self._tasks) if labels is None else labels:
            if label in self._tasks:
                self._bar.remove_task(self._tasks.pop(label))


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """A `Progress` that draws on a terminal, and is silent elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("at most"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar)
