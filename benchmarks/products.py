"""Hessian products beside the peers', in gradients: time by turns, peak memory each by itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import peers
from benchmarks.problems import PRODUCT_PROBLEMS, Problem, product_problem
from benchmarks.table import plain_table
from benchmarks.timing import Spread, Work, alternate, peak_bytes, ratios
from landscape.curvature.hessian import HessianOperator
from landscape.errors import unknown_choice
from landscape.memory import format_bytes
from landscape.objective import Objective

__all__ = ["Row", "add_arguments", "measure", "run"]

_SEED = 0
_ROUNDINGS = 3  # times the float32 rounding: what is farther off is not the same mathematics
_UNIT, _KEPT = "gradient", "landscape, graphs kept"


@dataclass(frozen=True)
class Row:
    """One contestant on one problem.

    Attributes:
        name: of the contestant.
        seconds: of one product, in each round.
        ratio: to the gradient of the same round.
        first_ratio: the first product, with all that it builds, in median gradients.
        peak: bytes that two products add to a process's peak resident memory.
        error: ||product - true|| / ||true||, against plain double backward in float64.
        tolerance: the error that rounding explains: a few times that of the same in float32.
        target: what `ratio` may be at most; None where nothing was promised.
    """

    name: str
    seconds: list[float]
    ratio: Spread
    first_ratio: float
    peak: int
    error: float
    tolerance: float
    target: float | None

    @property
    def verdict(self) -> str:
        """Whether it is right, and whether the target was met."""
        if not self.error <= self.tolerance:
            return "WRONG PRODUCT"
        if self.target is None:
            return ""
        met = "met" if self.ratio.median <= self.target else "NOT MET"
        return f"target {self.target:.1f}: {met}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", default=",".join(PRODUCT_PROBLEMS), help="some of %(default)s, with commas"
    )


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure and print problem by problem; the numbers for JSON come back."""
    names = [name.strip() for name in arguments.models.split(",")]
    for name in names:
        if name not in PRODUCT_PROBLEMS:
            raise unknown_choice("model", name, PRODUCT_PROBLEMS)
    contestants = list(_OURS) if arguments.no_peers else [*_OURS, *_PEERS]
    print(
        f"\nUnit: one eager gradient over the same batches. {arguments.repeats} rounds: median "
        "(least to greatest) of the ratio within a round.\nPeak: what two products add to a "
        "process's resident memory. Error: against plain double backward in float64."
    )
    found: dict[str, object] = {}
    for name in names:
        problem = product_problem(name, seed=_SEED)
        print(f"\n{problem.description}", flush=True)
        rows = measure(problem, contestants, rounds=arguments.repeats)
        print(_drawn(rows), flush=True)
        found[name] = {"description": problem.description, "contestants": rows}
    return found


def measure(problem: Problem, contestants: Sequence[str], *, rounds: int) -> list[Row]:
    """All contestants on one problem: errors first, then time by turns, then memory."""
    generator = torch.Generator().manual_seed(_SEED + 1)
    vector = torch.randn(problem.size, generator=generator)
    vector /= vector.norm()
    gradient, product = _plain(problem, vector, torch.float64)
    rounded = _plain(problem, vector, torch.float32)
    truths = {name: gradient if name == _UNIT else product for name in contestants}
    roundings = {
        name: _error(rounded[0] if name == _UNIT else rounded[1], truths[name])
        for name in contestants
    }
    works: dict[str, Work] = {}
    first_seconds, errors = {}, {}
    for name in contestants:
        began = time.perf_counter()
        works[name] = (_OURS | _PEERS)[name](problem, vector)
        value = works[name]()
        first_seconds[name] = time.perf_counter() - began
        errors[name] = _error(_flat(value), truths[name])
    seconds = alternate(works, rounds=rounds, seed=_SEED)
    unit = Spread.of(seconds[_UNIT]).median
    return [
        Row(
            name=name,
            seconds=seconds[name],
            ratio=Spread.of(ratios(seconds[name], seconds[_UNIT])),
            first_ratio=first_seconds[name] / unit,
            peak=peak_bytes(_two_products, problem.name, name),
            error=errors[name],
            tolerance=_ROUNDINGS * roundings[name],
            target=problem.target if name == _KEPT else None,
        )
        for name in contestants
    ]


