"""Probing: the default measurements of one checkpoint, record by record into its result file.

`request` says what is measured; each probe is a function of `curvature`. A record is written as
soon as it is finished, and one that is there already is not measured again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from landscape import store
from landscape.company import Company
from landscape.curvature.density import spectral_density
from landscape.curvature.eigen import eigsh
from landscape.curvature.eigenpairs import Eigenpairs
from landscape.curvature.hessian import HessianOperator
from landscape.curvature.trace import trace
from landscape.errors import RequestError
from landscape.learned_plan import LEARNED_PROBES
from landscape.learned_probes import LearnedProbes
from landscape.objective import Objective
from landscape.path_plan import PATH_PROBES
from landscape.path_probes import PathProbes
from landscape.request import Plan, Source, checkpoints_in, open_checkpoint, planned
from landscape.result import Result
from landscape.slice_plan import SLICE_PROBES
from landscape.slice_probes import SliceProbes

if TYPE_CHECKING:
    import xarray as xr

    from landscape.checkpoint import Checkpoint
    from landscape.objective import BatchNormPolicy

__all__ = ["Metrics", "Outcome", "probe", "result_path"]

# called with (probe, products so far, most that it may take)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics(Result):
    """Loss and accuracy at the checkpoint.

    Attributes:
        values: `loss` in the loss's unit, `accuracy` as a share.
        num_examples: how many they were measured on.
        gradient_norm: of the loss; the checkpoint is a critical point where it is 0.
    """

    probe: ClassVar[str] = "metrics"

    values: dict[str, float]
    num_examples: int
    gradient_norm: float

    @property
    def status(self) -> str:
        """Always "converged": nothing is estimated."""
        return "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """One scalar for each metric."""
        import xarray as xr

        units = {"loss": "loss", "accuracy": "1"}
        variables: dict[str, tuple[tuple[()], float, dict[str, str]]] = {
            name: ((), value, {"units": units.get(name, "1"), "long_name": name})
            for name, value in self.values.items()
        }
        gradient = {"units": "loss / parameter", "long_name": "norm of the gradient"}
        variables["gradient_norm"] = ((), self.gradient_norm, gradient)
        examples = {"units": "1", "long_name": "number of examples"}
        variables["num_examples"] = ((), self.num_examples, examples)
        return xr.Dataset(variables)


@dataclass(frozen=True)
class Outcome:
    """What became of one probe of one checkpoint.

    Attributes:
        result: what was measured; None for a record that was there already, or a failure.
        group: of the record in the file.
        error: the reason of a failure.
    """

    probe: str
    state: Literal["measured", "skipped", "failed"]
    result: Result | None = None
    group: str | None = None
    error: str | None = None


@dataclass
class _Session:
    """The objective and what its probes share: one operator, and eigenpairs for deflation."""

    objective: Objective
    plan: Plan
    progress: Progress | None
    operator: HessianOperator = field(init=False)
    _pairs: Eigenpairs | None = None

    def __post_init__(self) -> None:
        self.operator = HessianOperator(self.objective)

    def ticks(self, name: str) -> Callable[[int, int, str], None]:
        def tick(done: int, total: int, _: str) -> None:
            if self.progress is not None:
                self.progress(name, done, total)

        return tick

    def measure(self, name: str) -> Result:
        plan = self.plan
        budget = {} if plan.max_products is None else {"max_products": plan.max_products}
        if name == "metrics":
            began = time.perf_counter()
            return Metrics(
                settings={},
                provenance=self.operator.provenance,
                notes=self.objective.notes,
                values=self.objective.metrics(),
                num_examples=self.objective.batches.num_examples,
                gradient_norm=float(self.objective.gradient().double().norm()),
                wall_time=time.perf_counter() - began,
            )
        if name == "eigenvalues":
            return self.pairs(name)
        if name == "trace":
            return trace(
                self.operator,
                rtol=plan.trace_rtol,
                seed=plan.seed,
                deflate=self.pairs(name),
                progress=self.ticks(name),
                **budget,
            )
        return spectral_density(
            self.operator,
            num_steps=plan.num_steps,
            seed=plan.seed,
            deflate=self.pairs(name),
            progress=self.ticks(name),
        )

    def pairs(self, name: str) -> Eigenpairs:
        """Eigenpairs at both ends, computed once and shared."""
        if self._pairs is None:
            self._pairs = eigsh(
                self.operator,
                self.plan.num_pairs(self.operator.size),
                which="BE",
                tol=self.plan.tol,
                seed=self.plan.seed,
                max_products=self.plan.max_products,
                progress=self.ticks(name),
            )
        return self._pairs


def result_path(checkpoint: str | Path) -> Path:
    """Where the results of a checkpoint go: `ckpt.pt` -> `ckpt.h5`, beside it."""
    path = Path(checkpoint)
    return path.with_name(path.name + ".h5") if path.is_dir() else path.with_suffix(".h5")


def probe(
    checkpoint: str | os.PathLike[str],
    source: Source | None = None,
    *,
    plan: Plan | None = None,
    out: str | Path | None = None,
    force: bool = False,
    vectors: bool = False,
    params: str | Sequence[str] = "*",
    bn: BatchNormPolicy = "eval",
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Measure a checkpoint and keep each record as soon as it is finished.

    Args:
        checkpoint: ours, or a foreign one for which `source` names model, data and loss; or a
            family, whose members are measured one after another; a trajectory is of them all, and
            its record lies beside the last, that of an ensemble and the like beside the first.
        plan: which probes; by default loss and accuracy, eigenvalues at both ends, trace and
            spectral density of the Hessian.
        out: the result file; by default `ckpt.h5` beside the checkpoint.
        force: measure again what is there already.
        vectors: keep eigenvectors, too: as long as the parameters, each.
        params, bn, batch_size, device, dtype: as for `load_objective`.
        progress: called with (probe, products, most products).
        on_outcome: called as each probe ends, its record being on disk.

    Returns:
        An outcome for each probe, in order. A probe that fails does not stop the others.

    Raises:
        RequestError: the request cannot be met; nothing was written.
    """
    plan = plan or Plan()
    work = planned(checkpoints_in(checkpoint), plan)
    if out is not None and len(work) > 1:
        raise RequestError("out names one file, and this is a family. Leave it out.")
    options: dict[str, Any] = {
        "params": params,
        "bn": bn,
        "batch_size": batch_size,
        "device": device,
        "dtype": dtype,
    }
    return [
        outcome
        for member, own_plan in work
        for outcome in _probe_one(
            member,
            source or Source(),
            own_plan,
            out,
            options,
            force=force,
            vectors=vectors,
            progress=progress,
            on_outcome=on_outcome,
        )
    ]


