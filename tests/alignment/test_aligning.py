"""Alignment of two networks: copies recovered exactly, the function checked, what is reported."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import landscape.alignment.aligning as alignment
from landscape.alignment.activation_matching import match_activations
from landscape.alignment.aligning import align
from landscape.alignment.permutations import PermutationSpec, Run
from landscape.alignment.reordering import Network
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.rescaling import neuron_rescalings, rescaled
from tests.alignment.reordered import (
    MLP_SHAPES,
    NETWORKS,
    mlp,
    objective_of,
    resnet,
    same_tensors,
    shaken,
    transformer,
    vgg,
)

METHODS = ["weights", "activations"]


def line_losses(objective, first, second, num=7):
    """Losses along the straight line, as they are written down."""
    alphas = torch.linspace(0, 1, num, dtype=first.dtype)[:, None]
    return objective.losses((1 - alphas) * first + alphas * second)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_copy_is_recovered_with_its_buffers_and_has_no_barrier(network, method):
    problem = NETWORKS[network](3)
    objective = problem.objective
    theta, buffers, _ = problem.copy(8)
    found = align(objective, objective.theta, theta, method, spec=problem.spec, buffers=buffers)
    assert found.status == "converged"
    assert torch.equal(found.theta, objective.theta)
    assert same_tensors(found.buffers, objective.buffers)
    assert found.distance_after == 0
    assert found.distance_before == pytest.approx((objective.theta - theta).norm().item())
    before = line_losses(objective, objective.theta, theta)
    after = line_losses(objective, objective.theta, found.theta)
    assert (before - objective.value).abs().max() > 1e-3
    assert (after - objective.value).abs().max() <= 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("widths", MLP_SHAPES)
def test_a_copy_of_a_perceptron_in_single_precision_is_recovered_bit_for_bit(widths, method):
    problem = mlp(widths, 1, torch.float32)
    theta, _, _ = problem.copy(4)
    found = align(problem.objective, problem.objective.theta, theta, method, spec=problem.spec)
    assert found.theta.dtype == torch.float32
    assert torch.equal(found.theta, problem.objective.theta)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_aligned_to_another_one_keeps_its_outputs_in_eval_mode(network):
    problem, other = NETWORKS[network](0), NETWORKS[network](1)
    found = align(
        problem.objective,
        problem.objective.theta,
        other.objective.theta,
        spec=problem.spec,
        buffers=other.objective.buffers,
    )
    assert found.moved_share > 0.3
    assert found.distance_after < found.distance_before
    model = copy.deepcopy(problem.objective.model)
    model.load_state_dict(found.tensors())
    inputs = torch.randn(
        3, *(2, 8, 8) if network in ("vgg", "resnet") else (5, 4), dtype=torch.float64
    )
    own, aligned = (one.eval()(inputs) for one in (other.objective.model, model))
    torch.testing.assert_close(aligned, own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_copy_is_recovered_by_the_specification_that_is_derived_from_the_model(network):
    problem = NETWORKS[network](3)
    objective = problem.objective
    theta, buffers, _ = problem.copy(8)
    found = align(objective, objective.theta, theta, buffers=buffers)
    assert torch.equal(found.theta, objective.theta)
    assert same_tensors(found.buffers, objective.buffers)


def test_what_a_specification_notes_is_passed_on():
    problem = mlp((4, 8, 3))
    theta = problem.objective.theta
    spec = PermutationSpec(problem.spec.axes, ("an operation was not followed",))
    assert align(problem.objective, theta, theta, spec=spec).notes == spec.notes


def test_the_weights_are_closest_where_their_inner_product_is_largest():
    problem, other = vgg(0), vgg(1)
    a, b = problem.objective.theta, other.objective.theta
    found = align(problem.objective, a, b, spec=problem.spec)
    fixed = problem.objective.space.named(a)["9.bias"] @ problem.objective.space.named(b)["9.bias"]
    assert found.distance_before == pytest.approx((a - b).norm().item())
    product = found.similarity + fixed.item()  # no unit has a share in the last bias
    assert found.distance_after**2 == pytest.approx(
        (a.square().sum() + b.square().sum()).item() - 2 * product
    )


def test_the_best_of_all_descents_is_taken_and_all_are_reported():
    problem, other = transformer(0), transformer(1)
    found = align(
        problem.objective,
        problem.objective.theta,
        other.objective.theta,
        spec=problem.spec,
        num_restarts=4,
    )
    assert len(found.similarities) == 5
    assert len(set(found.similarities)) > 1
    assert found.similarity == max(found.similarities)
    assert found.similarities == tuple(history[-1] for history in found.histories)
    moved = problem.spec.apply(
        problem.objective.space.named(other.objective.theta), found.permutations
    )
    assert torch.equal(found.theta, problem.objective.space.flatten(moved))


def test_what_no_module_outputs_is_found_by_weights_beside_what_activations_tell():
    problem, other = transformer(0, fused=True), transformer(1, fused=True)
    objective = problem.objective
    own, b = Network(objective.theta, {}), Network(other.objective.theta, {})
    seen = match_activations(objective, problem.spec, own, b, seed=0).permutations
    found = align(objective, own.theta, b.theta, "activations", spec=problem.spec)
    [note] = found.notes
    assert note.endswith("heads, qk0, qk1, qk2, vo0, vo1, vo2")
    for group in ("stream", "hidden"):
        assert torch.equal(found.permutations[group], seen[group])
    assert found.moved["qk0"] > 0


def test_a_network_aligned_to_itself_stays_as_it_is():
    problem = resnet()
    theta = problem.objective.theta
    found = align(problem.objective, theta, theta, spec=problem.spec)
    assert found.moved_share == 0
    assert found.distance_before == found.distance_after == 0
    assert torch.equal(found.theta, theta)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("widths", MLP_SHAPES[:4])
def test_a_copy_with_other_scales_is_recovered_where_scales_are_free(widths, method):
    problem = mlp(widths, 2)
    objective = problem.objective
    moved = rescaled(objective, neuron_rescalings(objective), seed=3)
    theta = objective.space.flatten(
        problem.spec.apply(objective.space.named(moved), problem.spec.random(5))
    )
    found = align(objective, objective.theta, theta, method, spec=problem.spec, rescale=True)
    torch.testing.assert_close(found.theta, objective.theta, rtol=1e-10, atol=1e-12)
    assert same_tensors(found.permutations, problem.spec.inverse(problem.spec.random(5)))
    assert not found.notes


def test_scales_of_tanh_units_are_not_free():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    objective = objective_of(shaken(model, 0), (4,), 3, 0)
    with pytest.raises(RequestError, match="no neuron's scale is free"):
        align(
            objective,
            objective.theta,
            objective.theta,
            spec=mlp((4, 6, 3)).spec,
            rescale=True,
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_specification_that_changes_the_function_is_refused(dtype):
    problem = mlp((4, 8, 8, 3), 0, dtype)
    wrong = dict(problem.spec.axes)
    del wrong["2.bias"]
    theta, _, _ = problem.copy(1)
    with pytest.raises(RequestError, match="is another function"):
        align(problem.objective, problem.objective.theta, theta, spec=PermutationSpec(wrong))


def test_running_statistics_that_are_left_behind_are_refused():
    problem = resnet()
    theta, buffers, _ = problem.copy(1)
    left = {n: own for n, own in problem.spec.axes.items() if "running" not in n}
    with pytest.raises(RequestError, match="is another function"):
        align(
            problem.objective,
            problem.objective.theta,
            theta,
            spec=PermutationSpec(left),
            buffers=buffers,
        )


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("method", METHODS)
def test_every_batch_norm_policy_is_followed(bn, method):
    problem = resnet()
    objective = problem.objective.under(bn)
    theta, buffers, _ = problem.copy(1)
    before = {name: buffer.clone() for name, buffer in objective.buffers.items()}
    found = align(objective, objective.theta, theta, method, spec=problem.spec, buffers=buffers)
    assert torch.equal(found.theta, objective.theta)
    assert same_tensors(objective.buffers, before)
    assert same_tensors(found.buffers, before)


def test_running_statistics_that_were_not_given_are_noted_where_they_count():
    problem = resnet()
    theta = problem.copy(1)[0]
    for bn, noted in (("eval", True), ("recalibrate", False)):
        objective = problem.objective.under(bn)
        found = align(objective, objective.theta, theta, spec=problem.spec)
        assert any("running statistics" in note for note in found.notes) == noted


def test_parameters_that_are_no_coordinates_are_refused_with_what_to_do():
    problem = mlp((4, 8, 3))
    data = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2).long()
    part = Objective(problem.objective.model, data, params="2")
    with pytest.raises(RequestError, match=r"moves '0.weight' and 1 other .* without params="):
        align(part, part.theta, part.theta, spec=problem.spec)


def test_parameters_that_stay_need_not_be_coordinates():
    problem = mlp((4, 8, 3))
    axes = dict(problem.spec.axes) | {"2.bias": ((),)}
    data = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2).long()
    part = Objective(problem.objective.model, data, params="!2.bias")
    found = align(part, part.theta, part.theta.clone(), spec=PermutationSpec(axes))
    assert found.tensors().keys() == problem.objective.model.state_dict().keys()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(5, 7)
        self.decode = nn.Linear(5, 3)
        self.again = nn.Linear(5, 7)
        self.again.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.relu(self.encode(x) + self.again(x)) @ self.encode.weight)


def test_a_tied_parameter_goes_by_any_of_its_names(tmp_path):
    objective = objective_of(shaken(Tied(), 0), (5,), 3, 0)
    hidden = (Run(7, "h"),)
    spec = PermutationSpec(
        {"again.weight": (hidden, ()), "again.bias": (hidden,), "encode.bias": (hidden,)}
    )
    moved = spec.random(1)["h"]
    named = objective.space.named(objective.theta)
    theta = objective.space.flatten(
        {n: t[moved] if n.startswith(("encode", "again")) else t for n, t in named.items()}
    )
    found = align(objective, objective.theta, theta, spec=spec)
    assert torch.equal(found.theta, objective.theta)
    # Both names are in the file, each with memory of its own: loading it is strict.
    save_file(found.tensors(), tmp_path / "aligned.safetensors")
    objective.model.load_state_dict(load_file(tmp_path / "aligned.safetensors"))
    twice = PermutationSpec(dict(spec.axes) | {"encode.weight": ((), ())})
    with pytest.raises(RequestError, match=r"describes encode.weight in two ways"):
        align(objective, objective.theta, theta, spec=twice)


def test_what_is_wrong_with_a_request_is_said():
    problem = resnet()
    theta, buffers, _ = problem.copy(1)
    a = problem.objective.theta

    def aligned(b=theta, **changes):
        return align(
            problem.objective, a, b, **{"spec": problem.spec, "buffers": buffers, **changes}
        )

    with pytest.raises(RequestError, match="Did you mean 'weights'"):
        aligned(method="weight")
    with pytest.raises(RequestError, match="num_restarts=-1"):
        aligned(num_restarts=-1)
    with pytest.raises(RequestError, match="expected"):
        aligned(theta[:-1])
    with pytest.raises(RequestError, match="not finite"):
        aligned(theta * torch.nan)
    with pytest.raises(RequestError, match=r"'norm.running_var' is missing"):
        aligned(buffers={n: b for n, b in buffers.items() if n != "norm.running_var"})
    with pytest.raises(RequestError, match=r"'norm.running_var' has shape \(1,\)"):
        aligned(buffers=buffers | {"norm.running_var": torch.ones(1)})
    with pytest.raises(RequestError, match="which the network lacks"):
        aligned(spec=PermutationSpec({"nowhere": ((Run(3, "g"),),)}))


def test_outputs_that_are_infinite_in_both_are_equal_and_hide_no_difference():
    class Masked(nn.Sequential):
        def forward(self, x):
            mask = torch.tensor([0.0, 0.0, -torch.inf], dtype=x.dtype)
            return super().forward(x) + mask

    spec = mlp((4, 8, 3)).spec
    model = shaken(Masked(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), 0)
    data = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 0])
    objective = Objective(model, data)
    named = spec.apply(objective.space.named(objective.theta), spec.random(0))
    theta = objective.space.flatten(named)
    found = align(objective, objective.theta, theta, spec=spec)
    assert torch.equal(found.theta, objective.theta)
    wrong = {name: axes for name, axes in spec.axes.items() if name != "0.bias"}
    with pytest.raises(RequestError, match="is another function"):
        align(objective, objective.theta, theta, spec=PermutationSpec(wrong))


def test_the_data_set_holds_what_was_found():
    problem, other = vgg(0), vgg(1)
    objective = problem.objective
    found = align(objective, objective.theta, other.objective.theta, spec=problem.spec)
    dataset = found.to_dataset()
    assert list(dataset["group"].values) == ["one", "two", "three"]
    assert dataset["group_size"].values.tolist() == [5, 6, 9]
    pieces = np.split(dataset["permutation"].values, [5, 11])
    for group, piece in zip(["one", "two", "three"], pieces, strict=True):
        assert piece.tolist() == found.permutations[group].tolist()
        share = np.mean(piece != np.arange(len(piece)))
        assert dataset["group_moved"].sel(group=group) == pytest.approx(share)
    every = np.concatenate([np.arange(len(piece)) for piece in pieces])
    assert dataset["moved_share"] == pytest.approx(np.mean(dataset["permutation"].values != every))
    assert dataset["similarity"] == max(dataset["restart_similarity"].values)
    for row, history in zip(dataset["history"].values, found.histories, strict=True):
        assert row[: len(history)].tolist() == list(history)
        assert np.isnan(row[len(history) :]).all()
    assert all({"units", "long_name"} <= v.attrs.keys() for v in dataset.data_vars.values())
    assert "theta" not in dataset
    assert found.to_dataset(vectors=True)["theta"].values == pytest.approx(found.theta.numpy())


def test_a_descent_that_was_cut_off_is_not_converged():
    problem = mlp((4, 8, 3))
    theta = problem.objective.theta
    found = align(problem.objective, theta, theta, spec=problem.spec)
    cut = dataclasses.replace(found, converged=False)
    assert cut.status == "not converged: still better after 1 sweeps"
    assert alignment.Alignment.probe == "alignment"


def test_what_comes_from_the_request_is_not_changed():
    problem = resnet()
    theta, buffers, _ = problem.copy(1)
    held = theta.clone(), {name: buffer.clone() for name, buffer in buffers.items()}
    state = {n: t.clone() for n, t in problem.objective.model.state_dict().items()}
    for method in METHODS:
        own = problem.objective.theta
        align(problem.objective, own, theta, method, spec=problem.spec, buffers=buffers)
    assert torch.equal(theta, held[0])
    assert same_tensors(buffers, held[1])
    assert same_tensors(problem.objective.model.state_dict(), state)
