"""Activations: every layer's output, as it was when the layer returned it; no hook stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.similarity.activations import activations, layers_of, recorded


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(3 * 9, 4),
    ).double()


def objective_of(model, shape=(11, 1, 5, 5), classes=4, **options):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, shape[:1], generator=generator)
    return Objective(model, (inputs, target), batch_size=4, **options), inputs


def num_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


class Wrapped(nn.Module):
    """Any module as a classifier of (n, 5, 6): its first output, averaged."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, nn.Linear(6, 4, dtype=torch.float64)

    def forward(self, inputs):
        output = self.inner(inputs)
        output = output[0] if isinstance(output, tuple) else output
        return self.head(output.mean(1))


def test_features_are_the_layers_outputs_over_ragged_batches():
    model = convolutional()
    objective, inputs = objective_of(model)
    found = activations(objective)
    model.eval()
    with torch.no_grad():
        expected = model[0](inputs)
        assert torch.allclose(found["0"], expected.flatten(1))
        normalized = model[1](expected)
        assert torch.allclose(found["1"], normalized.flatten(1))  # not what ReLU made of it
        assert torch.allclose(found["2"], normalized.relu().flatten(1))
        assert torch.allclose(found["5"], model(inputs))
    assert list(found) == ["0", "1", "2", "5"]


def test_features_are_those_of_another_point_and_the_policy():
    model = convolutional()
    objective, inputs = objective_of(model)
    theta = 2 * objective.theta
    found = activations(objective.under("recalibrate"), theta, layers=["0", "1"])
    doubled = torch.nn.functional.conv2d(inputs, 2 * model[0].weight, 2 * model[0].bias)
    assert torch.allclose(found["0"], doubled.flatten(1).detach())
    channels = found["1"].view(11, 3, -1).transpose(0, 1).flatten(1)
    weight, bias = 2 * model[1].weight, 2 * model[1].bias
    assert torch.allclose(channels.mean(1), bias)
    assert torch.allclose(channels.std(1), weight, rtol=1e-4)


def test_buffers_that_are_given_are_used():
    objective, _ = objective_of(convolutional())
    moved = dict(objective.buffers) | {"1.running_mean": torch.ones(3, dtype=torch.float64)}
    plain, other = (activations(objective, layers="1", buffers=b)["1"] for b in (None, moved))
    assert torch.allclose(plain - other, torch.tensor(1 / (1 + 1e-5) ** 0.5).double())


def test_images_are_averaged_over_places_and_texts_over_tokens():
    objective, _ = objective_of(convolutional())
    flat, mean = (activations(objective, layers=["0", "5"], pool=p) for p in ("none", "spatial"))
    assert torch.allclose(mean["0"], flat["0"].view(11, 3, 9).mean(2))
    assert torch.equal(mean["5"], flat["5"])
    texts, _ = objective_of(Wrapped(nn.Linear(6, 6, dtype=torch.float64)), (11, 5, 6))
    flat, mean = (activations(texts, layers="inner", pool=p)["inner"] for p in ("none", "tokens"))
    assert torch.allclose(mean, flat.view(11, 5, 6).mean(1))


@pytest.mark.parametrize(
    "inner",
    [
        nn.LSTM(6, 6, batch_first=True, dtype=torch.float64),
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dtype=torch.float64),
    ],
)
def test_of_several_outputs_the_first_is_taken(inner):
    objective, inputs = objective_of(Wrapped(inner), (11, 5, 6))
    found = activations(objective, layers="inner")["inner"]
    with torch.no_grad():
        output = inner.eval()(inputs)
    expected = output[0] if isinstance(output, tuple) else output
    assert torch.allclose(found, expected.flatten(1))


class TimeFirst(nn.Module):
    """Sees (n, 5, 6) as torch's recurrent layers do by default: (5, n, 6)."""

    def __init__(self):
        super().__init__()
        self.inner = nn.LSTM(6, 6, dtype=torch.float64)

    def forward(self, inputs):
        return self.inner(inputs.transpose(0, 1))[0].transpose(0, 1)


def test_an_output_whose_rows_are_no_examples_is_left_out():
    objective, _ = objective_of(Wrapped(TimeFirst()), (11, 5, 6))
    assert list(activations(objective)) == ["inner", "head"]
    with pytest.raises(RequestError, match=r"'inner.inner' has no output with one row"):
        activations(objective, layers="inner.inner")


def test_a_module_that_is_called_twice_has_two_outputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3, dtype=torch.float64)

        def forward(self, inputs):
            return self.layer(self.layer(inputs))

    model = Twice()
    objective, inputs = objective_of(model, (11, 3), classes=3)
    found = activations(objective)
    with torch.no_grad():
        assert torch.allclose(found["layer"], model.layer(inputs))
        assert torch.allclose(found["layer:2"], model(inputs))


def test_names_mean_any_module_and_globs_leave_out_what_passes_on():
    model = nn.ModuleDict({"body": convolutional(), "head": nn.Linear(2, 2)})
    assert layers_of(model) == ("body.0", "body.1", "body.2", "body.5", "head")
    assert layers_of(model, ["body", "body.3"]) == ("body", "body.3")
    assert layers_of(model, ["head", "body.[01]"]) == ("body.0", "body.1", "head")
    with pytest.raises(RequestError, match="Close to it: head"):
        layers_of(model, "heat")


def test_a_block_that_computes_is_a_layer_of_its_own():
    assert layers_of(nn.Sequential(Wrapped(nn.Linear(6, 6)))) == ("0", "0.inner", "0.head")


def test_a_layer_that_is_not_called_is_an_error_only_where_it_is_named():
    model = convolutional()
    model.add_module("spare", nn.Identity())
    model[5].add_module("unused", nn.Linear(2, 2))
    objective, _ = objective_of(model)
    assert "5.unused" not in activations(objective)
    with pytest.raises(RequestError, match=r"'5.unused' has no output with one row an example"):
        activations(objective, layers=["0", "5.unused"])


def test_an_unknown_pool_is_refused():
    objective, _ = objective_of(convolutional())
    with pytest.raises(RequestError, match="Did you mean 'spatial'"):
        activations(objective, pool="spacial")


def test_the_model_is_as_it_was_also_when_it_raises():
    model = convolutional()
    objective, inputs = objective_of(model)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    activations(objective)
    assert num_hooks(model) == 0
    with recorded(model, ["0", "5"], 11):
        assert num_hooks(model) == 2
    with pytest.raises(RuntimeError), recorded(model, ["0", "5"], 11):
        model(inputs[:, :, :2])
    assert num_hooks(model) == 0
    with pytest.raises(AttributeError), recorded(model, ["0", "nothing"], 11):
        pass
    assert num_hooks(model) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
