"""`landscape probe`: measure checkpoints, a result file beside each."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landscape.cli.console import Progress, fail, print_json, progress_bar
from landscape.cli.options import with_options
from landscape.errors import RequestError
from landscape.request import (
    DEFAULT_PROBES,
    NUM_PAIRS,
    PROBES,
    Plan,
    Source,
    checkpoints_in,
    planned,
)
from landscape.slice_plan import SLICE_PROBES, SlicePlan
from landscape.trainers.options import made

if TYPE_CHECKING:
    from landscape.probing import Outcome

__all__ = ["json_object", "probe"]

_MODEL = "Function that builds the network: 'pkg.mod:factory' or 'file.py:factory'."
_DATA = "Function that returns the data: tensors (inputs, targets) or an iterable of batches."
_LOSS = "cross_entropy, mse, bce, or 'pkg.mod:function': loss(output, target) or (model, batch)."
_SHOWN_SECONDS = 0.05
_PARAMS = "Only the parameters that match this glob; repeat for more, '!glob' takes away."


@with_options(SlicePlan)
def probe(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CKPT...", show_default=False)],
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            help=f"One of {', '.join(PROBES)}; repeat for more. Default: the first "
            f"{len(DEFAULT_PROBES)}.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help=_MODEL)] = None,
    model_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    data: Annotated[str | None, typer.Option(help=_DATA)] = None,
    data_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    loss: Annotated[str | None, typer.Option(help=_LOSS)] = None,
    unsafe_load: Annotated[
        bool,
        typer.Option(
            "--unsafe-load",
            help="Let a pickle run code, and a checkpoint name any. Only if you trust its origin.",
        ),
    ] = False,
    params: Annotated[list[str] | None, typer.Option(help=_PARAMS)] = None,
    bn: Annotated[
        str, typer.Option(help="BatchNorm statistics: eval, batch or recalibrate.")
    ] = "eval",
    batch_size: Annotated[
        int | None, typer.Option(help="Split tensors into batches of this many.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="Compute in float32, float64, ...")] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", "--k", help=f"Eigenpairs, half at each end. Default: {NUM_PAIRS}."),
    ] = None,
    tol: Annotated[
        float | None, typer.Option(help=f"Relative residual of a pair. Default: {Plan.tol:g}.")
    ] = None,
    trace_rtol: Annotated[
        float | None,
        typer.Option(help=f"Relative half-width of the trace. Default: {Plan.trace_rtol:g}."),
    ] = None,
    num_steps: Annotated[
        int | None,
        typer.Option(help=f"Lanczos steps of the density. Default: {Plan.num_steps}."),
    ] = None,
    max_products: Annotated[
        int | None, typer.Option(help="Most products for eigenvalues, and for the trace.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help=f"Of all random vectors. Default: {Plan.seed}.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Result file, for one checkpoint. Default: CKPT.h5.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Measure again what is there already.")
    ] = False,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Keep the eigenvectors in the file, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the file names only.")] = False,
    towards: Annotated[
        list[Path] | None,
        typer.Option(help="Another checkpoint: one for a line, two for a plane through all three."),
    ] = None,
    test_args: Annotated[
        str | None, typer.Option(help="Arguments that make the data the test data, as JSON.")
    ] = None,
    **slices: Any,
) -> None:
    """Measure checkpoints: loss, Hessian eigenvalues at both ends, trace, spectral density.

    With --probe line, plane or trajectory: the loss along a line, in a plane, or around the path of
    several checkpoints; the options from --towards on are for these. Writes CKPT.h5 beside each
    checkpoint, record by record; what is there already is skipped.
    """
    chosen = {name: value for name, value in slices.items() if value is not None}
    slice_plan = replace(
        made(SlicePlan, chosen),
        towards=tuple(towards or ()),
        test_arguments=json_object(test_args, "--test-args"),
    )
    asked = {
        "probes": probes,
        "k": k,
        "tol": tol,
        "trace_rtol": trace_rtol,
        "num_steps": num_steps,
        "max_products": max_products,
        "seed": seed,
        "slices": slice_plan,
    }
    assert asked.keys() == {field.name for field in fields(Plan)}
    plan = Plan(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    source = Source(
        model=model,
        data=data,
        loss=loss,
        model_arguments=json_object(model_args, "--model-args"),
        data_arguments=json_object(data_args, "--data-args"),
        unsafe_load=unsafe_load,
    )
    work = planned([one for path in checkpoints for one in checkpoints_in(path)], plan)
    if out is not None and len(work) > 1:
        raise RequestError(
            f"--out names one file, and {len(work)} checkpoints were given. Leave it out: "
            "each gets a file of its own."
        )
    options = {
        "force": force,
        "vectors": vectors,
        "params": params or "*",
        "bn": bn,
        "batch_size": batch_size,
        "device": device,
        "dtype": dtype,
    }
    reports, worst, chatty = [], 0, not (quiet or as_json)
    with progress_bar(quiet=not chatty) as bar:
        for checkpoint, own_plan in work:
            try:
                report, code = _probe_one(
                    checkpoint, source, own_plan, out, options, bar, chatty=chatty
                )
            except RequestError as error:
                if len(work) == 1:
                    raise
                fail(f"{checkpoint}: {error}")
                report, code = {"checkpoint": str(checkpoint), "error": str(error)}, 2
            reports.append(report)
            worst = max(worst, code)
            if quiet and not as_json and "file" in report:
                print(report["file"])
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
    raise typer.Exit(worst)


def _probe_one(
    checkpoint: Path,
    source: Source,
    plan: Plan,
    out: Path | None,
    options: dict[str, Any],
    bar: Progress,
    *,
    chatty: bool,
) -> tuple[dict[str, Any], int]:
    """Measure one checkpoint; what is to be reported, and the exit code."""
    from landscape import probing

    target = out or probing.result_path(checkpoint)
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
            out=out,
            progress=bar.report,
            on_outcome=on_outcome,
            **options,
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
    text = describe(outcome.probe, store.read(target, outcome.group))
    suffix = " (was there; --force measures again)" if outcome.state == "skipped" else ""
    if outcome.result is not None and outcome.result.wall_time > _SHOWN_SECONDS:
        result = outcome.result
        products = f"{result.num_products} products, " if result.num_products else ""
        suffix = f"  [{products}{result.wall_time:.1f} s]"
    print(f"  {outcome.probe:<12}{text}{suffix}", flush=True)
    # What is noted on the objective stands under the metrics; a slice has doubts of its own.
    if outcome.result is not None and outcome.probe in ("metrics", *SLICE_PROBES):
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
