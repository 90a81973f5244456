"""Rescaling: how far a slice depends on the scale of single neurons, which the function does not.

A neuron before a ReLU can be made c times as large and what reads it c times as small: another
theta, the same network (Dinh et al. 2017, arXiv:1703.04933). Filter-normalised directions follow
where a whole layer is rescaled, but not where single neurons are; directions normalised by elements
follow there, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from landscape.losses import Term
from landscape.objective import Objective
from landscape.slices.normalization import NORM_LAYERS

__all__ = ["Rescaling", "neuron_rescalings", "rescaled", "rescaling_change"]

_EXPONENTS = (-3, -2, -1, 1, 2, 3)  # of the factors that a rescaling is tried with
_OUTPUT_EPS = 16  # powers of two round nothing, but a kernel may add in another order
_LOSS_RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}
_LOW_PRECISION_RTOL = 1e-2


@dataclass(frozen=True)
class _Piece:
    """A parameter with the neurons along one of its dimensions.

    Attributes:
        name: of the parameter.
        view: a shape of it where the neurons have a dimension, or two if they are in groups.
        factors: the shape in which the neurons' factors broadcast with that.
    """

    name: str
    view: tuple[int, ...]
    factors: tuple[int, ...]


@dataclass(frozen=True)
class Rescaling:
    """Neurons whose scale leaves the function as it is.

    Attributes:
        producer: name of the module that makes their values: a linear layer, a convolution, or the
            affine part of a normalisation, such as BatchNorm's after a convolution.
        consumer: name of the module that reads them.
        num_neurons: outputs of the producer.
        larger: parameters that are multiplied by the neurons' factors.
        smaller: the parameter that is divided by them.
    """

    producer: str
    consumer: str
    num_neurons: int
    larger: tuple[_Piece, ...]
    smaller: _Piece

    def apply(self, objective: Objective, theta: Tensor, factors: Tensor) -> Tensor:
        """Theta (n,) with each neuron multiplied by its factor (num_neurons,): a copy."""
        theta, space = theta.clone(), objective.space
        for piece in self.larger:
            theta[space.slice_of(piece.name)].view(piece.view).mul_(factors.view(piece.factors))
        piece = self.smaller
        theta[space.slice_of(piece.name)].view(piece.view).div_(factors.view(piece.factors))
        return theta


def neuron_rescalings(objective: Objective) -> list[Rescaling]:
    """Those that hold at the checkpoint, tried on the first batch.

    They are looked for between each layer and the next one that runs. One is kept only if the
    outputs stay equal up to rounding when its neurons are multiplied by random powers of two.
    Empty for networks of tanh units, and where the loss has a penalty on the weights.
    """
    batch = next(iter(objective.batches))
    generator = np.random.default_rng(0)
    found = []
    with objective.evaluation(), torch.no_grad():

        def outputs(theta: Tensor) -> Tensor:
            term: Term = objective.term(objective.space.split(theta), batch)
            return term.total if term.output is None else term.output

        before = outputs(objective.theta)
        tolerance = _OUTPUT_EPS * torch.finfo(before.dtype).eps * before.abs().max().item()
        for rescaling in _proposals(objective, _executed(objective, outputs)):
            exponents = torch.as_tensor(generator.choice(_EXPONENTS, rescaling.num_neurons))
            factors = torch.exp2(exponents.to(objective.theta))
            after = outputs(rescaling.apply(objective, objective.theta, factors))
            if torch.allclose(after, before, rtol=0, atol=tolerance):
                found.append(rescaling)
    return found


def rescaled(objective: Objective, rescalings: Sequence[Rescaling], seed: int) -> Tensor:
    """The checkpoint's theta with every neuron multiplied by 2^u, u uniform in [-1, 1]: (n,)."""
    generator = np.random.default_rng(seed)
    theta = objective.theta
    for rescaling in rescalings:
        exponents = torch.as_tensor(generator.uniform(-1, 1, rescaling.num_neurons))
        theta = rescaling.apply(objective, theta, torch.exp2(exponents).to(theta))
    return theta


