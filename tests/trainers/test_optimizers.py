"""Single rules; whole runs against torch's optimizers are in `test_training`."""

import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.optimizers import Optimizer, clip_rows

RULES = {
    "sgd": (Optimizer(), torch.optim.SGD, {}),
    "momentum": (Optimizer(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (
        Optimizer(momentum=0.9, nesterov=True),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
    ),
    "adam": (Optimizer("adam", betas=(0.7, 0.9)), torch.optim.Adam, {"betas": (0.7, 0.9)}),
    "adamw": (Optimizer("adamw", eps=1e-3), torch.optim.AdamW, {"eps": 1e-3}),
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("decays", [None, [0.0, 0.1, 0.3]])
def test_each_row_moves_as_torch_would_move_it(name, decays):
    rule, torchs, more = RULES[name]
    rates, theta, state = [0.1, 0.02, 1.0], normal(3, 8), {}
    # AdamW of torch decays by 0.01 unless it is told.
    rows = [torch.nn.Parameter(row.clone()) for row in theta]
    theirs = [
        torchs([row], lr=rate, weight_decay=decays[m] if decays else 0.0, **more)
        for m, (row, rate) in enumerate(zip(rows, rates, strict=True))
    ]
    column = torch.tensor(decays, dtype=torch.float64)[:, None] if decays else None
    for step in range(10):
        gradient = normal(3, 8, seed=step + 1)
        for row, part, optimizer in zip(rows, gradient, theirs, strict=True):
            row.grad = part.clone()
            optimizer.step()
        rate = torch.tensor(rates, dtype=torch.float64)[:, None]
        rule.step(theta, gradient.clone(), state, learning_rate=rate, weight_decay=column)
        expected = torch.stack([row.detach() for row in rows])
        torch.testing.assert_close(theta, expected, rtol=1e-13, atol=1e-13)


def test_rows_are_clipped_as_torch_clips_a_network():
    gradient = normal(4, 9) * torch.tensor([[0.01], [1.0], [30.0], [0.0]], dtype=torch.float64)
    expected = []
    for row in gradient:
        weight = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64))
        weight.grad = row.clone()
        torch.nn.utils.clip_grad_norm_([weight], 1.5)
        expected.append(weight.grad)
    clip_rows(gradient, 1.5)
    torch.testing.assert_close(gradient, torch.stack(expected), rtol=1e-14, atol=0)


def test_a_diverged_row_leaves_the_others_alone():
    rule, rate = Optimizer("adam", clip=1.0), torch.full((2, 1), 0.1, dtype=torch.float64)
    both, alone = normal(2, 5), normal(2, 5)[:1].clone()
    states, gradient = ({}, {}), normal(2, 5, seed=1)
    gradient[1] = torch.nan
    rule.step(both, gradient.clone(), states[0], learning_rate=rate)
    rule.step(alone, gradient[:1].clone(), states[1], learning_rate=rate[:1])
    assert torch.equal(both[0], alone[0])
    assert both[1].isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "adm"}, "Did you mean 'adam'"),
        ({"momentum": 1.0}, r"momentum=1.0 is not in \[0, 1\)"),
        ({"nesterov": True}, "nesterov needs a momentum"),
        ({"clip": 0.0}, "clip=0.0 is not above 0"),
        ({"clip": float("nan")}, "clip=nan"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        Optimizer(**options)
