"""Stochastic weight averaging: uniform means of the weights along a prolonged run.

Each start goes on at its own constant rate; the mean of K weights, the start's and those at the end
of K - 1 intervals, is a member for each K. BatchNorm statistics are those of the training examples
at the mean. On a sphere the mean is left inside of it: only its direction counts.

Source: Izmailov et al. 2018, arXiv:1803.05407; Sadrtdinov et al. 2024, arXiv:2410.22113.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import xarray as xr

from landscape.trainers.averaging import angles, recalibrated
from landscape.trainers.examples import evaluate, mean_outcomes
from landscape.trainers.making import Making, Member
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.sphere import invariant_groups
from landscape.trainers.stacking import concatenated
from landscape.trainers.starts import starting_points
from landscape.trainers.training import Plan

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    start: str = option("", "folder of a family, or checkpoints with commas between")
    learning_rate: float = option(0.0, "0 for the rate that each start was trained at", low=0)
    counts: tuple[int, ...] = option((2, 5, 10, 20, 50), "weights in each mean", low=1)
    interval: int = option(100, "steps between two of them", low=1)
    batch_size: int = option(16, "examples in a step", low=1)
    sphere: Literal["none", "projected", "riemannian"] = option("projected", "how norms are kept")
    momentum: float = option(0.0, "of SGD", low=0)
    seed: int = option(0, "of the batches", low=0)


def run(options: Options, make: Making) -> None:
    starts = starting_points(make, options.start)
    indices = range(len(starts))
    rates = [options.learning_rate or starts.setting(i, "learning_rate") for i in indices]
    problem = starts.side_by_side(indices)
    on_sphere = options.sphere != "none"
    times = [options.interval * k for k in range(max(options.counts))]
    seeds = [options.seed + (starts.checkpoints[i].seed or 0) for i in indices]
    inputs = starts.problems[0].train.inputs[:64]
    plan = Plan(
        steps=max(1, times[-1]),
        learning_rate=rates,
        batch_size=options.batch_size,
        seeds=seeds,
        loss=problem.loss,
        optimizer=Optimizer(momentum=options.momentum),
        groups=invariant_groups(starts.stack, inputs) if on_sphere else (),
        sphere="riemannian" if options.sphere == "riemannian" else "projected",
        evaluate_at=times,
        snapshots=times,
    )
    trained = make.fit(
        "prolonged", starts.stack, plan, problem.train, problem.evaluations, starts.names()
    )
    weights = torch.stack([trained.snapshots[time][0] for time in times])  # (K, M, P)
    mean_angle = torch.zeros(len(options.counts), len(starts), dtype=torch.float64)
    accuracy = torch.zeros_like(mean_angle)
    for position, count in enumerate(options.counts):
        mean = weights[:count].double().mean(0).to(weights.dtype)
        averaged = concatenated(
            [
                recalibrated(
                    trained.at(times[count - 1]).at(mean).select([i]),
                    starts.problems[starts.which[i]].train,
                    problem.loss,
                )
                for i in indices
            ]
        )
        metrics = {
            f"{split}_{name}": values
            for split, examples in problem.evaluations.items()
            for name, values in mean_outcomes(evaluate(averaged, examples, problem.loss)).items()
        }
        accuracy[position] = metrics["test_accuracy"]
        for i in indices:
            mean_angle[position, i] = angles(mean[i : i + 1], weights[0, i]).item()
        make.keep(
            [
                Member(
                    name=f"{starts.names()[i]}-swa{count}",
                    role="average",
                    seed=seeds[i],
                    settings={
                        "learning_rate": rates[i],
                        "start": starts.names()[i],
                        "count": count,
                        "angle_to_start": mean_angle[position, i].item(),
                    },
                    metrics={name: values[i].item() for name, values in metrics.items()},
                    step=(starts.checkpoints[i].step or 0) + times[count - 1],
                    data=starts.problems[starts.which[i]].data,
                )
                for i in indices
            ],
            averaged,
            problem,
        )
    make.record(
        "averages",
        xr.Dataset(
            {
                "angle": (
                    ("count", "member"),
                    mean_angle.numpy(),
                    {"units": "rad", "long_name": "angle between the mean and the start"},
                ),
                "test_accuracy": (
                    ("count", "member"),
                    accuracy.numpy(),
                    {"units": "1", "long_name": "test accuracy of the mean"},
                ),
            },
            {"count": list(options.counts), "member": starts.names()},
        ),
    )
