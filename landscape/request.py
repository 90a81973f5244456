"""What is to be measured: which probes, and where a checkpoint's model, data and loss come from.

`probing` carries it out. A command-line option wins over `landscape.toml` beside the checkpoint,
which wins over what the checkpoint says of itself. Importing this page loads no torch.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from landscape.errors import RequestError, unknown_choice
from landscape.factory import JSON, Factory
from landscape.learned_plan import LEARNED_PROBES, OF_SEVERAL, LearnedPlan
from landscape.path_plan import PATH_PROBES, PathPlan
from landscape.slice_plan import SLICE_PROBES, SlicePlan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from landscape.checkpoint import Checkpoint
    from landscape.objective import BatchNormPolicy, Objective

__all__ = ["DEFAULT_PROBES", "NUM_PAIRS", "PROBES", "Plan", "Source", "checkpoints_in"]
__all__ += ["load_objective", "load_point", "open_checkpoint", "planned"]

DEFAULT_PROBES = ("metrics", "eigenvalues", "trace", "density")
PROBES = (*DEFAULT_PROBES, *SLICE_PROBES, *PATH_PROBES, *LEARNED_PROBES)
NUM_PAIRS = 10  # eigenpairs, unless asked otherwise

_RECORDED = re.compile(r"step_\d+\.pt")  # what a TrajectoryRecorder writes
_TOML = "landscape.toml"
_TOML_KEYS = ("model", "model_arguments", "data", "data_arguments", "loss")
_DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """Where model, data and loss come from; what is None or empty is looked up further down.

    Attributes:
        model: `pkg.mod:factory` or `file.py:factory`, which returns the network.
        data: the same for the data.
        loss: a loss by name, or `pkg.mod:function`, which is the loss itself.
        model_arguments, data_arguments: JSON values for the factories; they change single
            arguments of a factory that the checkpoint names.
        unsafe_load: allow a pickle to run code, and a checkpoint to name any.
    """

    model: str | None = None
    data: str | None = None
    loss: str | None = None
    model_arguments: Mapping[str, JSON] = field(default_factory=dict)
    data_arguments: Mapping[str, JSON] = field(default_factory=dict)
    unsafe_load: bool = False

    def completed_by(self, folder: Path) -> Source:
        """This source, with what `landscape.toml` in a folder adds."""
        file = folder / _TOML
        if not file.is_file():
            return self
        try:
            held = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RequestError(f"{file} is not valid TOML: {error}.") from error
        for key in held:
            if key not in _TOML_KEYS:
                raise unknown_choice(f"key in {file}", key, _TOML_KEYS)

        def located(name: str | None) -> str | None:
            # A file is meant from where the TOML lies, a module from the current folder.
            source, colon, function = (name or "").rpartition(":")
            return f"{folder / source}{colon}{function}" if source.endswith(".py") else name

        return replace(
            self,
            model=self.model or located(held.get("model")),
            data=self.data or located(held.get("data")),
            loss=self.loss or held.get("loss"),
            model_arguments={**held.get("model_arguments", {}), **self.model_arguments},
            data_arguments={**held.get("data_arguments", {}), **self.data_arguments},
        )

    def model_factory(self, checkpoint: Checkpoint) -> Factory | None:
        """The factory that the user named; None leaves it to the checkpoint."""
        if self.model is not None:
            return Factory(self.model, self.model_arguments)
        if self.model_arguments and checkpoint.model is not None:
            own = checkpoint.model
            if not (own.is_own or self.unsafe_load):
                return None  # refused, with the reason, where the network is built
            return replace(own, arguments={**own.arguments, **self.model_arguments})
        return None

    def build_data(self, checkpoint: Checkpoint) -> object:
        """The data that the user named, else the checkpoint's own."""
        if self.data is not None:
            return Factory(self.data, self.data_arguments)()
        own = checkpoint.data
        if own is None:
            raise RequestError(
                f"{checkpoint.path.name} does not say on which data to measure. Name a function "
                "that returns them: --data 'pkg.mod:loader' or --data 'file.py:loader'."
            )
        if not (own.is_own or self.unsafe_load):
            raise RequestError(
                f"{checkpoint.path.name} asks to call {own.path!r} for its data, which is not part "
                "of landscape, and was not called. Pass --data 'pkg.mod:loader', or --unsafe-load "
                "if you trust the file's origin."
            )
        return replace(own, arguments={**own.arguments, **self.data_arguments})()

    def find_loss(self, checkpoint: Checkpoint) -> str | Callable[..., object]:
        """The loss that the user named, else the checkpoint's own."""
        name = self.loss or checkpoint.loss
        if name is None:
            raise RequestError(
                f"{checkpoint.path.name} does not say which loss it was trained on. Type --loss "
                "cross_entropy, mse or bce, or --loss 'pkg.mod:function'."
            )
        named_by_user = self.loss is not None or self.unsafe_load
        return Factory(name).resolve() if ":" in name and named_by_user else name


