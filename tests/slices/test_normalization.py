"""Normalised directions: filters of every kind of layer, and what is made of the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import cosines, normalized, random_directions
from landscape.slices.normalization import Scheme, layouts


def sum_of_squares(model, batch):
    output = model(*batch)
    return (output[0] if isinstance(output, tuple) else output).square().sum()


def objective_of(model, *inputs, **options):
    return Objective(model, [inputs], sum_of_squares, reduction="sum", **options)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class GPT2Linear(nn.Module):
    """A linear layer with a weight (in, out), as GPT-2 keeps it."""

    def __init__(self):
        super().__init__()
        self.nf = 3
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, inputs):
        return inputs @ self.weight


GPT2Linear.__name__ = "Conv1D"


class LlamaRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, inputs):
        return inputs * self.weight


def outputs(weight):
    return list(weight)


def transposed(groups):
    def split(weight):
        return [block[:, out] for block in weight.chunk(groups) for out in range(block.shape[1])]

    return split


def columns(weight):
    return list(weight.movedim(1, 0))


tokens = torch.tensor([[0, 3, 1], [2, 2, 4]])
# Layer, inputs, name of the weight, and its filters, cut out one by one.
LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), [normal(2, 4)], "weight", outputs),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3), [normal(2, 2, 5)], "weight", outputs),
    "conv2d": (lambda: nn.Conv2d(2, 3, 2), [normal(2, 2, 4, 4)], "weight", outputs),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), [normal(2, 2, 3, 3, 3)], "weight", outputs),
    "grouped": (lambda: nn.Conv2d(4, 6, 2, groups=2), [normal(2, 4, 4, 4)], "weight", outputs),
    "depthwise": (lambda: nn.Conv2d(4, 4, 2, groups=4), [normal(2, 4, 4, 4)], "weight", outputs),
    "transposed1d": (
        lambda: nn.ConvTranspose1d(2, 3, 3),
        [normal(2, 2, 5)],
        "weight",
        transposed(1),
    ),
    "transposed2d": (
        lambda: nn.ConvTranspose2d(3, 2, 2),
        [normal(2, 3, 4, 4)],
        "weight",
        transposed(1),
    ),
    "transposed3d": (
        lambda: nn.ConvTranspose3d(2, 3, 2),
        [normal(2, 2, 3, 3, 3)],
        "weight",
        transposed(1),
    ),
    "transposed_grouped": (
        lambda: nn.ConvTranspose2d(4, 6, 2, groups=2),
        [normal(2, 4, 4, 4)],
        "weight",
        transposed(2),
    ),
    "gpt2": (GPT2Linear, [normal(2, 4)], "weight", columns),
    "embedding": (lambda: nn.Embedding(5, 3), [tokens], "weight", outputs),
    "embedding_bag": (lambda: nn.EmbeddingBag(5, 3), [tokens], "weight", outputs),
    "attention": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        [normal(2, 3, 4)] * 3,
        "in_proj_weight",
        outputs,
    ),
    "recurrent": (lambda: nn.LSTM(3, 2), [normal(4, 2, 3)], "weight_hh_l0", outputs),
    "bilinear": (
        lambda: nn.Bilinear(3, 2, 4),
        [normal(2, 3), normal(2, 2, seed=1)],
        "weight",
        outputs,
    ),
}


def layer_of(kind):
    make, inputs, name, filters = LAYERS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double(), inputs, name, filters


@pytest.mark.parametrize("kind", LAYERS)
def test_every_filter_of_a_direction_has_the_norm_of_the_weights_filter(kind):
    layer, inputs, name, filters = layer_of(kind)
    objective = objective_of(layer, *inputs)
    for direction in random_directions(objective, 2, seed=1):
        moved = filters(objective.space.named(direction)[name])
        weights = filters(objective.space.named(objective.theta)[name])
        assert len(moved) == len(weights) > 1
        for d, w in zip(moved, weights, strict=True):
            assert d.norm().item() == pytest.approx(w.norm().item(), rel=1e-14)


OF_CHANNELS = sorted(LAYERS.keys() - {"embedding", "embedding_bag", "attention", "recurrent"})


@pytest.mark.parametrize("kind", OF_CHANNELS)
def test_a_filter_is_what_makes_one_output(kind):
    layer, inputs, name, _ = layer_of(kind)
    objective = objective_of(layer, *inputs)
    layout = next(one for one in layouts(objective) if one.name == name)
    weight = layer.get_parameter(name)
    original = layout.filters(weight.detach().clone().unsqueeze(0))
    before = layer(*inputs).detach()
    changed = []
    for index in range(original.shape[1]):
        rows = original.clone()
        rows[:, index] += 1
        with torch.no_grad():
            weight.copy_(layout.unfiltered(rows)[0])
        difference = (layer(*inputs).detach() - before).abs().movedim(1, 0).flatten(1).amax(1)
        changed.append(difference.nonzero().flatten().tolist())
    assert changed == [[index] for index in range(before.shape[1])]


def test_filters_of_transposed_convolutions_keep_their_norms_where_the_wrong_axis_would_not():
    layer, inputs, name, _ = layer_of("transposed2d")
    objective = objective_of(layer, *inputs)
    (direction,) = random_directions(objective, 1)
    moved, weight = objective.space.named(direction)[name], layer.weight.detach()
    ratios = moved.flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)
    assert (ratios - 1).abs().max() > 0.05  # rows of dim 0 are no filters


@pytest.mark.parametrize("normalize", ["filter", "layer", "element"])
def test_filters_of_zeros_stay_zeros(normalize):
    layer = nn.Linear(4, 3).double()
    with torch.no_grad():
        layer.weight[1] = 0
    objective = objective_of(layer, normal(2, 4))
    for direction in random_directions(objective, 2, normalize):
        moved = objective.space.named(direction)["weight"]
        assert direction.isfinite().all()
        assert (moved[1] == 0).all() == (normalize != "layer")
        assert (moved[[0, 2]] != 0).all()


def test_a_padding_token_does_not_move():
    objective = objective_of(nn.Embedding(5, 3, padding_idx=2).double(), tokens)
    (direction,) = random_directions(objective, 1)
    assert (direction.view(5, 3)[2] == 0).all()


def test_a_vector_that_is_zero_in_a_filter_stays_zero_there():
    objective = objective_of(nn.Linear(4, 3, bias=False).double(), normal(2, 4))
    vector = normal(12)
    vector[:4] = 0
    moved = normalized(objective, vector, "filter")
    assert moved.isfinite().all()
    assert (moved[:4] == 0).all()
    assert (moved[4:] != 0).all()


class Net(nn.Module):
    """Weights, biases, and normalisation with vectors and with a matrix."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 6), nn.LayerNorm((2, 3))
        self.slope, self.head = nn.PReLU(2), nn.Linear(6, 2, bias=False)

    def forward(self, inputs):
        hidden = self.norm(self.linear(inputs).unflatten(1, (2, 3)))
        return self.head(self.slope(hidden).flatten(1))


