"""The command `landscape`: the list of its commands, and what becomes of an error.

Each command lives in the file of its name. Nothing here or at the top of those files imports
torch: `landscape --help` answers at once.
"""

from __future__ import annotations

import os
import sys

import typer

from landscape.cli.console import fail
from landscape.cli.demo import demo
from landscape.cli.doctor import doctor
from landscape.cli.export import export
from landscape.cli.import_ import import_
from landscape.cli.info import info
from landscape.cli.merge import merge
from landscape.cli.path import align, path
from landscape.cli.plot import plot
from landscape.cli.probe import probe
from landscape.cli.train import train
from landscape.cli.verify import verify
from landscape.errors import RequestError

__all__ = ["app", "main"]

app = typer.Typer(
    name="landscape",
    help="Measure the loss landscape around a trained network, and say how sure the numbers are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # drawing the help with rich takes as long as all the rest of it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Train, measure and compare three small networks.")(demo)
app.command(
    short_help="Make a family of checkpoints.",
    # A recipe's options, --help among them, are read by its own command.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(train)
app.command(short_help="Measure checkpoints: CKPT.pt -> CKPT.h5.")(probe)
app.command(short_help="The barrier between checkpoints, curves, similarity, soups.")(path)
app.command(short_help="Permute the units of a checkpoint towards another.")(align)
app.command(short_help="Draw what is in result files.")(plot)
app.command(short_help="Evaluate random points of stored slices again.")(verify)
app.command(short_help="Put shards of a slice together.")(merge)
app.command(short_help="Write a slice for ParaView, or as CSV or NPZ.")(export)
app.command("import", short_help="Read a surface of tomgoldstein/loss-landscape.")(import_)
app.command(short_help="What is in a result file or checkpoint.")(info)
app.command(short_help="Check the installation, and a checkpoint.")(doctor)


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Options of the command itself."""
    if show:
        from landscape import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 a probe failed, 2 the request was wrong."""
    # Threads that spin while they wait for each other stand still on a machine that is shared: a
    # product of the digits MLP took 540 ms beside two busy processes on two cores, and 11 ms with
    # this (GNU OpenMP, torch 2.13). It has to be set before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        app()
    except RequestError as error:
        fail(str(error), as_json="--json" in sys.argv)
        sys.exit(2)
