"""Options of a recipe: a frozen dataclass, from which Python and the command line read alike."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from landscape.errors import RequestError, unknown_choice

__all__ = ["made", "option", "read"]

Chosen = TypeVar("Chosen")


def option(
    default: Any, words: str, *, low: float | None = None, above: float | None = None
) -> Any:
    """A field of an options class.

    Args:
        words: one line of help.
        low: least value allowed, also of each entry of a list.
        above: greatest value that is not allowed any more.
    """
    return dataclasses.field(
        default=default, metadata={"help": words, "low": low, "above": above}
    )  # fmt: skip


def made(options: type[Chosen], given: Mapping[str, object]) -> Chosen:
    """The options with some given by name, each checked for its type and range.

    Lists may come as lists, or as text with commas: "0.01,0.1".

    Raises:
        RequestError: an option that the recipe does not have, or a value that it cannot take.
    """
    fields = {field.name: field for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    kinds = typing.get_type_hints(options)
    chosen = {}
    for name, value in given.items():
        if name not in fields:
            raise unknown_choice("option", name, fields)
        chosen[name] = read(name, value, kinds[name])
        _check_range(name, chosen[name], fields[name].metadata)
    return options(**chosen)


def read(name: str, value: object, kind: Any) -> object:
    """A value as the kind that an option has: number, text, bool, a choice, or a list of such."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return read(name, value, next(one for one in arguments if one is not type(None)))
    if origin is typing.Literal:
        if value not in arguments:
            raise unknown_choice(name, str(value), arguments)
        return value
    if origin is tuple:
        entries = value.split(",") if isinstance(value, str) else value
        if isinstance(entries, int | float):
            entries = [entries]
        try:
            return tuple(read(name, entry, arguments[0]) for entry in typing.cast(Any, entries))
        except TypeError:
            raise RequestError(
                f"{name}={value!r} is no list. Write values with commas between, or a list."
            ) from None
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise RequestError(f"{name}={value!r} is neither True nor False.")
    if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
        raise RequestError(f"{name}={value!r} is not what {name} takes: {kind.__name__}.")
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise RequestError(
            f"{name}={value!r} is not what {name} takes: "
            f"{'a whole number' if kind is int else 'a number'}."
        ) from None
    if kind is int and isinstance(value, float) and number != value:
        raise RequestError(f"{name}={value!r} is no whole number.")
    return number


def _check_range(name: str, value: object, limits: Mapping[str, Any]) -> None:
    for entry in value if isinstance(value, tuple) else (value,):
        if isinstance(entry, bool) or not isinstance(entry, int | float):
            continue
        low, above = limits.get("low"), limits.get("above")
        finite = entry - entry == 0
        if (
            not finite
            or (low is not None and entry < low)
            or (above is not None and entry <= above)
        ):
            wanted = "finite" if above is None else f"above {above:g}"
            wanted = wanted if low is None else f"{low:g} or more"
            raise RequestError(f"{name}={entry!r} is out of range. It has to be {wanted}.")
