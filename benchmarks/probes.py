"""Linear probes over layers x penalties beside scikit-learn's, at the same accuracy.

All minimise the same objectives, one for each layer and penalty: a cell. How far each ends above
the minimum is measured against ours at a tolerance whose bound is printed. scikit-learn's `tol` is
that of its list with which all of the cells tried are as accurate as was asked.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.slices import Target
from benchmarks.table import plain_table
from benchmarks.timing import Spread
from landscape.errors import RequestError
from landscape.probes.linear.fitting import linear_probe

__all__ = ["Grid", "Row", "add_arguments", "run"]

Floats = NDArray[np.float64]

_SEED = 0
_RATIO = 10.0
_ACCURACY = 1e-6  # of the objective, relative: what all contestants are asked for
_OURS = 1e-3  # tol, which promises its square: the accuracy asked for
_CERTIFIED = 1e-6  # tol of the minimum that all are measured by
_TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)  # of scikit-learn, tried in this order
_MOST_ITERATIONS = 20_000
_BUDGET = 480.0  # seconds of scikit-learn's whole grid above which cells are sampled
_ROUNDS = 3  # at most: a round of scikit-learn takes minutes
_PENALTIES = (0, -6)  # powers of ten, from the largest


@dataclass(frozen=True, eq=False)
class Grid:
    """Features of L layers, one set of labels, P penalties."""

    layers: list[Floats]
    labels: NDArray[np.int64]
    penalties: Floats
    description: str

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(layer, penalty), the penalties of a layer from the largest on."""
        return [
            (layer, penalty)
            for layer in range(len(self.layers))
            for penalty in range(len(self.penalties))
        ]


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        name: with its tolerance.
        seconds: of the whole grid, in each round; scaled up where cells were sampled.
        excess: largest relative distance of an objective from the certified minimum.
        gradient_norm: largest entry of a gradient at an end.
        num_cells: that were fitted.
    """

    name: str
    seconds: list[float]
    excess: float
    gradient_norm: float
    num_cells: int


@dataclass(frozen=True, eq=False)
class Ends:
    """Where a contestant ended in each of some cells."""

    weights: dict[tuple[int, int], tuple[Floats, Floats]]
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=60_000, help="examples (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128, help="features (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--penalties", type=int, default=12, help="default: %(default)s")
    parser.add_argument(
        "--whole", action="store_true",
        help=f"scikit-learn's whole grid, also if it takes more than {_BUDGET:.0f} s",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="2 layers, 4 penalties, 6,000 rows, 1 round"
    )


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure and print; the numbers for JSON come back."""
    if arguments.quick:
        arguments.rows, arguments.layers, arguments.penalties = 6000, 2, 4
    for name, least in {"rows": 100, "width": 2, "layers": 1, "penalties": 1}.items():
        if getattr(arguments, name) < least:
            raise RequestError(
                f"--{name} {getattr(arguments, name)}: expected a number from {least} on."
            )
    rounds = 1 if arguments.quick else min(arguments.repeats, _ROUNDS)
    grid = mixture_grid(arguments.rows, arguments.width, arguments.layers, arguments.penalties)
    print(f"\n{grid.description}", flush=True)
    certified, bound = _certified(grid)
    print(
        f"Certified minima, tol {_CERTIFIED:g}: by their gradients at most {bound:.0e} too high, "
        "relatively.",
        flush=True,
    )
    works: dict[str, Callable[[], Ends]] = {
        f"landscape, tol {_OURS:g}": lambda: _ours(grid, _OURS),
    }
    if not arguments.no_peers:
        works |= _peers(grid, certified, whole=arguments.whole or arguments.quick)
    rows = _measured(grid, works, certified, rounds)
    print("\n" + _drawn(rows), flush=True)
    targets = _targets(rows, promised=not arguments.quick)
    lines = [(target.promise, target.found, target.verdict) for target in targets]
    print("\n" + plain_table(("target", "found", ""), lines), flush=True)
    return {"description": grid.description, "contestants": rows, "targets": targets}


def _peers(
    grid: Grid, minima: dict[tuple[int, int], float], *, whole: bool
) -> dict[str, Callable[[], Ends]]:
    """scikit-learn's turns, with one process and with two."""
    tol, share = _tuned(grid, minima)
    cells = _sampled(grid, 1.0 if whole else share)
    if len(cells) < len(grid.cells):
        print(
            f"scikit-learn's whole grid would take about {_BUDGET / share:.0f} s: it is timed on "
            f"{len(cells)} of {len(grid.cells)} cells, drawn with seed {_SEED}, and its seconds "
            "are scaled up by their number.",
            flush=True,
        )
    return {
        f"scikit-learn, tol {tol:g}": lambda: _theirs(grid, cells, tol),
        f"scikit-learn, tol {tol:g}, 2 processes": lambda: _in_processes(grid, cells, tol),
    }


