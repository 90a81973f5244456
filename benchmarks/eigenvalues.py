"""The largest eigenvalues of a trained network: products, seconds and the true error of each."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks import peers
from benchmarks.problems import Problem, trained_digits
from benchmarks.table import plain_table
from benchmarks.timing import Spread, Work, alternate
from landscape.curvature.eigen import eigsh
from landscape.curvature.hessian import HessianOperator
from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = ["Row", "Solution", "add_arguments", "measure", "run"]

_SEED = 0
_TOL = 1e-3


@dataclass(frozen=True)
class Solution:
    """What a solver found: eigenvalues, largest magnitude first, and the products it took."""

    values: list[float]
    num_products: int


@dataclass(frozen=True)
class Row:
    """One solver.

    Attributes:
        name: of the solver.
        num_products: that it took.
        seconds: from the model and its batches to the eigenpairs, in each round.
        errors: |value - true| / |true|, pair by pair.
    """

    name: str
    num_products: int
    seconds: list[float]
    errors: list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--k", type=int, default=5, help="eigenpairs wanted (default: %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure and print; the numbers for JSON come back."""
    problem = trained_digits(seed=_SEED)
    if not 1 <= arguments.k < problem.size // 4:
        raise RequestError(f"--k {arguments.k}: expected 1 to {problem.size // 4 - 1}.")
    print(
        f"\n{problem.description}\nThe {arguments.k} eigenvalues of largest magnitude; every "
        f"solver at tol = {_TOL:g} of its own kind, else at its defaults. {arguments.repeats} "
        "rounds: median (least to greatest).\nError: relative, against the dense matrix."
    )
    truth = _dense_values(problem)[: arguments.k]
    print(f"True values: {', '.join(f'{value:.4f}' for value in truth)}", flush=True)
    solvers = _OURS if arguments.no_peers else _OURS | _PEERS
    rows = measure(problem, solvers, truth, rounds=arguments.repeats)
    header = ("solver", "products", "ms", "range", "largest error", "error of the first")
    print("\n" + plain_table(header, [_cells(row) for row in rows]), flush=True)
    return {"description": problem.description, "true_values": truth, "solvers": rows}


def measure(
    problem: Problem, solvers: dict[str, _Solve], truth: list[float], *, rounds: int
) -> list[Row]:
    """Each solver's answer against `truth`, then its time by turns."""
    k = len(truth)
    solutions = {name: solve(problem, k) for name, solve in solvers.items()}
    works: dict[str, Work] = {name: _work(solve, problem, k) for name, solve in solvers.items()}
    seconds = alternate(works, rounds=rounds, seed=_SEED)
    return [
        Row(name, found.num_products, seconds[name], _errors(found.values, truth))
        for name, found in solutions.items()
    ]


def _work(solve: _Solve, problem: Problem, k: int) -> Work:
    return lambda: solve(problem, k)


def _errors(values: list[float], truth: list[float]) -> list[float]:
    by_magnitude = sorted(values, key=abs, reverse=True)
    return [abs(value - true) / abs(true) for value, true in zip(by_magnitude, truth, strict=True)]


def _cells(row: Row) -> tuple[str, ...]:
    spread = Spread.of(row.seconds)
    return (
        row.name,
        str(row.num_products),
        f"{1e3 * spread.median:.0f}",
        f"({1e3 * spread.minimum:.0f} to {1e3 * spread.maximum:.0f})",
        f"{max(row.errors):.1e}",
        f"{row.errors[0]:.1e}",
    )


def _dense_values(problem: Problem) -> list[float]:
    dense = _operator(problem).to_dense()
    values = torch.linalg.eigvalsh(dense)
    descending = values[values.abs().argsort(descending=True)]
    return [float(value) for value in descending]


def _operator(problem: Problem) -> HessianOperator:
    return HessianOperator(Objective(problem.own_model(), problem.batches, loss="cross_entropy"))


class _Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: object) -> Any:
        self.calls += 1
        return self.function(*arguments)


# -- solvers: a problem and k in, a solution out ----------------------------------------------


def _landscape(problem: Problem, k: int) -> Solution:
    pairs = eigsh(_operator(problem), k, which="LM", tol=_TOL, seed=_SEED)
    return Solution([float(value) for value in pairs.values], pairs.num_products)


def _scipy(problem: Problem, k: int) -> Solution:
    from scipy.sparse import linalg

    operator = _operator(problem).to_scipy()
    matvec = _Counted(operator.matvec)
    counted = linalg.LinearOperator(operator.shape, matvec=matvec, dtype=operator.dtype)
    start = np.random.default_rng(_SEED).standard_normal(problem.size)
    values = linalg.eigsh(counted, k, which="LM", tol=_TOL, v0=start, return_eigenvectors=True)[0]
    return Solution([float(value) for value in values], matvec.calls)


def _pyhessian(problem: Problem, k: int) -> Solution:
    with peers.tolerated(), _seeded_float64():
        solver = peers.pyhessian(problem)
        solver.dataloader_hv_product = counted = _Counted(solver.dataloader_hv_product)
        values, _ = solver.eigenvalues(maxIter=100, tol=_TOL, top_n=k)
    return Solution([float(value) for value in values], counted.calls)


def _eigenthings(problem: Problem, k: int) -> Solution:
    with peers.tolerated():
        operator = peers.eigenthings(problem)
        operator.matvec = counted = _Counted(operator.matvec)
        lanczos = importlib.import_module("hessian_eigenthings").lanczos
        found = lanczos(operator, k=k, tol=_TOL, which="LM", seed=_SEED)
    return Solution([float(value) for value in found.eigenvalues], counted.calls)


@contextmanager
def _seeded_float64() -> Iterator[None]:
    """PyHessian draws from the global generator, in the default type."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


_Solve = Callable[[Problem, int], Solution]
_OURS: dict[str, _Solve] = {"landscape eigsh": _landscape, "SciPy eigsh on our products": _scipy}
_PEERS: dict[str, _Solve] = {
    "PyHessian eigenvalues": _pyhessian,
    "hessian-eigenthings lanczos": _eigenthings,
}
