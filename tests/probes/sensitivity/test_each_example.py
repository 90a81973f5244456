from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import grad

from landscape.objective import Objective
from landscape.probes.sensitivity.each_example import EachExample
from landscape.probes.sensitivity.single_examples import differentiation, points


def slope(loss, blocks):
    """The derivative by the first weight."""
    gradients, weight = grad(loss, has_aux=True)(blocks)
    return gradients[0].flatten()[:1], weight


def slope_alone(loss, leaves):
    value, weight = loss(leaves)
    return torch.autograd.grad(value, leaves)[0].flatten()[:1], weight


def run(objective, vectorized=slope, **options):
    with differentiation(objective):
        (point,) = points(objective, None)
        each = EachExample(objective, point, vectorized, slope_alone, gradients=1, **options)
        parts = [each(batch) for batch in objective.batches]
    values, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    return values, weights, each


@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_every_chunk_gives_the_loop_s_values(regression, chunk):
    def refusing(loss, blocks):
        raise RuntimeError("no vmap today")

    values, weights, each = run(regression.objective, chunk=chunk)
    looped, _, other = run(regression.objective, refusing)
    torch.testing.assert_close(values, looped, equal_nan=True)
    assert (each.method, other.method) == ("vmap", "loop")
    assert weights.equal(regression.kept.double())
    assert values.isnan().flatten().equal(~regression.kept)


def test_without_memory_left_an_example_goes_alone(objective, monkeypatch):
    module = "landscape.probes.sensitivity.each_example"
    monkeypatch.setattr(f"{module}.available_bytes", lambda device: 0)
    _, _, each = run(objective)
    assert each._chunk == 1
    monkeypatch.setattr(f"{module}.available_bytes", lambda device: 10 * 2**20)
    _, _, each = run(objective)
    assert 10 < each._chunk < 0.8 * 10 * 2**20 / (4 * 39 * 8)  # the graph has its share


def test_running_out_of_memory_is_no_refusal(objective):
    def exhausting(loss, blocks):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run(objective, exhausting)


def test_batches_may_be_mappings_with_parts_that_are_not_per_example(network, data):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, shift):
            return self.inner(x + shift)

    shift = torch.arange(5.0, dtype=torch.float64)
    batches = [
        {"x": data[0][start:stop], "shift": shift, "labels": data[1][start:stop]}
        for start, stop in ((0, 4), (4, 13))
    ]
    found, _, each = run(Objective(Shifted(), batches))
    wanted, _, _ = run(Objective(network, (data[0] + shift, data[1])))
    torch.testing.assert_close(found, wanted, equal_nan=True)
    assert each.method == "vmap"
