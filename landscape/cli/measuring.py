"""Measuring: checkpoints from the command line into their result files, told as it goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from landscape.cli.console import Progress, fail, progress_bar
from landscape.errors import RequestError
from landscape.learned_plan import LEARNED_PROBES
from landscape.path_plan import PATH_PROBES
from landscape.request import Plan, Source, checkpoints_in, planned
from landscape.slice_plan import SLICE_PROBES

if TYPE_CHECKING:
    from landscape.probing import Outcome

__all__ = ["MeasuringOptions", "json_object", "measure", "source_of"]

_SHOWN_SECONDS = 0.05
# What is noted on the objective stands under the metrics; these have doubts of their own.
_NOTED = ("metrics", *SLICE_PROBES, *PATH_PROBES, *LEARNED_PROBES)


@dataclass(frozen=True)
class MeasuringOptions:
    """How checkpoints are measured and told of.

    Attributes:
        out: the result file, for one checkpoint; by default beside it.
        force: measure again what is there already.
        vectors: keep what is as long as the parameters, too.
        as_json, quiet: print nothing as it goes, or the file names only.
        objective: arguments of `load_objective`.
    """

    out: Path | None = None
    force: bool = False
    vectors: bool = False
    as_json: bool = False
    quiet: bool = False
    objective: Mapping[str, Any] = field(default_factory=dict)


def measure(
    checkpoints: Sequence[Path], source: Source, plan: Plan, options: MeasuringOptions
) -> tuple[list[dict[str, Any]], int]:
    """Measure them one after another; what is to be reported of each, and the exit code."""
    work = planned([one for path in checkpoints for one in checkpoints_in(path)], plan)
    if options.out is not None and len(work) > 1:
        raise RequestError(
            f"--out names one file, and {len(work)} checkpoints were given. Leave it out: "
            "each gets a file of its own."
        )
    reports, worst = [], 0
    chatty = not (options.quiet or options.as_json)
    with progress_bar(quiet=not chatty) as bar:
        for checkpoint, own_plan in work:
            try:
                report, code = _measure_one(
                    checkpoint, source, own_plan, options, bar, chatty=chatty
                )
            except RequestError as error:
                if len(work) == 1:
                    raise
                fail(f"{checkpoint}: {error}")
                report, code = {"checkpoint": str(checkpoint), "error": str(error)}, 2
            reports.append(report)
            worst = max(worst, code)
            if options.quiet and not options.as_json and "file" in report:
                print(report["file"])
    return reports, worst


def _measure_one(
    checkpoint: Path,
    source: Source,
    plan: Plan,
    options: MeasuringOptions,
    bar: Progress,
    *,
    chatty: bool,
) -> tuple[dict[str, Any], int]:
    """Measure one checkpoint; what is to be reported, and the exit code."""
    from landscape import probing

    target = options.out or probing.result_path(checkpoint)
    if chatty:
        print(f"{checkpoint}", flush=True)
    report: dict[str, Any] = {"checkpoint": str(checkpoint), "file": str(target), "records": []}
    code = 0

    def on_outcome(outcome: Outcome) -> None:
        nonlocal code
        bar.finish()
        report["records"].append(_report(outcome, target))
        if outcome.state == "failed":
            code = 1
            fail(f"{outcome.probe} of {checkpoint}: {outcome.error}")
        elif chatty:
            _print_outcome(outcome, target)

    try:
        probing.probe(
            checkpoint,
            source,
            plan=plan,
            out=options.out,
            force=options.force,
            vectors=options.vectors,
            progress=bar.report,
            on_outcome=on_outcome,
            **options.objective,
        )
    except KeyboardInterrupt:
        bar.finish()
        done = len(report["records"])
        print(
            f"landscape: interrupted; {done} finished record(s) are in {target}. The same command "
            "goes on from there.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if chatty:
        print(f"  -> {target}")
    return report, code


def _print_outcome(outcome: Outcome, target: Path) -> None:
    from landscape import store
    from landscape.cli.summary import describe

    assert outcome.group is not None
    text = describe(outcome.group.split("/")[1], store.read(target, outcome.group))
    suffix = " (was there; --force measures again)" if outcome.state == "skipped" else ""
    if outcome.result is not None and outcome.result.wall_time > _SHOWN_SECONDS:
        result = outcome.result
        products = f"{result.num_products} products, " if result.num_products else ""
        suffix = f"  [{products}{result.wall_time:.1f} s]"
    print(f"  {outcome.probe + ' ':<12}{text}{suffix}", flush=True)
    if outcome.result is not None and outcome.probe in _NOTED:
        for note in outcome.result.notes:
            print(f"  note: {note}")


def _report(outcome: Outcome, target: Path) -> dict[str, Any]:
    from landscape import store

    report: dict[str, Any] = {"probe": outcome.probe, "state": outcome.state}
    if outcome.group is None:
        return report | {"error": outcome.error}
    record = store.read(target, outcome.group)
    status = {info.group: info.status for info in store.records(target)}[outcome.group]
    # Everything but long curves: a program reads those from the file.
    values = {str(n): v.values for n, v in record.data_vars.items() if v.size <= 64}
    return report | {"group": outcome.group, "status": status, "values": values}


def source_of(
    model: str | None,
    model_args: str | None,
    data: str | None,
    data_args: str | None,
    loss: str | None,
    *,
    unsafe_load: bool = False,
) -> Source:
    """Where model, data and loss come from, as the options of these names say it."""
    return Source(
        model=model,
        data=data,
        loss=loss,
        model_arguments=json_object(model_args, "--model-args"),
        data_arguments=json_object(data_args, "--data-args"),
        unsafe_load=unsafe_load,
    )


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """The object that an option holds as JSON, or nothing."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"{option} {text!r} is not JSON ({error}). Write {option} '{{\"width\": 3}}'."
        ) from None
    if not isinstance(value, dict):
        raise RequestError(f"{option} {text!r} is no object. Write {option} '{{\"width\": 3}}'.")
    return value
