import colorsys

import pytest
import torch

from landscape.trainers.colours import grey, jitter, turn_hue

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(5, 3, 4, 4, generator=GENERATOR, dtype=torch.float64)
ONE, ZERO = torch.ones(5, 1, 1, 1).double(), torch.zeros(5, 1, 1, 1).double()
FACTOR = torch.tensor([0.0, 0.3, 1.0, 1.4, 1.8], dtype=torch.float64).view(5, 1, 1, 1)


def test_grey_weighs_the_colours_as_the_eye_does():
    red, green, blue = IMAGES.unbind(1)
    expected = 0.299 * red + 0.587 * green + 0.114 * blue
    for channel in grey(IMAGES).unbind(1):
        torch.testing.assert_close(channel, expected)
    assert torch.equal(grey(IMAGES[:, :1]), IMAGES[:, :1])


def test_brightness_multiplies():
    expected = (IMAGES * FACTOR).clamp(max=1)
    torch.testing.assert_close(jitter(IMAGES, FACTOR, ONE, ONE, ZERO), expected)


def test_contrast_stretches_about_the_mean_grey_level_of_each_image():
    mean = grey(IMAGES)[:, :1].mean((2, 3), keepdim=True)
    expected = (mean + FACTOR * (IMAGES - mean)).clamp(0, 1)
    torch.testing.assert_close(jitter(IMAGES, ONE, FACTOR, ONE, ZERO), expected)


def test_saturation_stretches_about_the_grey_image():
    expected = (grey(IMAGES) + FACTOR * (IMAGES - grey(IMAGES))).clamp(0, 1)
    torch.testing.assert_close(jitter(IMAGES, ONE, ONE, FACTOR, ZERO), expected)


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.9, 1.0])
def test_the_hue_turns_as_in_the_standard_library(turn):
    found = turn_hue(IMAGES, torch.full((5, 1, 1, 1), turn, dtype=torch.float64))
    for pixel, turned in zip(
        IMAGES.movedim(1, -1).reshape(-1, 3).tolist(),
        found.movedim(1, -1).reshape(-1, 3).tolist(),
        strict=True,
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        assert turned == pytest.approx(expected, abs=1e-12)


def test_grey_pixels_have_no_hue_to_turn_and_gradients_stay_finite():
    image = torch.full((1, 3, 2, 2), 0.4, dtype=torch.float64, requires_grad=True)
    found = turn_hue(image, torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64))
    torch.testing.assert_close(found, image)
    assert torch.autograd.grad(found.sum(), image)[0].isfinite().all()


def test_brightness_comes_before_contrast_before_saturation():
    factors = [FACTOR, FACTOR.flip(0), FACTOR.roll(2, 0)]
    one_by_one = jitter(IMAGES, factors[0], ONE, ONE, ZERO)
    one_by_one = jitter(one_by_one, ONE, factors[1], ONE, ZERO)
    one_by_one = jitter(one_by_one, ONE, ONE, factors[2], ZERO)
    torch.testing.assert_close(jitter(IMAGES, *factors, ZERO), one_by_one)


def test_grey_images_have_brightness_and_contrast_only():
    image = IMAGES[:, :1]
    changed = jitter(image, ONE, FACTOR, ONE, ZERO)
    assert torch.equal(jitter(image, ONE, FACTOR, FACTOR, FACTOR), changed)
