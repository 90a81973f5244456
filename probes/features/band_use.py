"""Band use: which bands of spatial frequency a network of images needs, and which suffice it.

`bands` takes the images apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.answers import answers
from landscape.probes.arrays import ArrayLike, Floats
from landscape.probes.features.bands import (
    Convention,
    FourierBands,
    band_masks,
    by_channel,
    fourier_bands,
)
from landscape.probes.features.network import Network, classes_of, inputs_of, network_at
from landscape.result import Result
from landscape.similarity.bootstrap import Intervals, wilson

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BandUse", "band_use"]

NUM_SHOWN = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class BandUse(Result):
    """What a network answers to images of which it sees only a part.

    Attributes:
        bands: (B,) their names, from the background to the highest frequencies.
        accuracy: (B,) on images that keep this band alone, with Wilson intervals.
        removed_accuracy: (B,) on images that lack this band, with Wilson intervals.
        power_share: (B,) of the squared inputs, as the network has them.
        counts: (B,) Fourier coefficients of each band.
        borders: (B - 2,) between the bands, in cycles per longer side.
        full_accuracy: on the whole images, with Wilson's interval.
        chance: the accuracy of the best constant answer.
        shown_images: (S, 1 + B, C, H, W) the first images and their bands, before normalisation.
        num_examples: over how many.
    """

    probe: ClassVar[str] = "bands"

    bands: tuple[str, ...]
    accuracy: Intervals
    removed_accuracy: Intervals
    power_share: Floats
    counts: Floats = field(repr=False)
    borders: tuple[float, ...] = field(repr=False)
    full_accuracy: Intervals
    chance: float
    shown_images: Tensor = field(repr=False)
    num_examples: int

    @property
    def status(self) -> str:
        """ "converged": every number is exact for these examples."""
        return "converged"

    @property
    def _ends(self) -> tuple[Floats, Floats, Floats]:
        return self.accuracy.value, self.accuracy.low, self.accuracy.high

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Along `band`, with the images that are shown along `shown` and `band_image`."""
        import xarray as xr

        dataset = xr.Dataset(
            coords={"band": list(self.bands), "band_image": ["image", *self.bands]}
        )

        def put(name: str, dims: tuple[str, ...], values: object, unit: str, meaning: str) -> None:
            dataset[name] = (dims, values, {"units": unit, "long_name": meaning})

        def put_intervals(prefix: str, dims: tuple[str, ...], held: Intervals, of: str) -> None:
            put(f"{prefix}accuracy", dims, held.value, "1", of)
            put(f"{prefix}low", dims, held.low, "1", f"lower end, {of}")
            put(f"{prefix}high", dims, held.high, "1", f"upper end, {of}")

        by_band = ("band",)
        put_intervals("", by_band, self.accuracy, "accuracy on this band alone")
        put_intervals("removed_", by_band, self.removed_accuracy, "accuracy without this band")
        put("power_share", by_band, self.power_share, "1", "share of the squared inputs")
        put("num_coefficients", by_band, self.counts, "coefficient", "Fourier coefficients")
        put_intervals("full_", (), self.full_accuracy, "accuracy on whole images")
        for index, band in enumerate(self.bands):  # columns of a family's table
            for end, held in zip(("", "_low", "_high"), self._ends, strict=True):
                put(f"{band}_band{end}", (), held[index], "1", f"accuracy on the band {band} alone")
        put("chance", (), self.chance, "1", "accuracy of the best constant answer")
        put("num_examples", (), self.num_examples, "1", "examples that accuracies are of")
        shown = ("shown", "band_image", "channel", "y", "x")
        put("shown_image", shown, self.shown_images.numpy(), "1", "image, and each band of it")
        return dataset


