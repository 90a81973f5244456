"""Input-loss curvature: how fast an example's loss bends around the example.

`weight_curvature` has the curvature of an example's loss in the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.objective import Objective
from landscape.probes.arrays import Floats
from landscape.probes.sensitivity.single_examples import (
    BuffersOf,
    Point,
    Thetas,
    differentiation,
    gradient_by,
    input_gradients,
    inputs_of,
    points,
)

__all__ = ["InputCurvature", "input_curvature"]

_METHODS = ("exact", "differences")


@dataclass(frozen=True, eq=False)
class InputCurvature:
    """Of the Hessian H_i of each example's loss with respect to its input.

    Attributes:
        value: (N,) estimate of tr(H_i^2) = ||H_i||_F^2, the mean of ||H_i v||^2 over random signs
            v and over the points; NaN for an example that is left out.
        standard_error: (N,) of `value`, from the spread over the probes.
        trace: (N,) estimate of tr(H_i), the mean of v.(H_i v).
        trace_error: (N,) its standard error.
        num_probes: v at each point.
        method: "exact", or "differences" of gradients.
    """

    value: Floats
    standard_error: Floats
    trace: Floats
    trace_error: Floats
    num_probes: int
    method: str


def input_curvature(
    objective: Objective,
    thetas: Thetas = None,
    *,
    num_probes: int = 10,
    method: Literal["exact", "differences"] = "exact",
    h: float = 1e-3,
    seed: int = 0,
    buffers: BuffersOf = None,
) -> InputCurvature:
    """Input-loss curvature of every example, in eval mode.

    Code that is about averages ||grad l(x + h v) - grad l(x)|| of a batch's mean loss: neither
    squared, nor divided by h, and divided by the size of the batch. Here all of it is as defined.

    Args:
        thetas: (P,) or (T, P), checkpoints to be averaged over, as in the source; by default the
            objective's own point.
        num_probes: random signs v at each point.
        method: "exact" by double backward; "differences" (grad l(x + h v) - grad l(x)) / h, which
            also sees the kinks of ReLU that are nearer than h.
        h: of the differences, in units of the inputs.
        seed: of the probes; an example's depend on its place in the data alone.
        buffers: of each point, such as running statistics of its BatchNorm layers.

    Raises:
        RequestError: fewer than two probes, no floating-point inputs, or examples that cannot be
            told apart.

    Source: Garg, Ravikumar and Roy 2024, arXiv:2307.05831 (10 probes, h = 0.001).
    """
    if method not in _METHODS:
        raise unknown_choice("method", method, _METHODS)
    if num_probes < 2 or not h > 0:
        raise RequestError(f"num_probes={num_probes}, h={h}: expected 2 or more, and h above 0.")
    seeds = np.random.SeedSequence(seed).spawn(num_probes)
    samples = []
    with differentiation(objective):
        for point in points(objective, thetas, buffers):
            generators = [torch.Generator().manual_seed(_state(one)) for one in seeds]
            parts = []
            for batch in objective.batches:
                products = _products(objective, point, batch, generators, method, h)
                parts.append(torch.stack([_looks(v, image) for v, image in products]))
            samples.append(torch.cat(parts, 2).cpu().numpy())
    # Over the points first: their probes are the same, and so their errors are not independent.
    looks = np.mean(samples, axis=0)  # (probes, 2, N)
    value, trace = looks.mean(0)
    error, trace_error = looks.std(0, ddof=1) / np.sqrt(num_probes)
    return InputCurvature(value, error, trace, trace_error, num_probes, method)


def _state(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def _products(
    objective: Objective,
    point: Point,
    batch: object,
    generators: list[torch.Generator],
    method: str,
    h: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Probes v (b, ...) with H_i v of each example."""
    inputs = inputs_of(batch).detach().clone().requires_grad_()
    exact = method == "exact"
    here = input_gradients(objective, point, batch, inputs, create_graph=exact)
    for generator in generators:
        signs = torch.randint(0, 2, inputs.shape, generator=generator, dtype=torch.int8)
        probe = (2 * signs - 1).to(inputs)
        if exact:
            # Rows are separate: one product holds that of every example.
            yield probe, _kept_graph(here, probe, inputs)
        else:
            moved = (inputs + h * probe).detach().requires_grad_()
            yield probe, (input_gradients(objective, point, batch, moved) - here) / h


def _kept_graph(gradient: Tensor, probe: Tensor, inputs: Tensor) -> Tensor:
    known = gradient.isnan().logical_not()
    total = (torch.where(known, gradient, 0) * probe).sum()
    product = gradient_by(total, inputs, retain_graph=True)
    return torch.where(known, product, torch.nan)


def _looks(probe: Tensor, image: Tensor) -> Tensor:
    """(2, b) float64 ||H v||^2 and v.(H v)."""
    probe, image = probe.double().flatten(1), image.double().flatten(1)
    return torch.stack([image.square().sum(1), (probe * image).sum(1)])
