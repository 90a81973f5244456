"""The other libraries, as contestants call them; the benchmarks let them run."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.problems import CrossEntropy, Problem
from landscape.errors import RequestError

__all__ = [
    "check_installed",
    "curvlinops",
    "eigenthings",
    "loss_landscapes",
    "loss_landscapes_loss",
    "pyhessian",
    "tolerated",
]

_MODULES = ("pyhessian", "curvlinops", "hessian_eigenthings", "loss_landscapes")


def check_installed() -> None:
    """Raise RequestError unless all peers are there."""
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"not installed: {', '.join(missing)}. Type `pip install -e '.[peers]'` and "
            "`pip install --no-deps -r peers-without-dependencies.txt`, or leave the peers out "
            "with --no-peers."
        )


@contextmanager
def tolerated() -> Iterator[None]:
    """What the peers need: attention with a second derivative, and no warnings as errors."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # PyHessian's backward(create_graph=True)
        yield


def pyhessian(problem: Problem) -> Any:
    """PyHessian over the whole data, as it is asked for with a data loader."""
    with tolerated():
        module = importlib.import_module("pyhessian")
        return module.hessian(
            problem.own_model(), CrossEntropy(), dataloader=problem.batches, cuda=False
        )


def curvlinops(problem: Problem) -> Any:
    """curvlinops' Hessian; its check for determinism, two gradients once, is left out."""
    with tolerated():
        module = importlib.import_module("curvlinops")
        model = problem.own_model()
        return module.HessianLinearOperator(
            model,
            CrossEntropy(),
            list(model.parameters()),
            problem.batches,
            check_deterministic=False,
        )


def eigenthings(problem: Problem) -> Any:
    """hessian-eigenthings' Hessian by its default method, exact double backward."""
    with tolerated():
        module = importlib.import_module("hessian_eigenthings")
        criterion = CrossEntropy()

        def loss(model: nn.Module, batch: Any) -> Any:
            return criterion(model(batch[0]), batch[1])

        return module.HessianOperator(problem.own_model(), problem.batches, loss)


def loss_landscapes_loss(inputs: Tensor, labels: Tensor) -> Callable[[Any], float]:
    """loss-landscapes' own metric: cross-entropy of all examples in one batch."""
    module = importlib.import_module("loss_landscapes.metrics")
    metric: Callable[[Any], float] = module.Loss(F.cross_entropy, inputs, labels)
    return metric


def loss_landscapes(
    model: nn.Module, steps: int, metric: Callable[[Any], float]
) -> NDArray[np.float64]:
    """loss-landscapes' filter-normalised random plane: the metric at `steps` x `steps` points."""
    module = importlib.import_module("loss_landscapes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found: NDArray[np.float64] = module.random_plane(
            model, metric, distance=1, steps=steps, normalization="filter", deepcopy_model=True
        )
    return found
