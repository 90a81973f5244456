"""`landscape probe`: measure checkpoints, a result file beside each."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from landscape.cli.console import print_json
from landscape.cli.measuring import MeasuringOptions, json_object, measure, source_of
from landscape.cli.options import chosen, with_options
from landscape.learned_plan import LEARNED_PROBES, LearnedPlan
from landscape.path_plan import PATH_PROBES, PathPlan
from landscape.request import DEFAULT_PROBES, NUM_PAIRS, PROBES, Plan
from landscape.slice_plan import SLICE_PROBES, SlicePlan
from landscape.trainers.options import made

__all__ = ["probe"]

_MODEL = "Function that builds the network: 'pkg.mod:factory' or 'file.py:factory'."
_DATA = "Function that returns the data: tensors (inputs, targets) or an iterable of batches."
_LOSS = "cross_entropy, mse, bce, or 'pkg.mod:function': loss(output, target) or (model, batch)."
_PARAMS = "Only the parameters that match this glob; repeat for more, '!glob' takes away."


@with_options(SlicePlan, PathPlan, LearnedPlan)
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
        typer.Option(help="Another checkpoint: one for a line or a path, two for a plane."),
    ] = None,
    test_args: Annotated[
        str | None, typer.Option(help="Arguments that make the data the test data, as JSON.")
    ] = None,
    **given: Any,
) -> None:
    """Measure checkpoints: loss, Hessian eigenvalues at both ends, trace, spectral density.

    With --probe line, plane or trajectory: the loss along a line, in a plane, or around the path of
    several checkpoints; with barrier, curve, neb, similarity, soup, alignment or repair what lies
    between them; with linear, depth, features, bands or sparsity what was learned, and of several
    checkpoints ensemble, dynamics or memorization. The options from --towards on are for these.
    Writes CKPT.h5 beside each checkpoint, record by record; what is there already is skipped.
    """
    others = tuple(towards or ())
    test_arguments = json_object(test_args, "--test-args")
    slice_plan, path_plan, learned_plan = SlicePlan(), PathPlan(), LearnedPlan()
    if any(name in SLICE_PROBES for name in probes or ()):
        slice_plan = replace(
            made(SlicePlan, chosen(SlicePlan, given)), towards=others, test_arguments=test_arguments
        )
    if any(name in PATH_PROBES for name in probes or ()):
        path_plan = replace(
            made(PathPlan, chosen(PathPlan, given)), towards=others, test_arguments=test_arguments
        )
    if any(name in LEARNED_PROBES for name in probes or ()):
        learned_plan = replace(
            made(LearnedPlan, chosen(LearnedPlan, given)), test_arguments=test_arguments
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
        "paths": path_plan,
        "learned": learned_plan,
    }
    assert asked.keys() == {field.name for field in fields(Plan)}
    plan = Plan(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    source = source_of(model, model_args, data, data_args, loss, unsafe_load=unsafe_load)
    options = MeasuringOptions(
        out=out,
        force=force,
        vectors=vectors,
        as_json=as_json,
        quiet=quiet,
        objective={
            "params": params or "*",
            "bn": bn,
            "batch_size": batch_size,
            "device": device,
            "dtype": dtype,
        },
    )
    reports, code = measure([Path(one) for one in checkpoints], source, plan, options)
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
    raise typer.Exit(code)
