"""Small networks, data and recipes: what makes families of checkpoints for the rest to measure.

This page is the table of contents; torch and scikit-learn are imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.trainers.data import digits as digits
    from landscape.trainers.data import ticks as ticks
    from landscape.trainers.execution import train as train
    from landscape.trainers.family import Family as Family
    from landscape.trainers.family import load_family as load_family
    from landscape.trainers.models import cnn as cnn
    from landscape.trainers.models import mlp as mlp
    from landscape.trainers.models import resnet20 as resnet20
    from landscape.trainers.models import transformer as transformer
    from landscape.trainers.scale_invariance import (
        scale_invariant_groups as scale_invariant_groups,
    )
    from landscape.trainers.stacking import Stack as Stack
    from landscape.trainers.stacking import stack as stack

_HOMES = {
    "Family": "landscape.trainers.family",
    "Stack": "landscape.trainers.stacking",
    "cnn": "landscape.trainers.models",
    "digits": "landscape.trainers.data",
    "load_family": "landscape.trainers.family",
    "mlp": "landscape.trainers.models",
    "resnet20": "landscape.trainers.models",
    "scale_invariant_groups": "landscape.trainers.scale_invariance",
    "stack": "landscape.trainers.stacking",
    "ticks": "landscape.trainers.data",
    "train": "landscape.trainers.execution",
    "transformer": "landscape.trainers.models",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'landscape.trainers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
