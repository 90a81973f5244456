"""Accuracy on bands, of networks whose band is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.features.band_use import band_use
from landscape.probes.features.bands import band_masks, fourier_bands
from landscape.similarity.bootstrap import wilson

N, SIZE = 40, 16
MEAN, STD = torch.tensor([0.4, 0.5]), torch.tensor([0.2, 0.25])


class Correlator(nn.Module):
    """Answers by the inner product with one wave, whose sign is the class."""

    def __init__(self, rows, columns):
        super().__init__()
        self.register_buffer("wave", wave(rows, columns))
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, inputs):
        signal = (inputs * self.wave).sum((1, 2, 3))
        return self.scale * torch.stack([-signal, signal], 1)


def wave(rows, columns):
    angle = rows * torch.arange(SIZE)[:, None] + columns * torch.arange(SIZE)
    return torch.cos(2 * math.pi * angle.double() / SIZE)


def data(rows=3, columns=3):
    """Noise, in which a wave's sign is the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % 2
    noise = torch.randn(N, 2, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return noise + 2 * (2 * labels - 1).view(-1, 1, 1, 1) * wave(rows, columns), labels


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, dtype=torch.float64),
        nn.BatchNorm2d(4, dtype=torch.float64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 14 * 14, 3, dtype=torch.float64),
    )


def three_classes():
    return data()[0], torch.arange(N) % 3


@pytest.mark.parametrize(("frequency", "band"), [(2, "low"), (5, "mid"), (7, "high")])
def test_a_network_of_one_wave_needs_its_band_and_no_other(frequency, band):
    images, labels = data(frequency, frequency if band != "low" else 0)
    model = Correlator(frequency, frequency if band != "low" else 0)
    found = band_use(Objective(model, (images, labels), batch_size=9))
    at = found.bands.index(band)
    others = [index for index in range(4) if index != at]
    assert float(found.full_accuracy.value) == 1
    assert found.accuracy.value[at] == 1
    assert (found.removed_accuracy.value[others] == 1).all()
    # By what rounding leaves of the wave, it answers at random.
    assert (found.accuracy.value[others] < 0.85).all()
    assert found.removed_accuracy.value[at] < 0.85


@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
@pytest.mark.parametrize("batch_size", [9, 40])
def test_accuracies_are_those_of_the_images_that_are_kept_and_that_are_left(bn, batch_size):
    images, labels = three_classes()
    objective = Objective(convolutional(), (images, labels), bn=bn, batch_size=batch_size)
    theta = -1.2 * objective.theta
    found = band_use(objective, theta, borders=(3, 6), norm=2, soft=1.0)
    model = convolutional().eval()
    tensors = objective.space.named(theta) | dict(objective.buffers)
    tensors |= objective.buffers_at(theta) or {}
    whole = torch.func.functional_call(model, tensors, (images,)).argmax(1) == labels
    assert float(found.full_accuracy.value) == pytest.approx(float(whole.double().mean()))
    elsewhere = band_use(objective).full_accuracy.value
    assert float(found.full_accuracy.value) != float(elsewhere)
    bands = fourier_bands(images, borders=(3, 6), norm=2, soft=1.0)
    for index, name in enumerate(bands.names):
        for held, shown in (
            (found.accuracy, bands.keep(name)),
            (found.removed_accuracy, bands.remove(name)),
        ):
            logits = torch.func.functional_call(model, tensors, (shown,))
            expected = (logits.argmax(1) == labels).double().mean()
            assert held.value[index] == pytest.approx(float(expected))


def test_intervals_are_wilsons():
    images, labels = three_classes()
    found = band_use(Objective(convolutional(), (images, labels)))
    expected = wilson(found.accuracy.value * N, float(N))
    np.testing.assert_allclose(found.accuracy.low, expected.low)
    np.testing.assert_allclose(found.accuracy.high, expected.high)
    assert (found.removed_accuracy.low < found.removed_accuracy.value).all()


def test_what_the_images_were_normalised_by_changes_what_is_shown_only():
    images, labels = three_classes()
    objective = Objective(convolutional(), (images, labels), batch_size=9)
    plain = band_use(objective)
    told = band_use(objective, mean=MEAN, std=STD)
    np.testing.assert_array_equal(plain.accuracy.value, told.accuracy.value)
    np.testing.assert_array_equal(plain.removed_accuracy.value, told.removed_accuracy.value)
    np.testing.assert_allclose(plain.power_share, told.power_share)
    original = (images * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1))[:4].float()
    torch.testing.assert_close(told.shown_images[:, 0], original)
    torch.testing.assert_close(plain.shown_images[:, 0], images[:4].float())


