import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.parameters import ParameterSpace


class Tied(nn.Module):
    """An embedding whose matrix is the output layer too, with one frozen and one unused tensor."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3, dtype=torch.float64)
        self.body = nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), nn.LayerNorm(3))
        self.head = nn.Linear(3, 4, bias=False, dtype=torch.float64)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(2), requires_grad=False)


def test_tied_parameter_is_one_block_under_its_first_name():
    space = ParameterSpace(Tied())
    assert space.names[0] == "embed.weight"
    assert "head.weight" not in space.names
    assert space.aliases == {"head.weight": "embed.weight"}
    assert space.size == 12 + 9 + 3 + 3 + 3
    assert space.slice_of("head.weight") == space.slice_of("embed.weight") == slice(0, 12)


def test_tied_parameter_is_selected_by_either_name():
    assert ParameterSpace(Tied(), "head").names == ("embed.weight",)
    assert ParameterSpace(Tied(), "embed").names == ("embed.weight",)


@pytest.mark.parametrize("name", ["head", "embed", "head.weight", "embed.weight"])
def test_tied_parameter_is_taken_away_by_either_name(name):
    assert "embed.weight" not in ParameterSpace(Tied(), ["*", f"!{name}"]).names


def test_frozen_parameters_are_coordinates_only_when_asked_for():
    assert "scale" not in ParameterSpace(Tied()).names
    assert "scale" in ParameterSpace(Tied(), frozen=True).names
    with pytest.raises(RequestError, match="only frozen"):
        ParameterSpace(Tied(), "scale")
    assert ParameterSpace(Tied(), "scale", frozen=True).size == 2


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("body.0", ["body.0.weight", "body.0.bias"]),
        ("body", ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]),
        ("*.bias", ["body.0.bias", "body.1.bias"]),
        (["body.*", "!*.bias"], ["body.0.weight", "body.1.weight"]),
        ("!body", ["embed.weight"]),
        ("body.[0]", ["body.0.weight", "body.0.bias"]),
        (["body.1.bias", "embed"], ["embed.weight", "body.1.bias"]),
    ],
)
def test_globs_select_by_name_and_by_module_in_the_models_order(select, names):
    assert list(ParameterSpace(Tied(), select).names) == names


def test_selection_that_takes_everything_away_is_refused():
    with pytest.raises(RequestError, match="leaves no parameter"):
        ParameterSpace(Tied(), ["body", "!body"])


@pytest.mark.parametrize(
    ("select", "near"),
    [("hed", "head"), ("body.0.wieght", "body.0.weight"), ("!embd", "embed")],
)
def test_misspelt_glob_names_the_nearest(select, near):
    with pytest.raises(
        RequestError, match=rf"no parameter matches '{select}'.*Close to it: {near}"
    ):
        ParameterSpace(Tied(), select)


def test_slice_of_addresses_each_block():
    space = ParameterSpace(Tied())
    vector = torch.arange(space.size, dtype=torch.float64)
    for name, block in space.named(vector).items():
        torch.testing.assert_close(vector[space.slice_of(name)], block.flatten().double())


def test_slice_of_an_unselected_name_says_so():
    with pytest.raises(RequestError, match=r"'body.0.biass' is none of.*'body.0.bias'"):
        ParameterSpace(Tied()).slice_of("body.0.biass")


def test_flatten_and_split_are_inverse():
    space = ParameterSpace(Tied())
    vector = torch.randn(
        space.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    vector = vector.float().double()  # representable in the LayerNorm's float32
    assert torch.equal(space.flatten(space.split(vector)), vector)
    assert torch.equal(space.flatten(space.named(vector)), vector)


def test_flatten_copies():
    layer = nn.Linear(2, 1, bias=False)
    space = ParameterSpace(layer)
    vector = space.flatten(dict(layer.named_parameters()))
    vector.zero_()
    assert layer.weight.abs().sum() > 0


def test_split_takes_a_column_of_a_matrix():
    space = ParameterSpace(nn.Linear(2, 3))
    matrix = torch.arange(27.0).view(9, 3)
    for strided, dense in zip(
        space.split(matrix[:, 1]), space.split(matrix[:, 1].clone()), strict=True
    ):
        assert torch.equal(strided, dense)


def test_mixed_dtypes_promote_in_the_vector_and_come_back_in_the_blocks():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.float64))
    space = ParameterSpace(model)
    assert space.dtype == torch.float64
    dtypes = [block.dtype for block in space.split(torch.zeros(space.size, dtype=torch.float64))]
    assert dtypes == [torch.float32] * 2 + [torch.float64] * 2
    assert ParameterSpace(model, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("shape", [(), (8,), (9, 1)])
def test_vector_of_another_shape_is_refused(shape):
    space = ParameterSpace(nn.Linear(2, 3))
    with pytest.raises(RequestError, match=r"expected \(9,\)"):
        space.split(torch.zeros(shape))


def test_flatten_names_the_block_of_another_shape():
    space = ParameterSpace(nn.Linear(2, 3))
    with pytest.raises(RequestError, match=r"weight has shape \(2, 3\), expected \(3, 2\)"):
        space.flatten([torch.zeros(2, 3), torch.zeros(3)])


@pytest.mark.parametrize("view", ["same", "part", "transposed"])
@pytest.mark.parametrize("frozen", [False, True])
def test_separate_parameters_that_overlap_in_memory_are_refused(view, frozen):
    weight = torch.randn(3, 3)
    other = {"same": weight, "part": weight[1:], "transposed": weight.t()}[view]
    model = nn.ParameterDict(
        {"encoder": nn.Parameter(weight), "z": nn.Parameter(other, requires_grad=not frozen)}
    )
    with pytest.raises(RequestError, match="share memory"):
        ParameterSpace(model)


def test_neighbours_in_one_storage_are_accepted():
    flat = torch.randn(6)
    model = nn.ParameterList([nn.Parameter(flat[:3]), nn.Parameter(flat[3:])])
    assert ParameterSpace(model).size == 6


def test_channels_last_parameters_are_accepted():
    layer = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    assert ParameterSpace(layer).size == 57


@pytest.mark.parametrize("select", ["*", "!0"])
def test_lazy_module_is_refused_also_where_it_is_not_selected(select):
    with pytest.raises(RequestError, match="not initialised"):
        ParameterSpace(nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2)), select)


def test_complex_parameters_are_refused_with_the_glob_that_leaves_them_out():
    model = nn.ParameterDict({"z": torch.zeros(2, dtype=torch.complex64), "x": torch.zeros(3)})
    with pytest.raises(RequestError, match="'!z'"):
        ParameterSpace(model)
    assert ParameterSpace(model, "!z").names == ("x",)


def test_model_without_values_or_without_parameters_is_refused():
    with pytest.raises(RequestError, match="meta device"):
        ParameterSpace(nn.Linear(2, 2, device="meta"))
    with pytest.raises(RequestError, match="no parameters"):
        ParameterSpace(nn.ReLU())
