from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.trainers.models import resnet8, resnet18, resnet20


@pytest.mark.parametrize("size", [8, 17, 32])
@pytest.mark.parametrize(
    "model",
    [
        resnet20(width=2, in_channels=1),
        resnet8(width=2, in_channels=1),
        resnet8(width=2, in_channels=1, scale_invariant=True),
        resnet20(width=2, in_channels=1, scale_invariant=True),
        resnet18(width=2, in_channels=1),
        resnet18(width=2, in_channels=1, scale_invariant=True),
    ],
)
def test_an_image_network_gives_one_logit_a_class(model, size):
    assert model(torch.rand(3, 1, size, size)).shape == (3, 10)


@pytest.mark.parametrize(
    ("make", "depths", "num_layers"),
    [(resnet8, [1, 1, 1], 8), (resnet20, [3, 3, 3], 20), (resnet18, [2, 2, 2, 2], 18)],
)
def test_each_stage_halves_the_image_and_doubles_the_channels(make, depths, num_layers):
    model = make(width=4).eval()
    end = 3
    stream = model[:end](torch.zeros(1, 3, 32, 32))
    for stage, depth in enumerate(depths):
        stream = model[end : end + depth](stream)
        end += depth
        assert stream.shape == (1, 4 * 2**stage, 32 // 2**stage, 32 // 2**stage)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == num_layers


def test_resnet20_passes_its_input_through_where_the_residual_is_zero():
    block = resnet20(width=4)[4].eval()
    nn.init.zeros_(block.conv2.weight)
    inputs = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(inputs), inputs)


def test_the_scale_invariant_resnet_is_its_formula():
    model = resnet8(num_classes=3, width=2, in_channels=1, scale_invariant=True).double()
    parameters = dict(model.named_parameters())
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)

    def norm(stream):
        return F.batch_norm(stream, None, None, training=True)

    stream = F.conv2d(images, parameters["0.weight"], padding=1)
    for block in (1, 2, 3):
        stride = 1 if block == 1 else 2
        first, second = parameters[f"{block}.conv1.weight"], parameters[f"{block}.conv2.weight"]
        hidden = F.conv2d(norm(stream).relu(), first, stride=stride, padding=1)
        branch = F.conv2d(norm(hidden).relu(), second, padding=1)
        if block > 1:
            shortcut = parameters[f"{block}.shortcut.1.weight"]
            stream = F.conv2d(norm(stream), shortcut, stride=stride)
        stream = stream + branch
    logits = norm(stream).relu().mean((2, 3)) @ parameters["8.weight"].T
    torch.testing.assert_close(model(images), logits)


def test_the_scale_invariant_resnet18_has_convolutions_only_under_a_frozen_head():
    model = resnet18(width=32, scale_invariant=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 1 + 2 * 8 + 3
    assert all(parameter.ndim == 4 for parameter in trained.values())
    (head,) = (p for p in model.parameters() if not p.requires_grad)
    assert head.shape == (10, 256)
    assert head.norm().item() == pytest.approx(10, rel=1e-6)
    norm = torch.stack([parameter.norm() for parameter in trained.values()]).norm().item()
    assert norm == pytest.approx(28.3, abs=0.1)  # the source's sphere: 28.0
