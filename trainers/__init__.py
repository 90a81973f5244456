"""Small networks, bundled data and recipes: what makes checkpoints for the rest to measure.

This page is the table of contents; torch and scikit-learn are imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.trainers.data import digits as digits
    from landscape.trainers.models import cnn as cnn
    from landscape.trainers.models import mlp as mlp
    from landscape.trainers.models import resnet20 as resnet20
    from landscape.trainers.models import transformer as transformer
    from landscape.trainers.recipes.single import train_single as train_single

_HOMES = {
    "cnn": "landscape.trainers.models",
    "digits": "landscape.trainers.data",
    "mlp": "landscape.trainers.models",
    "resnet20": "landscape.trainers.models",
    "train_single": "landscape.trainers.recipes.single",
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
