"""Colours: brightness, contrast, saturation and hue of images (N, C, H, W) with values in [0, 1].

How much each image is changed is drawn in `augment`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["grey", "jitter", "turn_hue"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def grey(images: Tensor) -> Tensor:
    """The grey level in every channel; images of one channel are grey already."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand_as(images)


def jitter(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor
) -> Tensor:
    """The four changes, in this order, each cut to [0, 1].

    Args:
        brightness, contrast, saturation: (N, 1, 1, 1) share of the image in a mixture with black,
            with its mean grey level, and with its grey version; above 1, away from these.
        turn: (N, 1, 1, 1) of the hue, see `turn_hue`.
    """
    changed = (images * brightness).clamp(0, 1)
    middle = grey(changed).mean((-3, -2, -1), keepdim=True)
    changed = torch.lerp(middle, changed, contrast).clamp(0, 1)
    if images.shape[1] == 1:  # no saturation, no hue
        return changed
    changed = torch.lerp(grey(changed), changed, saturation).clamp(0, 1)
    return turn_hue(changed, turn)


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hues of (N, 3, H, W) turned by `turn` circles, (N, 1, 1, 1); saturation and value stay (HSV).

    Source: Smith 1978, "Color gamut transform pairs".
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    # In sixths of the circle, red at 0.
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * turn[:, 0]
    channels = []
    for start in (5, 3, 1):
        k = torch.remainder(start + hue, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)
