"""Planes of the loss beside loss-landscapes and the point-by-point loop, with checks of their own.

All of them cost the same at every point: ResNet-20 is timed on a few. What is no point's stands
apart and is counted in the seconds of the plane; so are the trial that chooses how we evaluate it
and the compiling, both timed once. Our plane of the MLP is short, and timed whole.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import slice_checks
from benchmarks.slice_cases import Case, cnn_case, forward_flops, grid_points, mlp_case
from benchmarks.slice_contestants import (
    Loop,
    Ours,
    Timing,
    Work,
    fastest_loop,
    fresh_compiler_cache,
    gemm,
    in_turns,
    our_executions,
    peer_row_offset,
    peer_walk,
    peer_work,
)
from benchmarks.table import plain_table
from benchmarks.timing import Spread
from landscape.errors import RequestError, unknown_choice
from landscape.memory import format_bytes

__all__ = ["Comparison", "Row", "Target", "add_arguments", "run"]

_PARTS = ("exactness", "cnn", "mlp", "memory")
_CNN_GRID = (21, 21)
_CNN_SOME = (3, 5)  # of that plane, its corners included: what is timed in a round
_CNN_POINTS, _MLP_POINTS = 3, 51  # of the loop, in a round
_CNN_STEPS, _MLP_STEPS = 2, 8  # along each axis, of loss-landscapes in a round
_CHECKED = (3, 3)  # the plane whose losses are compared
_TOLERANCE = 1e-5  # relative difference of two float32 losses that rounding explains
_OURS, _PEER = "landscape", "loss-landscapes"
_CNN_RATIO, _MLP_RATIO = 3.0, 10.0
_EAGER_SHARE, _COMPILED_SHARE = 0.75, 0.90


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        point: seconds of a point, in each round.
        overhead: seconds that are no point's, in each round: copies, trial, compiling, caveats.
        difference: largest relative difference of a loss from the loop's at the same weights.
        gemm_target: share of the GEMM rate that was promised; None where nothing was.
    """

    name: str
    point: list[float]
    overhead: list[float]
    difference: float
    gemm_target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether it is right."""
        return "" if self.difference <= _TOLERANCE else "WRONG LOSSES"


@dataclass(frozen=True)
class Comparison:
    """All contestants on one plane.

    Attributes:
        flops: of the forward passes of one point.
        gemm: seconds of a FLOP in large float32 matrix products, in each round.
        rows: ours first.
        full_seconds: of our whole plane, where it was run.
    """

    network: str
    description: str
    num_points: int
    flops: float
    gemm: list[float]
    rows: list[Row]
    full_seconds: float | None = None

    def plane(self, row: Row) -> list[float]:
        """Seconds of the whole plane, in each round."""
        both = zip(row.overhead, row.point, strict=True)
        return [overhead + self.num_points * point for overhead, point in both]

    def ratio(self, row: Row) -> Spread:
        """Seconds of its plane over those of ours, within a round."""
        both = zip(self.plane(row), self.plane(self.rows[0]), strict=True)
        return Spread.of([its / ours for its, ours in both])

    def gemm_share(self, row: Row) -> Spread:
        """FLOPs of the forward passes over seconds of the plane, in units of the GEMM rate."""
        flops = self.num_points * self.flops
        both = zip(self.gemm, self.plane(row), strict=True)
        return Spread.of([flops * of_a_flop / plane for of_a_flop, plane in both])


@dataclass(frozen=True)
class Target:
    """What was promised, and what was found."""

    promise: str
    found: str
    verdict: str

    @classmethod
    def of(cls, promise: str, found: str, met: bool) -> Target:
        return cls(promise, found, "met" if met else "NOT MET")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", default=",".join(_PARTS), help="some of %(default)s, with commas"
    )
    parser.add_argument(
        "--images", type=int, default=2048, help="that ResNet-20 sees (default: %(default)s)"
    )
    parser.add_argument(
        "--side", type=int, default=51,
        help="points along each axis of the MLP's plane (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-compiled", action="store_true", help="leave the compiled ResNet-20 out"
    )
    parser.add_argument(
        "--full", action="store_true", help="also run all 441 points of ResNet-20, once"
    )


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure and print; the numbers for JSON come back."""
    parts = [name.strip() for name in arguments.parts.split(",") if name.strip()]
    for name in parts:
        if name not in _PARTS:
            raise unknown_choice("part", name, _PARTS)
    for name, least in {"images": 2, "side": 3}.items():
        given = getattr(arguments, name)
        if given < least:
            raise RequestError(f"--{name} {given}: expected a number from {least} on.")
    found: dict[str, object] = {}
    targets: list[Target] = []
    if "exactness" in parts:
        checks = slice_checks.exactness()
        print("\n" + _drawn_checks(checks), flush=True)
        found["exactness"] = checks
        targets += [Target.of(c.claim, f"{c.measured:.1e}", c.holds) for c in checks]
    if "cnn" in parts:
        with fresh_compiler_cache():
            cnn = _cnn(arguments)
        found["cnn"] = cnn
        targets += _targets(cnn, _CNN_RATIO)
    if "mlp" in parts:
        compared = _mlp(arguments)
        found["mlp"] = compared
        targets += _targets(compared, _MLP_RATIO)
    if "memory" in parts:
        growths = slice_checks.memory(arguments.side, arguments.images)
        print("\n" + _drawn_growths(growths), flush=True)
        found["memory"] = growths
        for step in (step for growth in growths for step in growth.steps):
            targets.append(Target.of(step.claim, _signed_bytes(step.growth), step.holds))
    print("\n" + _drawn_targets(targets), flush=True)
    return found | {"targets": targets}


