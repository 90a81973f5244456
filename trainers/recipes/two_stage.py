"""A rate that is too large, then one that is not, then fine-tuning: is the damage undone?

Starts from scratch (0), after the first rate (1), after both (1-2) and after the second alone (2),
each fine-tuned at a small and at a large rate. For the tick networks the defaults lie in regime 2B
(0.0237), in 2A (0.01) and at both ends of regime 1.

Measured, 1 run of the defaults (5 seeds), 51 s on one core of a CPU, mean test accuracy after
fine-tuning at 3.2e-5 and at 0.0056: from scratch 66.8 and 71.9 %, after the large rate 66.9 and
77.2, after both 82.2 and 80.8, after the second rate alone 75.7 and 77.8. The damage is undone.

Source: Sadrtdinov et al. 2024, arXiv:2410.22113, the two-stage experiment.
"""

from __future__ import annotations

from dataclasses import dataclass

from landscape.trainers.making import Making, Member, last
from landscape.trainers.options import option
from landscape.trainers.problems import side_by_side
from landscape.trainers.sphere import invariant_groups
from landscape.trainers.stacking import Stack, concatenated
from landscape.trainers.training import Plan, Trained

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    model: str = option("tick-mlp", "a scale-invariant network")
    data: str = option("ticks", "data set")
    first_rate: float = option(0.0237, "effective learning rate of the first stage", above=0)
    second_rate: float = option(0.01, "of the second stage", above=0)
    finetune_rates: tuple[float, ...] = option((3.2e-5, 5.62e-3), "of the last stage", above=0)
    num_seeds: int = option(5, "runs, each with its own data, weights and batches", low=1)
    steps: int = option(8_000, "of each stage", low=1)
    batch_size: int = option(16, "examples in a step", low=1)
    seed: int = option(0, "of all that is drawn", low=0)


def run(options: Options, make: Making) -> None:
    seeds = list(range(options.seed, options.seed + options.num_seeds))
    problems = [make.problem(options.data, options.model, seed=seed) for seed in seeds]
    scratch = make.networks(problems[0], seeds)
    groups = invariant_groups(scratch, problems[0].train.inputs[:64])

    def stage(name: str, stack: Stack, rates: list[float]) -> Trained:
        """One stage for stacks of whole sets of seeds, with a rate for each set."""
        sets = len(stack) // len(seeds)
        problem = side_by_side(problems, list(range(len(seeds))) * sets)
        plan = Plan(
            steps=options.steps,
            learning_rate=[rate for rate in rates for _ in seeds],
            batch_size=options.batch_size,
            seeds=seeds * sets,
            loss=problem.loss,
            groups=groups,
            evaluate_at=range(0, options.steps, max(1, options.steps // 20)),
        )
        names = [f"set{one}-seed{seed}" for one in range(sets) for seed in seeds]
        return make.fit(name, stack, plan, problem.train, problem.evaluations, names)

    first = stage("stage-1", concatenated([scratch] * 2), [options.first_rate, options.second_rate])
    high, low = (first.stack.select(range(i, i + len(seeds))) for i in (0, len(seeds)))
    second = stage("stage-2", high, [options.second_rate])
    starts = {"0": scratch, "1": high, "1-2": second.stack, "2": low}
    stacks = [stack for stack in starts.values() for _ in options.finetune_rates]
    last_stage = stage(
        "fine-tuning", concatenated(stacks), list(options.finetune_rates) * len(starts)
    )
    kept = [
        (path, rate, seed) for path in starts for rate in options.finetune_rates for seed in seeds
    ]
    stages = {"0": 1, "1": 2, "1-2": 3, "2": 2}
    make.keep(
        [
            Member(
                name=f"path{path}-ft{rate:.6g}-seed{seed}",
                role="final",
                seed=seed,
                settings={"path": path, "learning_rate": rate},
                metrics=last(last_stage, index),
                step=stages[path] * options.steps,
                data=problems[seed - options.seed].data,
            )
            for index, (path, rate, seed) in enumerate(kept)
        ],
        last_stage.stack,
        problems[0],
    )
    for path in starts:
        for rate in options.finetune_rates:
            of = [i for i, (p, r, _) in enumerate(kept) if (p, r) == (path, rate)]
            accuracy = last_stage.curves["test_accuracy"][-1, of].mean()
            make.note(f"path {path}, fine-tuned at {rate:.6g}: test accuracy {accuracy:.4f}")
