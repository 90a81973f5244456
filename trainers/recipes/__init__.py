"""One recipe a file; this is their list, which imports none of them.

A recipe is a module with `Options`, a frozen dataclass, and `run(options, make)`, which takes a
`making.Making` and is read from top to bottom.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from landscape.errors import unknown_choice

__all__ = ["RECIPES", "recipe_module"]

RECIPES = {
    "single": "one network",
    "lr-sweep": "fixed learning rates side by side, on the sphere or not; finds the three regimes",
    "finetune": "each start of a family with each fine-tuning rate",
    "swa": "averages of the last weights of a prolonged run",
    "two-stage": "large rate, smaller rate, fine-tuning",
    "edge-of-stability": "full-batch gradient descent with the sharpness on the way",
    "deep-ensemble": "independent fine-tunings of one start (local) or of several (global)",
    "sse": "snapshot ensemble: one cosine cycle after another",
    "star-sse": "cosine cycles that all start from the first model",
    "fge": "fast geometric ensemble: triangular cycles",
    "csgld": "cyclical stochastic gradient Langevin dynamics",
    "swag": "samples of a Gaussian fitted to the weights of a constant-rate run",
    "laplace": "samples of a Laplace approximation with Kronecker factors",
    "spro": "a simplex of low loss, and samples of it",
    "simclr": "contrastive copies, with the learnability of every example",
    "supervised": "supervised copies, with the learnability of every example",
    "random-labels": "copies on permuted labels, with the learnability of every example",
    "subsets": "networks on random subsets of the examples, for memorization",
}


def recipe_module(name: str) -> ModuleType:
    """The module of a recipe.

    Raises:
        RequestError: no such recipe.
    """
    if name not in RECIPES:
        raise unknown_choice("recipe", name, RECIPES)
    return importlib.import_module(f"landscape.trainers.recipes.{name.replace('-', '_')}")
