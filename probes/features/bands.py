"""Bands: an image as a sum of images, each with a range of spatial frequencies.

`band_use` asks a network about them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike
from landscape.probes.features.tensors import as_float64

__all__ = ["Convention", "FourierBands", "band_masks", "by_channel", "fourier_bands"]

Convention = Literal["consistent", "published"]
_CONVENTIONS = ("consistent", "published")
_NORMS = (1, 2, math.inf)
_SHARES = (0.25, 0.75)  # of the highest frequency: 8 and 24 of 32, as published for 32 x 32
_NAMES = {
    0: ("background", "all"),
    1: ("background", "low", "high"),
    2: ("background", "low", "mid", "high"),
}


@dataclass(frozen=True, eq=False)
class FourierBands:
    """Images taken apart by frequency.

    Attributes:
        parts: (B, N, C, H, W) float64, real, before normalisation: their sum is the image.
        names: (B,), the background first: the mean of each channel.
        counts: (B,) Fourier coefficients of each band; of soft bands, their weights added up.
        borders: (B - 2,) the highest frequency of each band between the first and the last.
        mean, std: (C, 1, 1) what the network's inputs are normalised by.
        convention: how bands are normalised, see `fourier_bands`.
    """

    parts: Tensor = field(repr=False)
    names: tuple[str, ...]
    counts: Tensor
    borders: tuple[float, ...]
    mean: Tensor
    std: Tensor
    convention: Convention

    @property
    def images(self) -> Tensor:
        """(B, N, C, H, W) each band by itself, as the network is to see it.

        Under "consistent" their sum is the normalised image.
        """
        return torch.stack([self.keep(name) for name in self.names])

    def keep(self, *names: str) -> Tensor:
        """(N, C, H, W) images with these bands only, normalised by the convention.

        Raises:
            RequestError: no such band.
        """
        self._check(names)
        kept = [index for index, name in enumerate(self.names) if name in names]
        total = self.parts[kept].sum(0)
        if 0 in kept:
            return (total - self.mean) / self.std
        return total / self.std if self.convention == "consistent" else total

    def remove(self, *names: str) -> Tensor:
        """(N, C, H, W) images without these bands.

        Raises:
            RequestError: no such band.
        """
        self._check(names)
        return self.keep(*(name for name in self.names if name not in names))

    def up_to(self, name: str) -> Tensor:
        """(N, C, H, W) images with this band and all lower ones.

        Raises:
            RequestError: no such band.
        """
        self._check([name])
        return self.keep(*self.names[: self.names.index(name) + 1])

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.names:
                raise unknown_choice("band", name, self.names)


def fourier_bands(
    images: ArrayLike,
    *,
    borders: Sequence[float] | None = None,
    norm: float = 1,
    soft: float = 0.0,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    convention: Convention = "consistent",
) -> FourierBands:
    """Images by bands of frequency, real and with the images as their sum.

    Args:
        images: (N, C, H, W) before normalisation, of any size.
        borders, norm, soft: of the bands, see `band_masks`.
        mean, std: (C,) or one number, what the network's inputs are normalised by: (image - mean) /
            std. None: nothing, 0 and 1.
        convention: "consistent" divides each band by std and takes the mean off the background
            alone, so that the normalised bands add up to the normalised image. "published"
            normalises an image only if the background is in it: a band that is kept by itself is
            zero-mean, but not divided by std, and has some five times less contrast than in
            training.

    Raises:
        RequestError: another shape, borders that do not ascend, a negative `soft`, a std that is
            not positive, or an unknown norm or convention.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113.
    """
    if convention not in _CONVENTIONS:
        raise unknown_choice("convention", str(convention), _CONVENTIONS)
    pixels = as_float64(images, "images")
    if pixels.ndim != 4 or not pixels.numel():
        raise RequestError(
            f"images have shape {tuple(pixels.shape)}, expected (N, C, H, W). Of one image, or of "
            "one channel, type images.reshape(-1, channels, height, width)."
        )
    height, width = pixels.shape[2:]
    offset = by_channel(0.0 if mean is None else mean, "mean", pixels)
    scale = by_channel(1.0 if std is None else std, "std", pixels)
    if (scale <= 0).any():
        raise RequestError(f"std={scale.flatten().tolist()}, expected more than 0.")
    masks = band_masks(height, width, borders=borders, norm=norm, soft=soft).to(pixels.device)
    # Half of the coefficients: the other half are their conjugates, and a mask sees no signs.
    halves = masks[:, None, None, :, : width // 2 + 1]
    parts = torch.fft.irfft2(torch.fft.rfft2(pixels) * halves, s=(height, width))
    return FourierBands(
        parts,
        _names(len(masks)),
        masks.sum((1, 2)),
        _borders(height, width, borders, norm),
        offset,
        scale,
        convention,
    )


def band_masks(
    height: int,
    width: int,
    *,
    borders: Sequence[float] | None = None,
    norm: float = 1,
    soft: float = 0.0,
) -> Tensor:
    """The weight of each Fourier coefficient in each band; over the bands they add up to 1.

    Frequencies are in cycles per longer side, so that bands are the same in both directions.

    Args:
        borders: ascending, the highest frequency of each band but the background, which is
            frequency 0 alone, and the last, which has the rest. None: a quarter and three quarters
            of the highest frequency: of 32 x 32 with norm 1, 0; 1-8; 9-24; 25-32.
        norm: how the two frequencies of a wave make one: 1, |kx| + |ky|; 2, the Euclidean; inf, the
            larger.
        soft: over how much beyond its border a band fades into the next, as a raised cosine. 0
            cuts, which rings in the image.

    Returns:
        (B, H, W) float64, in the order of `torch.fft.fft2`.

    Raises:
        RequestError: borders that do not ascend from above 0, a negative `soft`, or an unknown
            norm.
    """
    if not soft >= 0:
        raise RequestError(f"soft={soft}, expected a width of 0 or more.")
    frequency = _frequencies(height, width, norm)
    below = [(frequency == 0).double()]
    for border in _borders(height, width, borders, norm):
        beyond = frequency - border
        if soft:
            below.append((1 + torch.cos(torch.pi * (beyond / soft).clamp(0, 1))) / 2)
        else:
            below.append((beyond <= 0).double())
    below.append(torch.ones_like(frequency))
    return torch.stack([below[0], *(after - before for before, after in itertools.pairwise(below))])


def _names(count: int) -> tuple[str, ...]:
    numbered = ("background", *(f"band {index}" for index in range(1, count)))
    return _NAMES.get(count - 2, numbered)


def _frequencies(height: int, width: int, norm: float) -> Tensor:
    if norm not in _NORMS:
        raise unknown_choice("norm", str(norm), [str(known) for known in _NORMS])
    longer = max(height, width)
    rows, columns = (
        # Whole where they can be: 5 / 28 * 28 is not 5 in every library.
        torch.tensor([min(k, size - k) * longer / size for k in range(size)], dtype=torch.float64)
        for size in (height, width)
    )
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    found: Tensor = torch.linalg.vector_norm(grid, ord=norm, dim=0)
    return found


def _borders(
    height: int, width: int, borders: Sequence[float] | None, norm: float
) -> tuple[float, ...]:
    if borders is None:
        highest = _frequencies(height, width, norm).max().item()
        return tuple(share * highest for share in _SHARES)
    found = tuple(float(border) for border in borders)
    if any(not low < high for low, high in itertools.pairwise((0.0, *found))):
        raise RequestError(f"borders={list(found)}, expected them to ascend from above 0: (8, 24).")
    return found


def by_channel(values: ArrayLike, name: str, images: Tensor) -> Tensor:
    """(C, 1, 1) of (C,) values or of one, for images (N, C, H, W).

    Raises:
        RequestError: as many values as there are no channels.
    """
    channels = images.shape[1]
    held = as_float64(values, name).flatten()
    if len(held) not in (1, channels):
        raise RequestError(f"{name} has {len(held)} values for {channels} channels.")
    return held.expand(channels).reshape(channels, 1, 1).to(images.device)
