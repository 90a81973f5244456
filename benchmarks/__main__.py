"""`python -m benchmarks NAME`: arguments in, tables and JSON out. Exit code 2: a wrong request."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from landscape.errors import RequestError, unknown_choice

__all__ = ["main"]

# A module of this package each; not imported before it is asked for.
_BENCHMARKS = {
    "products": "Hessian products beside PyHessian, curvlinops and hessian-eigenthings",
    "eigenvalues": "products, seconds and true error to the largest eigenvalues, beside the peers",
    "training": "networks trained together against one after another; the tick study, whole",
    "slices": "planes of the loss beside loss-landscapes and the point-by-point loop",
    "paths": "barriers beside a loop that reloads its data; alignment, curves, REPAIR, exactness",
    "probes": "a grid of linear probes beside scikit-learn, at equal accuracy of the objective",
}


def main(arguments: Sequence[str]) -> int:
    """Run one benchmark; the exit code comes back."""
    try:
        _run(arguments)
    except RequestError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def _run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and accuracy beside the peers."
    )
    parser.add_argument("benchmark", nargs="?", help=", ".join(_BENCHMARKS))
    parser.add_argument("--list", action="store_true", help="one line for each benchmark")
    known, rest = parser.parse_known_args(arguments[:1])
    if known.list:
        width = max(map(len, _BENCHMARKS))
        print("\n".join(f"{name:{width}}  {line}" for name, line in _BENCHMARKS.items()))
        return
    if known.benchmark is None:
        raise RequestError("no benchmark named. `python -m benchmarks --list` lists them.")
    if known.benchmark not in _BENCHMARKS:
        raise unknown_choice("benchmark", known.benchmark, _BENCHMARKS)
    _run_one(known.benchmark, [*rest, *arguments[1:]])


def _run_one(name: str, arguments: Sequence[str]) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}", description=_BENCHMARKS[name]
    )
    module.add_arguments(parser)
    parser.add_argument(
        "--repeats", type=int, default=15, help="rounds of turns (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    parser.add_argument("--no-peers", action="store_true", help="only what needs no other library")
    parsed = parser.parse_args(arguments)
    if parsed.repeats < 1:
        raise RequestError(f"--repeats {parsed.repeats}: expected a number from 1 on.")
    if parsed.json is not None and not parsed.json.parent.is_dir():
        raise RequestError(f"--json {parsed.json}: the folder {parsed.json.parent} is not there.")
    if not parsed.no_peers:
        importlib.import_module("benchmarks.peers").check_installed()
    where = importlib.import_module("benchmarks.environment").environment()
    print("\n".join(f"{key:22}  {value}" for key, value in where.items()), flush=True)
    found = module.run(parsed)
    if parsed.json is not None:
        report = {"benchmark": name, "repeats": parsed.repeats, "environment": where} | found
        parsed.json.write_text(json.dumps(report, indent=1, default=dataclasses.asdict) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
