"""REPAIR: variances in closed form, goals that are met, the identity, BatchNorm, restored nets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from landscape.errors import RequestError
from landscape.merging.repair import repair
from landscape.objective import Objective
from landscape.trainers.data import digits


def perceptron(widths, dtype=torch.float64, **bias):
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, dtype=dtype, **bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def images(num=24, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, 2, 5, 5, generator=generator, dtype=dtype)
    return inputs, torch.randint(0, 3, (num,), generator=generator)


def vectors(num=64):
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(num, 50, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (num,), generator=generator)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(294, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    ).double()


def made(build, seed, data=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
    return Objective(model, data or images(), **{"batch_size": 10, **options})


def outputs_of(objective, theta, buffers=None, batch=None):
    """What each leaf module makes of the whole data, by another way: one plain pass."""
    inputs = torch.cat([batch[0] for batch in objective.batches]) if batch is None else batch
    everything = {**objective.space.named(theta), **(buffers or {})}
    found, handles = {}, []
    model = objective.model.eval()
    for name, module in model.named_children():
        handles.append(
            module.register_forward_hook(lambda _, __, out, n=name: found.update({n: out.clone()}))
        )
    with torch.no_grad():
        torch.func.functional_call(model, everything, (inputs,))
    for handle in handles:
        handle.remove()
    return found


def channels(outputs):
    return outputs.movedim(1, 0).flatten(1)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_the_variance_of_a_merged_channel_is_the_closed_form(alpha):
    one, other = (made(lambda: perceptron([50, 8, 3]), s, vectors()) for s in (0, 1))
    found = repair(one, one.theta, other.theta, alpha)
    first, second = (channels(outputs_of(one, o.theta)["0"]) for o in (one, other))
    std = [rows.std(1, correction=0) for rows in (first, second)]
    covariance = ((first - first.mean(1, True)) * (second - second.mean(1, True))).mean(1)
    correlation = covariance / (std[0] * std[1])
    merged = ((1 - alpha) * std[0]) ** 2 + (alpha * std[1]) ** 2
    merged += 2 * alpha * (1 - alpha) * correlation * std[0] * std[1]
    goal = ((1 - alpha) * std[0] + alpha * std[1]) ** 2
    expected = float(merged.sum() / goal.sum())
    assert found.layers[0].ratio_before == pytest.approx(expected, rel=1e-12)


def test_two_channels_of_equal_variance_and_known_correlation():
    half = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = (half - half.mean()) / half.std(correction=0)
    basis, _ = torch.linalg.qr(torch.stack([torch.ones(40), half, torch.arange(40) ** 2.0], 1))
    inputs = basis[:, 1:] * 40**0.5  # uncorrelated, of mean 0 and variance 1
    objective = Objective(nn.Linear(2, 1, dtype=torch.float64), (inputs, inputs[:, :1]), "mse")
    r = 0.4
    a = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    b = torch.tensor([r, (1 - r * r) ** 0.5, 0.0], dtype=torch.float64)
    for alpha in (0.5, 0.2):
        expected = (1 - alpha) ** 2 + alpha**2 + 2 * alpha * (1 - alpha) * r
        (layer,) = repair(objective, a, b, alpha).layers
        assert layer.ratio_before == pytest.approx(expected, rel=1e-12)
        assert layer.ratio_after == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.9])
def test_channels_meet_their_goals_on_the_same_data(alpha):
    one, other = (made(convolutional, seed) for seed in (0, 1))
    found = repair(one, one.theta, other.theta, alpha)
    ends = [outputs_of(one, objective.theta) for objective in (one, other)]
    after = outputs_of(one, found.theta)
    assert [layer.name for layer in found.layers] == ["0", "2", "5", "7"]
    for name in ("0", "5", "7", "2"):
        rows, first, second = (channels(made_by[name]) for made_by in (after, *ends))
        if name != "2":  # its outputs are overwritten in place after it
            torch.testing.assert_close(
                rows.mean(1), torch.lerp(first.mean(1), second.mean(1), alpha), rtol=0, atol=1e-8
            )
            torch.testing.assert_close(
                rows.std(1, correction=0),
                torch.lerp(first.std(1, correction=0), second.std(1, correction=0), alpha),
                rtol=1e-8,
                atol=0,
            )
    for layer in found.layers:
        assert max(layer.mean_error, layer.std_error) < 1e-10
        assert layer.ratio_before < 0.95
        assert layer.ratio_after == pytest.approx(1, rel=1e-10)


def test_single_precision_meets_the_goals_to_its_digits():
    data = tuple(t.float() if t.is_floating_point() else t for t in images())
    one, other = (made(lambda: convolutional().float(), seed, data) for seed in (0, 1))
    found = repair(one, one.theta, other.theta)
    assert found.theta.dtype == torch.float32
    assert max(max(layer.mean_error, layer.std_error) for layer in found.layers) < 1e-4


def test_identical_ends_are_left_as_they_are():
    objective = made(convolutional, 0)
    for alpha in (0.0, 0.3, 1.0):
        found = repair(objective, objective.theta, objective.theta, alpha)
        torch.testing.assert_close(found.theta, objective.theta, rtol=0, atol=1e-10)
        assert found[""].change == pytest.approx(0, abs=1e-12)


def test_at_an_end_the_network_is_that_end():
    one, other = (made(convolutional, seed) for seed in (0, 1))
    for alpha, end in ((0.0, one.theta), (1.0, other.theta)):
        found = repair(one, one.theta, other.theta, alpha).theta
        torch.testing.assert_close(found, end, rtol=0, atol=1e-10)


def test_the_scale_of_a_relu_network_does_not_change_what_is_repaired():
    one, other = (made(lambda: perceptron([50, 8, 8, 3]), s, vectors()) for s in (0, 1))
    moved = []
    for objective in (one, other):
        theta = objective.theta.clone()
        for part in ("weight", "bias"):
            theta[objective.space.slice_of(f"0.{part}")] *= 4
        theta[objective.space.slice_of("2.weight")] /= 4
        moved.append(theta)
    plain, scaled = repair(one, one.theta, other.theta), repair(one, *moved)
    for before, after in zip(plain.layers, scaled.layers, strict=True):
        assert after.ratio_before == pytest.approx(before.ratio_before, rel=1e-10)
    assert scaled.loss == pytest.approx(plain.loss, rel=1e-10)


def test_without_a_bias_only_the_scale_is_set():
    build = lambda: perceptron([50, 8, 3], bias=False)  # noqa: E731
    one, other = (made(build, seed, vectors()) for seed in (0, 1))
    found = repair(one, one.theta, other.theta)
    for layer in found.layers:
        assert layer.std_error < 1e-10
        assert not layer.sets_mean
    assert any("0, 2: no bias" in note for note in found.notes)


def test_dead_channels_are_left_alone_and_counted():
    one, other = (made(lambda: perceptron([50, 8, 3]), s, vectors()) for s in (0, 1))
    ends = []
    for objective in (one, other):
        theta = objective.theta.clone()
        theta[objective.space.slice_of("0.weight")].view(8, 50)[[2, 5]] = 0
        ends.append(theta)
    found = repair(one, *ends)
    assert [layer.dead for layer in found.layers] == [2, 0]
    merged = (ends[0] + ends[1]) / 2
    for part in ("weight", "bias"):
        expected, mended = (one.space.named(t)[f"0.{part}"][[2, 5]] for t in (merged, found.theta))
        torch.testing.assert_close(mended, expected, rtol=0, atol=1e-15)
    assert found.theta.isfinite().all()
    assert int(found.to_dataset()["dead_channels"]) == 2


def test_a_channel_that_dies_by_merging_keeps_its_mean():
    one, other = (made(lambda: perceptron([50, 8, 3]), s, vectors()) for s in (0, 1))
    second = one.space.slice_of("2.weight")
    ends = [one.theta.clone(), other.theta.clone()]
    ends[1][second].view(3, 8)[0] = -ends[0][second].view(3, 8)[0]
    found = repair(one, *ends)
    assert [layer.dead for layer in found.layers] == [0, 1]
    bias = one.space.slice_of("2.bias")
    assert float(found.theta[bias][0]) == pytest.approx(float((ends[0] + ends[1])[bias][0] / 2))


class Residual(nn.Module):
    """A convolution with a norm behind it, one without, a tied pair and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.tied = nn.Linear(3, 3)
        self.twin = nn.Linear(3, 3)
        self.twin.weight = self.tied.weight
        self.twice = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        x = F.relu_(self.norm(self.first(x)))
        x = F.relu(x + self.second(x)).mean((2, 3))
        x = F.relu(self.twin(F.relu(self.tied(x))))
        return self.head(F.relu(self.twice(F.relu(self.twice(x)))))


