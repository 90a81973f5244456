"""Bands of frequency add up to the image, and a wave lies in one of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.probes.features.bands import band_masks, fourier_bands

NORMS = [1, 2, math.inf]
SHAPES = [(2, 3, 32, 32), (3, 1, 28, 28), (2, 2, 9, 13), (2, 1, 1, 5), (1, 4, 1, 1), (2, 1, 7, 4)]


def images(shape=(2, 3, 32, 32), seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(rows, columns, size=32, phase=0.3):
    angle = rows * torch.arange(size)[:, None] + columns * torch.arange(size)
    return torch.cos(2 * math.pi * angle.double() / size + phase)[None, None]


# -- the bands --------------------------------------------------------------------------------


def test_the_bands_of_32_by_32_are_the_published_ones():
    bands = fourier_bands(images())
    assert bands.names == ("background", "low", "mid", "high")
    assert bands.counts.tolist() == [1, 144, 766, 113]
    assert bands.borders == (8, 24)


def test_each_mask_has_the_frequencies_of_its_definition():
    frequencies = [*range(16), *range(-16, 0)]  # the order of fft2
    distance = np.abs(frequencies)[:, None] + np.abs(frequencies)
    ranges = [(0, 0), (1, 8), (9, 24), (25, 32)]
    for mask, (low, high) in zip(band_masks(32, 32), ranges, strict=True):
        assert (mask.numpy() == ((low <= distance) & (distance <= high))).all()


@pytest.mark.parametrize(("norm", "band"), [(1, "mid"), (2, "mid"), (math.inf, "low")])
def test_the_norm_says_which_of_two_oblique_frequencies_is_low(norm, band):
    bands = fourier_bands(wave(5, 5), norm=norm, borders=(6.5, 12))  # 10, 7.07, 5
    assert bands.images[bands.names.index(band)].abs().max() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("rows", "columns", "band"),
    [
        *[(0, 0, "background"), (0, 1, "low"), (3, -5, "low"), (8, 0, "low")],
        *[(-4, 5, "mid"), (16, 8, "mid"), (12, 13, "high"), (16, 16, "high")],
    ],
)
def test_a_pure_cosine_lands_in_one_band(rows, columns, band):
    shown = wave(rows, columns)
    bands = fourier_bands(shown)
    for name, found in zip(bands.names, bands.images, strict=True):
        expected = shown if name == band else torch.zeros_like(shown)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("soft", [0.0, 3.5])
def test_they_are_real_and_add_up_to_the_image(shape, norm, soft):
    shown = images(shape)
    bands = fourier_bands(shown, norm=norm, soft=soft)
    assert bands.images.shape == (4, *shape)
    assert bands.images.dtype == torch.float64
    assert (bands.images.sum(0) - shown).abs().max() < 1e-15  # 4e-16 as a rule
    masks = band_masks(*shape[2:], norm=norm, soft=soft)
    whole = torch.fft.ifft2(torch.fft.fft2(shown) * masks[:, None, None])
    assert whole.imag.abs().max() < 4e-16
    torch.testing.assert_close(bands.images, whole.real, rtol=0, atol=2e-15)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("soft", [0.0, 1.0, 40.0])
@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
def test_masks_are_a_partition_of_unity(norm, soft, size):
    masks = band_masks(*size, norm=norm, soft=soft)
    torch.testing.assert_close(masks.sum(0), torch.ones(size, dtype=torch.float64))
    assert masks.min() >= 0
    assert masks[:, 0, 0].tolist() == [1, 0, 0, 0]
    bands = fourier_bands(images((1, 1, *size)), norm=norm, soft=soft)
    torch.testing.assert_close(bands.counts, masks.sum((1, 2)))
    assert masks[0].sum() == 1  # the background is the mean alone, also of soft bands


def test_soft_borders_fade_from_the_border_on():
    hard, soft = band_masks(1, 64, borders=(8,)), band_masks(1, 64, borders=(8,), soft=4)
    low = soft[1, 0]
    assert low[1:9].tolist() == [1] * 8
    assert low[10] == pytest.approx(0.5)
    assert low[9] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert low[12:33].tolist() == pytest.approx([0] * 21)
    assert hard[1, 0, 8:10].tolist() == [1, 0]
    nearly = band_masks(1, 64, borders=(8,), soft=1e-9)
    assert (nearly == hard).all()


def test_parseval():
    shown = images((4, 2, 9, 12))
    bands = fourier_bands(shown)
    squares = bands.images.square().sum((1, 2, 3, 4))
    assert float(squares.sum()) == pytest.approx(float(shown.square().sum()))
    power = torch.fft.fft2(shown).abs().square().sum((0, 1)) / (9 * 12)
    by_mask = (band_masks(9, 12) * power).sum((1, 2))
    torch.testing.assert_close(squares, by_mask)


@pytest.mark.parametrize("size", [28, 33, 64, 8])
def test_borders_scale_with_the_image(size):
    bands = fourier_bands(images((1, 1, size, size)))
    highest = 2 * (size // 2)
    assert bands.borders == (highest / 4, 3 * highest / 4)


def test_in_oblong_images_bands_are_the_same_both_ways():
    masks = band_masks(16, 32)
    square = band_masks(32, 32)
    assert (masks[:, :, 0] == square[:, ::2, 0]).all()  # 4 of 16 is as fine as 8 of 32
    assert (masks[:, 0] == square[:, 0]).all()


@pytest.mark.parametrize(
    ("borders", "names"),
    [
        ((), ("background", "all")),
        ((5,), ("background", "low", "high")),
        ((2, 4, 8), ("background", "band 1", "band 2", "band 3", "band 4")),
    ],
)
def test_other_borders_make_other_bands(borders, names):
    bands = fourier_bands(images(), borders=borders)
    assert bands.names == names
    assert len(bands.images) == len(bands.counts) == len(names)
    assert float(bands.counts.sum()) == 32 * 32


def test_the_background_is_each_channels_mean():
    shown = images()
    background = fourier_bands(shown).images[0]
    torch.testing.assert_close(background, shown.mean((2, 3), keepdim=True).expand_as(shown))


# -- normalisation ----------------------------------------------------------------------------

MEAN, STD = [0.49, 0.48, 0.45], [0.2, 0.19, 0.21]


def normalised(shown, mean=MEAN, std=STD):
    mean, std = (torch.tensor(part, dtype=torch.float64).view(-1, 1, 1) for part in (mean, std))
    return (shown - mean) / std


def test_normalised_bands_add_up_to_the_normalised_image():
    shown = images()
    bands = fourier_bands(shown, mean=MEAN, std=STD)
    torch.testing.assert_close(bands.images.sum(0), normalised(shown), rtol=0, atol=1e-14)
    # The same as the bands of the normalised image.
    torch.testing.assert_close(
        bands.images, fourier_bands(normalised(shown)).images, rtol=0, atol=1e-14
    )


def test_one_channel_is_normalised_by_one_number():
    shown = images((2, 1, 9, 9))
    bands = fourier_bands(shown, mean=0.3, std=0.2)
    torch.testing.assert_close(bands.images.sum(0), (shown - 0.3) / 0.2)


def test_the_published_convention_normalises_what_has_the_background_only():
    shown = images()
    raw, bands = (
        fourier_bands(shown),
        fourier_bands(shown, mean=MEAN, std=STD, convention="published"),
    )
    torch.testing.assert_close(bands.images[0], normalised(raw.images[0]))
    torch.testing.assert_close(bands.images[1:], raw.images[1:])  # not divided by std
    torch.testing.assert_close(bands.remove("background"), raw.remove("background"))
    torch.testing.assert_close(bands.remove("mid"), normalised(raw.remove("mid")))
    consistent = fourier_bands(shown, mean=MEAN, std=STD)
    ratio = consistent.images[2].std() / bands.images[2].std()
    assert 4.5 < ratio < 5.5  # five times less contrast


@pytest.mark.parametrize("convention", ["consistent", "published"])
def test_bands_are_kept_removed_and_added_up(convention):
    shown = images()
    bands = fourier_bands(shown, mean=MEAN, std=STD, convention=convention)
    torch.testing.assert_close(bands.keep(*bands.names), normalised(shown))
    torch.testing.assert_close(bands.up_to("high"), normalised(shown))
    torch.testing.assert_close(bands.up_to("background"), bands.images[0])
    torch.testing.assert_close(bands.up_to("low"), bands.keep("low", "background"))
    torch.testing.assert_close(bands.remove("high", "mid"), bands.up_to("low"))
    torch.testing.assert_close(bands.remove(), normalised(shown))
    assert not torch.equal(bands.keep("low", "mid"), bands.keep("low"))


def test_bands_without_the_mean_have_the_contrast_of_training():
    shown = images()
    bands = fourier_bands(shown, mean=MEAN, std=STD)
    lacking = bands.remove("background")
    expected = normalised(shown) - normalised(shown.mean((2, 3), keepdim=True))
    torch.testing.assert_close(lacking, expected)


@pytest.mark.parametrize("kind", ["float32", "uint8", "numpy"])
def test_whatever_holds_pixels_is_taken(kind):
    shown = (255 * images((1, 1, 6, 6))).to(torch.uint8)
    given = {"float32": shown.float(), "uint8": shown, "numpy": shown.numpy()}[kind]
    torch.testing.assert_close(fourier_bands(given).images.sum(0), shown.double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": torch.ones(3, 8, 8)}, r"shape \(3, 8, 8\), expected \(N, C, H, W\)"),
        ({"borders": (8, 8)}, "expected them to ascend"),
        ({"borders": (0, 8)}, "ascend from above 0"),
        ({"norm": 3}, "unknown norm '3'"),
        ({"soft": -1.0}, "soft=-1.0"),
        ({"std": 0.0}, r"std=\[0.0, 0.0, 0.0\]"),
        ({"mean": [0.1, 0.2]}, "mean has 2 values for 3 channels"),
        ({"convention": "publish"}, "Did you mean 'published'"),
    ],
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        fourier_bands(options.pop("images", images()), **options)


def test_a_band_that_is_not_there_is_refused():
    bands = fourier_bands(images())
    for call in (bands.keep, bands.remove, bands.up_to):
        with pytest.raises(RequestError, match="Did you mean 'low'"):
            call("lo")
