"""Making: what a recipe works with while it makes a family, so that it can stop anywhere.

A recipe is a function that runs from top to bottom each time. Each phase of training keeps its
state in `<folder>/.state`; when the recipe runs again, finished phases are read and an unfinished
one goes on. `family` reads what comes out.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import landscape
from landscape.atomic import appearing
from landscape.checkpoint import write_checkpoint
from landscape.errors import RequestError
from landscape.factory import JSON, Factory
from landscape.trainers.claim import STATE
from landscape.trainers.downloading import download
from landscape.trainers.examples import Examples
from landscape.trainers.family import FORMAT_VERSION, INDEX, Family, load_family
from landscape.trainers.forecast import Forecast
from landscape.trainers.problems import Problem, networks, problem
from landscape.trainers.stacking import Stack
from landscape.trainers.training import Plan, Trained, Watch, fit

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Making", "Member", "Place", "Progress", "last"]

Progress = Callable[[str, int, int, str], None]  # phase, steps done, steps, words

_UNITS = {"loss": "nat", "accuracy": "1", "norm": "nat / parameter", "learning_rate": "1"}


@dataclass(frozen=True)
class Member:
    """One network of a family, beside its weights.

    Attributes:
        name: of its file, without the suffix.
        role: what it is in its recipe: "final", "start", "child", "average", ...
        seed: of its run.
        settings: what tells it from the others, such as {"learning_rate": 0.1}; a column each.
        metrics: such as {"test_accuracy": 0.97}; a column each.
        step: training steps behind it.
        data: builds what it was trained on; None for the problem's own.
    """

    name: str
    role: str
    seed: int
    settings: Mapping[str, JSON] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    data: Factory | None = None


@dataclass(frozen=True)
class Place:
    """Where a recipe runs: not part of what it makes."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data_root: str | Path | None = None
    download: bool = False
    interval: float = 10.0  # most seconds of work that a kill may cost


