"""Optimizer moments: what an optimizer remembers of its gradients, as flat vectors.

`directions` gives them names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = ["optimizer_moments"]


class _Memory(NamedTuple):
    """What is kept of one parameter, and the settings of its group."""

    name: str
    state: Mapping[str, Any]
    group: Mapping[str, Any]


def optimizer_moments(
    objective: Objective, optimizer: Optimizer | Mapping[str, Any]
) -> dict[str, Tensor]:
    """Vectors (n,) by name: Adam's "first moment" and "update", or "momentum" of SGD.

    With m and v the moving averages of the gradient and of its square, both divided by 1 - beta^t
    (Kingma and Ba 2015, arXiv:1412.6980), the first moment is m and the update m / (sqrt(v) + eps);
    amsgrad takes the largest v so far. Adam moves by -lr times the update, SGD by -lr times the
    momentum. A parameter that the optimizer has not moved yet, or does not hold, has zeros.

    Args:
        optimizer: of torch.optim, holding the parameters of the objective's own model; or its state
            dict, holding all of the model's parameters or all that require gradients. Without names
            (`param_names`) in it they are taken in the model's order, the groups one after the
            other.

    Raises:
        RequestError: an optimizer of another model or without moments, or shapes that do not fit.
    """
    if isinstance(optimizer, Optimizer):
        memories = _of_optimizer(objective.model, optimizer)
    else:
        memories = _of_state_dict(objective.model, optimizer)
    space, blocks = objective.space, {}
    shapes = dict(zip(space.names, space.shapes, strict=True))
    for memory in memories:
        if memory.name not in shapes or not memory.state:
            continue
        for name, block in _moments(memory).items():
            if block.shape != shapes[memory.name]:
                raise RequestError(
                    f"the optimizer's {name} of {memory.name} has shape {tuple(block.shape)}, the "
                    f"parameter {tuple(shapes[memory.name])}. A state dict without names must hold "
                    "the parameters in the model's order; give the optimizer itself."
                )
            blocks[name, memory.name] = block
    if not blocks:
        raise RequestError(
            "the optimizer holds no moments of the selected parameters. Give it after a step, and "
            "with the model that it trains (a copy's parameters are others), or its state dict."
        )
    found = {}
    for name in dict.fromkeys(name for name, _ in blocks):
        found[name] = torch.zeros_like(objective.theta)
        for parameter in space.names:
            if (name, parameter) in blocks:
                found[name][space.slice_of(parameter)] = (
                    blocks[name, parameter].reshape(-1).to(objective.theta)
                )
    return found


def _moments(memory: _Memory) -> dict[str, Tensor]:
    """In float64, in the shape of the parameter."""
    state, group = memory.state, memory.group
    if "exp_avg" in state and "exp_avg_sq" in state:
        beta1, beta2 = group["betas"]
        step = float(state["step"])
        first = state["exp_avg"].double() / (1 - float(beta1) ** step)
        squares = state.get("max_exp_avg_sq", state["exp_avg_sq"])
        second = squares.double() / (1 - float(beta2) ** step)
        return {"first moment": first, "update": first / (second.sqrt() + float(group["eps"]))}
    if state.get("momentum_buffer") is not None:
        return {"momentum": state["momentum_buffer"].double()}
    raise RequestError(
        f"of {memory.name} the optimizer keeps {', '.join(state)}: neither exp_avg with exp_avg_sq "
        "(Adam, AdamW) nor momentum_buffer (SGD with momentum). Give one of these."
    )


def _of_optimizer(model: nn.Module, optimizer: Optimizer) -> Iterator[_Memory]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in names:
                state = optimizer.state.get(parameter, {})
                yield _Memory(names[id(parameter)], state, group)


def _of_state_dict(model: nn.Module, held: Mapping[str, Any]) -> Iterator[_Memory]:
    if not {"state", "param_groups"} <= held.keys():
        raise RequestError(
            f"the optimizer's state dict holds {', '.join(held)}, expected state and param_groups: "
            "what `optimizer.state_dict()` gives."
        )
    groups = held["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    names = _names(model, [name for group in groups for name in group.get("param_names", ())])
    if len(names) != len(indices):
        names = [name for name, p in model.named_parameters() if p.requires_grad]
    if len(names) != len(indices):
        raise RequestError(
            f"the optimizer's state dict holds {len(indices)} parameters, the model "
            f"{len(list(model.parameters()))} and {len(names)} that require gradients. Give the "
            "state dict of the optimizer that trained this model, or the optimizer itself."
        )
    by_index = dict(zip(indices, names, strict=True))
    for group in groups:
        for index in group["params"]:
            yield _Memory(by_index[index], held["state"].get(index, {}), group)


def _names(model: nn.Module, given: list[str]) -> list[str]:
    """The names that the optimizer itself gives, where they are the model's; else the model's."""
    known = [name for name, _ in model.named_parameters()]
    return given if given and set(given) <= set(known) else known
