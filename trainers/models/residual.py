"""Residual networks for small images. Those without shortcuts are in `convolutional`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from landscape.trainers.models.head import with_frozen_head

__all__ = ["resnet8", "resnet18", "resnet20"]


def resnet20(
    num_classes: int = 10, width: int = 16, in_channels: int = 3, scale_invariant: bool = False
) -> nn.Module:
    """The 20-layer ResNet for CIFAR: three stages of three blocks, `width`, 2x and 4x channels.

    Where a stage halves the image, the shortcut is a projection: a 1x1 convolution of stride 2 with
    BatchNorm (the paper's option B; its CIFAR networks have option A, 2,752 parameters fewer).
    272,474 parameters by default.

    Args:
        scale_invariant: as in `resnet18`.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2; He et al. 2015 for the initial weights.
    """
    make = _scale_invariant if scale_invariant else _practical
    return make([3, 3, 3], num_classes, width, in_channels)


def resnet8(
    num_classes: int = 10, width: int = 16, in_channels: int = 3, scale_invariant: bool = False
) -> nn.Module:
    """As `resnet20`, but one block a stage: for small machines. 78,042 parameters by default.

    Args:
        scale_invariant: as in `resnet18`.
    """
    make = _scale_invariant if scale_invariant else _practical
    return make([1, 1, 1], num_classes, width, in_channels)


def resnet18(
    num_classes: int = 10, width: int = 64, in_channels: int = 3, scale_invariant: bool = False
) -> nn.Module:
    """The 18-layer ResNet with a stem for small images: four stages of two blocks.

    The stem is a 3x3 convolution without pooling; images from 8x8. 11,173,962 parameters by
    default.

    Args:
        scale_invariant: the variant in which no convolution's norm matters. Blocks are
            pre-activation, BatchNorm has no affine and stands before each shortcut's
            convolution too, and the head has no bias and is frozen at norm 10. A block's first
            convolution is scale-invariant alone; the others of a stage only together, as the
            sum ties them. Initial weights are then torch's default: a trained norm of 28.3 at
            width 32, where the source has 28.0.

    Source: He et al. 2016, arXiv:1512.03385 and, pre-activation, arXiv:1603.05027; the
    scale-invariant variant is that of Kodryan et al. 2022, arXiv:2209.03695.
    """
    make = _scale_invariant if scale_invariant else _practical
    return make([2, 2, 2, 2], num_classes, width, in_channels)


def _practical(depths: list[int], num_classes: int, width: int, in_channels: int) -> nn.Module:
    blocks = [_ResidualBlock(*shape) for shape in _block_shapes(depths, width)]
    model = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width * 2 ** (len(depths) - 1), num_classes),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _scale_invariant(
    depths: list[int], num_classes: int, width: int, in_channels: int
) -> nn.Module:
    channels = width * 2 ** (len(depths) - 1)
    model = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        *(_PreActivationBlock(*shape) for shape in _block_shapes(depths, width)),
        nn.BatchNorm2d(channels, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes, bias=False),
    )
    return with_frozen_head(model)


def _block_shapes(depths: list[int], width: int) -> list[tuple[int, int, int]]:
    """(channels in, channels out, stride) of each block; a stage doubles and halves."""
    shapes = []
    channels = width
    for stage, depth in enumerate(depths):
        for block in range(depth):
            out_channels = width * 2**stage
            shapes.append((channels, out_channels, 2 if stage > 0 and block == 0 else 1))
            channels = out_channels
    return shapes


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs)))))
        return F.relu(self.shortcut(inputs) + residual)


class _PreActivationBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, affine=False)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, affine=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            # Without it the sum would add a stream that scales with the last stage's weights to
            # one that does not.
            self.shortcut.append(nn.BatchNorm2d(in_channels, affine=False))
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))

    def forward(self, stream: Tensor) -> Tensor:
        hidden = self.conv1(F.relu(self.bn1(stream)))
        out: Tensor = self.shortcut(stream) + self.conv2(F.relu(self.bn2(hidden)))
        return out
