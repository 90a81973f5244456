"""A checkpoint's names and a model's, with every prefix that may lie between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from landscape.checkpoint import Checkpoint, CheckpointError, load_state, read_checkpoint
from landscape.name_matching import match_names

# The first torch.compile of a process imports modules of torch that torch itself deprecates.
first_compile = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def net(seed, **arguments):
    torch.manual_seed(seed)
    return Net(**arguments)


def checkpoint(state_dict):
    return Checkpoint(path=Path("a.pt"), state_dict=dict(state_dict), kind="state dict")


def renamed(state_dict, rename):
    return {rename(name): tensor for name, tensor in state_dict.items()}


def assert_same_weights(model, state_dict):
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state_dict[name], rtol=0, atol=0)


def refusal(model, state_dict):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_state(model, checkpoint(state_dict))
    assert_same_weights(model, before)
    return str(caught.value)


def test_exact_names_load_without_a_note():
    saved, model = net(0).state_dict(), net(1)
    assert load_state(model, checkpoint(saved)) == ()
    assert_same_weights(model, saved)


@pytest.mark.parametrize(
    ("rename", "note"),
    [
        ("module.{}", "removed prefix 'module.'"),
        ("model.{}", "removed prefix 'model.'"),
        ("_orig_mod.{}", "removed '_orig_mod.' from the names"),
        ("module._orig_mod.{}", "removed prefix 'module.'"),
        ("_orig_mod.module.{}", "removed prefix 'module.'"),
        ("state.model.module.{}", "removed prefix 'state.model.module.'"),
    ],
)
def test_a_prefix_on_all_names_is_removed(rename, note):
    saved, model = net(0).state_dict(), net(1)
    notes = load_state(model, checkpoint(renamed(saved, rename.format)))
    assert note in notes
    assert_same_weights(model, saved)


def test_a_module_compiled_on_its_own_is_found():
    saved, model = net(0).state_dict(), net(1)
    load_state(
        model, checkpoint(renamed(saved, lambda name: name.replace("body.", "body._orig_mod.")))
    )
    assert_same_weights(model, saved)


@first_compile
def test_the_names_of_a_truly_compiled_and_parallel_model_are_read(tmp_path):
    source = net(0)
    torch.save(nn.DataParallel(torch.compile(source)).state_dict(), tmp_path / "a.pt")
    model = net(1)
    load_state(model, read_checkpoint(tmp_path / "a.pt"))
    assert_same_weights(model, source.state_dict())


def test_a_prefix_that_only_the_model_has_is_added():
    saved = net(0).state_dict()
    model = nn.DataParallel(net(1))
    assert load_state(model, checkpoint(saved)) == ("added prefix 'module.'",)
    assert_same_weights(model.module, saved)


@first_compile
def test_a_compiled_model_takes_plain_names():
    saved, model = net(0).state_dict(), net(1)
    load_state(torch.compile(model), checkpoint(saved))
    assert_same_weights(model, saved)


def test_what_lies_outside_the_prefix_is_left_out_and_told():
    saved, model = net(0).state_dict(), net(1)
    held = {**renamed(saved, "model.{}".format), "criterion.weight": torch.ones(2)}
    assert "left out 'criterion.weight' outside 'model.'" in load_state(model, checkpoint(held))
    assert_same_weights(model, saved)


@pytest.mark.parametrize("counters", [True, False])
def test_two_parts_that_fit_are_refused(counters):
    held = renamed(net(0).state_dict(), "student.{}".format)
    held |= renamed(net(1).state_dict(), "teacher.{}".format)
    held = {name: t for name, t in held.items() if counters or t.is_floating_point()}
    message = refusal(net(2), held)
    assert "'student.', 'teacher.'" in message


@pytest.mark.parametrize("average", ["model_ema.{}", "ema.{}", "ema_model.module.{}"])
def test_plain_weights_win_over_averaged_ones_with_a_note(average):
    saved, model = net(0).state_dict(), net(2)
    held = renamed(net(1).state_dict(), average.format) | renamed(saved, "model.{}".format)
    notes = load_state(model, checkpoint(held))
    assert any("averaged" in note for note in notes)
    assert_same_weights(model, saved)


def test_an_old_checkpoint_without_batch_counters_loads():
    saved, model = net(0).state_dict(), net(1)
    model.body[1].num_batches_tracked.fill_(7)
    counter = "body.1.num_batches_tracked"
    held = {name: tensor for name, tensor in saved.items() if name != counter}
    (note,) = load_state(model, checkpoint(held))
    assert counter in note
    assert_same_weights(model, {**saved, counter: torch.tensor(7)})


def test_running_statistics_are_not_optional():
    held = net(0).state_dict()
    del held["body.1.running_var"]
    assert "body.1.running_var (3,)" in refusal(net(1), held)


def test_averaged_models_of_torch_load():
    source = net(0)
    averaged = torch.optim.swa_utils.AveragedModel(source)
    model = net(1)
    load_state(model, checkpoint(averaged.state_dict()))
    assert_same_weights(model, source.state_dict())


def test_a_buffer_that_the_model_no_longer_saves_is_left_out():
    saved, model = net(0).state_dict(), net(1)
    model.register_buffer("positions", torch.arange(3), persistent=False)
    (note,) = load_state(model, checkpoint({**saved, "positions": torch.arange(3)}))
    assert "'positions'" in note


@pytest.mark.parametrize("kept", ["embedding.weight", "head.weight"])
def test_one_name_of_a_tied_pair_is_enough(kept):
    saved, model = Tied().state_dict(), Tied()
    notes = load_state(model, checkpoint({kept: saved[kept]}))
    assert len(notes) == 1
    assert "is tied to" in notes[0]
    assert model.head.weight is model.embedding.weight
    torch.testing.assert_close(model.head.weight.data, saved[kept], rtol=0, atol=0)


def test_one_name_is_not_enough_where_nothing_is_tied():
    model = Tied()
    model.head.weight = nn.Parameter(torch.zeros(5, 3))
    assert "head.weight (5, 3)" in refusal(model, {"embedding.weight": torch.ones(5, 3)})


def test_different_values_for_tied_names_are_refused():
    held = {"embedding.weight": torch.ones(5, 3), "head.weight": torch.zeros(5, 3)}
    assert "ties 'embedding.weight' to 'head.weight'" in refusal(Tied(), held)


def test_a_mismatch_lists_both_sides_and_both_shapes():
    held = net(0, width=4).state_dict()
    held["classifier.weight"] = held.pop("head.weight")
    lines = refusal(net(1), held).splitlines()
    assert "do not fit Net" in lines[0]
    assert [part.strip() for part in lines[1].split("|")] == [
        "the model needs, the file lacks",
        "the file has, the model lacks",
    ]
    assert [part.strip() for part in lines[2].split("|")] == [
        "head.weight (2, 3)",
        "classifier.weight (2, 4)",
    ]
    assert lines[1].index("|") == lines[2].index("|")
    assert "  body.0.weight: the model has (3, 2), the file (4, 2)" in lines
    assert "--model" in lines[-1]


def test_a_long_mismatch_is_cut():
    held = {f"layer{i}.weight": torch.ones(1) for i in range(40)}
    message = refusal(net(0), held)
    assert "and 28 more" in message
    assert len(message.splitlines()) < 18


def test_a_mismatch_beneath_a_prefix_shows_the_names_without_it():
    held = renamed(net(0).state_dict(), "module.{}".format)
    held["module.extra"] = held.pop("module.head.bias")
    message = refusal(net(1), held)
    assert "removed prefix 'module.'" in message
    assert "head.bias (2,)" in message
    assert "| extra (2,)" in message


def test_a_few_accidental_hits_rename_nothing():
    message = refusal(net(0), {"stem.head.bias": torch.ones(2), "stem.conv": torch.ones(1)})
    assert "removed" not in message
    assert "| stem.head.bias (2,)" in message


def test_parts_that_fit_in_part_are_a_mismatch_and_no_choice():
    held = {
        f"{part}.{name}": tensor
        for part in ("student", "teacher")
        for name, tensor in net(0).state_dict().items()
        if name != "head.bias"
    }
    message = refusal(net(1), held)
    assert "head.bias (2,)" in message
    assert "several parts" not in message


def test_two_names_of_one_parameter_do_not_make_up_for_another():
    model = nn.ModuleDict({"tied": Tied(), "last": nn.Linear(1, 1, bias=False)})
    both = {name: torch.ones(5, 3) for name in ("embedding.weight", "head.weight")}
    held = {f"{part}.tied.{name}": t for part in ("a", "b") for name, t in both.items()}
    assert "last.weight (1, 1)" in refusal(model, held)


def test_quantized_weights_are_no_floats():
    held = net(0).state_dict()
    held["head.weight"] = torch.ones(2, 3, dtype=torch.int8)
    assert "head.weight: the model has (2, 3), the file (2, 3) int8" in refusal(net(1), held)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_precision_is_converted_with_a_note(dtype):
    source, model = net(0).to(dtype), net(1)
    (note,) = load_state(model, checkpoint(source.state_dict()))
    assert f"converted {dtype} to float32".replace("torch.", "") in note
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == net(2).state_dict()[name].dtype
        torch.testing.assert_close(tensor, source.state_dict()[name].to(tensor), rtol=0, atol=0)


def test_weights_in_float8_load():
    held = {"weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "bias": torch.ones(2)}
    model = nn.Linear(2, 2)
    load_state(model, checkpoint(held))
    assert model.weight.eq(1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    held = net(0).state_dict()
    held["head.weight"] = torch.full((2, 3), value)
    assert "1 tensor(s): head.weight" in refusal(net(1), held)


def test_an_infinite_mask_is_no_damage_where_the_model_has_one_too():
    def masked():
        model = nn.Linear(2, 2)
        mask = torch.full((2, 2), float("-inf")).triu(1)
        model.register_buffer("mask", mask)
        return model

    held = masked().state_dict()
    assert load_state(masked(), checkpoint(held)) == ()
    held["mask"] = torch.full((2, 2), float("nan"))
    assert "mask" in refusal(masked(), {**held, "weight": torch.full((2, 2), float("nan"))})


def test_lazy_parameters_take_the_shapes_of_the_file():
    saved, model = nn.Linear(3, 2).state_dict(), nn.LazyLinear(2)
    load_state(model, checkpoint(saved))
    assert_same_weights(model, saved)


def test_a_model_without_memory_is_refused():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="meta"):
        load_state(model, checkpoint(nn.Linear(2, 2).state_dict()))


def test_matching_leaves_the_model_alone():
    model = net(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    match_names(model, net(1).state_dict(), "a.pt")
    assert_same_weights(model, before)
