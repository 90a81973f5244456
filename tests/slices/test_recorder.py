"""A recorder keeps readable checkpoints at even distances, and leaves the run as it would be."""

from __future__ import annotations

import copy
import math
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import MLP, ConvNet, network, random_vectors
from torch import Tensor, nn

from landscape.atomic import appearing
from landscape.checkpoint import load_state, read_checkpoint
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.parameters import ParameterSpace
from landscape.slices import recorder as module
from landscape.slices.pca import principal_components
from landscape.slices.recorder import TrajectoryRecorder, load_trajectory, random_projection
from landscape.slices.trajectory import trajectory

F64 = torch.float64


def _model() -> nn.Module:
    model, _, _ = network(MLP)
    return model


def _steps(folder: Path) -> list[int]:
    return list(load_trajectory(folder).steps)


# -- which points are kept --------------------------------------------------------------------


def test_points_are_kept_at_even_distances_however_long_the_run(tmp_path):
    model = _model()
    recorder = TrajectoryRecorder(model, tmp_path, max_points=8)
    recorder.record()
    for step in range(1, 301):
        recorder.step()
        files = len(list(tmp_path.iterdir()))
        assert files <= 8 + 1
        if step >= 8:
            assert files >= 4
    recorder.record()
    assert recorder.every == 64
    assert _steps(tmp_path) == [0, 64, 128, 192, 256, 300]


