"""Networks written as functions, and the check that a derived specification keeps them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from landscape.alignment.symmetries import permutation_spec

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """A network whose forward pass is a function."""

    def __init__(self, forward, **modules):
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            if isinstance(module, Tensor) and not isinstance(module, nn.Parameter):
                self.register_buffer(name, module)
            else:
                setattr(self, name, module)

    def forward(self, *inputs, **named):
        return self._forward(self, *inputs, **named)


def randomised(model, seed=0):
    """The model in float64 with no weight or statistic left at 0 or 1."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.3 * noise
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
    return model


def check(model, inputs, sizes, *, notes=()):
    """The groups are those expected, and permuting by them keeps the outputs to 1e-12."""
    spec = permutation_spec(model, inputs)
    assert sorted(spec.sizes.values()) == sorted(sizes)
    assert spec.notes == notes
    model = randomised(model)
    given = inputs.double() if inputs.is_floating_point() else inputs
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    held = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        expected = model(given)
        for seed in range(3):
            drawn = spec.random(seed)
            moved = spec.apply(held, drawn)
            found = torch.func.functional_call(model, moved, (given,))
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert any(not torch.equal(moved[name], held[name]) for name in held)
    return spec


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
