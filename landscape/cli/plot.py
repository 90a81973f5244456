"""`landscape plot`: figures from result files, and animations of a family's planes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landscape.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from landscape.store import Results

__all__ = ["animate", "draw", "plot"]

_BY = "recipe.learning_rate"
_OF_ALIGNMENT = ("align", "num_restarts")


def plot(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures. Default: beside each file.")
    ] = None,
    by: Annotated[str, typer.Option(help="Column against which several files are compared.")] = _BY,
    format_: Annotated[str, typer.Option("--format", help="png, pdf or svg.")] = "png",
    animation: Annotated[
        Path | None,
        typer.Option(
            "--animate",
            metavar="FILE",
            help="Instead, one .gif or .mp4 of the files' planes, in the order of --by.",
        ),
    ] = None,
) -> None:
    """Draw what is in result files: figures for each record, and one that compares the files."""
    from landscape import store

    if animation is not None:
        print(animate(files, animation, out=out, by=by))
        return
    for path in draw(files, out=out, by=by, suffix=format_):
        print(path)
    if advice := _grid_advice(store.open_results(files)):
        print(advice, file=sys.stderr)


def draw(files: list[Path], *, out: Path | None, by: str, suffix: str) -> list[Path]:
    """Write all figures; their paths."""
    from landscape import figures, store
    from landscape.errors import unknown_choice

    if suffix not in ("png", "pdf", "svg"):
        raise unknown_choice("format", suffix, ("png", "pdf", "svg"))
    results = store.open_results(files)
    written = []
    _make_folder(out)
    for probe in figures.PROBES:
        for path, record in results.dataset(probe):
            drawn = figures.for_record(probe, record)
            if probe == "barrier":
                drawn = _barriers(path, record)
            if probe == "curve":
                drawn = {"curve": figures.curve(record, _plane_of(path, record))}
            for name, figure in drawn.items():
                target = (out or path.parent) / f"{path.stem}-{name}.{suffix}"
                figure.savefig(target, dpi=150)
                written.append(target)
    comparison = _compared(results, out, by, suffix, may_lack=bool(written))
    written += [comparison] if comparison is not None else []
    if not written:
        advice = _grid_advice(results) or "Measure first: landscape probe CKPT."
        raise RequestError(
            f"nothing to draw in {', '.join(map(str, files))}: no record of "
            f"{', '.join(figures.PROBES)}. {advice}"
        )
    return written


def _barriers(path: Path, newest: xr.Dataset) -> dict[str, Figure]:
    """The newest barrier of a file; where an alignment was asked for, that before and after it."""
    from landscape import figures, store

    def pair(settings: Mapping[str, object]) -> dict[str, object]:
        return {name: value for name, value in settings.items() if name not in _OF_ALIGNMENT}

    own = json.loads(newest.attrs["settings"])
    before, after = newest, {}
    for info in store.records(path):  # oldest first: a newer one takes its place
        if info.probe != "barrier" or pair(info.settings) != pair(own):
            continue
        if "align" in info.settings:
            after[f"aligned by {info.settings['align']}"] = store.read(path, info.group)
        else:
            before = store.read(path, info.group)
    found = {"barrier": figures.barrier(before)}
    if after and "align" not in json.loads(before.attrs["settings"]):
        found["barrier-aligned"] = figures.barrier(before, others=after)
    return found


def _plane_of(path: Path, curve: xr.Dataset) -> xr.Dataset | None:
    """The plane that was measured together with a curve."""
    from landscape import store

    own = json.loads(curve.attrs["settings"])
    for info in store.records(path):
        if info.probe == "plane" and info.settings == own:
            return store.read(path, info.group)
    return None


def _compared(
    results: Results, out: Path | None, by: str, suffix: str, *, may_lack: bool
) -> Path | None:
    """The figure of several files; None of one, and where there is nothing that it compares."""
    from landscape import figures
    from landscape.errors import unknown_choice

    table = results.table()
    if len(results.paths) < 2:
        return None
    if by not in table.columns:
        if by == _BY:
            return None
        raise unknown_choice("column", by, [str(name) for name in table.columns])
    try:
        figure = figures.comparison(table, by)
    except RequestError:
        if may_lack and by == _BY:  # slices alone: nobody asked for more
            return None
        raise
    target = (out or results.paths[0].parent) / f"comparison.{suffix}"
    figure.savefig(target, dpi=150)
    return target


def animate(files: list[Path], target: Path, *, out: Path | None, by: str) -> Path:
    """Write one animation of the newest planes; its path."""
    from landscape import figures, store

    results = store.open_results(files)
    _make_folder(out)
    target = (out or Path()) / target
    planes = dict(results.dataset("plane"))
    figures.animation(
        {title: planes[path] for path, title in _titles(results, list(planes), by).items()}, target
    )
    return target


def _titles(results: Results, paths: list[Path], by: str) -> dict[Path, str]:
    """In order: the value of `by` where each file has another, else the file's name."""
    from landscape.errors import unknown_choice

    table = results.table()
    if by in table.columns:
        values = table[by].reindex([str(path) for path in paths])
        if values.notna().all() and values.is_unique:
            name = by.rpartition(".")[2].replace("_", " ")
            return {paths[row]: f"{name} {_plain(values.iloc[row])}" for row in _ranked(values)}
    elif by != _BY:
        raise unknown_choice("column", by, [str(name) for name in table.columns])
    is_unique = len({path.stem for path in paths}) == len(paths)
    return {path: path.stem if is_unique else str(path.with_suffix("")) for path in paths}


def _ranked(values: pd.Series[Any]) -> list[int]:
    """Rows in the order of their values; in that of their letters, if they are no numbers."""
    from pandas.api.types import is_numeric_dtype

    values = values.infer_objects()
    keys = values if is_numeric_dtype(values.dtype) else values.astype(str)
    return [int(row) for row in keys.argsort(kind="stable")]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _grid_advice(results: Results) -> str:
    """What to do with a record that has too many axes for a figure."""
    grids = [path for path, _ in results.dataset("grid")]
    if not grids:
        return ""
    return f"A grid is not drawn; ParaView shows it: landscape export {grids[0]} --format vtkhdf."


def _make_folder(out: Path | None) -> None:
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the folder {out}: {error.strerror}.") from error
