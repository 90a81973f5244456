"""`landscape import`: a surface of tomgoldstein/loss-landscape as a result file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landscape.cli.console import print_json

__all__ = ["import_"]


def import_(
    surface: Annotated[Path, typer.Argument(metavar="SURFACE.h5", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Result file that gets the record. Default: SURFACE-imported.h5 beside it."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a record that is there already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Read a surface that tomgoldstein/loss-landscape has computed, as if measured here."""
    from landscape import store
    from landscape.exchange.tomgoldstein import read_surface

    sweep = read_surface(surface)
    target = out or surface.with_name(f"{surface.stem}-imported.h5")
    (group,) = store.save(target, sweep, force=force)
    if as_json:
        print_json(
            {
                "written": str(target),
                "record": group,
                "shape": sweep.shape,
                "status": sweep.status,
                "notes": sweep.notes,
            }
        )
        return
    print(target)
    size = " x ".join(map(str, sweep.shape))
    print(f"  {group}  {size} points, {sweep.status}")
    for note in sweep.notes:
        print(f"  {note}")
