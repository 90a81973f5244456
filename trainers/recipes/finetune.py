"""Each start of a family, gone on with at each fine-tuning rate: starts x rates in one stack.

With the members of an `lr-sweep` as starts this is the fine-tuning of the learning-rate study:
20,000 steps of batch 16 for the tick networks, from every pre-training rate. Of two rates or more
the accuracies and the barriers between the lowest's and the highest's solutions are recorded, and
regime 2A, where neither is felt, is told from 2B.

Measured, 1 run of the defaults from the defaults of `lr-sweep` (5 seeds), 49 s on two cores: from
0.01, the first rates of regime 2, fine-tuning at 3.2e-5 leads to 81.8 % mean test accuracy, against
76.4 at best from regime 1; from 0.024 it is 72.6 at the small rate and 80.7 at the large one.

Source: Sadrtdinov et al. 2024, arXiv:2410.22113.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from landscape.trainers.averaging import barriers
from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.regimes import subregime_border
from landscape.trainers.sphere import invariant_groups
from landscape.trainers.starts import Starts, starting_points
from landscape.trainers.training import Plan, Trained

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    start: str = option("", "folder of a family, or checkpoints with commas between")
    learning_rates: tuple[float, ...] = option(
        (3.2e-5, 7.5e-3), "fine-tuning rates; effective ones on a sphere", above=0
    )
    steps: int = option(20_000, "training steps", low=1)
    batch_size: int = option(16, "examples in a step", low=1)
    sphere: Literal["none", "projected", "riemannian"] = option("projected", "how norms are kept")
    per_group: bool = option(False, "a sphere for each invariant group, not one for all")
    momentum: float = option(0.0, "of SGD", low=0)
    weight_decay: float = option(0.0, "L2 penalty's factor", low=0)
    num_evaluations: int = option(20, "along the run, evenly spaced", low=1)
    seed: int = option(0, "of the batches", low=0)


def run(options: Options, make: Making) -> None:
    rates = options.learning_rates
    starts = starting_points(make, options.start)
    grid = [(rate, start) for rate in rates for start in range(len(starts))]
    problem = starts.side_by_side([start for _, start in grid])
    stack = starts.stack.select([start for _, start in grid])
    on_sphere = options.sphere != "none"
    inputs = starts.problems[0].train.inputs[:64]
    interval = max(1, options.steps // options.num_evaluations)
    # A start keeps its own seed, so that starts of one seed see equal batches.
    seeds = [options.seed + (starts.checkpoints[start].seed or 0) for _, start in grid]
    plan = Plan(
        steps=options.steps,
        learning_rate=[rate for rate, _ in grid],
        batch_size=options.batch_size,
        seeds=seeds,
        loss=problem.loss,
        optimizer=Optimizer(momentum=options.momentum),
        weight_decay=[options.weight_decay] * len(grid),
        groups=invariant_groups(stack, inputs, per_group=options.per_group) if on_sphere else (),
        sphere="riemannian" if options.sphere == "riemannian" else "projected",
        evaluate_at=range(0, options.steps, interval),
    )
    names = [f"{starts.names()[start]}-ft{rate:.6g}" for rate, start in grid]
    trained = make.fit("fine-tuning", stack, plan, problem.train, problem.evaluations, names)
    make.keep(
        [
            Member(
                name=name,
                role="final",
                seed=seeds[index],
                settings={
                    "learning_rate": rate,
                    "start": starts.names()[start],
                    "start_learning_rate": starts.setting(start, "learning_rate"),
                },
                metrics=last(trained, index),
                step=(starts.checkpoints[start].step or 0) + options.steps,
                data=starts.problems[starts.which[start]].data,
            )
            for index, (name, (rate, start)) in enumerate(zip(names, grid, strict=True))
        ],
        trained.stack,
        problem,
    )
    if len(rates) > 1:
        _compare(make, options, starts, trained)


def _compare(make: Making, options: Options, starts: Starts, trained: Trained) -> None:
    """Accuracy over starting and fine-tuning rates, barriers, and the border between 2A and 2B."""
    rates, count = options.learning_rates, len(starts)
    low, high = rates.index(min(rates)), rates.index(max(rates))
    heights = np.zeros(count)
    for start in range(count):
        ends = trained.stack.select([low * count + start, high * count + start])
        examples = starts.problems[starts.which[start]].train
        found = barriers(ends, examples, starts.problems[0].loss, measure="error")
        heights[start] = float(found[1])
        make.report("barriers", start + 1, count)
    own = np.array([starts.setting(start, "learning_rate") for start in range(count)])
    hovers = np.array(
        [starts.checkpoints[start].recipe.get("regime") == 2 for start in range(count)]
    )
    accuracy = trained.curves["test_accuracy"][-1].reshape(len(rates), count)
    distinct = np.unique(own)
    means = np.stack([accuracy[:, own == rate].mean(1) for rate in distinct])  # (R, F)
    barrier = np.array([heights[own == rate].mean() for rate in distinct])
    two = np.isin(distinct, own[hovers])
    border = subregime_border(distinct[two], means[two], barrier[two])
    make.record(
        "comparison",
        xr.Dataset(
            {
                "test_accuracy": (
                    ("start_learning_rate", "learning_rate"),
                    means,
                    {"units": "1", "long_name": "mean test accuracy after fine-tuning"},
                ),
                "barrier": (
                    "start_learning_rate",
                    barrier,
                    {
                        "units": "1",
                        "long_name": "mean train error barrier, lowest to highest rate; 11 points "
                        "above the chord, statistics of the train examples at each",
                    },
                ),
                "border_2a_2b": ((), border, {"units": "1", "long_name": "largest rate of 2A"}),
            },
            {"start_learning_rate": distinct, "learning_rate": list(rates)},
        ),
    )
    if two.any():
        make.note(
            f"largest rate of regime 2A: {border:.3g} (accuracy within 0.02 over the fine-tuning "
            "rates, train error barrier below 0.02; nan: not even the smallest of regime 2)"
        )
