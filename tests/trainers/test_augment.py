import pytest
import torch
import torch.nn.functional as F

from landscape.errors import RequestError
from landscape.trainers.augment import (
    ColorJitter,
    Compose,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Normalize,
    RandomCrop,
    RandomMask,
    RandomResizedCrop,
    Shift,
    augmentation,
)
from landscape.trainers.colours import grey, jitter


def images(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape or (6, 3, 8, 8), generator=generator, dtype=torch.float64).to(dtype)


def uniforms(operation, count=6, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, operation.num_uniforms, generator=generator, dtype=dtype)


OPERATIONS = [
    RandomCrop(2),
    Shift(2),
    RandomResizedCrop(),
    HorizontalFlip(),
    ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
    Grayscale(0.5),
    GaussianBlur(),
    Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
    Compose(RandomCrop(1), HorizontalFlip(), GaussianBlur(5)),
]
ids = [type(operation).__name__ for operation in OPERATIONS]


@pytest.mark.parametrize("operation", OPERATIONS, ids=ids)
def test_each_image_is_changed_by_its_own_numbers_alone(operation):
    x, u = images(), uniforms(operation)
    whole = operation(x, u)
    assert whole.shape == x.shape
    for i in range(len(x)):
        one = operation(x[i : i + 1], u[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], one, rtol=0, atol=1e-14)
    assert operation(x[:0], u[:0]).shape == (0, *x.shape[1:])


@pytest.mark.parametrize("operation", OPERATIONS, ids=ids)
def test_equal_numbers_give_equal_bits_and_the_images_stay(operation):
    x, u = images(), uniforms(operation)
    before, state = x.clone(), torch.get_rng_state()
    assert torch.equal(operation(x, u), operation(x.clone(), u.clone()))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("operation", OPERATIONS, ids=ids)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_images_dtype_is_kept(operation, dtype):
    x, u = images(), uniforms(operation)
    found = operation(x.to(dtype), u.to(torch.float32))
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(found.double(), operation(x, u), rtol=0, atol=tolerance)


@pytest.mark.parametrize("operation", OPERATIONS, ids=ids)
def test_wrong_shapes_are_refused(operation):
    with pytest.raises(RequestError, match="a row for each image"):
        operation(images(), torch.zeros(5, operation.num_uniforms))
    if not isinstance(operation, Compose):
        with pytest.raises(RequestError, match="expected floating-point"):
            operation(torch.zeros(6, 8, 8), torch.zeros(6, operation.num_uniforms))
        byte = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
        with pytest.raises(RequestError, match="uint8"):
            operation(byte, torch.zeros(6, operation.num_uniforms))


def test_a_crop_is_a_slice_of_the_padded_image():
    x, u = images(), uniforms(RandomCrop(2))
    found, frame = RandomCrop(2)(x, u), F.pad(x, [2] * 4)
    corners = (u * 5).long().tolist()
    for i, (down, right) in enumerate(corners):
        assert torch.equal(found[i], frame[i, :, down : down + 8, right : right + 8])
    assert len({tuple(corner) for corner in corners}) > 1  # not one offset for the whole batch


def test_all_crops_are_reached_and_the_middle_one_is_the_image():
    x = images(1, 1, 3, 3).expand(9, -1, -1, -1)
    steps = torch.tensor([(i, j) for i in range(3) for j in range(3)]) / 3 + 0.01
    found = RandomCrop(1)(x, steps)
    assert len(found.flatten(1).unique(dim=0)) == 9
    assert torch.equal(found[4], x[4])
    # The largest number below 1 must not step outside the frame.
    last = torch.full((1, 2), torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item())
    assert torch.equal(RandomCrop(4)(x[:1], last), RandomCrop(4)(x[:1], last * 0.99))


def test_a_shift_repeats_the_edge():
    x = images(1, 1, 4, 5)
    found = Shift(1)(x, torch.tensor([[0.99, 0.0]]))  # the window: down by one, left by one
    expected = F.pad(x, [1, 1, 1, 1], mode="replicate")[:, :, 2:, :5]
    assert torch.equal(found, expected)
    assert torch.equal(Shift(1)(x, torch.tensor([[0.5, 0.5]])), x)
    assert torch.equal(Shift(0)(x, torch.tensor([[0.9, 0.1]])), x)


def test_a_flip_is_an_involution_and_leaves_the_others_alone():
    x, u = images(), torch.tensor([[0.1], [0.9], [0.3], [0.5], [0.49], [0.7]])
    flipped = HorizontalFlip(0.5)(x, u)
    is_flipped = u[:, 0] < 0.5
    assert torch.equal(flipped[is_flipped], x[is_flipped].flip(-1))
    assert torch.equal(flipped[~is_flipped], x[~is_flipped])
    assert torch.equal(HorizontalFlip(0.5)(flipped, u), x)


