"""`landscape verify`: random points of stored slices, evaluated again one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landscape.cli.console import fail, print_json
from landscape.cli.measuring import source_of
from landscape.errors import RequestError
from landscape.request import load_objective

if TYPE_CHECKING:
    from landscape.objective import BatchNormPolicy
    from landscape.slices.verification import Verification

__all__ = ["verify"]


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Of the slices. Default: the one beside the file.")
    ] = None,
    num: Annotated[int, typer.Option(help="Points of each slice.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the draw of points.")] = 0,
    model: Annotated[str | None, typer.Option(help="As for probe.")] = None,
    model_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    data: Annotated[str | None, typer.Option(help="As for probe.")] = None,
    data_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    loss: Annotated[str | None, typer.Option(help="As for probe.")] = None,
    unsafe_load: Annotated[bool, typer.Option("--unsafe-load", help="As for probe.")] = False,
    params: Annotated[list[str] | None, typer.Option(help="As for probe.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="As for probe.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="Compute in float32, float64, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Evaluate random points of the slices in a result file again. Exit code 1: they differ."""
    from landscape import store
    from landscape.slices import verification

    held = [info for info in store.records(file) if info.probe in verification.KINDS]
    if not held:
        raise RequestError(
            f"{file} holds no line, plane or grid. Measure one: landscape probe CKPT --probe plane."
        )
    source = source_of(model, model_args, data, data_args, loss, unsafe_load=unsafe_load)
    path = checkpoint or _beside(file)
    reports, wrong = [], False
    for info in held:
        record = store.read(file, info.group)
        bn: BatchNormPolicy = "eval"
        objective = load_objective(
            path,
            source,
            params=params or "*",
            bn=bn,
            batch_size=batch_size,
            device=device,
            dtype=dtype or _dtype(record),
        )
        try:
            found = verification.verify(objective, record, num=num, seed=seed)
        except RequestError as error:
            if len(held) == 1:
                raise
            fail(f"{info.group}: {error}")
            reports.append({"group": info.group, "error": str(error)})
            wrong = True
            continue
        wrong |= not found.is_right
        reports.append({"group": info.group, **_report(found)})
        if not as_json:
            verdict = "right" if found.is_right else "WRONG"
            largest = float(found.differences.max())
            print(
                f"{info.group}: {verdict}: {len(found.stored)} points evaluated again, largest "
                f"difference {largest:.2g} (allowed {float(found.tolerance.min()):.2g})"
            )
    if as_json:
        print_json(reports)
    raise typer.Exit(1 if wrong else 0)


def _beside(file: Path) -> Path:
    """The checkpoint that a result file was made from, by the name that it keeps."""
    from landscape import store

    table = store.open_results(file).table()
    name = table["checkpoint"].iloc[0] if "checkpoint" in table else None
    found = file.parent / str(name)
    if name is None or not found.exists():
        raise RequestError(
            f"the checkpoint of {file} ({name or 'not named in it'}) is not beside it. Name it: "
            "--checkpoint CKPT."
        )
    return found


def _dtype(record: Any) -> str | None:
    import json

    dtype = json.loads(record.attrs["provenance"]).get("dtype")
    return str(dtype) if dtype else None


def _report(found: Verification) -> dict[str, Any]:
    return {
        "right": found.is_right,
        "points": found.points,
        "stored": found.stored,
        "again": found.again,
        "largest_difference": float(found.differences.max()),
    }
