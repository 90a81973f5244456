"""`landscape path`: what lies between checkpoints; `landscape align`: units of one permuted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from landscape.cli.console import print_json
from landscape.cli.measuring import MeasuringOptions, json_object, measure, source_of
from landscape.cli.options import chosen, with_options
from landscape.errors import RequestError, unknown_choice
from landscape.path_plan import PATH_PROBES, PathPlan
from landscape.request import Plan, Source, checkpoints_in
from landscape.trainers.options import made

__all__ = ["align", "path"]

_AS_PROBE = "As for probe."


@with_options(PathPlan)
def path(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="A B...", show_default=False)],
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            help=f"One of {', '.join(PATH_PROBES)}; repeat for more. Default: barrier.",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write B with its units permuted, as .safetensors; with --align."),
    ] = None,
    model: Annotated[str | None, typer.Option(help=_AS_PROBE)] = None,
    model_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    data: Annotated[str | None, typer.Option(help=_AS_PROBE)] = None,
    data_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    test_args: Annotated[
        str | None, typer.Option(help="Arguments that make the data the test data, as JSON.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help=_AS_PROBE)] = None,
    unsafe_load: Annotated[bool, typer.Option("--unsafe-load", help=_AS_PROBE)] = False,
    params: Annotated[list[str] | None, typer.Option(help=_AS_PROBE)] = None,
    batch_size: Annotated[int | None, typer.Option(help=_AS_PROBE)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="Compute in float32, float64, ...")] = None,
    seed: Annotated[int, typer.Option(help="Of whatever is drawn.")] = Plan.seed,
    out: Annotated[Path | None, typer.Option(help="Result file. Default: A.h5.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Measure again what is there already.")
    ] = False,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Keep weights along the way in the file, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the file name only.")] = False,
    **given: Any,
) -> None:
    """The barrier between two checkpoints, or between all pairs of several, and what else is there.

    Records go into A.h5, as by `landscape probe A --towards B`. With --align the units of B are
    permuted first, and the barrier is measured before and after.
    """
    plan = made(PathPlan, chosen(PathPlan, given))
    source = source_of(model, model_args, data, data_args, loss, unsafe_load=unsafe_load)
    options = MeasuringOptions(
        out=out,
        force=force,
        vectors=vectors,
        as_json=as_json,
        quiet=quiet,
        objective={
            "params": params or "*",
            "batch_size": batch_size,
            "device": device,
            "dtype": dtype,
        },
    )
    plan = replace(plan, test_arguments=json_object(test_args, "--test-args"))
    wanted = tuple(probes or ["barrier"])
    for name in wanted:
        if name not in PATH_PROBES:
            raise unknown_choice("probe between checkpoints", name, PATH_PROBES)
    if save is not None and plan.align == "none" and "alignment" not in wanted:
        raise RequestError("--save writes an aligned checkpoint: add --align weights.")
    code = _carry_out(checkpoints, source, plan, wanted, options, save, seed)
    raise typer.Exit(code)


def align(
    a: Annotated[Path, typer.Argument(metavar="A", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", show_default=False)],
    save: Annotated[
        Path | None, typer.Option(help="Where to write B with its units permuted. Default: none.")
    ] = None,
    method: Annotated[str, typer.Option(help="weights or activations.")] = "weights",
    num_restarts: Annotated[int, typer.Option(help="Random starts, of weights.")] = (
        PathPlan.num_restarts
    ),
    model: Annotated[str | None, typer.Option(help=_AS_PROBE)] = None,
    model_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    data: Annotated[str | None, typer.Option(help=_AS_PROBE)] = None,
    data_args: Annotated[str | None, typer.Option(help="Its arguments, as JSON.")] = None,
    loss: Annotated[str | None, typer.Option(help=_AS_PROBE)] = None,
    unsafe_load: Annotated[bool, typer.Option("--unsafe-load", help=_AS_PROBE)] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the search.")] = Plan.seed,
    force: Annotated[
        bool, typer.Option("--force", help="Measure again what is there already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Permute the units of B so that its weights come close to those of A; its function is kept."""
    chosen_options = {"align": method, "num_restarts": num_restarts}
    plan = made(PathPlan, chosen_options)
    source = source_of(model, model_args, data, data_args, loss, unsafe_load=unsafe_load)
    options = MeasuringOptions(force=force, as_json=as_json)
    raise typer.Exit(_carry_out([a, b], source, plan, ("alignment",), options, save, seed))


def _carry_out(
    checkpoints: Sequence[Path],
    source: Source,
    plan: PathPlan,
    probes: tuple[str, ...],
    options: MeasuringOptions,
    save: Path | None,
    seed: int,
) -> int:
    members = [one for path in checkpoints for one in checkpoints_in(path)]
    if len(members) < 2:
        raise RequestError("a path is between checkpoints: name two, such as landscape path A B.")
    plan = replace(plan, towards=tuple(members[1:]))
    if save is not None and not save.parent.is_dir():
        raise RequestError(f"no folder {str(save.parent)!r} to write {save.name} in. Make it.")
    if save is not None:
        probes = tuple(dict.fromkeys(("alignment", *probes)))
    whole = Plan(probes=probes, seed=seed, paths=plan)
    (report,), code = measure(members[:1], source, whole, options)
    if save is not None:
        _save(members[0], source, plan, options, save, seed)
        report["aligned"] = str(save)
        if not (options.as_json or options.quiet):
            print(f"  {plan.towards[0]}, aligned -> {save}")
    if options.as_json:
        print_json(_headlines(report, members) | report)
    return code


def _save(
    checkpoint: Path,
    source: Source,
    plan: PathPlan,
    options: MeasuringOptions,
    target: Path,
    seed: int,
) -> None:
    from landscape.company import Company
    from landscape.path_probes import PathProbes
    from landscape.request import load_objective

    objective = load_objective(checkpoint, source, **options.objective)
    company = Company(objective, checkpoint, source, options.objective)
    PathProbes(company, plan, seed=seed).save_aligned(target)


def _headlines(report: dict[str, Any], members: Sequence[Path]) -> dict[str, Any]:
    """The barriers, at the top of what a program reads."""
    found: dict[str, Any] = {"checkpoints": [str(member) for member in members]}
    for record in report["records"]:
        values = record.get("values", {})
        name = record["probe"]
        if name.startswith("barrier") and "barrier" in values:
            found[name] = values["barrier"]
            found[f"{name}_error"] = values["barrier_error"]
    return found
