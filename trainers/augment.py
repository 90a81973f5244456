"""Augment: random changes of images, as pure functions of the images and of uniform numbers.

Each operation says how many numbers it needs for an image; `orders` draws them. Equal numbers give
equal images, bit for bit. An operation that its number switches off leaves an image as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.trainers.colours import grey, jitter

__all__ = [
    "Augmentation",
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "Grayscale",
    "HorizontalFlip",
    "Normalize",
    "RandomCrop",
    "RandomMask",
    "RandomResizedCrop",
    "Shift",
    "augmentation",
]

_LOW_PRECISION = (torch.float16, torch.bfloat16)


class Augmentation(Protocol):
    """images (N, ...), uniforms (N, num_uniforms) in [0, 1) -> images of the same shape."""

    @property
    def num_uniforms(self) -> int: ...

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class RandomCrop:
    """A window of the image's size out of the image with `padding` zeros on each side."""

    padding: int
    num_uniforms = 2

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Offsets floor(u (2 padding + 1)), down and to the right, of the window in the frame."""
        _check(self, images, uniforms)
        frame = F.pad(images, [self.padding] * 4)
        down, right = _whole(uniforms, 2 * self.padding + 1).unbind(1)
        return _windows(frame, down, right, images.shape[-2:])


@dataclass(frozen=True)
class Shift:
    """The image moved by up to `max_pixels` each way; its edge goes on where it left."""

    max_pixels: int
    num_uniforms = 2

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """As `RandomCrop`, with the edge's pixels instead of zeros: for grey backgrounds."""
        _check(self, images, uniforms)
        down, right = (_whole(uniforms, 2 * self.max_pixels + 1) - self.max_pixels).unbind(1)
        return _windows(images, down, right, images.shape[-2:])


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, enlarged to the image's size by bilinear interpolation.

    Attributes:
        scale: range of the part's area, as a share of the image's.
        ratio: range of its width by its height, uniform in the logarithm. A part that would not fit
            is cut to the image's width or height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    num_uniforms = 4

    def __post_init__(self) -> None:
        _require_range("scale", self.scale, 1.0)
        _require_range("ratio", self.ratio)

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Uniforms: area, ratio, offset from the top, offset from the left."""
        _check(self, images, uniforms)
        precise = images.float() if images.dtype in _LOW_PRECISION else images
        first, second, top, left = uniforms.to(precise.dtype).unbind(1)
        area = _between(first, *self.scale)
        ratio = _between(second, math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        aspect = images.shape[-2] / images.shape[-1]  # the ratio is one of pixels
        width = (area * ratio * aspect).sqrt().clamp(max=1)
        height = (area / ratio / aspect).sqrt().clamp(max=1)
        # The grid's coordinates run from -1 to 1 over the image.
        across = _grid_line(images.shape[-1], width, left)[:, None, :]
        down = _grid_line(images.shape[-2], height, top)[:, :, None]
        shape = (len(images), *images.shape[-2:])
        grid = torch.stack([across.expand(shape), down.expand(shape)], -1)  # (N, H, W, 2)
        sampled = F.grid_sample(precise, grid, padding_mode="border", align_corners=False)
        return sampled.to(images.dtype)


@dataclass(frozen=True)
class HorizontalFlip:
    """Left and right exchanged with probability p."""

    p: float = 0.5
    num_uniforms = 1

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Flipped where u < p."""
        _check(self, images, uniforms)
        return torch.where(_column(uniforms[:, 0] < self.p, images), images.flip(-1), images)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue changed with probability p, always in this order.

    Attributes:
        brightness, contrast, saturation: a: the factor is uniform in [max(0, 1 - a), 1 + a].
        hue: the turn is uniform in [-hue, hue], of a whole circle.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float = 1.0
    num_uniforms = 5

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Uniforms: whether at all, then the four; what they do is in `colours.jitter`."""
        _check(self, images, uniforms)
        _require_colours(self, images)
        is_on = _column(uniforms[:, 0] < self.p, images)
        ranges = [
            (max(0.0, 1 - amount), 1 + amount)
            for amount in (self.brightness, self.contrast, self.saturation)
        ]
        brightness, contrast, saturation, turn = (
            _column(_between(number, *ends), images)
            for number, ends in zip(
                uniforms[:, 1:].unbind(1), [*ranges, (-self.hue, self.hue)], strict=True
            )
        )
        changed = jitter(images, brightness, contrast, saturation, turn)
        return torch.where(is_on, changed, images)


@dataclass(frozen=True)
class Grayscale:
    """All colours replaced by the grey level with probability p."""

    p: float = 0.2
    num_uniforms = 1

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Grey where u < p."""
        _check(self, images, uniforms)
        _require_colours(self, images)
        return torch.where(_column(uniforms[:, 0] < self.p, images), grey(images), images)


