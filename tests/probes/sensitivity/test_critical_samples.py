from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.sensitivity.critical_samples import critical_sample_ratio


@pytest.fixture
def linear():
    """Two classes; examples with their exact distances |w.x + b| / ||w||_1 from the boundary."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(6, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 6, generator=generator, dtype=torch.float64))
        model.bias.copy_(torch.randn(2, generator=generator, dtype=torch.float64))
    inputs = torch.randn(150, 6, generator=generator, dtype=torch.float64)
    weight, bias = (model.weight[1] - model.weight[0]), model.bias[1] - model.bias[0]
    distances = ((inputs @ weight + bias).abs() / weight.abs().sum()).detach().numpy()
    return model, inputs, distances


@pytest.mark.parametrize("radius", [0.1, 0.4])
def test_of_a_linear_classifier_none_is_found_beyond_and_all_well_within(linear, radius):
    model, inputs, distances = linear
    found = critical_sample_ratio(model, radius, inputs=inputs)
    assert not found.is_critical[distances > radius].any()
    assert found.is_critical[distances < 0.95 * radius].all()
    critical = found.is_critical
    assert (found.distance[critical] >= distances[critical] - 1e-12).all()
    assert np.isnan(found.distance[~critical]).all()


def test_more_classes_have_the_distance_to_the_nearest_boundary():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    model = nn.Linear(6, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(weight)
    inputs = torch.randn(80, 6, generator=generator, dtype=torch.float64)
    logits = inputs @ weight.T
    top = logits.argmax(1)
    gaps = logits.gather(1, top[:, None]) - logits
    lengths = (weight[top][:, None] - weight).abs().sum(2)
    distances = (gaps / lengths).scatter(1, top[:, None], torch.inf).amin(1).numpy()
    found = critical_sample_ratio(model, 0.3, inputs=inputs)
    assert not found.is_critical[distances > 0.3].any()
    assert found.is_critical[distances < 0.2].all()


def test_what_is_found_is_predicted_otherwise_within_the_ball_and_the_box(linear):
    model, inputs, _ = linear
    inputs = inputs.clamp(-1, 1)
    found = critical_sample_ratio(model, 0.3, inputs=inputs, bounds=(-1.0, 1.0))
    moved = found.found
    assert (moved - inputs).abs().max() <= 0.3
    assert moved.abs().max() <= 1
    changed = (model(moved).argmax(1) != model(inputs).argmax(1)).numpy()
    np.testing.assert_array_equal(changed, found.is_critical)
    np.testing.assert_allclose(
        found.distance[changed], (moved - inputs).abs().amax(1).numpy()[changed]
    )
    free = critical_sample_ratio(model, 0.3, inputs=inputs)
    assert free.found.abs().max() > 1
    assert free.ratio > found.ratio


def test_single_precision_stays_within_the_ball_to_the_last_digit():
    inputs = torch.rand(50, 8, generator=torch.Generator().manual_seed(0)) + 1000
    model = nn.Linear(8, 2)
    found = critical_sample_ratio(model, 0.1, inputs=inputs, num_steps=5)
    assert ((found.found.double() - inputs.double()).abs() <= 0.1).all()


def test_the_interval_is_wilson_s(linear):
    model, inputs, _ = linear
    found = critical_sample_ratio(model, 0.2, inputs=inputs, confidence=0.9)
    wanted = stats.binomtest(int(found.is_critical.sum()), 150).proportion_ci(0.9, "wilson")
    assert found.ratio == found.is_critical.mean()
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_a_network_that_is_sure_beyond_rounding_is_searched_all_the_same(linear):
    model, inputs, distances = linear
    with torch.no_grad():
        model.weight.mul_(1e4)  # p = 1 to the last digit: the gradient of p vanishes
        model.bias.mul_(1e4)
    found = critical_sample_ratio(model, 0.3, inputs=inputs, noise=0.0)
    assert found.is_critical[distances < 0.29].all()


def test_steps_are_counted_and_the_budget_is_kept(linear):
    model, inputs, distances = linear
    found = critical_sample_ratio(model, 0.4, inputs=inputs, step=0.1, noise=0.0, num_steps=2)
    np.testing.assert_array_equal(found.is_critical, distances < 0.2)
    wanted = np.where(distances < 0.1, 1, np.where(distances < 0.2, 2, -1))
    np.testing.assert_array_equal(found.num_steps, wanted)


def test_what_else_belongs_to_an_example_goes_with_it(linear):
    model, inputs, distances = linear

    class Signed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x, sign):
            return self.inner(x) * sign[:, None]

    sign = 1 - 2 * torch.randint(2, (150,), generator=torch.Generator().manual_seed(1))
    batch = {"x": inputs, "sign": sign, "labels": torch.zeros(150, dtype=torch.int64)}
    objective = Objective(Signed(), batch, batch_size=40)
    found = critical_sample_ratio(objective, 0.4, step=0.1, noise=0.0, num_steps=2)
    np.testing.assert_array_equal(found.is_critical, distances < 0.2)


def test_noise_alone_finds_some_and_the_drift_finds_more(linear):
    model, inputs, _ = linear
    noise = critical_sample_ratio(model, 0.2, inputs=inputs, step=1e-9, noise=0.04, num_steps=10)
    drift = critical_sample_ratio(model, 0.2, inputs=inputs, step=0.05, noise=0.0, num_steps=10)
    assert 0 < noise.ratio < drift.ratio


def test_of_the_labels_no_use_is_made(linear):
    model, inputs, _ = linear
    labels = torch.randint(2, (150,), generator=torch.Generator().manual_seed(1))
    labels[:10] = -100
    alone = critical_sample_ratio(model, 0.2, inputs=inputs)
    whole = critical_sample_ratio(Objective(model, (inputs, labels)), 0.2)
    np.testing.assert_array_equal(alone.is_critical, whole.is_critical)
    assert torch.equal(alone.found, whole.found)


def test_one_logit_is_two_classes(linear):
    model, inputs, distances = linear
    single = nn.Linear(6, 1, dtype=torch.float64)
    with torch.no_grad():
        single.weight.copy_(model.weight[1:] - model.weight[:1])
        single.bias.copy_(model.bias[1:] - model.bias[:1])
    objective = Objective(single, (inputs, torch.zeros(150, dtype=torch.float64)), "bce")
    found = critical_sample_ratio(objective, 0.2)
    np.testing.assert_array_equal(found.is_critical[np.abs(distances - 0.2) > 0.02],
                                  (distances < 0.2)[np.abs(distances - 0.2) > 0.02])  # fmt: skip
    with pytest.raises(RequestError, match="there is no other class"):
        critical_sample_ratio(single, 0.2, inputs=inputs)


def test_a_constant_network_has_no_critical_samples(linear):
    _, inputs, _ = linear
    model = nn.Linear(6, 3, dtype=torch.float64)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.arange(3.0))
    found = critical_sample_ratio(model, 5.0, inputs=inputs, num_steps=3)
    assert found.ratio == found.low == 0
    assert found.high > 0
    assert torch.isfinite(found.found).all()


def test_the_seed_repeats_and_batches_have_noise_of_their_own(linear):
    model, inputs, _ = linear
    objective = Objective(
        model, (inputs[:6].repeat(2, 1), torch.zeros(12, dtype=torch.int64)), batch_size=6
    )
    found = [critical_sample_ratio(objective, 0.01, num_steps=2, seed=s).found for s in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][:6], found[0][6:])


def test_images_are_searched_as_they_are():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
        inputs = torch.rand(7, 1, 4, 4)
    found = critical_sample_ratio(model, 2.0, inputs=inputs)
    assert found.found.shape == inputs.shape
    assert found.ratio > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius=0.0"),
        ({"step": 0.0}, "step=0.0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"bounds": (0.0, 1.0)}, "more than bounds"),
        ({"inputs": None}, "Give inputs="),
    ],
)
def test_wrong_options_are_refused(linear, options, message):
    model, inputs, _ = linear
    with pytest.raises(RequestError, match=message):
        critical_sample_ratio(model, **{"radius": 0.1, "inputs": inputs, **options})


def test_an_objective_has_inputs_of_its_own(objective, data):
    with pytest.raises(RequestError, match="Leave `inputs` out"):
        critical_sample_ratio(objective, 0.1, inputs=data[0])
