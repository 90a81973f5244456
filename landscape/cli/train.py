"""`landscape train RECIPE`: make checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landscape.cli.console import print_json, progress_bar

__all__ = ["train"]

train = typer.Typer(help="Make checkpoints on the bundled data.", invoke_without_command=True)


@train.callback()
def recipes(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
) -> None:
    """Make checkpoints on the bundled data. `landscape train RECIPE --help` for one recipe."""
    if show:
        print("single    one network on scikit-learn's digits, by plain SGD")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@train.command()
def single(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="mlp, cnn or resnet20. Default: mlp.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Default: 0.1.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Default: 60.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: 32.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the file name only.")] = False,
) -> None:
    """One network on scikit-learn's digits, by plain SGD: one self-describing checkpoint."""
    from landscape.checkpoint import read_checkpoint
    from landscape.trainers import train_single

    asked = {
        "model": model,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    with progress_bar(quiet=quiet or as_json) as bar:
        path = train_single(
            out,
            progress=lambda done, total, message: bar.report("training", done, total),
            **given,  # type: ignore[arg-type]
        )
    metrics = read_checkpoint(path).metrics
    if as_json:
        print_json({"checkpoint": str(path), "metrics": metrics})
    elif quiet:
        print(path)
    else:
        words = ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items()
        )
        print(f"{path}\n  {words}\n  measure it: landscape probe {path}")
