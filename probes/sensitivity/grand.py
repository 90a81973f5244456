"""GraNd: the norm of each example's gradient with respect to the weights, exactly.

`loss_sensitivity` and `input_curvature` differentiate by the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad

from landscape.errors import RequestError, unknown_choice
from landscape.losses import Term
from landscape.objective import Objective
from landscape.probes.arrays import Floats
from landscape.probes.sensitivity.each_example import EachExample, OneLoss
from landscape.probes.sensitivity.single_examples import (
    BuffersOf,
    Point,
    Thetas,
    differentiation,
    losses_of,
    points,
)

__all__ = ["GradientNorms", "grand"]

_SCOPES = ("all", "last_layer")
_GRADIENTS = 3  # of an example that are held at a time: blocks, their squares, what is made next


@dataclass(frozen=True, eq=False)
class GradientNorms:
    """||grad l_i||, in loss per unit of the weights.

    Attributes:
        value: (N,) mean over the points; NaN for an example that is left out of the loss.
        standard_error: (N,) of that mean, as over independent networks; NaN for a single one.
        norms: (T, N) at each point.
        scope: "all", over all coordinates of the objective; "last_layer", over the weights and
            biases of the layer that makes the outputs.
        method: "vmap", "loop" where the network does not allow it, "closed form".
    """

    value: Floats
    standard_error: Floats
    norms: Floats
    scope: str
    method: str


def grand(
    objective: Objective,
    thetas: Thetas = None,
    *,
    scope: Literal["all", "last_layer"] = "all",
    chunk: int | None = None,
    buffers: BuffersOf = None,
) -> GradientNorms:
    """The norm of the gradient of each example's loss, in eval mode.

    Args:
        thetas: (P,) or (T, P), networks or checkpoints to be averaged over; by default the
            objective's own point.
        scope: what is differentiated by. "last_layer" is what some codes call GraNd: for
            cross-entropy ||p - y|| sqrt(1 + ||h||^2), h what enters the layer, and without the 1 if
            it has no bias; a lower bound of the whole.
        chunk: examples whose gradients are held at a time; None takes a quarter of the free memory.
        buffers: of each point, such as running statistics of its BatchNorm layers.

    Raises:
        RequestError: examples that cannot be told apart, as with the statistics of a batch; a
            network whose outputs are not a linear layer's, with scope="last_layer".

    Source: Paul, Ganguli and Dziugaite 2021, arXiv:2107.07075.
    """
    if scope not in _SCOPES:
        raise unknown_choice("scope", scope, _SCOPES)
    if chunk is not None and chunk < 1:
        raise RequestError(f"chunk={chunk}, expected a number of examples from 1 on.")
    rows, method = [], "closed form"
    with differentiation(objective):
        for point in points(objective, thetas, buffers):
            if scope == "last_layer":
                parts = [_of_last_layer(objective, point, batch) for batch in objective.batches]
            else:
                each = EachExample(
                    objective, point, _vectorized, _alone, gradients=_GRADIENTS, chunk=chunk
                )
                parts = [each(batch)[0][:, 0] for batch in objective.batches]
                method = each.method
            rows.append(torch.cat(parts).cpu().numpy())
    norms = np.stack(rows)
    error = np.full(norms.shape[1], np.nan)
    if len(norms) > 1:
        error = norms.std(0, ddof=1) / np.sqrt(len(norms))
    return GradientNorms(norms.mean(0), error, norms, scope, method)


def _vectorized(loss: OneLoss, blocks: list[Tensor]) -> tuple[Tensor, Tensor]:
    gradients, weight = grad(loss, has_aux=True)(blocks)
    return _norm(gradients), weight


def _alone(loss: OneLoss, leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
    value, weight = loss(leaves)
    return _norm(torch.autograd.grad(value, leaves, materialize_grads=True)), weight


def _norm(blocks: Sequence[Tensor]) -> Tensor:
    """(1,) float64."""
    norms = [torch.linalg.vector_norm(block, dtype=torch.float64) for block in blocks]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms), keepdim=True)
    return whole


# -- the last layer -------------------------------------------------------------------------------


def _of_last_layer(objective: Objective, point: Point, batch: object) -> Tensor:
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        calls.append((module, inputs[0].detach(), output.detach()))

    linear = [module for module in objective.model.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(record) for module in linear]
    try:
        with torch.no_grad():
            term = objective.term(point.blocks, batch, point.buffers)
    finally:
        for handle in handles:
            handle.remove()
    layer, features = _last(term, calls)
    slopes, weights = _slopes(objective, term)
    squared = features.double().square().sum(1) + (layer.bias is not None)
    norms: Tensor = torch.linalg.vector_norm(slopes, dim=1, dtype=torch.float64) * squared.sqrt()
    return norms.masked_fill(weights == 0, torch.nan)


def _last(term: Term, calls: list[tuple[nn.Linear, Tensor, Tensor]]) -> tuple[nn.Linear, Tensor]:
    output = term.output
    if calls and output is not None:
        layer, features, made = calls[-1]
        if features.ndim == 2 and made.shape == output.shape and torch.equal(made, output):
            return layer, features
    raise RequestError(
        "the network's outputs are not those of an nn.Linear with one row an example, which "
        "scope='last_layer' needs. Leave the scope at 'all'."
    )


def _slopes(objective: Objective, term: Term) -> tuple[Tensor, Tensor]:
    """(b, C) the gradient of each example's loss with respect to its outputs, and its weight."""
    loss = objective.loss_function
    if not loss.is_pointwise:
        raise RequestError(
            f"the loss {loss.name!r} is not known as a function of the outputs. Give "
            "'cross_entropy', 'mse', 'bce' or a torch loss module for scope='last_layer'."
        )
    assert term.output is not None
    assert term.target is not None
    outputs = term.output.detach().clone().requires_grad_()
    losses, weights = loss.pointwise(outputs, term.target)
    found, kept = losses_of(Term(losses.sum(), 0.0, losses=losses, weights=weights))
    (slopes,) = torch.autograd.grad(found.sum(), outputs)
    return slopes, kept
