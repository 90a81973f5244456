"""Convolutional networks without shortcuts. Those with them are in `residual`."""

from __future__ import annotations

from torch import nn

from landscape.errors import RequestError
from landscape.trainers.models.head import with_frozen_head

__all__ = ["cnn", "convnet"]


def cnn(in_channels: int = 1, width: int = 16, num_classes: int = 10) -> nn.Module:
    """Three 3x3 convolutions with BatchNorm, then the mean over positions and a linear layer.

    For images (n, in_channels, H, W) of 8x8 and larger; each of the last two convolutions halves
    the image and doubles the channels.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )


def convnet(
    num_classes: int = 10,
    width: int = 32,
    in_channels: int = 3,
    scale_invariant: bool = True,
    image_size: int = 32,
    head_norm: float = 10.0,
) -> nn.Module:
    """Four 3x3 convolutions of `width`, 2x, 4x and 8x channels, each with BatchNorm and ReLU.

    A max-pooling of 2 follows each but the first; the last one takes the maximum over all positions
    that are left: 4x4 of an image of 32, 1x1 of one of 8.

    Args:
        scale_invariant: BatchNorm without affine, and the head, its bias included, frozen at
            its random initial values. Then no convolution's norm matters. Otherwise BatchNorm
            is affine and the head is trained.
        image_size: height and width, 8 or more.
        head_norm: norm of the frozen head's weight.

    Source: Kodryan et al. 2022, arXiv:2209.03695; initial weights are torch's default.
    """
    if image_size < 8:
        raise RequestError(
            f"image_size={image_size} leaves nothing after three poolings. Use images of 8x8 or "
            "larger."
        )
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in range(4):
        out_channels = width * 2**stage
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels, affine=not scale_invariant),
            nn.ReLU(),
        ]
        if stage > 0:
            layers.append(nn.MaxPool2d(2))
        channels = out_channels
    model = nn.Sequential(
        *layers,
        nn.MaxPool2d(image_size // 8),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )
    return with_frozen_head(model, head_norm) if scale_invariant else model
