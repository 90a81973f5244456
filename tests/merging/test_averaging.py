"""Averages of weights: closed forms on quadratics, exact statistics, paired errors, streams."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from landscape.errors import RequestError
from landscape.merging.averaging import average
from landscape.objective import Objective


def regression(seed=0, dtype=torch.float64):
    """A linear model: its loss is quadratic in the weights."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (
        torch.randn(shape, generator=generator, dtype=dtype) for shape in [(20, 4), (20, 1)]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(4, 1, dtype=dtype)
    return Objective(model, (inputs, targets), "mse", batch_size=6), inputs, targets


def normalized(batch_size=40, order=None, bn="eval"):
    """A classifier with one BatchNorm, whose inputs do not depend on the batches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        inputs, labels = torch.randn(40, 3, dtype=torch.float64), torch.randint(0, 3, (40,))
    data = (inputs, labels) if order is None else (inputs[order], labels[order])
    return Objective(model.double(), data, batch_size=batch_size, bn=bn)


def members(objective, k=3, seed=1, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(k, objective.space.size, generator=generator, dtype=torch.float64)
    return (objective.theta + scale * noise).to(objective.theta)


def test_the_average_of_a_quadratic_lies_below_its_members_by_their_spread():
    objective, inputs, _ = regression()
    thetas, weights = members(objective), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    found = average(objective, thetas, weights)
    shares = weights / 8
    mean = shares @ thetas
    design = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
    spread = ((thetas - mean) @ design.T).square().mean(1)  # (k,) of the outputs
    torch.testing.assert_close(found.theta, mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found.weights, shares)
    assert found[""].change_from_mean == pytest.approx(-float(shares @ spread), rel=1e-12)
    distances = (thetas - mean).norm(dim=1)
    np.testing.assert_allclose(found.distances, distances.numpy(), rtol=1e-12)


def test_members_are_evaluated_one_by_one():
    objective, _, _ = regression()
    thetas = members(objective)
    found = average(objective, thetas)
    np.testing.assert_allclose(found[""].member_losses, objective.losses(thetas), rtol=1e-13)
    assert found[""].best == int(objective.losses(thetas).argmin())
    assert found[""].change_from_best == pytest.approx(
        found.loss - float(objective.losses(thetas).min()), rel=1e-12
    )


def test_errors_are_those_of_paired_differences():
    objective, _, _ = regression()
    thetas = members(objective)
    found = average(objective, thetas)
    rows = torch.stack([objective.per_example(theta) for theta in thetas])
    own = objective.per_example(found.theta)
    for difference, error in (
        (own - rows.mean(0), found[""].mean_error),
        (own - rows[found[""].best], found[""].best_error),
    ):
        assert error == pytest.approx(float(difference.std() / math.sqrt(20)), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_members_have_an_average_that_is_equal_bit_for_bit(dtype):
    objective, _, _ = regression(dtype=dtype)
    found = average(objective, [objective.theta] * 7, weights=[0.1 * i for i in range(7)])
    assert torch.equal(found.theta, objective.theta)
    assert found.theta.dtype == dtype
    assert not found.distances.any()
    assert found[""].change_from_mean == pytest.approx(0, abs=1e-15)


def test_single_precision_members_are_added_in_double_precision():
    objective, _, _ = regression(dtype=torch.float32)
    thetas = [objective.theta + shift for shift in [1e4] + [1.0] * 300]
    expected = torch.stack(thetas).double().mean(0).float()
    assert torch.equal(average(objective, thetas).theta, expected)


def test_statistics_are_the_moments_of_the_data_at_the_averaged_weights():
    objective = normalized()
    found = average(objective, members(objective))
    values = F.linear(
        next(iter(objective.batches))[0],
        *(objective.space.named(found.theta)[f"0.{part}"] for part in ("weight", "bias")),
    )
    torch.testing.assert_close(found.buffers["1.running_mean"], values.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.buffers["1.running_var"], values.var(0), rtol=1e-12, atol=0)
    everything = {**objective.space.named(found.theta), **found.buffers}
    inputs, labels = next(iter(objective.batches))
    output = functional_call(objective.model.eval(), everything, (inputs,))
    assert found.loss == pytest.approx(float(F.cross_entropy(output, labels)), rel=1e-12)
    assert found.accuracy == float((output.argmax(1) == labels).double().mean())


def test_statistics_do_not_depend_on_the_order_of_the_data():
    objective = normalized()
    thetas = members(objective)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    one, other = (
        average(o, thetas).buffers for o in (objective, normalized(batch_size=7, order=order))
    )
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-14)


def test_further_data_get_the_statistics_of_the_objectives_own():
    objective = normalized()
    thetas = members(objective)
    inputs, labels = next(iter(objective.batches))
    test = Objective(objective.model, (3 * inputs[:9] + 1, labels[:9]))
    found = average(objective, thetas, also={"test": test})
    everything = {**objective.space.named(found.theta), **found.buffers}
    output = functional_call(objective.model.eval(), everything, (3 * inputs[:9] + 1,))
    assert found["test"].loss == pytest.approx(float(F.cross_entropy(output, labels[:9])))
    assert found["test"].best == found[""].best


def test_frozen_statistics_are_used_and_named():
    objective = normalized()
    found = average(objective, members(objective), bn="eval")
    assert torch.equal(found.buffers["1.running_var"], objective.buffers["1.running_var"])
    assert any("belong to no average" in note for note in found.notes)


def test_a_generator_is_read_once_and_has_no_distances():
    objective, _, _ = regression()
    thetas = members(objective)
    found = average(objective, (theta for theta in thetas))
    torch.testing.assert_close(found.theta, average(objective, thetas).theta, rtol=0, atol=0)
    assert np.isnan(found.distances).all()
    assert any("came only once" in note for note in found.notes)


def test_a_member_of_weight_0_is_measured_but_adds_nothing():
    objective, _, _ = regression()
    thetas = members(objective)
    found = average(objective, thetas, [0, 1, 1])
    torch.testing.assert_close(found.theta, thetas[1:].mean(0))
    assert found[""].change_from_mean == pytest.approx(
        found.loss - float(objective.losses(thetas[1:]).mean())
    )
    assert len(found[""].member_losses) == 3


@pytest.mark.parametrize(
    ("thetas", "weights", "message"),
    [
        (lambda o: [], None, "no members"),
        (lambda o: members(o), [1, 2], "2 entries for 3"),
        (lambda o: iter(members(o)), [1, 2], "2 entries for 3"),
        (lambda o: iter(members(o)), [1] * 4, "4 entries for 3"),
        (lambda o: members(o), [1, -1, 1], "0 or more"),
        (lambda o: members(o), [0, 0, 0], "not all 0"),
        (lambda o: [o.theta, o.theta * math.nan], None, "member 2 .* not finite"),
        (lambda o: [o.theta[:-1]], None, "shape"),
    ],
)
def test_what_cannot_be_averaged_is_refused(thetas, weights, message):
    objective, _, _ = regression()
    with pytest.raises(RequestError, match=message):
        average(objective, thetas(objective), weights)


def test_data_of_another_network_and_unknown_policies_are_refused():
    objective, inputs, targets = regression()
    other = Objective(nn.Linear(4, 2).double(), (inputs, targets.expand(-1, 2)), "mse")
    with pytest.raises(RequestError, match="other parameters"):
        average(objective, [objective.theta], also={"test": other})
    with pytest.raises(RequestError, match="recalibrate"):
        average(objective, [objective.theta], bn="recalibrated")


def test_the_model_is_left_as_it_was():
    objective = normalized(bn="batch")
    objective.model.train()
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    state = torch.random.get_rng_state()
    average(objective, members(objective))
    assert all(module.training for module in objective.model.modules())
    after = objective.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_record_has_scalars_of_all_data_and_weights_only_on_request():
    objective, inputs, targets = regression()
    test = Objective(objective.model, (inputs, targets), "mse")
    found = average(objective, members(objective), also={"test": test})
    dataset = found.to_dataset()
    assert float(dataset["loss"]) == found.loss
    assert float(dataset["test_change_from_best"]) == found["test"].change_from_best
    assert dataset["member_loss"].dims == ("member",)
    assert "theta" not in dataset
    assert found.to_dataset(vectors=True).sizes["parameter"] == objective.space.size
    assert all({"units", "long_name"} <= set(one.attrs) for one in dataset.data_vars.values())
    assert found.status == "converged"
    assert math.isnan(found.accuracy)