@dataclass(frozen=True)
class Plan:
    """Which probes, and how thoroughly.

    Attributes:
        probes: names from `PROBES`.
        k: eigenpairs, from both ends of the spectrum; None takes `NUM_PAIRS`, or all of a smaller
            model.
        tol: their tolerance, relative to each.
        trace_rtol: half-width of the trace's interval, relative to it.
        num_steps: Lanczos steps of the density.
        max_products: budget of each probe; None takes each one's own.
        seed: of all random vectors.
        slices: which line, plane or trajectory, for the probes of these names.
        paths: what between this checkpoint and others, for those of `PATH_PROBES`.
        learned: what of it was learned, for those of `LEARNED_PROBES`.
    """

    probes: Sequence[str] = DEFAULT_PROBES
    k: int | None = None
    tol: float = 1e-3
    trace_rtol: float = 0.05
    num_steps: int = 80
    max_products: int | None = None
    seed: int = 0
    slices: SlicePlan = field(default_factory=SlicePlan)
    paths: PathPlan = field(default_factory=PathPlan)
    learned: LearnedPlan = field(default_factory=LearnedPlan)

    def __post_init__(self) -> None:
        for name in self.probes:
            if name not in PROBES:
                raise unknown_choice("probe", name, PROBES)

    def num_pairs(self, size: int) -> int:
        """Eigenpairs to compute of `size` parameters.

        Raises:
            RequestError: more than there are, or none.
        """
        if self.k is None:
            return min(NUM_PAIRS, size)
        if not 1 <= self.k <= size:
            raise RequestError(
                f"k={self.k} eigenpairs of {size} parameters: k must be between 1 and {size}."
            )
        return self.k

    def settings(self, name: str, size: int) -> dict[str, object]:
        """What identifies a record of this probe, beside an objective of `size` parameters.

        Of the other plans those say it who carry them out: they know the other checkpoints.
        """
        eigen = {"k": self.num_pairs(size), "which": "BE", "tol": self.tol}
        own: dict[str, dict[str, object]] = {
            "metrics": {},
            "eigenvalues": eigen | {"max_products": self.max_products},
            "trace": {
                "rtol": self.trace_rtol,
                "max_products": self.max_products,
                "deflated": eigen,
            },
            "density": {"num_steps": self.num_steps, "num_probes": 1, "deflated": eigen},
        }
        return own[name] | ({"seed": self.seed} if name != "metrics" else {})


