"""`landscape merge`: one slice from its shards, which were measured apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landscape.cli.console import print_json
from landscape.errors import RequestError

__all__ = ["merge"]


def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a merged slice that is there already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Put shards together (`landscape probe --shard 1/4 --out part1.h5`), into the first file."""
    from landscape import store
    from landscape.slices.stored import stored_sweep
    from landscape.slices.sweep import merge as merged
    from landscape.slices.verification import KINDS

    shards = []
    for file in files:
        groups = [
            info.group
            for info in store.records(file)
            if info.probe in KINDS and info.settings.get("shard")
        ]
        if not groups:
            raise RequestError(
                f"{file} holds no shard of a slice. `landscape probe CKPT --probe plane --shard "
                f"1/4 --out {file.name}` writes one."
            )
        shards.append(stored_sweep(store.read(file, groups[-1])))
    whole = merged(shards)
    (group,) = store.save(files[0], whole, force=force)
    if as_json:
        print_json({"file": str(files[0]), "group": group, "status": whole.status})
    else:
        print(f"{files[0]}: {group}, {whole.status}")
