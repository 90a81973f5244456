"""Networks trained together beside the plain loop that trains one after another.

The loop is what one would write: the data in memory, `loss.backward()`, `torch.optim`. A step of it
is timed on a few of the networks and multiplied by their number, which flatters it: it pays for no
change of network.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.table import plain_table
from benchmarks.timing import Spread
from landscape.errors import unknown_choice
from landscape.trainers.contrastive import nt_xent
from landscape.trainers.execution import train
from landscape.trainers.gradients import num_threads
from landscape.trainers.problems import Problem, networks, problem
from landscape.trainers.sphere import invariant_groups
from landscape.trainers.training import Plan, fit

__all__ = ["add_arguments", "run"]

_STEPS = 60  # of one turn
_TRIED = 8  # steps of the plain loop, to choose its threads
_LOOPED = 3  # networks of the plain loop that are timed
_MINUTES = 10.0  # that the tick study may take


@dataclass(frozen=True)
class Case:
    """M networks of one shape on one data set.

    Attributes:
        target: least ratio of the loop's time to ours.
    """

    name: str
    data: str
    model: str
    members: int
    batch_size: int
    target: float
    sphere: bool = False
    arguments: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Row:
    """Seconds of one step of all members, round by round.

    Attributes:
        chosen: members in one graph, as a trial chose; each round makes its own.
        together: of our trainer as it chooses, in members and threads.
        looped: of our trainer with one member in a graph.
        plain: of the plain loop, with one thread or all, whichever a trial found faster.
    """

    case: str
    chosen: int
    together: list[float]
    looped: list[float]
    plain: list[float]
    target: float

    @property
    def verdict(self) -> str:
        return "met" if self.ratio.median >= self.target else "NOT MET"

    @property
    def ratio(self) -> Spread:
        return Spread.of([p / t for p, t in zip(self.plain, self.together, strict=True)])


_CASES = {
    "ticks": Case("115 tick networks", "ticks", "tick-mlp", 115, 16, 20.0, sphere=True),
    "mlp": Case("32 digits MLPs", "digits", "mlp", 32, 32, 8.0),
    "cnn": Case("8 digits CNNs", "digits", "cnn", 8, 32, 1 / 1.05),
    "narrow-cnn": Case(
        "32 narrow CNNs", "digits", "cnn", 32, 32, 1 / 1.05, arguments=(("width", 4),)
    ),
    "wide-cnn": Case("4 wide CNNs", "digits", "cnn", 4, 32, 1 / 1.05, arguments=(("width", 48),)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", default=",".join(_CASES), help="some of %(default)s, with commas"
    )
    parser.add_argument(
        "--study", type=float, default=1.0, metavar="SHARE",
        help="of the tick study's schedule; 0 leaves it out (default: %(default)s)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure and print; the numbers for JSON come back."""
    names = [name.strip() for name in arguments.cases.split(",") if name.strip()]
    for name in names:
        if name not in _CASES:
            raise unknown_choice("case", name, _CASES)
    print(
        f"\nMilliseconds of one step of all networks, medians of {arguments.repeats} rounds; "
        "ratio: plain loop / ours within a round (least to greatest).",
        flush=True,
    )
    rows = [_measured(_CASES[name], arguments.repeats) for name in names]
    print(_drawn(rows), flush=True)
    found: dict[str, object] = {"cases": rows, "checks": _checks()}
    if arguments.study > 0:
        found["study"] = _study(arguments.study)
    return found


