"""SWAG: samples of a Gaussian that is fitted to the weights along a run at a constant rate.

Mean and covariance are those of the weights at the ends of epochs; half of the covariance is
kept whole, as a matrix of low rank, half of it as its diagonal.

Claim, with the defaults (as in `deep_ensemble`), mean and standard error over 5 seeds: the ensemble
reaches 94.2 % (0.2) test accuracy at diversity 0.17 (0.02) and barriers of 0; model 1 has 93.6
(0.2). At lr_ratio 0.5 it has 93.9 (0.2), at 2 94.4 (0.3) with diversity 0.43 (0.12).

Source: Maddox et al. 2019, arXiv:1902.02476. There the low-rank part is taken around the running
mean, and divided by the rank that was asked for; here around the final mean, and by the number of
weights that were collected, less 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.trainers.averaging import average, recalibrated
from landscape.trainers.examples import evaluate, mean_outcomes
from landscape.trainers.making import Making, Member
from landscape.trainers.options import option
from landscape.trainers.schedules import constant
from landscape.trainers.stacking import concatenated
from landscape.trainers.transfer import CYCLES, SAMPLES, CycleOptions, transfer

__all__ = ["Options", "gaussian_samples", "run"]


@dataclass(frozen=True)
class Options(CycleOptions):
    lr_ratio: float = option(1.0, "the constant rate, in units of fine-tuning's", above=0)
    max_weights: int = option(20, "last epochs' weights to which the Gaussian is fitted", low=2)
    scale: float = option(1.0, "of the covariance from which samples are drawn", low=0)


def run(options: Options, make: Making) -> None:
    ground = transfer(options, make)
    model_1 = ground.fine_tuned([0])
    epoch, epochs = ground.steps_per_epoch, options.cycle_epochs
    if epochs < 2:
        raise RequestError(
            f"epoch_ratio={options.epoch_ratio} leaves one epoch, and so one set of weights. "
            "Raise it: a Gaussian is fitted to two or more."
        )
    times = [(index + 1) * epoch for index in range(epochs)][-options.max_weights :]
    plan = ground.plan(
        ground.seeds(CYCLES, 1),
        rate=options.cycle_rate,
        epochs=epochs,
        schedule=constant(),
        snapshots=times,
    )
    trained = ground.fit("collection", model_1, plan, ["collection"])
    collected = concatenated([trained.at(time) for time in times])

    problem, count = ground.problem, options.num_members - 1
    generator = torch.Generator("cpu").manual_seed(ground.seeds(SAMPLES, 1)[0])
    drawn = gaussian_samples(collected.theta, count, generator=generator, scale=options.scale)
    samples = recalibrated(collected.select([-1] * count).at(drawn), problem.train, problem.loss)
    mean = average(collected, problem.train, problem.loss)
    metrics = {
        f"{split}_{name}": float(value[0])
        for split, examples in problem.evaluations.items()
        for name, value in mean_outcomes(evaluate(mean, examples, problem.loss)).items()
    }
    make.keep([Member("mean", "mean", options.seed, metrics=metrics)], mean, problem)
    end = ground.fine_tuning_steps + plan.steps
    ground.keep(concatenated([model_1, samples]), steps=[ground.fine_tuning_steps, *[end] * count])


def gaussian_samples(
    weights: Tensor, num_samples: int, *, generator: torch.Generator, scale: float = 1.0
) -> Tensor:
    """Samples of N(mean, scale (diag(S) + S) / 2), S being the sample covariance of the weights.

    theta = mean + sqrt(scale) (sqrt(diag(S) / 2) z + D y / sqrt(2 (K - 1))), with the deviations
    of the weights as D's columns, and standard normal z and y: S itself is never formed.

    Args:
        weights: (K, P), K >= 2.

    Returns:
        (num_samples, P) in the weights' dtype.
    """
    kept = weights.double()
    count, size = kept.shape
    mean = kept.mean(0)
    deviations = kept - mean
    variance = deviations.square().sum(0) / (count - 1)
    shape = (num_samples, size + count)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    normal = normal.to(kept.device)
    drawn = normal[:, :size] * (variance / 2).sqrt()
    drawn += normal[:, size:] @ deviations / math.sqrt(2 * (count - 1))
    return (mean + math.sqrt(scale) * drawn).to(weights.dtype)
