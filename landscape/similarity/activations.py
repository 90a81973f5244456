"""Activations: what the layers of an objective's model put out, recorded by hooks.

`streaming` compares them. Hooks are gone after every use, also where the model raises.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from landscape.batches import batch_length
from landscape.errors import RequestError, unknown_choice
from landscape.objective import Objective

__all__ = ["Pool", "activations", "check_named", "layers_of", "recorded"]

Pool = Literal["none", "spatial", "tokens"]
_POOLS = ("none", "spatial", "tokens")

# They pass on what others have computed: under a pattern it would count twice.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PASSING = (*_CONTAINERS, nn.Identity, nn.Flatten, nn.Unflatten, _DropoutNd)


def activations(
    objective: Objective,
    theta: Tensor | None = None,
    *,
    layers: str | Sequence[str] = "*",
    pool: Pool = "none",
    buffers: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Features (N, p) of each layer, on the whole data of an objective, in its order.

    Args:
        theta: (n,) where; by default the objective's own point.
        layers: as in `layers_of`.
        pool: "none" flattens an output (N, ...); "spatial" averages (N, c, ...) over what follows
            the channels, as in images; "tokens" averages (N, ..., c) over what is before them.
        buffers: by name, in place of the model's own. BatchNorm statistics are the policy's.

    Returns:
        By layer; a module that is called more than once has `name`, `name:2`, ... in turn.

    Raises:
        RequestError: no such layer, or one that is named and has no output for each example.
    """
    names = layers_of(objective.model, layers)
    theta = objective.theta if theta is None else theta
    blocks = objective.space.split(theta.to(objective.device))
    found: dict[str, list[Tensor]] = {}
    with objective.evaluation(), torch.no_grad():
        held = {**(buffers or {}), **(objective.buffers_at(theta) or {})}
        for batch in objective.batches:
            with recorded(objective.model, names, batch_length(batch), pool) as features:
                objective.term(blocks, batch, held)
            for name, values in features.items():
                found.setdefault(name, []).append(values)
    check_named(layers, names, found)
    return {name: torch.cat(parts) for name, parts in found.items()}


def layers_of(model: nn.Module, layers: str | Sequence[str] = "*") -> tuple[str, ...]:
    """Names of the modules that are meant, in the model's order.

    Args:
        layers: names, which mean any module, and globs such as `"layer*.conv?"`, which leave out
            containers and what passes on its input: `Sequential`, `Identity`, dropout, `Flatten`.

    Raises:
        RequestError: a name or a glob that is no module's.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    chosen = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        found = {
            name
            for name, module in modules.items()
            if name == pattern or (fnmatchcase(name, pattern) and not isinstance(module, _PASSING))
        }
        if not found:
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.4)
            hint = f" Close to it: {', '.join(near)}." if near else ""
            raise RequestError(
                f"no layer matches {pattern!r}.{hint} `model.named_modules()` lists them all."
            )
        chosen |= found
    return tuple(name for name in modules if name in chosen)


@contextmanager
def recorded(
    model: nn.Module, names: Sequence[str], num_examples: int, pool: Pool = "none"
) -> Iterator[dict[str, Tensor]]:
    """Features of the forward passes that are run inside, by layer.

    An output that is no tensor with `num_examples` rows is left out. Of a tuple or a mapping, such
    as of recurrent layers and attention, the first tensor is taken.
    """
    if pool not in _POOLS:
        raise unknown_choice("pool", pool, _POOLS)
    features: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def record(name: str, output: object) -> None:
        calls[name] = calls.get(name, 0) + 1
        tensor = _first_tensor(output)
        if tensor is not None and tensor.ndim and len(tensor) == num_examples:
            key = name if calls[name] == 1 else f"{name}:{calls[name]}"
            features[key] = _pooled(tensor.detach(), pool)

    handles = []
    try:
        for name in names:
            handles.append(
                model.get_submodule(name).register_forward_hook(
                    lambda _, __, output, name=name: record(name, output)
                )
            )
        yield features
    finally:
        for handle in handles:
            handle.remove()


def check_named(layers: str | Sequence[str], names: Sequence[str], found: Collection[str]) -> None:
    """Raise RequestError if a layer that was named has no features, or none has any."""
    silent = [name for name in names if name not in found]
    named = {layers} if isinstance(layers, str) else set(layers)
    wrong = [name for name in silent if name in named]
    if wrong or not found:
        raise RequestError(
            f"the layer {(wrong or silent)[0]!r} has no output with one row an example: it is not "
            "called, or its first dimension is another. Name others."
        )


def _first_tensor(output: object) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, (tuple, list, Mapping)):
        return next((found for part in parts if (found := _first_tensor(part)) is not None), None)  # type: ignore[attr-defined]
    return None


def _pooled(output: Tensor, pool: Pool) -> Tensor:
    if pool != "none" and output.ndim > 2:
        places = range(2, output.ndim) if pool == "spatial" else range(1, output.ndim - 1)
        return output.mean(tuple(places))
    # A copy: the next layer may work in place (`ReLU(inplace=True)`).
    return output.reshape(len(output), -1).clone()
