"""`landscape train RECIPE`: make a family of checkpoints.

A recipe's options are the fields of its `Options`: they are read from there, with their types,
defaults and help, so that each stands in one place.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from landscape.cli.console import print_json, progress_bar
from landscape.cli.options import annotated_options, set_signature
from landscape.errors import RequestError

__all__ = ["train"]

_PLACE = {
    "out": (Path | None, "--out", "Folder for the family."),
    "force": (bool, "--force", "Start anew, and replace what is there."),
    "dry_run": (bool, "--dry-run", "Tell what it would take, and train nothing."),
    "device": (str | None, "--device", "Such as cuda:0."),
    "data_root": (Path | None, "--data-root", "Folder of data files. Default: $LANDSCAPE_DATA."),
    "download": (bool, "--download", "Get missing data files with torchvision."),
    "as_json": (bool, "--json", "Print JSON, for programs."),
    "quiet": (bool, "--quiet", "Print the folder only."),
}


def train(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="What to train.", metavar="RECIPE")] = None,
    show: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
) -> None:
    """Make a family of checkpoints. `landscape train RECIPE --help` for a recipe's options."""
    from landscape.trainers.recipes import RECIPES, recipe_module

    if show or recipe in (None, "-h", "--help"):
        width = max(map(len, RECIPES))
        listed = "\n".join(f"{name:{width}}  {line}" for name, line in RECIPES.items())
        print(listed if show else f"{context.get_help()}\n\nRecipes:\n{listed}")
        if not show and recipe is None:
            raise typer.Exit(2)
        return
    assert recipe is not None
    module = recipe_module(recipe)
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command()(_command(recipe, module.Options, (module.__doc__ or "").strip()))
    app(args=context.args, prog_name=f"landscape train {recipe}")


def _command(recipe: str, options: Any, described: str) -> Any:
    """A function with one keyword for each option, as typer reads them."""

    def command(**given: Any) -> None:
        place = {name: given.pop(name) for name in _PLACE}
        chosen = {name: value for name, value in given.items() if value is not None}
        _run(recipe, chosen, **place)

    place = {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[kind, typer.Option(flag, help=text, show_default=False)],
        )
        for name, (kind, flag, text) in _PLACE.items()
    }
    own = {
        name: inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )
        for name, annotation in annotated_options(options).items()
    }
    set_signature(command, place | own)
    command.__doc__ = described
    return command


def _run(
    recipe: str,
    options: dict[str, object],
    *,
    out: Path | None,
    force: bool,
    dry_run: bool,
    device: str | None,
    data_root: Path | None,
    download: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from landscape.trainers.execution import forecast
    from landscape.trainers.execution import train as carry_out

    if dry_run:
        expected = forecast(recipe, device=device, data_root=data_root, **options)
        if as_json:
            print_json({**dataclasses.asdict(expected), "seconds": expected.seconds})
        else:
            print("\n".join(expected.lines()))
        return
    if out is None:
        raise RequestError("--out is missing. Name a folder for the family: --out runs")
    try:
        with progress_bar(quiet=quiet or as_json) as bar:
            family = carry_out(
                recipe,
                out,
                force=force,
                device=device,
                data_root=data_root,
                download=download,
                progress=lambda phase, done, total, _: bar.report(phase, done, total),
                **options,
            )
    except KeyboardInterrupt:
        print("landscape: interrupted. The same command goes on from there.", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        members = family.members.to_dict(orient="records")
        files = [str(path) for path in family]
        print_json({"folder": str(out), "checkpoints": files, "members": members})
    elif quiet:
        print(out)
    else:
        _summarise(family)


def _summarise(family: Any) -> None:
    from landscape.cli.console import print_table

    members = family.members
    told = [c for c in members if c not in ("name", "file", "diverged", "step")]
    varied = [c for c in told if c.endswith(("_loss", "_accuracy")) or members[c].nunique() > 1]
    shown = members[["name", *varied]]
    if len(shown) > _ROWS:
        print_table(shown.head(_ROWS))
        print(
            f"... {len(shown) - _ROWS} more: landscape.trainers.load_family({str(family.folder)!r})"
        )
    else:
        print_table(shown)
    lost = int(members["diverged"].sum())
    if lost:
        print(f"{lost} of {len(members)} diverged: their weights are not finite, and have no file.")
    for sentence in family.notes:
        print(sentence)
    folder = family.folder
    print(f"{len(family)} checkpoints in {folder}; measure them: landscape probe {folder}")


_ROWS = 30