def _probe_one(
    checkpoint: Path,
    source: Source,
    plan: Plan,
    out: str | Path | None,
    options: dict[str, Any],
    *,
    force: bool,
    vectors: bool,
    progress: Progress | None,
    on_outcome: Callable[[Outcome], None] | None,
) -> list[Outcome]:
    target = Path(out) if out is not None else result_path(checkpoint)
    if target.is_file():
        store.records(target)  # a file that is not ours is refused before the work, not after
    objective, read = open_checkpoint(checkpoint, source, **options)
    plan.num_pairs(objective.space.size)  # a wrong k is refused before the first record
    session = _Session(objective, plan, progress)
    company = Company(objective, checkpoint, source, options)
    attributes = _attributes(read)
    outcomes = []
    for task in list(_tasks(session, company, plan)):  # what cannot be met is refused before all
        provenance = session.operator.provenance
        group = store.find(target, task.group, task.settings, provenance)
        if group is not None and not force:
            made = [Outcome(task.probe, "skipped", group=group)]
        else:
            try:
                state = _state_path(target, task.group, task.settings, provenance)
                results = task.measure(state)
            except RequestError as error:
                made = [Outcome(task.probe, "failed", error=str(error))]
            else:
                results = [replace(result, settings=task.settings) for result in results]
                groups = store.save(
                    target, results, force=force, vectors=vectors, attributes=attributes
                )
                made = [
                    Outcome(task.probe if number == 0 else result.probe, "measured", result, group)
                    for number, (result, group) in enumerate(zip(results, groups, strict=True))
                ]
        outcomes += made
        if on_outcome is not None:
            for outcome in made:
                on_outcome(outcome)
    session.operator.close()
    return outcomes


@dataclass(frozen=True)
class _Task:
    """One request to a checkpoint.

    Attributes:
        probe: as it was asked for.
        group: of the record in the file.
        settings: what identifies the record.
        measure: takes the file from which an interrupted one goes on.
    """

    probe: str
    group: str
    settings: dict[str, object]
    measure: Callable[[Path], list[Result]]


def _tasks(session: _Session, company: Company, plan: Plan) -> Iterator[_Task]:
    slices = SliceProbes(company, plan.slices, seed=plan.seed)
    paths = PathProbes(company, plan.paths, seed=plan.seed)
    learned = LearnedProbes(company, plan.learned, seed=plan.seed)
    for name in plan.probes:
        ticks = session.ticks(name)
        if name in SLICE_PROBES:
            # A line of several seeds is kept as lines.
            group = "lines" if name == "line" and plan.slices.num_seeds > 1 else name
            yield _Task(
                name,
                group,
                slices.settings(name),
                lambda state, name=name, ticks=ticks: slices.measure(  # type: ignore[misc]
                    name, state=state, progress=ticks
                ),
            )
        elif name in PATH_PROBES:
            for request in paths.requests(name):
                yield _Task(
                    f"{name}_aligned" if request.is_aligned and name == "barrier" else name,
                    request.group,
                    paths.settings(request),
                    lambda state, request=request, ticks=ticks: paths.measure(  # type: ignore[misc]
                        request, state=state, progress=ticks
                    ),
                )
        elif name in LEARNED_PROBES:
            yield _Task(
                name,
                name,
                learned.settings(name),
                lambda _, name=name, ticks=ticks: [learned.measure(name, ticks)],  # type: ignore[misc]
            )
        else:
            settings = plan.settings(name, company.objective.space.size)
            yield _Task(name, name, settings, lambda _, name=name: [session.measure(name)])  # type: ignore[misc]


def _state_path(
    target: Path, probe: str, settings: Mapping[str, object], provenance: Mapping[str, object]
) -> Path:
    """Where unfinished work is kept, beside its result file."""
    key = store.request_key(probe, settings, provenance)
    return target.with_name(f".{target.name}.{probe}-{key}.state")


def _attributes(checkpoint: Checkpoint) -> dict[str, str | float | bool | None]:
    """What `Results.table()` shows of a checkpoint, beside its measurements."""
    described: dict[str, str | float | bool | None] = {
        "checkpoint": checkpoint.path.name,
        "checkpoint_kind": checkpoint.kind,
    }
    if checkpoint.step is not None:
        described["step"] = checkpoint.step
    for name, value in checkpoint.recipe.items():
        if isinstance(value, (str, int, float, bool)):
            described["recipe" if name == "name" else f"recipe.{name}"] = value
    for name, number in checkpoint.metrics.items():
        described[f"trained.{name}"] = number
    return described
