"""What optimizers remember, against steps taken by hand and by themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from oracles import MLP, network
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import moment_directions
from landscape.slices.optimizer_moments import optimizer_moments

LR, BETAS, EPS = 0.1, (0.8, 0.95), 1e-3


def trained(make, *, steps=3, params="*"):
    """An objective before its model's last step, the optimizer after it, and the gradients."""
    model, inputs, targets = network(MLP)
    optimizer = make(model)
    gradients = []
    for step in range(steps + 1):
        optimizer.zero_grad()
        # Ever smaller gradients tell amsgrad's largest square from the last one.
        loss = 0.1**step * nn.functional.cross_entropy(model(inputs[step:]), targets[step:])
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())
        if step == steps:
            break
        optimizer.step()
    objective = Objective(model, (inputs, targets), params=params)
    optimizer.step()
    return objective, optimizer, gradients


def position(objective):
    return objective.space.flatten(dict(objective.model.named_parameters()))


def adam(model, kind=torch.optim.Adam, **options):
    return kind(model.parameters(), lr=LR, betas=BETAS, eps=EPS, **options)


def test_moments_of_adam_are_those_computed_by_hand():
    objective, optimizer, gradients = trained(adam)
    m = v = torch.zeros(43, dtype=torch.float64)
    for gradient in gradients:
        m = BETAS[0] * m + (1 - BETAS[0]) * gradient
        v = BETAS[1] * v + (1 - BETAS[1]) * gradient**2
    m, v = m / (1 - BETAS[0] ** 4), v / (1 - BETAS[1] ** 4)
    first, update = moment_directions(objective, optimizer)
    torch.testing.assert_close(first + 0, m, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(update + 0, m / (v.sqrt() + EPS), rtol=1e-12, atol=1e-14)
    assert [d.name for d in (first, update)] == [
        "first moment of the optimizer",
        "update of the optimizer",
    ]


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": True}])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_moved_by_its_update(kind, options):
    objective, optimizer, _ = trained(lambda model: adam(model, kind, weight_decay=0, **options))
    update = optimizer_moments(objective, optimizer)["update"]
    moved = position(objective) - objective.theta
    torch.testing.assert_close(moved, -LR * update, rtol=1e-10, atol=1e-13)


def test_sgd_moved_by_its_momentum():
    objective, optimizer, _ = trained(
        lambda model: torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    )
    (momentum,) = moment_directions(objective, optimizer)
    torch.testing.assert_close(position(objective) - objective.theta, -LR * momentum)
    assert momentum.name == "momentum of the optimizer"


def in_groups(model, **options):
    """The biases first, then the weights: not in the model's order."""
    named = list(model.named_parameters())
    named.sort(key=lambda pair: pair[0].endswith("weight"))
    groups = [named[:2], named[2:]]
    if not options.get("names"):
        groups = [[parameter for _, parameter in group] for group in groups]
    return torch.optim.Adam(
        [{"params": group, "betas": (0.5 + 0.1 * i, 0.9)} for i, group in enumerate(groups)],
        lr=LR,
        eps=EPS,
    )


@pytest.mark.parametrize("names", [False, True])
def test_parameters_are_matched_by_identity_or_by_name_whatever_their_groups(names):
    objective, optimizer, _ = trained(lambda model: in_groups(model, names=names))
    moved = position(objective) - objective.theta
    update = optimizer_moments(objective, optimizer)["update"]
    torch.testing.assert_close(moved, -LR * update, rtol=1e-10, atol=1e-13)
    state = copy.deepcopy(optimizer.state_dict())
    if names:
        assert torch.equal(optimizer_moments(objective, state)["update"], update)
    else:
        with pytest.raises(RequestError, match=r"hidden.weight has shape \(5,\)"):
            optimizer_moments(objective, state)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_state_dict_gives_what_its_optimizer_gives(frozen):
    def make(model):
        model.hidden.bias.requires_grad_(not frozen)
        return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

    model, inputs, targets = network(MLP)
    optimizer = make(model)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    objective = Objective(model, (inputs, targets))
    for name, vector in optimizer_moments(objective, optimizer).items():
        again = optimizer_moments(objective, copy.deepcopy(optimizer.state_dict()))
        assert torch.equal(again[name], vector)
        assert vector.all()


def test_moments_of_another_shape_are_refused_even_if_they_are_as_many():
    objective, optimizer, _ = trained(adam)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"].T
    state["state"][0]["exp_avg_sq"] = state["state"][0]["exp_avg_sq"].T
    with pytest.raises(RequestError, match=r"has shape \(4, 5\)"):
        optimizer_moments(objective, state)


def test_a_selection_gets_its_part_and_what_is_not_optimized_gets_zeros():
    whole, optimizer, _ = trained(adam)
    update = optimizer_moments(whole, optimizer)["update"]
    part, optimizer, _ = trained(adam, params="head")
    found = optimizer_moments(part, optimizer)["update"]
    assert torch.equal(found, update[25:])
    model, inputs, targets = network(MLP)
    optimizer = torch.optim.Adam(model.head.parameters())
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    found = optimizer_moments(Objective(model, (inputs, targets)), optimizer)["update"]
    assert not found[:25].any()
    assert found[25:].all()


def test_an_optimizer_that_cannot_be_read_is_refused():
    objective, _, _ = trained(adam)
    _, of_another_model, _ = trained(adam)
    for wrong, message in [
        (torch.optim.Adam(objective.model.parameters()), "after a step"),
        (of_another_model, "holds no moments"),
        ({"state": {}}, "expected state and param_groups"),
        ({"state": {}, "param_groups": [{"params": [0]}]}, "holds 1 parameters, the model 4"),
    ]:
        with pytest.raises(RequestError, match=message):
            optimizer_moments(objective, wrong)
    objective, adagrad, _ = trained(lambda model: torch.optim.Adagrad(model.parameters()))
    with pytest.raises(RequestError, match="neither exp_avg"):
        optimizer_moments(objective, adagrad)