def net_objective(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().double()
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
    return objective_of(model, normal(3, 4), **options)


BIASES, NORMS = ("linear.bias", "slope.weight"), ("norm.weight", "norm.bias")


def test_biases_and_norm_parameters_stay_by_default():
    objective = net_objective()
    for normalize in ("filter", "layer", "element", "model", "none"):
        (direction,) = random_directions(objective, 1, normalize)
        moved = objective.space.named(direction)
        assert all((moved[name] == 0).all() for name in (*BIASES, *NORMS))
        assert all((moved[name] != 0).all() for name in ("linear.weight", "head.weight"))


@pytest.mark.parametrize("option", ["biases", "norms"])
def test_vectors_move_as_their_policy_says(option):
    objective = net_objective()
    mine, others = (BIASES, NORMS) if option == "biases" else (NORMS, BIASES)
    weights = objective.space.named(objective.theta)
    layered = random_directions(objective, 1, **{option: "layer"})[0]
    element = random_directions(objective, 1, **{option: "element"})[0]
    drawn = random_directions(objective, 1, "none", **{option: "layer"})[0]
    split = objective.space.named
    for name in mine:
        ratio = split(layered)[name].norm() / weights[name].norm()
        assert ratio.item() == pytest.approx(1, rel=1e-14)
        assert torch.equal(split(element)[name], split(drawn)[name] * weights[name].abs())
        assert (split(drawn)[name] != 0).all()
    for name in others:
        assert not any(split(one)[name].any() for one in (layered, element, drawn))
    for one in (layered, element):  # the weights do not mind
        assert torch.equal(
            split(one)["linear.weight"], split(random_directions(objective, 1)[0])["linear.weight"]
        )


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.BatchNorm1d(4), normal(3, 4)),
        (nn.InstanceNorm1d(4, affine=True), normal(3, 4, 5)),
        (nn.GroupNorm(2, 4), normal(3, 4)),
        (nn.LayerNorm(4), normal(3, 4)),
        (nn.LayerNorm((2, 4)), normal(3, 2, 4)),
        (nn.RMSNorm(4), normal(3, 4)),
        (LlamaRMSNorm(), normal(3, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_of_normalisation_layers_are_told_from_biases(layer, inputs):
    objective = objective_of(layer.double(), inputs)
    assert {layout.kind for layout in layouts(objective)} == {"norm"}


def test_layer_normalised_tensors_have_the_norm_of_their_weights():
    objective = net_objective()
    weights = objective.space.named(objective.theta)
    for direction in random_directions(objective, 2, "layer"):
        for name in ("linear.weight", "head.weight"):
            moved = objective.space.named(direction)[name]
            assert moved.norm().item() == pytest.approx(weights[name].norm().item(), rel=1e-14)


def test_a_model_normalised_direction_has_the_norm_of_theta_and_one_factor():
    objective = net_objective()
    options = {"biases": "layer", "norms": "element", "orthogonal": False}
    drawn = random_directions(objective, 2, "none", **options)
    whole = random_directions(objective, 2, "model", **options)
    for one, other in zip(whole, drawn, strict=True):
        assert one.norm().item() == pytest.approx(objective.theta.norm().item(), rel=1e-14)
        torch.testing.assert_close(
            one / other, (one / other)[:1].expand_as(one), rtol=1e-14, atol=0
        )


def test_elements_are_multiplied_by_their_weights():
    objective = net_objective(params="*.weight")
    options = {"biases": "element", "norms": "element", "orthogonal": False}
    drawn = random_directions(objective, 2, "none", **options)
    for index, direction in enumerate(random_directions(objective, 2, "element", **options)):
        assert torch.equal(direction, drawn[index] * objective.theta.abs())


@pytest.mark.parametrize("normalize", ["filter", "layer", "model", "none"])
@pytest.mark.parametrize("vectors", ["zero", "layer"])
def test_directions_are_orthogonal_and_have_the_norms_that_they_would_have_alone(
    normalize, vectors
):
    objective = net_objective()
    options = {"biases": vectors, "norms": vectors}
    together = random_directions(objective, 2, normalize, **options)
    apart = random_directions(objective, 2, normalize, **options, orthogonal=False)
    assert abs(cosines(torch.stack(together))[0, 1]) < 3e-16
    assert abs(cosines(torch.stack(apart))[0, 1]) > 1e-3
    for one, other in zip(together, apart, strict=True):
        assert one.norm().item() == pytest.approx(other.norm().item(), rel=1e-14)


def test_within_each_filter_directions_are_orthogonal():
    layer, inputs, name, filters = layer_of("transposed_grouped")
    objective = objective_of(layer, *inputs)
    blocks = [filters(objective.space.named(d)[name]) for d in random_directions(objective, 4)]
    for rows in zip(*blocks, strict=True):
        gram = torch.tensor(cosines(torch.stack([row.flatten() for row in rows])))
        assert (gram - torch.eye(4)).abs().max() < 1e-15
    for rows, weight in zip(blocks[3], filters(layer.weight.detach()), strict=True):
        assert rows.norm().item() == pytest.approx(weight.norm().item(), rel=1e-14)


def test_a_filter_too_short_for_another_direction_keeps_its_draw():
    objective = objective_of(nn.Linear(2, 50, bias=False).double(), normal(3, 2))
    together = random_directions(objective, 3)
    apart = random_directions(objective, 3, orthogonal=False)
    assert abs(cosines(torch.stack(together))[0, 1]) < 3e-16
    assert not torch.equal(together[1], apart[1])
    assert torch.equal(together[2], apart[2])


def test_nearly_parallel_draws_come_out_orthogonal(monkeypatch):
    base = normal(5, 40)

    def draw(layout, seed, index):
        return base.view(layout.shape) + 1e-7 * index * normal(*layout.shape, seed=index)

    monkeypatch.setattr("landscape.slices.directions._draw", draw)
    objective = objective_of(nn.Linear(40, 5, bias=False).double(), normal(3, 40))
    found = torch.stack(random_directions(objective, 3)).view(3, 5, 40)
    for rows in found.unbind(1):
        gram = torch.tensor(cosines(rows))
        assert (gram - torch.eye(3)).abs().max() < 1e-14


@pytest.mark.parametrize("normalize", ["filter", "layer", "element"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_layer_scaled_by_a_power_of_two_has_its_directions_scaled_bit_for_bit(normalize, dtype):
    def directions(factor):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)).to(dtype)
        with torch.no_grad():
            model[0].weight *= factor
            model[0].bias *= factor
            model[2].weight /= factor
        objective = objective_of(model, normal(2, 4).to(dtype))
        found = random_directions(objective, 2, normalize, biases="layer")
        return [objective.space.named(direction) for direction in found]

    for plain, scaled in zip(directions(1), directions(8), strict=True):
        assert torch.equal(scaled["0.weight"], 8 * plain["0.weight"])
        assert torch.equal(scaled["0.bias"], 8 * plain["0.bias"])
        assert torch.equal(scaled["2.weight"], plain["2.weight"] / 8)
        assert torch.equal(scaled["2.bias"], plain["2.bias"])


def test_pieces_of_a_parametrized_weight_are_laid_out_like_it():
    layer = nn.ConvTranspose2d(3, 2, 2).double()
    nn.utils.parametrizations.weight_norm(layer, dim=1)
    objective = objective_of(layer, normal(2, 3, 4, 4))
    (direction,) = random_directions(objective, 1)
    moved, weights = (objective.space.named(v) for v in (direction, objective.theta))
    for name in ("parametrizations.weight.original0", "parametrizations.weight.original1"):
        ratios = torch.stack([d.norm() for d in columns(moved[name])])
        ratios /= torch.stack([w.norm() for w in columns(weights[name])])
        torch.testing.assert_close(ratios, torch.ones_like(ratios), rtol=1e-14, atol=0)


def test_lengths_of_weight_normalised_groups_have_no_groups_themselves():
    layer = nn.ConvTranspose2d(4, 6, 2, groups=2).double()
    nn.utils.parametrizations.weight_norm(layer, dim=1)
    objective = objective_of(layer, normal(2, 4, 4, 4))
    (direction,) = random_directions(objective, 1)
    assert direction.isfinite().all()


def test_a_tied_weight_is_laid_out_as_in_the_module_of_its_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.ConvTranspose1d(3, 2, 2), nn.Conv1d(2, 3, 2)
            self.second.weight = self.first.weight

        def forward(self, inputs):
            return self.second(self.first(inputs))

    objective = objective_of(Tied().double(), normal(2, 3, 4))
    assert "second.weight" not in objective.space.names
    assert {layout.name: layout.axis for layout in layouts(objective)}["first.weight"] == 1


def test_an_empty_tensor_has_no_filters():
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
            self.linear = nn.Linear(4, 3).double()

        def forward(self, inputs):
            return self.linear(inputs) + self.nothing.sum(0)

    (direction,) = random_directions(objective_of(Empty(), normal(2, 4)), 1)
    assert direction.isfinite().all()


@pytest.mark.parametrize(
    ("names", "near"),
    [
        (("filters", "zero", "zero"), "unknown normalization 'filters'. Did you mean 'filter'?"),
        (("filter", "zeros", "zero"), "unknown policy for biases 'zeros'. Did you mean 'zero'?"),
        (("filter", "zero", "layers"), "unknown policy for norms 'layers'. Did you mean 'layer'?"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_right_one(names, near):
    with pytest.raises(RequestError, match=near.replace("?", r"\?")):
        Scheme(*names)
