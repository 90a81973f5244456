"""Fully connected networks. Those for images are in `convolutional`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from landscape.errors import unknown_choice
from landscape.trainers.models.head import with_frozen_head

__all__ = ["mlp", "tick_mlp"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
_NORMS: dict[str, type[nn.LayerNorm | nn.BatchNorm1d]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


def mlp(
    in_features: int = 64,
    hidden: Sequence[int] = (64, 64),
    num_classes: int = 10,
    activation: str = "relu",
    norm: Literal["layer", "batch"] | None = None,
    bias: bool = True,
) -> nn.Module:
    """Fully connected network; an input of any shape (n, ...) is flattened to (n, in_features).

    Args:
        hidden: widths of the hidden layers; none of them makes a linear classifier.
        activation: "relu", "tanh", "gelu" or "silu". ReLU has no second derivative at its
            kinks; the others are smooth, which a curvature far from flat ground may want.
        norm: LayerNorm or BatchNorm, both affine, between each hidden layer and its activation.
        bias: of the linear layers. Those before BatchNorm have none, whatever it says:
            BatchNorm would take it away again.
    """
    if activation not in _ACTIVATIONS:
        raise unknown_choice("activation", activation, _ACTIVATIONS)
    if norm is not None and norm not in _NORMS:
        raise unknown_choice("norm", norm, _NORMS)
    layers: list[nn.Module] = [nn.Flatten()]
    width = in_features
    for next_width in hidden:
        layers.append(nn.Linear(width, next_width, bias=bias and norm != "batch"))
        if norm is not None:
            layers.append(_NORMS[norm](next_width))
        layers.append(_ACTIVATIONS[activation]())
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, num_classes, bias=bias))


def tick_mlp(in_features: int = 32, width: int = 32) -> nn.Module:
    """The scale-invariant perceptron for the multi-view ticks, (n, in_features) -> (n, 1) logits.

    Two hidden layers without biases, each under a LayerNorm without affine; the head is frozen at
    norm 10. The hidden weights are Gaussian, divided by their common norm: together they lie on
    the unit sphere. 2,048 trained weights by default, 32 frozen ones.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113, synthetic example.
    """
    model = nn.Sequential(
        nn.Linear(in_features, width, bias=False),
        nn.LayerNorm(width, eps=1e-7, elementwise_affine=False),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        nn.LayerNorm(width, eps=1e-7, elementwise_affine=False),
        nn.ReLU(),
        nn.Linear(width, 1, bias=False),
    )
    model = with_frozen_head(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for weight in trained:
        nn.init.normal_(weight)
    with torch.no_grad():
        norm = torch.stack([weight.norm() for weight in trained]).norm()
        for weight in trained:
            weight.div_(norm)
    return model
