"""The network of an objective on inputs of one's own, for probes that change what it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.errors import RequestError
from landscape.losses import TARGET_KEYS
from landscape.objective import Objective

__all__ = ["Network", "classes_of", "inputs_of", "network_at", "opened"]

Network = Callable[[Tensor], Tensor]


@contextmanager
def network_at(objective: Objective, theta: Tensor | None = None) -> Iterator[Network]:
    """Inputs -> outputs at theta (the objective's own by default), in eval mode, no gradients.

    BatchNorm statistics are the policy's, from the objective's data and not from the inputs,
    except under "batch", where each call has its own.
    """
    theta = objective.theta if theta is None else theta
    with objective.evaluation(), torch.no_grad():
        buffers = {name: buffer.clone() for name, buffer in objective.buffers.items()}
        tensors: dict[str, Tensor] = {
            **objective.space.named(theta.to(objective.device)),
            **objective.constants,
            **buffers,
            **(objective.buffers_at(theta) or {}),
        }

        def network(inputs: Tensor) -> Tensor:
            dtype = objective.space.dtype if inputs.is_floating_point() else inputs.dtype
            moved = inputs.to(objective.device, dtype)
            output = functional_call(objective.model, tensors, (moved,))
            return _tensor(output)

        yield network


@contextmanager
def opened(network: Objective | Network, theta: Tensor | None = None) -> Iterator[Network]:
    """An objective's network, as `network_at`, or a function of inputs as it is; no gradients.

    A module is in eval mode inside, and as it was outside.

    Raises:
        RequestError: theta for what is no objective.
    """
    if isinstance(network, Objective):
        with network_at(network, theta) as found:
            yield found
        return
    if theta is not None:
        raise RequestError("theta is a point of an objective; a function of inputs has none.")
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    flags = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield lambda inputs: _tensor(network(inputs))
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def _tensor(output: object) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise RequestError(
            f"the network returned a {type(output).__name__}, expected logits: a tensor."
        )
    return found


def classes_of(logits: Tensor) -> Tensor:
    """(N,) the classes that are answered by logits (N, C); of (N,) or (N, 1), whether logit > 0.

    Raises:
        RequestError: other shapes.
    """
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        return (logits.flatten() > 0).long()
    if logits.ndim != 2:
        raise RequestError(
            f"the network's output has shape {tuple(logits.shape)}, expected one class for each "
            "example: logits (N, C), or (N,) or (N, 1) of two classes."
        )
    return logits.argmax(1)


def inputs_of(batch: object) -> Tensor:
    """The one tensor of inputs in a batch (inputs, target), or a mapping of both.

    Raises:
        RequestError: several inputs, or none.
    """
    found: object = None
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        found = batch[0]
    elif isinstance(batch, Mapping):
        rest = [value for key, value in batch.items() if key not in TARGET_KEYS]
        found = rest[0] if len(rest) == 1 else None
    if not isinstance(found, Tensor):
        raise RequestError(
            f"a batch is a {type(batch).__name__} without one tensor of inputs, expected (inputs, "
            "target). A network of several inputs cannot be asked about parts of one."
        )
    return found
