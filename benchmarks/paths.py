"""Paths between solutions: barriers beside the loop that reloads its data, alignment, exactness.

A point of ResNet-20 takes seconds, and all of a line cost the same: in each round one is timed.
What is no point's (the trial, what is prepared, what is concluded) is measured on a whole run of
ours, and counted. Lines of the MLP are short, and timed whole.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import path_checks, path_connectivity
from benchmarks.path_cases import PathCase, mlp_case, resnet_case
from benchmarks.path_contestants import Ours, Whole, fastest_loop, pooled_losses, write_images
from benchmarks.slice_contestants import in_turns
from benchmarks.slices import Target
from benchmarks.table import plain_table
from benchmarks.timing import Spread
from landscape.errors import RequestError, unknown_choice

__all__ = ["Comparison", "Row", "add_arguments", "run"]

_PARTS = ("barrier", "matrix", "matching", "connectivity", "exactness")
_POINTS = 25  # of a line
_MATRIX_POINTS = 11  # of a line of ResNet-20, in a matrix
_LEAST = {"images": 2, "matrix_images": 2, "solutions": 3, "steps": 2, "pairs": 1}
_SECONDS_ROUNDS = 5  # at most, of what takes seconds
_LOOP_POINTS = 10  # of the MLP's loops, in a round
_RATIO = 3.0
_TOLERANCE = 1e-5  # relative difference of two float32 losses that rounding explains


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        point: seconds of a point, in each round.
        num_points: that it evaluates; the loop does not know that a family shares its ends.
        overhead: seconds that are no point's.
        difference: largest relative difference of a loss from the true one.
    """

    name: str
    point: list[float]
    num_points: int
    overhead: float
    difference: float

    @property
    def seconds(self) -> list[float]:
        """Of everything, in each round."""
        return [self.overhead + self.num_points * point for point in self.point]