@dataclass(frozen=True)
class GaussianBlur:
    """Blurred with probability p, by a kernel of odd size whose width differs between images.

    Attributes:
        sigma_range: of its standard deviation in pixels.
    """

    kernel_size: int = 3
    sigma_range: tuple[float, float] = (0.1, 2.0)
    p: float = 1.0
    num_uniforms = 2

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise RequestError(
                f"kernel_size={self.kernel_size} has no middle. Choose an odd size such as 3."
            )
        _require_range("sigma_range", self.sigma_range)

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Uniforms: whether at all, sigma. The image is mirrored at its edges."""
        _check(self, images, uniforms)
        reach = self.kernel_size // 2
        if reach >= min(images.shape[-2:]):
            raise RequestError(
                f"kernel_size={self.kernel_size} is too wide for images of shape "
                f"{tuple(images.shape[1:])}. Choose {2 * min(images.shape[-2:]) - 1} or less."
            )
        sigma = _between(uniforms[:, 1:], *self.sigma_range).to(images.dtype)
        offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        weights = torch.softmax(-0.5 * (offsets / sigma).square(), 1)  # (N, kernel_size)
        blurred = images
        for axis in (-2, -1):
            size = images.shape[axis]
            # Mirrored without the edge's own pixel: 2 1 | 0 1 2 ...
            where = torch.arange(-reach, size + reach, device=images.device).abs()
            where = torch.where(where < size, where, 2 * size - 2 - where)
            mirrored = blurred.index_select(axis, where)
            blurred = torch.zeros_like(images)
            for k, weight in enumerate(weights.unbind(1)):
                blurred = blurred + _column(weight, images) * mirrored.narrow(axis, k, size)
        return torch.where(_column(uniforms[:, 0] < self.p, images), blurred, images)


@dataclass(frozen=True)
class Normalize:
    """(image - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_uniforms = 0

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Needs no uniforms: (N, 0)."""
        _check(self, images, uniforms)
        if not len(self.mean) == len(self.std) == images.shape[1]:
            raise RequestError(
                f"mean and std have {len(self.mean)} and {len(self.std)} numbers for images of "
                f"{images.shape[1]} channels. Give one of each for every channel."
            )
        mean, std = (
            torch.tensor(numbers, dtype=images.dtype, device=images.device).view(-1, 1, 1)
            for numbers in (self.mean, self.std)
        )
        return (images - mean) / std


@dataclass(frozen=True)
class RandomMask:
    """For vectors (N, D): some coordinates kept, the others set to 0, then noise on all.

    Attributes:
        num_features: D.
        keep_range: of the share that is kept; uniform, drawn for each vector.
        noise: standard deviation of the Gaussian noise.
    """

    num_features: int
    keep_range: tuple[float, float] = (0.5, 1.0)
    noise: float = 0.1

    @property
    def num_uniforms(self) -> int:
        return 1 + 2 * self.num_features

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Uniforms: the share, then one a coordinate to keep it, then one a coordinate of noise."""
        _check(self, images, uniforms, ndim=2)
        if images.shape[1] != self.num_features:
            raise RequestError(
                f"RandomMask of {self.num_features} features got vectors of {images.shape[1]}. "
                "Make it with their number."
            )
        share, kept, drawn = torch.split(uniforms, [1, *[self.num_features] * 2], 1)
        masked = torch.where(kept < _between(share, *self.keep_range), images, 0)
        precise = drawn.float() if drawn.dtype in _LOW_PRECISION else drawn
        edge = torch.finfo(precise.dtype).eps / 2  # the normal quantile of 0 is -infinity
        normal: Tensor = torch.special.ndtri(precise.clamp(edge, 1 - edge))
        return masked + self.noise * normal.to(images.dtype)


@dataclass(frozen=True, init=False)
class Compose:
    """Operations one after another; the uniforms are dealt out in the same order."""

    operations: tuple[Augmentation, ...]

    def __init__(self, *operations: Augmentation) -> None:
        object.__setattr__(self, "operations", operations)

    @property
    def num_uniforms(self) -> int:
        return sum(operation.num_uniforms for operation in self.operations)

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        _check_uniforms(self, images, uniforms)
        parts = torch.split(uniforms, [each.num_uniforms for each in self.operations], 1)
        for operation, part in zip(self.operations, parts, strict=True):
            images = operation(images, part)
        return images


def augmentation(name: str, image_shape: tuple[int, ...]) -> Compose:
    """The augmentations that the papers and recipes use, for images (C, H, W) or vectors (D,).

    - "none": nothing.
    - "shift": by one pixel in eight, for small grey images.
    - "crop-flip": `RandomCrop` with padding 4 and a flip, of supervised training on CIFAR.
    - "simclr": resized crop, flip, jitter (.8, .8, .8, .2) at .8, grey at .2, and a blur of a tenth
      of the image's width, at least 3 pixels.
    - "mask": `RandomMask`, for vectors.

    Raises:
        RequestError: no such name, or inputs of another kind.

    Source: Sadrtdinov et al. 2021, arXiv:2107.10143 ("crop-flip", "simclr").
    """
    blur = max(3, 2 * (image_shape[-1] // 20) + 1)
    jittered = ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    views = (RandomResizedCrop(), HorizontalFlip(), jittered, Grayscale(0.2), GaussianBlur(blur))
    choices: dict[str, tuple[int, tuple[Augmentation, ...]]] = {
        "shift": (3, (Shift(max(1, image_shape[-1] // 8)),)),
        "crop-flip": (3, (RandomCrop(4), HorizontalFlip())),
        "simclr": (3, views),
        "mask": (1, (RandomMask(image_shape[0]),)),
    }
    if name == "none":
        return Compose()
    if name not in choices:
        raise unknown_choice("augmentation", name, ("none", *choices))
    ndim, operations = choices[name]
    if len(image_shape) != ndim:
        raise RequestError(
            f"the augmentation {name!r} is for inputs {'(C, H, W)' if ndim == 3 else '(D,)'}, and "
            f"these have shape {tuple(image_shape)}. Choose another, or 'none'."
        )
    return Compose(*operations)


def _windows(frame: Tensor, down: Tensor, right: Tensor, size: torch.Size) -> Tensor:
    """The window of `size` at (down, right) of each image; the edge goes on outside."""
    height, width = frame.shape[-2:]
    rows = torch.arange(size[0], device=frame.device) + down[:, None]  # (N, H)
    columns = torch.arange(size[1], device=frame.device) + right[:, None]  # (N, W)
    image = torch.arange(len(frame), device=frame.device).view(-1, 1, 1, 1)
    channel = torch.arange(frame.shape[1], device=frame.device).view(1, -1, 1, 1)
    rows = rows.clamp(0, height - 1)[:, None, :, None]
    columns = columns.clamp(0, width - 1)[:, None, None, :]
    return frame[image, channel, rows, columns]


def _grid_line(size: int, share: Tensor, offset: Tensor) -> Tensor:
    """Middles of `size` pixels over a share of [-1, 1] that starts at an offset in 0 ... 1."""
    middles = (2 * torch.arange(size, dtype=share.dtype, device=share.device) + 1) / size
    return share[:, None] * middles + (2 * offset * (1 - share) - 1)[:, None]


def _between(uniforms: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniforms


def _whole(uniforms: Tensor, count: int) -> Tensor:
    """0 ... count - 1, equally likely."""
    # The largest float32 below 1, times 9, is rounded to 9.
    return (uniforms * count).long().clamp(max=count - 1)


def _column(numbers: Tensor, images: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1), in the images' dtype unless bool."""
    shaped = numbers.view(-1, *[1] * (images.ndim - 1))
    return shaped if numbers.dtype == torch.bool else shaped.to(images.dtype)


def _check(operation: Augmentation, images: Tensor, uniforms: Tensor, ndim: int = 4) -> None:
    if images.ndim != ndim or not images.is_floating_point():
        expected = "(N, C, H, W)" if ndim == 4 else "(N, D)"
        raise RequestError(
            f"{type(operation).__name__} got a tensor of shape {tuple(images.shape)} and dtype "
            f"{images.dtype}, expected floating-point {expected}."
        )
    _check_uniforms(operation, images, uniforms)


def _check_uniforms(operation: Augmentation, images: Tensor, uniforms: Tensor) -> None:
    if uniforms.shape != (len(images), operation.num_uniforms):
        raise RequestError(
            f"{type(operation).__name__} got uniforms of shape {tuple(uniforms.shape)}, expected "
            f"({len(images)}, {operation.num_uniforms}): a row for each image."
        )


def _require_colours(operation: Augmentation, images: Tensor) -> None:
    if images.shape[1] not in (1, 3):
        raise RequestError(
            f"{type(operation).__name__} is for images of 1 or 3 channels, and these have "
            f"{images.shape[1]}. Leave it out."
        )


def _require_range(name: str, ends: tuple[float, float], highest: float = math.inf) -> None:
    low, high = ends
    if not 0 < low <= high <= highest:
        raise RequestError(f"{name}={ends} is no range (low, high) above 0, at most {highest:g}.")
