"""What permutations, curves and REPAIR do between networks that were trained apart.

`paths` prints these beside the seconds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from torch import nn

from benchmarks.path_cases import cnn_family, flat, mlp_family, resnet_case
from benchmarks.path_checks import reordered_copy
from benchmarks.slices import Target
from benchmarks.table import plain_table
from benchmarks.timing import Spread
from landscape.alignment.aligning import Method, align
from landscape.alignment.symmetries import permutation_spec
from landscape.merging.repair import repair
from landscape.objective import Objective
from landscape.paths.barrier import barrier
from landscape.paths.curve_fit import CurveOptions, fit_curve
from landscape.trainers.data import digits

__all__ = ["Connection", "Connectivity", "Matching", "Mended", "connectivity", "matching"]

Split = Literal["train", "test"]

_MATCHING_IMAGES = 256
_MATCHING_SECONDS = 10.0  # that "in seconds" means
_CNN_WIDTH = 16
_DEEP = (256,) * 6
_CURVE_SHARE = 0.05
_REGAINED = 0.5
_BATCH = 512  # images that are evaluated at a time
_METHODS: tuple[Method, ...] = get_args(Method)
_SPLITS: tuple[Split, ...] = get_args(Split)
_RATIO_ROUNDING = 1e-4  # of variances, in float32


# -- weight matching of ResNet-20 ----------------------------------------------------------------


@dataclass(frozen=True)
class Matching:
    """Weight matching of two ResNet-20s, and of one with a reordered copy of itself.

    Attributes:
        specification: seconds to find what may be reordered, and to test it, in each round.
        one_descent: seconds of the whole alignment, from the identity alone.
        default: seconds of the whole alignment as `align` does it, with random restarts.
        difference: largest of a weight or buffer of the recovered copy from the original.
    """

    specification: list[float]
    one_descent: list[float]
    default: list[float]
    moved_share: float
    difference: float


def matching(rounds: int) -> tuple[Matching, list[Target]]:
    """Seconds of it, and a copy recovered."""
    case = resnet_case(_MATCHING_IMAGES, 2)
    print(f"\n{case.description}: weight matching, medians of {rounds} rounds", flush=True)
    objective = case.objective()
    a, b = case.thetas()
    buffers = dict(case.solutions[1].named_buffers())
    seconds: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        stamps = [time.perf_counter()]
        permutation_spec(objective)
        stamps.append(time.perf_counter())
        align(objective, a, b, buffers=buffers, num_restarts=0)
        stamps.append(time.perf_counter())
        align(objective, a, b, buffers=buffers)
        stamps.append(time.perf_counter())
        seconds.append((stamps[1] - stamps[0], stamps[2] - stamps[1], stamps[3] - stamps[2]))
    copy = reordered_copy(objective, seed=1)
    moved_share, difference = copy.alignment.moved_share, copy.difference
    specification, one_descent, default = (list(own) for own in zip(*seconds, strict=True))
    found = Matching(specification, one_descent, default, moved_share, difference)
    rows = {
        "what may be reordered, found and tested": found.specification,
        "alignment from the identity": found.one_descent,
        "alignment with two random restarts, the default": found.default,
    }
    spreads = {name: Spread.of(taken) for name, taken in rows.items()}
    drawn = [
        (name, f"{one.median:.2f}", f"({one.minimum:.2f} to {one.maximum:.2f})")
        for name, one in spreads.items()
    ]
    print(plain_table(("weight matching", "seconds", "range"), drawn))
    median = Spread.of(found.default).median
    return found, [
        Target.of(
            f"ResNet-20: weight matching in seconds, at most {_MATCHING_SECONDS:g}",
            f"{median:.2f}",
            median <= _MATCHING_SECONDS,
        ),
        Target.of(
            f"ResNet-20: a copy with {moved_share:.0%} of its units moved is recovered exactly",
            f"{difference:.0e}",
            difference == 0,
        ),
    ]


# -- networks that were trained apart ------------------------------------------------------------


@dataclass(frozen=True)
class Connection:
    """Two networks for digits, trained from different seeds.

    Attributes:
        accuracy: mean of both, on the training data.
        linear: barrier between them along the line, of the loss; default definition.
        relative: the same as a share of what the networks gain over chance.
        matched: the same after weight matching.
        curve: excess of a Bezier curve between them, without matching.
    """

    network: str
    width: int
    seeds: tuple[int, int]
    accuracy: float
    linear: float
    relative: float
    matched: float
    curve: float

    @property
    def matched_share(self) -> float:
        return self.matched / self.linear

    @property
    def curve_share(self) -> float:
        return self.curve / self.linear


@dataclass(frozen=True)
class Mended:
    """The network in the middle of two deep ones without normalization, the second one matched.

    Attributes:
        ends, merged, repaired: accuracy on the test data, of the ends the mean.
        ratio_before, ratio_after: variance of the channels over that of the ends, mean of layers.
    """

    network: str
    seeds: tuple[int, int]
    method: Method
    ends: float
    merged: float
    repaired: float
    ratio_before: float
    ratio_after: float

    @property
    def regained(self) -> float:
        """Share of the accuracy lost by merging; NaN where none was."""
        lost = self.ends - self.merged
        return (self.repaired - self.merged) / lost if lost > 0 else math.nan


@dataclass(frozen=True)
class Connectivity:
    """All pairs."""

    connections: list[Connection]
    mended: list[Mended]


def connectivity(
    widths: Sequence[int], num_pairs: int, steps: int
) -> tuple[Connectivity, list[Target]]:
    """Barriers, curves and REPAIR, seed by seed.

    Args:
        steps: of training each network; twice as many as of fitting a curve.
    """
    print(
        f"\nDigits, {len(digits('train')[1]):,} images: pairs of networks that were trained apart. "
        "Barriers of the training loss.",
        flush=True,
    )
    seeds = [(2 * pair, 2 * pair + 1) for pair in range(num_pairs)]
    connections = []
    for width in widths:
        for both in seeds:
            models = mlp_family((width, width), both, steps)
            connections.append(_connected("MLP", width, both, models, steps // 2))
    for both in seeds:
        models = cnn_family(_CNN_WIDTH, both, steps)
        connections.append(_connected("CNN", _CNN_WIDTH, both, models, steps // 2))
    print(_drawn_connections(connections), flush=True)
    shares = {
        width: [
            one.matched_share for one in connections if (one.network, one.width) == ("MLP", width)
        ]
        for width in widths
    }
    for width, own in shares.items():
        spread = Spread.of(own)
        print(
            f"MLP of width {width}: matching leaves {statistics.mean(own):.3f} of the barrier "
            f"({spread.minimum:.3f} to {spread.maximum:.3f})"
        )
    mended = [
        _mended(mlp_family(_DEEP, both, steps), both, method)
        for both in seeds
        for method in _METHODS
    ]
    print("\n" + _drawn_mended(mended), flush=True)
    means = [statistics.mean(own) for own in shares.values()]
    found = Connectivity(connections, mended)
    return found, _targets(found, means)


def _objective(model: nn.Module, split: Split) -> Objective:
    return Objective(model, digits(split), batch_size=_BATCH)


def _connected(
    network: str,
    width: int,
    seeds: tuple[int, int],
    models: Sequence[nn.Module],
    curve_steps: int,
) -> Connection:
    objective = _objective(models[0], "train")
    a, b = map(flat, models)
    buffers = dict(models[1].named_buffers())
    line = barrier(objective, a, b)
    matched = align(objective, a, b, buffers=buffers)
    ends = line.profiles["error"].values[[0, -1]]
    options = CurveOptions(steps=curve_steps)
    return Connection(
        network=network,
        width=width,
        seeds=seeds,
        accuracy=float(1 - ends.mean()),
        linear=line.value,
        relative=line.profiles["loss"].heights["relative"].value,
        matched=barrier(objective, a, matched.theta).value,
        curve=fit_curve(objective, a, b, options=options).excess,
    )


def _mended(models: Sequence[nn.Module], seeds: tuple[int, int], method: Method) -> Mended:
    objective, test = (_objective(models[0], split) for split in _SPLITS)
    a, b = map(flat, models)
    matched = align(objective, a, b, method)
    found = repair(objective, a, matched.theta, also={"test": test})
    accuracies = found["test"].accuracies
    return Mended(
        network=f"MLP, {len(_DEEP)} hidden layers of {_DEEP[0]}",
        seeds=seeds,
        method=method,
        ends=(accuracies["a"] + accuracies["b"]) / 2,
        merged=accuracies["merged"],
        repaired=accuracies["repaired"],
        ratio_before=found.ratio_before,
        ratio_after=found.ratio_after,
    )


def _targets(found: Connectivity, shares: Sequence[float]) -> list[Target]:
    """Promises, with the mean share of the barrier that matching leaves at each width."""
    connections, mended = found.connections, found.mended
    lowered = sum(one.matched < one.linear for one in connections)
    curve = max(one.curve_share for one in connections)
    targets = [
        Target.of(
            "weight matching lowers the barrier of each pair",
            f"{lowered} of {len(connections)}",
            lowered == len(connections),
        ),
        Target.of(
            f"a Bezier curve's excess, at most {_CURVE_SHARE:.0%} of the linear barrier",
            f"{curve:.2%}",
            curve <= _CURVE_SHARE,
        ),
    ]
    if len(shares) > 1:
        falls = all(wider < narrower for narrower, wider in pairwise(shares))
        targets.append(
            Target.of(
                "matching leaves less of the barrier with each width",
                " > ".join(f"{share:.3f}" for share in shares) if falls
                else ", ".join(f"{share:.3f}" for share in shares),
                falls,
            )
        )  # fmt: skip
    for method in _METHODS:
        own = [one for one in mended if one.method == method]
        regained = min(one.regained for one in own)
        targets.append(
            Target.of(
                f"REPAIR gives back more than {_REGAINED:.0%} of the accuracy that merging cost, "
                f"matched by {method}",
                f"{regained:.0%}",
                regained > _REGAINED,
            )
        )
    ratio = max(abs(one.ratio_after - 1) for one in mended)
    claim = "REPAIR: variance of the channels over that of the ends, distance from 1"
    targets.append(Target.of(claim, f"{ratio:.0e}", ratio <= _RATIO_ROUNDING))
    return targets


def _drawn_connections(connections: Sequence[Connection]) -> str:
    header = (
        "network", "seeds", "accuracy", "linear barrier", "of chance", "matched", "share",
        "Bezier excess", "share",
    )  # fmt: skip
    rows = [
        (
            f"{one.network}, width {one.width}",
            "{} and {}".format(*one.seeds),
            f"{one.accuracy:.1%}",
            f"{one.linear:.4f}",
            f"{one.relative:.1%}",
            f"{one.matched:.4f}",
            f"{one.matched_share:.3f}",
            f"{one.curve:.2g}",
            f"{one.curve_share:.2%}",
        )
        for one in connections
    ]
    return plain_table(header, rows)


def _drawn_mended(mended: Sequence[Mended]) -> str:
    header = (
        "REPAIR, test accuracy", "seeds", "matched by", "ends", "merged", "repaired", "regained",
        "variance before", "after",
    )  # fmt: skip
    rows = [
        (
            one.network,
            "{} and {}".format(*one.seeds),
            one.method,
            f"{one.ends:.1%}",
            f"{one.merged:.1%}",
            f"{one.repaired:.1%}",
            f"{one.regained:.0%}",
            f"{one.ratio_before:.3f}",
            f"{one.ratio_after:.4f}",
        )
        for one in mended
    ]
    return plain_table(header, rows)
