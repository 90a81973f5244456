"""Which parameters' scale a network's output does not depend on: found by test, not by name.

Under a normalisation layer without affine, f(alpha w) = f(w) for alpha > 0. Some tensors have this
property alone, others only together, as those whose outputs a residual sum adds. The networks made
to have it are in `models`; training on the sphere needs to know where it holds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.errors import RequestError

__all__ = [
    "Rescaling",
    "ScaleInvariantGroup",
    "ScaleSymmetries",
    "scale_invariant_groups",
    "scale_invariant_parameters",
    "scale_symmetries",
]

Inputs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Matrix: TypeAlias = NDArray[np.float64]

# A normalisation's eps breaks the invariance by eps / variance, 1e-5 and more as they come. In the
# copy it is made so small that only rounding is left; not 0, as a constant channel would be 0 / 0.
_EPS = 1e-20
# More projections than tensors, so that chance makes no two directions look alike.
_SPARE_PROJECTIONS = 8
_SCALES = (0.5, 2.0, 3.0)
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class ScaleInvariantGroup:
    """Parameters that can all be multiplied by one alpha > 0 without a change of the output.

    No part of them can.

    Attributes:
        names: in the model's order.
        deviation: largest norm of the output's change over the output's norm, over the scales,
            in float64 and with the normalisation layers' eps out of the way.
    """

    names: tuple[str, ...]
    deviation: float


@dataclass(frozen=True)
class Rescaling:
    """Parameters that can be multiplied by alpha ** exponent each without a change of the output.

    In a ReLU network w1 and w2 with exponents 1 and -1, for example: no common factor does it, so
    they are not scale-invariant. Where all exponents are 1, the set overlaps with a group.

    Attributes:
        names: in the model's order.
        exponents: the first is positive; one a name.
        deviation: as of a group.
    """

    names: tuple[str, ...]
    exponents: tuple[float, ...]
    deviation: float


@dataclass(frozen=True)
class ScaleSymmetries:
    """All changes of the tensors' scales that leave a network's output as it is.

    Attributes:
        groups: disjoint, so that their union can be scaled jointly too; no set of parameters
            that can be scaled jointly has more coordinates than their union.
        rescalings: with the groups, a basis of all symmetries that hold at finite scales.
        inert: trained parameters without any influence on the output, such as a bias before
            BatchNorm. Their scale matters as little as their direction; they are in no group.
        dimension: of the space of log-scales that leave the output as it is to first order.
            Where it exceeds the number of groups and rescalings, the others hold only to that
            order.
    """

    groups: tuple[ScaleInvariantGroup, ...]
    rescalings: tuple[Rescaling, ...]
    inert: tuple[str, ...]
    dimension: int


def scale_symmetries(
    model: nn.Module,
    inputs: Inputs,
    *,
    scales: Sequence[float] = _SCALES,
    tolerance: float = _TOLERANCE,
) -> ScaleSymmetries:
    """Finds them in a float64 copy of the model, whose weights are moved a little.

    Moved, because a tensor that is zero, as many biases are before training, can be scaled without
    effect; the symmetries sought hold for all weights. BatchNorm uses the batch's statistics,
    dropout is off. With s_j the log-scale of tensor w_j, df/ds_j = J_f w_j; the null space of these
    columns holds all symmetries to first order, its 0/1 vectors are the groups, and each is then
    tested at finite scales. Costs one forward and about one backward pass a tensor.

    Args:
        model: not changed. Parameters with `requires_grad=False` are left as they are.
        inputs: one batch. A tuple is the model's arguments, a mapping its keywords. At least
            twice as many outputs as trained tensors are needed.
        tolerance: relative change of the output that counts as none. For a model that
            normalises with an eps that is no module's attribute `eps`, or computes in float32,
            it must be above what these do: 1e-3, for example.

    Raises:
        RequestError: too few outputs, an output that is zero or not finite, a scale that is not
            positive.
    """
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise RequestError(f"scales={tuple(scales)} must be numbers above 0, such as (0.5, 2.0).")
    if not 0 < tolerance < 1:
        raise RequestError(
            f"tolerance={tolerance} is not between 0 and 1. Choose one such as 1e-8."
        )
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        probe = _Probe(model, inputs)
        names, columns, inert = probe.sensitivities(tolerance)
        equations, basis = _null_space(columns, tolerance)
        sizes = np.array([probe.trained[name].numel() for name in names], dtype=np.float64)
        groups, members = [], []
        for member in _minimal_sets(equations, sizes):
            deviation = probe.deviation(names, member, scales)
            if deviation <= tolerance:
                chosen = tuple(np.array(names, dtype=object)[member > 0])
                groups.append(ScaleInvariantGroup(chosen, deviation))
                members.append(member)
        rescalings = []
        for exponents in _complement(basis, members):
            deviation = probe.deviation(names, exponents, scales)
            if deviation <= tolerance:
                support = exponents.nonzero()[0].tolist()
                rescalings.append(
                    Rescaling(
                        tuple(names[j] for j in support),
                        tuple(float(exponents[j]) for j in support),
                        deviation,
                    )
                )
    return ScaleSymmetries(tuple(groups), tuple(rescalings), inert, len(basis))


def scale_invariant_groups(
    model: nn.Module,
    inputs: Inputs,
    *,
    scales: Sequence[float] = _SCALES,
    tolerance: float = _TOLERANCE,
) -> tuple[ScaleInvariantGroup, ...]:
    """The groups of `scale_symmetries`, whose arguments these are, in the model's order."""
    return scale_symmetries(model, inputs, scales=scales, tolerance=tolerance).groups