def test_each_point_holds_the_weights_of_its_step(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    recorder = TrajectoryRecorder(model, tmp_path, every=10, max_points=4)
    space = ParameterSpace(model)
    for step in range(1, 101):
        with torch.no_grad():
            model.weight.fill_(step)
        recorder.step(step, loss=torch.tensor(step / 2))
    recorded = load_trajectory(tmp_path, space)
    assert recorded.steps == (40, 80, 100)
    assert [point.item() for point in recorded] == list(recorded.steps)
    assert recorded.losses == [step / 2 for step in recorded.steps]


def test_the_end_is_kept_while_it_is_the_newest_point(tmp_path):
    recorder = TrajectoryRecorder(_model(), tmp_path, every=10)
    for _ in range(25):
        recorder.step()
    recorder.record()
    recorder.record()
    assert _steps(tmp_path) == [10, 20, 25]
    for _ in range(5):
        recorder.step()
    assert _steps(tmp_path) == [10, 20, 30]


def test_the_end_does_not_cost_a_thinning(tmp_path):
    recorder = TrajectoryRecorder(_model(), tmp_path, every=10, max_points=4)
    for _ in range(45):
        recorder.step()
    recorder.record()
    assert _steps(tmp_path) == [10, 20, 30, 40, 45]


def test_steps_that_are_told_now_and_then_are_kept_as_they_come_due(tmp_path):
    recorder = TrajectoryRecorder(_model(), tmp_path, every=10)
    for step in range(0, 60, 7):
        recorder.step(step)
        recorder.step(step)  # of accumulated gradients, the same step is told again
    assert _steps(tmp_path) == [14, 21, 35, 42, 56]


def test_a_loss_that_was_not_told_is_nan(tmp_path):
    recorder = TrajectoryRecorder(_model(), tmp_path)
    recorder.record()
    recorder.step(loss=0.5)
    recorder.record()  # the end: there already
    np.testing.assert_array_equal(load_trajectory(tmp_path).losses, [math.nan, 0.5])


def test_a_loss_is_kept_as_a_number_without_its_graph(tmp_path):
    recorder = TrajectoryRecorder(_model(), tmp_path)
    recorder.step(loss=torch.ones(1, requires_grad=True).sum())
    (loss,) = load_trajectory(tmp_path).losses
    assert type(loss) is float


def test_files_sort_by_name_as_their_steps_do(tmp_path):
    recorder = TrajectoryRecorder(_model(), tmp_path, every=2, max_points=8)
    for _ in range(12):
        recorder.step()
    paths = load_trajectory(tmp_path).paths
    assert len(paths) == 6
    assert sorted(paths) == list(paths)


# -- going on ---------------------------------------------------------------------------------


def test_a_folder_with_points_is_gone_on_with_only_when_asked(tmp_path):
    model = _model()
    recorder = TrajectoryRecorder(model, tmp_path, max_points=4)
    for _ in range(20):
        recorder.step()
    assert _steps(tmp_path) == [8, 16, 20]
    with pytest.raises(RequestError, match=r"holds 3 points of another run.*resume=True"):
        TrajectoryRecorder(model, tmp_path)
    again = TrajectoryRecorder(model, tmp_path, max_points=4, resume=True)
    assert again.every == 4  # as when the last point was written
    for _ in range(16):
        again.step()  # counted on from the last point, step 20
    assert _steps(tmp_path) == [8, 16, 24, 32]


def test_points_of_lost_work_go_when_a_run_starts_again_before_them(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    recorder = TrajectoryRecorder(model, tmp_path, every=5)
    for _ in range(30):
        recorder.step()
    with torch.no_grad():
        model.weight.fill_(7)
    again = TrajectoryRecorder(model, tmp_path, every=5, resume=True)
    again.record(18)
    assert _steps(tmp_path) == [5, 10, 15, 18]
    for step in range(19, 26):
        again.step(step)
    assert _steps(tmp_path) == [5, 10, 15, 20, 25]
    points = list(load_trajectory(tmp_path, ParameterSpace(model)))
    assert points[3].item() == 7
    assert points[2].item() != 7


def test_the_point_that_a_run_starts_again_from_is_written_again(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    TrajectoryRecorder(model, tmp_path).record(15)
    with torch.no_grad():
        model.weight.fill_(7)
    TrajectoryRecorder(model, tmp_path, resume=True).record(15)
    (point,) = load_trajectory(tmp_path, ParameterSpace(model))
    assert point.item() == 7


def test_steps_that_count_from_zero_in_every_epoch_are_refused(tmp_path):
    recorder = TrajectoryRecorder(_model(), tmp_path)
    recorder.step(5)
    with pytest.raises(RequestError, match="step 0 comes after step 5"):
        recorder.step(0)


# -- what is kept -----------------------------------------------------------------------------


def test_a_point_is_a_checkpoint_with_its_buffers(tmp_path):
    model, inputs, targets = network(ConvNet)
    recorder = TrajectoryRecorder(model, tmp_path)
    model.train()(inputs)  # moves the statistics
    recorder.step(loss=1.0)
    kept = copy.deepcopy(model.state_dict())
    other, _, _ = network(ConvNet, seed=5)
    (path,) = load_trajectory(tmp_path).paths
    checkpoint = read_checkpoint(path)
    assert checkpoint.step == 1
    assert load_state(other, checkpoint) == ()
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    again = Objective(other, (inputs, targets))
    assert again.value == Objective(model, (inputs, targets)).value


def test_a_recording_is_a_trajectory(tmp_path):
    model, inputs, targets = network(MLP)
    objective = Objective(model, (inputs, targets))
    recorder = TrajectoryRecorder(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        recorder.record(loss=loss)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        recorder.step()
    points = load_trajectory(tmp_path, objective.space)
    found = trajectory(objective, points, names=points.steps)
    assert found.names == tuple("0123456")
    np.testing.assert_allclose(found.losses[:-1], losses, rtol=1e-12)
    assert points.losses[0] == losses[0]


@pytest.mark.parametrize(
    ("dtype", "relative", "absolute"), [("float16", 2**-11, 2**-25), ("bfloat16", 2**-8, 0)]
)
def test_half_precision_keeps_each_number_within_its_rounding(tmp_path, dtype, relative, absolute):
    model = nn.Linear(50, 40).float()
    with torch.no_grad():
        model.weight.mul_(10 ** torch.linspace(-9, 2, 50))
    TrajectoryRecorder(model, tmp_path, dtype=getattr(torch, dtype)).record()
    space = ParameterSpace(model)
    points = load_trajectory(tmp_path, space)
    assert points[0].dtype == torch.float32
    assert read_checkpoint(points.paths[0]).state_dict["weight"].dtype == getattr(torch, dtype)
    exact = space.flatten(dict(model.named_parameters())).double()
    error = (points[0].double() - exact).abs()
    assert (error <= relative * exact.abs() + absolute).all()
    assert (error > 0).any()


def test_what_would_overflow_and_what_is_no_weight_keeps_its_type(tmp_path):
    model = nn.BatchNorm1d(3)
    with torch.no_grad():
        model.weight.fill_(1e6)
        model.running_var.fill_(1 / 3)
    TrajectoryRecorder(model, tmp_path, dtype=torch.float16).record()
    (path,) = load_trajectory(tmp_path).paths
    state = read_checkpoint(path).state_dict
    assert state["weight"].tolist() == [1e6] * 3
    assert torch.equal(state["running_var"], model.running_var)
    assert state["bias"].dtype == torch.float16
    assert state["num_batches_tracked"].dtype == torch.int64


def test_tied_weights_are_kept_once_under_all_their_names(tmp_path):
    model = nn.Sequential(nn.Linear(60, 60, bias=False), nn.Linear(60, 60, bias=False))
    TrajectoryRecorder(model, tmp_path / "untied").record()
    model[1].weight = model[0].weight
    TrajectoryRecorder(model, tmp_path / "tied", dtype=torch.bfloat16).record()
    untied, tied = (load_trajectory(tmp_path / name).paths[0] for name in ("untied", "tied"))
    state = read_checkpoint(tied).state_dict
    assert state.keys() == {"0.weight", "1.weight"}
    assert torch.equal(state["0.weight"], state["1.weight"])
    assert tied.stat().st_size < untied.stat().st_size / 3


def test_a_view_into_a_large_tensor_is_kept_alone(tmp_path):
    model = nn.Linear(2, 1, bias=False)
    model.weight = nn.Parameter(torch.zeros(100_000)[:2].view(1, 2))
    TrajectoryRecorder(model, tmp_path).record()
    assert load_trajectory(tmp_path).paths[0].stat().st_size < 10_000


def test_chosen_parameters_alone_are_kept(tmp_path):
    model, inputs, targets = network(ConvNet)
    TrajectoryRecorder(model, tmp_path, params="head").record()
    space = Objective(model, (inputs, targets), params="head").space
    points = load_trajectory(tmp_path, space)
    assert torch.equal(points[0], space.flatten(dict(model.named_parameters())))
    state = read_checkpoint(points.paths[0]).state_dict
    assert "conv.weight" not in state
    assert "norm.running_mean" in state
    with pytest.raises(RequestError, match=r"lacks 3 of the 5 parameters, such as 'conv\.weight'"):
        load_trajectory(tmp_path, ParameterSpace(model))[0]


def test_the_network_inside_a_wrapper_is_recorded(tmp_path):
    model = _model()
    TrajectoryRecorder(nn.DataParallel(model), tmp_path).record()
    assert load_trajectory(tmp_path, ParameterSpace(model))[0].shape == (43,)


# -- the run is not touched -------------------------------------------------------------------


def _trained(record: Callable[[nn.Module], TrajectoryRecorder] | None) -> tuple[object, ...]:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the state that somebody's augmentation would draw from
    model, inputs, targets = network(ConvNet, dtype=torch.float32)
    model = nn.Sequential(model, nn.Dropout(0.3)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    recorder = record(model) if record else None
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if recorder:
            recorder.step(loss=loss)
    gradients = [parameter.grad for parameter in model.parameters()]
    return (
        *model.state_dict().values(),
        *gradients,
        torch.get_rng_state(),
        torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
        torch.tensor([module.training for module in model.modules()]),
        torch.tensor([parameter.requires_grad for parameter in model.parameters()]),
    )


@pytest.mark.parametrize("options", [{"dtype": torch.float16}, {"projection": 8}, {}])
def test_training_with_a_recorder_is_bit_for_bit_training_without(tmp_path, options):
    def record(model: nn.Module) -> TrajectoryRecorder:
        return TrajectoryRecorder(model, tmp_path, max_points=4, **options)

    for with_it, without in zip(_trained(record), _trained(None), strict=True):
        assert torch.equal(with_it, without)
    assert 2 <= len(_steps(tmp_path)) <= 5


# -- killed ------------------------------------------------------------------------------------


def test_a_point_that_was_not_written_to_its_end_is_not_there(tmp_path, monkeypatch):
    model = _model()
    recorder = TrajectoryRecorder(model, tmp_path)
    recorder.step()

    def interrupted(_: object, path: Path) -> None:
        path.write_bytes(b"PK half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorder.step()
    monkeypatch.undo()
    assert _steps(tmp_path) == [1]
    assert load_trajectory(tmp_path, ParameterSpace(model))[0].shape == (43,)


def test_what_a_kill_left_half_written_goes_when_the_run_goes_on(tmp_path):
    TrajectoryRecorder(_model(), tmp_path).record()
    with appearing(tmp_path / "step_000000001.pt") as temporary:
        temporary.write_bytes(b"half")
        left = tmp_path / temporary.name.replace(".tmp", "0.tmp")
        left.write_bytes(b"half")
    (tmp_path / "step_000000001.pt").unlink()
    TrajectoryRecorder(_model(), tmp_path, resume=True)
    assert not left.exists()


_ENDLESS = """
import sys, torch
from torch import nn
from landscape.slices.recorder import TrajectoryRecorder
recorder = TrajectoryRecorder(nn.Linear(300, 300), sys.argv[1], max_points=6)
print("go", flush=True)
while True:
    recorder.step()
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_readable_points(tmp_path):
    space = ParameterSpace(nn.Linear(300, 300))
    for number in range(6):
        folder = tmp_path / str(number)
        command = [sys.executable, "-c", _ENDLESS, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.2 + 0.037 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        points = load_trajectory(folder, space)
        assert len(points) >= 2
        assert all(point.isfinite().all() for point in points)


# -- trainers ---------------------------------------------------------------------------------


class _Callback:
    """What Lightning and transformers ask of theirs: a hook for every event, which does nothing."""

    def _nothing(self, *_: object, **__: object) -> None: ...

    on_init_end = on_train_begin = on_step_begin = on_step_end = _nothing
    on_train_start = on_train_batch_start = on_train_batch_end = on_train_end = _nothing


def _library(monkeypatch, module: str, name: str) -> None:
    held = types.ModuleType(module)
    setattr(held, name, _Callback)
    monkeypatch.setitem(sys.modules, module, held)


def test_a_lightning_trainer_calls_it(tmp_path, monkeypatch):
    _library(monkeypatch, "pytorch_lightning", "Callback")
    model = nn.Linear(1, 1, bias=False)
    callback = TrajectoryRecorder(model, tmp_path, every=2).lightning()
    assert isinstance(callback, _Callback)
    trainer = types.SimpleNamespace(global_step=0, is_global_zero=True)
    callback.on_train_start(trainer, model)
    for batch in range(10):
        callback.on_train_batch_start(trainer, model, None, batch)
        trainer.global_step = (batch + 1) // 2  # two batches a step
        with torch.no_grad():
            model.weight.fill_(trainer.global_step)
        loss = torch.tensor(float(batch))
        callback.on_train_batch_end(trainer, model, {"loss": loss}, None, batch)
    callback.on_train_end(trainer, model)
    points = load_trajectory(tmp_path, ParameterSpace(model))
    assert points.steps == (0, 2, 4, 5)
    assert [point.item() for point in points][1:] == [2, 4, 5]
    np.testing.assert_array_equal(points.losses, [math.nan, 3, 7, math.nan])


@pytest.mark.parametrize("outputs", [torch.tensor(2.0), {"loss": torch.tensor(2.0)}, None, {}])
def test_lightning_hands_over_the_loss_in_several_ways(tmp_path, monkeypatch, outputs):
    _library(monkeypatch, "lightning.pytorch", "Callback")
    callback = TrajectoryRecorder(_model(), tmp_path).lightning()
    trainer = types.SimpleNamespace(global_step=1, is_global_zero=True)
    callback.on_train_batch_end(trainer, None, outputs, None, 0)
    expected = 2.0 if outputs is not None and len(str(outputs)) > 2 else math.nan
    np.testing.assert_array_equal(load_trajectory(tmp_path).losses, [expected])


def test_a_hugging_face_trainer_calls_it(tmp_path, monkeypatch):
    _library(monkeypatch, "transformers", "TrainerCallback")
    model = nn.Linear(1, 1, bias=False)
    callback = TrajectoryRecorder(model, tmp_path, every=3).hf()
    state = types.SimpleNamespace(global_step=0, is_world_process_zero=True)

    def event(name: str) -> None:
        assert getattr(callback, name)(None, state, None, model=model, optimizer=None) is None

    event("on_init_end")
    event("on_train_begin")
    for step in range(1, 9):
        event("on_step_begin")
        state.global_step = step
        event("on_step_end")
    event("on_train_end")
    assert _steps(tmp_path) == [0, 3, 6, 8]


def test_only_one_of_many_processes_writes(tmp_path, monkeypatch):
    _library(monkeypatch, "transformers", "TrainerCallback")
    _library(monkeypatch, "lightning.pytorch", "Callback")
    recorder = TrajectoryRecorder(_model(), tmp_path)
    hf, lightning = recorder.hf(), recorder.lightning()
    state = types.SimpleNamespace(global_step=1, is_world_process_zero=False)
    trainer = types.SimpleNamespace(global_step=1, is_global_zero=False)
    hf.on_train_begin(None, state, None)
    hf.on_step_end(None, state, None)
    hf.on_train_end(None, state, None)
    lightning.on_train_start(trainer, None)
    lightning.on_train_batch_end(trainer, None, None, None, 0)
    lightning.on_train_end(trainer, None)
    assert not list(tmp_path.iterdir())


def test_of_two_lightnings_the_one_that_is_loaded_is_meant(tmp_path, monkeypatch):
    _library(monkeypatch, "pytorch_lightning", "Callback")
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    other = types.SimpleNamespace(Callback=type("Other", (), {}))
    installed = {"lightning.pytorch": other, **sys.modules}
    monkeypatch.setattr(module.importlib, "import_module", installed.__getitem__)
    callback = TrajectoryRecorder(_model(), tmp_path).lightning()
    assert isinstance(callback, _Callback)


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib, "import_module", _missing)
    recorder = TrajectoryRecorder(_model(), tmp_path)
    with pytest.raises(RequestError, match="transformers is not installed"):
        recorder.hf()
    with pytest.raises(RequestError, match=r"lightning\.pytorch is not installed"):
        recorder.lightning()


def _missing(name: str) -> None:
    raise ModuleNotFoundError(name)


# -- projections ------------------------------------------------------------------------------


def test_projections_keep_distances_within_what_is_stated():
    num, n, seeds = 64, 500, 400
    heavy = torch.zeros(n, dtype=F64)
    heavy[[3, 400]] = 1  # two entries that one sum each would often add up
    for vector in (random_vectors(n, 1)[:, 0], heavy, torch.ones(n, dtype=F64)):
        squares = torch.tensor(
            [random_projection([vector], num, seed=seed).square().sum() for seed in range(seeds)]
        )
        ratios = squares / vector.square().sum()
        deviation = math.sqrt(2 / num)
        assert abs(ratios.mean() - 1) < 4 * deviation / math.sqrt(seeds)
        assert ratios.std() < deviation * (1 + 4 / math.sqrt(2 * seeds))
        # Of distances, which the docstring speaks of: half of that.
        assert (ratios.sqrt() - 1).std() < 1.2 / math.sqrt(2 * num)
        assert ratios.sqrt().sub(1).abs().max() < 5 / math.sqrt(2 * num)


def test_a_projection_is_linear_and_the_same_in_pieces_of_one_shape():
    one, two = random_vectors(90, 2).T
    both = random_projection([2 * one - two], 8, seed=1)
    apart = 2 * random_projection([one], 8, seed=1) - random_projection([two], 8, seed=1)
    torch.testing.assert_close(both, apart)
    assert not torch.allclose(both, random_projection([2 * one - two], 8, seed=2))
    pieces = [one[:30].view(5, 6), one[30:].float()]
    torch.testing.assert_close(
        random_projection(pieces, 8, seed=1),
        random_projection([pieces[0].reshape(-1), pieces[1].double()], 8, seed=1),
    )


def test_long_tensors_are_projected_in_parts(monkeypatch):
    vector = random_vectors(1000, 1)[:, 0]
    monkeypatch.setattr(module, "_CHUNK", 64)
    projections = torch.stack([random_projection([vector], 32, seed=s) for s in range(300)])
    ratios = projections.square().sum(1) / vector.square().sum()
    assert abs(ratios.mean() - 1) < 4 * math.sqrt(2 / 32 / 300)
    parts = [random_projection([part], 32, seed=0) for part in vector.split(64)]
    assert not torch.equal(sum(parts), projections[0])  # each part has draws of its own


def test_a_recording_of_projections_has_the_shares_of_its_checkpoints(tmp_path):
    model = nn.Linear(40, 50, bias=False, dtype=F64)
    whole = TrajectoryRecorder(model, tmp_path / "whole")
    small = TrajectoryRecorder(model, tmp_path / "small", projection=256)
    walk = random_vectors(12, 2000).cumsum(0)
    for point in walk:
        with torch.no_grad():
            model.weight.copy_(point.view(50, 40))
        whole.step()
        small.step(loss=1.5)
    projected = load_trajectory(tmp_path / "small")
    assert projected[0].shape == (256,)
    assert projected.losses == [1.5] * 12
    exact = principal_components(load_trajectory(tmp_path / "whole", ParameterSpace(model)))
    found = principal_components(projected)
    np.testing.assert_allclose(found.distances[:-1] / exact.distances[:-1], 1, atol=5 * 0.044)
    np.testing.assert_allclose(found.shares[:3], exact.shares[:3], atol=0.06)
    assert projected.paths[0].stat().st_size < 5_000


def test_a_projection_is_that_of_the_chosen_parameters(tmp_path):
    model, _, _ = network(ConvNet)
    model.head.bias.requires_grad_(False)
    TrajectoryRecorder(model, tmp_path / "all", projection=8).record()
    TrajectoryRecorder(model, tmp_path / "head", projection=8, params="head").record()
    chosen = [p for p in model.parameters() if p.requires_grad]
    (found,) = load_trajectory(tmp_path / "all")
    torch.testing.assert_close(found, random_projection(chosen, 8, seed=0))
    (found,) = load_trajectory(tmp_path / "head")
    torch.testing.assert_close(found, random_projection([model.head.weight], 8, seed=0))


# -- wrong requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"max_points": 1}, "max_points=1"),
        ({"dtype": torch.int8}, r"dtype=torch\.int8"),
        ({"dtype": torch.float16, "projection": 8}, "Projections are float64"),
        ({"projection": 10}, "multiple of 4"),
        ({"projection": 0}, "multiple of 4"),
        ({"params": "nothing"}, "no parameter matches"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_made(tmp_path, options, message):
    with pytest.raises(RequestError, match=message):
        TrajectoryRecorder(_model(), tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_folders_and_files_that_are_no_recording_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RequestError, match="no points of a trajectory"):
            load_trajectory(folder)
    torch.save(_model().state_dict(), tmp_path / "step_3.pt")
    with pytest.raises(RequestError, match="was not written by a TrajectoryRecorder"):
        load_trajectory(tmp_path, ParameterSpace(_model()))[0]
    (tmp_path / "step_3.pt").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(RequestError, match="cut short or damaged"):
        load_trajectory(tmp_path, ParameterSpace(_model()))[0]


def test_checkpoints_without_a_space_are_refused(tmp_path):
    TrajectoryRecorder(_model(), tmp_path).record()
    with pytest.raises(RequestError, match=r"load_trajectory\(folder, objective.space\)"):
        load_trajectory(tmp_path)[0]


def test_points_end(tmp_path):
    TrajectoryRecorder(_model(), tmp_path).record()
    points = load_trajectory(tmp_path, ParameterSpace(_model()))
    assert len(list(points)) == len(points) == 1
    assert isinstance(points[-1], Tensor)
