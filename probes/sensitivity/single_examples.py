"""Single examples: the loss of each example of an objective, and its gradient to the inputs.

`class_scores` has the logits of each. All of it is to be called inside `differentiation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import batch_length, map_tensors, slice_batch, tensors_of
from landscape.errors import RequestError
from landscape.losses import TARGET_KEYS, Term
from landscape.objective import Objective

__all__ = ["BuffersOf", "Point", "Thetas", "differentiation", "gradient_by", "input_gradients"]
__all__ += ["inputs_of", "losses_of", "points", "with_inputs"]

Thetas = Tensor | Iterable[Tensor] | None
BuffersOf = Sequence[Mapping[str, Tensor]] | None

# An example alone goes through other kernels than in a batch, and so rounds otherwise.
_RTOL = {torch.float64: 1e-8, torch.float32: 1e-3}
_LOW_PRECISION_RTOL = 3e-2


@dataclass(frozen=True, eq=False)
class Point:
    """Where an objective is evaluated.

    Attributes:
        blocks: of the parameters, in the order of `space.names`.
        buffers: by name, in place of the model's own.
    """

    blocks: list[Tensor]
    buffers: dict[str, Tensor]


def points(objective: Objective, thetas: Thetas, buffers: BuffersOf = None) -> Iterator[Point]:
    """The points at which examples are looked at, one after another.

    Args:
        thetas: (P,), (T, P), or vectors (P,); None for the objective's own point.
        buffers: of each point, where they are not the model's own, such as running statistics.
            Statistics that are a "recalibrate" policy's are found at each point.

    Raises:
        RequestError: no points, points of another space, or buffers that are not one for each.
    """
    vectors = _vectors(objective, thetas)
    if buffers is not None and len(buffers) != len(vectors):
        raise RequestError(
            f"buffers holds those of {len(buffers)} points, and there are {len(vectors)}. Give "
            "dict(model.named_buffers()) of each."
        )
    for index, vector in enumerate(vectors):
        held = dict(buffers[index]) if buffers is not None else {}
        held |= objective.buffers_at(vector) or {}
        blocks = objective.space.split(vector.detach().to(objective.device))
        yield Point(blocks, {name: one.to(objective.device) for name, one in held.items()})


def _vectors(objective: Objective, thetas: Thetas) -> list[Tensor]:
    if thetas is None:
        return [objective.theta]
    if isinstance(thetas, Tensor) and thetas.ndim == 1:
        thetas = [thetas]
    vectors = list(thetas)
    if not vectors:
        raise RequestError("thetas is empty. Give one vector or more, or leave it out.")
    for vector in vectors:
        objective.space.check(vector)
    return vectors


@contextmanager
def differentiation(objective: Objective) -> Iterator[None]:
    """The objective ready to be differentiated example by example, and as it was afterwards.

    Raises:
        RequestError: a loss that gives only a batch's value or has no gradient, or a network in
            which the loss of an example depends on the others of its batch.
    """
    with objective.evaluation(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        _check_separate(objective)
        yield


def _check_separate(objective: Objective) -> None:
    """Raise RequestError unless an example's loss is its own, seen on the first batch."""
    norms = [m for m in objective.model.modules() if isinstance(m, _BatchNorm)]
    if norms and (objective.bn == "batch" or any(norm.running_mean is None for norm in norms)):
        raise RequestError(
            "with the statistics of a batch, BatchNorm makes the loss of an example depend on the "
            "others of its batch: there is no gradient of one example. Give bn='eval' or "
            "bn='recalibrate', and layers with running statistics."
        )
    leaves = objective.leaves(objective.theta)
    buffers = objective.buffers_at(objective.theta)
    batch = next(iter(objective.batches))
    length = batch_length(batch)
    together, _ = losses_of(objective.term(leaves, batch, buffers))
    if not together.requires_grad:
        raise RequestError(
            f"the loss {objective.loss_function.name!r} carries no gradient: it is detached, or "
            "taken under no_grad. Return a differentiable tensor."
        )
    if length == 1:
        return
    together = together.detach()
    with torch.no_grad():
        part = slice_batch(batch, 0, length // 2, length)
        apart, _ = losses_of(objective.term(leaves, part, buffers))
    rtol = _RTOL.get(objective.space.dtype, _LOW_PRECISION_RTOL)
    differ = len(together) != length or not torch.allclose(
        together[: length // 2], apart, rtol=rtol, atol=rtol * float(together.abs().max())
    )
    if differ:
        raise RequestError(
            "the loss of an example depends on the others of its batch: half of the first batch "
            "alone has other losses. Per-example measures need a network and a loss that take each "
            "example by itself."
        )


def losses_of(term: Term) -> tuple[Tensor, Tensor]:
    """(b,) the loss of each example and its weight in L; one that is left out has 0 and 0.

    Raises:
        RequestError: a loss that gives only a batch's value.
    """
    if term.losses is None or term.weights is None:
        raise RequestError(
            "the loss does not tell its examples apart. Give 'cross_entropy', 'mse', 'bce', a "
            "torch loss module, or a loss that returns one value an example."
        )
    by_example = (len(term.losses), -1)
    total, weight = (part.reshape(by_example).sum(1) for part in (term.losses, term.weights))
    return total / torch.where(weight == 0, 1, weight), weight.detach()


def inputs_of(batch: object) -> Tensor:
    """The one floating-point tensor of a batch that is no target.

    Raises:
        RequestError: none, or several.
    """
    tensors = tensors_of(batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        target = "1"
    else:
        target = next((key for key in TARGET_KEYS if key in tensors), "")
    floats = {
        place: tensor
        for place, tensor in tensors.items()
        if place.split(".")[0] != target and tensor.is_floating_point()
    }
    if len(floats) != 1:
        raise RequestError(
            f"a batch has {len(floats)} floating-point inputs ({', '.join(floats)}), expected one "
            "to differentiate by. Token ids have no gradient: give the network their embeddings."
        )
    return next(iter(floats.values()))


def with_inputs(batch: object, inputs: Tensor) -> object:
    """The same batch with other inputs."""
    own = inputs_of(batch)
    return map_tensors(lambda tensor: inputs if tensor is own else tensor, batch)


def input_gradients(
    objective: Objective, point: Point, batch: object, inputs: Tensor, *, create_graph: bool = False
) -> Tensor:
    """(b, ...) the gradient of each example's loss at `inputs`, which require gradients.

    NaN for examples that are left out.
    """
    term = objective.term(point.blocks, with_inputs(batch, inputs), point.buffers)
    losses, weights = losses_of(term)
    # Examples are separate: the gradient of the sum holds that of each.
    gradient = gradient_by(losses.sum(), inputs, create_graph=create_graph)
    kept = (weights != 0).view(-1, *[1] * (gradient.ndim - 1))
    return torch.where(kept, gradient, torch.nan)


def gradient_by(
    total: Tensor, inputs: Tensor, *, create_graph: bool = False, retain_graph: bool = False
) -> Tensor:
    """The gradient of a scalar; zeros where it does not depend on the inputs."""
    if not total.requires_grad:
        return torch.zeros_like(inputs)
    (gradient,) = torch.autograd.grad(
        total,
        inputs,
        create_graph=create_graph,
        retain_graph=retain_graph or create_graph,
        materialize_grads=True,
    )
    return gradient