def residual():
    return Residual().double()


def test_a_layer_before_a_batch_norm_is_left_to_the_reset_of_its_statistics():
    one, other = (made(residual, seed) for seed in (0, 1))
    found = repair(one, one.theta, other.theta)
    assert [layer.name for layer in found.layers] == ["norm", "second", "head"]
    assert "normalisation behind it" in found.left_out["first"]
    assert [layer.is_batch_norm for layer in found.layers] == [True, False, False]
    merged = (one.theta + other.theta) / 2
    for part in ("weight", "bias"):
        expected, kept = (one.space.named(t)[f"first.{part}"] for t in (merged, found.theta))
        torch.testing.assert_close(kept, expected, rtol=0, atol=1e-15)
    norm = found.layers[0]
    assert norm.ratio_before < 0.9
    assert norm.ratio_after == pytest.approx(1, abs=0.05)  # but for the norm's epsilon
    values = outputs_of(one, found.theta, found.buffers)["first"]
    expected = channels(values).mean(1)
    torch.testing.assert_close(found.buffers["norm.running_mean"], expected)


def test_layers_that_cannot_be_rescaled_alone_are_left_out_and_named():
    one, other = (made(residual, seed) for seed in (0, 1))
    found = repair(one, one.theta, other.theta)
    assert "shares its weight" in found.left_out["tied"]
    assert "shares its weight" in found.left_out["twin"]
    assert "runs 2 times" in found.left_out["twice"]
    assert "runs 0 times" in found.left_out["unused"]
    assert any("2 layer(s) left out (tied, twin)" in note for note in found.notes)