def test_the_whole_image_as_a_part_is_the_image():
    whole = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(whole(images(), uniforms(whole)), images(), rtol=0, atol=1e-12)


def test_a_part_lies_where_its_numbers_say():
    # On a ramp bilinear interpolation is exact: the means are the part's middle.
    size = 16
    ramp = torch.arange(size, dtype=torch.float64) + 0.5
    x = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size)])[None]
    x = x.expand(200, -1, -1, -1)
    crop = RandomResizedCrop(scale=(0.2, 0.5))
    u = uniforms(crop, 200)
    width_steps = crop(x, u).diff(dim=-1)[:, 0, size // 2, size // 2]
    height_steps = crop(x, u).diff(dim=-2)[:, 1, size // 2, size // 2]
    area, ratio = 0.2 + 0.3 * u[:, 0], (3 / 4) * (16 / 9) ** u[:, 1]
    torch.testing.assert_close(width_steps * height_steps, area)
    torch.testing.assert_close(width_steps / height_steps, ratio)
    middle = crop(x, u).mean((2, 3)) / size
    left = u[:, 3] * (1 - width_steps) + width_steps / 2
    top = u[:, 2] * (1 - height_steps) + height_steps / 2
    torch.testing.assert_close(middle, torch.stack([left, top], 1), atol=2e-3, rtol=0)


def test_parts_never_leave_the_image():
    crop = RandomResizedCrop(scale=(0.9, 1.0), ratio=(0.5, 2.0))
    found = crop(images(200, 1, 6, 9) + 1, uniforms(crop, 200))
    assert found.min() >= 1


def test_jitter_draws_each_factor_from_its_range():
    x = images()
    operation = ColorJitter(0.8, 0.5, 1.5, 0.2, p=0.8)
    u = uniforms(operation)
    u[:, 0] = torch.tensor([0.0, 0.79, 0.8, 0.9, 0.1, 0.2])
    b, c, s, h = (column.view(-1, 1, 1, 1) for column in u[:, 1:].unbind(1))
    expected = jitter(x, 0.2 + 1.6 * b, 0.5 + c, 2.5 * s, -0.2 + 0.4 * h)
    found = operation(x, u)
    is_on = u[:, 0] < 0.8
    torch.testing.assert_close(found[is_on], expected[is_on])
    assert torch.equal(found[~is_on], x[~is_on])


def test_jitter_with_nothing_to_change_changes_nothing():
    operation = ColorJitter(0.0, 0.0, 0.0, 0.0)
    torch.testing.assert_close(operation(images(), uniforms(operation)), images())


def test_some_images_become_grey():
    x, u = images(), torch.tensor([[0.1], [0.2], [0.3], [0.0], [0.9], [0.19]])
    found = Grayscale(0.2)(x, u)
    is_grey = u[:, 0] < 0.2
    assert torch.equal(found[is_grey], grey(x)[is_grey])
    assert torch.equal(found[~is_grey], x[~is_grey])


@pytest.mark.parametrize("operation", [ColorJitter(0.1, 0.1, 0.1, 0.1), Grayscale()])
def test_colours_need_one_or_three_channels(operation):
    assert operation(images(6, 1, 4, 4), uniforms(operation)).shape == (6, 1, 4, 4)
    with pytest.raises(RequestError, match="these have 2"):
        operation(images(6, 2, 4, 4), uniforms(operation))


def test_a_blur_keeps_a_constant_and_leaves_the_others_alone():
    blur = GaussianBlur(5, p=0.5)
    x, u = images(), uniforms(blur)
    constant = torch.full_like(x, 0.7)
    torch.testing.assert_close(blur(constant, u), constant, rtol=0, atol=1e-12)
    is_off = u[:, 0] >= 0.5
    assert 0 < int(is_off.sum()) < len(x)
    assert torch.equal(blur(x, u)[is_off], x[is_off])


def test_a_blur_is_the_gaussian_kernel_of_each_images_width():
    blur = GaussianBlur(3, (0.5, 2.0))
    x, u = images(), uniforms(blur)
    for i in range(len(x)):
        sigma = 0.5 + 1.5 * u[i, 1]
        side = (-0.5 / sigma**2).exp()
        kernel = torch.stack([side, torch.ones_like(side), side]) / (1 + 2 * side)
        plane = torch.outer(kernel, kernel).expand(3, 1, 3, 3)
        frame = F.pad(x[i : i + 1], [1] * 4, mode="reflect")
        torch.testing.assert_close(blur(x, u)[i : i + 1], F.conv2d(frame, plane, groups=3))


def test_a_blur_that_cannot_be_says_why():
    with pytest.raises(RequestError, match="no middle"):
        GaussianBlur(4)
    with pytest.raises(RequestError, match="sigma_range"):
        GaussianBlur(3, (0.0, 1.0))
    with pytest.raises(RequestError, match=r"too wide .* Choose 3 or less"):
        GaussianBlur(5)(images(1, 1, 2, 2), torch.zeros(1, 2))
    with pytest.raises(RequestError, match="at most 1"):
        RandomResizedCrop(scale=(0.5, 2.0))


def test_normalizing_goes_channel_by_channel():
    found = Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))(images(), torch.zeros(6, 0))
    torch.testing.assert_close(found[:, 2], (images()[:, 2] - 0.3) / 4)
    with pytest.raises(RequestError, match="images of 2 channels"):
        Normalize((0.1,), (1.0,))(images(6, 2, 4, 4), torch.zeros(6, 0))