def _drawn(rows: Sequence[Row]) -> str:
    header = ("contestant", "ms", "gradients", "range", "first", "peak", "error", "")
    return plain_table(
        header,
        [
            (
                row.name,
                f"{1e3 * Spread.of(row.seconds).median:.2f}",
                f"{row.ratio.median:.2f}",
                f"({row.ratio.minimum:.2f} to {row.ratio.maximum:.2f})",
                f"{row.first_ratio:.1f}",
                format_bytes(row.peak),
                f"{row.error:.0e}",
                row.verdict,
            )
            for row in rows
        ],
    )


def _two_products(model: str, contestant: str) -> Work:
    """In a fresh process: a contestant's first and second product, as a work."""
    problem = product_problem(model, seed=_SEED)
    make = (_OURS | _PEERS)[contestant]
    vector = torch.ones(problem.size)
    # On one example first: pages of program code are resident once they have been used.
    small = make(problem.smallest(), vector)
    small()
    small()

    def work() -> object:
        product = make(problem, vector)
        product()
        return product, product()

    return work


def _error(value: Tensor, true: Tensor) -> float:
    return float((value - true).norm() / true.norm())


def _plain(problem: Problem, vector: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian product by autograd alone: no contestant judges another."""
    model = problem.own_model().to(dtype)
    parameters = list(model.parameters())
    blocks = _blocks(vector.to(dtype), parameters)
    count = sum(labels.numel() for _, labels in problem.batches)
    found = torch.zeros(2, problem.size, dtype=dtype)
    for inputs, labels in problem.batches:
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        with sdpa_kernel(SDPBackend.MATH):
            logits = model(inputs).flatten(0, -2)
            loss = F.cross_entropy(logits, labels.flatten(), reduction="sum") / count
            first = torch.autograd.grad(loss, parameters, create_graph=True)
            second = torch.autograd.grad(first, parameters, blocks)
        found += torch.stack([_flat(first), _flat(second)])
    return found[0], found[1]


def _blocks(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    pieces = torch.split(vector, [parameter.numel() for parameter in parameters])
    return [piece.view_as(like) for piece, like in zip(pieces, parameters, strict=True)]


# -- contestants: a problem and a vector in, one product out ----------------------------------


def _objective(problem: Problem) -> Objective:
    return Objective(problem.own_model(), problem.batches, loss="cross_entropy")


def _gradient(problem: Problem, _: Tensor) -> Work:
    model = problem.own_model()
    parameters = list(model.parameters())
    count = sum(labels.numel() for _, labels in problem.batches)

    def gradient() -> list[Tensor]:
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for inputs, labels in problem.batches:
            logits = model(inputs).flatten(0, -2)
            loss = F.cross_entropy(logits, labels.flatten(), reduction="sum") / count
            for block, term in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                block += term
        return total

    return gradient


def _kept(problem: Problem, vector: Tensor) -> Work:
    operator = HessianOperator(_objective(problem))
    return lambda: operator.matvec(vector)


def _rebuilt(problem: Problem, vector: Tensor) -> Work:
    operator = HessianOperator(_objective(problem), graph_bytes=0)
    return lambda: operator.matvec(vector)


def _pyhessian(problem: Problem, vector: Tensor) -> Work:
    peer = peers.pyhessian(problem)
    blocks = _blocks(vector, peer.params)

    def product() -> object:
        with peers.tolerated():
            return peer.dataloader_hv_product(blocks)[1]

    return product


def _curvlinops(problem: Problem, vector: Tensor) -> Work:
    peer = peers.curvlinops(problem)

    def product() -> object:
        with peers.tolerated():
            return peer @ vector

    return product


def _eigenthings(problem: Problem, vector: Tensor) -> Work:
    peer = peers.eigenthings(problem)

    def product() -> object:
        with peers.tolerated():
            return peer.matvec(vector)

    return product


_Make = Callable[[Problem, Tensor], Work]
_OURS: dict[str, _Make] = {
    _UNIT: _gradient,
    _KEPT: _kept,
    "landscape, rebuilt": _rebuilt,
}
_PEERS: dict[str, _Make] = {
    "PyHessian": _pyhessian,
    "curvlinops": _curvlinops,
    "hessian-eigenthings": _eigenthings,
}


def _flat(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    assert isinstance(value, Iterable)
    return torch.cat([block.detach().reshape(-1) for block in value])