def test_a_nonlinearity_in_place_hides_no_batch_norm():
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Flatten(), nn.Linear(50, 4), nn.ReLU(inplace=True), nn.BatchNorm1d(4), nn.Linear(4, 3)
    ).double()
    one, other = (made(build, seed) for seed in (0, 1))
    assert [layer.name for layer in repair(one, one.theta, other.theta).layers] == ["1", "3", "4"]


def test_a_view_between_layer_and_norm_is_seen_through():
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Flatten(), nn.Linear(50, 4), nn.Unflatten(1, (2, 2)), nn.BatchNorm1d(2), nn.Flatten(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip
    one, other = (made(build, seed) for seed in (0, 1))
    assert "1" in repair(one, one.theta, other.theta).left_out


def behind():
    """A norm whose inputs change when the layer before its own is mended."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten(),
        nn.Linear(3, 3),
    ).double()  # fmt: skip


def test_statistics_are_those_of_the_mended_weights():
    one, other = (made(behind, seed) for seed in (0, 1))
    found = repair(one, one.theta, other.theta)
    assert [layer.name for layer in found.layers] == ["0", "3", "5"]
    values = channels(outputs_of(one, found.theta, found.buffers)["2"])
    torch.testing.assert_close(found.buffers["3.running_mean"], values.mean(1))
    assert found[""].losses["repaired"] == pytest.approx(
        one.under("recalibrate").loss(found.theta), rel=1e-12
    )


def test_the_buffers_of_the_ends_are_those_of_the_plain_merge():
    one, other = (made(behind, seed) for seed in (0, 1))
    held = [
        {**o.buffers, "3.running_var": o.buffers["3.running_var"] * factor}
        for o, factor in ((one, 2.0), (other, 6.0))
    ]
    found = repair(one, one.theta, other.theta, 0.25, buffers=held)
    between = {**one.buffers, "3.running_var": torch.full((3,), 3.0, dtype=torch.float64)}
    merged = torch.lerp(one.theta, other.theta, 0.25)
    total = 0.0
    with one.evaluation(), torch.no_grad():
        for batch in one.batches:
            total += float(one.term(one.space.split(merged), batch, between).total)
    assert found[""].losses["merged"] == pytest.approx(total / one.total_weight, rel=1e-12)
    expected = one.under("recalibrate").loss(merged)
    assert found[""].losses["reset"] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(RequestError, match=r"3\.running_var"):
        repair(one, one.theta, other.theta, buffers=[{}, {}])


def test_stages_are_evaluated_on_all_data():
    one, other = (made(convolutional, seed) for seed in (0, 1))
    test = Objective(one.model, images(seed=5))
    found = repair(one, one.theta, other.theta, also={"test": test})
    merged = (one.theta + other.theta) / 2
    for name, objective in (("", one), ("test", test)):
        for stage, theta in (
            ("a", one.theta), ("b", other.theta), ("merged", merged), ("reset", merged),
            ("repaired", found.theta),
        ):  # fmt: skip
            metrics = objective.metrics(theta)
            assert found[name].losses[stage] == pytest.approx(metrics["loss"], rel=1e-12)
            assert found[name].accuracies[stage] == pytest.approx(metrics["accuracy"])
        difference = objective.per_example(found.theta) - objective.per_example(merged)
        error = float(difference.std()) / len(difference) ** 0.5
        assert found[name].change_error == pytest.approx(error, rel=1e-8)


def test_layers_may_be_chosen_by_name():
    one, other = (made(convolutional, seed) for seed in (0, 1))
    found = repair(one, one.theta, other.theta, layers=["*", "!7", "!0"])
    assert [layer.name for layer in found.layers] == ["2", "5"]
    merged = (one.theta + other.theta) / 2
    kept = one.space.slice_of("7.weight")
    torch.testing.assert_close(found.theta[kept], merged[kept], rtol=0, atol=1e-15)


def trained(inputs, labels, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = perceptron([64, *[128] * 5, 10], torch.float32)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(10):
            for chosen in torch.randperm(len(inputs)).split(128):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
                optimizer.step()
    return model


def align(model, like, inputs):
    """Reorder the units of a perceptron so that they correlate with those of another."""
    for index in range(0, len(model) - 1, 2):
        with torch.no_grad():
            first, second = (m[: index + 2](inputs) for m in (like, model))
            first, second = ((f - f.mean(0)) / (f.std(0) + 1e-4) for f in (first, second))
            order = torch.as_tensor(linear_sum_assignment(first.T @ second, maximize=True)[1])
            for tensor in (model[index].weight, model[index].bias):
                tensor.copy_(tensor[order])
            model[index + 2].weight.copy_(model[index + 2].weight[:, order])


def test_a_deep_perceptron_without_norms_gets_its_accuracy_back():
    inputs, labels = digits()
    inputs, unseen = inputs.flatten(1), digits("test")
    one, other = (trained(inputs, labels, seed) for seed in (0, 1))
    align(other, one, inputs)
    ends = [Objective(model, (inputs, labels)) for model in (one, other)]
    test = Objective(one, (unseen[0].flatten(1), unseen[1]))
    found = repair(ends[0], *(end.theta for end in ends), also={"test": test})
    # Collapse grows with depth: (1 + r) / 2 of the variance is left in each layer.
    assert found.layers[-1].ratio_before < found.layers[0].ratio_before < 1
    for name in ("", "test"):
        accuracies = found[name].accuracies
        mean = (accuracies["a"] + accuracies["b"]) / 2
        assert accuracies["merged"] < mean - 0.05
        assert mean - accuracies["repaired"] < 0.5 * (mean - accuracies["merged"])
        assert found[name].change < -4 * found[name].change_error
        assert found.barrier_reduction(name) > 0.4


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(50, 4).double(), nn.Linear(4, 3).double()
        self.calls_left = [10**6]  # in a list: attributes are put back after each evaluation

    def forward(self, x):
        self.calls_left[0] -= 1
        if self.calls_left[0] < 0:
            raise RuntimeError("the disk is gone")
        return self.head(self.layer(x))


@pytest.mark.parametrize("calls", [0, 2, 12, 14, 18])
def test_after_an_exception_no_hooks_are_left_and_the_model_is_as_it_was(calls):
    objective = Objective(Broken(), vectors(), batch_size=20)
    objective.model.train()
    objective.model.calls_left[0] = calls
    with pytest.raises(RuntimeError, match="disk is gone"):
        repair(objective, objective.theta, objective.theta * 1.1)
    for module in objective.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert module.training


def test_a_pass_ends_at_the_layer_that_is_measured():
    objective = Objective(Broken(), vectors())
    runs = []
    handle = objective.model.head.register_forward_hook(lambda *_: runs.append("head"))
    first = objective.model.layer.register_forward_hook(lambda *_: runs.append("layer"))
    repair(objective, objective.theta, objective.theta * 1.1)
    handle.remove()
    first.remove()
    assert runs.count("layer") == runs.count("head") + 1


def test_what_cannot_be_repaired_is_refused():
    one = made(convolutional, 0)
    with pytest.raises(RequestError, match=r"alpha is 1\.5"):
        repair(one, one.theta, one.theta, 1.5)
    with pytest.raises(RequestError, match="no layer matches 'head'"):
        repair(one, one.theta, one.theta, layers="head")
    with pytest.raises(RequestError, match="shape"):
        repair(one, one.theta, one.theta[1:])
    frozen = made(convolutional, 0, params="*.bias")
    with pytest.raises(RequestError, match="no coordinate"):
        repair(frozen, frozen.theta, frozen.theta)


def test_a_frozen_bias_is_kept_and_only_the_scale_is_set():
    one, other = (made(convolutional, s, params=["*", "!0.bias"]) for s in (0, 1))
    found = repair(one, one.theta, other.theta)
    assert [layer.sets_mean for layer in found.layers] == [False, True, True, True]


def test_the_record_has_a_row_for_each_layer():
    one, other = (made(convolutional, seed) for seed in (0, 1))
    found = repair(one, one.theta, other.theta, also={"test": Objective(one.model, images(9, 5))})
    dataset = found.to_dataset(vectors=True)
    assert dataset["layer"].values.tolist() == ["0", "2", "5", "7"]
    ratios = np.asarray([layer.ratio_before for layer in found.layers])
    np.testing.assert_array_equal(dataset["layer_ratio_before"], ratios)
    assert float(dataset["ratio_before"]) == pytest.approx(ratios.mean())
    assert float(dataset["test_repaired_loss"]) == found["test"].losses["repaired"]
    assert dataset["theta"].shape == (one.space.size,)
    assert all({"units", "long_name"} <= set(one.attrs) for one in dataset.variables.values())
    assert found.status == "converged"
