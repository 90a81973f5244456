"""Planes of the loss beside loss-landscapes and the point-by-point loop, with checks of their own.

The loop and the peer cost the same at every point: they are timed on a few. Our plane of ResNet-20
is timed on a few and on more points, so that what comes before the first stands apart; the trial
that chooses how to evaluate is timed once. Both are counted in the seconds of the plane. The MLP's
plane is short, and timed whole.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import peers, slice_checks
from benchmarks.slice_contestants import (
    Case,
    Loop,
    Ours,
    Work,
    cnn_case,
    fastest_loop,
    forward_flops,
    fresh_compiler_cache,
    gemm,
    grid_points,
    in_turns,
    mlp_case,
    our_executions,
    peer_row_offset,
    peer_walk,
    timed,
)
from benchmarks.table import plain_table
from benchmarks.timing import Spread
from landscape.errors import RequestError, unknown_choice
from landscape.memory import format_bytes

__all__ = ["Comparison", "Row", "Target", "add_arguments", "run"]

_PARTS = ("exactness", "cnn", "mlp", "memory")
_CNN_GRID = (21, 21)
_SOME, _FEW = (3, 5), (2, 2)  # of that plane, its corners included: what is timed in a round
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
        setup: seconds before the first point, in each round.
        difference: largest relative difference of a loss from the loop's at the same weights.
        gemm_target: share of the GEMM rate that was promised; None where nothing was.
    """

    name: str
    point: list[float]
    setup: list[float]
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
    """

    network: str
    description: str
    num_points: int
    flops: float
    gemm: list[float]
    rows: list[Row]

    def plane(self, row: Row) -> list[float]:
        """Seconds of the whole plane, in each round."""
        both = zip(row.setup, row.point, strict=True)
        return [setup + self.num_points * point for setup, point in both]

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
    works: dict[str, Work] = {"GEMM": gemm()}
    for one in ours:
        works[f"{one.name}, few"] = timed(partial(one.plane, _FEW))
        works[f"{one.name}, some"] = timed(partial(one.plane, _SOME))
    points = [(0.5, -0.5)] * _CNN_POINTS
    works[loop.name] = timed(partial(loop.losses, points))
    if not arguments.no_peers:
        works |= _peer_works(case, _CNN_STEPS)
    first, seconds = in_turns(works, arguments.repeats)
    rows = [_row_of_ours(one, first, seconds, loop) for one in ours]
    rows.append(_row_of_loop(loop, seconds, _CNN_POINTS, loop))
    if not arguments.no_peers:
        rows.append(_row_of_peer(case, seconds, _CNN_STEPS, loop))
    compared = _compared("ResNet-20", case, math.prod(_CNN_GRID), seconds["GEMM"], rows)
    if arguments.full:
        whole = Ours(_OURS, case, "auto")
        taken = timed(lambda: print(*whole.plane(_CNN_GRID).notes, sep="\n"))()
        print(f"All {compared.num_points} points at once, trial and all: {taken:.0f} s", flush=True)
    return compared


def _mlp(arguments: argparse.Namespace) -> Comparison:
    case, num = mlp_case(), (arguments.side, arguments.side)
    print(f"\n{case.description}: a plane of {num[0]} x {num[1]} points", flush=True)
    ours = Ours(_OURS, case, "auto")
    print("  " + "\n  ".join(ours.plane(num).notes), flush=True)
    loops = [fastest_loop(case, in_memory=False), fastest_loop(case, in_memory=True)]
    works: dict[str, Work] = {"GEMM": gemm(), ours.name: timed(partial(ours.plane, num))}
    points = [(0.5, -0.5)] * _MLP_POINTS
    works |= {loop.name: timed(partial(loop.losses, points)) for loop in loops}
    if not arguments.no_peers:
        works |= _peer_works(case, _MLP_STEPS)
    _, seconds = in_turns(works, arguments.repeats)
    judge, count = loops[-1], math.prod(num)
    point = [plane / count for plane in seconds[ours.name]]
    rows = [Row(ours.name, point, [0.0] * len(point), _difference(ours, judge))]
    rows += [_row_of_loop(loop, seconds, _MLP_POINTS, judge) for loop in loops]
    if not arguments.no_peers:
        rows.append(_row_of_peer(case, seconds, _MLP_STEPS, judge))
    compared = _compared("digits MLP", case, count, seconds["GEMM"], rows)
    if not arguments.no_peers:
        offset = peer_row_offset(case)
        print(f"In {_PEER}' array the odd rows stand {offset:+.2f} steps beside the even ones.")
    return compared


def _row_of_ours(
    ours: Ours, first: Mapping[str, float], seconds: Mapping[str, list[float]], judge: Loop
) -> Row:
    """A point is what more points take beyond few; the rest came before the first one."""
    few, some = seconds[f"{ours.name}, few"], seconds[f"{ours.name}, some"]
    num_few, num_some = math.prod(_FEW), math.prod(_SOME)
    # The first call compiles.
    once = ours.trial_seconds + max(0.0, first[f"{ours.name}, few"] - Spread.of(few).median)
    point = [(b - a) / (num_some - num_few) for a, b in zip(few, some, strict=True)]
    setup = [once + a - num_few * its for a, its in zip(few, point, strict=True)]
    target = _COMPILED_SHARE if ours.mode == "compiled" else _EAGER_SHARE
    return Row(ours.name, point, setup, _difference(ours, judge), target)


def _row_of_loop(
    loop: Loop, seconds: Mapping[str, list[float]], num_points: int, judge: Loop
) -> Row:
    point = [total / num_points for total in seconds[loop.name]]
    points = grid_points(_CHECKED)
    return Row(
        loop.name,
        point,
        [0.0] * len(point),
        0.0 if loop is judge else _largest(loop.losses(points), judge.losses(points)),
    )


def _peer_works(case: Case, steps: int) -> dict[str, Work]:
    metric = peers.loss_landscapes_loss(case.inputs, case.labels)
    return {
        _PEER: timed(lambda: peers.loss_landscapes(case.model, steps, metric)),
        # All that it does before the first point: a copy, directions, their norms.
        f"{_PEER}, setup": timed(lambda: peers.loss_landscapes(case.model, 1, lambda _: 0.0)),
    }


def _row_of_peer(case: Case, seconds: Mapping[str, list[float]], steps: int, judge: Loop) -> Row:
    setup = seconds[f"{_PEER}, setup"]
    point = [(a - b) / steps**2 for a, b in zip(seconds[_PEER], setup, strict=True)]
    losses, thetas = peer_walk(case, steps=2)
    return Row(_PEER, point, setup, _largest(losses, [judge.loss_at(theta) for theta in thetas]))


def _difference(ours: Ours, judge: Loop) -> float:
    losses: list[float] = ours.plane(_CHECKED).loss.reshape(-1).tolist()
    return _largest(losses, judge.losses(grid_points(_CHECKED)))


def _largest(losses: Sequence[float], true: Sequence[float]) -> float:
    return max(abs(loss / its - 1) for loss, its in zip(losses, true, strict=True))


def _compared(
    network: str, case: Case, num_points: int, of_a_flop: list[float], rows: list[Row]
) -> Comparison:
    """Printed, with what the GEMM rate allows at most."""
    flops = forward_flops(case)
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
        "contestant", "ms a point", "s before", "s the plane", "ratio", "range", "of GEMM",
        "difference", "",
    )  # fmt: skip
    return plain_table(header, [_cells(compared, row) for row in compared.rows])


def _cells(compared: Comparison, row: Row) -> tuple[str, ...]:
    ratio = compared.ratio(row)
    return (
        row.name,
        f"{1e3 * Spread.of(row.point).median:.4g}",
        f"{Spread.of(row.setup).median:.2g}",
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
