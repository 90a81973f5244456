"""Options of a command, read from a dataclass: each stands in one place, with its type and help."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

__all__ = ["annotated_options", "chosen", "set_signature", "with_options"]

_ALIASES = {"learning_rate": ("--lr",), "learning_rates": ("--lrs",)}


def annotated_options(options: Any) -> dict[str, Any]:
    """Name -> annotation for typer, of every field that has a help; None where it is not given."""
    kinds = typing.get_type_hints(options)
    found = {}
    for field in dataclasses.fields(options):
        if not field.metadata.get("help"):
            continue
        kind, choices = _kind(kinds[field.name])
        default = _shown(field.default)
        words = [field.metadata["help"], *([f"One of {choices}."] if choices else [])]
        if default:
            words.append(f"Default: {default}.")
        flag = field.name.replace("_", "-")
        flags = (
            [f"--{flag}/--no-{flag}"]
            if kind is bool
            else [f"--{flag}", *_ALIASES.get(field.name, ())]
        )
        text = ". ".join(word.rstrip(".") for word in words) + "."
        found[field.name] = Annotated[
            kind | None, typer.Option(*flags, help=text[0].upper() + text[1:], show_default=False)
        ]
    return found


def with_options(*options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose `**given` are the options of dataclasses, as typer reads them.

    An option that several have is described as in the first.
    """
    annotations: dict[str, Any] = {}
    for one in options:
        annotations = {**annotated_options(one), **annotations}
    order = [name for one in options for name in annotated_options(one)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters.values()
        kinds = typing.get_type_hints(command, include_extras=True)
        parameters = [
            parameter.replace(annotation=kinds[parameter.name])
            for parameter in own
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        parameters += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotations[name]
            )
            for name in dict.fromkeys(order)
        ]
        set_signature(command, {one.name: one for one in parameters})
        return command

    return decorate


def chosen(options: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given options that a dataclass has and that were given a value."""
    names = {field.name for field in dataclasses.fields(options)}
    return {name: value for name, value in given.items() if name in names and value is not None}


def set_signature(command: Any, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Give a function the parameters that typer is to see."""
    command.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    command.__signature__ = inspect.Signature(list(parameters.values()))


def _kind(kind: Any) -> tuple[Any, str]:
    """What the command line takes for an option, and its choices; lists and choices are text."""
    if typing.get_origin(kind) is typing.Literal:
        return str, ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return str, ""
    arguments = [one for one in typing.get_args(kind) if one is not type(None)]
    return (arguments[0] if arguments else kind), ""


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(
            f"{entry:g}" if isinstance(entry, float) else str(entry) for entry in default
        )
    return "" if default in ("", None, False) else str(default)