def load_objective(
    path: str | Path,
    source: Source | None = None,
    *,
    params: str | Sequence[str] = "*",
    bn: BatchNormPolicy = "eval",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> Objective:
    """The objective of a checkpoint: its network, at its weights, on its data.

    Args:
        path: a checkpoint of ours, which says all of this itself, or a foreign one.
        source: model, data and loss of a foreign one, or instead of the checkpoint's own.
        params, bn, batch_size, device, dtype: as for `Objective`; a dtype may be its name.

    Raises:
        RequestError: the checkpoint cannot be read, does not fit its model, or does not say what
            it is and the source does not either.
    """
    return open_checkpoint(
        path,
        source,
        params=params,
        bn=bn,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )[0]


def checkpoints_in(path: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of the family, or of the recorded run, in a folder, in order.

    Any other path is a checkpoint itself.
    """
    folder = Path(path).expanduser()
    recorded = [one for one in folder.glob("step_*.pt") if _RECORDED.fullmatch(one.name)]
    if recorded:
        return sorted(recorded, key=lambda one: int(one.stem.removeprefix("step_")))
    if not ((folder / "family.h5").is_file() or (folder / ".state").is_dir()):
        return [folder]
    from landscape.trainers.family import load_family

    return list(load_family(folder))


def planned(members: Sequence[Path], plan: Plan) -> list[tuple[Path, Plan]]:
    """What is measured of each checkpoint: a trajectory is of all of them, and told of the last.

    What lies between them, where no others are named, is told of the first; so is what is measured
    of several together.

    Raises:
        RequestError: a trajectory of a single checkpoint, or nothing to compare one with.
    """
    plans = [plan] * len(members)
    if "trajectory" in plan.probes and not plan.slices.members:
        if len(members) < 2:
            raise RequestError(
                "a trajectory is of several checkpoints, in order: name them all, or a family's "
                "folder."
            )
        plans[:-1] = [_without(own, ("trajectory",)) for own in plans[:-1]]
        slices = replace(plan.slices, members=tuple(members))
        plans[-1] = replace(plans[-1], slices=slices)
    between = [name for name in plan.probes if name in PATH_PROBES]
    if between and not plan.paths.towards:
        if len(members) < 2:
            raise RequestError(
                f"{between[0]} is between checkpoints: name another with --towards, or several, or "
                "a family's folder."
            )
        plans[1:] = [_without(own, PATH_PROBES) for own in plans[1:]]
        plans[0] = replace(plans[0], paths=replace(plan.paths, towards=tuple(members[1:])))
    if any(name in OF_SEVERAL for name in plan.probes) and not plan.learned.members:
        plans[1:] = [_without(own, OF_SEVERAL) for own in plans[1:]]
        plans[0] = replace(plans[0], learned=replace(plan.learned, members=tuple(members)))
    return [(member, own) for member, own in zip(members, plans, strict=True) if own.probes]


def _without(plan: Plan, names: Sequence[str]) -> Plan:
    return replace(plan, probes=tuple(name for name in plan.probes if name not in names))


def load_point(
    path: str | Path, source: Source, objective: Objective
) -> tuple[Tensor, dict[str, Tensor]]:
    """Where another checkpoint of an objective's network lies, and its buffers.

    Returns:
        theta (n,) in the coordinates of the objective, and buffers by name.

    Raises:
        RequestError: a checkpoint that cannot be read, or of another network.
    """
    import copy

    from landscape.checkpoint import build_model, load_state, read_checkpoint

    path = Path(path)
    checkpoint = read_checkpoint(path, unsafe_load=source.unsafe_load)
    wanted = source.completed_by(path if path.is_dir() else path.parent)
    factory = wanted.model_factory(checkpoint)
    if factory is None and checkpoint.model is None and checkpoint.module is None:
        model = copy.deepcopy(objective.model)  # weights alone: of the network that is measured
        load_state(model, checkpoint)
    else:
        model = build_model(checkpoint, factory, unsafe_load=wanted.unsafe_load)
    parameters = dict(model.named_parameters())
    fits = all(
        name in parameters and parameters[name].shape == shape
        for name, shape in zip(objective.space.names, objective.space.shapes, strict=True)
    )
    if not fits:
        raise RequestError(
            f"{path.name} is a checkpoint of another network: its parameters are not those of the "
            "one that is measured. Name checkpoints of one architecture."
        )
    theta = objective.space.flatten(parameters).to(objective.device)
    return theta, {name: buffer.to(objective.device) for name, buffer in model.named_buffers()}


def open_checkpoint(
    path: str | Path,
    source: Source | None = None,
    *,
    params: str | Sequence[str] = "*",
    bn: BatchNormPolicy = "eval",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> tuple[Objective, Checkpoint]:
    """`load_objective`, with the checkpoint that it was read from."""
    import torch

    from landscape.checkpoint import build_model, read_checkpoint
    from landscape.objective import Objective

    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise unknown_choice("dtype", dtype, _DTYPES)
        dtype = getattr(torch, dtype)
        assert isinstance(dtype, torch.dtype)
    if device is not None:
        _check_device(device)
    path = Path(path)
    wanted = source or Source()
    checkpoint = read_checkpoint(path, unsafe_load=wanted.unsafe_load)
    wanted = wanted.completed_by(path if path.is_dir() else path.parent)
    model = build_model(
        checkpoint, wanted.model_factory(checkpoint), unsafe_load=wanted.unsafe_load
    )
    loss = wanted.find_loss(checkpoint)
    objective = Objective(
        model,
        wanted.build_data(checkpoint),
        loss,
        params=params,
        bn=bn,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    return objective, checkpoint


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise RequestError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0]}. This machine "
            f"has: {', '.join(['cpu', *cuda])}."
        ) from None