# -- problems ----------------------------------------------------------------------------------


def mixture_grid(num_rows: int, width: int, num_layers: int, num_penalties: int) -> Grid:
    """Gaussian classes under a rectifier, better separated in each layer than in the last.

    The spectrum decays as that of a network's features does, with 1 / rank, and none is centred.
    """
    generator = np.random.default_rng(_SEED)
    labels = generator.integers(10, size=num_rows)
    scales = 1 / np.arange(1, width + 1)
    layers = []
    for layer in range(num_layers):
        turned = np.linalg.qr(generator.normal(size=(width, width)))[0]
        means = generator.normal(size=(10, width)) * scales**1.5
        separation = 0.5 + 2.5 * layer / max(num_layers - 1, 1)
        hidden = generator.normal(size=(num_rows, width)) * scales + separation * means[labels]
        noise = 0.02 * generator.normal(size=(num_rows, width))
        layers.append(np.maximum(hidden @ turned + noise, -0.1))
    penalties = np.logspace(*_PENALTIES, num_penalties)
    return Grid(
        layers,
        labels,
        penalties,
        f"{num_layers} layers x {num_penalties} penalties from {penalties.max():g} to "
        f"{penalties.min():g}, {num_rows} x {width} features, 10 classes, float64.",
    )


# -- contestants -------------------------------------------------------------------------------


def _ours(grid: Grid, tol: float) -> Ends:
    began = time.perf_counter()
    found = {}
    for layer, features in enumerate(grid.layers):
        probe = linear_probe(features, grid.labels, grid.penalties, tol=tol)
        for penalty in range(len(grid.penalties)):
            found[layer, penalty] = (
                probe.weights[penalty].numpy(),
                probe.intercept[penalty].numpy(),
            )
    return Ends(found, time.perf_counter() - began)


def _theirs(grid: Grid, cells: Sequence[tuple[int, int]], tol: float) -> Ends:
    """Each layer's penalties from the largest on, each from where the last cell ended."""
    found: dict[tuple[int, int], tuple[Floats, Floats]] = {}
    seconds = 0.0
    for layer in sorted({layer for layer, _ in cells}):
        own = [penalty for at, penalty in cells if at == layer]
        ends, took = _fitted(grid.layers[layer], grid.labels, grid.penalties[own], tol)
        found |= {(layer, penalty): end for penalty, end in zip(own, ends, strict=True)}
        seconds += took
    return Ends(found, seconds)


def _in_processes(grid: Grid, cells: Sequence[tuple[int, int]], tol: float) -> Ends:
    """Layers side by side, each process with one thread."""
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    layers = sorted({layer for layer, _ in cells})
    own = [[penalty for at, penalty in cells if at == layer] for layer in layers]
    parallel = Parallel(n_jobs=2, mmap_mode="r")
    parallel(delayed(_nothing)() for _ in range(2))  # starting them is not counted
    began = time.perf_counter()
    ends = parallel(
        delayed(_fitted)(grid.layers[layer], grid.labels, grid.penalties[penalties], tol)
        for layer, penalties in zip(layers, own, strict=True)
    )
    seconds = time.perf_counter() - began
    found = {
        (layer, penalty): end
        for layer, penalties, (fits, _) in zip(layers, own, ends, strict=True)
        for penalty, end in zip(penalties, fits, strict=True)
    }
    return Ends(found, seconds)


def _nothing() -> None:
    """For a process to be there."""