# -- what is timed -----------------------------------------------------------------------------


def _cnn(arguments: argparse.Namespace) -> Comparison:
    case = cnn_case(arguments.images)
    print(f"\n{case.description}: a plane of {_CNN_GRID[0]} x {_CNN_GRID[1]} points", flush=True)
    ours = our_executions(case, _CNN_GRID, compiled=not arguments.no_compiled)
    for one in ours:
        print(f"  {one.name}: {one.execution}; trial {one.trial_seconds:.1f} s", flush=True)
    loop = fastest_loop(case, in_memory=False)
    works: dict[str, Work] = {one.name: one.work(_CNN_SOME) for one in ours}
    works |= {"GEMM": gemm(), loop.name: loop.work(_CNN_POINTS)}
    if not arguments.no_peers:
        works[_PEER] = peer_work(case, _CNN_STEPS)
    first, timings = in_turns(works, arguments.repeats)
    rows = [_row_of_ours(one, first[one.name], timings[one.name], loop) for one in ours]
    rows.append(_row_of_loop(loop, timings, loop))
    if not arguments.no_peers:
        rows.append(_row_of_peer(case, timings[_PEER], loop))
    compared = _compared("ResNet-20", case, math.prod(_CNN_GRID), timings["GEMM"], rows)
    if arguments.full:
        whole = Ours(_OURS, case, "auto").plane(_CNN_GRID)
        print(f"All {compared.num_points} points, trial and all: {whole.wall_time:.0f} s")
        print("  " + "\n  ".join(whole.notes), flush=True)
        compared = replace(compared, full_seconds=whole.wall_time)
    return compared


def _mlp(arguments: argparse.Namespace) -> Comparison:
    case, num = mlp_case(), (arguments.side, arguments.side)
    print(f"\n{case.description}: a plane of {num[0]} x {num[1]} points", flush=True)
    ours = Ours(_OURS, case, "auto")
    print("  " + "\n  ".join(ours.plane(num).notes), flush=True)
    loops = [fastest_loop(case, in_memory=False), fastest_loop(case, in_memory=True)]
    works: dict[str, Work] = {"GEMM": gemm(), ours.name: ours.work(num)}
    works |= {loop.name: loop.work(_MLP_POINTS) for loop in loops}
    if not arguments.no_peers:
        works[_PEER] = peer_work(case, _MLP_STEPS)
    _, timings = in_turns(works, arguments.repeats)
    judge = loops[-1]
    rows = [_row(ours.name, timings[ours.name], _difference(ours, judge))]
    rows += [_row_of_loop(loop, timings, judge) for loop in loops]
    if not arguments.no_peers:
        rows.append(_row_of_peer(case, timings[_PEER], judge))
    compared = _compared("digits MLP", case, math.prod(num), timings["GEMM"], rows)
    if not arguments.no_peers:
        offset = peer_row_offset(case)
        print(f"In {_PEER}' array the odd rows stand {offset:+.2f} steps beside the even ones.")
    return compared


def _row_of_ours(ours: Ours, first: Timing, timings: Sequence[Timing], judge: Loop) -> Row:
    once = ours.trial_seconds
    target = _EAGER_SHARE
    if ours.mode == "compiled":
        once += max(0.0, first.overhead - Spread.of([t.overhead for t in timings]).median)
        target = _COMPILED_SHARE
    return _row(ours.name, timings, _difference(ours, judge), once=once, gemm_target=target)


