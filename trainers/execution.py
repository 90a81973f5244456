"""`train`: one recipe with its options, carried out in a folder."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import torch

from landscape.errors import RequestError
from landscape.factory import JSON
from landscape.trainers.claim import claimed
from landscape.trainers.family import Family
from landscape.trainers.forecast import Forecast
from landscape.trainers.making import Making, Place, Progress
from landscape.trainers.options import made
from landscape.trainers.recipes import recipe_module

__all__ = ["command_line", "forecast", "train"]


def train(
    recipe: str,
    out: str | Path,
    *,
    force: bool = False,
    device: str | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    **options: object,
) -> Family:
    """Make a family of checkpoints, or go on with one that was interrupted.

    Args:
        recipe: one of `recipes.RECIPES`.
        out: its folder, made if need be. A finished family of the same request is returned as it
            is; work is kept every 10 s, so that a kill costs no more.
        force: start anew, and replace what is there.
        device: such as "cuda:0"; torch's default device otherwise.
        data_root: where data files are looked for; $LANDSCAPE_DATA otherwise.
        download: get missing files into that folder, with torchvision.
        progress: called with (phase, steps done, steps, words).
        options: the recipe's, by name.

    Raises:
        RequestError: an unknown recipe or option, a value out of range, missing data, a folder
            with another family in it; or, for a single network, a run that diverged.
    """
    module = recipe_module(recipe)
    chosen = made(module.Options, options)
    plain: dict[str, JSON] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(chosen).items()
    }
    folder = Path(out).expanduser()
    command = command_line(recipe, folder, chosen)
    where = torch.get_default_device() if device is None else _device(device)
    place = Place(where, data_root, download)
    with claimed(folder, recipe, plain, force=force) as family:
        if family is not None:
            return family
        make = Making(folder, recipe, plain, command, place, progress)
        module.run(chosen, make)
        return make.finish()


def forecast(
    recipe: str,
    *,
    device: str | None = None,
    data_root: str | Path | None = None,
    **options: object,
) -> Forecast:
    """Time, memory and disk that `train` would take, from a few steps of each phase.

    Raises:
        RequestError: as `train`.
    """
    module = recipe_module(recipe)
    chosen = made(module.Options, options)
    where = torch.get_default_device() if device is None else _device(device)
    make = Making(Path(), recipe, {}, "", Place(where, data_root), forecast=Forecast())
    module.run(chosen, make)
    assert make.forecast is not None
    return make.forecast


def command_line(recipe: str, out: Path, chosen: Any) -> str:
    """The shell command that makes the same family; options at their defaults are left out."""
    words = ["landscape", "train", recipe, "--out", str(out)]
    for field in dataclasses.fields(chosen):
        value = getattr(chosen, field.name)
        if value == field.default:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [flag, text]
    return shlex.join(words)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device={name!r} cannot be used: {error}") from None
    return device