def _measured(case: Case, rounds: int) -> Row:
    given = problem(case.data, case.model, model_arguments=dict(case.arguments))
    stack = networks(given.model, range(case.members))
    groups = invariant_groups(stack, given.train.inputs[:64]) if case.sphere else ()
    plan = Plan(
        steps=_STEPS,
        learning_rate=[1e-3] * case.members,
        batch_size=case.batch_size,
        seeds=list(range(case.members)),
        loss=given.loss,
        groups=groups,
    )
    tried = fit(stack, replace(plan, steps=1), given.train)

    def ours(chunk: int | None) -> float:
        stamps: list[float] = []

        def stamped(step: int) -> float:
            stamps.append(time.perf_counter())
            return 1.0

        with num_threads(threads if chunk == 1 else torch.get_num_threads()):
            fit(stack, replace(plan, chunk=chunk, schedule=stamped), given.train)
        # The first step holds the trial and the recording.
        return statistics.median(b - a for a, b in pairwise(stamps[1:]))

    counts = sorted({1, torch.get_num_threads()})
    threads = min(counts, key=lambda count: _plain_step(case, given, count, _TRIED))
    works: dict[str, Callable[[], float]] = {
        "together": lambda: ours(None),
        "looped": lambda: ours(1),
        "plain": lambda: case.members * _plain_step(case, given, threads, _STEPS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        order = list(works) if turn % 2 else list(works)[::-1]
        for name in order:
            seconds[name].append(works[name]())
    return Row(case.name, tried.chunk, **seconds, target=case.target)


def _plain_step(case: Case, given: Problem, threads: int, steps: int) -> float:
    """Median seconds of a step of one network in the plain loop, with that many threads."""
    with num_threads(threads):
        return _timed_plain_step(case, given, steps)


def _timed_plain_step(case: Case, given: Problem, steps: int) -> float:
    taken = []
    inputs, targets = given.train.inputs, given.train.targets
    for seed in range(_LOOPED):
        torch.manual_seed(seed)
        network = given.model()
        assert isinstance(network, nn.Module)
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-3)
        order = torch.randperm(len(targets))
        for step in range(steps):
            began = time.perf_counter()
            start = step * case.batch_size % (len(targets) - case.batch_size)
            chosen = order[start : start + case.batch_size]
            optimizer.zero_grad()
            loss = _loss(network(inputs[chosen]), targets[chosen], given.loss)
            torch.autograd.backward(loss)
            optimizer.step()
            if case.sphere:
                with torch.no_grad():
                    norm = torch.stack([p.square().sum() for p in parameters]).sum().sqrt()
                    for parameter in parameters:
                        parameter.div_(norm)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _loss(outputs: Tensor, targets: Tensor, name: str) -> Tensor:
    if name == "bce":
        return F.binary_cross_entropy_with_logits(outputs, targets)
    return F.cross_entropy(outputs, targets)


def _drawn(rows: list[Row]) -> str:
    def ms(values: list[float]) -> str:
        return f"{1e3 * Spread.of(values).median:.2f}"

    header = ("networks", "in a graph", "ours", "ours, looped", "plain loop", "ratio", "range", "")
    return plain_table(
        header,
        [
            (
                row.case,
                str(row.chosen),
                ms(row.together),
                ms(row.looped),
                ms(row.plain),
                f"{row.ratio.median:.1f}",
                f"({row.ratio.minimum:.1f} to {row.ratio.maximum:.1f})",
                f"target {row.target:.2f}: {row.verdict}",
            )
            for row in rows
        ],
    )


def _checks() -> dict[str, float]:
    """NT-Xent where exponentials overflow, against plain float64; the tests have the others."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 64, 32, generator=generator)
    worst = 0.0
    print("\nNT-Xent in float32 against brute force in float64:")
    for temperature in (0.5, 0.07, 0.01, 0.001):
        views = F.normalize(torch.cat([first, second]).double(), dim=1)
        logits = views @ views.T / temperature
        logits.fill_diagonal_(-torch.inf)
        pairs = torch.arange(128).roll(64)
        reference = F.cross_entropy(logits, pairs)
        error = abs(nt_xent(first, second, temperature).item() / reference.item() - 1)
        worst = max(worst, error)
        print(f"  temperature {temperature}: {reference:.6g}, relative difference {error:.1e}")
    return {"nt_xent_relative_error": worst}


def _study(share: float) -> dict[str, object]:
    """The tick study: 23 rates x 5 seeds, then fine-tuning of each at a low and a high rate."""
    steps = {"lr-sweep": round(40_000 * share), "finetune": round(20_000 * share)}
    print(f"\nThe tick study, {share:g} of its schedule:", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        start, tuned = Path(folder, "pre-trained"), Path(folder, "fine-tuned")
        began = time.perf_counter()
        sweep = train("lr-sweep", start, steps=steps["lr-sweep"])
        middle = time.perf_counter()
        finetuned = train("finetune", tuned, start=str(start), steps=steps["finetune"])
        ended = time.perf_counter()
        notes = list(sweep.notes)
        table = finetuned.members.groupby(["start_learning_rate", "learning_rate"])
        means = table["test_accuracy"].mean().unstack()
        accuracy = {rate: dict(row) for rate, row in means.T.to_dict().items()}
        levels = sweep.members.groupby("learning_rate")["test_accuracy"].mean().to_dict()
    minutes = (ended - began) / 60
    print(f"  pre-training {middle - began:.0f} s, fine-tuning {ended - middle:.0f} s")
    met = "met" if minutes <= _MINUTES * share else "NOT MET"
    print(f"  {minutes:.2f} minutes, target {_MINUTES * share:g}: {met}")
    for note in notes:
        print(f"  {note}")
    print("  mean test accuracy, 5 seeds: pre-training rate, pre-trained, fine-tuned at", end=" ")
    print(", ".join(f"{rate:g}" for rate in means.columns))
    for rate, level in levels.items():
        shown = "  ".join(f"{value:.3f}" for value in accuracy[rate].values())
        print(f"    {rate:<10.4g}  {level:.3f}  {shown}")
    return {
        "minutes": minutes,
        "notes": notes,
        "pretrained": levels,
        "finetuned": accuracy,
    }
