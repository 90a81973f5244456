"""Recorder: a few checkpoints of a run, kept while it goes on. `trajectory` shows where they lie.

Points are files that appear whole, so that a killed run leaves all that it had written.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.atomic import appearing
from landscape.errors import RequestError
from landscape.parameters import ParameterSpace
from landscape.preflight import unwrap
from landscape.weight_files import read_weight_file

__all__ = ["RecordedTrajectory", "TrajectoryRecorder", "load_trajectory", "random_projection"]

_NAME = re.compile(r"step_(\d+)\.pt")
_PROJECTION_SEED = 0  # one for all points of a recording, whenever it goes on
_ROWS = 4  # sums that each coordinate enters: two heavy ones rarely meet in all of them
_CHUNK = 2**20  # coordinates that are projected at once


class TrajectoryRecorder:
    """Keeps checkpoints of a model at even distances, as many as fit, however long the run.

        recorder = TrajectoryRecorder(model, "run/trajectory")
        recorder.record()                   # the start
        for inputs, targets in loader:
            ...
            optimizer.step()
            recorder.step(loss=loss)
        recorder.record()                   # the end

    In a Lightning or Hugging Face Trainer, `callbacks=[recorder.lightning()]` or
    `callbacks=[recorder.hf()]` does all of this. Model and random generators stay as they are.

    Args:
        model: recorded with its buffers, so that each file is a checkpoint like any other.
        folder: of the files, `step_<number>.pt`; made if it is not there.
        every: steps between two points, to begin with. When there are more than `max_points`, it
            doubles and every second point goes.
        max_points: most points to keep, besides the newest one.
        dtype: for the floating-point parameters, such as `torch.float16`, which halves the files of
            a float32 model: each number within 2^-11 of itself, relative (bfloat16: 2^-8), or
            within 3e-8. A tensor that would overflow stays as it is. Default: as they are.
        params: as for `Objective`. Anything but "*" leaves out the other and the frozen parameters:
            `load_trajectory` reads such points, but they are no whole checkpoints.
        projection: instead of checkpoints, keep this many numbers a point; see `random_projection`.
            `principal_components` takes them, but no loss can be measured.
        resume: go on in a folder that has points. Points from the first step on that is then told
            are taken to be of work that was lost, and go.

    Raises:
        RequestError: a folder that has points already, or numbers out of range.

    Attributes:
        every: steps between two points, as it is now.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path,
        *,
        every: int = 1,
        max_points: int = 64,
        dtype: torch.dtype | None = None,
        params: str | Sequence[str] = "*",
        projection: int | None = None,
        resume: bool = False,
    ) -> None:
        self._model, _ = unwrap(model)
        self._folder = Path(folder).expanduser()
        self.every, self._max_points = every, max_points
        self._dtype, self._projection = dtype, projection
        if every < 1 or max_points < 2:
            raise RequestError(
                f"every={every} and max_points={max_points}: at least 1 step and 2 points."
            )
        if dtype is not None and (projection is not None or not dtype.is_floating_point):
            raise RequestError(
                f"dtype={dtype}: a floating-point type, for checkpoints. Projections are float64."
            )
        if projection is not None:
            _check_rows(projection)
        whole = params == "*" and projection is None
        self._names = None if whole else frozenset(ParameterSpace(self._model, params).names)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._steps = [step for step, _ in _points_in(self._folder)]
        self._resumes = resume
        if self._steps and not resume:
            raise RequestError(
                f"{str(self._folder)!r} holds {len(self._steps)} points of another run. Name "
                "another folder, or pass resume=True to go on with that run."
            )
        for stale in self._folder.glob(".step_*.tmp"):  # of a run that was killed
            stale.unlink()
        if self._steps:
            self.every = max(every, int(_content(self._path(self._steps[-1]))["every"]))
        self._count = self._steps[-1] if self._steps else 0

    def step(self, step: int | None = None, loss: float | Tensor | None = None) -> None:
        """To be called after each step of the optimizer: keeps a point where one is due.

        Args:
            step: how many steps the run has taken; by default calls are counted.
            loss: kept with the point, if there is one.

        Raises:
            RequestError: a step before the one that was told last.
        """
        self._advance(self._count + 1 if step is None else step)
        last = self._steps[-1] if self._steps else 0
        if self._count // self.every > last // self.every:
            self.record(loss=loss)

    def record(self, step: int | None = None, loss: float | Tensor | None = None) -> None:
        """Keep a point now: the start, or the end. It stays while it is the newest one.

        Args:
            step: how many steps the run has taken; by default as many as were told.
            loss: as for `step`.
        """
        self._advance(self._count if step is None else step)
        if self._count in self._steps:
            return
        content = {
            "step": self._count,
            "loss": loss.item() if isinstance(loss, Tensor) else loss,
            "every": self.every,
            **(self._state() if self._projection is None else self._projected()),
        }
        with appearing(self._path(self._count)) as temporary:
            torch.save(content, temporary)
        self._steps.append(self._count)
        self._thin()

    def lightning(self) -> object:
        """A callback for the Trainer of Lightning."""
        base = _class_of("Callback", "lightning.pytorch", "pytorch_lightning")
        return type("TrajectoryCallback", (_LightningHooks, base), {})(self)

    def hf(self) -> object:
        """A callback for the Trainer of Hugging Face's transformers."""
        base = _class_of("TrainerCallback", "transformers")
        return type("TrajectoryCallback", (_HuggingFaceHooks, base), {})(self)

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:09d}.pt"

    def _advance(self, step: int) -> None:
        if self._resumes:
            self._resumes = False
            self._keep([known for known in self._steps if known < step])
        elif step < self._count:
            raise RequestError(
                f"step {step} comes after step {self._count}. Count on through all epochs, or "
                "leave `step` out."
            )
        self._count = step

    def _thin(self) -> None:
        """Double `every` until few enough points are the first at or after a multiple of it."""
        while len(due := self._due()) > self._max_points:
            self.every *= 2
        self._keep([*due, self._steps[-1]])

    def _due(self) -> list[int]:
        found = {0: 0} if self._steps[0] == 0 else {}
        for step in self._steps:
            if step >= self.every:
                found.setdefault(step // self.every, step)
        return list(found.values())

    def _keep(self, steps: Sequence[int]) -> None:
        for step in set(self._steps).difference(steps):
            self._path(step).unlink(missing_ok=True)
        self._steps = sorted(set(steps))

    def _state(self) -> dict[str, object]:
        parameters = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        copies: dict[int, Tensor] = {}  # tied tensors stay one
        state = {}
        # The tensors themselves, not views of them: tied ones are then the same object.
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            is_parameter = name in parameters
            is_left_out = is_parameter and self._names is not None and name not in self._names
            if is_left_out or not isinstance(tensor, Tensor):
                continue
            if id(tensor) not in copies:
                copies[id(tensor)] = _copied(tensor.detach(), self._dtype if is_parameter else None)
            state[name] = copies[id(tensor)]
        return {"state_dict": state}

    def _projected(self) -> dict[str, object]:
        assert self._names is not None
        assert self._projection is not None
        chosen = [p for name, p in self._model.named_parameters() if name in self._names]
        projection = random_projection(chosen, self._projection, seed=_PROJECTION_SEED)
        return {"projection": projection}


class RecordedTrajectory:
    """The points of a recording, each read when it is asked for: for `trajectory`.

    Attributes:
        paths: of the files, in the order of the steps.
        steps: how many steps the run had taken.
    """

    def __init__(self, points: Sequence[tuple[int, Path]], space: ParameterSpace | None) -> None:
        self.steps = tuple(step for step, _ in points)
        self.paths = tuple(path for _, path in points)
        self._space = space

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """(n,) in the space's dtype, or (projection,)."""
        path = self.paths[index]
        content = _content(path)
        if "projection" in content:
            projection: Tensor = content["projection"]
            return projection
        state = content["state_dict"]
        if self._space is None:
            raise RequestError(
                f"{path.name} holds a checkpoint. Say which of its tensors are coordinates: "
                "load_trajectory(folder, objective.space)."
            )
        missing = [name for name in self._space.names if name not in state]
        if missing:
            raise RequestError(
                f"{path.name} lacks {len(missing)} of the {len(self._space.names)} parameters, "
                f"such as {missing[0]!r}; it holds {', '.join(list(state)[:4])}, ... Record the "
                "network itself that the objective is made of, with the same `params`."
            )
        return self._space.flatten(state)

    @property
    def losses(self) -> list[float]:
        """The loss that was told with each point; NaN where there was none."""
        told = (_content(path)["loss"] for path in self.paths)
        return [math.nan if loss is None else loss for loss in told]


def load_trajectory(folder: str | Path, space: ParameterSpace | None = None) -> RecordedTrajectory:
    """The points that a `TrajectoryRecorder` has left in a folder.

    Args:
        space: of the objective, which says what the coordinates are; not for projections.

    Raises:
        RequestError: a folder without points.
    """
    folder = Path(folder).expanduser()
    points = _points_in(folder) if folder.is_dir() else []
    if not points:
        raise RequestError(
            f"{str(folder)!r} holds no points of a trajectory (step_*.pt). Record some: "
            "TrajectoryRecorder(model, folder)."
        )
    return RecordedTrajectory(points, space)


def random_projection(tensors: Iterable[Tensor], num: int, *, seed: int) -> Tensor:
    """(num,) random sums of all the entries, which keep distances: float64 on the CPU.

    The squared distance of two projections is that of the points on average over seeds, with a
    relative standard deviation of at most sqrt(2 / num), as with a matrix of normal numbers, but
    in a pass over the entries: distances are within 1 / sqrt(2 num), 4.4 % for 256.

    Args:
        num: a multiple of 4.

    Source: sparse Johnson-Lindenstrauss transform, Kane and Nelson 2014, arXiv:1012.1577, with
    four entries of +-1/2 a column.
    """
    _check_rows(num)
    width = num // _ROWS
    child = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(child >> 1)
    sums = torch.zeros(_ROWS, width, dtype=torch.float64)
    for tensor in tensors:
        for part in torch.split(tensor.detach().reshape(-1), _CHUNK):
            entries = part.to("cpu", torch.float64)
            for row in sums:
                drawn = torch.randint(2 * width, entries.shape, generator=generator)
                row.index_add_(0, drawn // 2, torch.where(drawn % 2 == 0, entries, -entries))
    return sums.reshape(-1) / math.sqrt(_ROWS)


class _LightningHooks:
    def __init__(self, recorder: TrajectoryRecorder) -> None:
        self._recorder = recorder

    def on_train_start(self, trainer: Any, module: object) -> None:
        if trainer.is_global_zero:
            self._recorder.record(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Any, module: object, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self._recorder.step(trainer.global_step, loss if isinstance(loss, Tensor) else None)

    def on_train_end(self, trainer: Any, module: object) -> None:
        self.on_train_start(trainer, module)


class _HuggingFaceHooks:
    def __init__(self, recorder: TrajectoryRecorder) -> None:
        self._recorder = recorder

    def on_train_begin(self, args: object, state: Any, control: object, **_: object) -> None:
        if state.is_world_process_zero:
            self._recorder.record(state.global_step)

    def on_step_end(self, args: object, state: Any, control: object, **_: object) -> None:
        if state.is_world_process_zero:
            self._recorder.step(state.global_step)

    def on_train_end(self, args: object, state: Any, control: object, **_: object) -> None:
        self.on_train_begin(args, state, control)


def _class_of(name: str, *modules: str) -> type:
    """A class of a library that may be installed under several names; a loaded one goes first."""
    for module in sorted(modules, key=lambda module: module not in sys.modules):
        try:
            found: type = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            continue
        return found
    raise RequestError(f"{modules[0]} is not installed. A loop of your own calls recorder.step().")


def _points_in(folder: Path) -> list[tuple[int, Path]]:
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in named if match)


def _content(path: Path) -> dict[str, Any]:
    held, _ = read_weight_file(path)
    if not isinstance(held, dict) or not {"step", "loss", "every"} <= held.keys():
        raise RequestError(f"{str(path)!r} was not written by a TrajectoryRecorder. Move it away.")
    return held


def _copied(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """On the CPU and on its own; in its own dtype where it would overflow in the other."""
    if dtype is not None and tensor.is_floating_point():
        cast = tensor.to(dtype)
        if torch.equal(cast.isfinite(), tensor.isfinite()):
            return cast.to("cpu", copy=True)
    return tensor.to("cpu", copy=True)


def _check_rows(num: int) -> None:
    if num < _ROWS or num % _ROWS:
        raise RequestError(f"a projection to {num} numbers: expected a multiple of {_ROWS}.")