def _fitted(
    features: Floats, labels: NDArray[np.int64], penalties: Floats, tol: float
) -> tuple[list[tuple[Floats, Floats]], float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(tol=tol, max_iter=_MOST_ITERATIONS, warm_start=True)
    ends = []
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged shows in its objective
        for penalty in penalties.tolist():
            model.set_params(C=1 / (len(labels) * penalty)).fit(features, labels)
            ends.append((model.coef_.copy(), model.intercept_.copy()))
    return ends, time.perf_counter() - began


# -- accuracy ----------------------------------------------------------------------------------


def _certified(grid: Grid) -> tuple[dict[tuple[int, int], float], float]:
    """Minima, and the largest relative distance that their gradients allow."""
    ends = _ours(grid, _CERTIFIED)
    minima, worst = {}, 0.0
    for cell, (weights, intercept) in ends.weights.items():
        value, gradient = _judged(grid, cell, weights, intercept)
        minima[cell] = value
        # Strong convexity: f - min f <= ||g||^2 / (2 penalty), the intercept's being at its best.
        gap = float((gradient[:, :-1] ** 2).sum()) / (2 * grid.penalties[cell[1]])
        worst = max(worst, gap / value)
    return minima, worst


def _judged(
    grid: Grid, cell: tuple[int, int], weights: Floats, intercept: Floats
) -> tuple[float, Floats]:
    """Objective and gradient (C, d + 1), by plain formulas that no contestant runs."""
    features, penalty = grid.layers[cell[0]], float(grid.penalties[cell[1]])
    logits = features @ weights.T + intercept
    logits -= logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(len(logs))
    value = -logs[rows, grid.labels].mean() + penalty / 2 * float((weights**2).sum())
    residuals = np.exp(logs)
    residuals[rows, grid.labels] -= 1
    residuals /= len(logs)
    gradient = np.c_[residuals.T @ features + penalty * weights, residuals.sum(0)]
    return float(value), gradient


def _tuned(grid: Grid, minima: dict[tuple[int, int], float]) -> tuple[float, float]:
    """scikit-learn's largest tolerance that is accurate enough, and the share of the budget.

    Tried on the hardest cell, the smallest penalty of the last layer, from the largest on.
    """
    layer, penalty = len(grid.layers) - 1, len(grid.penalties) - 1
    cells = [(layer, penalty)]
    for tol in _TOLERANCES:
        ends = _theirs(grid, cells, tol)
        value, _ = _judged(grid, cells[0], *ends.weights[cells[0]])
        excess = value / minima[cells[0]] - 1
        print(f"scikit-learn, tol {tol:g}: {excess:.0e} too high, {ends.seconds:.3g} s", flush=True)
        if excess <= _ACCURACY:
            break
    # The hardest cell, cold, takes about three times as long as the mean, warm.
    expected = ends.seconds / 3 * len(grid.cells)
    return tol, min(1.0, _BUDGET / expected)


def _sampled(grid: Grid, share: float) -> list[tuple[int, int]]:
    cells = grid.cells
    count = max(1, round(share * len(cells)))
    if count == len(cells):
        return cells
    drawn = np.random.default_rng(_SEED).choice(len(cells), count, replace=False)
    return [cells[index] for index in sorted(drawn)]


# -- rounds ------------------------------------------------------------------------------------


def _measured(
    grid: Grid,
    works: dict[str, Callable[[], Ends]],
    minima: dict[tuple[int, int], float],
    rounds: int,
) -> list[Row]:
    shuffler = np.random.default_rng(_SEED)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    last: dict[str, Ends] = {}
    for _ in range(rounds):
        for name in shuffler.permutation(list(works)).tolist():
            ends = works[name]()
            seconds[name].append(ends.seconds * len(grid.cells) / len(ends.weights))
            last[name] = ends
    return [
        _row(grid, name, seconds[name], ends, minima)
        for name, ends in ((name, last[name]) for name in works)
    ]


def _row(
    grid: Grid,
    name: str,
    seconds: list[float],
    ends: Ends,
    minima: dict[tuple[int, int], float],
) -> Row:
    excesses, norms = [], []
    for cell, (weights, intercept) in ends.weights.items():
        value, gradient = _judged(grid, cell, weights, intercept)
        excesses.append(value / minima[cell] - 1)
        norms.append(float(np.abs(gradient).max()))
    return Row(name, seconds, max(excesses), max(norms), len(ends.weights))


def _targets(rows: Sequence[Row], *, promised: bool) -> list[Target]:
    """The ratio is promised of the whole grid: a Hessian pays off with the number of examples."""
    ours, *others = rows
    found = [
        Target.of(
            "ours: objective above the minimum, relatively, at most 1e-06",
            f"{ours.excess:.0e}",
            ours.excess <= _ACCURACY,
        )
    ]
    for row in others if promised else []:
        times = _times(row, ours)
        found.append(
            Target.of(
                f"{row.name}: takes {_RATIO:g} times as long",
                f"{times.median:.1f} ({times.minimum:.1f} to {times.maximum:.1f})",
                times.median >= _RATIO,
            )
        )
    return found


def _times(row: Row, ours: Row) -> Spread:
    both = zip(row.seconds, ours.seconds, strict=True)
    return Spread.of([its / own for its, own in both])


def _drawn(rows: Sequence[Row]) -> str:
    header = ("contestant", "s", "ratio", "range", "cells", "above minimum", "gradient")
    lines = []
    for row in rows:
        times = _times(row, rows[0])
        lines.append(
            (
                row.name,
                f"{Spread.of(row.seconds).median:.4g}",
                f"{times.median:.2f}",
                f"({times.minimum:.2f} to {times.maximum:.2f})",
                f"{row.num_cells}",
                f"{row.excess:.0e}",
                f"{row.gradient_norm:.0e}",
            )
        )
    return plain_table(header, lines)