def band_use(
    objective: Objective,
    theta: Tensor | None = None,
    *,
    borders: Sequence[float] | None = None,
    norm: float = 1,
    soft: float = 0.0,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    convention: Convention = "consistent",
    num_shown: int = NUM_SHOWN,
) -> BandUse:
    """Accuracy on images that keep one band of frequencies, and on images that lack it.

    The network sees the bands as it sees images: in the units of its inputs, divided by the same
    std; their sum is what it was trained on. BatchNorm statistics are those of the whole images.

    Args:
        objective: its inputs are (N, C, H, W), with one class for each.
        theta: (n,) where; by default the objective's own point.
        borders, norm, soft: of the bands, see `band_masks`.
        mean, std: (C,) what the objective's inputs have been normalised by: shown images are then
            in the image's own unit. Accuracies do not depend on it, unless "published".
        convention: "published" feeds bands that are not divided by std, see `fourier_bands`.
        num_shown: of how many examples, the first ones, the bands are kept.

    Raises:
        RequestError: inputs that are no images, a loss without classes, "published" without the
            mean and std that it goes by, or what `fourier_bands` refuses.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113.
    """
    if convention == "published" and (mean is None or std is None):
        raise RequestError(
            "convention='published' feeds bands that are not divided by std. Say what the inputs "
            "were normalised by: mean=..., std=..., 0 and 1 if by nothing."
        )
    if num_shown < 0:
        raise RequestError(f"num_shown={num_shown}, expected 0 or more.")
    began = time.perf_counter()
    theta = objective.theta if theta is None else theta
    said = answers(objective, theta)
    labels = said.labels.cpu()
    if len(labels) != objective.batches.num_examples:
        raise RequestError(
            f"there are {len(labels)} classes for {objective.batches.num_examples} inputs: bands "
            "need one class for each image."
        )
    bands = None
    right, power, shown = [], [], []
    start = 0
    with network_at(objective, theta) as network:
        for batch in objective.batches:
            inputs = _images(batch)
            bands = fourier_bands(
                _before_normalisation(inputs, mean, std),
                borders=borders,
                norm=norm,
                soft=soft,
                mean=mean,
                std=std,
                convention=convention,
            )
            right.append(_right(network, bands, labels[start : start + len(inputs)]))
            power.append(
                _power(inputs, band_masks(*inputs.shape[2:], borders=borders, norm=norm, soft=soft))
            )
            shown.append(_shown(bands, num_shown - start))
            start += len(inputs)
    assert bands is not None  # an objective has at least one batch
    count = float(start)
    full = np.asarray(float((said.logits.argmax(1).cpu() == labels).sum()))
    kept, removed = torch.stack(right).sum(0).numpy()
    total_power = torch.stack(power).sum(0)
    return BandUse(
        settings={
            "borders": list(bands.borders),
            "norm": norm if math.isfinite(norm) else "inf",
            "soft": soft,
            "mean": bands.mean.flatten().tolist(),
            "std": bands.std.flatten().tolist(),
            "convention": convention,
            "num_shown": num_shown,
        },
        provenance=objective.provenance(),
        wall_time=time.perf_counter() - began,
        bands=bands.names,
        accuracy=wilson(kept, count),
        removed_accuracy=wilson(removed, count),
        power_share=(total_power / total_power.sum()).numpy(),
        counts=bands.counts.cpu().numpy(),
        borders=bands.borders,
        full_accuracy=wilson(full, count),
        chance=labels.bincount().max().item() / count,
        shown_images=torch.cat(shown),
        num_examples=start,
    )


def _images(batch: object) -> Tensor:
    inputs = inputs_of(batch)
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise RequestError(
            f"the inputs are {inputs.dtype} of shape {tuple(inputs.shape)}, expected images: "
            "floating-point (N, C, H, W). Bands of frequency are of images only."
        )
    return inputs


def _before_normalisation(inputs: Tensor, mean: ArrayLike | None, std: ArrayLike | None) -> Tensor:
    images = inputs.double()
    if std is not None:
        images = images * by_channel(std, "std", images)
    return images if mean is None else images + by_channel(mean, "mean", images)


def _right(network: Network, bands: FourierBands, labels: Tensor) -> Tensor:
    """(2, B) right answers on images that keep, and that lack, each band."""
    return torch.tensor(
        [
            [(classes_of(network(seen(name))).cpu() == labels).sum().item() for name in bands.names]
            for seen in (bands.keep, bands.remove)
        ],
        dtype=torch.float64,
    )


def _power(inputs: Tensor, masks: Tensor) -> Tensor:
    """(B,) squared coefficients; by Parseval, squared inputs, also between soft bands."""
    coefficients: Tensor = torch.fft.fft2(inputs.double())
    squared = coefficients.abs().square().sum((0, 1)).cpu()
    return (masks * squared).sum((1, 2))


def _shown(bands: FourierBands, count: int) -> Tensor:
    """(S, 1 + B, C, H, W) the first images, each before its bands."""
    parts = bands.parts[:, : max(count, 0)]
    return torch.cat([parts.sum(0, keepdim=True), parts]).transpose(0, 1).float().cpu()
