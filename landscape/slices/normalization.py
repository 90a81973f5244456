"""Normalization: how long a direction is in each filter, layer or weight; `directions` draws it.

A slice means something only beside the size of the weights: networks that scale a layer up and the
next one down are the same function. Filter normalisation (Li et al. 2018, arXiv:1712.09913) gives
each filter of a direction the norm of the filter that it perturbs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from landscape.errors import unknown_choice
from landscape.objective import Objective

__all__ = [
    "NORM_LAYERS",
    "Layout",
    "Normalization",
    "Scheme",
    "VectorPolicy",
    "layouts",
    "normalized_vectors",
]

Normalization = Literal["filter", "layer", "element", "model", "none"]
VectorPolicy = Literal["zero", "layer", "element"]
_Rule = Literal["filter", "layer", "element", "zero", "drawn"]

_SCHEMES = ("filter", "layer", "element", "model", "none")
_POLICIES = ("zero", "layer", "element")
NORM_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NORM_NAME = re.compile(r"Norm(?![a-z])")  # LlamaRMSNorm, LayerNorm2d; not NormalHead


@dataclass(frozen=True)
class Scheme:
    """How directions are normalised.

    Attributes:
        normalize: "filter": each filter has the norm of the weights' filter; "layer": each tensor
            has the norm of its weights; "element": each entry is multiplied by |weight|; "model":
            the whole has the norm of the whole of theta; "none": as it is.
        biases: what becomes of biases: "zero", or "layer" or "element" as above. Where `normalize`
            is "model" or "none", both of these leave them in the direction as they are.
        norms: the same for the parameters of normalisation layers.

    Raises:
        RequestError: a name that is none of these.

    A bias is any tensor of one dimension or none that does not belong to a normalisation layer: the
    slopes of a PReLU and a layer's scale, too. To a normalisation layer belong all parameters of
    torch's own (BatchNorm, InstanceNorm, LayerNorm, GroupNorm, RMSNorm), whatever their shape, and
    the vectors of a class that calls itself one, such as `LlamaRMSNorm`.
    """

    normalize: Normalization
    biases: VectorPolicy
    norms: VectorPolicy

    def __post_init__(self) -> None:
        if self.normalize not in _SCHEMES:
            raise unknown_choice("normalization", str(self.normalize), _SCHEMES)
        if self.biases not in _POLICIES:
            raise unknown_choice("policy for biases", str(self.biases), _POLICIES)
        if self.norms not in _POLICIES:
            raise unknown_choice("policy for norms", str(self.norms), _POLICIES)

    @property
    def is_global(self) -> bool:
        """Whether the direction is one piece, not a piece for each filter, tensor or entry."""
        return self.normalize in ("model", "none")

    def rule(self, layout: Layout) -> _Rule:
        """What is done to one tensor of the direction."""
        policy = {"weight": None, "bias": self.biases, "norm": self.norms}[layout.kind]
        if policy == "zero":
            return "zero"
        if self.normalize == "model" or self.normalize == "none":
            return "drawn"
        return policy or self.normalize


@dataclass(frozen=True)
class Layout:
    """Where the filters of a parameter lie: a filter is what makes one output.

    Attributes:
        name: of the parameter.
        shape: its shape.
        kind: "weight", or a vector: "bias" or "norm" (see `Scheme`).
        axis: dimension of the outputs: 1 for transposed convolutions, else 0. An embedding has a
            filter a token, fused attention a filter a row.
        groups: blocks of inputs, each with outputs of its own, where `axis` is 1.
    """

    name: str
    shape: torch.Size
    kind: Literal["weight", "bias", "norm"]
    axis: Literal[0, 1] = 0
    groups: int = 1

    def filters(self, tensors: Tensor) -> Tensor:
        """Filters as rows: (k, *shape) -> (k, F, E)."""
        num = self.shape[0]
        if self.axis:
            num = self.groups * self.shape[1]
            tensors = tensors.reshape(len(tensors), *self._grouped).transpose(2, 3)
        return tensors.reshape(len(tensors), num, self.shape.numel() // max(1, num))

    def unfiltered(self, rows: Tensor) -> Tensor:
        """The way back: (k, F, E) -> (k, *shape)."""
        if self.axis:
            groups, inputs, outputs, *rest = self._grouped
            rows = rows.reshape(len(rows), groups, outputs, inputs, *rest).transpose(2, 3)
        return rows.reshape(len(rows), *self.shape)

    @property
    def _grouped(self) -> tuple[int, ...]:
        # (in, out / G, ...) -> (G, in / G, out / G, ...)
        return (self.groups, self.shape[0] // self.groups, *self.shape[1:])


def layouts(objective: Objective) -> tuple[Layout, ...]:
    """Of all coordinates of an objective, in the order of `space.names`.

    A tied parameter is laid out as in the module of its first name.
    """
    space = objective.space
    return tuple(
        _layout(objective.model, name, shape)
        for name, shape in zip(space.names, space.shapes, strict=True)
    )


def _layout(model: nn.Module, name: str, shape: torch.Size) -> Layout:
    # The pieces of a parametrized weight stand for it, also in the module that it belongs to.
    path = name.rpartition(".")[0].partition("parametrizations.")[0].removesuffix(".")
    owner = model.get_submodule(path)
    called = type(owner).__name__
    if isinstance(owner, NORM_LAYERS):
        return Layout(name, shape, "norm")
    if len(shape) < 2:
        return Layout(name, shape, "norm" if _NORM_NAME.search(called) else "bias")
    if isinstance(owner, _ConvTransposeNd):
        # The lengths that weight normalisation keeps have a single row.
        whole = shape[0] % owner.groups == 0
        return Layout(name, shape, "weight", 1, owner.groups if whole else 1)
    if called == "Conv1D" and hasattr(owner, "nf"):  # of GPT-2: a linear layer, (in, out)
        return Layout(name, shape, "weight", 1)
    return Layout(name, shape, "weight")


def normalized_vectors(
    objective: Objective,
    source: Callable[[Layout], Tensor],
    num: int,
    scheme: Scheme,
    *,
    center: Tensor,
    orthogonal: bool,
) -> Tensor:
    """Directions from what `source` gives for each tensor: (num, n).

    Norms are taken in float64 and nothing is added to a denominator: a filter of zeros gives zeros,
    and weights that are multiplied by a power of two give the same direction times it, bit for bit.

    Args:
        source: (num, *shape) float64 on the CPU, for a tensor's layout.
        center: (n,) the weights whose norms count.
        orthogonal: make direction i orthogonal to the earlier ones. By filters, that is done within
            each filter of more than i entries, before the filter gets its norm: the directions are
            orthogonal as a whole and every filter has its exact norm. Shorter filters stay as
            drawn. By layers, the same within each tensor; for "model" and "none", at once for the
            whole. Not by elements: orthogonal directions would no longer follow their weights when
            neurons are rescaled, which is what d |w| is for.
    """
    space = objective.space
    dtype = torch.float64 if scheme.is_global else space.dtype
    found = torch.zeros(num, space.size, dtype=dtype)
    for layout, weight in zip(layouts(objective), space.split(center), strict=True):
        rule = scheme.rule(layout)
        if rule == "zero":
            continue
        drawn = source(layout)
        if rule != "drawn":
            drawn = _normalized(layout, rule, drawn, weight.cpu().double(), orthogonal)
        found[:, space.slice_of(layout.name)] = drawn.flatten(1)
    if scheme.is_global:
        found = _as_a_whole(found, scheme, center, orthogonal)
    return found.to(objective.device, space.dtype)


def _normalized(
    layout: Layout, rule: _Rule, drawn: Tensor, weight: Tensor, orthogonal: bool
) -> Tensor:
    """One tensor of the directions: (k, *shape) -> (k, *shape)."""
    if rule == "element":
        return drawn * weight.abs()
    if rule == "layer":
        rows = drawn.reshape(len(drawn), 1, -1)
        lengths = torch.linalg.vector_norm(weight).reshape(1)
        return _scaled(rows, lengths, orthogonal).reshape(drawn.shape)
    lengths = torch.linalg.vector_norm(layout.filters(weight.unsqueeze(0))[0], dim=-1)
    return layout.unfiltered(_scaled(layout.filters(drawn), lengths, orthogonal))


def _as_a_whole(found: Tensor, scheme: Scheme, center: Tensor, orthogonal: bool) -> Tensor:
    """Directions (k, n) in one piece: with the norm of theta, or their own."""
    lengths = torch.linalg.vector_norm(found, dim=-1, keepdim=True)  # (k, 1)
    if scheme.normalize == "model":
        lengths = torch.linalg.vector_norm(center.cpu().double()).expand_as(lengths)
    return _scaled(found.unsqueeze(1), lengths, orthogonal).squeeze(1)


def _scaled(rows: Tensor, lengths: Tensor, orthogonal: bool) -> Tensor:
    """Rows (k, F, E) with the norms `lengths`: (F,) for all k, or (k, F)."""
    if orthogonal:
        rows = _orthogonalized(rows)
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)  # (k, F, 1)
    return rows * torch.where(norms > 0, lengths.unsqueeze(-1) / norms, 0.0)


def _orthogonalized(rows: Tensor) -> Tensor:
    """Gram-Schmidt over k within each filter: (k, F, E).

    Twice is enough (Giraud et al. 2005): the first pass leaves the rounding error of what it took
    away, which may be most of the vector.
    """
    found = rows.clone()
    num, _, entries = rows.shape
    for index in range(1, min(num, entries)):
        for _ in range(2):
            for earlier in found[:index]:
                shared = (found[index] * earlier).sum(-1, keepdim=True)
                found[index] -= earlier * (shared / earlier.square().sum(-1, keepdim=True))
    return found
