"""`landscape info`: what is in a result file, a checkpoint or a family."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from landscape.cli.console import print_json

__all__ = ["info"]


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    unsafe_load: Annotated[
        bool, typer.Option("--unsafe-load", help="Let a pickle run code, if you trust its origin.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """What is in a result file, in a checkpoint, or in a family's folder."""
    if file.name == "family.h5" or any((file / held).exists() for held in ("family.h5", ".state")):
        described = _family(file if file.is_dir() else file.parent, as_json)
    elif file.suffix in (".h5", ".hdf5", ".nc"):
        described = _results(file, as_json)
    else:
        described = _checkpoint(file, unsafe_load, as_json)
    if as_json:
        print_json(described)


def _family(folder: Path, as_json: bool) -> dict[str, Any]:
    from landscape.cli.console import print_table
    from landscape.trainers.family import load_family

    family = load_family(folder)
    groups = [path.strip("/") for path in family.results.groups if path != "/"]
    described = {
        "folder": str(folder),
        "recipe": family.recipe,
        "command": family.command,
        "options": dict(family.options),
        "notes": list(family.notes),
        "groups": groups,
        "members": family.members.to_dict(orient="records"),
    }
    if not as_json:
        print(f"{folder}: {len(family)} checkpoints, made by\n  {family.command}")
        for sentence in family.notes:
            print(f"  {sentence}")
        print(f"  recorded: {', '.join(groups)}")
        print_table(family.members)
    return described


def _results(file: Path, as_json: bool) -> dict[str, Any]:
    from landscape import store
    from landscape.cli.summary import describe, headline

    results = store.open_results(file)
    attributes = {
        str(name): value
        for name, value in results.table().iloc[0].items()
        if str(name).partition(".")[0] not in {record.probe for record in store.records(file)}
    }
    records = []
    if not as_json:
        print(file)
        for name, value in attributes.items():
            print(f"  {name:<24}{value}")
    for record in store.records(file):
        dataset = store.read(file, record.group)
        records.append(
            {
                "group": record.group,
                "probe": record.probe,
                "status": record.status,
                "created": record.created,
                "wall_time": record.wall_time,
                "num_products": record.num_products,
                "settings": record.settings,
                "values": headline(dataset),
            }
        )
        if not as_json:
            print(f"  {record.group}  {record.status}, {record.created[:19]} UTC")
            print(f"    {describe(record.probe, dataset)}")
    return {"file": str(file), "attributes": attributes, "records": records}


def _checkpoint(file: Path, unsafe_load: bool, as_json: bool) -> dict[str, Any]:
    from landscape.checkpoint import read_checkpoint

    read = read_checkpoint(file, unsafe_load=unsafe_load)
    tensors = read.state_dict
    described: dict[str, Any] = {
        "file": str(file),
        "kind": read.kind,
        "tensors": len(tensors),
        "values": sum(tensor.numel() for tensor in tensors.values()),
        "model": read.model.path if read.model else None,
        "data": read.data.path if read.data else None,
        "loss": read.loss,
        "recipe": dict(read.recipe),
        "seed": read.seed,
        "step": read.step,
        "metrics": dict(read.metrics),
        "notes": list(read.notes),
    }
    if not as_json:
        for name, value in described.items():
            if value not in (None, {}, []):
                print(f"{name:<10}{value:,}" if isinstance(value, int) else f"{name:<10}{value}")
        for name, tensor in list(tensors.items())[:12]:
            print(f"  {name:<40}{tuple(tensor.shape)!s:<20}{str(tensor.dtype)[6:]}")
        if len(tensors) > 12:
            print(f"  ... {len(tensors) - 12} more")
        if read.model is None:
            print(f"measure it: landscape probe {file} --model M --data D --loss L")
    return described
