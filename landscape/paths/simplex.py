"""Simplices of low loss: modes joined through vertices that are trained to span a large volume.

`simplex_volume` has the volumes and their gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.examples import Examples
from landscape.paths.neb import Progress
from landscape.paths.potential import Potential, ends_fingerprint, potential_of
from landscape.paths.simplex_volume import log_volume, volume_term
from landscape.result import Result
from landscape.slices.execution import BatchNormMode

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Simplex", "fit_simplex"]

Array = NDArray[np.float64]

_TRAINING, _MEASURING = 0, 1  # children of the seed


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Simplex(Result):
    """Simplices that share all connectors, one for each mode.

    Between two modes there is none: their way leads through the connectors.

    Attributes:
        vertices: (K, n) the modes, then the connectors.
        num_modes: how many of them are modes.
        log_volumes: (num_modes,) natural logarithm of the volume of each simplex.
        weights: (S, K) barycentric coordinates of the points that were measured, spread evenly
            over each simplex, the simplices in equal shares.
        losses: (S,) of the objective's own data there.
        fields: (S,) others: "error" where there are classes, and those of further data by name.
        vertex_losses: (K,).
        training_losses: (steps of all connectors,) as the minibatches saw them.
        stopped: why the training ended early, or nothing.
    """

    probe: ClassVar[str] = "simplex"

    vertices: Tensor
    num_modes: int
    log_volumes: Array
    weights: Array
    losses: Array
    fields: Mapping[str, Array]
    vertex_losses: Array
    training_losses: Array
    stopped: str = ""

    def __repr__(self) -> str:
        return (
            f"Simplex({self.num_modes} modes, {self.dimension} connectors: mean loss "
            f"{self.mean_loss:.4g} +- {self.standard_error:.2g}, greatest {self.max_loss:.4g}, "
            f"log volume {np.logaddexp.reduce(self.log_volumes):.4g}, {self.status})"
        )

    @property
    def status(self) -> str:
        """ "converged" when every step was taken and every point has a loss, else what is not."""
        lost = int(np.isnan(self.losses).sum())
        return self.stopped or (
            f"{lost} of {len(self.losses)} points are NaN" if lost else "converged"
        )

    @property
    def dimension(self) -> int:
        """Of each simplex."""
        return len(self.vertices) - self.num_modes

    @property
    def volume(self) -> float:
        """Of all simplices together, in parameters^dimension; 0 where it is too small for a float.

        `log_volumes` do not underflow.
        """
        return float(np.exp(self.log_volumes).sum())

    @property
    def mean_loss(self) -> float:
        """Over the simplices."""
        return float(self.losses.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean loss, as an estimate from the points that were measured."""
        return _standard_error(self.losses, self.num_modes)

    @property
    def max_loss(self) -> float:
        """The greatest of the points that were measured: the simplex may hold a greater one."""
        return float(self.losses.max())

    def sample(self, num: int, seed: int) -> Tensor:
        """(num, n) parameters of networks, spread evenly over the simplices: an ensemble.

        Raises:
            RequestError: a number below 1.
        """
        if num < 1:
            raise RequestError(f"num is {num}, expected at least 1.")
        weights = barycentric(num, len(self.vertices), self.num_modes, np.random.default_rng(seed))
        return torch.as_tensor(weights).to(self.vertices) @ self.vertices

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `sample`, `vertex`, `mode`, `step`; with `vectors`, `parameter`."""
        import xarray as xr

        described: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "log_volume": (("mode",), self.log_volumes, "1", "log volume of the mode's simplex"),
            "weight": (("sample", "vertex"), self.weights, "1", "weight of a vertex in a point"),
            "loss": (("sample",), self.losses, "loss", "loss at points spread over the simplices"),
            "vertex_loss": (("vertex",), self.vertex_losses, "loss", "loss at the vertices"),
            "training_loss": (("step",), self.training_losses, "loss", "loss of a training step"),
            "dimension": ((), self.dimension, "1", "dimension of each simplex"),
            "total_log_volume": (
                (), float(np.logaddexp.reduce(self.log_volumes)), "1", "log volume of all simplices"
            ),
            "mean_loss": ((), self.mean_loss, "loss", "mean loss over the simplices"),
            "mean_loss_error": ((), self.standard_error, "loss", "standard error of the mean loss"),
            "max_loss": ((), self.max_loss, "loss", "greatest loss that was met"),
        }  # fmt: skip
        for name, values in self.fields.items():
            unit, words = "loss" if name.endswith("loss") else "1", name.replace("_", " ")
            described[name] = (("sample",), values, unit, f"{words} at points of the simplices")
            described[f"mean_{name}"] = ((), float(values.mean()), unit, f"mean {words}")
            described[f"max_{name}"] = ((), float(values.max()), unit, f"greatest {words}")
        if vectors:
            held = self.vertices.float() if self.vertices.dtype.itemsize < 4 else self.vertices
            place = ("vertex", "parameter")
            described["vertex_vector"] = (place, held.cpu().numpy(), "parameter", "vertex")
        return xr.Dataset(
            {
                name: (dimensions, values, {"units": unit, "long_name": words})
                for name, (dimensions, values, unit, words) in described.items()
            }
        )


def fit_simplex(
    objective: Objective | Potential,
    vertices: Sequence[Tensor] | Tensor,
    num_connectors: int = 1,
    *,
    steps: int = 1000,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    regularization: float = 1e-3,
    num_samples: int = 64,
    bn: BatchNormMode = "recalibrate",
    batch_size: int | None = None,
    also: Mapping[str, Objective] | None = None,
    seed: int,
    progress: Progress | None = None,
) -> Simplex:
    """Simplices of low loss, each spanned by a mode and all connectors.

    The connectors are trained one after another, each from the centroid of the vertices before it,
    on E L(sum_i c_i v_i) - regularization log(V + 1e-4), c even over the simplices and V their
    volume. Between modes the first is trained without the volume: it has to find a way.

    Args:
        objective: or a potential such as `FunctionPotential`.
        vertices: (n,) each, one mode or more, which stay.
        num_connectors: how many are trained: the dimension of the simplices.
        steps, learning_rate, momentum: of each connector; a step takes a point in each simplex,
            all on one minibatch.
        regularization: the loss that a unit of log volume may cost.
        num_samples: points that are measured in the end, in each simplex.
        bn, batch_size, also: see `landscape.paths.neb.neb`.
        seed: of points and minibatches.
        progress: called with (steps done, steps of all, the connector).

    Raises:
        RequestError: modes, options or data that do not fit.

    Source: Benton et al. 2021, arXiv:2102.13042.
    """
    began = time.perf_counter()
    if len(vertices) < 1 or num_connectors < 1 or steps < 1 or num_samples < 2:
        raise RequestError(
            f"{len(vertices)} modes, num_connectors={num_connectors}, steps={steps}, "
            f"num_samples={num_samples}: expected at least 1, 1, 1 and 2."
        )
    if not (learning_rate > 0 and 0 <= momentum < 1 and regularization >= 0):
        raise RequestError(
            f"learning_rate={learning_rate}, momentum={momentum}, regularization={regularization}: "
            "expected learning_rate > 0, 0 <= momentum < 1 and regularization >= 0."
        )
    potential = potential_of(objective, bn=bn, batch_size=batch_size, seed=seed, also=also)
    modes = torch.stack([potential.point(theta) for theta in vertices])
    training = _Training(potential, modes, steps, learning_rate, momentum, seed)
    for number in range(num_connectors):
        if not training.stopped:
            finds_way = number == 0 and len(modes) > 1
            training.add(0.0 if finds_way else regularization, num_connectors, progress)
    points, count = training.points, len(modes)
    children = np.random.SeedSequence(seed, spawn_key=(_MEASURING,))
    weights = barycentric(num_samples * count, len(points), count, np.random.default_rng(children))
    corners = np.eye(len(points))
    measured = potential.examples(points, torch.as_tensor(np.concatenate([weights, corners])))
    fields = _fields(measured, len(weights))
    losses = measured[""].loss.numpy()
    return Simplex(
        settings={
            "num_connectors": num_connectors,
            "steps": steps,
            "learning_rate": learning_rate,
            "momentum": momentum,
            "regularization": regularization,
            "num_samples": num_samples,
            "bn": bn,
            "batch_size": batch_size,
            "also": sorted(also or {}),
            "seed": seed,
            "ends": ends_fingerprint(*modes),
        },
        provenance=potential.provenance(),
        notes=potential.notes,
        wall_time=time.perf_counter() - began,
        vertices=points,
        num_modes=count,
        log_volumes=np.asarray([log_volume(simplex) for simplex in training.simplices()]),
        weights=weights,
        losses=losses[: len(weights)],
        fields=fields,
        vertex_losses=losses[len(weights) :],
        training_losses=np.asarray(training.losses),
        stopped=training.stopped,
    )


def barycentric(
    num: int, num_vertices: int, num_modes: int, generator: np.random.Generator
) -> Array:
    """(num, K) weights of points spread evenly over simplices of one mode and all connectors.

    Exponential variates over their sum, Dirichlet(1). The simplices take turns.
    """
    turns = np.arange(num) % num_modes
    drawn = generator.exponential(size=(num, num_vertices))
    drawn[:, :num_modes] *= turns[:, None] == np.arange(num_modes)
    found: Array = drawn / drawn.sum(axis=1, keepdims=True)
    return found


class _Training:
    """The vertices so far, and the descent of the newest."""

    def __init__(
        self,
        potential: Potential,
        modes: Tensor,
        steps: int,
        learning_rate: float,
        momentum: float,
        seed: int,
    ) -> None:
        self._potential, self._num_modes = potential, len(modes)
        self._steps, self._learning_rate, self._momentum = steps, learning_rate, momentum
        self._generator = np.random.default_rng(
            np.random.SeedSequence(seed, spawn_key=(_TRAINING,))
        )
        self.points = modes
        self.losses: list[float] = []
        self.stopped = ""

    def simplices(self) -> list[Tensor]:
        """The vertices (dimension + 1, n) of each, the newest the last."""
        modes, connectors = self.points[: self._num_modes], self.points[self._num_modes :]
        return [torch.cat([mode[None], connectors]) for mode in modes]

    def add(self, regularization: float, num_connectors: int, progress: Progress | None) -> None:
        """One more connector, trained; what diverges ends at its last finite place."""
        self.points = torch.cat([self.points, self.points.mean(0, keepdim=True)])
        number = len(self.points) - self._num_modes
        velocity = torch.zeros_like(self.points[-1])
        for step in range(self._steps):
            loss, gradient = self._sampled(len(self.losses))
            if regularization:
                whole = self._learning_rate / (1 - self._momentum) * regularization
                away = volume_term(self.simplices(), self._generator, whole)
                gradient = gradient - regularization * away
            velocity = self._momentum * velocity + gradient
            moved = self.points[-1] - self._learning_rate * velocity
            if not (math.isfinite(loss) and moved.isfinite().all()):
                self.stopped = (
                    f"diverged at step {step + 1} of {self._steps} of connector {number}: take a "
                    "smaller learning_rate"
                )
                return
            self.points = torch.cat([self.points[:-1], moved[None]])
            self.losses.append(loss)
            if progress is not None:
                words = f"connector {number} of {num_connectors}"
                progress(len(self.losses), num_connectors * self._steps, words)

    def _sampled(self, step: int) -> tuple[float, Tensor]:
        """Loss, and its gradient (n,) by the newest vertex, at a point of each simplex."""
        drawn = barycentric(self._num_modes, len(self.points), self._num_modes, self._generator)
        weights = torch.as_tensor(drawn).to(self.points)
        values, gradients = self._potential.gradients(weights @ self.points, step)
        return float(values.mean()), weights[:, -1] @ gradients / len(gradients)


def _fields(measured: Mapping[str, Examples], count: int) -> dict[str, Array]:
    """All that was measured at the first `count` points but the loss on the objective's data."""
    found = {}
    for data, examples in measured.items():
        prefix = f"{data}_" if data else ""
        if data:
            found[f"{prefix}loss"] = examples.loss.numpy()[:count]
        if examples.error is not None:
            found[f"{prefix}error"] = examples.error.numpy()[:count]
    return found


def _standard_error(losses: Array, num_modes: int) -> float:
    """Of the mean over simplices in equal shares: what differs between them is not noise."""
    strata = losses.reshape(-1, num_modes)  # the simplices take turns
    variances = strata.var(axis=0, ddof=1) / len(strata)
    return float(np.sqrt(variances.sum()) / num_modes)