def _row_of_loop(loop: Loop, timings: Mapping[str, Sequence[Timing]], judge: Loop) -> Row:
    points = grid_points(_CHECKED)
    same = loop is judge
    difference = 0.0 if same else _largest(loop.losses(points), judge.losses(points))
    return _row(loop.name, timings[loop.name], difference)


def _row_of_peer(case: Case, timings: Sequence[Timing], judge: Loop) -> Row:
    losses, thetas = peer_walk(case, steps=2)
    return _row(_PEER, timings, _largest(losses, [judge.loss_at(theta) for theta in thetas]))


def _row(
    name: str,
    timings: Sequence[Timing],
    difference: float,
    *,
    once: float = 0.0,
    gemm_target: float | None = None,
) -> Row:
    """With what took place `once`, and not in each round."""
    point = [timing.unit for timing in timings]
    return Row(name, point, [once + t.overhead for t in timings], difference, gemm_target)


def _difference(ours: Ours, judge: Loop) -> float:
    losses: list[float] = ours.plane(_CHECKED).loss.reshape(-1).tolist()
    return _largest(losses, judge.losses(grid_points(_CHECKED)))


def _largest(losses: Sequence[float], true: Sequence[float]) -> float:
    return max(abs(loss / its - 1) for loss, its in zip(losses, true, strict=True))


def _compared(
    network: str, case: Case, num_points: int, gemms: Sequence[Timing], rows: list[Row]
) -> Comparison:
    """Printed, with what the GEMM rate allows at most."""
    flops, of_a_flop = forward_flops(case), [timing.unit for timing in gemms]
    compared = Comparison(network, case.description, num_points, flops, of_a_flop, rows)
    rate = Spread.of([1e-9 / its for its in of_a_flop]).median
    print(_drawn_rows(compared))
    print(
        f"GEMM: {rate:.0f} GFLOP/s in float32. A point is {flops / 1e9:.3g} GFLOP, at that rate "
        f"{1e-6 * flops / rate:.4g} ms."
    )
    print("What a plane of the same FLOPs at that rate would win:")
    for row in rows[1:]:
        print(f"  {1 / compared.gemm_share(row).median:.1f} times over {row.name}", flush=True)
    return compared


# -- targets and tables ------------------------------------------------------------------------


def _targets(compared: Comparison, ratio: float) -> list[Target]:
    found = []
    for row in compared.rows:
        if row.gemm_target is not None:
            share = compared.gemm_share(row).median
            promise = f"{compared.network}: {row.name}, {row.gemm_target:.0%} of the GEMM rate"
            found.append(Target.of(promise, f"{share:.1%}", share >= row.gemm_target))
        if not row.name.startswith(_OURS):
            times = compared.ratio(row).median
            promise = f"{compared.network}: {row.name} takes {ratio:g} times as long"
            found.append(Target.of(promise, f"{times:.2f}", times >= ratio))
    return found


def _drawn_rows(compared: Comparison) -> str:
    header = (
        "contestant", "ms a point", "s overhead", "s the plane", "ratio", "range", "of GEMM",
        "difference", "",
    )  # fmt: skip
    return plain_table(header, [_cells(compared, row) for row in compared.rows])


def _cells(compared: Comparison, row: Row) -> tuple[str, ...]:
    ratio = compared.ratio(row)
    return (
        row.name,
        f"{1e3 * Spread.of(row.point).median:.4g}",
        f"{Spread.of(row.overhead).median:.2g}",
        f"{Spread.of(compared.plane(row)).median:.4g}",
        f"{ratio.median:.2f}",
        f"({ratio.minimum:.2f} to {ratio.maximum:.2f})",
        f"{compared.gemm_share(row).median:.1%}",
        f"{row.difference:.0e}",
        row.verdict,
    )


def _drawn_checks(checks: Sequence[slice_checks.Check]) -> str:
    return plain_table(
        ("exactness", "measured", "at most"),
        [(check.claim, f"{check.measured:.1e}", f"{check.bound:.0e}") for check in checks],
    )


def _drawn_growths(growths: Sequence[slice_checks.Growth]) -> str:
    header = ("memory of a plane", "points", "peak", "result", "weights of all points")
    rows = [
        (f"{growth.network}: {growth.execution}", f"{points:,}", *map(format_bytes, sizes))
        for growth in growths
        for points, *sizes in zip(
            growth.points, growth.peaks, growth.results, growth.weights, strict=True
        )
    ]
    return plain_table(header, rows)


def _drawn_targets(targets: Sequence[Target]) -> str:
    header = ("target", "found", "")
    return plain_table(header, [(one.promise, one.found, one.verdict) for one in targets])


def _signed_bytes(number: int) -> str:
    return ("-" if number < 0 else "") + format_bytes(abs(number))
