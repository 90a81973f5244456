"""Small networks, each made by one function whose arguments JSON can hold.

A checkpoint names its factory and arguments, so that anyone can build the network again. Initial
weights come from torch's global generator, as in any `nn.Module`. Every network also runs on
stacked weights, with `torch.func.functional_call` under `vmap`. The data are in `data`.
"""

from __future__ import annotations

from landscape.trainers.models.attention import transformer, vit
from landscape.trainers.models.convolutional import cnn, convnet
from landscape.trainers.models.head import with_frozen_head
from landscape.trainers.models.perceptron import mlp, tick_mlp
from landscape.trainers.models.residual import resnet8, resnet18, resnet20

__all__ = [
    "cnn",
    "convnet",
    "mlp",
    "resnet8",
    "resnet18",
    "resnet20",
    "tick_mlp",
    "transformer",
    "vit",
    "with_frozen_head",
]
