"""Fixed learning rates side by side: the same starts, data and batches under every rate.

The defaults are the pre-training of the multi-view tick study: 23 effective learning rates, 5 seeds
of data and network each, 40,000 steps of projected SGD on the unit sphere, batch 16.

Measured, 1 run of the defaults (5 seeds), 66 s on two cores of a CPU (torch 2.13): rates up to
0.0056 converge, from 0.0075 on they hover, from 0.056 on they diverge; the paper's borders, drawn
by hand, are 0.0075 and 0.0562. Mean test accuracy is 68.8 % at 3.2e-5, 72.2 at 0.001, 76.4 at
0.0056 (the greatest), 71.9 at 0.01, 56.5 at 0.024 and chance from 0.042 on. A fifth of the steps
finds the same borders.

Source: Sadrtdinov et al. 2024, arXiv:2410.22113, section on synthetic data; Kodryan et al. 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.problems import side_by_side
from landscape.trainers.regimes import find_regimes
from landscape.trainers.sphere import invariant_groups
from landscape.trainers.training import Plan

__all__ = ["TICK_RATES", "Options", "run"]

_TRIED = 64  # examples on which scale invariance is tested

TICK_RATES: tuple[float, ...] = tuple(
    float(f"{rate:.4g}")
    for rate in (
        *np.logspace(-4.5, -2.25, 10)[:-1],
        *np.logspace(-2.25, -1.25, 9)[:-1],
        *np.logspace(-1.25, 0, 6),
    )
)


@dataclass(frozen=True)
class Options:
    model: str = option("tick-mlp", "network; on a sphere a scale-invariant one")
    data: str = option("ticks", "data set")
    learning_rates: tuple[float, ...] = option(
        TICK_RATES, "rates, with commas between; effective ones on a sphere", above=0
    )
    num_seeds: int = option(5, "runs of each rate: other initial weights and batches", low=1)
    vary_data: bool = option(True, "each seed has its own data set or split as well")
    steps: int = option(40_000, "training steps", low=8)
    batch_size: int = option(16, "examples in a step", low=1)
    sphere: Literal["none", "projected", "riemannian"] = option("projected", "how norms are kept")
    per_group: bool = option(False, "a sphere for each invariant group, not one for all")
    momentum: float = option(0.0, "of SGD", low=0)
    weight_decay: float = option(0.0, "L2 penalty's factor", low=0)
    num_evaluations: int = option(40, "along the run, evenly spaced", low=8)
    last_weights: int = option(0, "weights kept at the last evaluations, for averages", low=0)
    seed: int = option(0, "of all that is drawn", low=0)


def run(options: Options, make: Making) -> None:
    rates, seeds = options.learning_rates, range(options.seed, options.seed + options.num_seeds)
    problems = [
        make.problem(options.data, options.model, seed=seed)
        for seed in (seeds if options.vary_data else [options.seed])
    ]
    grid = [(rate, seed) for rate in rates for seed in seeds]
    own = [seed - options.seed if options.vary_data else 0 for _, seed in grid]
    problem = side_by_side(problems, own)
    stack = make.networks(problem, [seed for _, seed in grid])
    on_sphere = options.sphere != "none"
    inputs = problems[0].train.inputs[:_TRIED]
    interval = max(1, options.steps // options.num_evaluations)
    # Backwards from the end, so that the last one is the end.
    evaluate_at = range(options.steps, 0, -interval)[::-1]
    kept = evaluate_at[max(0, len(evaluate_at) - max(1, options.last_weights)) :]
    plan = Plan(
        steps=options.steps,
        learning_rate=[rate for rate, _ in grid],
        batch_size=options.batch_size,
        seeds=[seed for _, seed in grid],
        loss=problem.loss,
        optimizer=Optimizer(momentum=options.momentum),
        weight_decay=[options.weight_decay] * len(grid),
        groups=invariant_groups(stack, inputs, per_group=options.per_group) if on_sphere else (),
        sphere="riemannian" if options.sphere == "riemannian" else "projected",
        evaluate_at=evaluate_at,
        snapshots=kept,
    )
    names = [f"lr{rate:.6g}-seed{seed}" for rate, seed in grid]
    trained = make.fit("training", stack, plan, problem.train, problem.evaluations, names)
    regimes = find_regimes(
        np.array([rate for rate, _ in grid]),
        trained.curves["train_loss"],
        trained.curves["train_accuracy"],
        num_examples=len(problem.train),
        num_classes=problem.info.num_classes,
    )
    make.record("regimes", regimes.to_dataset())
    for sentence in regimes.sentences():
        make.note(sentence)
    for step in kept:
        final = step == options.steps
        make.keep(
            [
                Member(
                    name=name if final else f"{name}-step{step}",
                    role="final" if final else "along the way",
                    seed=seed,
                    settings={"learning_rate": rate, "regime": regimes.of(rate)},
                    metrics=last(trained, index) if final else {},
                    step=step,
                    data=problems[own[index]].data,
                )
                for index, (name, (rate, seed)) in enumerate(zip(names, grid, strict=True))
            ],
            trained.stack if final else trained.at(step),
            problem,
        )