def rescaling_change(
    objective: Objective,
    make_directions: Callable[[Tensor], Tensor],
    coefficients: Tensor,
    losses: Tensor,
    *,
    seed: int = 0,
) -> float | None:
    """Largest change of a slice's loss when neurons are rescaled, the function equal.

    Args:
        objective: with the BatchNorm policy of the slice, which is around its theta.
        make_directions: theta (n,) -> the same directions (k, n), normalised at that theta.
        coefficients: (p, k) points of the slice.
        losses: (p,) finite: what it found there.
        seed: of the neurons' factors.

    Returns:
        max_p |L'(p) - L(p)|, with L' from the slice of the rescaled network; infinite where that
        is not finite. None where the network has no neurons that can be rescaled, or where the
        data beyond the first batch tell that its function changes.
    """
    rescalings = neuron_rescalings(objective)
    if not rescalings:
        return None
    theta = rescaled(objective, rescalings, seed)
    rtol = _LOSS_RTOL.get(objective.space.dtype, _LOW_PRECISION_RTOL)
    scale = max(abs(objective.value), losses.abs().max().item())
    if not abs(objective.loss(theta) - objective.value) <= rtol * scale:
        return None
    directions = make_directions(theta).to(theta.device, torch.float64)
    change = 0.0
    for point, loss in zip(coefficients.to(directions), losses.tolist(), strict=True):
        moved = objective.loss((theta + point @ directions).to(theta))
        difference = abs(moved - loss)
        change = max(change, difference if math.isfinite(difference) else math.inf)
    return change


def _executed(objective: Objective, outputs: Callable[[Tensor], Tensor]) -> list[str]:
    """Names of the modules that hold parameters, in the order in which they run."""
    order: list[str] = []
    handles = []
    try:
        for name, module in objective.model.named_modules():
            # A PReLU does not mind the scale of what it is given.
            if module._parameters and not isinstance(module, nn.PReLU):
                handles.append(
                    module.register_forward_pre_hook(lambda _, __, name=name: order.append(name))
                )
        outputs(objective.theta)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _proposals(objective: Objective, order: Sequence[str]) -> Iterator[Rescaling]:
    """A rescaling between each two neighbours in the order, where shapes and selection allow."""
    for producer, consumer in dict.fromkeys(pairwise(order)):
        made = _outputs(objective, producer)
        smaller = made and _inputs(objective, consumer, made[0])
        if made and smaller:
            needed = {piece.name for piece in (*made[1], smaller)}
            if needed <= set(objective.space.names):
                yield Rescaling(producer, consumer, *made, smaller)


def _outputs(objective: Objective, name: str) -> tuple[int, tuple[_Piece, ...]] | None:
    """How many neurons a module makes, and its parameters along them; None for other modules."""
    module = objective.model.get_submodule(name)
    weight, bias = (module._parameters.get(part) for part in ("weight", "bias"))
    if weight is None:
        return None
    view: tuple[int, ...]
    factors: tuple[int, ...]
    if isinstance(module, _ConvTransposeNd):
        groups, outputs = module.groups, weight.shape[1]
        num = groups * outputs
        view, factors = (groups, len(weight) // groups, outputs, -1), (groups, 1, outputs, 1)
    elif isinstance(module, (nn.Linear, _ConvNd)) or (
        isinstance(module, NORM_LAYERS) and weight.ndim == 1
    ):
        num = len(weight)
        view, factors = (num, -1), (num, 1)
    else:
        return None
    pieces = [_Piece(f"{name}.weight", view, factors)]
    if bias is not None:
        pieces.append(_Piece(f"{name}.bias", (num, -1), (num, 1)))
    return num, tuple(pieces)


def _inputs(objective: Objective, name: str, num: int) -> _Piece | None:
    """The weight of a module that reads `num` neurons; None for modules that do not."""
    module = objective.model.get_submodule(name)
    weight = module._parameters.get("weight")
    if weight is None:
        return None
    if isinstance(module, nn.Linear) and module.in_features % num == 0:
        # After a flatten a neuron is a block of inputs: its places in the image.
        return _Piece(f"{name}.weight", (len(weight), num, -1), (num, 1))
    if isinstance(module, _ConvTransposeNd) and module.in_channels == num:
        return _Piece(f"{name}.weight", (num, -1), (num, 1))
    if isinstance(module, _ConvNd) and module.in_channels == num:
        groups, outputs, inputs = module.groups, len(weight) // module.groups, weight.shape[1]
        view, factors = (groups, outputs, inputs, -1), (groups, 1, inputs, 1)
        return _Piece(f"{name}.weight", view, factors)
    return None