def test_a_mask_keeps_a_share_that_differs_between_vectors():
    mask = RandomMask(400, (0.2, 0.9), noise=0.0)
    x, u = images(50, 400) + 1, uniforms(mask, 50)
    found = mask(x, u)
    assert torch.equal(found[found != 0], x[found != 0])
    share = 0.2 + 0.7 * u[:, 0]
    kept = (found != 0).double().mean(1)
    assert ((kept - share).abs() < 4.5 * (share * (1 - share) / 400).sqrt()).all()
    assert torch.equal(RandomMask(400, (1.0, 1.0), 0.0)(x, u), x)


def test_a_masks_noise_is_normal_even_at_the_ends_of_the_uniforms():
    mask = RandomMask(400, (1.0, 1.0), noise=0.5)
    x = torch.zeros(50, 400, dtype=torch.float64)
    noise = mask(x, uniforms(mask, 50))
    assert abs(noise.mean()) < 4 * 0.5 / 20_000**0.5
    assert abs(noise.std() - 0.5) < 4 * 0.5 / 40_000**0.5
    assert mask(x[:1], torch.zeros(1, 801)).isfinite().all()
    with pytest.raises(RequestError, match="got vectors of 3"):
        mask(torch.zeros(2, 3), torch.zeros(2, 801))


def test_a_composition_deals_out_the_numbers_in_order():
    both = Compose(RandomCrop(2), HorizontalFlip())
    assert both.num_uniforms == 3
    x, u = images(), uniforms(both)
    expected = HorizontalFlip()(RandomCrop(2)(x, u[:, :2]), u[:, 2:])
    assert torch.equal(both(x, u), expected)


@pytest.mark.parametrize("name", ["none", "shift", "crop-flip", "simclr"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_recipe_fits_images_and_keeps_their_range(name, shape):
    operation = augmentation(name, shape)
    x = images(5, *shape, dtype=torch.float32)
    found = operation(x, uniforms(operation, 5, dtype=torch.float32))
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    assert torch.equal(found, x) == (name == "none")


def test_the_simclr_recipe_is_the_papers():
    crop, flip, colours, grey_scale, blur = augmentation("simclr", (3, 32, 32)).operations
    assert (crop.scale, flip.p, grey_scale.p) == ((0.08, 1.0), 0.5, 0.2)
    assert colours == ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    assert blur == GaussianBlur(3, (0.1, 2.0), 1.0)


def test_recipes_say_what_they_are_for():
    mask = augmentation("mask", (12,))
    assert mask(images(3, 12), uniforms(mask, 3)).shape == (3, 12)
    with pytest.raises(RequestError, match="Did you mean 'simclr'"):
        augmentation("simclear", (3, 32, 32))
    with pytest.raises(RequestError, match=r"inputs \(D,\), and these have shape \(3, 32, 32\)"):
        augmentation("mask", (3, 32, 32))
    with pytest.raises(RequestError, match=r"for inputs \(C, H, W\)"):
        augmentation("simclr", (12,))


@pytest.mark.parametrize(
    ("area", "ratio", "width", "height"),
    [
        (0.25, 1.0, 48**0.5, 48**0.5),  # of 192 pixels, in pixels
        (0.25, 2.0, 96**0.5, 24**0.5),
        (0.25, 0.5, 24**0.5, 96**0.5),
        (1.0, 4.0, 16.0, 48**0.5),  # wider than the image: cut to it
    ],
)
def test_the_part_of_an_image_has_the_area_and_ratio_in_pixels(area, ratio, width, height):
    crop = RandomResizedCrop(scale=(area, area), ratio=(ratio, ratio))
    down, across = torch.meshgrid(
        torch.arange(12, dtype=torch.float64), torch.arange(16, dtype=torch.float64), indexing="ij"
    )
    ramps = torch.stack([down, across])[None]  # each pixel says where it comes from
    found = crop(ramps, torch.full((1, 4), 0.5, dtype=torch.float64))[0]
    assert found[1, 6, 9] - found[1, 6, 8] == pytest.approx(width / 16)
    assert found[0, 7, 8] - found[0, 6, 8] == pytest.approx(height / 12)
