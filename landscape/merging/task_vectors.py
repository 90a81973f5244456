"""Task vectors: what fine-tuning added to a base network, as vectors that can be added and taken.

theta = base + sum_i c_i tau_i with tau_i = theta_i - base: c_i = 1 learns a task, c_i = -1 unlearns
it, and a smaller common factor joins several.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.merging.points import accuracy
from landscape.objective import BatchNormPolicy, Objective
from landscape.paths.examples import Examples, PathEvaluator
from landscape.paths.vertices import Vertices
from landscape.result import Result
from landscape.slices.trajectory import checkpoints_fingerprint

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Combinations",
    "TaskArithmetic",
    "combined",
    "cosines",
    "task_arithmetic",
    "task_vector",
]

Array = NDArray[np.float64]


def task_vector(theta: Tensor, base: Tensor) -> Tensor:
    """theta - base: (n,) float64, so that base + vector rounds to theta.

    Raises:
        RequestError: two points of different networks.

    Source: Ilharco et al. 2023, arXiv:2212.04089.
    """
    if theta.shape != base.shape:
        raise RequestError(
            f"theta has shape {tuple(theta.shape)} and base {tuple(base.shape)}. Give two points "
            "of one network."
        )
    return theta.double() - base.double()


def combined(
    base: Tensor, vectors: Sequence[Tensor] | Tensor, coefficients: Sequence[float]
) -> Tensor:
    """base + sum_i c_i tau_i: (n,), in the precision of the base.

    Args:
        coefficients: one for each vector; negative ones take a task away.

    Raises:
        RequestError: as many coefficients as vectors are needed.
    """
    if len(vectors) != len(coefficients):
        raise RequestError(
            f"{len(coefficients)} coefficients for {len(vectors)} task vectors. Give one for each."
        )
    found = base.double()
    for vector, coefficient in zip(vectors, coefficients, strict=True):
        found = found + float(coefficient) * vector.to(found)
    return found.to(base)


def cosines(vectors: Sequence[Tensor] | Tensor) -> Array:
    """(k, k) between task vectors; NaN for one of length 0. Near 0 for tasks that do not meet."""
    rows = torch.stack([vector.double().cpu() for vector in vectors])
    units = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    found = (units @ units.T).clamp(-1, 1)
    return np.asarray(found.numpy())


@dataclass(frozen=True, eq=False)
class Combinations:
    """Combinations of task vectors on one data set.

    Attributes:
        losses, accuracies: (P,) of each; accuracies are NaN where there are no classes.
        errors: (P,) standard error of loss - loss of the base, from paired examples.
        base_loss, base_accuracy: of the base.
    """

    losses: Array
    accuracies: Array
    errors: Array
    base_loss: float
    base_accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskArithmetic(Result):
    """A base network with combinations of task vectors added.

    Attributes:
        coefficients: (P, k) of each combination.
        norms: (k,) Euclidean, of the task vectors.
        cosines: (k, k) between them.
        combinations: by the name of the data: "" for the objective's own.
    """

    probe: ClassVar[str] = "task_arithmetic"

    coefficients: Array
    norms: Array
    cosines: Array
    combinations: Mapping[str, Combinations] = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged" unless combinations have no finite loss."""
        lost = int((~np.isfinite(self.losses)).sum())
        return f"{lost} of {len(self.losses)} losses are not finite" if lost else "converged"

    @property
    def losses(self) -> Array:
        """(P,) on the objective's own data."""
        return self.combinations[""].losses

    def __getitem__(self, name: str) -> Combinations:
        """On further data, such as found["retained"]."""
        return self.combinations[name]

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Combinations along `combination`, task vectors along `task` and `other_task`."""
        import xarray as xr

        point, tasks = ("combination",), ("task", "other_task")
        described: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "coefficient": (("combination", "task"), self.coefficients, "1", "of a task vector"),
            "norm": (tasks[:1], self.norms, "parameter", "Euclidean norm of a task vector"),
            "cosine": (tasks, self.cosines, "1", "cosine between two task vectors"),
        }
        for name, found in self.combinations.items():
            before, on = (f"{name}_", f" on {name}") if name else ("", "")
            change = f"loss - loss of the base{on}"
            described |= {
                f"{before}{key}": (dimensions, values, unit, meaning)
                for key, dimensions, values, unit, meaning in (
                    ("loss", point, found.losses, "loss", f"loss of a combination{on}"),
                    ("accuracy", point, found.accuracies, "1", f"accuracy of a combination{on}"),
                    ("error", point, found.errors, "loss", f"standard error of {change}"),
                    ("base_loss", (), found.base_loss, "loss", f"loss of the base{on}"),
                    ("base_accuracy", (), found.base_accuracy, "1", f"accuracy of the base{on}"),
                )
            }
        return xr.Dataset(
            {
                name: (dimensions, values, {"units": unit, "long_name": meaning})
                for name, (dimensions, values, unit, meaning) in described.items()
            }
        )


def task_arithmetic(
    objective: Objective,
    base: Tensor,
    thetas: Sequence[Tensor] | Tensor,
    coefficients: Sequence[float] | Sequence[Sequence[float]] | Tensor | Array,
    *,
    bn: BatchNormPolicy = "recalibrate",
    also: Mapping[str, Objective] | None = None,
) -> TaskArithmetic:
    """Loss and accuracy of base + sum_i c_i (theta_i - base), at many c.

    Args:
        base: (n,) what the others were fine-tuned from.
        thetas: (n,) each, the k fine-tuned networks; with c_i = 1 alone, theta_i bit for bit.
        coefficients: (P, k); or (P,), where one number scales the sum of all vectors.
        bn: BatchNorm statistics: "recalibrate", those of the objective's data at each point;
            "batch"; "eval", the objective's own.
        also: further data by name, such as what should be retained while a task is unlearned.

    Raises:
        RequestError: points, coefficients or data that do not fit.

    Source: Ilharco et al. 2023, arXiv:2212.04089.
    """
    began = time.perf_counter()
    scales = torch.as_tensor(np.asarray(coefficients, dtype=np.float64))
    if scales.ndim == 1:
        scales = scales[:, None].expand(-1, len(thetas))
    if scales.ndim != 2 or scales.shape[1] != len(thetas) or not len(scales):
        raise RequestError(
            f"coefficients has shape {np.shape(coefficients)}, expected (P,) or (P, {len(thetas)})."
        )
    if not scales.isfinite().all():
        raise RequestError("coefficients are not finite. Give numbers such as -1, 0.5 or 1.")
    chart = Vertices.of(objective, [base, *thetas])
    points = torch.cat([torch.zeros_like(scales[:1]), scales])
    evaluator = PathEvaluator(objective, chart, points, bn=bn, also=also)
    vectors = [task_vector(theta.to(base), base).cpu() for theta in thetas]
    return TaskArithmetic(
        settings={
            "coefficients": scales.tolist(),
            "bn": bn,
            "also": {name: other.batches.fingerprint for name, other in (also or {}).items()},
        },
        provenance={
            **objective.provenance(),
            "members_fingerprint": checkpoints_fingerprint([base, *thetas]),
        },
        notes=(*objective.notes, *evaluator.notes),
        coefficients=scales.numpy(),
        norms=np.asarray([float(torch.linalg.vector_norm(vector)) for vector in vectors]),
        cosines=cosines(vectors),
        combinations={name: _combinations(found) for name, found in evaluator.at(points).items()},
        wall_time=time.perf_counter() - began,
    )


def _combinations(examples: Examples) -> Combinations:
    """From the base's examples, followed by those of each combination."""
    losses, shares = examples.loss.numpy(), accuracy(examples).numpy()
    differences = torch.eye(len(losses), dtype=torch.float64)[1:]
    differences[:, 0] = -1
    return Combinations(
        losses=losses[1:],
        accuracies=shares[1:],
        errors=np.asarray([examples.standard_error("loss", one) for one in differences]),
        base_loss=float(losses[0]),
        base_accuracy=float(shares[0]),
    )
