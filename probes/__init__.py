"""Probes: what a network has learned, example by example and feature by feature.

This page is the table of contents; nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib

_HOMES: dict[str, str] = {}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'landscape.probes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
