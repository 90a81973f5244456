"""Full-batch gradient descent, with the Hessian's largest eigenvalue along the way.

The sharpness of a network under gradient descent with rate lr grows until it reaches 2 / lr, where
the steps along its eigenvector no longer shrink, and hovers there while the loss goes on falling.

Measured, 1 run of the defaults, 32 s on one core of a CPU: in the second half the sharpness is
1.03, 1.05 and 1.06 times 2 / lr on average, for rates 0.5, 1 and 2. With the cross-entropy it falls
away from the edge again once the digits are fitted.

Source: Cohen et al. 2021, arXiv:2103.00065.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from landscape.curvature.eigen import eigsh
from landscape.curvature.hessian import HessianOperator
from landscape.objective import Objective
from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.training import Plan

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    model: str = option("mlp-tanh", "network; a smooth one, or its curvature jumps")
    data: str = option("digits", "data set")
    loss: Literal["mse", "cross_entropy"] = option("mse", "on one-hot targets, or on classes")
    num_examples: int = option(500, "a stratified part of the training examples", low=2)
    learning_rates: tuple[float, ...] = option((0.5, 1.0, 2.0), "rates", above=0)
    steps: int = option(3000, "training steps", low=1)
    momentum: float = option(0.0, "of gradient descent; the edge is then 2 (1 + m) / lr", low=0)
    num_evaluations: int = option(30, "of the sharpness, evenly spaced", low=2)
    seed: int = option(0, "of the initial weights", low=0)


def run(options: Options, make: Making) -> None:
    problem = make.problem(
        options.data,
        options.model,
        num_examples=options.num_examples,
        one_hot=options.loss == "mse",
    )
    rates = options.learning_rates
    stack = make.networks(problem, [options.seed] * len(rates))
    interval = max(1, options.steps // options.num_evaluations)
    times = [*range(0, options.steps, interval), options.steps]
    plan = Plan(
        steps=options.steps,
        learning_rate=rates,
        batch_size=len(problem.train),
        seeds=[options.seed] * len(rates),
        loss=problem.loss,
        optimizer=Optimizer(momentum=options.momentum),
        evaluate_at=times,
        snapshots=times,
    )
    names = [f"lr{rate:.6g}" for rate in rates]
    trained = make.fit("training", stack, plan, problem.train, problem.evaluations, names)

    data = (problem.train.inputs, problem.train.targets)
    shape = (len(times), len(rates))
    sharpness, error = np.full(shape, np.nan), np.full(shape, np.nan)
    for time, step in enumerate(times):
        weights = trained.at(step)
        for index in range(len(rates)):
            if not weights.theta[index].isfinite().all():
                continue
            objective = Objective(weights.member(index), data, loss=problem.loss)
            with HessianOperator(objective) as hessian:
                pair = eigsh(hessian, k=1, which="LA", tol=1e-3, seed=options.seed)
            sharpness[time, index], error[time, index] = pair.values[0], pair.residual_norms[0]
        make.report("sharpness", time + 1, len(times))
    edge = 2 * (1 + options.momentum) / np.array(rates)
    unit = "nat / parameter^2"
    make.record(
        "sharpness",
        xr.Dataset(
            {
                "sharpness": (
                    ("time", "member"),
                    sharpness,
                    {"units": unit, "long_name": "largest eigenvalue of the train loss's Hessian"},
                ),
                "residual_norm": (("time", "member"), error, {"units": unit}),
                "edge": ("member", edge, {"units": unit, "long_name": "2 (1 + m) / learning rate"}),
            },
            {"step": ("time", times), "member": names},
        ),
    )
    for index, rate in enumerate(rates):
        late = sharpness[len(times) // 2 :, index] / edge[index]
        make.note(f"lr {rate:g}: sharpness / edge in the second half: {late.mean():.3f}")
    make.keep(
        [
            Member(
                name=name,
                role="final",
                seed=options.seed,
                settings={"learning_rate": rate, "sharpness": float(sharpness[-1, index])},
                metrics=last(trained, index),
                step=options.steps,
            )
            for index, (name, rate) in enumerate(zip(names, rates, strict=True))
        ],
        trained.stack,
        problem,
    )
