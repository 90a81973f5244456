"""`landscape plot`: figures from result files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landscape.errors import RequestError

__all__ = ["draw", "plot"]


def plot(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures. Default: beside each file.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="Column against which several files are compared.")
    ] = "recipe.learning_rate",
    format_: Annotated[str, typer.Option("--format", help="png, pdf or svg.")] = "png",
) -> None:
    """Draw what is in result files: a figure for each record, and one that compares the files."""
    for path in draw(files, out=out, by=by, suffix=format_):
        print(path)


def draw(files: list[Path], *, out: Path | None, by: str, suffix: str) -> list[Path]:
    """Write all figures; their paths."""
    from landscape import figures, store
    from landscape.errors import unknown_choice

    if suffix not in ("png", "pdf", "svg"):
        raise unknown_choice("format", suffix, ("png", "pdf", "svg"))
    results = store.open_results(files)
    written = []
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot make the folder {out}: {error.strerror}.") from error
    for probe in ("eigenvalues", "density"):
        for path, record in results.dataset(probe):
            figure = figures.for_record(probe, record)
            if figure is None:
                continue
            target = (out or path.parent) / f"{path.stem}-{probe}.{suffix}"
            figure.savefig(target, dpi=150)
            written.append(target)
    table = results.table()
    if len(results.paths) > 1 and by in table.columns:
        target = (out or results.paths[0].parent) / f"comparison.{suffix}"
        figures.comparison(table, by).savefig(target, dpi=150)
        written.append(target)
    elif len(results.paths) > 1 and by != "recipe.learning_rate":
        raise unknown_choice("column", by, [str(name) for name in table.columns])
    if not written:
        raise RequestError(
            f"nothing to draw in {', '.join(map(str, files))}: no record of eigenvalues or "
            "density. Measure first: landscape probe CKPT."
        )
    return written
