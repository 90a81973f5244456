"""Each start of a family, gone on with at each fine-tuning rate: starts x rates in one stack.

With the members of an `lr-sweep` as starts this is the fine-tuning of the learning-rate study:
20,000 steps of batch 16 for the tick networks, from every pre-training rate.

Source: Sadrtdinov et al. 2024, arXiv:2410.22113.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.sphere import invariant_groups
from landscape.trainers.starts import starting_points
from landscape.trainers.training import Plan

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
    starts = starting_points(make, options.start)
    grid = [(rate, start) for rate in options.learning_rates for start in range(len(starts))]
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
