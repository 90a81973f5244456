"""The one error that means "the request was wrong", and the words it is made of.

Everything that a user can mend by typing something else raises `RequestError`; the command line
turns it into one line and exit code 2. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["RequestError", "unknown_choice"]


class RequestError(ValueError):
    """The request cannot be met: the message says what came, what was needed, what to type."""


def unknown_choice(kind: str, name: str, choices: Iterable[str]) -> RequestError:
    """The error for a name that is none of `choices`, with the nearest right one."""
    known = sorted(choices)
    by_lower = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
    return RequestError(f"unknown {kind} {name!r}.{hint} The choices are: {', '.join(known)}.")
