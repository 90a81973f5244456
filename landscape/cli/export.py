"""`landscape export`: a slice for ParaView, pandas or NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landscape.cli.console import print_json
from landscape.errors import RequestError, unknown_choice

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FORMATS", "export"]

FORMATS = ("vtkhdf", "vts", "csv", "npz")  # each the suffix of its files


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    format_: Annotated[
        str,
        typer.Option("--format", help="vtkhdf, vts (ParaView), csv or npz.", show_default=False),
    ],
    record: Annotated[
        str | None,
        typer.Option(help="Group of the sweep, or how it begins. Default: the newest sweep."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: FILE-RECORD.FORMAT beside FILE.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Write a line, plane or grid of a result file in a form that other programs read."""
    if format_ not in FORMATS:
        raise unknown_choice("format", format_, FORMATS)
    group, dataset, notes = _chosen(file, record)
    target = out or file.with_name(f"{file.stem}-{group.split('/')[1]}.{format_}")
    if target.exists() and (target.samefile(file) or not force):
        raise RequestError(
            f"{target} is there already. Type another name (--out PATH)"
            + ("." if target.samefile(file) else ", or --force to replace it.")
        )
    try:
        notes += _write(target, dataset, format_)
    except OSError as error:
        reason = error.strerror or error
        raise RequestError(f"cannot write {target}: {reason}. Type another: --out PATH.") from error
    if as_json:
        print_json({"written": str(target), "record": group, "format": format_, "notes": notes})
        return
    print(target)
    for note in notes:
        print(f"  {note}")


def _chosen(file: Path, wanted: str | None) -> tuple[str, xr.Dataset, tuple[str, ...]]:
    """The sweep's group and record, and which others there are."""
    from landscape import store
    from landscape.exchange.grid import axes_of

    held = {info.group: store.read(file, info.group) for info in store.records(file)}
    sweeps = [group for group, record in held.items() if axes_of(record)]  # oldest first
    if not sweeps:
        raise RequestError(
            f"{file} holds no sweep; its records: {', '.join(held) or 'none'}. "
            f"Measure one: landscape probe CKPT --probe plane."
        )
    if wanted is None:
        others = ", ".join(sweeps[:-1])
        notes = (f"The newest sweep, {sweeps[-1]}. Others, for --record: {others}.",)
        return sweeps[-1], held[sweeps[-1]], notes if others else ()
    found = [group for group in sweeps if group.strip("/").startswith(wanted.strip("/"))]
    if len(found) != 1:
        raise RequestError(
            f"--record {wanted} fits {len(found)} sweeps of {file}. "
            f"Type one of: {', '.join(found or sweeps)}."
        )
    return found[0], held[found[0]], ()


def _write(target: Path, record: xr.Dataset, format_: str) -> tuple[str, ...]:
    from landscape.exchange.tables import write_csv, write_npz
    from landscape.exchange.vtkhdf import write_vtkhdf
    from landscape.exchange.vts import write_vts

    writers = {"vtkhdf": write_vtkhdf, "vts": write_vts, "csv": write_csv, "npz": write_npz}
    return writers[format_](target, record)
