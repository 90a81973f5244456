from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.models import mlp, with_frozen_head


def test_only_the_last_linear_layer_is_frozen_and_only_its_weight_rescaled():
    model = mlp(in_features=6, hidden=(5, 4), num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert with_frozen_head(model, norm=7.0) is model
    weight = before.pop("5.weight")
    torch.testing.assert_close(model[5].weight, 7 * weight / weight.norm())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["5.weight", "5.bias"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: with_frozen_head(nn.Conv2d(1, 1, 1)), "Conv2d has no nn.Linear"),
        (lambda: with_frozen_head(nn.Linear(1, 1), norm=0.0), "norm=0.0 .* such as 10"),
        (lambda: with_frozen_head(nn.Linear(1, 1), norm=float("nan")), "norm=nan"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_to_type(request_, message):
    with pytest.raises(RequestError, match=message):
        request_()