def scale_invariant_parameters(
    model: nn.Module,
    inputs: Inputs,
    *,
    scales: Sequence[float] = _SCALES,
    tolerance: float = _TOLERANCE,
) -> tuple[str, ...]:
    """Names of the largest set of parameters that can be scaled jointly, in the model's order.

    The union of the groups of `scale_symmetries`, whose arguments these are.
    """
    groups = scale_invariant_groups(model, inputs, scales=scales, tolerance=tolerance)
    found = {name for group in groups for name in group.names}
    return tuple(name for name, _ in model.named_parameters() if name in found)


class _Probe:
    """A copy of the model at weights in general position, and its output there."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model = copy.deepcopy(model).to(torch.float64).eval()
        for module in self.model.modules():
            eps = getattr(module, "eps", None)
            if isinstance(eps, float):
                setattr(module, "eps", min(eps, _EPS))  # noqa: B010 - mypy takes it for a Tensor
            if isinstance(module, nn.modules.batchnorm._NormBase):
                # Without running statistics it uses the batch's in eval mode, too.
                module.running_mean = module.running_var = module.num_batches_tracked = None
                module.track_running_stats = False
        self.inputs = _in_float64(inputs)
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        # Any fixed seed: what is found holds for almost all draws.
        self.generator = torch.Generator("cpu").manual_seed(0)
        with torch.no_grad():
            for parameter in self.trained.values():
                size = parameter.square().mean().sqrt().item()
                parameter.add_(self._noise(parameter), alpha=max(0.1 * size, 0.01))
        with torch.no_grad():
            self.output = self()
        self.norm = self.output.norm().item()
        if not (math.isfinite(self.norm) and self.norm > 0):
            raise RequestError(
                f"the output's norm for these inputs is {self.norm}, so that no relative change of "
                "it can be measured. Pass a batch of real examples, and more than one."
            )
        if self.output.numel() < 2 * len(self.trained):
            factor = math.ceil(2 * len(self.trained) / self.output.numel())
            raise RequestError(
                f"inputs give {self.output.numel()} outputs, too few to tell {len(self.trained)} "
                f"trained tensors apart. Pass a batch {factor} times as large."
            )

    def __call__(self) -> Tensor:
        """All outputs as one vector."""
        if isinstance(self.inputs, Mapping):
            output = self.model(**self.inputs)
        elif isinstance(self.inputs, Tensor):
            output = self.model(self.inputs)
        else:
            output = self.model(*self.inputs)
        return torch.cat([tensor.flatten() for tensor in _tensors(output)])

    def _noise(self, like: Tensor) -> Tensor:
        # Drawn on the CPU, whatever the default device, so that all devices find the same.
        cpu = torch.device("cpu")
        noise = torch.randn(like.shape, generator=self.generator, dtype=torch.float64, device=cpu)
        return noise.to(like.device)

    def sensitivities(self, tolerance: float) -> tuple[list[str], Matrix, tuple[str, ...]]:
        """Names of the P tensors that matter, their (K, P) projected df/ds, and the inert names."""
        weights = list(self.trained.values())
        num_projections = len(weights) + _SPARE_PROJECTIONS
        with torch.enable_grad():
            output = self()
        # In units of the output: a row projects on a vector of norm about 1 / sqrt(K).
        unit = self.norm * math.sqrt(num_projections)
        columns = np.zeros((num_projections, len(weights)))
        influence = np.zeros(len(weights))
        for k in range(num_projections if output.requires_grad else 0):
            projection = self._noise(output)
            gradients = torch.autograd.grad(
                output, weights, projection, retain_graph=True, allow_unused=True
            )
            for j, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                if gradient is not None:
                    columns[k, j] = (gradient * weight.detach()).sum().item() / unit
                    size = gradient.norm().item() * weight.detach().norm().item() / unit
                    influence[j] = max(influence[j], size)
        names = list(self.trained)
        active = influence > tolerance
        inert = tuple(name for name, acts in zip(names, active, strict=True) if not acts)
        kept = [name for name, acts in zip(names, active, strict=True) if acts]
        return kept, columns[:, active], inert

    def deviation(self, names: list[str], exponents: Matrix, scales: Sequence[float]) -> float:
        """Largest relative change of the output where each tensor is scaled by a ** exponent."""
        largest = 0.0
        chosen = [(self.trained[n], e) for n, e in zip(names, exponents, strict=True) if e != 0]
        with torch.no_grad():
            before = [parameter.clone() for parameter, _ in chosen]
            for scale in scales:
                for parameter, exponent in chosen:
                    parameter.mul_(scale**exponent)
                change = (self() - self.output).norm().item() / self.norm
                # NaN, of an overflow, is a change.
                largest = max(largest, change if math.isfinite(change) else math.inf)
                for (parameter, _), value in zip(chosen, before, strict=True):
                    parameter.copy_(value)
        return largest


def _null_space(columns: Matrix, tolerance: float) -> tuple[Matrix, Matrix]:
    """(r, P) equations of the null space of `columns`, and a (P - r, P) basis of it.

    Both are reduced: each equation and each basis vector has a tensor of its own, with coefficient
    1. Symmetries have small rational exponents, hence so has what stands here; what is near an
    integer is made one.
    """
    num_tensors = columns.shape[1]
    if num_tensors == 0:
        return np.zeros((0, 0)), np.zeros((0, 0))
    triangle, order = scipy.linalg.qr(columns, mode="r", pivoting=True)
    rank = int((np.abs(np.diag(triangle)) > tolerance).sum())
    rest = scipy.linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:])
    rest = np.where(np.abs(rest - rest.round()) < 1e-4, rest.round(), rest)
    equations = np.zeros((rank, num_tensors))
    equations[:, order[:rank]] = np.eye(rank)
    equations[:, order[rank:]] = rest
    basis = np.zeros((num_tensors - rank, num_tensors))
    basis[:, order[:rank]] = -rest.T
    basis[:, order[rank:]] = np.eye(num_tensors - rank)
    return equations, basis


def _minimal_sets(equations: Matrix, sizes: Matrix) -> Iterator[Matrix]:
    """Disjoint 0/1 solutions that contain no smaller one; their sum has the largest size."""
    left = _binary_solution(equations, -sizes, np.zeros_like(sizes), np.ones_like(sizes))
    while left.any():
        required = np.zeros_like(left)
        required[left.argmax()] = 1
        found = _binary_solution(equations, np.ones_like(sizes), required, left)
        yield found
        left = left - found  # again a solution, as the equations are linear


def _binary_solution(equations: Matrix, cost: Matrix, lower: Matrix, upper: Matrix) -> Matrix:
    if len(cost) == 0:
        return cost
    result = scipy.optimize.milp(
        cost / np.abs(cost).max(),
        integrality=np.ones(len(cost), dtype=np.int64),
        bounds=scipy.optimize.Bounds(lower, upper),
        constraints=scipy.optimize.LinearConstraint(equations, -1e-5, 1e-5),
    )
    assert result.x is not None, result.message  # `upper` or nothing at all is a solution
    solution: Matrix = result.x.round()
    return solution


def _complement(basis: Matrix, members: list[Matrix]) -> Iterator[Matrix]:
    """Vectors that make `members` a basis of the space of `basis`, those of few tensors first."""

    def simplicity(vector: Matrix) -> tuple[int, float]:
        # Of as many tensors, the one of mixed sign: a trade-off says more than an overlap.
        return int(np.count_nonzero(vector)), float(abs(vector.sum()))

    vectors = []
    for vector in basis:
        for member in members:
            vector = min((vector, vector - member, vector + member), key=simplicity)
        vectors.append(vector)
    span = list(members)
    for vector in sorted(vectors, key=simplicity):
        if np.linalg.matrix_rank(np.array([*span, vector])) > len(span):
            span.append(vector)
            yield vector * np.sign(vector[vector.nonzero()[0][0]])


def _in_float64(inputs: Inputs) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {
            name: value.double() if value.is_floating_point() else value
            for name, value in inputs.items()
        }
    return [value.double() if value.is_floating_point() else value for value in inputs]


def _tensors(output: object) -> Iterator[Tensor]:
    """The floating tensors of a nested output."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
