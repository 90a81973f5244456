from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from landscape.errors import RequestError
from landscape.trainers.models import cnn, convnet


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (cnn(), (3, 1, 8, 8)),
        (cnn(in_channels=3, width=4), (3, 3, 11, 13)),
        (convnet(width=4), (3, 3, 32, 32)),
        (convnet(width=4, in_channels=1, image_size=8), (3, 1, 8, 8)),
        (convnet(width=4, in_channels=1, image_size=28, scale_invariant=False), (3, 1, 28, 28)),
    ],
)
def test_an_image_network_gives_one_logit_a_class(model, shape):
    assert model(torch.rand(shape)).shape == (3, 10)


@pytest.mark.parametrize("image_size", [8, 16, 28])
def test_convnet_is_its_formula(image_size):
    model = convnet(num_classes=3, width=2, in_channels=1, image_size=image_size).double()
    *convolutions, head, bias = model.parameters()
    images = torch.randn(4, 1, image_size, image_size, dtype=torch.float64)
    stream = images
    for stage, weight in enumerate(convolutions):
        stream = F.batch_norm(F.conv2d(stream, weight, padding=1), None, None, training=True)
        stream = stream.relu() if stage == 0 else F.max_pool2d(stream.relu(), 2)
    torch.testing.assert_close(model(images), stream.amax((2, 3)) @ head.T + bias)


def test_only_the_scale_invariant_convnets_head_is_frozen():
    free = convnet(width=2, scale_invariant=False)
    assert all(parameter.requires_grad for parameter in free.parameters())
    assert [name for name, _ in free.named_parameters()][1:3] == ["1.weight", "1.bias"]
    model = convnet(width=2, head_norm=3.0)
    assert model[-1].weight.norm().item() == pytest.approx(3, rel=1e-6)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert [*map(id, frozen)] == [*map(id, model[-1].parameters())]
    assert model[-1].bias.abs().min() > 0  # as drawn


def test_the_convnets_initial_norm_is_near_the_papers_sphere():
    weights = [p for p in convnet(width=32).parameters() if p.requires_grad]
    norm = torch.stack([weight.norm() for weight in weights]).norm().item()
    assert norm == pytest.approx(12.65, abs=0.1)  # theirs: 12.0


def test_a_request_that_cannot_be_met_says_what_to_type():
    with pytest.raises(RequestError, match="images of 8x8"):
        convnet(image_size=7)