@dataclass
class Making:
    """The folder of a family under construction."""

    folder: Path
    recipe: str
    options: Mapping[str, JSON]
    command: str
    place: Place
    progress: Progress | None = None
    forecast: Forecast | None = None  # in place of training and writing
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _files: dict[str, str] = field(default_factory=dict)
    _groups: dict[str, xr.Dataset] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    def problem(self, data: str, model: str, **options: Any) -> Problem:
        """`problems.problem`, on this device and with files from this place."""
        root, device = self.place.data_root, self.place.device
        if self.place.download:
            download(data, root)
        return problem(data, model, root=root, device=device, **options)

    def networks(self, problem: Problem, seeds: Sequence[int]) -> Stack:
        """New networks on this device, one for each seed."""
        return networks(problem.model, seeds, self.place.device)

    def fit(
        self,
        phase: str,
        stack: Stack,
        plan: Plan,
        examples: Examples,
        evaluations: Mapping[str, Examples],
        labels: Sequence[str] | None = None,
    ) -> Trained:
        """`training.fit`, resumable; the curves and recorded outcomes go into the family.

        Args:
            phase: its name in the family, another for each call.
            labels: names of the members, for the curves.
        """
        twice = sorted({name for name in labels or () if list(labels or ()).count(name) > 1})
        if twice:
            raise RequestError(
                f"{twice[0]!r} would be trained twice, into one file. Leave one of them out."
            )
        if self.forecast is not None:
            trained = self.forecast.fit(phase, stack, plan, examples, evaluations)
            self._keep_curves(phase, trained, labels)
            return trained
        path = self.folder / STATE / f"{phase}.pt"

        def load() -> dict[str, Any] | None:
            if not path.is_file():
                return None
            device = stack.theta.device
            held: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            return held

        def report(done: int, total: int, words: str) -> None:
            self.report(phase, done, total, words)

        watch = Watch(load, lambda state: _save(state, path), report, self.place.interval)
        trained = fit(stack, plan, examples, evaluations, watch)
        self._keep_curves(phase, trained, labels)
        return trained

    def keep(self, members: Sequence[Member], stack: Stack, problem: Problem) -> list[Path | None]:
        """Write the members of a stack as checkpoints, those with equal weights as one file.

        Returns:
            The files; None for a member whose weights are not finite: it is listed all the same.
        """
        if self.forecast is not None:
            self.forecast.keep(stack)
            return [self.folder / f"{member.name}.pt" for member in members]
        paths: list[Path | None] = []
        finite = stack.theta.isfinite().all(1)
        for index, member in enumerate(members):
            if any(row["name"] == member.name for row in self._rows):
                raise RequestError(f"two members are called {member.name!r}. Leave one out.")
            row = {
                "name": member.name,
                "role": member.role,
                "seed": member.seed,
                "step": -1 if member.step is None else member.step,
                "file": "",
                "diverged": not finite[index],
                **member.settings,
                **member.metrics,
            }
            self._rows.append(row)
            if not finite[index]:
                paths.append(None)
                continue
            digest = _digest(stack, index)
            name = self._files.setdefault(digest, f"{member.name}.pt")
            row["file"] = name
            if name == f"{member.name}.pt":
                self._write(member, stack, index, problem)
            paths.append(self.folder / name)
        return paths

    def report(self, phase: str, done: int, total: int, words: str = "") -> None:
        """Tell whoever watches how far a phase is."""
        if self.progress is not None:
            self.progress(phase, done, total, words)

    def record(self, group: str, dataset: xr.Dataset) -> None:
        """Put a dataset with named dimensions into the family's index."""
        self._groups[group] = dataset

    def note(self, sentence: str) -> None:
        """A sentence for whoever reads the family."""
        self._notes.append(sentence)

    # -- inside --

    def _write(self, member: Member, stack: Stack, index: int, problem: Problem) -> None:
        settings = {"name": self.recipe, "role": member.role, **member.settings}
        write_checkpoint(
            self.folder / f"{member.name}.pt",
            stack.member(index),
            model_factory=problem.model,
            data_factory=member.data or problem.data,
            loss=problem.loss,
            recipe={**self.options, **settings},
            seed=member.seed,
            step=member.step,
            metrics={k: float(v) for k, v in member.metrics.items()},
        )

    def _keep_curves(self, phase: str, trained: Trained, labels: Sequence[str] | None) -> None:
        import xarray as xr

        names = list(labels or map(str, range(len(trained.stack))))
        coordinates = {
            "step": ("time", trained.steps, {"units": "1", "long_name": "training steps done"}),
            "member": ("member", names),
        }
        attributes = {
            "seconds": trained.seconds,
            "members_in_one_graph": trained.chunk,
            "threads": trained.threads,
        }
        curves = {
            name: (("time", "member"), values, {"units": _unit(name), "long_name": _words(name)})
            for name, values in trained.curves.items()
        }
        self.record(f"curves/{phase}", xr.Dataset(curves, coordinates, attributes))
        for evaluation, fields in trained.outcomes.items():
            outcomes = {
                name: (
                    ("time", "member", "example"),
                    values.astype(np.int8) if values.dtype == bool else values,
                    {"units": "nat" if name in ("loss", "margin") else "1", "long_name": name},
                )
                for name, values in fields.items()
            }
            self.record(f"outcomes/{phase}/{evaluation}", xr.Dataset(outcomes, coordinates))

    def finish(self) -> Family:
        """Write the index; the family is whole, and the states of its phases are not needed."""
        import pandas as pd
        import xarray as xr

        table = pd.DataFrame(self._rows)
        # Text is of one dtype in pandas 2 and of another in 3.
        for name in [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]:
            # NaN stands where a member lacks a setting that others have.
            table[name] = [str(c) if c is not None and c == c else "" for c in table[name]]
        members = xr.Dataset(
            {str(name): ("member", _column(table[name])) for name in table.columns}
        )
        tree = xr.DataTree.from_dict({"members": members, **self._groups})
        tree.attrs = {
            "kind": "family",
            "written_by": "landscape",
            "format_version": FORMAT_VERSION,
            "recipe": self.recipe,
            "options": json.dumps(self.options),
            "command": self.command,
            "notes": json.dumps(self._notes),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_time": time.perf_counter() - self._began,
            "landscape_version": landscape.__version__,
            "torch_version": str(torch.__version__),
        }
        index = self.folder / INDEX
        with appearing(index) as temporary:
            tree.to_netcdf(temporary, engine="h5netcdf")
        shutil.rmtree(self.folder / STATE, ignore_errors=True)
        return load_family(self.folder)


def last(trained: Trained, index: int) -> dict[str, float]:
    """A member's metrics at the end of a phase: loss and accuracy on each split."""
    return {
        name: float(values[-1, index])
        for name, values in trained.curves.items()
        if name.endswith(("_loss", "_accuracy")) and name != "running_loss"
    }


def _save(state: dict[str, Any], path: Path) -> None:
    with appearing(path) as temporary:
        torch.save(state, temporary)


def _digest(stack: Stack, index: int) -> str:
    found = hashlib.blake2b(digest_size=16)
    for tensor in [stack.theta, *stack.rest.values()]:
        found.update(_bytes(tensor[index]))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tensor.detach().cpu().numpy())
    return buffer.getvalue()


def _column(cells: Any) -> Any:
    values = cells.to_numpy()
    return values.astype(str) if values.dtype == object else values


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "1")


def _words(name: str) -> str:
    return name.replace("_", " ")