def test_published_bands_are_fed_undivided():
    images, labels = three_classes()
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3, dtype=torch.float64)

        def forward(self, inputs):
            seen.append(inputs)
            return self.inner(inputs.mean((2, 3)))

    objective = Objective(Watching(), (images, labels))
    seen.clear()
    band_use(objective, mean=MEAN, std=STD, convention="published")
    original = images * STD.view(-1, 1, 1) + MEAN.view(-1, 1, 1)
    expected = fourier_bands(original, mean=MEAN, std=STD, convention="published")
    kept, removed = seen[1:5], seen[5:9]  # after the whole images
    for index, name in enumerate(expected.names):
        torch.testing.assert_close(kept[index], expected.keep(name))
        torch.testing.assert_close(removed[index], expected.remove(name))
    with pytest.raises(RequestError, match="Say what the inputs were normalised by"):
        band_use(objective, convention="published", std=STD)


@pytest.mark.parametrize("soft", [0.0, 2.0])
def test_power_shares_are_the_squares_of_the_inputs(soft):
    images, labels = three_classes()
    objective = Objective(convolutional(), (images, labels), batch_size=9)
    found = band_use(objective, soft=soft)
    assert found.power_share.sum() == pytest.approx(1)
    squares = torch.fft.fft2(images).abs().square().sum((0, 1))
    by_mask = (band_masks(SIZE, SIZE, soft=soft) * squares).sum((1, 2))
    np.testing.assert_allclose(found.power_share, by_mask / squares.sum())
    if not soft:
        parts = fourier_bands(images).images.square().sum((1, 2, 3, 4))
        np.testing.assert_allclose(found.power_share, parts / images.square().sum())


def test_the_shown_bands_add_up_to_the_image():
    images, labels = three_classes()
    objective = Objective(convolutional(), (images, labels), batch_size=3)
    found = band_use(objective, num_shown=5)  # of two batches
    assert found.shown_images.shape == (5, 5, 2, SIZE, SIZE)
    torch.testing.assert_close(found.shown_images[:, 0], images[:5].float())
    parts = found.shown_images[:, 1:].sum(1)
    torch.testing.assert_close(parts, found.shown_images[:, 0], rtol=1e-4, atol=1e-5)
    assert band_use(objective, num_shown=0).shown_images.shape == (0, 5, 2, SIZE, SIZE)


def test_chance_is_the_best_constant_answer():
    images, _ = data()
    labels = torch.tensor([2] * 25 + [0] * 15)
    found = band_use(Objective(convolutional(), (images, labels)))
    assert found.chance == 25 / 40


def test_one_logit_answers_by_its_sign():
    images, labels = data()
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIZE**2, 1, dtype=torch.float64))
    found = band_use(Objective(model, (images, labels.double()), "bce", batch_size=9))
    expected = ((model(images).flatten() > 0) == labels).double().mean()
    assert float(found.full_accuracy.value) == pytest.approx(float(expected))
    kept = model(fourier_bands(images).keep("mid")).flatten() > 0
    assert found.accuracy.value[2] == pytest.approx(float((kept == labels).double().mean()))


def test_networks_of_single_precision_are_asked_in_it():
    images, labels = three_classes()
    found = band_use(Objective(convolutional().float(), (images.float(), labels)))
    assert found.num_examples == N


def test_the_model_is_left_as_it_was():
    model = convolutional().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    band_use(Objective(model, three_classes(), bn="batch", batch_size=9))
    assert all(part.training for part in model.modules())
    for name, tensor in model.state_dict().items():
        assert (tensor == before[name]).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.ones(6, 4, dtype=torch.float64), r"shape \(6, 4\), expected images"),
        (torch.ones(6, 1, 2, 2, dtype=torch.int64), "are torch.int64"),
    ],
)
def test_inputs_that_are_no_images_are_refused(inputs, message):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, inputs):
            return self.logits.expand(len(inputs), 3)

    with pytest.raises(RequestError, match=message):
        band_use(Objective(Constant(), (inputs, torch.arange(6) % 3)))


def test_a_negative_number_of_images_is_refused():
    with pytest.raises(RequestError, match="num_shown=-1"):
        band_use(Objective(convolutional(), three_classes()), num_shown=-1)


def test_the_dataset_has_what_is_to_be_drawn():
    found = band_use(Objective(convolutional(), three_classes()), num_shown=2)
    dataset = found.to_dataset()
    assert dataset.band.values.tolist() == ["background", "low", "mid", "high"]
    for name in (
        *("accuracy", "low", "high", "removed_accuracy", "removed_low", "removed_high"),
        "power_share",
    ):
        assert dataset[name].dims == ("band",)
    assert dataset.shown_image.dims == ("shown", "band_image", "channel", "y", "x")
    assert dataset.band_image.values.tolist() == ["image", *dataset.band.values]
    assert float(dataset.full_accuracy) == float(found.full_accuracy.value)
    assert float(dataset.chance) == found.chance
    for variable in dataset.data_vars.values():
        assert {"units", "long_name"} <= set(variable.attrs)
    assert found.status == "converged"
    assert found.settings["borders"] == [4, 12]


def test_each_band_is_a_column_of_a_table_with_its_interval():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 8, 8, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    record = band_use(Objective(model, (images, torch.arange(6) % 3))).to_dataset()
    for index, band in enumerate(record["band"].values):
        for end, name in (("", "accuracy"), ("_low", "low"), ("_high", "high")):
            assert float(record[f"{band}_band{end}"]) == record[name].values[index]
