"""`landscape doctor`: what is wrong with a set-up, before the long run."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from landscape.cli.console import print_json
from landscape.cli.measuring import source_of
from landscape.errors import RequestError
from landscape.request import Source, open_checkpoint

__all__ = ["doctor"]

# What `setup.cfg` asks for at run time; the distribution's own list is read, so none is missed.
_DISTRIBUTION = "landscape-geometry"


def doctor(
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="[CKPT]", help="Try this checkpoint, too.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="As for `landscape probe`.")] = None,
    model_args: Annotated[str | None, typer.Option(help="As for `landscape probe`.")] = None,
    data: Annotated[str | None, typer.Option(help="As for `landscape probe`.")] = None,
    data_args: Annotated[str | None, typer.Option(help="As for `landscape probe`.")] = None,
    loss: Annotated[str | None, typer.Option(help="As for `landscape probe`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Check the installation, and that a checkpoint can be measured: exit code 1 if not."""
    checks = [*_packages(), *_machine()]
    if checkpoint is not None:
        source = source_of(model, model_args, data, data_args, loss)
        checks += _trial(checkpoint, source)
    good = all(passed for passed, _, _ in checks)
    if as_json:
        print_json([{"ok": ok, "check": name, "found": text} for ok, name, text in checks])
    else:
        for ok, name, text in checks:
            print(f"{'ok ' if ok else 'BAD'}  {name:<14}{text}")
        print("all well" if good else "something is wrong: see the lines that begin with BAD")
    raise typer.Exit(0 if good else 1)


Check = tuple[bool, str, str]


def _packages() -> list[Check]:
    import importlib.metadata

    from packaging.requirements import Requirement

    checks: list[Check] = [(True, "python", platform.python_version())]
    for line in importlib.metadata.requires(_DISTRIBUTION) or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            mend = f"missing; pip install '{wanted.name}{wanted.specifier}'"
            checks.append((False, wanted.name, mend))
            continue
        fits = wanted.specifier.contains(found, prereleases=True)
        mend = "" if fits else f", needs {wanted.specifier}: pip install --upgrade {wanted.name}"
        checks.append((fits, wanted.name, f"{found}{mend}"))
    return checks


def _machine() -> list[Check]:
    import torch

    from landscape.memory import available_bytes, format_bytes

    cpu = torch.device("cpu")
    checks: list[Check] = [
        (True, "cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads"),
        (True, "memory", f"{format_bytes(available_bytes(cpu))} free"),
    ]
    for index in range(torch.cuda.device_count()):
        free = format_bytes(available_bytes(torch.device("cuda", index)))
        checks.append((True, f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {free} free"))
    try:
        with tempfile.NamedTemporaryFile(dir="."):
            checks.append((True, "folder", f"{Path.cwd()} can be written"))
    except OSError as error:
        checks.append((False, "folder", f"{Path.cwd()} cannot be written: {error.strerror}"))
    return checks


def _trial(checkpoint: Path, source: Source) -> list[Check]:
    """Load, evaluate twice, and take the products that measure their own noise."""
    from landscape.curvature.hessian import HessianOperator

    try:
        objective, read = open_checkpoint(checkpoint, source)
    except RequestError as error:
        return [(False, "checkpoint", str(error))]
    checks: list[Check] = [(True, "checkpoint", f"{read.kind}: {objective!r}")]
    try:
        with HessianOperator(objective) as hessian:
            noise = hessian.noise()
            relative = noise.floor / noise.norm if noise.norm else 0.0
            text = f"rounding noise {noise.floor:.2g}, {relative:.1g} of a product"
            checks.append((relative < 0.01, "products", text))
            notes = hessian.notes
    except RequestError as error:
        return [*checks, (False, "products", str(error))]
    return [*checks, *((True, "note", note) for note in (*read.notes, *notes))]