@dataclass(frozen=True)
class Comparison:
    """All contestants on the same lines.

    Attributes:
        rows: ours first.
        whole: one whole run of ours.
    """

    title: str
    rows: list[Row]
    whole: Whole

    def ratio(self, row: Row) -> Spread:
        """Seconds of all its points over those of ours, within a round."""
        both = zip(row.seconds, self.rows[0].seconds, strict=True)
        return Spread.of([its / ours for its, ours in both])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", default=",".join(_PARTS), help="some of %(default)s, with commas"
    )
    parser.add_argument(
        "--images", type=int, default=2048,
        help="of ResNet-20's barrier (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--matrix-images", type=int, default=128,
        help="of ResNet-20's barrier matrix (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--solutions", type=int, default=8, help="of a barrier matrix (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=400,
        help="of training a network for digits, and twice as many as of fitting a curve "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--widths", default="32,64,128,256,512",
        help="of the MLPs that are connected (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=int, default=3,
        help="of networks that are connected, of each width (default: %(default)s)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure and print; the numbers for JSON come back."""
    parts = [name.strip() for name in arguments.parts.split(",") if name.strip()]
    for name in parts:
        if name not in _PARTS:
            raise unknown_choice("part", name, _PARTS)
    for name, least in _LEAST.items():
        given = getattr(arguments, name)
        if given < least:
            option = name.replace("_", "-")
            raise RequestError(f"--{option} {given}: expected a number from {least} on.")
    widths = _widths(arguments.widths)
    works: dict[str, Callable[[], tuple[object, list[Target]]]] = {
        "barrier": lambda: _barrier(arguments.images, arguments.repeats),
        "matrix": lambda: _matrices(arguments),
        "matching": lambda: path_connectivity.matching(min(arguments.repeats, _SECONDS_ROUNDS)),
        "connectivity": lambda: path_connectivity.connectivity(
            widths, arguments.pairs, arguments.steps
        ),
        "exactness": path_checks.exactness,
    }
    found: dict[str, object] = {}
    targets: list[Target] = []
    for name in _PARTS:
        if name in parts:
            found[name], promised = works[name]()
            targets += promised
    rows = [(one.promise, one.found, one.verdict) for one in targets]
    print("\n" + plain_table(("target", "found", ""), rows), flush=True)
    return found | {"targets": targets}


def _widths(text: str) -> list[int]:
    try:
        widths = [int(width) for width in text.split(",")]
    except ValueError:
        widths = []
    if not widths or min(widths) < 1 or widths != sorted(set(widths)):
        raise RequestError(f"--widths {text}: expected numbers from 1 on, ascending, with commas.")
    return widths


# -- seconds -----------------------------------------------------------------------------------


def _barrier(num_images: int, repeats: int) -> tuple[Comparison, list[Target]]:
    case = resnet_case(num_images, 2)
    title = f"{case.description}: a barrier of {_POINTS} points"
    compared = _compared(title, case, _POINTS, min(repeats, _SECONDS_ROUNDS), is_short=False)
    return compared, _targets("ResNet-20, barrier", compared)


def _matrices(arguments: argparse.Namespace) -> tuple[list[Comparison], list[Target]]:
    count, repeats = arguments.solutions, arguments.repeats
    cases = {
        "ResNet-20": (resnet_case(arguments.matrix_images, count), _MATRIX_POINTS),
        "digits MLP": (mlp_case(count, arguments.steps), _POINTS),
    }
    found, promised = [], list[Target]()
    for name, (case, num) in cases.items():
        title = f"{case.description}: all lines between {count} solutions, {num} points each"
        is_short = name != "ResNet-20"
        rounds = repeats if is_short else min(repeats, _SECONDS_ROUNDS)
        compared = _compared(title, case, num, rounds, is_short=is_short)
        found.append(compared)
        promised += _targets(f"{name}, matrix", compared)
    return found, promised


def _compared(title: str, case: PathCase, num: int, rounds: int, *, is_short: bool) -> Comparison:
    """All contestants in turns: ours as a whole in each round if it is short, else one point."""
    print(f"\n{title}", flush=True)
    ours = Ours(case, num)
    whole = ours.whole()
    print("  " + "\n  ".join(whole.notes), flush=True)
    count = len(case.solutions)
    checked = [0, num // 2, num - 1]  # points of the first line whose losses are compared
    of_loop = count * (count - 1) // 2 * num
    alphas = np.linspace(0, 1, num)[checked].tolist()
    true = pooled_losses(case, alphas)
    with tempfile.TemporaryDirectory() as folder:
        loops = [fastest_loop(case, write_images(case, Path(folder))), fastest_loop(case, None)]
        works = {ours.name: ours.whole_work() if is_short else ours.work()}
        works |= {loop.name: loop.work(_LOOP_POINTS if is_short else 1) for loop in loops}
        _, timings = in_turns(works, rounds)
        points = {name: [timing.unit for timing in own] for name, own in timings.items()}
        own_losses = [whole.losses[index] for index in checked]
        rows = [
            Row(
                ours.name, points[ours.name], ours.num_points, 0.0 if is_short else whole.overhead,
                _largest(own_losses, true),
            )
        ]  # fmt: skip
        rows += [
            Row(loop.name, points[loop.name], of_loop, 0.0, _largest(loop.losses(alphas), true))
            for loop in loops
        ]
    compared = Comparison(title, rows, whole)
    print(_drawn(compared))
    print(f"All of ours, run once from beginning to end: {whole.seconds:.3g} s.")
    if case.has_batch_norm:
        print(
            "The loops' update_bn averages the variances of batches and leaves out how their means "
            f"differ: losses are off by up to {max(row.difference for row in rows[1:]):.0e}.",
            flush=True,
        )
    return compared


def _largest(losses: Sequence[float], true: Sequence[float]) -> float:
    return max(abs(loss / its - 1) for loss, its in zip(losses, true, strict=True))


def _targets(name: str, compared: Comparison) -> list[Target]:
    ours, reloading = compared.rows[0], compared.rows[1]
    times, difference = compared.ratio(reloading), ours.difference
    found = f"{times.median:.2f} ({times.minimum:.2f} to {times.maximum:.2f})"
    return [
        Target.of(
            f"{name}: the loop takes {_RATIO:g} times as long", found, times.median >= _RATIO
        ),
        Target.of(
            f"{name}: losses are those of pooled statistics, relative difference",
            f"{difference:.0e}",
            difference <= _TOLERANCE,
        ),
    ]


def _drawn(compared: Comparison) -> str:
    header = (
        "contestant", "ms a point", "points", "s overhead", "s all", "ratio", "range", "difference",
    )  # fmt: skip
    return plain_table(header, [_cells(compared, row) for row in compared.rows])


def _cells(compared: Comparison, row: Row) -> tuple[str, ...]:
    ratio = compared.ratio(row)
    return (
        row.name,
        f"{1e3 * Spread.of(row.point).median:.4g}",
        f"{row.num_points}",
        f"{row.overhead:.2g}",
        f"{Spread.of(row.seconds).median:.4g}",
        f"{ratio.median:.2f}",
        f"({ratio.minimum:.2f} to {ratio.maximum:.2f})",
        f"{row.difference:.0e}",
    )
